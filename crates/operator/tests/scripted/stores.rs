//! What the operator does for a store: it says what is wrong with it, and holds up its deletion where asked to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scripted_api::{Delivery, Fault, Store, Verb};
use serde_json::{Value, json};

use crate::checks::{holding, soon};
use crate::convergence::assert_silence;
use crate::world::{
    PLAIN, SECRETS, Settings, key, memory, postgres, rest, run_during, secret, service, settle,
};

const PROTECTED: Settings = &[("protect-stores", "on")];

fn condition(store: &Store, name: &str, kind: &str) -> Value {
    let found = store.get(&key("StatefulStore", name)).unwrap();
    let all = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|each| each["type"] == kind).unwrap_or(Value::Null)
}

fn is_guarded(store: &Store) -> bool {
    let found = store.get(&key("StatefulStore", "memory"));
    found.is_some_and(|found| {
        found["metadata"]["finalizers"] == json!(["cloudstate.io/protect-store"])
    })
}

/// A store that is protected goes with the last service that names it.
pub(crate) async fn a_store_goes_after_who_needs_it() {
    let cart = service("cart", &json!({ "datastore": { "name": "memory" } }));
    let server = holding(&[cart, memory()]);
    let connection = server.connect();
    run_during(&connection, PROTECTED, async {
        rest(&connection).await;
        assert!(server.with(|store| is_guarded(store)));
        server.with(|store| store.delete(&key("StatefulStore", "memory"), &Value::Null)).unwrap();
        rest(&connection).await;
        let told = server.with(|store| {
            assert!(store.get(&key("StatefulStore", "memory")).is_some(), "the store is gone");
            condition(store, "memory", "Stalled")
        });
        assert_eq!(told["reason"], "StoreInUse", "{told}");
        assert!(told["message"].as_str().unwrap().contains("delete cart"), "{told}");
        server.with(|store| store.delete(&key("StatefulService", "cart"), &Value::Null)).unwrap();
        soon(&server, "the store goes", |store| {
            store.get(&key("StatefulStore", "memory")).is_none()
        })
        .await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_protected_goes_after_who_needs_it() {
    a_store_goes_after_who_needs_it().await;
}

/// Nobody knows which store a service names that cannot be read, so all of its namespace stay until it can or is gone.
#[tokio::test(start_paused = true)]
async fn a_store_stays_while_a_service_cannot_be_read() {
    let is_there = |store: &Store| store.get(&key("StatefulStore", "memory")).is_some();
    let mut malformed = service("cart", &json!({ "datastore": { "name": "memory" } }));
    malformed["spec"]["replicas"] = json!("three");
    for goes_unseen in [false, true] {
        let server = holding(&[malformed.clone(), memory()]);
        let connection = server.connect();
        run_during(&connection, PROTECTED, async {
            rest(&connection).await;
            let store = key("StatefulStore", "memory");
            server.with(|all| all.delete(&store, &Value::Null)).unwrap();
            rest(&connection).await;
            let told = server.with(|store| {
                assert!(is_there(store), "the store is gone");
                condition(store, "memory", "Stalled")
            });
            let message = told["message"].as_str().unwrap();
            assert!(message.contains("on: put right or delete cart, which cannot"), "{message}");
            if goes_unseen {
                // What is missed is made up for by a list.
                let has_missed = AtomicBool::new(false);
                connection.on_event(move |_, change| {
                    let is_it = change.key.kind.name == "StatefulService"
                        && !has_missed.swap(true, Ordering::Relaxed);
                    if is_it { Delivery::Missed } else { Delivery::Once }
                });
            }
            let service = key("StatefulService", "cart");
            server.with(|all| all.delete(&service, &Value::Null)).unwrap();
            let gone = server.until(|store| !is_there(store));
            let gone = tokio::time::timeout(Duration::from_mins(1), gone).await;
            assert!(gone.is_ok(), "the store stays; unseen: {goes_unseen}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_guard_of_a_store_is_taken_off_with_the_setting() {
    let server = holding(&[memory()]);
    settle(&server, PROTECTED).await;
    assert!(server.with(|store| is_guarded(store)));
    assert_silence(&server, PROTECTED, Duration::from_secs(20), "guarded").await;
    settle(&server, PLAIN).await;
    assert!(!server.with(|store| is_guarded(store)));
    assert_silence(&server, PLAIN, Duration::from_secs(20), "not guarded").await;
}

/// There the guard is of another operator, or of ours from before.
#[tokio::test(start_paused = true)]
async fn a_guard_stays_in_a_namespace_that_is_left_alone() {
    let cart = service("cart", &json!({ "datastore": { "name": "memory" } }));
    let server = holding(&[cart, memory()]);
    settle(&server, PROTECTED).await;
    server.with(|store| {
        store.put(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {
                "name": "shop", "annotations": { "cloudstate.io/watch": "disabled" },
            },
        }));
        store.delete(&key("StatefulStore", "memory"), &Value::Null).unwrap();
    });
    for settings in [PLAIN, PROTECTED] {
        let connection = server.connect();
        run_during(&connection, settings, tokio::time::sleep(Duration::from_mins(3))).await;
        assert!(server.with(|store| is_guarded(store)), "taken off where nothing is ours");
    }
}

/// Who looks after the services there has its own to say about a store that they miss.
#[tokio::test(start_paused = true)]
async fn a_store_that_goes_is_told_where_services_are_looked_after() {
    for is_left_alone in [false, true] {
        let cart = service("cart", &json!({ "datastore": { "name": "memory" } }));
        let server = holding(&[cart, memory()]);
        let connection = server.connect();
        run_during(&connection, PLAIN, async {
            rest(&connection).await;
            if is_left_alone {
                server.with(|store| {
                    drop(store.put(&json!({
                        "apiVersion": "v1", "kind": "Namespace", "metadata": {
                            "name": "shop", "annotations": { "cloudstate.io/watch": "disabled" },
                        },
                    })));
                });
                rest(&connection).await;
            }
            server
                .with(|store| store.delete(&key("StatefulStore", "memory"), &Value::Null))
                .unwrap();
            rest(&connection).await;
        })
        .await;
        let events = server.with(|store| {
            store.all().filter(|(_, object)| object["reason"] == "StoreInUse").count()
        });
        assert_eq!(events, usize::from(!is_left_alone), "left alone: {is_left_alone}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_looked_after_says_so_until_it_can() {
    let server = holding(&[postgres("db"), secret("MQ==")]);
    let connection = server.connect();
    let valid = |store: &Store| {
        let found = condition(store, "carts", "StatefulStoreValid");
        (found["status"].clone(), found["reason"].clone())
    };
    connection.on_call(|call| {
        (call.verb == Verb::Get && call.kind.name == "Secret").then_some(Fault::Refused(500))
    });
    run_during(&connection, SECRETS, async {
        tokio::time::sleep(Duration::from_mins(1)).await;
        let told = server.with(|store| valid(store));
        assert_eq!(told, (json!("Unknown"), json!("UnknownOperatorError")));
        connection.on_call(|_| None);
        tokio::time::sleep(Duration::from_mins(2)).await;
        let told = server.with(|store| valid(store));
        assert_eq!(told, (json!("True"), json!("StoreValid")));
    })
    .await;
}
