//! What the probes are told: a small value that the supervisor replaces and the admin server reads.

use api::contract::NotReady;

/// The answers of `/startup`, `/alive`, `/ready` and `/wait-for-drain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether the sidecar counts as started.
    pub started: bool,
    /// Whether the launcher still has a purpose.
    pub alive: bool,
    /// Everything for which no calls are served, first what `/ready` tells; nothing when they are.
    pub reasons: Vec<NotReady>,
    /// How far a drain is.
    pub drain: Drain,
}

impl Health {
    /// Whether calls are served, and if not, why.
    ///
    /// # Errors
    /// The first of the reasons.
    pub fn ready(&self) -> Result<(), &NotReady> {
        self.reasons.first().map_or(Ok(()), Err)
    }
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// There is none.
    No,
    /// Calls are still served.
    UnderWay,
    /// No call is under way any more.
    Done,
    /// There is no more time to wait for one.
    TimeUp,
}

impl Drain {
    /// In a word, for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::UnderWay => "under way",
            Self::Done => "done",
            Self::TimeUp => "out of time",
        }
    }

    /// Whether waiting for it is over.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::TimeUp)
    }
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
