//! The spec of a service: its containers, and everything around them.

use serde_json::{Map, Value, json};

use super::containers::containers;
use super::{Dice, STORE, map, pairs};

pub(super) fn spec(dice: &mut Dice, has_store: bool) -> Value {
    let volumes = dice.some_of(&["settings", "scratch", "varlog"]);
    let mut spec = map(json!({ "containers": containers(dice, &volumes) }));
    if !volumes.is_empty() {
        spec.insert("volumes".to_owned(), volumes.iter().map(|name| volume(name)).collect());
    }
    if has_store {
        let mut datastore = map(json!({ "name": STORE }));
        // A Cassandra needs a keyspace, and other stores do not read it.
        let mut config = map(json!({ "keyspace": "carts" }));
        dice.field(&mut config, "schema", |_| json!("carts"));
        datastore.insert("config".to_owned(), Value::Object(config));
        spec.insert("datastore".to_owned(), Value::Object(datastore));
    }
    dice.field(&mut spec, "replicas", |dice| json!(dice.number(0..=4)));
    dice.field(&mut spec, "autoscaling", autoscaling);
    dice.field(&mut spec, "serviceAccountName", |dice| json!(dice.one(&["carts", "carts.v2"])));
    memory(dice, &mut spec);
    placement(dice, &mut spec);
    dice.field(&mut spec, "terminationGracePeriodSeconds", |dice| json!(dice.number(0..=120)));
    dice.field(&mut spec, "podLabels", |dice| {
        pairs(&dice.some_of(&[("app", "pods"), ("example.com/canary", "yes")]))
    });
    dice.field(&mut spec, "podAnnotations", |dice| {
        pairs(&dice.some_of(&[
            ("example.com/scrape", "true"),
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "5432"),
        ]))
    });
    dice.field(&mut spec, "podDisruptionBudget", |dice| {
        dice.one(&[
            json!({}),
            json!({ "enabled": false }),
            json!({ "maxUnavailable": 2 }),
            json!({ "enabled": true, "maxUnavailable": "25%" }),
        ])
    });
    dice.field(&mut spec, "networkPolicy", |dice| {
        dice.one(&[json!({}), json!({ "enabled": true }), json!({ "enabled": false })])
    });
    Value::Object(spec)
}

fn volume(name: &str) -> Value {
    let source = match name {
        "settings" => {
            json!({ "configMap": { "name": "settings", "items": [{ "key": "a", "path": "b" }] } })
        }
        "scratch" => json!({ "emptyDir": { "sizeLimit": "1Gi" } }),
        _ => json!({ "emptyDir": { "medium": "Memory" } }),
    };
    let mut volume = map(source);
    volume.insert("name".to_owned(), json!(name));
    Value::Object(volume)
}

fn autoscaling(dice: &mut Dice) -> Value {
    let mut fields = Map::new();
    dice.field(&mut fields, "enabled", |dice| json!(dice.flip()));
    for name in ["userFunctionTargetConcurrency", "requestTargetConcurrency"] {
        dice.field(&mut fields, name, |dice| json!(dice.number(1..=100)));
    }
    for name in [
        "targetConcurrencyWindow",
        "scaleUpStableDeadline",
        "scaleDownStableDeadline",
        "requestRateWindow",
    ] {
        dice.field(&mut fields, name, |dice| json!(dice.one(&["1m", "30s", "6 seconds", "1.5h"])));
    }
    dice.field(&mut fields, "requestRateThresholdFactor", |dice| dice.one(&[json!(1), json!(1.5)]));
    Value::Object(fields)
}

fn memory(dice: &mut Dice, spec: &mut Map<String, Value>) {
    dice.field(spec, "sidecarResources", |dice| {
        dice.one(&[
            json!({ "limits": { "memory": "2Gi" } }),
            json!({ "requests": { "cpu": "10m", "memory": "1Gi" }, "limits": { "cpu": "1", "memory": "3Gi" } }),
            json!({ "requests": { "cpu": 1 } }),
        ])
    });
    dice.field(spec, "sidecarJvmMemory", |dice| {
        json!(dice.one(&["16m", "64m", "256Mi", "1g", "536870912"]))
    });
}

fn placement(dice: &mut Dice, spec: &mut Map<String, Value>) {
    dice.field(spec, "nodeSelector", |dice| {
        pairs(&dice.some_of(&[("disk", "ssd"), ("kubernetes.io/arch", "amd64")]))
    });
    dice.field(spec, "tolerations", |dice| {
        json!(dice.some_of(&[
            json!({ "operator": "Exists" }),
            json!({ "key": "dedicated", "value": "carts", "effect": "NoSchedule" }),
            json!({ "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30 }),
        ]))
    });
    let fixed = [
        (
            "affinity",
            json!({ "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 1, "podAffinityTerm": {
                "topologyKey": "topology.kubernetes.io/zone", "labelSelector": { "matchLabels": { "app": "carts" } } } }] } }),
        ),
        (
            "topologySpreadConstraints",
            json!([{ "maxSkew": 2, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": { "matchLabels": { "app": "carts" } } }]),
        ),
        ("imagePullSecrets", json!([{ "name": "registry" }, { "name": "registry.backup" }])),
        ("podSecurityContext", json!({ "runAsNonRoot": true, "runAsUser": 1000, "fsGroup": 2000 })),
    ];
    for (name, value) in fixed {
        dice.field(spec, name, |_| value);
    }
    // The API server knows this one without its being made.
    dice.field(spec, "priorityClassName", |_| json!("system-cluster-critical"));
}
