//! The sidecar's container: launcher and proxy.

mod environment;

use std::collections::BTreeMap;

use api::contract::{ProxyKind, container, port, probe};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, HTTPGetAction, Probe, ResourceRequirements,
    SeccompProfile, SecurityContext, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::render::{SSL_VOLUME, pull_policy};
use crate::settings::Settings;
use crate::{Binding, Plan, quantity};

/// User and group of the sidecar; its image has no others.
const SIDECAR_USER: i64 = 65532;
const MIB: u64 = 1024 * 1024;
/// Where the files for TLS to Postgres are mounted.
const POSTGRES_SSL_PATH: &str = "/var/run/secrets/postgres";

pub(crate) fn container(settings: &Settings, plan: &Plan) -> Container {
    Container {
        name: container::SIDECAR.to_owned(),
        image: Some(plan.image.clone()),
        image_pull_policy: Some(pull_policy(&plan.image)),
        ports: Some(ports()),
        env: Some(environment::render(settings, plan)),
        resources: Some(resources(plan)),
        // The start never waits for the user function, so two minutes mean that something is broken.
        startup_probe: Some(http_probe(probe::STARTUP, 1, 1, 120)),
        readiness_probe: Some(http_probe(probe::READY, 1, 1, 3)),
        liveness_probe: Some(http_probe(probe::ALIVE, 10, 2, 3)),
        volume_mounts: volume_mounts(plan),
        security_context: Some(security_context()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

fn resources(plan: &Plan) -> ResourceRequirements {
    plan.spec.sidecar_resources.clone().unwrap_or_else(|| default_resources(plan))
}

fn ports() -> Vec<ContainerPort> {
    [
        (port::PROXY_NAME, port::PROXY),
        (port::METRICS_NAME, port::METRICS),
        (port::MANAGEMENT_NAME, port::MANAGEMENT),
        (port::ADMIN_NAME, port::ADMIN),
        (port::REMOTING_NAME, port::REMOTING),
    ]
    .into_iter()
    .map(|(name, number)| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    })
    .collect()
}

/// The files for TLS to the store, where a Secret has them.
fn volume_mounts(plan: &Plan) -> Option<Vec<VolumeMount>> {
    plan.store.as_ref().and_then(Binding::files).map(|_| {
        vec![VolumeMount {
            name: SSL_VOLUME.to_owned(),
            mount_path: POSTGRES_SSL_PATH.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]
    })
}

/// What the proxy was measured to need; for one made of jars, what the original asked for. Where the user
/// asks for memory, twice that, since not all that a proxy does is within it.
fn default_resources(plan: &Plan) -> ResourceRequirements {
    let (cpu, memory, memory_max) = match plan.kind {
        ProxyKind::Native => ("50m", 32 * MIB, 128 * MIB),
        ProxyKind::Jvm => ("400m", 512 * MIB, 512 * MIB),
    };
    let asked = plan.memory.map_or(0, |memory| memory.bytes().saturating_mul(2));
    let memory_max = memory_max.max(asked);
    let memory = match plan.kind {
        ProxyKind::Native => memory,
        // A JVM takes its heap at once.
        ProxyKind::Jvm => memory.max(asked),
    };
    ResourceRequirements {
        limits: Some(BTreeMap::from([("memory".to_owned(), quantity::bytes(memory_max))])),
        requests: Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu.to_owned())),
            ("memory".to_owned(), quantity::bytes(memory)),
        ])),
        ..ResourceRequirements::default()
    }
}

fn http_probe(path: &str, period: i32, timeout: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(i32::from(port::ADMIN)),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(timeout),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn security_context() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            ..Capabilities::default()
        }),
        read_only_root_filesystem: Some(true),
        run_as_group: Some(SIDECAR_USER),
        run_as_non_root: Some(true),
        run_as_user: Some(SIDECAR_USER),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            ..SeccompProfile::default()
        }),
        ..SecurityContext::default()
    }
}
