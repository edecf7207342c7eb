//! What the probes are told: a small value that the supervisor replaces and the admin server reads.

use api::contract::NotReady;

/// The answers of `/alive` and `/ready`. `/startup` needs none: that anything answers is the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether the launcher still has a purpose.
    pub alive: bool,
    /// Whether calls are served, and if not, why.
    pub ready: Result<(), NotReady>,
}

/// What the proxy said about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It serves calls.
    Ready,
    /// It lives, and says why it serves no calls.
    NotReady(NotReady),
    /// Nothing was heard; the text says what was tried and what happened.
    Silent(String),
}
