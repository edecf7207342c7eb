//! Makes one object be as wanted.
//!
//! Each write is meant for one version of its object, so one that comes late, from a process that
//! leads no more, is refused as soon as the next leader has written that object.

use std::sync::Arc;

use api::StatefulService;
use api::contract::{FIELD_MANAGER, annotation};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::info;

use super::Failure;
use super::child::Child;
use super::former::Claims;
use super::own::{Live, look_again};
use crate::context::Context;
use crate::drift;
use crate::error::Error;
use crate::origin::{fingerprint, to_json};
use crate::planted::{self, Bug};

/// No object ever has this version. An apply that asks for it creates what is absent, and conflicts
/// with what is there.
const VERSION_OF_NOTHING: &str = "1";

/// What it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrote {
    Nothing,
    Created,
    Changed,
}

/// What a Deployment was made from.
pub(super) struct Note {
    pub(super) origin: String,
    /// Whether what is noted now says something else that matters, so that it is written by itself.
    pub(super) is_outdated: bool,
}

/// Makes one object be as wanted. The note goes on it, and is a reason to write only if it has to be.
pub(super) async fn write<K: Child>(
    ctx: &Context,
    owner: &StatefulService,
    mut wanted: K,
    live: Live<K>,
    note: Option<Note>,
) -> Result<(Arc<K>, Wrote), Failure> {
    let kind = K::kind(&());
    let hash = fingerprint(&wanted);
    wanted.annotations_mut().insert(annotation::APPLIED_HASH.to_owned(), hash);
    let mut compared = to_json(&wanted);
    if let Some(Note { origin, is_outdated }) = note {
        wanted.annotations_mut().insert(annotation::APPLIED_FROM.to_owned(), origin);
        if is_outdated {
            compared = to_json(&wanted);
        }
    }
    let written = match attempt(ctx, &wanted, &compared, live.clone(), true).await {
        // Our cache is behind: the API server has another version, or another object.
        Err(Failure::Failed(error)) if error.is_conflict() => {
            let live = if planted::is(Bug::CacheAfterConflict) {
                live
            } else {
                look_again(ctx, owner, &wanted.name_any()).await?
            };
            attempt(ctx, &wanted, &compared, live, false).await?
        }
        other => other?,
    };
    ctx.metrics.applied(&kind, written.1 != Wrote::Nothing);
    Ok(written)
}

/// Makes the object be what it was, of which all is known.
pub(super) async fn put_back<K: Child>(
    ctx: &Context,
    before: &K,
    live: Arc<K>,
) -> Result<(Arc<K>, Wrote), Failure> {
    match attempt(ctx, before, &to_json(before), Some(live), false).await {
        Err(Failure::Failed(error)) if error.is_conflict() => Err(Failure::Again),
        other => other,
    }
}

async fn attempt<K: Child>(
    ctx: &Context,
    wanted: &K,
    compared: &Value,
    live: Live<K>,
    is_first: bool,
) -> Result<(Arc<K>, Wrote), Failure> {
    let (kind, name) = (K::kind(&()), wanted.name_any());
    let namespace = wanted.namespace().unwrap_or_default();
    let api = Api::<K>::namespaced(ctx.client.clone(), &namespace);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let mut wanted = wanted.clone();

    let live = match live {
        Some(live) if K::is_stuck_at(&live, &wanted) => {
            delete(ctx, &*live).await?;
            None
        }
        live => live,
    };
    let wrote = if let Some(live) = live {
        let live_json = to_json(&*live);
        let surplus = drift::surplus(compared, &live_json);
        let surplus = surplus.filter(|_| !planted::is(Bug::SurplusKept));
        let claims = match Claims::of(live.managed_fields()) {
            _ if planted::is(Bug::FormerClaims) => Claims::Settled,
            claims => claims,
        };
        let is_as_wanted =
            surplus.is_none() && claims == Claims::Settled && drift::holds(compared, &live_json);
        if is_as_wanted && !planted::is(Bug::ApplyEachTime) {
            return Ok((live, Wrote::Nothing));
        }
        if !ctx.pace.allows(format!("{kind}/{namespace}/{name}"), Instant::now()) {
            return Err(Error::Contended { kind: kind.into_owned(), name }.into());
        }
        let mut version = live.resource_version();
        let claims = match claims {
            Claims::Settled | Claims::OfOthers => None,
            Claims::Shared(left) => {
                info!(%kind, namespace, name, "what is applied is claimed by nobody else any more");
                Some(Patch::Merge(json!({ "metadata": { "managedFields": left } })))
            }
        };
        let surplus = surplus.map(|surplus| {
            info!(%kind, namespace, name, "additions by others are removed");
            Patch::Strategic(surplus)
        });
        for patch in claims.into_iter().chain(surplus) {
            version = Some(change(ctx, &api, &live, version, patch).await?);
        }
        wanted.meta_mut().uid = live.uid();
        wanted.meta_mut().resource_version = version;
        Wrote::Changed
    } else {
        // Not all API servers need to know the trick, so it is not insisted on.
        wanted.meta_mut().resource_version = is_first.then(|| VERSION_OF_NOTHING.to_owned());
        Wrote::Created
    };
    let patch = Patch::Apply(&wanted);
    let applied = api.patch(&name, &parameters, &patch);
    let applied = ctx.calls.write("apply", &kind, &name, applied).await;
    let mut applied = applied.map_err(|error| Failure::of("patch", error, &kind, &name))?;
    applied.managed_fields_mut().clear();
    info!(%kind, namespace, name, resource_version = applied.resource_version(), "applied");
    Ok((Arc::new(applied), wrote))
}

/// Changes that version of the object, and says which one it is then.
async fn change<K: Child>(
    ctx: &Context,
    api: &Api<K>,
    live: &K,
    version: Option<String>,
    patch: Patch<Value>,
) -> Result<String, Failure> {
    let (kind, name) = (K::kind(&()), live.name_any());
    let meant = |mut patch: Value| {
        patch["metadata"]["uid"] = json!(live.uid());
        patch["metadata"]["resourceVersion"] = json!(version);
        patch
    };
    let patch = match patch {
        Patch::Merge(patch) => Patch::Merge(meant(patch)),
        Patch::Strategic(patch) => Patch::Strategic(meant(patch)),
        other => other,
    };
    let parameters =
        PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = api.patch_metadata(&name, &parameters, &patch);
    let patched = ctx.calls.write("patch", &kind, &name, patched).await;
    let patched = patched.map_err(|error| Failure::of("patch", error, &kind, &name))?;
    Ok(patched.resource_version().unwrap_or_default())
}

/// Deletes the object that we know, and no other of its name.
pub(super) async fn delete<K: Child>(ctx: &Context, live: &K) -> Result<(), Failure> {
    let (kind, name) = (K::kind(&()), live.name_any());
    let namespace = live.namespace().unwrap_or_default();
    let api = Api::<K>::namespaced(ctx.client.clone(), &namespace);
    let preconditions =
        Preconditions { uid: live.uid(), resource_version: live.resource_version() };
    let parameters =
        DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match ctx.calls.write("delete", &kind, &name, api.delete(&name, &parameters)).await {
        Ok(_) => {
            info!(%kind, namespace, name, "deleted");
            Ok(())
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(Failure::of("delete", error, &kind, &name)),
    }
}
