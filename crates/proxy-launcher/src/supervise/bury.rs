//! The dead: whose end is the proxy's, and that nothing is left of it.

use std::time::Duration;

use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tracing::{debug, info, warn};

use super::{Supervisor, kills::oom_kills};
use crate::{
    config::ProxyKind,
    machine::Event,
    process::{self, Leader},
    signals::Signals,
};

/// How long what the proxy left behind may take to die before we leave.
const BURY_PATIENCE: Duration = Duration::from_secs(1);
/// The same, before another proxy is started that may want the same ports.
const SUCCESSION_PATIENCE: Duration = Duration::from_secs(2);

impl Supervisor<'_> {
    pub(super) fn reap(&mut self) -> Event {
        let reaped = process::reap(self.leader);
        // While there is a proxy, its orphans may be at work for it; without one nobody needs them.
        let is_alone = self.leader.is_none() || reaped.leader.is_some();
        let left = if is_alone { sweep() } else { 0 };
        if reaped.orphans > 0 {
            debug!(count = reaped.orphans, "orphans reaped");
        }
        self.board.note(|facts| {
            facts.orphans_reaped += u64::from(reaped.orphans);
            facts.leaders_reaped += u64::from(reaped.leader.is_some());
        });
        if let Some(end) = reaped.leader {
            let is_jvm = matches!(self.loaded.config.kind, ProxyKind::Jvm(_));
            let end = end.explained(is_jvm, self.kills.were_for_memory(oom_kills()));
            let pid = self.leader.take().map(Leader::id);
            self.prober = JoinSet::new();
            info!(pid, %end, class = self.machine.class_of(end), "proxy ended");
            self.dying = Some((end, Instant::now() + SUCCESSION_PATIENCE));
        }
        // The end is one only once nothing is left of the proxy: another may be started at once.
        match self.dying.take_if(|_| left == 0) {
            Some((end, _)) => Event::Ended(end),
            None => Event::Tick,
        }
    }
}

fn sweep() -> usize {
    process::sweep().unwrap_or_else(|error| {
        warn!(%error, "what the proxy left behind is not looked for");
        0
    })
}

/// Leaves no process behind, as far as the kernel lets them go in time.
pub(super) async fn bury_all(signals: &mut Signals) {
    let deadline = Instant::now() + BURY_PATIENCE;
    loop {
        process::reap(None);
        if sweep() == 0 {
            return;
        }
        if time::timeout_at(deadline, signals.child()).await.is_err() {
            warn!("some processes of the proxy would not die");
            return;
        }
    }
}
