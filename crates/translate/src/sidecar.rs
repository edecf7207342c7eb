//! The sidecar's container: launcher and proxy.

use std::collections::BTreeMap;

use api::contract::{Store, container, env, label, port, probe};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, Probe, ResourceFieldSelector, ResourceRequirements, SeccompProfile,
    SecretKeySelector, SecurityContext, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::render::{SSL_VOLUME, pull_policy};
use crate::{Binding, Credential, Known, Plan, Postgres, Settings};

/// User and group of the sidecar; its image has no others.
const SIDECAR_USER: i64 = 65532;
/// Heap of a proxy made of jars when the user asks for none.
const JVM_MEMORY_DEFAULT: &str = "256m";
/// Where the files for TLS to Postgres are mounted.
const POSTGRES_SSL_PATH: &str = "/var/run/secrets/postgres";

pub(crate) fn container(settings: &Settings, plan: &Plan) -> Container {
    let image = settings.image(store(plan));
    Container {
        name: container::SIDECAR.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some(pull_policy(image)),
        ports: Some(ports()),
        env: Some(environment(plan)),
        resources: Some(plan.sidecar_resources.clone().unwrap_or_else(default_resources)),
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

fn store(plan: &Plan) -> Store {
    plan.store.as_ref().map_or(Store::None, |binding| binding.store.store())
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

fn environment(plan: &Plan) -> Vec<EnvVar> {
    let memory = plan.sidecar_jvm_memory.as_deref().unwrap_or(JVM_MEMORY_DEFAULT);
    let mut variables = vec![plain(env::STORE, store(plan).as_str())];
    if let Some(Binding { store: Known::Postgres(postgres), .. }) = &plan.store {
        variables.extend(postgres_variables(postgres));
    }
    variables.extend([
        plain(env::HTTP_PORT, &port::PROXY),
        plain(env::METRICS_PORT, &port::METRICS),
        plain(env::USER_FUNCTION_PORT, &plan.port),
        plain(env::REMOTING_PORT, &port::REMOTING),
        plain(env::MANAGEMENT_PORT, &port::MANAGEMENT),
        plain(env::SELECTOR_LABEL_VALUE, &plan.name),
        plain(env::SELECTOR_LABEL, label::STATEFUL_SERVICE),
        plain(env::REQUIRED_CONTACT_POINT_NR, &1),
        plain(env::JAVA_OPTS, &format!("-Xms{memory} -Xmx{memory}")),
    ]);
    if let Some(memory) = &plan.sidecar_jvm_memory {
        variables.push(plain(env::SIDECAR_JVM_MEMORY, memory));
    }
    if let Some(seconds) = plan.termination_grace_period_seconds {
        variables.push(plain(env::TERMINATION_GRACE_PERIOD_SECONDS, &seconds));
    }
    variables.push(from_field(env::POD_NAME, "metadata.name"));
    variables.push(from_field(env::POD_NAMESPACE, "metadata.namespace"));
    variables.push(from_field(env::POD_IP, "status.podIP"));
    variables.push(EnvVar {
        name: env::MEMORY_LIMIT.to_owned(),
        value_from: Some(EnvVarSource {
            resource_field_ref: Some(ResourceFieldSelector {
                resource: "limits.memory".to_owned(),
                ..ResourceFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
    variables
}

/// How Postgres is reached. What stands in a Secret is put in by the kubelet, so that nobody else reads it.
fn postgres_variables(postgres: &Postgres) -> Vec<EnvVar> {
    let mut variables = vec![
        plain(env::POSTGRES_SERVICE, &postgres.service),
        credential(env::POSTGRES_DATABASE, &postgres.database),
        credential(env::POSTGRES_USERNAME, &postgres.username),
        credential(env::POSTGRES_PASSWORD, &postgres.password),
    ];
    variables.extend(postgres.port.map(|port| plain(env::POSTGRES_PORT, &port)));
    variables
        .extend(postgres.schema.as_ref().map(|schema| credential(env::POSTGRES_SCHEMA, schema)));
    if let Some(tls) = &postgres.tls {
        variables.push(plain(env::POSTGRES_SSL_MODE, &tls.mode));
        let files = [
            (env::POSTGRES_SSL_ROOT_CERT, &tls.root_cert),
            (env::POSTGRES_SSL_CERT, &tls.cert),
            (env::POSTGRES_SSL_KEY, &tls.key),
        ];
        variables.extend(files.into_iter().filter_map(|(name, key)| {
            key.as_ref().map(|key| plain(name, &format!("{POSTGRES_SSL_PATH}/{key}")))
        }));
    }
    variables
}

fn credential(name: &str, credential: &Credential) -> EnvVar {
    match credential {
        Credential::Literal(value) => plain(name, value),
        Credential::Secret { name: secret, key } => EnvVar {
            name: name.to_owned(),
            value_from: Some(EnvVarSource {
                secret_key_ref: Some(SecretKeySelector {
                    name: secret.clone(),
                    key: key.clone(),
                    optional: None,
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        },
    }
}

/// The files for TLS to the store, where a Secret has them.
fn volume_mounts(plan: &Plan) -> Option<Vec<VolumeMount>> {
    plan.store.as_ref().and_then(Binding::tls).and_then(|tls| tls.secret.as_ref()).map(|_| {
        vec![VolumeMount {
            name: SSL_VOLUME.to_owned(),
            mount_path: POSTGRES_SSL_PATH.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]
    })
}

fn plain(name: &str, value: &(impl ToString + ?Sized)) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_string()), ..EnvVar::default() }
}

fn from_field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), api_version: None }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn default_resources() -> ResourceRequirements {
    let quantity = |name: &str, value: &str| (name.to_owned(), Quantity(value.to_owned()));
    ResourceRequirements {
        limits: Some(BTreeMap::from([quantity("memory", "128Mi")])),
        requests: Some(BTreeMap::from([quantity("cpu", "50m"), quantity("memory", "32Mi")])),
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
