//! `spec.containers`: the user function first, and what runs beside it.

use std::collections::{BTreeMap, BTreeSet};

use api::StatefulServiceSpec;
use api::contract::{container, env, port};
use k8s_openapi::api::core::v1::{Container, EnvVar, VolumeMount};

use super::findings::Findings;
use super::{resources, syntax};
use crate::Warning;
use crate::render::{LOG_VOLUME, mounts_log_volume};

/// Where the sidecar listens, so nothing else in the pod can.
const SIDECAR_PORTS: [u16; 5] =
    [port::PROXY, port::REMOTING, port::METRICS, port::MANAGEMENT, port::ADMIN];

/// Settings of launcher and proxy. In another container they would do nothing.
const SIDECAR_VARIABLES: [&str; 2] = ["CLOUDSTATE_PROXY_", "CLOUDSTATE_LAUNCHER_"];

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: [&str; 2] = ["File", "FallbackToLogsOnError"];

pub(super) fn check(spec: &StatefulServiceSpec, findings: &mut Findings) {
    let containers = &spec.containers;
    if containers.is_empty() {
        let fault = "is empty: give it one container with the user function's image";
        findings.field("spec.containers", fault);
    }
    let mut names = BTreeSet::from([container::USER, container::SIDECAR]);
    let mut ports = Ports::default();
    for (index, each) in containers.iter().enumerate() {
        let path = format!("spec.containers[{index}]");
        check_image(&path, each, findings);
        if index > 0 {
            check_name(&path, &each.name, &mut names, findings);
        }
        ports.check(index, each, findings);
        check_environment(&path, each.env.iter().flatten(), findings);
        let volumes = volumes_of(spec);
        check_mounts(&path, each.volume_mounts.iter().flatten(), &volumes, findings);
        if let Some(given) = &each.resources {
            resources::check(&format!("{path}.resources"), given, findings);
        }
        let word = each.termination_message_policy.as_deref();
        findings.word(format!("{path}.terminationMessagePolicy"), word, &MESSAGE_POLICIES);
    }
}

fn check_image(path: &str, container: &Container, findings: &mut Findings) {
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        findings.field(format!("{path}.image"), "is empty: set it to an image");
    } else if image.contains(char::is_whitespace) {
        let fault = format!("is {image:?}, with white space in it: take that out");
        findings.field(format!("{path}.image"), fault);
    }
    let policy = container.image_pull_policy.as_deref();
    findings.word(format!("{path}.imagePullPolicy"), policy, &PULL_POLICIES);
}

fn check_name<'a>(
    path: &str,
    name: &'a str,
    names: &mut BTreeSet<&'a str>,
    findings: &mut Findings,
) {
    let path = format!("{path}.name");
    if name.is_empty() {
        let fault = "is empty: only the first container, the user function, may leave it out";
        findings.field(path, fault);
    } else if !names.insert(name) {
        let fault =
            format!("is {name:?}, which another container of the pod has: choose another name");
        findings.field(path, fault);
    } else {
        findings.rule(path, name, syntax::label(name));
    }
}

/// Who listens where in the pod, whose containers share one network.
#[derive(Default)]
struct Ports(BTreeMap<(i32, String), String>);

impl Ports {
    fn check(&mut self, index: usize, container: &Container, findings: &mut Findings) {
        let mut names = BTreeSet::new();
        for (port_index, port) in container.ports.iter().flatten().enumerate() {
            let path = format!("spec.containers[{index}].ports[{port_index}]");
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            findings.word(format!("{path}.protocol"), port.protocol.as_deref(), &PROTOCOLS);
            // The name of the user function's port is ours, whatever it was.
            if (index, port_index) != (0, 0)
                && let Some(name) = &port.name
            {
                let path = format!("{path}.name");
                if index == 0 && name == port::USER_NAME {
                    let fault = format!(
                        "is {name:?}, which is the name of the user function's port: choose another name"
                    );
                    findings.field(path, fault);
                } else if names.insert(name.as_str()) {
                    findings.rule(path, name, syntax::port_name(name));
                } else {
                    let fault = format!(
                        "is {name:?}, which another port of the container has: choose another name"
                    );
                    findings.field(path, fault);
                }
            }
            self.take(&format!("{path}.containerPort"), port.container_port, protocol, findings);
            if (index, port_index) == (0, 0) && protocol != "TCP" && PROTOCOLS.contains(&protocol) {
                let fault = format!(
                    "is {protocol:?}, and the sidecar calls the user function by TCP: set it to \"TCP\", or leave it out"
                );
                findings.field(format!("{path}.protocol"), fault);
            }
            if let Some(host) = port.host_port.filter(|host| !(0..=65535).contains(host)) {
                let fault = format!("is {host}, which is no port: set it to 1 to 65535");
                findings.field(format!("{path}.hostPort"), fault);
            }
        }
        if index == 0 && container.ports.iter().flatten().next().is_none() {
            let default = i32::from(port::USER_DEFAULT);
            let by = "the user function, since spec.containers[0] declares no port".to_owned();
            self.0.insert((default, "TCP".to_owned()), by);
        }
    }

