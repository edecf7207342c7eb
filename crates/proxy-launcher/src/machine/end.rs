//! What the end of a proxy leads to.

use std::time::Duration;

use api::contract::{NotReady, reason};

use super::{Action, Machine, State, Then, Why};
use crate::{
    config::{Restart, Supervise},
    exit::{End, Verdict},
};

impl Machine {
    pub(super) fn ended(&mut self, end: End, now: Duration) -> Vec<Action> {
        match self.state {
            State::Running { .. } => {
                self.leave_service(now);
                self.unplanned(end, None, now)
            }
            // What was asked to leave is no failure, however it left.
            State::Stopping { then: Then::StartAgain(why), .. }
            | State::Killing { then: Then::StartAgain(why), .. }
                if why.is_planned() =>
            {
                self.start(now)
            }
            State::Starting { .. } => self.unplanned(end, None, now),
            State::Dumping { why, .. }
            | State::Stopping { then: Then::StartAgain(why), .. }
            | State::Killing { then: Then::StartAgain(why), .. } => {
                self.unplanned(end, Some(why), now)
            }
            State::Draining { .. }
            | State::Stopping { then: Then::Leave, .. }
            | State::Killing { then: Then::Leave, .. } => self.stopped(end),
            State::Waiting | State::Backoff { .. } | State::Failed { .. } | State::Stopped => {
                Vec::new()
            }
        }
    }

    /// `stopped` is why we stopped it, if we did.
    fn unplanned(&mut self, end: End, stopped: Option<Why>, now: Duration) -> Vec<Action> {
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
                        "the proxy {end}; CLOUDSTATE_LAUNCHER_COMMAND must name the proxy's program, or \
                         CLOUDSTATE_LAUNCHER_JAVA a JVM"
                    )
                };
                let reason = reason::CONFIGURATION_REFUSED.to_owned();
                self.fail(end.final_code(), Some(NotReady { reason, message }))
            }
            Verdict::FreshStart | Verdict::Failure if is_final => self.not_again(end, stopped),
            Verdict::FreshStart => match self.restarts.fresh_start(now) {
                at if at <= now => self.start(now),
                at => self.back_off(at, end),
            },
            Verdict::Failure => self.failure(end, stopped, now),
        }
    }

    fn failure(&mut self, end: End, stopped: Option<Why>, now: Duration) -> Vec<Action> {
        let allowed = match self.restarts.failure(end, now) {
            Ok(pause) => return self.back_off(now.saturating_add(pause), end),
            Err(allowed) => allowed,
        };
        let window = self.supervise.budget_window;
        let because = format!("that was more than {allowed} times within {window:?}");
        self.crashed(end, stopped, &because)
    }

    /// Whoever runs the container is to decide.
    fn not_again(&mut self, end: End, stopped: Option<Why>) -> Vec<Action> {
        let setting = self.supervise.restart.as_str();
        self.crashed(end, stopped, &format!("CLOUDSTATE_LAUNCHER_RESTART is {setting}"))
    }

    fn crashed(&mut self, end: End, stopped: Option<Why>, because: &str) -> Vec<Action> {
        let Supervise { start_timeout, hang_after, .. } = self.supervise;
        let look = "see what it waits for in the log of the container (kubectl logs --previous), and whether \
                    it has the processor time and memory that it needs";
        let (what, hint) = match stopped {
            Some(Why::NeverAnswered) => (
                format!("did not answer within {start_timeout:?} of its start and was stopped"),
                look,
            ),
            Some(Why::Hung) => {
                (format!("did not answer any more for {hang_after:?} and was stopped"), look)
            }
            Some(Why::UserFunctionReturned | Why::Stuck) | None => (end.to_string(), end.hint()),
        };
        let message =
            format!("the proxy {what}; {because}, so it is not started again in place; {hint}");
        let reason = reason::PROXY_CRASHED.to_owned();
        self.fail(end.final_code(), Some(NotReady { reason, message }))
    }

    fn back_off(&mut self, until: Duration, end: End) -> Vec<Action> {
        self.state = State::Backoff { until, last: Some(end) };
        Vec::new()
    }
}
