//! The sidecar's environment: everything that launcher and proxy are told.

use api::contract::{Store, env, label, port};
use k8s_openapi::api::core::v1::{
    EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector, SecretKeySelector,
};

use super::POSTGRES_SSL_PATH;
use crate::settings::{ContactPoints, Settings};
use crate::{Binding, Cassandra, Credential, Known, Plan, Postgres};

/// Heap of a proxy made of jars when the user asks for none.
const JVM_MEMORY_DEFAULT: &str = "256m";

/// The store first, then what every sidecar gets.
pub(super) fn render(settings: &Settings, plan: &Plan) -> Vec<EnvVar> {
    let kind = plan.store.as_ref().map_or(Store::None, |binding| binding.store.store());
    let mut variables = vec![plain(env::STORE, kind.as_str())];
    match &plan.store {
        None | Some(Binding { store: Known::InMemory, .. }) => {}
        Some(Binding { store: Known::Postgres(postgres), .. }) => {
            variables.extend(postgres_variables(postgres));
        }
        Some(Binding { store: Known::Cassandra(cassandra), keyspace, .. }) => {
            variables.extend(cassandra_variables(cassandra, keyspace.as_deref()));
        }
    }
    variables.extend([
        plain(env::HTTP_PORT, &port::PROXY),
        plain(env::METRICS_PORT, &port::METRICS),
        plain(env::USER_FUNCTION_PORT, &plan.port),
        plain(env::REMOTING_PORT, &port::REMOTING),
        plain(env::MANAGEMENT_PORT, &port::MANAGEMENT),
        plain(env::SELECTOR_LABEL_VALUE, &plan.name),
        plain(env::SELECTOR_LABEL, label::STATEFUL_SERVICE),
        plain(env::REQUIRED_CONTACT_POINT_NR, &contact_points(settings, plan)),
        plain(env::JAVA_OPTS, &heap(plan)),
    ]);
    let optional = [
        (env::SIDECAR_JVM_MEMORY, plan.spec.sidecar_jvm_memory.clone()),
        (env::PASSIVATION_TIMEOUT, settings.passivation_timeout.clone()),
        (
            env::TERMINATION_GRACE_PERIOD_SECONDS,
            plan.spec.termination_grace_period_seconds.map(|seconds| seconds.to_string()),
        ),
    ];
    variables.extend(
        optional.into_iter().filter_map(|(name, value)| value.map(|value| plain(name, &value))),
    );
    variables.extend([
        from_field(env::POD_NAME, "metadata.name"),
        from_field(env::POD_NAMESPACE, "metadata.namespace"),
        from_field(env::POD_IP, "status.podIP"),
        memory_limit(),
    ]);
    variables
}

/// For a JVM. Units of Kubernetes, which are taken as well, differ from a JVM's by an `i` at the end.
fn heap(plan: &Plan) -> String {
    let given = plan.spec.sidecar_jvm_memory.as_deref().unwrap_or(JVM_MEMORY_DEFAULT);
    let memory = given.trim().trim_end_matches('i');
    format!("-Xms{memory} -Xmx{memory}")
}

/// Two peers keep pods that start together from forming two clusters, where there were two from the start.
fn contact_points(settings: &Settings, plan: &Plan) -> u16 {
    match settings.proxy.required_contact_points {
        ContactPoints::Number(number) => number.get(),
        ContactPoints::Auto(_) => {
            if plan.initial_replicas.is_some_and(|replicas| replicas >= 2) {
                2
            } else {
                1
            }
        }
    }
}

fn memory_limit() -> EnvVar {
    EnvVar {
        name: env::MEMORY_LIMIT.to_owned(),
        value_from: Some(EnvVarSource {
            resource_field_ref: Some(ResourceFieldSelector {
                resource: "limits.memory".to_owned(),
                ..ResourceFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

/// How Cassandra is reached.
fn cassandra_variables(cassandra: &Cassandra, keyspace: Option<&str>) -> Vec<EnvVar> {
    let mut variables = vec![plain(env::CASSANDRA_CONTACT_POINTS, &cassandra.service)];
    variables.extend(keyspace.map(|keyspace| plain(env::CASSANDRA_KEYSPACE, keyspace)));
    let credentials = [
        (env::CASSANDRA_USERNAME, &cassandra.username),
        (env::CASSANDRA_PASSWORD, &cassandra.password),
    ];
    variables.extend(
        credentials
            .into_iter()
            .filter_map(|(name, given)| given.as_ref().map(|given| credential(name, given))),
    );
    variables.extend(cassandra.port.map(|port| plain(env::CASSANDRA_PORT, &port)));
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