    fn take(&mut self, path: &str, value: i32, protocol: &str, findings: &mut Findings) {
        let fault = match u16::try_from(value) {
            Err(_) | Ok(0) => Some(format!("is {value}, which is no port: set it to 1 to 65535")),
            Ok(number) if protocol == "TCP" && SIDECAR_PORTS.contains(&number) => {
                Some(format!("is {value}, where the sidecar listens: choose another port"))
            }
            Ok(_) => None,
        };
        if let Some(fault) = fault {
            return findings.field(path, fault);
        }
        let taken = self.0.insert((value, protocol.to_owned()), path.to_owned());
        if let Some(by) = taken {
            let fault = format!(
                "is {value} for {protocol}, which is taken by {by}: choose another port, or leave one out"
            );
            findings.field(path, fault);
        }
    }
}

fn check_environment<'a>(
    path: &str,
    variables: impl Iterator<Item = &'a EnvVar>,
    findings: &mut Findings,
) {
    for (index, variable) in variables.enumerate() {
        let path = format!("{path}.env[{index}]");
        findings.rule(format!("{path}.name"), &variable.name, syntax::variable(&variable.name));
        if SIDECAR_VARIABLES.iter().any(|prefix| variable.name.starts_with(prefix)) {
            let fault = format!(
                "is {:?}, which only the sidecar reads, and the sidecar does not see it here: leave it out",
                variable.name
            );
            findings.field(format!("{path}.name"), fault);
        }
        let Some(from) = &variable.value_from else { continue };
        if variable.value.as_deref().is_some_and(|value| !value.is_empty()) {
            let fault = "is set, and so is valueFrom: leave one of them out";
            findings.field(format!("{path}.value"), fault);
        }
        let sources = [
            from.config_map_key_ref.is_some(),
            from.field_ref.is_some(),
            from.file_key_ref.is_some(),
            from.resource_field_ref.is_some(),
            from.secret_key_ref.is_some(),
        ];
        let count = sources.into_iter().filter(|is_set| *is_set).count();
        if count != 1 {
            let fault = format!("names {count} sources: name one");
            findings.field(format!("{path}.valueFrom"), fault);
        }
    }
}

/// Volumes that containers may mount.
fn volumes_of(spec: &StatefulServiceSpec) -> BTreeSet<&str> {
    let given = spec.volumes.iter().map(|volume| volume.name.as_str());
    let ours = spec.containers.first().filter(|user| mounts_log_volume(user)).map(|_| LOG_VOLUME);
    given.chain(ours).collect()
}

fn check_mounts<'a>(
    path: &str,
    mounts: impl Iterator<Item = &'a VolumeMount>,
    volumes: &BTreeSet<&str>,
    findings: &mut Findings,
) {
    let mut paths = BTreeSet::new();
    for (index, mount) in mounts.enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let name = &mount.name;
        if !volumes.contains(name.as_str()) {
            let fault = format!(
                "is {name:?}, and spec.volumes has no volume of that name: add it, or name one that is there"
            );
            findings.field(format!("{path}.name"), fault);
        }
        let at = mount.mount_path.as_str();
        let path = format!("{path}.mountPath");
        if at.is_empty() {
            findings.field(path, "is empty: set it to the path in the container");
        } else if at.contains(':') {
            findings.field(path, format!("is {at:?}, with a ':' in it: choose another path"));
        } else if !paths.insert(at) {
            let fault = format!("is {at:?}, where another volume is mounted: choose another path");
            findings.field(path, fault);
        }
    }
}

/// The first declared port, or the default. Only for containers that [`check`] has passed.
pub(super) fn user_port(user: &Container) -> u16 {
    user.ports
        .iter()
        .flatten()
        .next()
        .and_then(|port| u16::try_from(port.container_port).ok())
        .unwrap_or(port::USER_DEFAULT)
}

/// What is odd about the user function and does no harm.
pub(super) fn warn(user: &Container, port: u16, warnings: &mut Vec<Warning>) {
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
    let image = user.image.as_deref().unwrap_or_default();
    if user.image_pull_policy.is_none() && !is_tagged(image) {
        warnings.push(Warning {
            reason: "UntaggedImage",
            message: format!(
                "spec.containers[0].image is {image:?}, without a tag: nodes that have some version of it use that one; name a tag, or set spec.containers[0].imagePullPolicy"
            ),
        });
    }
}

/// Whether the image names a version of itself. A colon before the last slash belongs to a port.
fn is_tagged(image: &str) -> bool {
    image.contains('@') || image.rsplit('/').next().is_some_and(|name| name.contains(':'))
}
