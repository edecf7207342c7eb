//! The kinds of objects that a service becomes.

use std::fmt::Debug;

use api::contract::label;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

use crate::cache::{Cache, Cached};
use crate::context::Caches;
use crate::planted::{self, Bug};

/// An object that a service may become.
pub(crate) trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Cached + Debug
{
    /// Whether all services of a namespace share it, so that it belongs to none of them.
    const IS_SHARED: bool = false;

    /// What is known of this kind.
    fn cache(caches: &Caches) -> &Cache<Self>;

    /// Whether the one cannot be changed into the other.
    fn is_stuck_at(_live: &Self, _wanted: &Self) -> bool {
        false
    }

    /// Whether the object belongs to the service with that uid.
    fn is_owned_by(metadata: &ObjectMeta, uid: &str) -> bool {
        if planted::is(Bug::OwnershipSkipped) {
            return true;
        }
        if Self::IS_SHARED { is_managed(metadata) } else { is_owned_by(metadata, uid) }
    }
}

impl Child for Deployment {
    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.deployments
    }
}

impl Child for Service {
    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.addresses
    }
}

impl Child for ServiceAccount {
    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.accounts
    }
}

impl Child for NetworkPolicy {
    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.policies
    }
}

impl Child for PodDisruptionBudget {
    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.budgets
    }
}

impl Child for Role {
    const IS_SHARED: bool = true;

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.roles
    }
}

impl Child for RoleBinding {
    const IS_SHARED: bool = true;

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.bindings
    }

    fn is_stuck_at(live: &Self, wanted: &Self) -> bool {
        live.role_ref != wanted.role_ref && !planted::is(Bug::RoleRefPatched)
    }
}

/// Whether the object is controlled by the one with that uid.
pub(crate) fn is_owned_by(metadata: &ObjectMeta, uid: &str) -> bool {
    controller_of(metadata).is_some_and(|owner| owner.uid == uid)
}

pub(crate) fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether the object carries our mark.
pub(crate) fn is_managed(metadata: &ObjectMeta) -> bool {
    label_of(metadata, label::MANAGED_BY) == Some(label::MANAGED_BY_VALUE)
}

pub(crate) fn label_of<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(key).map(String::as_str)
}
