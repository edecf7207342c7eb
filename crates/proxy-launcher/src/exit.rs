//! What the proxy's end means: whether another start can help, and which exit code tells it to Kubernetes.

use std::{fmt, io};

use api::contract::exit;

/// An end that is no failure of the proxy's but not wanted either has no code of its own.
const INTERNAL: u8 = 70;
/// The operating system refused.
pub const OS_ERROR: u8 = 71;
/// The user function never came.
pub const UNAVAILABLE: u8 = 69;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// 128 plus the signal's number, as shells count.
const SIGNAL_BASE: u8 = 128;
const SIGNAL_INT: u8 = 2;
const SIGNAL_KILL: u8 = 9;
const SIGNAL_TERM: u8 = 15;

/// Exit code of a stop for which KILL was needed.
pub const KILLED: u8 = SIGNAL_BASE + SIGNAL_KILL;

/// How a proxy process ended, or that there never was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It left with this code.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
    /// Its program is not there.
    NotFound,
    /// Its program cannot be executed.
    NotExecutable,
    /// The operating system could not start one more process now.
    NoResources,
}

/// What an end that nobody asked for calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Starting again without a change cannot help.
    Refused,
    /// The proxy asks for a fresh start.
    FreshStart,
    /// A failure, which may pass.
    Failure,
}

impl End {
    /// The end that a failed start is.
    pub fn of_spawn_error(error: &io::Error) -> Self {
        /// The program is of another architecture, or no program at all.
        const ENOEXEC: i32 = 8;
        match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::NotFound, _) => Self::NotFound,
            (io::ErrorKind::PermissionDenied, _) | (_, Some(ENOEXEC)) => Self::NotExecutable,
            _ => Self::NoResources,
        }
    }

    /// What to do about it, while the proxy should be running.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Code(2 | exit::USAGE | exit::CONFIG) | Self::NotFound | Self::NotExecutable => {
                Verdict::Refused
            }
            Self::Code(exit::RESTART) => Verdict::FreshStart,
            Self::Code(_) | Self::Signal(_) | Self::NoResources => Verdict::Failure,
        }
    }

    /// Our own exit code when this end is the last one.
    pub fn final_code(self) -> u8 {
        match self {
            Self::Code(0) => INTERNAL,
            Self::Code(2 | exit::USAGE) => exit::CONFIG,
            Self::Code(code) => code,
            Self::Signal(signal) => SIGNAL_BASE.saturating_add(signal),
            Self::NotFound => NOT_FOUND,
            Self::NotExecutable => NOT_EXECUTABLE,
            Self::NoResources => OS_ERROR,
        }
    }

    /// Whether this is how a process ends that was asked to.
    pub fn is_clean_stop(self) -> bool {
        const BY_INT: u8 = SIGNAL_BASE + SIGNAL_INT;
        const BY_TERM: u8 = SIGNAL_BASE + SIGNAL_TERM;
        matches!(self, Self::Code(0 | BY_INT | BY_TERM) | Self::Signal(SIGNAL_INT | SIGNAL_TERM))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "left with exit code {code}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Self::NotFound => f.write_str("could not be started: its program does not exist"),
            Self::NotExecutable => {
                f.write_str("could not be started: its file is no program for this machine")
            }
            Self::NoResources => {
                f.write_str("could not be started: the system refused a new process")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_verdict_and_code() {
        for (end, verdict, code) in [
            (End::Code(0), Verdict::Failure, 70),
            (End::Code(1), Verdict::Failure, 1),
            (End::Code(2), Verdict::Refused, 78),
            (End::Code(64), Verdict::Refused, 78),
            (End::Code(75), Verdict::FreshStart, 75),
            (End::Code(78), Verdict::Refused, 78),
            (End::Code(101), Verdict::Failure, 101),
            (End::Signal(6), Verdict::Failure, 134),
            (End::Signal(9), Verdict::Failure, 137),
            (End::Signal(11), Verdict::Failure, 139),
            (End::NotFound, Verdict::Refused, 127),
            (End::NotExecutable, Verdict::Refused, 126),
            (End::NoResources, Verdict::Failure, 71),
        ] {
            assert_eq!((end.verdict(), end.final_code()), (verdict, code), "{end:?}");
        }
    }

    #[test]
    fn a_stop_is_clean_when_the_signal_was_the_cause() {
        for end in [End::Code(0), End::Code(143), End::Code(130), End::Signal(15), End::Signal(2)] {
            assert!(end.is_clean_stop(), "{end:?}");
        }
        for end in [End::Code(1), End::Signal(9), End::Signal(6), End::NotFound] {
            assert!(!end.is_clean_stop(), "{end:?}");
        }
    }

    #[test]
    fn a_failed_start_says_why() {
        for (errno, end) in [
            (2, End::NotFound),
            (13, End::NotExecutable),
            (8, End::NotExecutable),
            (11, End::NoResources),
        ] {
            assert_eq!(End::of_spawn_error(&io::Error::from_raw_os_error(errno)), end);
        }
    }
}
