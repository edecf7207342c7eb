//! Every write of objects: server-side apply, and only when something differs.

use std::fmt::Debug;
use std::sync::Arc;

use api::StatefulService;
use api::condition::reason;
use api::contract::{FIELD_MANAGER, annotation};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::info;
use translate::Objects;

use crate::context::Context;
use crate::drift;
use crate::error::{Error, call};
use crate::text::tidy;

/// Messages of the API server can quote whole objects.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What the API server has now.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) deployment: Arc<Deployment>,
    /// Whether the Deployment had to be written.
    pub(crate) wrote: bool,
}

/// Why objects are not as they should be, in a way that trying again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "{kind} {name:?} exists and does not belong to this StatefulService ({owner}): delete it, or give the service another name"
    )]
    NotOwned { kind: String, name: String, owner: String },
    #[error("the API server refuses {kind} {name:?}, which comes out of this spec: {message}")]
    Rejected { kind: String, name: String, message: String },
    #[error("the operator may not write {kind} {name:?}: {message}")]
    Forbidden { kind: String, name: String, message: String },
}

impl Refusal {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotOwned { .. } => reason::NOT_OWNED,
            Self::Rejected { .. } => reason::REJECTED,
            Self::Forbidden { .. } => reason::FORBIDDEN,
        }
    }

    fn of(error: Error, kind: &str, name: &str) -> Result<Self, Error> {
        let Some(status) = error.refusal() else { return Err(error) };
        let (kind, name) = (kind.to_owned(), name.to_owned());
        let message = tidy(&status.message, MESSAGE_BYTES_MAX);
        // Server-side apply answers 500 to what it cannot merge.
        let unmergeable = status.message.contains("field not declared in schema")
            || status.message.contains("duplicate entries for key");
        match status.code {
            403 => Ok(Self::Forbidden { kind, name, message }),
            400 | 422 => Ok(Self::Rejected { kind, name, message }),
            500 if unmergeable => Ok(Self::Rejected { kind, name, message }),
            _ => Err(error),
        }
    }
}

/// What went wrong with a write.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Makes the objects be as rendered. Nothing is written while any of them belongs to another.
pub(crate) async fn apply(
    ctx: &Context,
    owner: &StatefulService,
    objects: Objects,
) -> Result<Applied, Failure> {
    let (address, deployment) = live_objects(ctx, owner).await?;
    write(ctx, *objects.service, address).await?;
    let (deployment, wrote) = write(ctx, *objects.deployment, deployment).await?;
    Ok(Applied { deployment, wrote })
}

/// Finds out whether the names that the service needs are free or its own.
pub(crate) async fn check_ownership(ctx: &Context, owner: &StatefulService) -> Result<(), Failure> {
    live_objects(ctx, owner).await.map(|_| ())
}

/// Whether the object is controlled by the one with that uid.
pub(crate) fn is_owned_by(metadata: &ObjectMeta, uid: &str) -> bool {
    controller_of(metadata).is_some_and(|owner| owner.uid == uid)
}

pub(crate) fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

type Live<K> = Option<Arc<K>>;

async fn live_objects(
    ctx: &Context,
    owner: &StatefulService,
) -> Result<(Live<k8s_openapi::api::core::v1::Service>, Live<Deployment>), Failure> {
    let name = owner.name_any();
    let deployment = translate::deployment_name(&name);
    Ok((
        live(ctx, &ctx.caches.addresses, owner, &name).await?,
        live(ctx, &ctx.caches.deployments, owner, &deployment).await?,
    ))
}

