//! The Deployment: pods of user function and sidecar.

use std::collections::BTreeMap;

use api::contract::port;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::user_container::{self, LOG_VOLUME};
use super::{deployment_name, labels, owner, selector};
use crate::{Plan, Settings, sidecar};

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
        format!("{},{}", port::REMOTING, port::MANAGEMENT),
    );
    annotations
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
    volumes
}
