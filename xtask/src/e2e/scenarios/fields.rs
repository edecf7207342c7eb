//! Each field of a service on the real cluster: what the API server keeps, and what the pods get of it.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::manifests::{DEPLOYMENT, SERVICE, STORE, edited, sample};
use crate::e2e::{
    namespace::{Namespace, READY, condition, container, variable},
    wait::until,
};

pub(super) const SIDECAR: &str = "cloudstate-sidecar";
const USER: &str = "user-container";

/// Every field beside the first container, in one service without a store.
pub(super) fn every_field_reaches_the_pod(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    let class = namespace.name.clone();
    surroundings(namespace)?;
    let priority = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": class}, "value": 1000,
    });
    namespace.apply(&priority.to_string())?;
    let spec = spec_of_all_fields(&namespace.cluster.scripted, &class);
    applied(namespace, &spec)?;
    namespace.ready(SERVICE)?;

    let pods = namespace.list("pods")?;
    ensure!(pods.len() == 2, "{} pods instead of two", pods.len());
    for pod in &pods {
        for (field, of_the_pod) in [
            ("serviceAccountName", "serviceAccountName"),
            ("volumes", "volumes"),
            ("nodeSelector", "nodeSelector"),
            ("tolerations", "tolerations"),
            ("affinity", "affinity"),
            ("topologySpreadConstraints", "topologySpreadConstraints"),
            ("priorityClassName", "priorityClassName"),
            ("imagePullSecrets", "imagePullSecrets"),
            ("podSecurityContext", "securityContext"),
            ("terminationGracePeriodSeconds", "terminationGracePeriodSeconds"),
        ] {
            holds(&pod["spec"][of_the_pod], &spec[field], field)?;
        }
        ensure!(pod["spec"]["priority"] == 1000, "priority {}", pod["spec"]["priority"]);
        holds(&pod["metadata"]["labels"], &spec["podLabels"], "podLabels")?;
        holds(&pod["metadata"]["annotations"], &spec["podAnnotations"], "podAnnotations")?;
        let sidecar = container(pod, SIDECAR)?;
        holds(&sidecar["resources"], &spec["sidecarResources"], "sidecarResources")?;
        let memory = variable(sidecar, "CLOUDSTATE_SIDECAR_JVM_MEMORY");
        ensure!(*memory == spec["sidecarJvmMemory"], "the sidecar is told {memory}");
        holds(container(pod, "audit")?, &spec["containers"][1], "containers[1]")?;
    }
    let budget = namespace.get("poddisruptionbudget", SERVICE)?;
    holds(&budget["spec"], &json!({"maxUnavailable": "50%"}), "podDisruptionBudget")?;
    until("the budget is for both pods", READY, || {
        let status = namespace.get("poddisruptionbudget", SERVICE)?["status"].take();
        Ok(if status["expectedPods"] == 2 { Ok(()) } else { Err(status.to_string()) })
    })?;
    namespace.get("networkpolicy", SERVICE)?;
    let replicas = namespace.get("statefulservice", SERVICE)?["status"]["replicas"].take();
    ensure!(replicas == 2, "status.replicas is {replicas}");
    // With two replicas there would be a budget by default.
    let off = json!({"enabled": false});
    let patch = json!({"spec": {"podDisruptionBudget": off, "networkPolicy": off}}).to_string();
    namespace.kubectl(&["patch", "statefulservice", SERVICE, "--type=merge", "--patch", &patch])?;
    until("budget and policy are switched off", READY, || {
        let count = namespace.list("poddisruptionbudgets,networkpolicies")?.len();
        Ok(if count == 0 { Ok(()) } else { Err(format!("{count} of them are there")) })
    })?;
    namespace.kubectl(&["delete", "priorityclass", &class, "--wait=false"]).map(drop)
}

