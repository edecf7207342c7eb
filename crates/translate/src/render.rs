//! From a plan to objects. Cannot fail, cannot wait.

mod account;
mod deployment;
mod disruption_budget;
mod network_policy;
mod pod;
mod service;
mod user_container;

use std::collections::BTreeMap;

use api::StatefulService;
use api::contract::label;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use serde::Serialize;

use crate::settings::Settings;
use crate::{Plan, sidecar};

pub use self::account::{POD_READER, binding_name};
pub(crate) use self::pod::SSL_VOLUME;
pub(crate) use self::user_container::{LOG_VOLUME, mounts_log_volume};

/// What a service becomes, in the order in which it is to be applied: rights before the pods that need
/// them, and the address and its guards before what they stand for.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// What the pods run as, where they have an account of their own.
    pub service_account: Option<Box<ServiceAccount>>,
    /// The right to read pods. Owned by nobody: all services of the namespace share it.
    pub role: Option<Box<Role>>,
    /// Gives that right to what the pods run as. Owned by nobody: all services with that account share it.
    pub role_binding: Option<Box<RoleBinding>>,
    /// The address of the service.
    pub service: Box<Service>,
    /// Who may connect to the pods.
    pub network_policy: Option<Box<NetworkPolicy>>,
    /// How many pods may be taken away at once.
    pub disruption_budget: Option<Box<PodDisruptionBudget>>,
    /// The pods.
    pub deployment: Box<Deployment>,
}

/// One of [`Objects`]. Serializes as the object that it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "each is the Kubernetes kind of that name")]
pub enum Object {
    ServiceAccount(Box<ServiceAccount>),
    Role(Box<Role>),
    RoleBinding(Box<RoleBinding>),
    Service(Box<Service>),
    NetworkPolicy(Box<NetworkPolicy>),
    PodDisruptionBudget(Box<PodDisruptionBudget>),
    Deployment(Box<Deployment>),
}

impl IntoIterator for Objects {
    type Item = Object;
    type IntoIter = std::vec::IntoIter<Object>;

    /// In the order in which they are to be applied.
    fn into_iter(self) -> Self::IntoIter {
        let mut all = Vec::new();
        all.extend(self.service_account.map(Object::ServiceAccount));
        all.extend(self.role.map(Object::Role));
        all.extend(self.role_binding.map(Object::RoleBinding));
        all.push(Object::Service(self.service));
        all.extend(self.network_policy.map(Object::NetworkPolicy));
        all.extend(self.disruption_budget.map(Object::PodDisruptionBudget));
        all.push(Object::Deployment(self.deployment));
        all.into_iter()
    }
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ServiceAccount(_) => "ServiceAccount",
            Self::Role(_) => "Role",
            Self::RoleBinding(_) => "RoleBinding",
            Self::Service(_) => "Service",
            Self::NetworkPolicy(_) => "NetworkPolicy",
            Self::PodDisruptionBudget(_) => "PodDisruptionBudget",
            Self::Deployment(_) => "Deployment",
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::ServiceAccount(object) => &object.metadata,
            Self::Role(object) => &object.metadata,
            Self::RoleBinding(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::NetworkPolicy(object) => &object.metadata,
            Self::PodDisruptionBudget(object) => &object.metadata,
            Self::Deployment(object) => &object.metadata,
        }
    }
}

/// Renders everything that the plan asks for.
pub fn render(settings: &Settings, plan: &Plan) -> Objects {
    let sidecar = sidecar::container(settings, plan);
    Objects {
        service_account: account::service_account(plan).map(Box::new),
        role: account::role(settings, plan).map(Box::new),
        role_binding: account::role_binding(settings, plan).map(Box::new),
        service: Box::new(service::render(settings, plan)),
        network_policy: network_policy::render(settings, plan).map(Box::new),
        disruption_budget: disruption_budget::render(plan).map(Box::new),
        deployment: Box::new(deployment::render(settings, plan, sidecar)),
    }
}

/// Name of the Deployment of the service of that name.
pub fn deployment_name(service: &str) -> String {
    format!("{service}-deployment")
}

/// What every pod of the service with that uid carries, whatever its Deployment selects by.
pub fn selector(uid: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(label::STATEFUL_SERVICE_UID.to_owned(), uid.to_owned())])
}

/// Metadata of an object that goes with the service.
fn owned(plan: &Plan, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(plan.namespace.clone()),
        labels: Some(labels(plan)),
        owner_references: Some(vec![owner(plan)]),
        ..ObjectMeta::default()
    }
}

/// The labels of everything that belongs to the service.
fn labels(plan: &Plan) -> BTreeMap<String, String> {
    let mut labels = plan.labels.clone();
    labels.entry(label::APP.to_owned()).or_insert_with(|| plan.name.clone());
    let ours = [
        (label::STATEFUL_SERVICE, plan.name.as_str()),
        (label::STATEFUL_SERVICE_UID, plan.uid.as_str()),
        (label::MANAGED_BY, label::MANAGED_BY_VALUE),
    ];
    let store = plan.store.as_ref().map(|binding| (label::STATEFUL_STORE, binding.name.as_str()));
    for (key, value) in ours.into_iter().chain(store) {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

fn owner(plan: &Plan) -> OwnerReference {
    OwnerReference {
        api_version: StatefulService::api_version(&()).into_owned(),
        kind: StatefulService::kind(&()).into_owned(),
        name: plan.name.clone(),
        uid: plan.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Only the tag `latest` says that the same name may mean another image tomorrow.
pub(crate) fn pull_policy(image: &str) -> String {
    if image.ends_with(":latest") { "Always" } else { "IfNotPresent" }.to_owned()
}
