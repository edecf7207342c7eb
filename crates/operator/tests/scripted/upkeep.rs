//! What the operator keeps in order once a service is there, and what it says meanwhile.

use std::time::Duration;

use scripted_api::{Fault, Server, Store, Verb};
use serde_json::{Value, json};

use crate::checks::{condition, holding, with_image};
use crate::convergence::assert_silence;
use crate::world::{
    JARS, PLAIN, SECRETS, Settings, key, memory, postgres, rest, run_during, secret, service,
    settle,
};

/// Longer than anything is left unlooked at.
const A_WHILE: Duration = Duration::from_secs(20);

fn deployment(store: &Store) -> Value {
    (*store.get(&key("Deployment", "cart-deployment")).unwrap()).clone()
}

fn pod(server: &Server) -> Value {
    server.with(|store| deployment(store)["spec"]["template"]["spec"].clone())
}

#[tokio::test(start_paused = true)]
async fn an_account_that_is_given_up_is_none_any_more() {
    let server = holding(&[service("cart", &json!({ "serviceAccountName": "carts" }))]);
    settle(&server, PLAIN).await;
    assert_eq!(pod(&server)["serviceAccount"], "carts", "the API server keeps it twice");
    server.with(|store| drop(store.put(&service("cart", &json!({})))));
    settle(&server, PLAIN).await;
    assert_eq!(pod(&server)["serviceAccountName"], Value::Null);
    assert_silence(&server, PLAIN, A_WHILE, "without an account").await;
}

#[tokio::test(start_paused = true)]
async fn one_number_for_two_protocols_is_as_wanted() {
    let ports = json!([
        { "containerPort": 9000 },
        { "containerPort": 9053, "protocol": "TCP" },
        { "containerPort": 9053, "protocol": "UDP" },
    ]);
    let container = json!({ "image": "registry.example/cart:1", "ports": ports });
    let server = holding(&[service("cart", &json!({ "containers": [container] }))]);
    settle(&server, PLAIN).await;
    assert_silence(&server, PLAIN, A_WHILE, "with two protocols").await;
}

