//! Objects that a service needs no more.

use std::sync::Arc;

use api::StatefulService;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PodSpec, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use tracing::warn;

use super::child::{Child, controller_of, is_managed, is_owned_by};
use super::write::delete;
use super::{Failure, Refusal};
use crate::cache::Mark;
use crate::context::{Caches, Context};
use crate::dereference;
use crate::planted::{self, Bug};

/// Reason of the event on what should go and does not.
pub(super) const LEFT_BEHIND: &str = "LeftBehind";

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
pub(super) enum Taken {
    Back,
    /// We may not, now that the setting that asked for it is off.
    Not,
    /// The same, and it was found out before.
    Before,
}

/// Deletes what a setting asked for. With the setting the right to do so may have gone.
pub(super) async fn take_back<K: Child>(
    ctx: &Context,
    orphan: &K,
    is_wanted: bool,
) -> Result<Taken, Failure> {
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
