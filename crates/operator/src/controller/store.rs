//! Reconciles one StatefulStore: there is nothing to make, only something to say, and a deletion to hold up
//! where that is asked for.

use std::sync::Arc;
use std::time::Duration;

use api::contract::{FIELD_MANAGER, STORE_FINALIZER};
use api::{Chain, StatefulStore};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::Instant;
use tracing::{info, warn};
use translate::settings::Switch;
use translate::validate_store;

use super::agenda::Action;
use super::{AGAIN_DELAY, dependents, is_lasting};
use crate::context::{Context, spread};
use crate::error::Error;
use crate::planted::{self, Bug};
use crate::report;
use crate::status::{self, Missing, StoreFacts};

/// A Secret that is not there may come, and is not watched unless a label says so.
const MISSING_DELAY: Duration = Duration::from_secs(5);

/// A service that cannot be read does not tell, once it can or is gone, of a store that it never named.
const UNREADABLE_DELAY: Duration = Duration::from_secs(5);

pub(crate) async fn reconcile(
    store: Arc<StatefulStore>,
    ctx: Arc<Context>,
) -> Result<Action, Error> {
    let namespace = store.namespace().unwrap_or_default();
    let uid = store.uid().unwrap_or_default();
    if ctx.reported.is_news_for(&*store, Instant::now()) {
        return Ok(Action::requeue(AGAIN_DELAY));
    }
    let settings = ctx.live.now();
    let is_going = store.metadata.deletion_timestamp.is_some();
    let is_left_alone = ctx.caches.is_opted_out(&namespace);
    let mut dependents: Vec<_> =
        dependents(&ctx, &store).into_iter().map(|service| service.name).collect();
    // The same words for the same services.
    dependents.sort();

    // Any of them may name it.
    let unreadable = ctx.malformed.services(&namespace);
    let is_protected = settings.protect_stores == Switch::On;
    // Where we leave all alone, the guard may be another operator's.
    if !is_left_alone {
        let is_used = !dependents.is_empty() || !unreadable.is_empty();
        let is_used = is_used && !planted::is(Bug::StoreUnguarded);
        let is_guarded = is_protected && (!is_going || is_used);
        if guard(&ctx, &store, is_guarded).await? {
            ctx.failures.forget(&uid);
            return Ok(Action::await_change());
        }
    }
    let is_held_up = is_going && is_protected && has_guard(&store);
    if is_left_alone || is_going && !is_held_up {
        ctx.failures.forget(&uid);
        return Ok(Action::await_change());
    }

    let missing = missing(&ctx, &store).await;
    let failed = match &missing {
        Err(error) if !is_lasting(&ctx, &*store, error) => {
            return missing.map(|_| Action::await_change());
        }
        Err(error) => Some(error),
        Ok(_) => None,
    };
    let facts = StoreFacts {
        missing: missing.as_ref().ok().and_then(Option::as_ref),
        failed,
        dependents: &dependents,
        unreadable: &unreadable,
    };
    let status = status::of_store(&store, &facts, Timestamp::now());
    report::report(&ctx, &*store, status).await?;
    let missing = missing?;
    ctx.failures.forget(&uid);
    Ok(match missing {
        Some(_) => Action::requeue(MISSING_DELAY),
        None if is_held_up && !unreadable.is_empty() => Action::requeue(UNREADABLE_DELAY),
        None if ctx.secrets.are_read(&settings, Some(&namespace)) => {
            Action::requeue(settings.resync.mul_f64(1.0 + 0.5 * spread(&uid, 0)))
        }
        None => Action::await_change(),
    })
}

fn has_guard(store: &StatefulStore) -> bool {
    store.finalizers().iter().any(|each| each == STORE_FINALIZER)
}

/// Sees to it that the store waits for us when it is deleted, or does not. Says whether that took a write,
/// of which the watch will tell.
async fn guard(ctx: &Context, store: &StatefulStore, is_wanted: bool) -> Result<bool, Error> {
    if has_guard(store) == is_wanted || is_wanted && store.metadata.deletion_timestamp.is_some() {
        return Ok(false);
    }
    let mut finalizers = store.finalizers().to_vec();
    if is_wanted {
        finalizers.push(STORE_FINALIZER.to_owned());
    } else {
        finalizers.retain(|each| each != STORE_FINALIZER);
    }
    let name = store.name_any();
    let patch = Patch::Merge(json!({ "metadata": {
        "uid": store.uid(), "resourceVersion": store.resource_version(), "finalizers": finalizers,
    }}));
    let parameters =
        PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let namespace = store.namespace().unwrap_or_default();
    let api = Api::<StatefulStore>::namespaced(ctx.client.clone(), &namespace);
    let patched = api.patch_metadata(&name, &parameters, &patch);
    match ctx.calls.write("patch", "StatefulStore", &name, patched).await {
        Ok(_) => info!(namespace, name, is_wanted, "guard of the store"),
        // Gone, or another than the one that was looked at: the watch will tell.
        Err(error) if error.refusal().is_some_and(|status| [404, 409].contains(&status.code)) => {}
        // Another operator's, or of a setting that took the right along.
        Err(error) if !is_wanted && error.is_forbidden() => {
            warn!(namespace, name, error = %Chain(&error), "guard of the store is left");
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    Ok(true)
}

/// The first Secret or key that the store names and that is not there, where we are to look.
async fn missing(ctx: &Context, store: &StatefulStore) -> Result<Option<Missing>, Error> {
    let namespace = store.namespace().unwrap_or_default();
    if !ctx.secrets.are_read(&ctx.live.now(), Some(&namespace)) {
        return Ok(None);
    }
    let Ok(known) = validate_store(store) else { return Ok(None) };
    let api = Api::<Secret>::namespaced(ctx.client.clone(), &namespace);
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
