//! The Deployment: pods of user function and sidecar.

use std::collections::BTreeMap;

use api::contract::port;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, PodSpec, PodTemplateSpec, SecretVolumeSource, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::user_container::{self, LOG_VOLUME};
use super::{SSL_VOLUME, deployment_name, labels, owner, selector};
use crate::{Binding, Known, Plan, Settings, sidecar};

/// Where Postgres listens unless the store says otherwise.
const POSTGRES_PORT: u16 = 5432;

pub(super) fn render(settings: &Settings, plan: &Plan) -> Deployment {
    let labels = labels(plan);
    Deployment {
        metadata: ObjectMeta {
            name: Some(deployment_name(&plan.name)),
            namespace: Some(plan.namespace.clone()),
            labels: Some(labels.clone()),
            annotations: (!plan.annotations.is_empty()).then(|| plan.annotations.clone()),
            owner_references: Some(vec![owner(plan)]),
            ..ObjectMeta::default()
        },
        spec: Some(DeploymentSpec {
            replicas: Some(plan.replicas),
            strategy: strategy(plan),
            selector: LabelSelector {
                match_labels: Some(selector(&plan.uid)),
                ..LabelSelector::default()
            },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    annotations: Some(pod_annotations(plan)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(settings, plan)),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// How one template gives way to the next.
fn strategy(plan: &Plan) -> Option<DeploymentStrategy> {
    match &plan.store.as_ref()?.store {
        // Two memories must never answer side by side.
        Known::InMemory => Some(DeploymentStrategy {
            type_: Some("Recreate".to_owned()),
            ..DeploymentStrategy::default()
        }),
        // The new pod asks the old one for its entities, and is ready once they are handed over.
        Known::Postgres(_) => Some(DeploymentStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(IntOrString::Int(1)),
                max_unavailable: Some(IntOrString::Int(0)),
            }),
        }),
    }
}

fn pod(settings: &Settings, plan: &Plan) -> PodSpec {
    let mut containers =
        vec![user_container::user_function(plan), sidecar::container(settings, plan)];
    containers.extend(plan.extra.iter().cloned().map(user_container::extra));
    PodSpec {
        containers,
        volumes: Some(volumes(plan)),
        service_account_name: plan.service_account_name.clone(),
        node_selector: (!plan.node_selector.is_empty()).then(|| plan.node_selector.clone()),
        tolerations: (!plan.tolerations.is_empty()).then(|| plan.tolerations.clone()),
        termination_grace_period_seconds: plan.termination_grace_period_seconds,
        // A Service called e.g. `http` would put HTTP_PORT=tcp://... into the sidecar.
        enable_service_links: Some(false),
        ..PodSpec::default()
    }
}

/// Service meshes: only calls come in, and what proxies say to each other is not to be captured.
fn pod_annotations(plan: &Plan) -> BTreeMap<String, String> {
    let mut annotations = plan.annotations.clone();
    annotations
        .insert("traffic.sidecar.istio.io/includeInboundPorts".to_owned(), port::PROXY.to_string());
    annotations.insert(
        "traffic.sidecar.istio.io/excludeOutboundPorts".to_owned(),
        outbound_around_meshes(plan),
    );
    annotations
}

fn outbound_around_meshes(plan: &Plan) -> String {
    let mut ports = vec![port::REMOTING, port::MANAGEMENT];
    if let Some(Binding { store: Known::Postgres(postgres), .. }) = &plan.store {
        ports.push(postgres.port.unwrap_or(POSTGRES_PORT));
    }
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn volumes(plan: &Plan) -> Vec<Volume> {
    let mut volumes = plan.volumes.clone();
    if user_container::mounts_our_log_volume(plan)
        && volumes.iter().all(|volume| volume.name != LOG_VOLUME)
    {
        volumes.push(Volume {
            name: LOG_VOLUME.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        });
    }
    if let Some(secret) =
        plan.store.as_ref().and_then(Binding::tls).and_then(|tls| tls.secret.as_ref())
    {
        volumes.push(Volume {
            name: SSL_VOLUME.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.clone()),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    volumes
}
