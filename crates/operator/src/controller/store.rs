//! Reconciles one StatefulStore: there is nothing to make, only something to say.

use std::sync::Arc;
use std::time::Duration;

use api::StatefulStore;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt};
use tokio::time::Instant;
use translate::settings::Switch;
use translate::validate_store;

use super::agenda::Action;
use super::{AGAIN_DELAY, dependents};
use crate::context::{Context, spread};
use crate::error::Error;
use crate::report;
use crate::status::{self, Missing};

/// A Secret that is not there may come, and is not watched unless a label says so.
const MISSING_DELAY: Duration = Duration::from_secs(5);

pub(crate) async fn reconcile(
    store: Arc<StatefulStore>,
    ctx: Arc<Context>,
) -> Result<Action, Error> {
    let namespace = store.namespace().unwrap_or_default();
    let uid = store.uid().unwrap_or_default();
    if ctx.reported.is_news_for(&*store, Instant::now()) {
        return Ok(Action::requeue(AGAIN_DELAY));
    }
    if store.metadata.deletion_timestamp.is_some() || ctx.caches.is_opted_out(&namespace) {
        ctx.failures.forget(&uid);
        return Ok(Action::await_change());
    }
    let missing = missing(&ctx, &store).await?;
    let dependents = dependents(&ctx, &store).len();
    let status = status::of_store(&store, missing.as_ref(), dependents, Timestamp::now());
    report::report(&ctx, &*store, status).await?;
    ctx.failures.forget(&uid);
    let settings = ctx.live.now();
    Ok(match missing {
        Some(_) => Action::requeue(MISSING_DELAY),
        None if settings.validate_secrets == Switch::On => {
            Action::requeue(settings.resync.mul_f64(1.0 + 0.5 * spread(&uid, 0)))
        }
        None => Action::await_change(),
    })
}

/// The first Secret or key that the store names and that is not there, where we are to look.
async fn missing(ctx: &Context, store: &StatefulStore) -> Result<Option<Missing>, Error> {
    if ctx.live.now().validate_secrets == Switch::Off {
        return Ok(None);
    }
    let Ok(known) = validate_store(store) else { return Ok(None) };
    let api = Api::<Secret>::namespaced(ctx.client.clone(), &store.namespace().unwrap_or_default());
    for (name, keys) in known.secrets() {
        let found = match ctx.calls.read("get", "Secret", name, api.get_opt(name)).await {
            Ok(found) => found,
            Err(error) if error.is_forbidden() => {
                return Ok(Some(Missing::Right { secret: name.to_owned() }));
            }
            Err(error) => return Err(error),
        };
        let Some(found) = found else {
            return Ok(Some(Missing::Secret { secret: name.to_owned() }));
        };
        let data = found.data.unwrap_or_default();
        if let Some(key) = keys.into_iter().find(|key| !data.contains_key(*key)) {
            let (secret, key) = (name.to_owned(), key.to_owned());
            return Ok(Some(Missing::Key { secret, key }));
        }
    }
    Ok(None)
}
