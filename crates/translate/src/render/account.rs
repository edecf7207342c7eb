//! What the pods run as, and what that may do.
//!
//! With our own proxy it may do nothing. Proxies made of jars find each other by listing pods.

use std::collections::BTreeMap;

use api::contract::{ProxyKind, label};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::owned;
use crate::Plan;
use crate::plan::Account;
use crate::settings::{RbacMode, Settings};

/// Name of the Role, or of the ClusterRole that came with the operator, that lets pods be read.
pub const POD_READER: &str = "cloudstate-pod-reader";

/// Name of the RoleBinding that gives [`POD_READER`] to that service account.
pub fn binding_name(service_account: &str) -> String {
    format!("cloudstate-read-pods-{service_account}")
}

pub(super) fn service_account(plan: &Plan) -> Option<ServiceAccount> {
    (plan.account == Account::Dedicated).then(|| ServiceAccount {
        metadata: owned(plan, plan.name.clone()),
        ..ServiceAccount::default()
    })
}

pub(super) fn role(settings: &Settings, plan: &Plan) -> Option<Role> {
    (plan.kind == ProxyKind::Jvm && settings.rbac.mode == RbacMode::Role).then(|| Role {
        metadata: shared(plan, POD_READER.to_owned()),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["pods".to_owned()]),
            verbs: ["get", "watch", "list"].map(str::to_owned).to_vec(),
            ..PolicyRule::default()
        }]),
    })
}

pub(super) fn role_binding(settings: &Settings, plan: &Plan) -> Option<RoleBinding> {
    (plan.kind == ProxyKind::Jvm).then(|| RoleBinding {
        metadata: shared(plan, binding_name(plan.service_account())),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: match settings.rbac.mode {
                RbacMode::Role => "Role",
                RbacMode::Bind => "ClusterRole",
            }
            .to_owned(),
            name: POD_READER.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: plan.service_account().to_owned(),
            namespace: Some(plan.namespace.clone()),
            ..Subject::default()
        }]),
    })
}

/// Metadata of what services share, so that it carries the name of none.
fn shared(plan: &Plan, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(plan.namespace.clone()),
        labels: Some(BTreeMap::from([(
            label::MANAGED_BY.to_owned(),
            label::MANAGED_BY_VALUE.to_owned(),
        )])),
        ..ObjectMeta::default()
    }
}
