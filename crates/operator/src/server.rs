//! What the API server can do, by its version.

use std::time::Duration;

use api::Chain;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::Client;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::error::CALL_TIMEOUT;

/// A cluster may be upgraded while we run.
const INTERVAL: Duration = Duration::from_mins(10);
/// Until it was told once.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Init containers that stay are on from this minor version of Kubernetes 1 on:
/// <https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/>.
const NATIVE_SIDECARS: u32 = 29;

/// What is known of the API server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    native_sidecars: watch::Sender<bool>,
}

impl Server {
    /// Asks until there is an answer: what pods look like depends on it.
    pub(crate) async fn ask(client: &Client) -> Self {
        loop {
            match version(client).await {
                Ok(version) => {
                    let native_sidecars = has_native_sidecars(&version);
                    let Info { major, minor, .. } = version;
                    info!(major, minor, native_sidecars, "API server");
                    return Self { native_sidecars: watch::Sender::new(native_sidecars) };
                }
                Err(error) => warn!(error, "version of the API server cannot be read yet"),
            }
            sleep(RETRY_DELAY).await;
        }
    }

    /// Asks again for ever.
    pub(crate) async fn follow(self, client: Client) {
        loop {
            sleep(INTERVAL).await;
            match version(&client).await {
                Ok(version) => {
                    let now = has_native_sidecars(&version);
                    let is_other = self.native_sidecars.send_if_modified(|before| {
                        let is_other = *before != now;
                        *before = now;
                        is_other
                    });
                    if is_other {
                        let Info { major, minor, .. } = version;
                        info!(major, minor, native_sidecars = now, "API server is another");
                    }
                }
                // What was known holds.
                Err(error) => warn!(error, "version of the API server cannot be read"),
            }
        }
    }

    /// Whether it runs init containers that stay.
    pub(crate) fn has_native_sidecars(&self) -> bool {
        *self.native_sidecars.borrow()
    }

    /// Tells of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<bool> {
        self.native_sidecars.subscribe()
    }
}

async fn version(client: &Client) -> Result<Info, String> {
    match timeout(CALL_TIMEOUT, client.apiserver_version()).await {
        Ok(Ok(version)) => Ok(version),
        Ok(Err(error)) => Err(Chain(&error).to_string()),
        Err(_) => Err(format!("no answer after {CALL_TIMEOUT:?}")),
    }
}

fn has_native_sidecars(version: &Info) -> bool {
    let number = |text: &str| {
        // Some providers append a plus sign.
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse::<u32>().unwrap_or(0)
    };
    let version = (number(&version.major), number(&version.minor));
    version >= (1, NATIVE_SIDECARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(major: &str, minor: &str, expected: bool) {
        let version = Info { major: major.to_owned(), minor: minor.to_owned(), ..Info::default() };
        assert_eq!(has_native_sidecars(&version), expected, "{major}.{minor}");
    }

    #[test]
    fn init_containers_stay_from_1_29_on() {
        check("1", "28", false);
        check("1", "28+", false);
        check("1", "29", true);
        check("1", "34+", true);
        check("2", "0", true);
        check("", "", false);
    }
}
