//! How far a drain is: begun by TERM, or ahead of it by whoever knows that TERM will come.

use std::time::Duration;

use crate::health::Drain;

/// So many looks in a row must find no call under way: one alone may fall between two calls.
const QUIET_LOOKS: u32 = 2;
/// How long a proxy is waited for that does not count its calls, once nobody is sent to it any more.
const UNCOUNTED: Duration = Duration::from_secs(5);
/// What the proxy gets for its own stop, out of the time up to KILL: a quarter, and not less than that.
const STOP_SHARE_MIN: Duration = Duration::from_secs(3);

/// A drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Draining {
    since: Duration,
    /// Until then callers are still sent here.
    until: Duration,
    /// Then whoever waits has waited long enough.
    at_latest: Duration,
    quiet: u32,
    progress: Drain,
}

impl Draining {
    /// `stop_time` is what there is from now to KILL.
    pub(super) fn new(
        now: Duration,
        pre_delay: Duration,
        stop_time: Duration,
        is_counted: bool,
    ) -> Self {
        let until = now.saturating_add(pre_delay);
        let stop_share = (stop_time / 4).max(STOP_SHARE_MIN);
        let limit = now.saturating_add(stop_time.saturating_sub(stop_share));
        let at_latest = if is_counted { limit } else { limit.min(until.saturating_add(UNCOUNTED)) };
        Self { since: now, until, at_latest, quiet: 0, progress: Drain::UnderWay }
    }

    pub(super) fn since(&self) -> Duration {
        self.since
    }

    /// Takes in how many calls are under way. Before callers know, none means little.
    pub(super) fn in_flight(&mut self, calls: u64, now: Duration) {
        let is_quiet = calls == 0 && self.is_known(now);
        self.quiet = if is_quiet { self.quiet.saturating_add(1) } else { 0 };
    }

    /// Looks whether it is over; once over it stays so.
    pub(super) fn look(&mut self, has_proxy: bool, now: Duration) {
        let is_quiet = self.quiet >= QUIET_LOOKS;
        if self.progress != Drain::UnderWay {
            return;
        }
        if !has_proxy || is_quiet {
            self.progress = Drain::Done;
        } else if now >= self.at_latest {
            self.progress = Drain::TimeUp;
        }
    }

    /// When time alone changes something.
    pub(super) fn wake_at(&self, now: Duration) -> Option<Duration> {
        let at_latest = (self.progress == Drain::UnderWay).then_some(self.at_latest);
        let until = Some(self.until).filter(|until| *until > now);
        [at_latest, until].into_iter().flatten().min()
    }

    /// Whether callers had the time to hear that they are to go elsewhere.
    pub(super) fn is_known(&self, now: Duration) -> bool {
        now >= self.until
    }

    pub(super) fn progress(&self) -> Drain {
        self.progress
    }
}
