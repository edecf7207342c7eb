//! How the machine comes to its end, and what a drain ahead of it means.

use std::time::Duration;

use api::contract::{INTERRUPT_STOP, NotReady, reason};

use super::{Action, Draining, KILL_PATIENCE, Machine, State, Then};
use crate::{
    config::Drain,
    exit::{BY_INT, BY_TERM, End},
};

/// Two interrupts within this time come from one who waits no longer.
const INTERRUPT_AGAIN: Duration = Duration::from_secs(2);

impl Machine {
    pub(super) fn terminate(&mut self, now: Duration) -> Vec<Action> {
        self.asked_by.get_or_insert(BY_TERM);
        self.leave(now, self.drain.pre_delay, self.stop_time())
    }

    pub(super) fn quit(&mut self, now: Duration) -> Vec<Action> {
        self.asked_by.get_or_insert(0);
        self.leave(now, Duration::ZERO, self.stop_time())
    }

    pub(super) fn interrupt(&mut self, now: Duration) -> Vec<Action> {
        let before = self.interrupted_at.replace(now);
        let is_again = before.is_some_and(|at| now.saturating_sub(at) <= INTERRUPT_AGAIN);
        let is_stopping = matches!(
            self.state,
            State::Draining { .. } | State::Stopping { then: Then::Leave, .. }
        );
        if is_again && is_stopping {
            let give_up_at = now.saturating_add(KILL_PATIENCE);
            self.state = State::Killing { give_up_at, then: Then::Leave };
            return vec![Action::Kill];
        }
        self.asked_by.get_or_insert(BY_INT);
        let mut actions = self.leave(now, Duration::ZERO, self.stop_time().min(INTERRUPT_STOP));
        for stop in actions.iter_mut().filter(|action| **action == Action::Stop) {
            *stop = Action::Interrupt;
        }
        actions
    }

    /// Whether the proxy is to take no new calls although it stays; nothing once it is stopped, which says that anyway.
    pub fn holds(&self, now: Duration) -> Option<bool> {
        let holds =
            self.drain.is_told && self.draining.is_some_and(|draining| draining.is_known(now));
        (!self.is_leaving()).then_some(holds)
    }

    /// There is one drain and one deadline, whoever asked first.
    pub(super) fn begin_drain(&mut self, now: Duration, pre_delay: Duration) -> Draining {
        let stop_time = self.stop_time();
        let is_counted = self.drain.is_told;
        *self.draining.get_or_insert_with(|| Draining::new(now, pre_delay, stop_time, is_counted))
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(
            self.state,
            State::Draining { .. }
                | State::Stopping { then: Then::Leave, .. }
                | State::Killing { then: Then::Leave, .. }
                | State::Failed { .. }
                | State::Stopped
        )
    }

    /// From the first TERM to KILL. A grace period too short for the margin is halved instead.
    fn stop_time(&self) -> Duration {
        let Drain { grace, kill_margin, .. } = self.drain;
        grace.saturating_sub(kill_margin).max(grace / 2)
    }

    /// TERM or INT. Only the first counts: a later one neither shortens nor lengthens anything. A drain that
    /// came before has used up some of the time.
    fn leave(&mut self, now: Duration, pre_delay: Duration, stop_time: Duration) -> Vec<Action> {
        if self.is_leaving() {
            return Vec::new();
        }
        let draining = self.begin_drain(now, pre_delay);
        let kill_at = draining.since().saturating_add(stop_time);
        let kill_at = kill_at.max(now.saturating_add(self.drain.kill_margin.min(stop_time)));
        let until = draining.since().saturating_add(pre_delay).min(kill_at);
        match self.state {
            State::Running { .. } if now < until => {
                self.state = State::Draining { until, kill_at };
                Vec::new()
            }
            State::Starting { .. } | State::Running { .. } | State::Dumping { .. } => {
                self.state = State::Stopping { kill_at, then: Then::Leave };
                vec![Action::Stop]
            }
            State::Stopping { kill_at: earlier, then: Then::StartAgain(_) } => {
                let kill_at = earlier.min(kill_at);
                self.state = State::Stopping { kill_at, then: Then::Leave };
                Vec::new()
            }
            State::Killing { give_up_at, then: Then::StartAgain(_) } => {
                self.state = State::Killing { give_up_at, then: Then::Leave };
                Vec::new()
            }
            State::Waiting | State::Backoff { .. } => {
                self.state = State::Stopped;
                vec![Action::Exit { code: self.clean_code(), words: None }]
            }
            // Leaving already, see above.
            State::Draining { .. }
            | State::Stopping { then: Then::Leave, .. }
            | State::Killing { then: Then::Leave, .. }
            | State::Failed { .. }
            | State::Stopped => Vec::new(),
        }
    }

    pub(super) fn stopped(&mut self, end: End) -> Vec<Action> {
        let class = self.class_of(end);
        let was_killed = matches!(self.state, State::Killing { .. });
        self.state = State::Stopped;
        if end.is_clean_stop() {
            return vec![Action::Exit { code: self.clean_code(), words: None }];
        }
        let message = if was_killed {
            format!(
                "the proxy was told to stop, did not in time and was killed ({class}): raise \
                 spec.terminationGracePeriodSeconds, or see what it waited for in the log of the container \
                 (kubectl logs --previous)"
            )
        } else {
            format!("the proxy {end} while it was to finish its calls ({class}); {}", end.hint())
        };
        let words = Some(NotReady { reason: reason::PROXY_CRASHED.to_owned(), message });
        vec![Action::Exit { code: end.final_code(), words }]
    }

    fn clean_code(&self) -> u8 {
        self.asked_by.filter(|_| !self.drain.zero_on_term).unwrap_or_default()
    }
}
