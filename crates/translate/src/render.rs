//! From a plan to objects. Cannot fail, cannot wait.

mod deployment;
mod service;
mod user_container;

use std::collections::BTreeMap;

use api::StatefulService;
use api::contract::label;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

use crate::{Plan, Settings};

/// The volume with the files for TLS to Postgres.
pub(crate) const SSL_VOLUME: &str = "postgres-ssl";

/// What a service becomes.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// The address of the service.
    pub service: Service,
    /// Its pods.
    pub deployment: Deployment,
}

/// Renders everything that the plan asks for.
pub fn render(settings: &Settings, plan: &Plan) -> Objects {
    Objects { service: service::render(plan), deployment: deployment::render(settings, plan) }
}

/// Name of the Deployment of the service of that name.
pub fn deployment_name(service: &str) -> String {
    format!("{service}-deployment")
}

/// What selects the pods of the service with that uid.
pub fn selector(uid: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(label::STATEFUL_SERVICE_UID.to_owned(), uid.to_owned())])
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
