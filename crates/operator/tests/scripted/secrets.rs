//! Where Secrets that stores name are looked at, as nothing is said of `validate-secrets`.

use std::time::Duration;

use scripted_api::{Call, Connection, Fault, Server, Store, Verb};
use serde_json::{Value, json};

use crate::checks::{holding, soon};
use crate::world::{PLAIN, Settings, key, postgres, rest, run_during};

const LISTED: Settings = &[("watch.namespaces", "[\"shop\"]")];
const SWITCHED_OFF: Settings = &[("watch.namespaces", "[\"shop\"]"), ("validate-secrets", "off")];

fn is_about_secrets(call: &Call) -> bool {
    call.kind.name == "Secret"
}

/// How often it was asked for Secrets, which is not to ask whether one might.
fn asked_for_secrets(connection: &Connection) -> usize {
    connection.calls().iter().filter(|call| is_about_secrets(call)).count()
}

fn is_missed(store: &Store) -> bool {
    let found = store.get(&key("StatefulStore", "carts")).unwrap();
    let is_so = |condition: &Value| {
        condition["type"] == "Ready" && condition["reason"] == json!("SecretNotFound")
    };
    found["status"]["conditions"].as_array().into_iter().flatten().any(is_so)
}

/// A store whose Secret is not there.
fn server() -> Server {
    holding(&[postgres("db")])
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_missed_in_a_listed_namespace_and_not_looked_for_in_all() {
    for (settings, is_looked_for) in [(LISTED, true), (PLAIN, false), (SWITCHED_OFF, false)] {
        let server = server();
        let connection = server.connect();
        run_during(&connection, settings, rest(&connection)).await;
        assert_eq!(server.with(|store| is_missed(store)), is_looked_for, "{settings:?}");
        assert_eq!(asked_for_secrets(&connection) > 0, is_looked_for, "{settings:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_right_no_secret_is_asked_for_until_it_is_given() {
    for verb in [Verb::Get, Verb::List, Verb::Watch] {
        let server = server();
        let connection = server.connect();
        connection.on_call(move |call| {
            let is_it = is_about_secrets(call) && call.verb == verb;
            is_it.then_some(Fault::Refused(403))
        });
        run_during(&connection, LISTED, async {
            tokio::time::sleep(Duration::from_mins(15)).await;
            assert!(!server.with(|store| is_missed(store)), "without {verb:?}");
            assert_eq!(asked_for_secrets(&connection), 0, "without {verb:?}");
            connection.on_call(|_| None);
            // Looked at again after `resync`.
            let missed = server.until(is_missed);
            let missed = tokio::time::timeout(Duration::from_mins(11), missed).await;
            assert!(missed.is_ok(), "the right to {verb:?} goes unseen");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_may_not_be_asked_is_asked_again() {
    let server = server();
    let connection = server.connect();
    let mut faults = 2;
    connection.on_call(move |call| {
        (call.verb == Verb::Review && faults > 0).then(|| {
            faults -= 1;
            Fault::Refused(500)
        })
    });
    run_during(&connection, LISTED, soon(&server, "the Secret is missed", is_missed)).await;
}