fn spec_of_all_fields(image: &str, class: &str) -> Value {
    let linux = json!({"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]});
    json!({
        "replicas": 2,
        "serviceAccountName": "carts",
        "volumes": [{"name": "settings", "configMap": {"name": "flags"}}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations":
            [{"key": "dedicated", "operator": "Equal", "value": "carts", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [linux]}],
        }}},
        "topologySpreadConstraints": [{
            "maxSkew": 2, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": SERVICE}},
        }],
        "priorityClassName": class,
        "imagePullSecrets": [{"name": "registry"}],
        "podSecurityContext": {"fsGroup": 2000, "runAsNonRoot": true},
        "terminationGracePeriodSeconds": 20,
        "podLabels": {"example.com/canary": "yes"},
        "podAnnotations": {"example.com/scrape": "true"},
        "podDisruptionBudget": {"enabled": true, "maxUnavailable": "50%"},
        "networkPolicy": {"enabled": true},
        "sidecarResources": {
            "requests": {"cpu": "20m", "memory": "48Mi"}, "limits": {"memory": "160Mi"},
        },
        "sidecarJvmMemory": "70m",
        "containers": [
            {"image": image, "env": [action()]},
            {"name": "audit", "image": image, "env": [{"name": "SCRIPT_LISTEN", "value": "never"}]},
        ],
    })
}

/// Every field of a container, and what the operator says otherwise of the first one.
pub(super) fn every_field_of_a_container_reaches_the_pod(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    surroundings(namespace)?;
    let listens = json!({"tcpSocket": {"port": 8081}, "periodSeconds": 1});
    let given = json!({
        "name": "of-my-own",
        "image": namespace.cluster.scripted,
        "command": ["/scripted-function"],
        "args": ["--unread"],
        "workingDir": "/data",
        "ports": [{"name": "calls", "containerPort": 8081}, {"name": "debug", "containerPort": 9001}],
        "env": [action(), {"name": "PORT", "value": "1"}],
        "envFrom": [{"configMapRef": {"name": "flags"}}],
        "resources": {
            "requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"},
        },
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "livenessProbe": listens,
        "readinessProbe": listens,
        "startupProbe": listens,
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
        "terminationMessagePath": "/tmp/last-words",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "Never",
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true},
        "stdin": true,
        "stdinOnce": true,
        "tty": true,
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
    });
    let data = json!({"name": "data", "emptyDir": {}});
    applied(namespace, &json!({"volumes": [data], "containers": [given]}))?;
    namespace.ready(SERVICE)?;
    let pod = namespace.pod(SERVICE)?;
    let user = container(&pod, USER)?;
    let ports = json!([
        {"name": "user-port", "containerPort": 8081}, {"name": "debug", "containerPort": 9001},
    ]);
    for (field, wanted) in given.as_object().context("a container is an object")? {
        let wanted = match field.as_str() {
            "name" => &json!(USER),
            "ports" => &ports,
            // The first port is the user function's, whatever its variables say.
            "env" => &json!([action(), {"name": "PORT", "value": "8081"}]),
            // Nobody is at the other end, and what is false is left out.
            "stdin" | "tty" => &Value::Null,
            _ => wanted,
        };
        holds(&user[field], wanted, field)?;
    }

    // No node here has a device of its own to give away, so this pod waits for one.
    let device = json!({"name": "block", "devicePath": "/dev/xvda"});
    applied(
        namespace,
        &json!({
            "volumes": [{"name": "block", "persistentVolumeClaim": {"claimName": "block"}}],
            "containers": [{"image": namespace.cluster.scripted, "volumeDevices": [device]}],
        }),
    )?;
    until("the device is in the Deployment", READY, || {
        let deployment = namespace.get("deployment", DEPLOYMENT)?;
        let user = container(&deployment["spec"]["template"], USER)?;
        Ok(holds(&user["volumeDevices"], &json!([device]), "volumeDevices")
            .map_err(|error| error.to_string()))
    })?;
    namespace.described(SERVICE, &["Unschedulable", "\"block\" not found"]).map(drop)
}

/// All of `autoscaling` is kept, and the service says that nothing follows from it.
pub(super) fn autoscaling_is_kept_and_not_acted_upon(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let autoscaling = json!({
        "enabled": true, "userFunctionTargetConcurrency": 1, "requestTargetConcurrency": 50,
        "targetConcurrencyWindow": "1m", "scaleUpStableDeadline": "3m",
        "scaleDownStableDeadline": "30 seconds", "requestRateThresholdFactor": 1.5,
        "requestRateWindow": "6s", "mode": "Proxy", "minReplicas": 2, "maxReplicas": 10,
        "targetCPUUtilization": 80,
        "metrics": [{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80},
        }}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
    });
    let container = json!({"image": namespace.cluster.scripted, "env": [action()]});
    applied(namespace, &json!({"autoscaling": autoscaling, "containers": [container]}))?;
    namespace.ready(SERVICE)?;
    let service = namespace.get("statefulservice", SERVICE)?;
    holds(&service["spec"]["autoscaling"], &autoscaling, "autoscaling")?;
    let told = condition(&service, "AutoscalingActive");
    ensure!(told["status"] == "False" && told["reason"] == "NotImplemented", "{told}");
    let replicas = namespace.get("deployment", DEPLOYMENT)?["spec"]["replicas"].take();
    ensure!(replicas == 1, "{replicas} replicas");
    Ok(())
}

