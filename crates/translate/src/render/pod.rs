//! The pods: user function, sidecar, and what the spec says of them.

use api::contract;
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, ExecAction, Lifecycle, LifecycleHandler, PodSpec,
    SecretVolumeSource, TopologySpreadConstraint, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::user_container::{self, LOG_VOLUME};
use crate::plan::{Account, Place};
use crate::{Binding, Plan};

/// The volume with the files for TLS to Postgres.
pub(crate) const SSL_VOLUME: &str = "postgres-ssl";

pub(super) fn render(plan: &Plan, sidecar: Container) -> PodSpec {
    let spec = &plan.spec;
    let (init_containers, containers) = containers(plan, sidecar);
    PodSpec {
        init_containers,
        containers,
        volumes: some(volumes(plan)),
        service_account_name: match &plan.account {
            Account::Default => None,
            Account::Named(_) | Account::Dedicated => Some(plan.service_account().to_owned()),
        },
        node_selector: (!spec.node_selector.is_empty()).then(|| spec.node_selector.clone()),
        tolerations: some(spec.tolerations.clone()),
        affinity: spec.affinity.clone(),
        topology_spread_constraints: some(spread(plan)),
        priority_class_name: spec.priority_class_name.clone(),
        image_pull_secrets: some(spec.image_pull_secrets.clone()),
        security_context: spec.pod_security_context.clone(),
        termination_grace_period_seconds: spec.termination_grace_period_seconds,
        // A Service called e.g. `http` would put HTTP_PORT=tcp://... into the sidecar.
        enable_service_links: Some(false),
        ..PodSpec::default()
    }
}

/// Init containers and containers. As an init container that stays, the sidecar is there before the user
/// function starts and after it has stopped.
fn containers(plan: &Plan, mut sidecar: Container) -> (Option<Vec<Container>>, Vec<Container>) {
    let user = user_container::user_function(plan);
    let extra = plan.extra.iter().cloned().map(user_container::extra);
    match plan.place {
        Place::Container | Place::Stripped => {
            (None, [user, sidecar].into_iter().chain(extra).collect())
        }
        Place::InitContainer => {
            sidecar.restart_policy = Some("Always".to_owned());
            sidecar.lifecycle = Some(drain_ahead_of_term());
            (Some(vec![sidecar]), std::iter::once(user).chain(extra).collect())
        }
    }
}

/// TERM reaches such a sidecar once all other containers have ended, and the hook when the pod begins to: so calls are
/// sent elsewhere in time.
fn drain_ahead_of_term() -> Lifecycle {
    let command = [contract::LAUNCHER_COMMAND, contract::DRAIN].map(str::to_owned).to_vec();
    let exec = Some(ExecAction { command: Some(command) });
    Lifecycle {
        pre_stop: Some(LifecycleHandler { exec, ..LifecycleHandler::default() }),
        ..Lifecycle::default()
    }
}

/// Over nodes, as well as can be. Whatever the number of pods: it stands in their template, so that
/// another one than before would start all of them anew.
fn spread(plan: &Plan) -> Vec<TopologySpreadConstraint> {
    let given = &plan.spec.topology_spread_constraints;
    if !given.is_empty() || plan.is_single {
        return given.clone();
    }
    vec![TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some(plan.selector.clone()),
            ..LabelSelector::default()
        }),
        ..TopologySpreadConstraint::default()
    }]
}

fn volumes(plan: &Plan) -> Vec<Volume> {
    let mut volumes = plan.spec.volumes.clone();
    if user_container::mounts_log_volume(&plan.user)
        && volumes.iter().all(|volume| volume.name != LOG_VOLUME)
    {
        volumes.push(Volume {
            name: LOG_VOLUME.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        });
    }
    if let Some(secret) = plan.store.as_ref().and_then(Binding::files) {
        volumes.push(Volume {
            name: SSL_VOLUME.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.to_owned()),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    volumes
}

/// An empty list is left out: to server-side apply it would be an opinion.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