#[tokio::test(start_paused = true)]
async fn what_a_deployment_was_made_from_is_not_taken_from_a_service() {
    let mut cart = with_image("cart:1");
    cart["metadata"]["annotations"] = json!({ "cloudstate.io/applied-from": "a b c d" });
    let server = holding(&[cart]);
    settle(&server, PLAIN).await;
    assert_silence(&server, PLAIN, A_WHILE, "with an annotation of ours").await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_reported_on_is_tried_less_and_less_often() {
    let server = holding(&[]);
    let connection = server.connect();
    run_during(&connection, PLAIN, async {
        rest(&connection).await;
        connection.on_call(|call| {
            let is_it = call.verb == Verb::Apply && call.kind.name == "StatefulStore";
            is_it.then_some(Fault::Refused(500))
        });
        let tries = || {
            let calls = connection.calls();
            calls.iter().filter(|call| call.is_status && call.kind.name == "StatefulStore").count()
        };
        server.with(|store| drop(store.put(&memory())));
        tokio::time::sleep(Duration::from_mins(5)).await;
        // Within 1, 2, 4 and so on seconds; each second would make three hundred.
        assert!((5..=24).contains(&tries()), "{} tries", tries());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_goes_unseen_is_missed_after_a_while() {
    let mut unwatched = secret("MQ==");
    unwatched["metadata"]["labels"] = json!({});
    let server = holding(&[postgres("db"), unwatched]);
    let connection = server.connect();
    let reason = |store: &Store| {
        let found = store.get(&key("StatefulStore", "carts")).unwrap();
        found["status"]["conditions"].as_array().into_iter().flatten().any(|condition| {
            condition["type"] == "Ready" && condition["reason"] == "SecretNotFound"
        })
    };
    run_during(&connection, SECRETS, async {
        rest(&connection).await;
        assert!(!server.with(|store| reason(store)));
        server.with(|store| store.delete(&key("Secret", "db"), &Value::Null)).unwrap();
        // Everything is looked at again after 10 to 15 minutes.
        tokio::time::sleep(Duration::from_mins(16)).await;
        assert!(server.with(|store| reason(store)), "the Secret is not missed");
    })
    .await;
}

/// What proxies need of each other depends on how many they began with, and not on how many there are.
#[tokio::test(start_paused = true)]
async fn scaling_starts_no_pods_anew() {
    const AUTO: Settings = &[("proxy.required-contact-points", "auto")];
    for (first, contact_points) in [(1, "1"), (3, "2")] {
        let scaled = |replicas: i32| service("cart", &json!({ "replicas": replicas }));
        let server = holding(&[scaled(first)]);
        settle(&server, AUTO).await;
        let template = |store: &Store| deployment(store)["spec"]["template"].clone();
        let before = server.with(|store| template(store));
        let variable = json!({ "name": "REQUIRED_CONTACT_POINT_NR", "value": contact_points });
        assert!(before.to_string().contains(&variable.to_string()), "{before}");
        for replicas in [2, 1, 4, 0] {
            server.with(|store| drop(store.put(&scaled(replicas))));
            settle(&server, AUTO).await;
            let now = server.with(|store| deployment(store));
            assert_eq!(now["spec"]["replicas"], replicas);
            assert_eq!(now["spec"]["template"], before, "{first} scaled to {replicas}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_a_hand_pauses_goes_on() {
    let server = holding(&[with_image("cart:1")]);
    settle(&server, PLAIN).await;
    let connection = server.connect();
    run_during(&connection, PLAIN, async {
        rest(&connection).await;
        server.with(|store| {
            let mut found = deployment(store);
            found["spec"]["paused"] = json!(true);
            store.put(&found);
        });
        rest(&connection).await;
    })
    .await;
    assert_ne!(server.with(|store| deployment(store)["spec"]["paused"].clone()), true);
}

/// Pods keep what they use until they are others, whatever their service says meanwhile.
#[tokio::test(start_paused = true)]
async fn rights_stay_while_pods_use_them() {
    let with_account = |account: &str, is_paused: bool| {
        service("cart", &json!({ "serviceAccountName": account, "paused": is_paused }))
    };
    let has_right = |store: &Store| {
        store.get(&key("RoleBinding", "cloudstate-read-pods-carts")).is_some()
            && store.get(&key("Role", "cloudstate-pod-reader")).is_some()
    };
    let server = holding(&[with_account("carts", false)]);
    settle(&server, JARS).await;
    assert!(server.with(|store| has_right(store)));
    server.with(|store| drop(store.put(&with_account("other", true))));
    let connection = server.connect();
    run_during(&connection, JARS, tokio::time::sleep(Duration::from_mins(3))).await;
    assert!(server.with(|store| has_right(store)), "taken from a service that is paused");
    server.with(|store| drop(store.put(&with_account("other", false))));
    settle(&server, JARS).await;
    assert!(!server.with(|store| has_right(store)), "kept though no pod uses it");
}

#[tokio::test(start_paused = true)]
async fn rights_stay_in_a_namespace_that_is_left_alone() {
    let server = holding(&[service("cart", &json!({}))]);
    settle(&server, JARS).await;
    server.with(|store| {
        store.put(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {
                "name": "shop", "annotations": { "cloudstate.io/watch": "disabled" },
            },
        }));
        let mut native = service("cart", &json!({}));
        native["metadata"]["annotations"] = json!({ "cloudstate.io/proxy-kind": "native" });
        store.put(&native);
    });
    let connection = server.connect();
    run_during(&connection, JARS, tokio::time::sleep(Duration::from_mins(3))).await;
    let binding = key("RoleBinding", "cloudstate-read-pods-default");
    assert!(server.with(|store| store.get(&binding)).is_some(), "taken where nothing is ours");
}

#[tokio::test(start_paused = true)]
async fn what_keeps_failing_is_told_until_it_goes_well() {
    let resources = |store: &Store| {
        let found = condition(store, "ResourcesAvailable");
        (found["status"].clone(), found["reason"].clone())
    };
    for fault in [Fault::Refused(500), Fault::Refused(429), Fault::Hangs] {
        let server = holding(&[]);
        let connection = server.connect();
        run_during(&connection, PLAIN, async {
            rest(&connection).await;
            connection.on_call(move |call| {
                (call.verb == Verb::Apply && call.kind.name == "Deployment").then_some(fault)
            });
            server.with(|store| drop(store.put(&with_image("cart:1"))));
            tokio::time::sleep(Duration::from_mins(1)).await;
            let told = server.with(|store| resources(store));
            assert_eq!(told, (json!("Unknown"), json!("UnknownError")), "{fault:?}");
            connection.on_call(|_| None);
            tokio::time::sleep(Duration::from_mins(2)).await;
            let told = server.with(|store| resources(store));
            assert_eq!(told, (json!("True"), json!("Applied")), "{fault:?}");
        })
        .await;
    }
}

/// What happens to a service without effect on its pods is no reason to start them without a turn later.
#[tokio::test(start_paused = true)]
async fn a_change_of_the_settings_is_a_wave_whatever_was_noted_on_the_service() {
    const OTHER: Settings = &[("proxy.image.no-store", "registry.example/sidecar:2")];
    let mut noted = with_image("cart:1");
    noted["metadata"]["annotations"] = json!({ "kubectl.kubernetes.io/note": "1" });
    let container = json!({ "image": "cart:1", "name": "another" });
    let named = service("cart", &json!({ "containers": [container] }));
    for after in [noted, named] {
        let server = holding(&[with_image("cart:1")]);
        settle(&server, PLAIN).await;
        server.with(|store| drop(store.put(&after)));
        settle(&server, PLAIN).await;
        assert_silence(&server, PLAIN, A_WHILE, "noted").await;
        settle(&server, OTHER).await;
        let origin = server.with(|store| {
            let found = deployment(store);
            found["metadata"]["annotations"]["cloudstate.io/applied-from"].clone()
        });
        let wave = origin.as_str().unwrap().split(' ').nth(4);
        assert!(wave.is_some_and(|wave| wave.starts_with("settings-")), "{origin}: {after}");
    }
}