/// `paused` holds the Deployment as it is until it is taken back, and so leaves alone what a tool restores meanwhile. Later
/// that is the operator's again, down to who claims its fields.
pub(super) fn paused_service_is_held(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    let name = format!("  name: {SERVICE}\n");
    let labelled = format!("{name}  labels: {{team: blue}}\n");
    namespace.apply(&edited(&sample(namespace.cluster)?, &name, &labelled)?)?;
    namespace.ready(SERVICE)?;
    let seconds = |namespace: &Namespace<'_>| -> anyhow::Result<Value> {
        let deployment = namespace.get("deployment", DEPLOYMENT)?;
        let pod = &deployment["spec"]["template"]["spec"];
        Ok(pod["terminationGracePeriodSeconds"].clone())
    };
    let patch = |patch: &Value| {
        let patch = patch.to_string();
        namespace.kubectl(&["patch", "statefulservice", SERVICE, "--type=merge", "--patch", &patch])
    };
    patch(&json!({"spec": {"paused": true, "terminationGracePeriodSeconds": 21}}))?;
    until("the service says that it is paused", READY, || {
        let service = namespace.get("statefulservice", SERVICE)?;
        let ready = condition(&service, "Ready");
        let is_told = ready["reason"] == "Paused" && service["status"]["summary"] == "Paused";
        let current = ready["observedGeneration"] == service["metadata"]["generation"];
        Ok(if is_told && current { Ok(()) } else { Err(service["status"].to_string()) })
    })?;
    ensure!(seconds(namespace)? == 30, "the Deployment was changed: {}", seconds(namespace)?);
    restored_by_another(namespace)?;
    patch(&json!({"spec": {"paused": false}}))?;
    until("what was held is done", READY, || {
        let now = seconds(namespace)?;
        Ok(if now == 21 { Ok(()) } else { Err(now.to_string()) })
    })?;
    // A label stays for as long as anybody claims it.
    namespace.kubectl(&["label", "statefulservice", SERVICE, "team-"])?;
    until("what was given up is gone, whoever has restored it", READY, || {
        let labels = namespace.get("service", SERVICE)?["metadata"]["labels"].take();
        Ok(if labels["team"].is_null() { Ok(()) } else { Err(labels.to_string()) })
    })?;
    let claims = claims_of_another(namespace)?;
    ensure!(!claims.contains("f:app\""), "another claims what is ours: {claims}");
    namespace.ready(SERVICE).map(drop)
}

/// A tool that restores a backup, by the name that it gives to the API server.
const RESTORER: &str = "restorer";

/// Puts the Service there again from a copy, as such a tool does.
fn restored_by_another(namespace: &Namespace<'_>) -> anyhow::Result<()> {
    let mut copy = namespace.get("service", SERVICE)?;
    let metadata = copy["metadata"].as_object_mut().context("an object has metadata")?;
    metadata.retain(|field, _| {
        ["name", "labels", "annotations", "ownerReferences"].contains(&field.as_str())
    });
    let spec = copy["spec"].as_object_mut().context("a Service has a spec")?;
    spec.retain(|field, _| ["type", "selector", "ports"].contains(&field.as_str()));
    namespace.kubectl(&["delete", "service", SERVICE])?;
    namespace.create_as(RESTORER, &copy)?;
    let claims = claims_of_another(namespace)?;
    ensure!(claims.contains("f:team"), "it does not claim the label: {claims}");
    Ok(())
}

