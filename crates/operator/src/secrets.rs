//! Whether Secrets that stores name are read: as `validate-secrets` says, and with `auto` in listed namespaces in which
//! the operator may read them. Whoever lists namespaces gives rights in each of them, and may leave this one out.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::Chain;
use k8s_openapi::api::core::v1::Secret;
use tokio::time::sleep;
use tracing::{info, warn};
use translate::settings::Choice;

use crate::config::Settings;
use crate::context::Shared;
use crate::error::Error;
use crate::review;

/// What is done with Secrets; a right to some of it is of no use.
const VERBS: [&str; 3] = ["get", "list", "watch"];
const RETRY_DELAY_MIN: Duration = Duration::from_secs(1);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(15);

/// Which of the answers are asked for anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    Nothing,
    /// A right may come later.
    Refusals,
    /// Who changes settings may change rights.
    Everything,
}

/// What the API server has answered, by namespace.
#[derive(Debug, Default)]
pub(crate) struct Secrets(Mutex<BTreeMap<String, bool>>);

impl Secrets {
    /// Whether Secrets of that namespace are read, or of all.
    pub(crate) fn are_read(&self, settings: &Settings, namespace: Option<&str>) -> bool {
        match settings.validate_secrets {
            Choice::On => true,
            Choice::Off => false,
            Choice::Auto => {
                let known = namespace.filter(|_| settings.watch.listed().is_some());
                known.is_some_and(|namespace| self.lock().get(namespace) == Some(&true))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for the namespaces of which it is not known or in doubt, where the setting leaves it open. Returns when the API
/// server has answered: what is watched there depends on it.
pub(crate) async fn ask(shared: &Shared, settings: &Settings, doubt: Doubt) {
    if settings.validate_secrets != Choice::Auto {
        return;
    }
    for namespace in settings.watch.listed().into_iter().flatten() {
        let namespace = namespace.trim();
        let known = shared.secrets.lock().get(namespace).copied();
        let is_settled = match doubt {
            Doubt::Nothing => known.is_some(),
            Doubt::Refusals => known == Some(true),
            Doubt::Everything => false,
        };
        if namespace.is_empty() || is_settled {
            continue;
        }
        let mut delay = RETRY_DELAY_MIN;
        let may_read = loop {
            match may_read(shared, namespace).await {
                Ok(may_read) => break may_read,
                Err(error) => {
                    warn!(namespace, error = %Chain(&error), retry_in = ?delay, "cannot ask whether Secrets may be read");
                }
            }
            sleep(delay).await;
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        };
        if !may_read && known != Some(false) {
            info!(
                namespace,
                "Secrets that stores name are not looked at: validate-secrets is auto, and the operator may not get, list and watch them"
            );
        }
        shared.secrets.lock().insert(namespace.to_owned(), may_read);
    }
}

async fn may_read(shared: &Shared, namespace: &str) -> Result<bool, Error> {
    for verb in VERBS {
        if !review::may::<Secret>(shared, verb, Some(namespace)).await? {
            return Ok(false);
        }
    }
    Ok(true)
}
