//! What the API server, and the controllers behind it, fill in.

use serde_json::{Value, json};

use crate::kinds::Kind;

/// Sets fields that say nothing to what the API server says there.
pub(crate) fn fill_in(kind: Kind, object: &mut Value) {
    match kind.name {
        "Deployment" => deployment(&mut object["spec"]),
        "Service" => service(&mut object["spec"]),
        "StatefulService" => set(&mut object["spec"], "replicas", json!(1)),
        _ => {}
    }
}

fn set(object: &mut Value, field: &str, value: Value) {
    if object.is_null() {
        *object = json!({});
    }
    if object.get(field).is_none_or(Value::is_null) {
        object[field] = value;
    }
}

fn deployment(spec: &mut Value) {
    set(spec, "replicas", json!(1));
    set(spec, "progressDeadlineSeconds", json!(600));
    set(spec, "revisionHistoryLimit", json!(10));
    set(spec, "strategy", json!({ "type": "RollingUpdate" }));
    set(&mut spec["strategy"], "type", json!("RollingUpdate"));
    if spec["strategy"]["type"] == "RollingUpdate" {
        let quarter = json!({ "maxSurge": "25%", "maxUnavailable": "25%" });
        set(&mut spec["strategy"], "rollingUpdate", quarter);
    }
    let pod = &mut spec["template"]["spec"];
    account(pod);
    set(pod, "dnsPolicy", json!("ClusterFirst"));
    set(pod, "restartPolicy", json!("Always"));
    set(pod, "schedulerName", json!("default-scheduler"));
    set(pod, "securityContext", json!({}));
    set(pod, "terminationGracePeriodSeconds", json!(30));
    for list in ["containers", "initContainers"] {
        for container in pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            self::container(container);
        }
    }
}

/// Copies each of the two names of one field to the other; the newer one wins.
fn account(pod: &mut Value) {
    let [name, alias] = ["serviceAccountName", "serviceAccount"];
    let given = |field: &str| pod[field].as_str().filter(|given| !given.is_empty());
    if let Some(given) = given(name).or_else(|| given(alias)).map(str::to_owned) {
        pod[name] = json!(given);
        pod[alias] = json!(given);
    }
}

fn container(container: &mut Value) {
    set(container, "terminationMessagePath", json!("/dev/termination-log"));
    set(container, "terminationMessagePolicy", json!("File"));
    set(container, "resources", json!({}));
    let image = container["image"].as_str().unwrap_or_default();
    let is_newest = image.ends_with(":latest") || !image.contains(':');
    set(container, "imagePullPolicy", json!(if is_newest { "Always" } else { "IfNotPresent" }));
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        set(port, "protocol", json!("TCP"));
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(probe) else { continue };
        for (field, value) in
            [("failureThreshold", 3), ("periodSeconds", 10), ("successThreshold", 1)]
        {
            set(probe, field, json!(value));
        }
        set(probe, "timeoutSeconds", json!(1));
        if let Some(get) = probe.get_mut("httpGet") {
            set(get, "scheme", json!("HTTP"));
        }
    }
}

fn service(spec: &mut Value) {
    set(spec, "type", json!("ClusterIP"));
    set(spec, "sessionAffinity", json!("None"));
    set(spec, "internalTrafficPolicy", json!("Cluster"));
    set(spec, "clusterIP", json!("10.96.0.10"));
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        set(port, "protocol", json!("TCP"));
    }
}

/// The status of a Deployment all of whose pods serve; nothing for another kind.
pub(crate) fn rolled_out(kind: Kind, object: &Value, now: &str) -> Option<Value> {
    if kind.name != "Deployment" {
        return None;
    }
    let replicas = &object["spec"]["replicas"];
    let condition = |kind: &str, reason: &str| {
        json!({
            "type": kind, "status": "True", "reason": reason,
            "lastTransitionTime": now, "lastUpdateTime": now,
        })
    };
    Some(json!({
        "observedGeneration": object["metadata"]["generation"],
        "replicas": replicas, "updatedReplicas": replicas,
        "readyReplicas": replicas, "availableReplicas": replicas,
        "conditions": [
            condition("Available", "MinimumReplicasAvailable"),
            condition("Progressing", "NewReplicaSetAvailable"),
        ],
    }))
}
