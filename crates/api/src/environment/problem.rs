//! What can be wrong with a setting, in one shape for logs, termination message and `check`.

use std::fmt;

/// Values longer than this are cut in messages, so that all problems fit into a termination message.
const SHOWN_VALUE_MAX: usize = 64;

/// The kind of a [`Problem`]; stable words that people search for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each name says it, and `Problem::expected` says it precisely")]
pub enum Kind {
    ArgvTooLong,
    ConflictingKeys,
    EmptyValue,
    ExecNotExecutable,
    ExecNotFound,
    FileNotFound,
    FileParse,
    FilePermission,
    FileTooLarge,
    FractionalSize,
    HeapExceedsLimit,
    InitialHeapExceedsMax,
    InvalidAddress,
    InvalidBool,
    InvalidDuration,
    InvalidInteger,
    InvalidJvmSize,
    InvalidSize,
    MemoryBudgetTight,
    MissingDigits,
    MissingRequired,
    NegativeSize,
    NoMemoryLimit,
    NotAbsolute,
    NotUtf8,
    NulByte,
    OutOfRange,
    PortConflict,
    PortOutOfRange,
    RangeConflict,
    SecretInArgv,
    SizeOverflow,
    SizeTooSmall,
    StartupDeadlock,
    UnbalancedQuote,
    UnknownKey,
    UnknownUnit,
    UnknownVariant,
    UnsupportedByKind,
    ZeroSize,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, in one word.
    pub kind: Kind,
    /// The variable, or both when two contradict each other.
    pub variable: String,
    /// The value as it was set.
    pub value: String,
    /// What would have been right.
    pub expected: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, variable, value, expected, hint } = self;
        let shown: String = value.chars().take(SHOWN_VALUE_MAX).collect();
        let rest = if shown.len() < value.len() { "..." } else { "" };
        write!(f, "{kind}: {variable} is {shown:?}{rest}, expected {expected}; {hint}")
    }
}

/// Every problem of an environment, sorted by variable; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&problems.join(" | "))
    }
}
