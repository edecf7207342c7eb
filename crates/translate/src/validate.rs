//! From a service as the user wrote it to a plan, or to everything that is wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use api::contract::{container, env, port};
use api::{StatefulService, StatefulServiceSpec};
use k8s_openapi::api::core::v1::Container;
use kube::ResourceExt;

use crate::render::SSL_VOLUME;
use crate::{Binding, Credential, Inputs, Known, Plan, Problem, Problems, Warning, validate_store};

/// Keys under these prefixes are the book-keeping of deployment tools: passed on to the pods, each
/// of their edits would restart them.
const TOOL_PREFIXES: [&str; 6] = [
    "kubectl.kubernetes.io/",
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
    "meta.helm.sh/",
    "helm.sh/",
];

/// Knative's book-keeping on the same kind of object.
const LAST_PINNED: &str = "serving.knative.dev/lastPinned";

/// Where the sidecar listens, so nothing else in the pod can.
const SIDECAR_PORTS: [u16; 5] =
    [port::PROXY, port::REMOTING, port::METRICS, port::MANAGEMENT, port::ADMIN];

/// Checks everything there is to check.
///
/// # Errors
/// All problems at once, the spec's fields in order.
pub fn validate(service: &StatefulService, inputs: &Inputs) -> Result<Plan, Problems> {
    let spec = &service.spec;
    let mut problems = Vec::new();
    check_containers(&spec.containers, &mut problems);
    check_ports(&spec.containers, &mut problems);
    let mut warnings = Vec::new();
    let store = bind(service, inputs, &mut warnings).unwrap_or_else(|found| {
        problems.extend(found.0);
        None
    });
    check_volumes(spec, store.as_ref(), &mut problems);
    let (Some(user), []) = (spec.containers.first(), problems.as_slice()) else {
        return Err(Problems(problems));
    };

    let (replicas, pinned) = replicas(spec, store.as_ref());
    let port = user_port(user);
    warn_of_overridden_port(user, port, &mut warnings);
    Ok(Plan {
        name: service.name_any(),
        namespace: service.namespace().unwrap_or_default(),
        uid: service.uid().unwrap_or_default(),
        labels: passed_on(service.labels()),
        annotations: passed_on(service.annotations()),
        user: user.clone(),
        port,
        extra: spec.containers[1..].to_vec(),
        store,
        replicas,
        pinned,
        service_account_name: spec.service_account_name.clone(),
        volumes: spec.volumes.clone(),
        sidecar_resources: spec.sidecar_resources.clone(),
        sidecar_jvm_memory: spec.sidecar_jvm_memory.clone(),
        node_selector: spec.node_selector.clone(),
        tolerations: spec.tolerations.clone(),
        termination_grace_period_seconds: spec.termination_grace_period_seconds,
        warnings,
    })
}

fn check_containers(containers: &[Container], problems: &mut Vec<Problem>) {
    if containers.is_empty() {
        problems.push(Problem::NoContainers);
    }
    let mut taken = BTreeSet::from([container::USER, container::SIDECAR]);
    for (index, each) in containers.iter().enumerate() {
        if each.image.as_deref().unwrap_or_default().is_empty() {
            problems.push(Problem::NoImage { index });
        }
        if index == 0 {
            continue;
        }
        if each.name.is_empty() {
            problems.push(Problem::NoContainerName { index });
        } else if !taken.insert(&each.name) {
            problems.push(Problem::ContainerNameTaken { index, name: each.name.clone() });
        }
    }
}

fn check_ports(containers: &[Container], problems: &mut Vec<Problem>) {
    for (index, each) in containers.iter().enumerate() {
        for (port_index, port) in each.ports.iter().flatten().enumerate() {
            let value = port.container_port;
            match u16::try_from(value) {
                Ok(number) if SIDECAR_PORTS.contains(&number) => {
                    problems.push(Problem::PortTaken { index, port_index, value });
                }
                Ok(1..) => {}
                // Of the other ports we make nothing, so the API server may judge them.
                _ if (index, port_index) == (0, 0) => {
                    problems.push(Problem::PortOutOfRange { value });
                }
                _ => {}
            }
        }
    }
}

fn bind(
    service: &StatefulService,
    inputs: &Inputs,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Binding>, Problems> {
    let Some(datastore) = &service.spec.datastore else {
        return Ok(None);
    };
    let Some(object) = &inputs.store else {
        return Err(Problems(vec![Problem::StoreNotFound {
            store: datastore.name.clone(),
            namespace: service.namespace().unwrap_or_default(),
        }]));
    };
    let mut store = validate_store(object)?;
    if let Known::Postgres(postgres) = &mut store {
        let config = datastore.config.iter().flatten();
        for (key, value) in config {
            match (key.as_str(), value.as_str()) {
                ("schema", Some(schema)) if !schema.is_empty() => {
                    postgres.schema = Some(Credential::Literal(schema.to_owned()));
                }
                _ => warnings.push(unread(key)),
            }
        }
    }
    Ok(Some(Binding { name: datastore.name.clone(), store }))
}

fn unread(key: &str) -> Warning {
    Warning {
        reason: "DatastoreConfigUnread",
        message: format!(
            "spec.datastore.config.{key} is not read: a store of type \"Postgres\" takes the text \"schema\" and nothing else"
        ),
    }
}

fn check_volumes(spec: &StatefulServiceSpec, store: Option<&Binding>, problems: &mut Vec<Problem>) {
    let is_ours = store.and_then(Binding::tls).is_some_and(|tls| tls.secret.is_some());
    if is_ours && spec.volumes.iter().any(|volume| volume.name == SSL_VOLUME) {
        problems.push(Problem::VolumeNameTaken { name: SSL_VOLUME.to_owned() });
    }
}

/// How many pods there will be, and why not more if more are asked for.
fn replicas(spec: &StatefulServiceSpec, store: Option<&Binding>) -> (i32, Option<String>) {
    let Some(Binding { name, store }) = store.filter(|_| spec.replicas > 1) else {
        return (spec.replicas, None);
    };
    let why = match store {
        // Each proxy would have a store of its own, and calls would find one or the other.
        Known::InMemory => "whose state one pod cannot share with another",
        Known::Postgres(_) => "whose entities one pod at a time can own",
    };
    let message = format!(
        "spec.replicas is {}, and 1 is used: StatefulStore {name:?} is of type {:?}, {why}",
        spec.replicas,
        store.kind()
    );
    (1, Some(message))
}

/// The first declared port, or the default. Only for containers that [`check_ports`] has passed.
fn user_port(user: &Container) -> u16 {
    user.ports
        .iter()
        .flatten()
        .next()
        .and_then(|port| u16::try_from(port.container_port).ok())
        .unwrap_or(port::USER_DEFAULT)
}

fn warn_of_overridden_port(user: &Container, port: u16, warnings: &mut Vec<Warning>) {
    let given = user.env.iter().flatten().find(|variable| variable.name == env::PORT);
    if let Some(variable) = given
        && variable.value.as_deref() != Some(port.to_string().as_str())
    {
        let value = variable.value.as_deref().unwrap_or("taken from elsewhere");
        warnings.push(Warning {
            reason: "PortEnvOverridden",
            message: format!(
                "spec.containers[0].env sets PORT to {value:?}, and \"{port}\" is used: declare the port in spec.containers[0].ports instead"
            ),
        });
    }
}

fn passed_on(given: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_the_users =
        |key: &str| key != LAST_PINNED && !TOOL_PREFIXES.iter().any(|tool| key.starts_with(tool));
    given
        .iter()
        .filter(|(key, _)| is_the_users(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
