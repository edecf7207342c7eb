//! `spec.containers`: the user function first, and what runs beside it.

use std::collections::BTreeSet;

use api::StatefulServiceSpec;
use api::contract::{container, env, port};
use k8s_openapi::api::core::v1::Container;

use crate::{Problem, Warning};

/// Where the sidecar listens, so nothing else in the pod can.
const SIDECAR_PORTS: [u16; 5] =
    [port::PROXY, port::REMOTING, port::METRICS, port::MANAGEMENT, port::ADMIN];

pub(super) fn check(spec: &StatefulServiceSpec, problems: &mut Vec<Problem>) {
    check_each(&spec.containers, problems);
    check_ports(&spec.containers, problems);
}

fn check_each(containers: &[Container], problems: &mut Vec<Problem>) {
    if containers.is_empty() {
        problems.push(Problem::field(
            "spec.containers",
            "is empty: give it one container with the user function's image",
        ));
    }
    let mut taken = BTreeSet::from([container::USER, container::SIDECAR]);
    for (index, each) in containers.iter().enumerate() {
        let path = format!("spec.containers[{index}]");
        if each.image.as_deref().unwrap_or_default().is_empty() {
            problems.push(Problem::field(format!("{path}.image"), "is empty: set it to an image"));
        }
        if index == 0 {
            continue;
        }
        let name = &each.name;
        if name.is_empty() {
            problems.push(Problem::field(
                format!("{path}.name"),
                "is empty: only the first container, the user function, may leave it out",
            ));
        } else if !taken.insert(name) {
            problems.push(Problem::field(
                format!("{path}.name"),
                format!("is {name:?}, which another container of the pod has: choose another name"),
            ));
        }
    }
}

fn check_ports(containers: &[Container], problems: &mut Vec<Problem>) {
    for (index, each) in containers.iter().enumerate() {
        for (port_index, port) in each.ports.iter().flatten().enumerate() {
            let value = port.container_port;
            let path = format!("spec.containers[{index}].ports[{port_index}].containerPort");
            match u16::try_from(value) {
                Ok(number) if SIDECAR_PORTS.contains(&number) => problems.push(Problem::field(
                    path,
                    format!("is {value}, where the sidecar listens: choose another port"),
                )),
                Ok(1..) => {}
                _ => problems.push(Problem::field(
                    path,
                    format!("is {value}, which is no port: set it to 1 to 65535"),
                )),
            }
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
