//! Whose an object is, before it is touched.

use std::sync::Arc;

use api::StatefulService;
use api::contract::{FIELD_MANAGER, GROUP, label};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tracing::info;

use super::child::{Child, controller_of, label_of};
use super::{Failure, Refusal};
use crate::context::Context;

pub(super) type Live<K> = Option<Arc<K>>;

/// The object as last seen, after a look at whom it belongs to. What is not in the cache may still
/// exist without our labels, and a forced apply would take it over: so the API server is asked.
pub(super) async fn look<K: Child>(
    ctx: &Context,
    owner: &StatefulService,
    name: &str,
) -> Result<Live<K>, Failure> {
    let namespace = owner.namespace().unwrap_or_default();
    let uid = owner.uid().unwrap_or_default();
    if let Some(live) = K::cache(&ctx.caches).get(&ObjectRef::new(name).within(&namespace)) {
        if K::is_owned_by(live.meta(), &uid) {
            return Ok(Some(live));
        }
        return Err(not_ours::<K>(ctx, owner, live.meta()).await);
    }
    let kind = K::kind(&());
    let api = Api::<K>::namespaced(ctx.client.clone(), &namespace);
    let unseen = ctx.calls.read("get", &kind, name, api.get_metadata_opt(name)).await;
    match unseen.map_err(|error| Failure::of("get", error, &kind, name))? {
        None => Ok(None),
        Some(unseen) if K::is_owned_by(&unseen.metadata, &uid) => {
            look_again(ctx, owner, name).await
        }
        Some(unseen) => Err(not_ours::<K>(ctx, owner, &unseen.metadata).await),
    }
}

/// The object as the API server has it, whatever the cache says.
pub(super) async fn look_again<K: Child>(
    ctx: &Context,
    owner: &StatefulService,
    name: &str,
) -> Result<Live<K>, Failure> {
    let namespace = owner.namespace().unwrap_or_default();
    let kind = K::kind(&());
    let api = Api::<K>::namespaced(ctx.client.clone(), &namespace);
    let found = ctx.calls.read("get", &kind, name, api.get_opt(name)).await;
    match found.map_err(|error| Failure::of("get", error, &kind, name))? {
        Some(found) if !K::is_owned_by(found.meta(), &owner.uid().unwrap_or_default()) => {
            Err(not_ours::<K>(ctx, owner, found.meta()).await)
        }
        found => Ok(found.map(Arc::new)),
    }
}

/// Adopts the object if its owner is a former self of ours, as after a restore from a backup; says no
/// otherwise.
async fn not_ours<K: Child>(
    ctx: &Context,
    owner: &StatefulService,
    metadata: &ObjectMeta,
) -> Failure {
    let (kind, name) = (K::kind(&()), metadata.name.clone().unwrap_or_default());
    let refusal = || {
        Failure::Refused(Refusal::NotOwned {
            kind: kind.clone().into_owned(),
            name: name.clone(),
            owner: describe_owner::<K>(metadata),
        })
    };
    let Some(former) = former_self(owner, metadata).filter(|_| !K::IS_SHARED) else {
        return refusal();
    };
    // The service that we know may itself be gone by now, and another of its name be the owner.
    let service = owner.name_any();
    let namespace = owner.namespace().unwrap_or_default();
    let api = Api::<StatefulService>::namespaced(ctx.client.clone(), &namespace);
    let now =
        ctx.calls.read("get", "StatefulService", &service, api.get_metadata_opt(&service)).await;
    match now {
        Ok(Some(now)) if now.metadata.uid == owner.metadata.uid => {}
        Ok(_) => return Failure::Again,
        Err(error) => return Failure::of("get", error, "StatefulService", &service),
    }
    let patch = json!({ "metadata": {
        "uid": metadata.uid,
        "resourceVersion": metadata.resource_version,
        "ownerReferences": [{ "$patch": "delete", "uid": former.uid }, reference(owner)],
    }});
    let api = Api::<K>::namespaced(ctx.client.clone(), &namespace);
    let parameters =
        PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Strategic(patch);
    let adopted = api.patch(&name, &parameters, &patch);
    match ctx.calls.write("patch", &kind, &name, adopted).await {
        Ok(_) => {
            info!(%kind, namespace, name, former = former.uid, "adopted");
            let note = format!(
                "{kind} {name:?} belonged to a StatefulService of this name that is gone (uid {}), and belongs to this one now",
                former.uid
            );
            ctx.publisher.tell(&owner.object_ref(&()), "Adopted", &note).await;
            Failure::Again
        }
        Err(error) if error.is_conflict() => Failure::Again,
        Err(error) => Failure::of("patch", error, &kind, &name),
    }
}

/// The owner that the object names, if that is a StatefulService of our name but of another uid. Of one
/// name there is one at a time.
fn former_self<'a>(
    owner: &StatefulService,
    metadata: &'a ObjectMeta,
) -> Option<&'a OwnerReference> {
    let name = owner.name_any();
    controller_of(metadata).filter(|former| {
        former.kind == StatefulService::kind(&())
            && former.api_version.split('/').next() == Some(GROUP)
            && former.name == name
            && label_of(metadata, label::STATEFUL_SERVICE) == Some(&name)
            && metadata.deletion_timestamp.is_none()
    })
}

fn reference(owner: &StatefulService) -> OwnerReference {
    OwnerReference {
        block_owner_deletion: Some(true),
        ..owner.controller_owner_ref(&()).unwrap_or_default()
    }
}

fn describe_owner<K: Child>(metadata: &ObjectMeta) -> String {
    if K::IS_SHARED {
        return format!("it lacks the label {}: {}", label::MANAGED_BY, label::MANAGED_BY_VALUE);
    }
    controller_of(metadata).map_or_else(
        || "it has no controlling owner".to_owned(),
        |other| format!("its controller is {} {:?} with uid {}", other.kind, other.name, other.uid),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn owner() -> StatefulService {
        let service = json!({
            "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulService",
            "metadata": { "name": "cart", "namespace": "shop", "uid": "new" },
            "spec": { "containers": [{ "image": "a" }] },
        });
        serde_json::from_value(service).unwrap()
    }

    fn is_former_self(kind: &str, name: &str, label: &str, deleted: &Value) -> bool {
        let metadata = json!({
            "name": "cart-deployment",
            "labels": { "cloudstate.io/statefulService": label },
            "deletionTimestamp": deleted,
            "ownerReferences": [{
                "apiVersion": "cloudstate.io/v1alpha1", "kind": kind, "name": name, "uid": "old",
                "controller": true,
            }],
        });
        let metadata: ObjectMeta = serde_json::from_value(metadata).unwrap();
        former_self(&owner(), &metadata).is_some()
    }

    #[test]
    fn only_what_a_former_self_left_is_adopted() {
        let no = &Value::Null;
        assert!(is_former_self("StatefulService", "cart", "cart", no));
        assert!(!is_former_self("Other", "cart", "cart", no));
        assert!(!is_former_self("StatefulService", "stock", "cart", no));
        assert!(!is_former_self("StatefulService", "cart", "stock", no));
        assert!(!is_former_self("StatefulService", "cart", "cart", &json!("2026-01-01T00:00:00Z")));
    }
}
