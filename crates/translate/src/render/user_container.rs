//! The containers that the user brings.

use api::contract::{self, container, env, port};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, HTTPGetAction, LifecycleHandler, Probe, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pull_policy;
use crate::Plan;

/// Scratch space for logs of the user function.
pub(crate) const LOG_VOLUME: &str = "varlog";
const LOG_PATH: &str = "/var/log";

pub(super) fn user_function(plan: &Plan) -> Container {
    let mut user = extra(plan.user.clone());
    container::USER.clone_into(&mut user.name);
    let given = plan.user.ports.iter().flatten().next().and_then(|port| port.name.as_deref());
    for port in port_references(&mut user) {
        // Its port goes by our name from here on.
        if matches!(port, IntOrString::String(name) if Some(name.as_str()) == given) {
            *port = IntOrString::String(port::USER_NAME.to_owned());
        }
    }
    user.ports = Some(ports(plan));
    user.env = Some(environment(plan));
    user.stdin = Some(false);
    user.tty = Some(false);
    user.lifecycle.get_or_insert_default().pre_stop.get_or_insert_with(wait_for_drain);
    if mounts_log_volume(&plan.user) {
        user.volume_mounts.get_or_insert_default().push(VolumeMount {
            name: LOG_VOLUME.to_owned(),
            mount_path: LOG_PATH.to_owned(),
            ..VolumeMount::default()
        });
    }
    user
}

/// All containers get TERM at about the same time, and a user function that ends then takes its calls along. So it gets
/// its own once there are none.
fn wait_for_drain() -> LifecycleHandler {
    let http_get = HTTPGetAction {
        path: Some(contract::WAIT_FOR_DRAIN.to_owned()),
        port: IntOrString::Int(i32::from(port::ADMIN)),
        ..HTTPGetAction::default()
    };
    LifecycleHandler { http_get: Some(http_get), ..LifecycleHandler::default() }
}

/// Where probes and hooks name a port of their container.
fn port_references(user: &mut Container) -> impl Iterator<Item = &mut IntOrString> {
    let Container { liveness_probe, readiness_probe, startup_probe, lifecycle, .. } = user;
    let probes = [liveness_probe, readiness_probe, startup_probe].into_iter().flatten();
    let hooks = lifecycle.iter_mut().flat_map(|all| [&mut all.post_start, &mut all.pre_stop]);
    probes.flat_map(of_probe).chain(hooks.flatten().flat_map(of_hook)).flatten()
}

fn of_probe(probe: &mut Probe) -> [Option<&mut IntOrString>; 2] {
    let Probe { http_get, tcp_socket, .. } = probe;
    [http_get.as_mut().map(|get| &mut get.port), tcp_socket.as_mut().map(|tcp| &mut tcp.port)]
}

fn of_hook(hook: &mut LifecycleHandler) -> [Option<&mut IntOrString>; 2] {
    let LifecycleHandler { http_get, tcp_socket, .. } = hook;
    [http_get.as_mut().map(|get| &mut get.port), tcp_socket.as_mut().map(|tcp| &mut tcp.port)]
}

/// Fills in what any container of the user gets.
pub(super) fn extra(mut given: Container) -> Container {
    let image = given.image.as_deref().unwrap_or_default();
    given.image_pull_policy.get_or_insert_with(|| pull_policy(image));
    given.termination_message_policy.get_or_insert_with(|| "FallbackToLogsOnError".to_owned());
    given.env = given.env.map(without_repeats).filter(|env| !env.is_empty());
    for port in given.ports.iter_mut().flatten() {
        // Server-side apply merges ports by number and protocol, so both have to be there.
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
    given
}

/// Whether `/var/log` of that user function is ours to mount.
pub(crate) fn mounts_log_volume(user: &Container) -> bool {
    let mut mounts = user.volume_mounts.iter().flatten();
    mounts.all(|mount| mount.mount_path.trim_end_matches('/') != LOG_PATH)
}

/// The user function's port under our name, then the others as given.
fn ports(plan: &Plan) -> Vec<ContainerPort> {
    let first = ContainerPort {
        name: Some(port::USER_NAME.to_owned()),
        container_port: i32::from(plan.port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let others = extra(plan.user.clone()).ports.into_iter().flatten().skip(1);
    std::iter::once(first).chain(others).collect()
}

/// `PORT`, which is ours, then the user's variables, which may refer to it as `$(PORT)`.
fn environment(plan: &Plan) -> Vec<EnvVar> {
    let ours =
        EnvVar { name: env::PORT.to_owned(), value: Some(plan.port.to_string()), value_from: None };
    let given = plan.user.env.iter().flatten();
    let others = given.filter(|variable| variable.name != env::PORT).cloned();
    std::iter::once(ours).chain(without_repeats(others.collect())).collect()
}

/// Keeps the last variable of each name, as a process would see it. Server-side apply merges
/// variables by name and refuses two of one.
fn without_repeats(variables: Vec<EnvVar>) -> Vec<EnvVar> {
    let mut kept: Vec<EnvVar> = Vec::with_capacity(variables.len());
    for variable in variables {
        kept.retain(|earlier| earlier.name != variable.name);
        kept.push(variable);
    }
    kept
}

#[cfg(test)]
mod tests {
    use api::StatefulService;
    use serde_json::{Value, json};

    use super::*;
    use crate::{Inputs, Settings, validate};

    #[test]
    fn probes_and_hooks_find_the_port_whose_name_is_ours_now() {
        let by = |name: &str| json!({ "httpGet": { "path": "/", "port": name } });
        let service: StatefulService = serde_json::from_value(json!({
            "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulService",
            "metadata": { "name": "cart" },
            "spec": { "containers": [{
                "image": "a",
                "ports": [
                    { "name": "grpc", "containerPort": 9000 },
                    { "name": "admin", "containerPort": 9001 },
                ],
                "livenessProbe": by("grpc"),
                "readinessProbe": { "tcpSocket": { "port": "grpc" } },
                "startupProbe": by("admin"),
                "lifecycle": {
                    "preStop": by("grpc"), "postStart": { "tcpSocket": { "port": 9000 } },
                },
            }]},
        }))
        .unwrap();
        let plan = validate(&Settings::default(), &service, &Inputs::default()).unwrap();
        let made = serde_json::to_value(user_function(&plan)).unwrap();
        let port = |path: &str| made.pointer(path).cloned().unwrap_or(Value::Null);
        for (path, expected) in [
            ("/livenessProbe/httpGet/port", json!("user-port")),
            ("/readinessProbe/tcpSocket/port", json!("user-port")),
            ("/startupProbe/httpGet/port", json!("admin")),
            ("/lifecycle/preStop/httpGet/port", json!("user-port")),
            ("/lifecycle/postStart/tcpSocket/port", json!(9000)),
            ("/ports/0/name", json!("user-port")),
        ] {
            assert_eq!(port(path), expected, "{path}");
        }
    }
}
