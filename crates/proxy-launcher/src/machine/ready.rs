//! What `/ready` is told in each state.

use api::contract::{NotReady, exit, reason};

use super::{Machine, State, Then, Why};
use crate::health::Answer;

impl Machine {
    pub(super) fn misses_user_function(&self) -> bool {
        self.is_watched() && self.user_function.required && self.user_function_up != Some(true)
    }

    pub(super) fn ready(&self) -> Result<(), NotReady> {
        let not_ready =
            |reason: &str, message: String| Err(NotReady { reason: reason.to_owned(), message });
        if self.draining.is_some() && !matches!(self.state, State::Failed { .. }) {
            return not_ready(reason::DRAINING, "the pod is being stopped".to_owned());
        }
        match &self.state {
            State::Waiting => not_ready(
                reason::USER_FUNCTION_UNREACHABLE,
                "the proxy is started once the user function answers".to_owned(),
            ),
            State::Running { .. } | State::Starting { .. } => match &self.answer {
                Answer::Ready if self.misses_user_function() => not_ready(
                    reason::USER_FUNCTION_UNREACHABLE,
                    "the user function does not answer; look at the container user-container"
                        .to_owned(),
                ),
                Answer::Ready => Ok(()),
                Answer::NotReady(why) => Err(why.clone()),
                Answer::Silent(why) => not_ready(reason::PROXY_STARTING, why.clone()),
            },
            State::Backoff { last: None, .. } => {
                not_ready(reason::PROXY_STARTING, "the proxy is being started".to_owned())
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
            | State::Stopped => not_ready(reason::DRAINING, "the pod is being stopped".to_owned()),
            State::Failed { code: exit::CONFIG } => not_ready(
                reason::CONFIGURATION_REFUSED,
                "the proxy refused its settings".to_owned(),
            ),
            State::Failed { code } => not_ready(
                reason::PROXY_CRASHED,
                format!("the proxy is not started again; the container leaves with {code}"),
            ),
        }
    }
}
