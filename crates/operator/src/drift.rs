//! How a live object differs from the one we want. Pure.
//!
//! Server-side apply puts back what was changed or removed, but leaves what others added. In lists
//! that are ours as a whole (containers and their variables, ports, mounts; volumes) an addition is
//! drift too, so it is looked for here and removed by a patch.

use serde_json::{Map, Value, json};

/// Lists whose items are known by one of their fields.
const MERGE_KEYS: [(&str, &[&str]); 6] = [
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("env", &["name"]),
    ("ports", &["containerPort", "port"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];

/// Fields that hold quantities, which the API server spells its own way.
const QUANTITIES: [&str; 3] = ["limits", "requests", "sizeLimit"];

/// The field that says what pods run as, and what it was called once.
const ACCOUNT: [&str; 2] = ["serviceAccountName", "serviceAccount"];

/// Whether everything that we want is there as we want it.
pub(crate) fn holds(wanted: &Value, live: &Value) -> bool {
    field_holds("", wanted, live)
}

fn field_holds(field: &str, wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().all(|(key, wanted)| {
            // Below `limits` stand the names of resources.
            let field = if QUANTITIES.contains(&field) { field } else { key };
            match live.get(key) {
                Some(live) => field_holds(field, wanted, live),
                // The API server leaves out what says nothing, such as `stdin: false`.
                None => says_nothing(wanted),
            }
        }),
        (Value::Array(wanted), Value::Array(live)) => {
            let held = |(index, item): (usize, &Value)| {
                let live = match merge_key(field, item) {
                    Some(key) => live.iter().find(|other| is_same_item(key, item, other)),
                    None => live.get(index),
                };
                live.is_some_and(|live| field_holds("", item, live))
            };
            wanted.len() <= live.len() && wanted.iter().enumerate().all(held)
        }
        (Value::String(wanted), Value::String(live)) if QUANTITIES.contains(&field) => {
            wanted == live || same_amount(wanted, live)
        }
        _ => wanted == live,
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

/// The strategic merge patch that removes what others added to lists of ours, and what was given up and
/// stays in another field: an earlier strategy of a Deployment, which the API server refuses beside the
/// one now, and an account, which it keeps twice. A Deployment that a hand has paused goes on.
pub(crate) fn surplus(wanted: &Value, live: &Value) -> Option<Value> {
    let mut patch = surplus_in_lists(wanted, live);
    let strategy = &wanted["spec"]["strategy"];
    if strategy["type"] == "Recreate" && !live["spec"]["strategy"]["rollingUpdate"].is_null() {
        let patch = patch.get_or_insert_with(|| json!({}));
        patch["spec"]["strategy"] = json!({ "type": "Recreate", "rollingUpdate": null });
    }
    let is_deployment = wanted["spec"]["template"].is_object();
    if is_deployment && live["spec"]["paused"] == true && wanted["spec"]["paused"] != true {
        patch.get_or_insert_with(|| json!({}))["spec"]["paused"] = Value::Null;
    }
    if has_former_account(&wanted["spec"]["template"]["spec"], &live["spec"]["template"]["spec"]) {
        let pod = &mut patch.get_or_insert_with(|| json!({}))["spec"]["template"]["spec"];
        for field in ACCOUNT {
            pod[field] = Value::Null;
        }
    }
    patch
}

/// Whether pods run as an account that is wanted no more. The API server copies each of the two fields to
/// the other, so that server-side apply, which takes away the one that was applied, gets it back.
fn has_former_account(wanted: &Value, live: &Value) -> bool {
    let account = |pod: &Value| {
        let mut accounts = ACCOUNT.iter().filter_map(|field| pod[*field].as_str());
        accounts.find(|account| !account.is_empty()).map(str::to_owned)
    };
    // Without a name, pods run as `default`, and it is not worth starting them anew to say so.
    wanted.is_object()
        && account(wanted).is_none()
        && account(live).is_some_and(|account| account != "default")
}

fn surplus_in_lists(wanted: &Value, live: &Value) -> Option<Value> {
    let (wanted, live) = (wanted.as_object()?, live.as_object()?);
    let nothing = Value::Null;
    let mut patch = Map::new();
    for (field, live) in live {
        let wanted = wanted.get(field).unwrap_or(&nothing);
        let removal = match live {
            Value::Array(items) => surplus_items(field, wanted, items),
            Value::Object(_) => surplus_in_lists(wanted, live),
            _ => None,
        };
        if let Some(removal) = removal {
            patch.insert(field.clone(), removal);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn surplus_items(field: &str, wanted: &Value, live: &[Value]) -> Option<Value> {
    let mut patches = Vec::new();
    for item in live {
        let key = merge_key(field, item)?;
        let ours = wanted.as_array().into_iter().flatten();
        let patch = match ours.into_iter().find(|ours| is_same_item(key, ours, item)) {
            Some(ours) => surplus_in_lists(ours, item),
            None => Some(json!({ "$patch": "delete" })),
        };
        if let Some(Value::Object(mut patch)) = patch {
            patch.insert(key.to_owned(), item[key].clone());
            patches.push(Value::Object(patch));
        }
    }
    (!patches.is_empty()).then_some(Value::Array(patches))
}

fn merge_key(field: &str, item: &Value) -> Option<&'static str> {
    let (_, keys) = MERGE_KEYS.iter().find(|(name, _)| *name == field)?;
    keys.iter().copied().find(|key| item.get(key).is_some())
}

/// Whether both are the same item of a list. Of one number there may be a port for each protocol.
fn is_same_item(key: &str, a: &Value, b: &Value) -> bool {
    let protocol = |item: &Value| item["protocol"].as_str().unwrap_or("TCP").to_owned();
    let is_port = ["containerPort", "port"].contains(&key);
    a.get(key) == b.get(key) && (!is_port || protocol(a) == protocol(b))
}

/// Whether two quantities are the same though spelled in different ways, such as `0.5` and `500m`.
fn same_amount(a: &str, b: &str) -> bool {
    let (Some(a), Some(b)) = (amount(a), amount(b)) else { return false };
    (a - b).abs() <= f64::EPSILON * 4.0 * a.abs().max(b.abs())
}

fn amount(quantity: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 14] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
    ];
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((quantity.strip_suffix(unit)?, factor)));
    let (number, factor) = unit.unwrap_or((quantity, &1.0));
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: &Value) -> Value {
        json!({ "spec": { "template": { "spec": { "containers": containers } } } })
    }

    #[test]
    fn defaults_of_the_api_server_are_no_drift() {
        let wanted = pod(&json!([{
            "name": "a", "stdin": false, "env": [{ "name": "E", "value": "" }],
            "resources": { "limits": { "cpu": "0.5", "memory": "1024Mi" } },
        }]));
        let live = pod(&json!([{
            "name": "a", "env": [{ "name": "E" }], "terminationMessagePath": "/dev/x",
            "resources": { "limits": { "cpu": "500m", "memory": "1Gi" } },
        }]));
        assert!(holds(&wanted, &live));
        assert_eq!(surplus(&wanted, &live), None);
    }

    #[test]
    fn a_changed_or_missing_field_is_drift() {
        let wanted = json!({ "metadata": { "labels": { "a": "1" } }, "spec": { "replicas": 1 } });
        for live in [
            json!({ "metadata": { "labels": { "a": "2" } }, "spec": { "replicas": 1 } }),
            json!({ "metadata": { "labels": {} }, "spec": { "replicas": 1 } }),
            json!({ "metadata": { "labels": { "a": "1" } }, "spec": { "replicas": 2 } }),
        ] {
            assert!(!holds(&wanted, &live), "{live}");
        }
    }

    #[test]
    fn what_a_rolling_update_leaves_gives_way_to_recreate() {
        let wanted = json!({ "spec": { "strategy": { "type": "Recreate" } } });
        let rolling = json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1 } });
        let live = json!({ "spec": { "strategy": rolling } });
        let patch = surplus(&wanted, &live).unwrap();
        let expected = json!({ "type": "Recreate", "rollingUpdate": null });
        assert_eq!(patch, json!({ "spec": { "strategy": expected } }));
        assert_eq!(
            surplus(&wanted, &json!({ "spec": { "strategy": { "type": "Recreate" } } })),
            None
        );
        assert_eq!(surplus(&live, &live), None);
    }

    #[test]
    fn an_account_that_is_given_up_goes_under_both_its_names() {
        let pod = |pod: Value| json!({ "spec": { "template": { "spec": pod } } });
        let wanted = pod(json!({ "containers": [] }));
        let both = |name: &str| pod(json!({ "serviceAccountName": name, "serviceAccount": name }));
        let expected = pod(json!({ "serviceAccountName": null, "serviceAccount": null }));
        assert_eq!(surplus(&wanted, &both("carts")), Some(expected));
        assert_eq!(surplus(&wanted, &both("default")), None);
        assert_eq!(surplus(&wanted, &wanted), None);
        assert_eq!(surplus(&both("carts"), &both("former")), None);
        // An object without pods runs as nobody.
        assert_eq!(surplus(&json!({}), &both("carts")), None);
    }

    #[test]
    fn a_deployment_that_a_hand_has_paused_goes_on() {
        let wanted = pod(&json!([{ "name": "a" }]));
        let mut live = wanted.clone();
        live["spec"]["paused"] = json!(true);
        assert_eq!(surplus(&wanted, &live), Some(json!({ "spec": { "paused": null } })));
        live["spec"]["paused"] = json!(false);
        assert_eq!(surplus(&wanted, &live), None);
    }

    #[test]
    fn ports_of_one_number_are_known_by_their_protocols() {
        let port = |protocol| json!({ "containerPort": 53, "protocol": protocol });
        let ports = |ports: &[Value]| pod(&json!([{ "name": "a", "ports": ports }]));
        let both = ports(&[port("TCP"), port("UDP")]);
        assert!(holds(&both, &both));
        assert!(holds(&both, &ports(&[port("UDP"), port("TCP")])));
        assert!(!holds(&both, &ports(&[port("TCP")])));
        assert!(surplus(&ports(&[port("TCP")]), &both).is_some());
    }

    #[test]
    fn foreign_labels_and_annotations_are_left() {
        let wanted = json!({ "metadata": { "labels": { "a": "1" } } });
        let live = json!({ "metadata": { "labels": { "a": "1", "b": "2" }, "annotations": { "c": "3" } } });
        assert!(holds(&wanted, &live));
        assert_eq!(surplus(&wanted, &live), None);
    }

    #[test]
    fn additions_to_lists_of_ours_are_removed_and_nothing_else() {
        let wanted = pod(&json!([{ "name": "a", "env": [{ "name": "E", "value": "1" }] }]));
        let live = pod(&json!([
            { "name": "a", "env": [{ "name": "E", "value": "1" }, { "name": "F", "value": "2" }] },
            { "name": "b" },
        ]));
        let expected = pod(&json!([
            { "name": "a", "env": [{ "name": "F", "$patch": "delete" }] },
            { "name": "b", "$patch": "delete" },
        ]));
        assert_eq!(surplus(&wanted, &live), Some(expected));
    }
}
