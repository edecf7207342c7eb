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
/// What a JVM leaves with under `-XX:+ExitOnOutOfMemoryError`.
const JVM_OUT_OF_MEMORY: u8 = 3;
const SIGNAL_INT: u8 = 2;
const SIGNAL_KILL: u8 = 9;
const SIGNAL_TERM: u8 = 15;

/// Exit code of a stop for which KILL was needed.
pub const KILLED: u8 = SIGNAL_BASE + SIGNAL_KILL;

/// What a shell sees of a process that INT ended.
pub const BY_INT: u8 = SIGNAL_BASE + SIGNAL_INT;
/// What a shell sees of a process that TERM ended.
pub const BY_TERM: u8 = SIGNAL_BASE + SIGNAL_TERM;

/// How a proxy process ended, or that there never was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It left with this code.
    Code(u8),
    /// As [`Self::Code`], of a JVM: there our own codes for a refusal or a fresh start mean nothing.
    JvmCode(u8),
    /// This signal ended it.
    Signal(u8),
    /// The kernel killed it, since the container's memory limit was reached.
    OutOfMemory,
    /// The JVM gave up, since its heap was full.
    HeapFull,
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

    /// The same end seen with what else is known: whether a JVM ran, and whether the kernel has killed
    /// for memory meanwhile.
    #[must_use]
    pub fn explained(self, is_jvm: bool, killed_for_memory: bool) -> Self {
        match self {
            Self::Signal(SIGNAL_KILL) if killed_for_memory => Self::OutOfMemory,
            Self::Code(JVM_OUT_OF_MEMORY) if is_jvm => Self::HeapFull,
            Self::Code(code) if is_jvm => Self::JvmCode(code),
            end => end,
        }
    }

    /// What to do about it, while the proxy should be running.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Code(2 | exit::USAGE | exit::CONFIG) | Self::NotFound | Self::NotExecutable => {
                Verdict::Refused
            }
            Self::Code(exit::RESTART) => Verdict::FreshStart,
            Self::Code(_)
            | Self::JvmCode(_)
            | Self::Signal(_)
            | Self::OutOfMemory
            | Self::HeapFull
            | Self::NoResources => Verdict::Failure,
        }
    }

    /// In one word, for metrics, while the proxy should be running.
    pub fn class(self) -> &'static str {
        /// HUP, USR1 and USR2, as signals or as the codes that a JVM leaves with.
        const STRAY: [u8; 3] = [1, 10, 12];
        const ABORT: u8 = 6;
        /// ILL, BUS, FPE, SEGV, SYS.
        const FAULTS: [u8; 5] = [4, 7, 8, 11, 31];
        const CLUSTER_DOWN: u8 = 255;
        match self {
            Self::Code(0) | Self::JvmCode(0) => "unexpected_zero",
            Self::Code(2 | exit::USAGE | exit::CONFIG) => "config_rejected",
            Self::Code(exit::RESTART) => "self_restart",
            Self::JvmCode(CLUSTER_DOWN) => "cluster_down",
            Self::Code(code) | Self::JvmCode(code) => match code.checked_sub(SIGNAL_BASE) {
                Some(ABORT) => "crash",
                Some(signal) if STRAY.contains(&signal) => "signalled",
                _ => "error",
            },
            Self::Signal(SIGNAL_KILL) => "killed_external",
            Self::Signal(signal) if signal == ABORT || FAULTS.contains(&signal) => "crash",
            Self::Signal(signal) if STRAY.contains(&signal) => "signalled",
            Self::Signal(_) => "error",
            Self::OutOfMemory => "oom_killed",
            Self::HeapFull => "jvm_oom",
            Self::NotFound | Self::NotExecutable => "exec",
            Self::NoResources => "spawn_resource",
        }
    }

    /// What to do about it, for a person.
    pub fn hint(self) -> &'static str {
        match self.class() {
            "crash" => {
                "that is a fault of the proxy: report it with the log of the container \
                 (kubectl logs --previous)"
            }
            "killed_external" | "signalled" => {
                "neither launcher nor memory limit did that: look for who else sends signals in the pod or on \
                 its node"
            }
            "cluster_down" => {
                "it left its cluster: look at the network between the pods, and at the log of the container \
                 (kubectl logs --previous)"
            }
            "spawn_resource" => "look at the limits of processes and memory of pod and node",
            "unexpected_zero" => {
                "nobody asked it to: a port may be taken; see the log of the container \
                 (kubectl logs --previous)"
            }
            _ => "see the log of the container (kubectl logs --previous)",
        }
    }

    /// Our own exit code when this end is the last one.
    pub fn final_code(self) -> u8 {
        match self {
            Self::Code(0) | Self::JvmCode(0) => INTERNAL,
            Self::Code(2 | exit::USAGE) => exit::CONFIG,
            Self::Code(code) | Self::JvmCode(code) => code,
            Self::Signal(signal) => SIGNAL_BASE.saturating_add(signal),
            Self::OutOfMemory => KILLED,
            Self::HeapFull => JVM_OUT_OF_MEMORY,
            Self::NotFound => NOT_FOUND,
            Self::NotExecutable => NOT_EXECUTABLE,
            Self::NoResources => OS_ERROR,
        }
    }

    /// Whether it says itself that all went well.
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Code(0) | Self::JvmCode(0))
    }

    /// Whether this is how a process ends that was asked to.
    pub fn is_clean_stop(self) -> bool {
        matches!(
            self,
            Self::Code(0 | BY_INT | BY_TERM)
                | Self::JvmCode(0 | BY_INT | BY_TERM)
                | Self::Signal(SIGNAL_INT | SIGNAL_TERM)
        )
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) | Self::JvmCode(code) => write!(f, "left with exit code {code}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Self::OutOfMemory => f.write_str(
                "was killed by the kernel, since the container reached its memory limit: raise \
                 spec.sidecarResources.limits.memory or lower spec.sidecarJvmMemory",
            ),
            Self::HeapFull => f.write_str(
                "left since its heap was full: raise spec.sidecarJvmMemory, and with it \
                 spec.sidecarResources.limits.memory",
            ),
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
            (End::OutOfMemory, Verdict::Failure, 137),
            (End::HeapFull, Verdict::Failure, 3),
            (End::NotFound, Verdict::Refused, 127),
            (End::NotExecutable, Verdict::Refused, 126),
            (End::NoResources, Verdict::Failure, 71),
        ] {
            assert_eq!((end.verdict(), end.final_code()), (verdict, code), "{end:?}");
        }
    }

    #[test]
    fn each_end_has_a_class_and_a_hint() {
        for (end, class, hint) in [
            (End::Code(0), "unexpected_zero", "nobody asked"),
            (End::JvmCode(255), "cluster_down", "it left its cluster"),
            (End::Code(255), "error", "see the log"),
            (End::Code(134), "crash", "that is a fault"),
            (End::Signal(11), "crash", "that is a fault"),
            (End::JvmCode(138), "signalled", "neither launcher"),
            (End::Signal(9), "killed_external", "neither launcher"),
            (End::OutOfMemory, "oom_killed", "see the log"),
            (End::NoResources, "spawn_resource", "look at the limits"),
        ] {
            assert_eq!(end.class(), class, "{end:?}");
            assert!(end.hint().starts_with(hint), "{end:?}");
        }
    }

    #[test]
    fn evidence_tells_what_a_kill_was() {
        assert_eq!(End::Signal(9).explained(false, true), End::OutOfMemory);
        assert_eq!(End::Signal(9).explained(false, false), End::Signal(9));
        assert_eq!(End::Signal(11).explained(false, true), End::Signal(11));
        assert_eq!(End::Code(3).explained(true, false), End::HeapFull);
        assert_eq!(End::Code(3).explained(false, false), End::Code(3));
        let foreign = End::Code(78).explained(true, false);
        assert_eq!((foreign.verdict(), foreign.final_code()), (Verdict::Failure, 78));
        assert!(End::Code(143).explained(true, false).is_clean_stop());
        assert_eq!(End::Code(78).explained(false, false).verdict(), Verdict::Refused);
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
