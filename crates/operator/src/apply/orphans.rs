//! Objects that a service, or a namespace, needs no more.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::StatefulService;
use api::contract::{ProxyKind, annotation};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PodSpec, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use tracing::warn;
use translate::settings::{RbacMode, Settings};
use translate::{POD_READER, binding_name, validate};

use super::child::{Child, controller_of, is_managed, is_owned_by};
use super::write::delete;
use super::{Failure, Refusal};
use crate::cache::Mark;
use crate::context::{Caches, Context};
use crate::dereference;
use crate::planted::{self, Bug};

/// Reason of the event on what should go and does not.
const LEFT_BEHIND: &str = "LeftBehind";

/// What a service does not have always, by the names that it has now.
pub(super) struct Kept {
    pub(super) account: Option<String>,
    pub(super) policy: Option<String>,
    pub(super) budget: Option<String>,
}

/// Deletes what belongs to the service and is not among what it has now. Says what was deleted.
pub(super) async fn remove(
    ctx: &Context,
    owner: &StatefulService,
    kept: &Kept,
    deployment: &Deployment,
) -> Result<Vec<String>, Failure> {
    let mut removed = Vec::new();
    if planted::is(Bug::OrphansForgotten) {
        return Ok(removed);
    }
    remove_accounts(ctx, owner, kept.account.as_deref(), deployment, &mut removed).await?;
    remove_kind::<NetworkPolicy>(ctx, owner, kept.policy.as_deref(), &mut removed).await?;
    remove_kind::<PodDisruptionBudget>(ctx, owner, kept.budget.as_deref(), &mut removed).await?;
    Ok(removed)
}

async fn remove_kind<K: Child>(
    ctx: &Context,
    owner: &StatefulService,
    kept: Option<&str>,
    removed: &mut Vec<String>,
) -> Result<(), Failure> {
    for orphan in orphans::<K>(ctx, owner, kept) {
        delete(ctx, &*orphan).await?;
        removed.push(format!("{} {:?}", K::kind(&()), orphan.name_any()));
    }
    Ok(())
}

fn orphans<K: Child>(ctx: &Context, owner: &StatefulService, kept: Option<&str>) -> Vec<Arc<K>> {
    let uid = owner.uid().unwrap_or_default();
    let namespace = owner.metadata.namespace.as_deref();
    let mut found = K::cache(&ctx.caches).find(&[Mark::owner(&uid)]);
    found.retain(|child| is_orphan(child.meta(), namespace, &uid, kept));
    found
}

/// Accounts go when no pod runs as them any more, which takes as long as its rollout and what that waits for.
async fn remove_accounts(
    ctx: &Context,
    owner: &StatefulService,
    kept: Option<&str>,
    deployment: &Deployment,
    removed: &mut Vec<String>,
) -> Result<(), Failure> {
    for orphan in orphans::<ServiceAccount>(ctx, owner, kept) {
        let name = orphan.name_any();
        if is_used(ctx, deployment, &name) {
            continue;
        }
        let is_wanted = ctx.live.now().rbac.dedicated_service_account;
        match take_back(ctx, &*orphan, is_wanted).await? {
            Taken::Back => removed.push(format!("ServiceAccount {name:?}")),
            Taken::Not => {
                let note = format!(
                    "ServiceAccount {name:?} is needed no more, and the operator may not delete it since rbac.dedicated-service-account is off: delete it, or give the operator that right"
                );
                ctx.publisher.warn(&owner.object_ref(&()), LEFT_BEHIND, &note).await;
            }
            Taken::Before => {}
        }
    }
    Ok(())
}

/// Whether pods run as that account, or will when one of them has to be replaced.
fn is_used(ctx: &Context, deployment: &Deployment, account: &str) -> bool {
    let runs_as = |pod: Option<&PodSpec>| {
        pod.and_then(|pod| pod.service_account_name.as_deref()) == Some(account)
    };
    let template = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let pods = || dereference::pods(&ctx.caches, deployment);
    runs_as(template) || pods().iter().any(|pod| runs_as(pod.spec.as_ref()))
}

/// What became of something that is needed no more.
enum Taken {
    Back,
    /// We may not, now that the setting that asked for it is off.
    Not,
    /// The same, and it was found out before.
    Before,
}

/// Deletes what a setting asked for. With the setting the right to do so may have gone.
async fn take_back<K: Child>(ctx: &Context, orphan: &K, is_wanted: bool) -> Result<Taken, Failure> {
    let namespace = orphan.namespace().unwrap_or_default();
    if !is_wanted && ctx.given_up.contains(&namespace) {
        return Ok(Taken::Before);
    }
    match delete(ctx, orphan).await {
        Ok(()) => Ok(Taken::Back),
        Err(Failure::Refused(refusal @ Refusal::Forbidden { .. })) if !is_wanted => {
            warn!(namespace, error = %refusal, "what a setting asked for is left behind");
            ctx.given_up.insert(&namespace);
            Ok(Taken::Not)
        }
        Err(failure) => Err(failure),
    }
}

fn is_orphan(
    metadata: &ObjectMeta,
    namespace: Option<&str>,
    uid: &str,
    kept: Option<&str>,
) -> bool {
    metadata.namespace.as_deref() == namespace
        && metadata.name.as_deref() != kept
        && metadata.deletion_timestamp.is_none()
        && is_managed(metadata)
        && is_owned_by(metadata, uid)
}

/// Whether services have accounts of ours there.
pub(crate) fn has_accounts(caches: &Caches, is_there: impl Fn(&str) -> bool) -> bool {
    let is_ours = |metadata: &ObjectMeta| {
        is_account(metadata) && metadata.namespace.as_deref().is_some_and(&is_there)
    };
    caches.accounts.find(&[]).iter().any(|account| is_ours(&account.metadata))
}

