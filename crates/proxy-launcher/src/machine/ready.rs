//! What `/ready` is told in each state.

use api::contract::{NotReady, exit, reason};

use super::{Machine, State, Then, Why};
use crate::health::Answer;

impl Machine {
    pub(super) fn misses_user_function(&self) -> bool {
        self.is_watched() && self.user_function.required && self.user_function_up != Some(true)
    }

    /// Everything for which no calls are served, first what is told when one thing is.
    pub(super) fn reasons(&self) -> Vec<NotReady> {
        let is_over = matches!(self.state, State::Failed { .. } | State::Stopped);
        let is_draining = self.draining.is_some() && !matches!(self.state, State::Failed { .. });
        let draining = is_draining.then(|| not_ready(reason::DRAINING, "the pod is being stopped"));
        let misses_function =
            self.misses_user_function() && !is_over && self.state != State::Waiting;
        let function = misses_function.then(|| {
            not_ready(
                reason::USER_FUNCTION_UNREACHABLE,
                "the user function does not answer; look at the container user-container",
            )
        });
        let all = [draining, self.reason_of_state(), function];
        let mut reasons: Vec<_> = all.into_iter().flatten().collect();
        reasons.dedup();
        reasons
    }

    fn reason_of_state(&self) -> Option<NotReady> {
        Some(match &self.state {
            State::Waiting => not_ready(
                reason::USER_FUNCTION_UNREACHABLE,
                "the proxy is started once the user function answers",
            ),
            State::Running { .. } | State::Starting { .. } => match &self.answer {
                Answer::Ready => return None,
                Answer::NotReady(why) => why.clone(),
                Answer::Silent(why) => not_ready(reason::PROXY_STARTING, why),
            },
            State::Backoff { last: None, .. } => {
                not_ready(reason::PROXY_STARTING, "the proxy is being started")
            }
            State::Backoff { last: Some(end), .. } => not_ready(
                reason::PROXY_STARTING,
                format!("the proxy {end} and will be started again shortly"),
            ),
            State::Dumping { why, .. }
            | State::Stopping { then: Then::StartAgain(why), .. }
            | State::Killing { then: Then::StartAgain(why), .. } => {
                let silent_for = |limit| {
                    format!("the proxy did not answer within {limit:?} and is being started again")
                };
                let message = match why {
                    Why::NeverAnswered => silent_for(self.supervise.start_timeout),
                    Why::Hung => silent_for(self.supervise.hang_after),
                    Why::Stuck => format!(
                        "the proxy served no calls for {:?} and is started again",
                        self.supervise.stuck_after
                    ),
                    Why::UserFunctionReturned => {
                        "the user function came back, and the proxy is started again for it"
                            .to_owned()
                    }
                };
                not_ready(reason::PROXY_STARTING, message)
            }
            State::Draining { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Stopped => not_ready(reason::DRAINING, "the pod is being stopped"),
            State::Failed { code: exit::CONFIG } => {
                not_ready(reason::CONFIGURATION_REFUSED, "the proxy refused its settings")
            }
            State::Failed { code } => not_ready(
                reason::PROXY_CRASHED,
                format!("the proxy is not started again; the container leaves with {code}"),
            ),
        })
    }
}

fn not_ready(reason: &str, message: impl Into<String>) -> NotReady {
    NotReady { reason: reason.to_owned(), message: message.into() }
}
