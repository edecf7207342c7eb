//! What can go wrong between us and the API server.

use std::time::Duration;

/// How long a single call may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A call that may go better next time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to {verb} {kind} {name:?}")]
    Call { verb: &'static str, kind: String, name: String, source: Box<kube::Error> },
    #[error("no answer after {CALL_TIMEOUT:?} when trying to {verb} {kind} {name:?}")]
    Timeout { verb: &'static str, kind: String, name: String },
    #[error("another operator leads, so this one does not {verb} {kind} {name:?}")]
    NotLeading { verb: &'static str, kind: String, name: String },
    #[error(
        "{kind} {name:?} is changed back as soon as it is put right: look for a second operator or another tool that writes it"
    )]
    Contended { kind: String, name: String },
}

impl Error {
    /// What the API server says against the call, if it answered.
    pub(crate) fn refusal(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Call { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Timeout { .. } | Self::NotLeading { .. } | Self::Contended { .. } => None,
        }
    }

    /// Whether the object is another than the call was meant for.
    pub(crate) fn is_conflict(&self) -> bool {
        self.refusal().is_some_and(|status| status.code == 409)
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.refusal().is_some_and(|status| status.code == 404)
    }

    pub(crate) fn is_forbidden(&self) -> bool {
        self.refusal().is_some_and(|status| status.code == 403)
    }

    /// One word for metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Call { .. } if self.refusal().is_some() => "refused",
            Self::Call { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::NotLeading { .. } => "not_leading",
            Self::Contended { .. } => "contended",
        }
    }
}
