//! What users do, from one state of rest to the next.

use std::collections::BTreeSet;

use api::StatefulService;
use kube::CustomResourceExt;
use scripted_api::Store;
use serde_json::{Value, json};

use crate::world::{
    ACCOUNTS, JARS, LED, PLAIN, SECRETS, Settings, key, memory, postgres, secret, service,
};

/// One change.
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) settings: Settings,
    /// What is there before, and at rest.
    pub(crate) before: Vec<Value>,
    pub(crate) change: Box<dyn Fn(&mut Store)>,
}

impl Scenario {
    fn new(
        name: impl Into<String>,
        settings: Settings,
        before: Vec<Value>,
        change: impl Fn(&mut Store) + 'static,
    ) -> Self {
        Self { name: name.into(), settings, before, change: Box::new(change) }
    }
}

/// Every field of a service's spec with a value that is none it has without.
fn fields() -> Vec<(&'static str, Value)> {
    let constraint = json!({
        "maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": "cart" } },
    });
    vec![
        ("containers", json!([{ "image": "registry.example/cart:2" }])),
        (
            "containers",
            json!([{ "image": "registry.example/cart:1", "ports": [{ "containerPort": 9000 }] }]),
        ),
        (
            "containers",
            json!([
                { "image": "registry.example/cart:1", "env": [{ "name": "A", "value": "b" }] },
                { "name": "extra", "image": "registry.example/extra:1" },
            ]),
        ),
        ("datastore", json!({ "name": "memory" })),
        ("replicas", json!(3)),
        ("autoscaling", json!({ "enabled": true })),
        ("paused", json!(true)),
        ("sidecarResources", json!({ "limits": { "memory": "1Gi" } })),
        ("sidecarJvmMemory", json!("300m")),
        ("serviceAccountName", json!("carts")),
        ("volumes", json!([{ "name": "scratch", "emptyDir": { "sizeLimit": "1Gi" } }])),
        ("nodeSelector", json!({ "disk": "ssd" })),
        ("tolerations", json!([{ "key": "spot", "operator": "Exists" }])),
        (
            "affinity",
            json!({ "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                    { "matchExpressions": [{ "key": "disk", "operator": "Exists" }] },
                ]},
            }}),
        ),
        ("topologySpreadConstraints", json!([constraint])),
        ("priorityClassName", json!("high")),
        ("imagePullSecrets", json!([{ "name": "registry" }])),
        ("podSecurityContext", json!({ "runAsUser": 1000 })),
        ("terminationGracePeriodSeconds", json!(45)),
        ("podLabels", json!({ "example.com/canary": "yes" })),
        ("podAnnotations", json!({ "example.com/scrape": "true" })),
        ("podDisruptionBudget", json!({ "enabled": true, "maxUnavailable": 2 })),
        ("networkPolicy", json!({ "enabled": true })),
    ]
}

fn with_store() -> Value {
    service("cart", &json!({ "datastore": { "name": "carts" } }))
}

/// All of them.
pub(crate) fn all() -> Vec<Scenario> {
    let mut all: Vec<_> = [creations(), deletions(), around()].into_iter().flatten().collect();
    for (field, value) in fields() {
        for (what, before, after) in [
            ("is set", json!({}), json!({ field: value })),
            ("goes", json!({ field: value }), json!({})),
        ] {
            let name = format!("{field} {what}");
            let before = vec![memory(), service("cart", &before)];
            let after = service("cart", &after);
            all.push(Scenario::new(name, PLAIN, before, move |store| drop(store.put(&after))));
        }
        if field == "datastore" {
            continue;
        }
        let stored = |spec: Value| {
            let mut stored = service("cart", &spec);
            stored["spec"]["datastore"] = json!({ "name": "memory" });
            stored
        };
        let name = format!("{field} is set beside a store");
        let before = vec![memory(), stored(json!({}))];
        let after = stored(json!({ field: value }));
        all.push(Scenario::new(name, PLAIN, before, move |store| drop(store.put(&after))));
    }
    all
}