/// What that tool claims of the Service.
fn claims_of_another(namespace: &Namespace<'_>) -> anyhow::Result<String> {
    let shown = ["get", "service", SERVICE, "--show-managed-fields", "--output=json"];
    let service: Value = serde_json::from_str(&namespace.kubectl(&shown)?)?;
    let all = service["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    Ok(all.iter().filter(|claim| claim["manager"] == RESTORER).map(Value::to_string).collect())
}

/// Every field of both statuses, of a service that is ready.
pub(super) fn status_says_what_runs(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&sample(namespace.cluster)?)?;
    namespace.ready(SERVICE)?;
    let (wanted, _) = until("the status is complete", READY, || {
        let service = namespace.get("statefulservice", SERVICE)?;
        let deployment = namespace.get("deployment", DEPLOYMENT)?;
        let uid = &service["metadata"]["uid"];
        let uid = uid.as_str().context("an object has a uid")?;
        let sidecar = container(&deployment["spec"]["template"], SIDECAR)?;
        let wanted = json!({
            "observedGeneration": service["metadata"]["generation"],
            "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1,
            "selector": format!("cloudstate.io/statefulServiceUID={uid}"),
            "summary": "Ready",
            "store": {"name": STORE, "type": "InMemory", "observedGeneration": 1},
            "proxyImage": sidecar["image"],
        });
        let status = &service["status"];
        let complete = holds(status, &wanted, "status");
        Ok(complete.map(|()| service.clone()).map_err(|error| error.to_string()))
    })?;
    let hash = wanted["status"]["configHash"].as_str().unwrap_or_default();
    ensure!(!hash.is_empty(), "no configHash in {}", wanted["status"]);
    until("the store's status is complete", READY, || {
        let store = namespace.get("statefulstore", STORE)?;
        let told = condition(&store, "Ready");
        let wanted = json!({
            "observedGeneration": store["metadata"]["generation"],
            "type": "InMemory", "dependents": 1, "summary": "Ready",
        });
        ensure!(!told.is_null(), "no condition Ready in {}", store["status"]);
        Ok(holds(&store["status"], &wanted, "status").map_err(|error| error.to_string()))
    })
    .map(drop)
}

/// What a pod may refer to.
fn surroundings(namespace: &Namespace<'_>) -> anyhow::Result<()> {
    for object in [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "carts"}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "flags"},
            "data": {"FLAG": "up"}}),
    ] {
        namespace.apply(&object.to_string())?;
    }
    Ok(())
}

/// Applies a service with that spec, which the API server must keep as it is.
fn applied(namespace: &Namespace<'_>, spec: &Value) -> anyhow::Result<()> {
    let service = json!({
        "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulService",
        "metadata": {"name": SERVICE}, "spec": spec,
    });
    namespace.apply(&service.to_string())?;
    holds(&namespace.get("statefulservice", SERVICE)?["spec"], spec, "spec")
}

/// Makes the scripted user function one action.
fn action() -> Value {
    json!({"name": "SCRIPT_ENTITY_TYPE", "value": "cloudstate.action.ActionProtocol"})
}

/// Whether all that is wanted is there; there may be more in objects and lists.
pub(super) fn holds(actual: &Value, wanted: &Value, path: &str) -> anyhow::Result<()> {
    match (actual, wanted) {
        (Value::Object(actual), Value::Object(wanted)) => {
            wanted.iter().try_for_each(|(key, value)| {
                let found = actual.get(key).unwrap_or(&Value::Null);
                holds(found, value, &format!("{path}.{key}"))
            })
        }
        (Value::Array(actual), Value::Array(wanted)) => wanted.iter().try_for_each(|value| {
            let is_there = actual.iter().any(|item| holds(item, value, path).is_ok());
            ensure!(is_there, "{path} lacks {value}: it is {}", json!(actual));
            Ok(())
        }),
        _ => {
            ensure!(actual == wanted, "{path} is {actual}, not {wanted}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_may_be_there_and_nothing_may_be_missing() {
        let actual = json!({"a": [{"b": 1, "c": 2}, {"b": 2}], "d": "e"});
        for wanted in [json!({}), json!({"a": [{"b": 2}, {"c": 2}]}), json!({"d": "e", "f": null})]
        {
            assert!(holds(&actual, &wanted, "x").is_ok(), "{wanted}");
        }
        for wanted in [json!({"a": [{"b": 3}]}), json!({"d": "f"}), json!({"f": {}}), json!([])] {
            assert!(holds(&actual, &wanted, "x").is_err(), "{wanted}");
        }
    }
}
