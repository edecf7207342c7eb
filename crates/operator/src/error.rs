//! What can go wrong between us and the API server.

use std::future::Future;
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
            Self::Timeout { .. } | Self::Contended { .. } => None,
        }
    }
}

/// Does one call, not for longer than [`CALL_TIMEOUT`].
pub(crate) async fn call<T>(
    verb: &'static str,
    kind: &str,
    name: &str,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, Error> {
    let (kind, name) = (kind.to_owned(), name.to_owned());
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(Error::Call { verb, kind, name, source: Box::new(source) }),
        Err(_) => Err(Error::Timeout { verb, kind, name }),
    }
}