/// From nothing to something, and what a store and its Secret do to it.
fn creations() -> Vec<Scenario> {
    vec![
        Scenario::new("create", PLAIN, vec![], |store| {
            store.put(&service("cart", &json!({})));
        }),
        Scenario::new("create, by the one that leads", LED, vec![], |store| {
            store.put(&service("cart", &json!({})));
        }),
        Scenario::new("create with everything", SECRETS, vec![], |store| {
            store.put(&service("cart", &json!({
                "datastore": { "name": "carts" }, "replicas": 3,
                "podDisruptionBudget": { "enabled": true }, "networkPolicy": { "enabled": true },
            })));
            store.put(&postgres("db"));
            store.put(&secret("MQ=="));
        }),
        Scenario::new(
            "store changes",
            SECRETS,
            vec![with_store(), postgres("db"), secret("MQ==")],
            |store| {
                store.put(&postgres("db2"));
            },
        ),
        Scenario::new(
            "store goes bad",
            SECRETS,
            vec![with_store(), postgres("db"), secret("MQ==")],
            |store| {
                let mut bad = postgres("db");
                bad["spec"]["type"] = json!("Oracle");
                store.put(&bad);
            },
        ),
        Scenario::new("store comes last", SECRETS, vec![with_store(), secret("MQ==")], |store| {
            store.put(&postgres("db"));
        }),
        Scenario::new(
            "secret changes",
            SECRETS,
            vec![with_store(), postgres("db"), secret("MQ==")],
            |store| {
                store.put(&secret("Mg=="));
            },
        ),
        Scenario::new("secret comes last", SECRETS, vec![with_store(), postgres("db")], |store| {
            store.put(&secret("MQ=="));
        }),
    ]
}

/// What goes, or gets another name.
fn deletions() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "service account of its own is renamed",
            ACCOUNTS,
            vec![service("cart", &json!({}))],
            |store| {
                store.put(&service("cart", &json!({ "serviceAccountName": "carts" })));
            },
        ),
        Scenario::new(
            "service account with rights is renamed",
            JARS,
            vec![
                service("cart", &json!({ "serviceAccountName": "carts" })),
                service("stock", &json!({})),
            ],
            |store| {
                store.put(&service("cart", &json!({ "serviceAccountName": "carts2" })));
            },
        ),
        Scenario::new("delete", PLAIN, vec![service("cart", &json!({ "replicas": 3 }))], |store| {
            store.delete(&key("StatefulService", "cart"), &Value::Null).unwrap();
        }),
        Scenario::new(
            "delete the last one with rights",
            JARS,
            vec![service("cart", &json!({}))],
            |store| {
                store.delete(&key("StatefulService", "cart"), &Value::Null).unwrap();
            },
        ),
        Scenario::new(
            "delete and create anew",
            PLAIN,
            vec![service("cart", &json!({}))],
            |store| {
                store.delete(&key("StatefulService", "cart"), &Value::Null).unwrap();
                store.put(&service("cart", &json!({ "replicas": 2 })));
            },
        ),
        Scenario::new("delete a child", PLAIN, vec![service("cart", &json!({}))], |store| {
            store.delete(&key("Deployment", "cart-deployment"), &Value::Null).unwrap();
        }),
        Scenario::new(
            "a hand changes the Deployment",
            PLAIN,
            vec![service("cart", &json!({}))],
            |store| {
                let mut found =
                    (*store.get(&key("Deployment", "cart-deployment")).unwrap()).clone();
                let container = &mut found["spec"]["template"]["spec"]["containers"][0];
                container["image"] = json!("registry.example/other:1");
                container["env"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({ "name": "HAND", "value": "1" }));
                store.put(&found);
            },
        ),
    ]
}