/// Whether an account is one that we made for a service.
pub(crate) fn is_account(metadata: &ObjectMeta) -> bool {
    is_managed(metadata)
        && metadata.deletion_timestamp.is_none()
        && controller_of(metadata).is_some_and(|owner| owner.kind == "StatefulService")
}

/// Where we have given rights.
pub(crate) fn namespaces_with_rights(caches: &Caches) -> BTreeSet<String> {
    let bindings = caches.bindings.find(&[]);
    let roles = caches.roles.find(&[]);
    let bindings = bindings.iter().map(|binding| &binding.metadata);
    let roles = roles.iter().map(|role| &role.metadata);
    let ours = bindings.chain(roles).filter(|metadata| is_managed(metadata));
    ours.filter_map(|metadata| metadata.namespace.clone()).collect()
}

/// Takes back rights to read pods from accounts that no service of the namespace uses any more. What a
/// namespace has that we are to leave alone stays.
pub(crate) async fn take_back_rights(ctx: &Context, namespace: &str) -> Result<(), Failure> {
    if ctx.caches.is_opted_out(namespace) {
        return Ok(());
    }
    let in_namespace = |metadata: &ObjectMeta| {
        metadata.namespace.as_deref() == Some(namespace)
            && metadata.deletion_timestamp.is_none()
            && is_managed(metadata)
    };
    let marks = [Mark::namespace(namespace)];
    let mut bindings = ctx.caches.bindings.find(&marks);
    bindings.retain(|binding| in_namespace(&binding.metadata));
    let mut roles = ctx.caches.roles.find(&marks);
    roles.retain(|role| in_namespace(&role.metadata));
    if bindings.is_empty() && roles.is_empty() || planted::is(Bug::RightsKept) {
        return Ok(());
    }
    let services = ctx.caches.services.references(&marks);
    let is_wanted = ctx.live.now().has_jvm();
    let settings = ctx.live.now().for_objects(&ctx.namespace);
    let Some(needed) = needed_rights(ctx, &settings, &services) else { return Ok(()) };
    let mut role_is_used = false;
    for binding in bindings {
        let name = binding.name_any();
        if name.starts_with(&binding_name("")) && !needed.contains(&name) {
            take_back(ctx, &*binding, is_wanted).await?;
        } else {
            role_is_used |= binding.role_ref.kind == "Role" && binding.role_ref.name == POD_READER;
        }
    }
    for role in roles.iter().filter(|role| role.name_any() == POD_READER) {
        let is_needed = !needed.is_empty() && settings.rbac.mode == RbacMode::Role;
        if !is_needed && !role_is_used {
            take_back(ctx, &**role, is_wanted).await?;
        }
    }
    Ok(())
}

/// The names of the RoleBindings that these services need; nothing when it cannot be told. While a service
/// is paused, or waits for its turn, its pods are others than it says now.
fn needed_rights(
    ctx: &Context,
    settings: &Settings,
    services: &[ObjectRef<StatefulService>],
) -> Option<BTreeSet<String>> {
    let mut needed = BTreeSet::new();
    for service in services {
        // One after the other: all of them at once may be many.
        let Some(service) = ctx.caches.services.get(service) else { continue };
        // What cannot be translated now may have been once, and its pods run.
        let inputs = dereference::inputs(ctx, &service);
        let plan = validate(settings, &service, &inputs).ok()?;
        if plan.kind() == ProxyKind::Jvm {
            needed.insert(binding_name(plan.service_account()));
        }
        if let Some(deployment) = dereference::deployment(&ctx.caches, &service) {
            let template = deployment.spec.as_ref().map(|spec| &spec.template);
            needed.extend(
                template.and_then(|template| {
                    right_of(template.metadata.as_ref(), template.spec.as_ref())
                }),
            );
            let pods = dereference::pods(&ctx.caches, &deployment);
            needed.extend(
                pods.iter().filter_map(|pod| right_of(Some(&pod.metadata), pod.spec.as_ref())),
            );
        }
    }
    Some(needed)
}

/// The name of the RoleBinding that those pods need, unless they are known to need none.
fn right_of(metadata: Option<&ObjectMeta>, pod: Option<&PodSpec>) -> Option<String> {
    let annotations = metadata.and_then(|metadata| metadata.annotations.as_ref());
    let protocol = annotations.and_then(|all| all.get(annotation::CLUSTER_PROTOCOL));
    if protocol.is_some_and(|protocol| protocol == ProxyKind::Native.protocol()) {
        return None;
    }
    let account = pod.and_then(|pod| pod.service_account_name.as_deref());
    Some(binding_name(account.filter(|name| !name.is_empty()).unwrap_or("default")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(name: &str, uid: &str, managed_by: &str) -> ObjectMeta {
        let metadata = json!({
            "name": name, "namespace": "shop",
            "labels": { "app.kubernetes.io/managed-by": managed_by },
            "ownerReferences": [{
                "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulService", "name": "cart",
                "uid": uid, "controller": true,
            }],
        });
        serde_json::from_value(metadata).unwrap()
    }

    #[test]
    fn only_what_is_ours_and_not_wanted_is_an_orphan() {
        let is = |metadata: &ObjectMeta, kept| is_orphan(metadata, Some("shop"), "u", kept);
        let ours = metadata("cart", "u", "cloudstate.io");
        assert!(is(&ours, None));
        assert!(is(&ours, Some("other")));
        assert!(!is(&ours, Some("cart")));
        assert!(!is(&metadata("cart", "another", "cloudstate.io"), None));
        assert!(!is(&metadata("cart", "u", "helm"), None));
        assert!(!is_orphan(&ours, Some("stock"), "u", None));
    }
}
