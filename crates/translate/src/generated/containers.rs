//! Containers: the user function, and up to two beside it.

use serde_json::{Map, Value, json};

use super::{Dice, map};

/// Volumes that the spec has, and that containers may mount.
pub(super) fn containers(dice: &mut Dice, volumes: &[&str]) -> Value {
    let mut all = vec![user_function(dice, volumes)];
    for (name, port) in [("audit", 9301), ("ship-logs", 9302)] {
        if dice.number(0..=2) == 0 {
            all.push(beside(dice, volumes, name, port));
        }
    }
    json!(all)
}

fn user_function(dice: &mut Dice, volumes: &[&str]) -> Value {
    let mut container = any(dice, volumes);
    dice.field(&mut container, "name", |dice| json!(dice.one(&["cart", "user-container", ""])));
    dice.field(&mut container, "ports", |dice| {
        let ports = [
            json!({ "containerPort": 9000 }),
            json!({ "containerPort": 9001, "name": "http", "protocol": "TCP" }),
            json!({ "containerPort": 9001, "protocol": "UDP" }),
            json!({ "containerPort": 9003, "name": "debug" }),
        ];
        let mut some = dice.some_of(&ports);
        // The user function is called by TCP.
        if some.first().is_some_and(|port| port["protocol"] == "UDP") {
            some.insert(0, json!({ "containerPort": 9005, "name": "user-port" }));
        }
        json!(some)
    });
    dice.field(&mut container, "stdin", |_| json!(true));
    dice.field(&mut container, "tty", |_| json!(true));
    Value::Object(container)
}

fn beside(dice: &mut Dice, volumes: &[&str], name: &str, port: i32) -> Value {
    let mut container = any(dice, volumes);
    container.insert("name".to_owned(), json!(name));
    dice.field(&mut container, "ports", |_| json!([{ "containerPort": port, "name": name }]));
    Value::Object(container)
}

/// What any container may have.
fn any(dice: &mut Dice, volumes: &[&str]) -> Map<String, Value> {
    let images = [
        "registry.example/cart:1.2",
        "registry.example:5000/cart",
        "cart:latest",
        "registry.example/cart@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    ];
    let mut container = map(json!({ "image": dice.one(&images) }));
    let fixed = [
        ("command", json!(["/cart"])),
        ("args", json!(["--verbose", "$(PORT)"])),
        ("workingDir", json!("/srv")),
        (
            "envFrom",
            json!([{ "configMapRef": { "name": "flags", "optional": true } }, { "prefix": "DB_", "secretRef": { "name": "db" } }]),
        ),
        ("terminationMessagePath", json!("/tmp/last-words")),
        (
            "securityContext",
            json!({ "runAsUser": 1000, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } }),
        ),
        (
            "lifecycle",
            json!({ "preStop": { "exec": { "command": ["/stop"] } }, "postStart": { "httpGet": { "path": "/started", "port": 8081 } } }),
        ),
        ("resizePolicy", json!([{ "resourceName": "cpu", "restartPolicy": "NotRequired" }])),
        ("startupProbe", json!({ "exec": { "command": ["/started"] }, "failureThreshold": 60 })),
        ("livenessProbe", json!({ "tcpSocket": { "port": 8081 }, "periodSeconds": 5 })),
        ("readinessProbe", json!({ "grpc": { "port": 8081 }, "timeoutSeconds": 2 })),
    ];
    for (name, value) in fixed {
        dice.field(&mut container, name, |_| value);
    }
    dice.field(&mut container, "imagePullPolicy", |dice| {
        json!(dice.one(&["Always", "IfNotPresent", "Never"]))
    });
    dice.field(&mut container, "terminationMessagePolicy", |dice| {
        json!(dice.one(&["File", "FallbackToLogsOnError"]))
    });
    dice.field(&mut container, "resources", |dice| {
        dice.one(&[
            json!({ "requests": { "cpu": "100m", "memory": "64Mi" }, "limits": { "memory": "64Mi" } }),
            json!({ "limits": { "cpu": 1, "memory": "1.5Gi", "ephemeral-storage": "1e9" } }),
            json!({}),
        ])
    });
    dice.field(&mut container, "env", |dice| {
        let variables = [
            json!({ "name": "PORT", "value": "1234" }),
            json!({ "name": "MODE", "value": "fast" }),
            json!({ "name": "MODE", "value": "slow" }),
            json!({ "name": "empty.one" }),
            json!({ "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } }),
            json!({ "name": "CPU", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } }),
            json!({ "name": "TOKEN", "valueFrom": { "secretKeyRef": { "name": "token", "key": "t", "optional": true } } }),
            json!({ "name": "FLAG", "valueFrom": { "configMapKeyRef": { "name": "flags", "key": "f" } } }),
        ];
        json!(dice.some_of(&variables))
    });
    dice.field(&mut container, "volumeMounts", |dice| {
        let mounts = dice.some_of(volumes).into_iter();
        let mount = |name: &str| {
            let path =
                if name == "varlog" { "/var/log/".to_owned() } else { format!("/mnt/{name}") };
            json!({ "name": name, "mountPath": path, "readOnly": name != "varlog" })
        };
        json!(mounts.map(mount).collect::<Vec<_>>())
    });
    container
}
