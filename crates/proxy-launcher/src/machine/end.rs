//! What the end of a proxy leads to.

use std::time::Duration;

use api::contract::{NotReady, reason};

use super::{Action, Machine, State, Then};
use crate::{
    config::Restart,
    exit::{End, Verdict},
};

impl Machine {
    pub(super) fn ended(&mut self, end: End, now: Duration) -> Vec<Action> {
        match self.state {
            State::Running { since } => {
                if now.saturating_sub(since) >= self.supervise.stable_after {
                    self.restarts.forget_pause();
                }
                self.unplanned(end, now)
            }
            // What was asked to leave is no failure, however it left.
            State::Stopping { then: Then::StartAgain(why), .. }
            | State::Killing { then: Then::StartAgain(why), .. }
                if why.is_planned() =>
            {
                self.start(now)
            }
            State::Starting { .. }
            | State::Dumping { .. }
            | State::Stopping { then: Then::StartAgain(_), .. }
            | State::Killing { then: Then::StartAgain(_), .. } => self.unplanned(end, now),
            State::Draining { .. }
            | State::Stopping { then: Then::Leave, .. }
            | State::Killing { then: Then::Leave, .. } => self.stopped(end),
            State::Waiting | State::Backoff { .. } | State::Failed { .. } | State::Stopped => {
                Vec::new()
            }
        }
    }

    fn unplanned(&mut self, end: End, now: Duration) -> Vec<Action> {
        let verdict = end.verdict();
        let is_final = match self.supervise.restart {
            Restart::Always => false,
            Restart::OnFailure => end.is_zero(),
            Restart::Never => true,
        };
        match verdict {
            Verdict::Refused => {
                let message = if let End::Code(_) = end {
                    format!(
                        "the proxy {end} and did not say why; see the log of the container \
                         (kubectl logs --previous), then correct the setting that it names"
                    )
                } else {
                    format!(
                        "the proxy {end}; CLOUDSTATE_LAUNCHER_COMMAND must name the proxy's program"
                    )
                };
                let reason = reason::CONFIGURATION_REFUSED.to_owned();
                self.fail(end.final_code(), Some(NotReady { reason, message }))
            }
            Verdict::FreshStart | Verdict::Failure if is_final => self.not_again(end),
            Verdict::FreshStart => match self.restarts.fresh_start(now) {
                None => self.start(now),
                Some(pause) => self.back_off(pause, end, now),
            },
            Verdict::Failure => self.failure(end, now),
        }
    }

    fn failure(&mut self, end: End, now: Duration) -> Vec<Action> {
        let allowed = match self.restarts.failure(end, now) {
            Ok(pause) => return self.back_off(pause, end, now),
            Err(allowed) => allowed,
        };
        let window = self.supervise.budget_window;
        let because = format!("that was more than {allowed} times within {window:?}");
        self.crashed(end, &because)
    }

    /// Whoever runs the container is to decide.
    fn not_again(&mut self, end: End) -> Vec<Action> {
        let setting = self.supervise.restart.as_str();
        self.crashed(end, &format!("CLOUDSTATE_LAUNCHER_RESTART is {setting}"))
    }

    fn crashed(&mut self, end: End, because: &str) -> Vec<Action> {
        let hint = end.hint();
        let message =
            format!("the proxy {end}; {because}, so it is not started again in place; {hint}");
        let reason = reason::PROXY_CRASHED.to_owned();
        self.fail(end.final_code(), Some(NotReady { reason, message }))
    }

    fn back_off(&mut self, pause: Duration, end: End, now: Duration) -> Vec<Action> {
        self.state = State::Backoff { until: now.saturating_add(pause), last: Some(end) };
        Vec::new()
    }
}