/// The object as last seen, after a look at whom it belongs to. What is not in the cache may still
/// exist without our labels, and a forced apply would take it over: so the API server is asked.
async fn live<K>(
    ctx: &Context,
    cache: &Store<K>,
    owner: &StatefulService,
    name: &str,
) -> Result<Live<K>, Failure>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let namespace = owner.namespace().unwrap_or_default();
    let uid = owner.uid().unwrap_or_default();
    let kind = K::kind(&());
    let refuse = |metadata: &ObjectMeta| Refusal::NotOwned {
        kind: kind.clone().into_owned(),
        name: name.to_owned(),
        owner: controller_of(metadata).map_or_else(
            || "it has no controlling owner".to_owned(),
            |other| {
                format!("its controller is {} {:?} with uid {}", other.kind, other.name, other.uid)
            },
        ),
    };
    if let Some(live) = cache.get(&ObjectRef::new(name).within(&namespace)) {
        if is_owned_by(live.meta(), &uid) {
            return Ok(Some(live));
        }
        return Err(refuse(live.meta()).into());
    }
    let api = Api::<K>::namespaced(ctx.client.clone(), &namespace);
    let unseen = call("get", &kind, name, api.get_metadata_opt(name)).await;
    match unseen {
        Ok(Some(unseen)) if !is_owned_by(&unseen.metadata, &uid) => {
            Err(refuse(&unseen.metadata).into())
        }
        Ok(_) => Ok(None),
        Err(error) => Err(Refusal::of(error, &kind, name)?.into()),
    }
}

/// Makes one object be as wanted, and says whether that took a write.
async fn write<K>(ctx: &Context, mut wanted: K, live: Live<K>) -> Result<(Arc<K>, bool), Failure>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize,
{
    let (kind, name) = (K::kind(&()), wanted.name_any());
    let hash = fingerprint(&to_json(&wanted));
    wanted.annotations_mut().insert(annotation::APPLIED_HASH.to_owned(), hash);
    let wanted_json = to_json(&wanted);

    let namespace = wanted.namespace().unwrap_or_default();
    let api = Api::<K>::namespaced(ctx.client.clone(), &namespace);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    if let Some(live) = live {
        let live_json = to_json(&*live);
        let surplus = drift::surplus(&wanted_json, &live_json);
        if surplus.is_none() && drift::holds(&wanted_json, &live_json) {
            return Ok((live, false));
        }
        if !ctx.pace.allows(format!("{kind}/{namespace}/{name}"), Instant::now()) {
            return Err(Error::Contended { kind: kind.into_owned(), name }.into());
        }
        if let Some(patch) = surplus {
            info!(%kind, namespace, name, "additions by others are removed");
            let parameters = PatchParams { force: false, ..parameters.clone() };
            let patch = Patch::Strategic(patch);
            call("patch", &kind, &name, api.patch(&name, &parameters, &patch))
                .await
                .or_else(|error| Err(Failure::from(Refusal::of(error, &kind, &name)?)))?;
        }
    }
    let applied =
        call("apply", &kind, &name, api.patch(&name, &parameters, &Patch::Apply(&wanted)))
            .await
            .or_else(|error| Err(Failure::from(Refusal::of(error, &kind, &name)?)))?;
    info!(%kind, namespace, name, resource_version = applied.resource_version(), "applied");
    Ok((Arc::new(applied), true))
}

fn to_json(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("Kubernetes objects are made of JSON")
}

/// Tells two wanted objects apart; keys are sorted, so the same object has the same one.
fn fingerprint(wanted: &Value) -> String {
    let digest = Sha256::digest(wanted.to_string());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str) -> Result<Refusal, Error> {
        let status = kube::core::Status { code, message: message.to_owned(), ..Default::default() };
        let source = Box::new(kube::Error::Api(Box::new(status)));
        let error =
            Error::Call { verb: "apply", kind: "Deployment".into(), name: "a".into(), source };
        Refusal::of(error, "Deployment", "a")
    }

    #[test]
    fn what_a_retry_cannot_cure_is_a_refusal() {
        assert_eq!(refused(422, "bad image").unwrap().reason(), "Rejected");
        assert_eq!(refused(500, "x: field not declared in schema").unwrap().reason(), "Rejected");
        assert_eq!(refused(403, "no").unwrap().reason(), "Forbidden");
        assert!(refused(500, "etcd is gone").is_err());
        assert!(refused(409, "conflict").is_err());
    }
}
