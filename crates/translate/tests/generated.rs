//! Whatever a valid spec says: what holds of every one of some hundred generated services.

#![expect(clippy::unwrap_used, reason = "a broken case may end the test")]

use std::collections::BTreeSet;

use api::contract::annotation;
use serde_json::{Value, json};
use translate::generated::{Case, case, pair};
use translate::{Inputs, Objects, Observed, render, validate};

/// How many services are looked at.
const CASES: u64 = 300;
/// How many edits of a service are looked at.
const PAIRS: u64 = 2_000;

fn objects(case: &Case, inputs: &Inputs) -> Objects {
    let plan = validate(&case.settings, &case.service, inputs)
        .unwrap_or_else(|problems| panic!("{problems}\n{}", json!(case.service)));
    render(&case.settings, &plan)
}

fn fresh(case: &Case) -> Objects {
    objects(case, &case.inputs())
}

fn json_of(objects: Objects) -> Vec<Value> {
    objects.into_iter().map(|object| serde_json::to_value(object).unwrap()).collect()
}

#[test]
fn nothing_valid_is_refused() {
    for seed in 0..CASES {
        fresh(&case(seed));
    }
}

#[test]
fn the_same_service_gives_the_same_bytes() {
    for seed in 0..CASES {
        let bytes = || serde_json::to_string(&json_of(fresh(&case(seed)))).unwrap();
        assert_eq!(bytes(), bytes(), "case {seed}");
    }
}

/// Server-side apply merges these lists by key, and refuses two entries with one.
#[test]
fn lists_that_are_merged_by_a_key_have_each_key_once() {
    const KEYS: [(&str, &[&str]); 8] = [
        ("containers", &["name"]),
        ("initContainers", &["name"]),
        ("env", &["name"]),
        ("ports", &["containerPort", "port", "protocol"]),
        ("volumeMounts", &["mountPath"]),
        ("volumes", &["name"]),
        ("imagePullSecrets", &["name"]),
        ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ];
    fn look(value: &Value, at: &str, seed: u64) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    look(value, name, seed);
                }
            }
            Value::Array(items) => {
                if let Some((_, keys)) = KEYS.iter().find(|(list, _)| *list == at) {
                    let key = |item: &Value| {
                        keys.iter().map(|key| item[*key].to_string()).collect::<Vec<_>>()
                    };
                    let distinct: BTreeSet<_> = items.iter().map(key).collect();
                    assert_eq!(distinct.len(), items.len(), "case {seed}: {at} is {value}");
                }
                for item in items {
                    look(item, "", seed);
                }
            }
            _ => {}
        }
    }
    for seed in 0..CASES {
        for object in json_of(fresh(&case(seed))) {
            look(&object, "", seed);
        }
    }
}

#[test]
fn pods_carry_what_they_are_selected_by() {
    for seed in 0..CASES {
        let spec = fresh(&case(seed)).deployment.spec.unwrap();
        let labels = spec.template.metadata.unwrap().labels.unwrap();
        for (key, value) in spec.selector.match_labels.unwrap() {
            assert_eq!(labels.get(&key), Some(&value), "case {seed}");
        }
    }
}

#[test]
fn rights_come_before_pods_and_only_for_proxies_made_of_jars() {
    for seed in 0..CASES {
        let case = case(seed);
        let kinds: Vec<_> = fresh(&case).into_iter().map(|object| object.kind()).collect();
        assert_eq!(kinds.last(), Some(&"Deployment"), "case {seed}");
        let annotations = case.service.metadata.annotations.unwrap_or_default();
        let is_jvm = annotations.contains_key(annotation::PROXY_KIND);
        assert_eq!(kinds.contains(&"RoleBinding"), is_jvm, "case {seed}: {kinds:?}");
    }
}

/// An edit ends where a service that was always like this is, whatever it was before. Until pods of
/// another kind of proxy are gone, they are replaced otherwise, and nothing else differs.
#[test]
fn what_a_service_was_before_leaves_no_trace() {
    for seed in 0..PAIRS {
        let (before, after) = pair(seed);
        let mut deployment = *fresh(&before).deployment;
        let edit = |deployment: &_| {
            // But for how many pods there were at first, which stays on purpose.
            let observed = Observed { initial_replicas: None, ..Observed::of(deployment) };
            let inputs = Inputs { deployment: Some(observed), ..after.inputs() };
            objects(&after, &inputs)
        };
        let wanted = fresh(&after);
        let first = edit(&deployment);
        if annotation_of(&deployment) == annotation_of(&wanted.deployment) {
            assert_eq!(first, wanted, "pair {seed}");
            continue;
        }
        let strategy = first.deployment.spec.as_ref().unwrap().strategy.clone().unwrap();
        assert_eq!(strategy.type_.as_deref(), Some("Recreate"), "pair {seed}");
        // Not yet done: it stays like this.
        deployment = (*first.deployment).clone();
        assert_eq!(edit(&deployment), first, "pair {seed}");
        // Every pod is of the newest template.
        let replicas = deployment.spec.as_ref().unwrap().replicas;
        let status = json!({ "replicas": replicas, "updatedReplicas": replicas });
        deployment.status = Some(serde_json::from_value(status).unwrap());
        assert_eq!(edit(&deployment), wanted, "pair {seed}");
    }
}

fn annotation_of(deployment: &k8s_openapi::api::apps::v1::Deployment) -> Option<String> {
    let template = deployment.spec.as_ref()?.template.metadata.as_ref()?;
    template.annotations.as_ref()?.get(annotation::CLUSTER_PROTOCOL).cloned()
}