/// What changes around a service, and by hands.
fn around() -> Vec<Scenario> {
    let stored = || vec![with_store(), postgres("db"), secret("MQ==")];
    let plain = || vec![service("cart", &json!({}))];
    let edit = |store: &mut Store, kind: &str, name: &str, edit: &dyn Fn(&mut Value)| {
        let mut found = (*store.get(&key(kind, name)).unwrap()).clone();
        edit(&mut found);
        store.put(&found);
    };
    vec![
        Scenario::new("a label is set", PLAIN, plain(), move |store| {
            edit(store, "StatefulService", "cart", &|found| {
                found["metadata"]["labels"] = json!({ "team": "checkout" });
            });
        }),
        Scenario::new("a restart is asked for", PLAIN, plain(), move |store| {
            edit(store, "StatefulService", "cart", &|found| {
                let when = json!({ "cloudstate.io/restartedAt": "2026-01-01T00:00:00Z" });
                found["metadata"]["annotations"] = when;
            });
        }),
        Scenario::new("the namespace opts out", PLAIN, plain(), |store| {
            store.put(&json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {
                    "name": "shop", "annotations": { "cloudstate.io/watch": "disabled" },
                },
            }));
        }),
        Scenario::new("a hand deletes the Service", PLAIN, plain(), |store| {
            store.delete(&key("Service", "cart"), &Value::Null).unwrap();
        }),
        Scenario::new("a hand deletes both", PLAIN, plain(), |store| {
            store.delete(&key("Service", "cart"), &Value::Null).unwrap();
            store.delete(&key("Deployment", "cart-deployment"), &Value::Null).unwrap();
        }),
        Scenario::new("a hand scales", PLAIN, plain(), move |store| {
            edit(store, "Deployment", "cart-deployment", &|found| {
                found["spec"]["replicas"] = json!(5);
            });
        }),
        Scenario::new("a hand changes the Service", PLAIN, plain(), move |store| {
            edit(store, "Service", "cart", &|found| {
                found["spec"]["ports"][0]["targetPort"] = json!(1);
            });
        }),
        Scenario::new("the store is deleted", SECRETS, stored(), |store| {
            store.delete(&key("StatefulStore", "carts"), &Value::Null).unwrap();
        }),
        Scenario::new("the secret is deleted", SECRETS, stored(), |store| {
            store.delete(&key("Secret", "db"), &Value::Null).unwrap();
        }),
        Scenario::new("the store gets a port and a schema", SECRETS, stored(), move |store| {
            edit(store, "StatefulStore", "carts", &|found| {
                found["spec"]["config"]["port"] = json!(5433);
                found["spec"]["config"]["credentials"] = json!({ "schema": "carts" });
            });
        }),
        Scenario::new(
            "another store is named",
            SECRETS,
            [stored(), vec![memory()]].concat(),
            |store| {
                store.put(&service("cart", &json!({ "datastore": { "name": "memory" } })));
            },
        ),
        Scenario::new("store and service change together", SECRETS, stored(), |store| {
            store.put(&postgres("db2"));
            store.put(&service(
                "cart",
                &json!({
                    "datastore": { "name": "carts" }, "replicas": 2, "podDisruptionBudget": {},
                }),
            ));
        }),
        Scenario::new("two services share rights", JARS, plain(), |store| {
            store.put(&service("stock", &json!({ "serviceAccountName": "stock" })));
        }),
        Scenario::new(
            "accounts of their own, and all goes",
            ACCOUNTS,
            vec![service("cart", &json!({})), service("stock", &json!({}))],
            |store| {
                store.delete(&key("StatefulService", "cart"), &Value::Null).unwrap();
                store.delete(&key("StatefulService", "stock"), &Value::Null).unwrap();
            },
        ),
    ]
}

#[test]
fn every_field_of_a_service_is_changed() {
    let definition = serde_json::to_value(StatefulService::crd()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let known = schema["properties"]["spec"]["properties"].as_object().unwrap();
    let known: BTreeSet<_> = known.keys().map(String::as_str).collect();
    let changed: BTreeSet<_> = fields().into_iter().map(|(field, _)| field).collect();
    assert_eq!(changed, known);
}
