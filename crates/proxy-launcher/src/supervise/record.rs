//! Words that stand in the termination file while the launcher lives: when the kernel kills the whole container for
//! memory, nobody is left to say anything.

use std::time::Duration;

use api::contract::{NotReady, reason};

use super::Supervisor;
use crate::cgroup::Cgroup;

/// How often memory is looked at.
pub(super) const LOOK_AT_MEMORY: Duration = Duration::from_secs(5);
/// Of its limit, in percent: above it a container is about to be killed.
const CRITICAL_PERCENT: u64 = 95;
/// Share of time in percent that somebody waits for memory: above it nothing much else is done.
const CRITICAL_PRESSURE: f64 = 40.0;

impl Supervisor<'_> {
    /// What to read once nobody is left.
    pub(super) fn record(&self, state: &str) -> NotReady {
        let facts = self.board.look();
        let up = self.board.now().as_secs();
        let restarts = facts.starts.saturating_sub(1);
        let used = Cgroup::of_this_process().and_then(|group| group.current());
        let memory = match (used, self.loaded.memory_limit()) {
            (Some(used), Some(limit)) => format!("{used} of {limit} bytes of memory were used"),
            _ => "its memory has no limit".to_owned(),
        };
        let message = format!(
            "the container was killed while its launcher was in the state {state}, {up} s after its start and {restarts} \
             restarts of the proxy; {memory}: if it was for memory, raise spec.sidecarResources.limits.memory or lower \
             spec.sidecarJvmMemory"
        );
        NotReady { reason: reason::PROXY_CRASHED.to_owned(), message }
    }

    /// Renews the record while memory is short: these numbers explain what comes.
    pub(super) fn look_at_memory(&mut self) {
        let Some(group) = Cgroup::of_this_process() else { return };
        self.kills.look(group.oom_kills());
        if is_critical(group.current(), self.loaded.memory_limit(), group.pressure()) {
            let record = self.record(self.machine.state_name());
            self.words.stand(&record);
        }
    }
}

fn is_critical(used: Option<u64>, limit: Option<u64>, pressure: Option<f64>) -> bool {
    let is_full = used.zip(limit).is_some_and(|(used, limit)| {
        used.saturating_mul(100) >= limit.saturating_mul(CRITICAL_PERCENT)
    });
    is_full || pressure.is_some_and(|share| share >= CRITICAL_PRESSURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_critical_when_it_is_nearly_full_or_waited_for() {
        assert!(!is_critical(Some(94), Some(100), Some(39.9)));
        assert!(is_critical(Some(95), Some(100), None));
        assert!(is_critical(None, None, Some(40.0)));
        assert!(!is_critical(Some(u64::MAX / 2), None, None), "without a limit nothing is full");
    }
}
