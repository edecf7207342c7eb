//! The Deployment: how many pods there are, and how one template gives way to the next.

use std::collections::BTreeMap;

use api::contract::{annotation, port};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{deployment_name, labels, owned, pod};
use crate::plan::Place;
use crate::settings::Settings;
use crate::{Known, Plan};

pub(super) fn render(settings: &Settings, plan: &Plan, sidecar: Container) -> Deployment {
    let annotations = annotations(plan);
    Deployment {
        metadata: ObjectMeta {
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..owned(plan, deployment_name(&plan.name))
        },
        spec: Some(DeploymentSpec {
            replicas: Some(plan.replicas),
            strategy: Some(strategy(plan)),
            selector: LabelSelector {
                match_labels: Some(plan.selector.clone()),
                ..LabelSelector::default()
            },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels(plan)),
                    annotations: Some(pod_annotations(settings, plan)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod::render(plan, sidecar)),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn annotations(plan: &Plan) -> BTreeMap<String, String> {
    let mut annotations = plan.annotations.clone();
    if plan.is_replacing {
        annotations.insert(annotation::REPLACING.to_owned(), "true".to_owned());
    }
    if let Some(replicas) = plan.initial_replicas {
        annotations.insert(annotation::INITIAL_REPLICAS.to_owned(), replicas.to_string());
    }
    if plan.place == Place::Stripped {
        annotations.insert(annotation::SIDECAR_STRIPPED.to_owned(), "true".to_owned());
    }
    annotations
}

/// How one template gives way to the next. Said in full even where it is the default: server-side apply
/// takes away only what we said before, and `Recreate` cannot stand beside a `rollingUpdate` of the API
/// server's own.
fn strategy(plan: &Plan) -> DeploymentStrategy {
    let recreate =
        || DeploymentStrategy { type_: Some("Recreate".to_owned()), rolling_update: None };
    let roll = |max_surge, max_unavailable| DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(max_surge),
            max_unavailable: Some(max_unavailable),
        }),
    };
    if plan.is_replacing {
        return recreate();
    }
    match plan.store.as_ref().map(|binding| &binding.store) {
        // Two memories must never answer side by side.
        Some(Known::InMemory) => recreate(),
        // The new pod asks the old one for its entities, and is ready once they are handed over.
        Some(Known::Postgres(_) | Known::Cassandra(_)) => {
            roll(IntOrString::Int(1), IntOrString::Int(0))
        }
        None => {
            let quarter = IntOrString::String("25%".to_owned());
            roll(quarter.clone(), quarter)
        }
    }
}

/// What the Deployment carries, what the user adds, and whatever else it selects by.
fn pod_labels(plan: &Plan) -> BTreeMap<String, String> {
    let mut labels = labels(plan);
    labels.extend(plan.spec.pod_labels.clone());
    labels.extend(plan.selector.clone());
    labels
}

fn pod_annotations(settings: &Settings, plan: &Plan) -> BTreeMap<String, String> {
    let mut annotations = plan.annotations.clone();
    annotations.extend(plan.spec.pod_annotations.clone());
    annotations.insert(annotation::CLUSTER_PROTOCOL.to_owned(), plan.kind.protocol().to_owned());
    if settings.proxy.istio_annotations {
        // Service meshes: only calls come in, and what proxies say to each other is not to be captured.
        annotations.insert(
            "traffic.sidecar.istio.io/includeInboundPorts".to_owned(),
            port::PROXY.to_string(),
        );
        annotations.insert(
            "traffic.sidecar.istio.io/excludeOutboundPorts".to_owned(),
            outbound_around_meshes(plan),
        );
    }
    // What is said for the pods alone is meant, whatever we would say.
    annotations.extend(plan.spec.pod_annotations.clone());
    annotations
}

fn outbound_around_meshes(plan: &Plan) -> String {
    let store = plan.store.as_ref().and_then(|binding| binding.store.port());
    let ports = [port::REMOTING, port::MANAGEMENT].into_iter().chain(store);
    ports.map(|port| port.to_string()).collect::<Vec<_>>().join(",")
}
