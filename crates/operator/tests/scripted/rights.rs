//! Rights of pods with proxies made of jars: given before they are needed, and gone with the last who needs them.

use std::time::Duration;

use scripted_api::{Fault, Kind, Server, Store, Verb};
use serde_json::{Value, json};

use crate::checks::{condition, holding, soon};
use crate::convergence::assert_silence;
use crate::world::{JARS, Settings, key, rest, run_during, service, settle, writes};

const BOUND: Settings =
    &[("proxy.image.jvm", "registry.example/jvm:1"), ("proxy.kind", "jvm"), ("rbac.mode", "bind")];
const ROLE: &str = "cloudstate-pod-reader";

fn with_account(name: &str, account: &str) -> Value {
    service(name, &json!({ "serviceAccountName": account }))
}

/// The accounts that have rights.
fn accounts(store: &Store) -> Vec<String> {
    let bindings = store.list(Kind::named("RoleBinding").unwrap(), Some("shop"));
    let names = bindings.iter().map(|binding| binding["metadata"]["name"].as_str().unwrap());
    names.map(|name| name.trim_start_matches("cloudstate-read-pods-").to_owned()).collect()
}

/// Services that change at once what they run as are no reason to take a right that another of them still has.
#[tokio::test(start_paused = true)]
async fn rights_follow_when_many_services_change_their_accounts() {
    const MANY: usize = 60;
    let named = |number: usize, account: usize| {
        with_account(&format!("cart-{number:02}"), &format!("account-{account:02}"))
    };
    let all: Vec<_> = (0..MANY).map(|number| named(number, number)).collect();
    let server = holding(&all);
    let connection = server.connect();
    run_during(&connection, JARS, async {
        rest(&connection).await;
        assert_eq!(server.with(|store| accounts(store)).len(), MANY);
        let given = writes(&connection).len();
        // The first half takes the accounts of the second.
        server.with(|store| {
            (0..MANY / 2).for_each(|number| drop(store.put(&named(number, number + MANY / 2))));
        });
        soon(&server, "half of them go", |store| accounts(store).len() == MANY / 2).await;
        rest(&connection).await;
        let calls = writes(&connection).split_off(given);
        let bindings: Vec<_> =
            calls.iter().filter(|call| call.kind.name == "RoleBinding").collect();
        assert_eq!(bindings.len(), MANY / 2, "{bindings:?}");
        assert!(bindings.iter().all(|call| call.verb == Verb::Delete), "{bindings:?}");
    })
    .await;
    assert_silence(&server, JARS, Duration::from_mins(3), "after the change").await;
}

/// A service that cannot be read keeps its pods, and they their rights, until it is gone.
#[tokio::test(start_paused = true)]
async fn rights_stay_with_a_service_that_cannot_be_read() {
    let server = holding(&[with_account("cart", "a"), with_account("stock", "b")]);
    settle(&server, JARS).await;
    let mut malformed = with_account("cart", "a");
    malformed["spec"]["replicas"] = json!("three");
    let connection = server.connect();
    run_during(&connection, JARS, async {
        rest(&connection).await;
        server.with(|store| drop(store.put(&malformed)));
        tokio::time::sleep(Duration::from_mins(3)).await;
    })
    .await;
    // And for one that has never known it otherwise.
    let connection = server.connect();
    run_during(&connection, JARS, async {
        tokio::time::sleep(Duration::from_mins(3)).await;
        assert_eq!(server.with(|store| accounts(store)), ["a", "b"]);
        server.with(|store| store.delete(&key("StatefulService", "cart"), &Value::Null)).unwrap();
        tokio::time::sleep(Duration::from_mins(3)).await;
        assert_eq!(server.with(|store| accounts(store)), ["b"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_role_goes_when_bindings_are_to_that_of_the_cluster() {
    let has_role = |store: &Store| store.get(&key("Role", ROLE)).is_some();
    let server = holding(&[with_account("cart", "a"), with_account("stock", "b")]);
    settle(&server, JARS).await;
    assert!(server.with(|store| has_role(store)));
    settle(&server, BOUND).await;
    assert!(!server.with(|store| has_role(store)), "nobody is bound to it");
    assert_eq!(server.with(|store| accounts(store)), ["a", "b"]);
    assert_silence(&server, BOUND, Duration::from_mins(3), "with rbac.mode: bind").await;
    settle(&server, JARS).await;
    assert!(server.with(|store| has_role(store)));
}

/// With the reason on the right itself: no service is wrong.
#[tokio::test(start_paused = true)]
async fn a_right_that_may_not_be_taken_back_is_told() {
    let server = holding(&[with_account("cart", "a")]);
    let connection = server.connect();
    connection.on_call(|call| {
        let is_it = call.verb == Verb::Delete && call.kind.name == "RoleBinding";
        is_it.then_some(Fault::Refused(403))
    });
    let told = |server: &Server| {
        server.with(|store| {
            let events = store.all().filter(|(_, object)| object["reason"] == "LeftBehind");
            events.map(|(_, event)| event["regarding"]["name"].clone()).collect::<Vec<_>>()
        })
    };
    run_during(&connection, JARS, async {
        rest(&connection).await;
        server.with(|store| drop(store.put(&with_account("cart", "b"))));
        tokio::time::sleep(Duration::from_mins(5)).await;
        assert_eq!(told(&server), ["cloudstate-read-pods-a"]);
        let tries = writes(&connection)
            .iter()
            .filter(|call| call.verb == Verb::Delete && call.kind.name == "RoleBinding")
            .count();
        // After 1, 2, 4 and so on up to 60 seconds.
        assert!((7..=15).contains(&tries), "{tries} tries");
        let resources = server.with(|store| condition(store, "ResourcesAvailable"));
        assert_eq!(resources["reason"], "Applied", "{resources}");
        connection.on_call(|_| None);
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert_eq!(server.with(|store| accounts(store)), ["b"]);
    })
    .await;
}
