//! Where the answers to one call come from.

use futures::future::BoxFuture;

use crate::{
    action::Answers,
    entity::{Answer, Failure},
};

/// Where answers come from.
pub(super) enum Source {
    Entity(BoxFuture<'static, Answer>),
    Action(Box<Answers>),
    Ended,
}

impl Source {
    /// The next answer; none behind the last.
    pub(super) async fn next(&mut self) -> Result<Option<Answer>, Failure> {
        match self {
            Self::Action(answers) => answers.next().await,
            Self::Entity(answer) => {
                let answer = answer.await;
                *self = Self::Ended;
                Ok(Some(answer))
            }
            Self::Ended => Ok(None),
        }
    }
}
