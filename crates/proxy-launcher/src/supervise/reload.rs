//! Settings that are read again while the proxy runs.

use std::sync::PoisonError;

use tracing::{error, info, warn};

use super::Supervisor;
use crate::{
    cgroup,
    config::{self, Drain, Setting, Surroundings},
};

/// Beginnings of the keys that take effect at once.
const RELOADABLE: [&str; 3] = ["drain.", "log.", "supervise."];

impl Supervisor<'_> {
    /// Takes over what can change while the proxy runs, and says of everything else that it needs a restart. A
    /// refused file changes nothing.
    pub(super) fn reload(&mut self) {
        let new = match (self.load)() {
            Ok(new) => new,
            Err(refused) => {
                for problem in refused.problems() {
                    error!(%problem, "configuration refused, the former one stays");
                }
                return self.board.note(|facts| facts.reloads_refused += 1);
            }
        };
        for (old, new) in changed(&self.loaded.settings, &new.settings) {
            let (key, from, to) = (&new.key, &old.value, &new.value);
            if is_reloadable(key) {
                info!(key, from, to, "setting changed");
            } else {
                warn!(
                    key,
                    from, to, "a changed setting takes effect once the container is started again"
                );
            }
        }
        let config = &mut self.loaded.config;
        if config.log_level != new.config.log_level {
            self.log.set_level(new.config.log_level);
        }
        self.log.set_format(new.config.log_format);
        (config.log_level, config.log_format) = (new.config.log_level, new.config.log_format);
        // What follows from the kind of proxy stays: that is not changed here.
        config.supervise = new.config.supervise.clone();
        config.drain = Drain { is_told: config.drain.is_told, ..new.config.drain.clone() };
        self.machine.reconfigure(config.supervise.clone(), config.drain.clone());
        self.loaded.tell_time_of(&new);
        let kept = self.loaded.settings.iter().filter(|setting| !is_reloadable(&setting.key));
        let taken = new.settings.iter().filter(|setting| is_reloadable(&setting.key));
        let mut settings: Vec<_> = kept.chain(taken).cloned().collect();
        settings.sort_by(|a, b| a.key.cmp(&b.key));
        self.loaded.settings = settings;
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) =
            config::json(&self.loaded.settings);
        self.board.note(|facts| facts.reloads += 1);
    }

    /// A pod can be resized in place: what is started next is made for the memory that there is then.
    pub(super) fn fit_memory(&mut self) {
        let from = self.loaded.memory_limit();
        let around = Surroundings::of_this_process(cgroup::enforced_limit());
        let to = self.loaded.config.limit(&around);
        if from == to {
            return;
        }
        info!(from, to, "the memory limit has changed");
        for problem in self.loaded.fit(to).err().unwrap_or_default() {
            warn!(%problem, "the proxy is started as before");
        }
    }
}

fn is_reloadable(key: &str) -> bool {
    RELOADABLE.iter().any(|beginning| key.starts_with(beginning))
}

fn changed<'a>(
    old: &'a [Setting],
    new: &'a [Setting],
) -> impl Iterator<Item = (&'a Setting, &'a Setting)> {
    old.iter().filter_map(|old| {
        let new = new.iter().find(|new| new.key == old.key)?;
        (new.value != old.value).then_some((old, new))
    })
}
