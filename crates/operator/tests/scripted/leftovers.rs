//! What is left of something: of a setting that was on, and of a Deployment that a hand changes while it waits.

use std::time::Duration;

use scripted_api::{Call, Connection, Fault, Server, Store, Verb};
use serde_json::{Value, json};

use crate::checks::{condition, holding, soon};
use crate::convergence::assert_silence;
use crate::world::{self, PLAIN, Settings, key, memory, rest, run_during, service, settle, writes};

/// The operator's settings, which it follows while it runs.
fn settings(text: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "cloudstate-operator-config", "namespace": "cloudstate" },
        "data": { "config.yaml": text },
    })
}

fn change(server: &Server, object: &Value) {
    server.with(|store| drop(store.put(object)));
}

const JARS: &str = "proxy: {kind: jvm, image: {jvm: registry.example/jvm:1}}";
const ACCOUNTS: &str = "rbac: {dedicated-service-account: true}";

/// Every kind of object that is only there for a setting goes with it, and nothing has to be told twice.
#[tokio::test(start_paused = true)]
async fn what_a_setting_asked_for_goes_with_it() {
    let of_jars: &[(&str, &str)] =
        &[("Role", "cloudstate-pod-reader"), ("RoleBinding", "cloudstate-read-pods-default")];
    for (on, objects) in [
        (JARS, of_jars),
        (ACCOUNTS, &[("ServiceAccount", "cart")]),
        ("network-policy: on", &[("NetworkPolicy", "cart")]),
    ] {
        let server = holding(&[service("cart", &json!({})), settings(on)]);
        let is_there = |store: &Store, object: &(&str, &str)| {
            store.list(scripted_api::Kind::named(object.0).unwrap(), Some("shop")).len() == 1
        };
        let connection = server.connect();
        run_during(&connection, PLAIN, async {
            rest(&connection).await;
            for object in objects {
                assert!(server.with(|store| is_there(store, object)), "no {object:?}");
            }
            change(&server, &settings("proxy: {istio-annotations: true}"));
            let gone = server.until(|store| objects.iter().all(|object| !is_there(store, object)));
            let gone = tokio::time::timeout(Duration::from_mins(3), gone).await;
            assert!(gone.is_ok(), "with {on:?} off, some of {objects:?} stay");
            rest(&connection).await;
        })
        .await;
        assert_silence(&server, PLAIN, Duration::from_mins(3), "without it").await;
    }
}

type IsLeft<'a> = &'a dyn Fn(&Store) -> bool;

/// The same, where the setting was turned off while no operator ran.
pub(crate) async fn what_a_setting_left_is_found() {
    const GUARDED: Settings = &[("network-policy", "on")];
    const PROTECTED: Settings = &[("protect-stores", "on")];
    let is_guarded = |store: &Store| {
        let found = store.get(&key("StatefulStore", "memory")).unwrap();
        found["metadata"]["finalizers"][0] == "cloudstate.io/protect-store"
    };
    let is_there = |kind: &'static str, name: &'static str| {
        move |store: &Store| store.get(&key(kind, name)).is_some()
    };
    let left: [(Settings, IsLeft<'_>); 5] = [
        (world::JARS, &is_there("Role", "cloudstate-pod-reader")),
        (world::JARS, &is_there("RoleBinding", "cloudstate-read-pods-default")),
        (world::ACCOUNTS, &is_there("ServiceAccount", "cart")),
        (GUARDED, &is_there("NetworkPolicy", "cart")),
        (PROTECTED, &is_guarded),
    ];
    for (number, (on, is_left)) in left.into_iter().enumerate() {
        let server = holding(&[service("cart", &json!({})), memory()]);
        settle(&server, on).await;
        assert!(server.with(|store| is_left(store)), "{number}: {on:?} does nothing");
        let connection = server.connect();
        run_during(&connection, PLAIN, async {
            let gone = server.until(|store| !is_left(store));
            let gone = tokio::time::timeout(Duration::from_mins(1), gone).await;
            assert!(gone.is_ok(), "{number}: what {on:?} asked for is still there");
            rest(&connection).await;
        })
        .await;
        assert_silence(&server, PLAIN, Duration::from_mins(3), "without it").await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_setting_asked_for_is_found_by_the_next_operator() {
    what_a_setting_left_is_found().await;
}

fn lists_of_accounts(connection: &Connection) -> usize {
    let calls = connection.calls();
    let is_it = |call: &&Call| call.verb == Verb::List && call.kind.name == "ServiceAccount";
    calls.iter().filter(is_it).count()
}

/// Others may have very many accounts, and nothing may be left.
#[tokio::test(start_paused = true)]
async fn the_look_for_what_is_left_is_one_and_in_pages() {
    let mut all = vec![service("cart", &json!({}))];
    // They carry our mark as what a person made by hand for jars may, and belong to no service.
    all.extend((0..600).map(|number| {
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {
                "name": format!("a-{number}"), "namespace": "shop",
                "labels": { "app.kubernetes.io/managed-by": "cloudstate.io" },
            },
        })
    }));
    let server = holding(&all);
    let connection = server.connect();
    run_during(&connection, PLAIN, tokio::time::sleep(Duration::from_mins(10))).await;
    assert_eq!(lists_of_accounts(&connection), 3, "pages of 250");
    let watched = connection.calls().into_iter().any(|call| {
        call.verb == Verb::Watch && ["ServiceAccount", "Role"].contains(&call.kind.name)
    });
    assert!(!watched, "nothing is there to be watched");
    settle(&server, world::ACCOUNTS).await;
    let connection = server.connect();
    run_during(&connection, PLAIN, rest(&connection)).await;
    assert!(server.with(|store| store.get(&key("ServiceAccount", "cart")).is_none()));
    assert!(server.with(|store| store.get(&key("ServiceAccount", "a-599")).is_some()));
}

#[tokio::test(start_paused = true)]
async fn without_the_right_to_look_nothing_is_asked_for() {
    let server = holding(&[service("cart", &json!({}))]);
    settle(&server, world::ACCOUNTS).await;
    let connection = server.connect();
    connection.on_call(|call| {
        ["ServiceAccount", "Role", "RoleBinding"]
            .contains(&call.kind.name)
            .then_some(Fault::Refused(403))
    });
    run_during(&connection, PLAIN, tokio::time::sleep(Duration::from_mins(10))).await;
    let asked = connection.calls();
    assert_eq!(asked.iter().filter(|call| call.verb == Verb::Review).count(), 3);
    assert_eq!(lists_of_accounts(&connection), 0);
    assert_eq!(server.with(|store| condition(store, "ResourcesAvailable"))["reason"], "Applied");
}

#[tokio::test(start_paused = true)]
async fn a_look_that_fails_is_done_again() {
    let server = holding(&[service("cart", &json!({}))]);
    settle(&server, world::ACCOUNTS).await;
    for fault in [Fault::Refused(500), Fault::Hangs, Fault::Lost] {
        let connection = server.connect();
        let mut faults = 6;
        connection.on_call(move |call| {
            let is_it = call.verb == Verb::Review || call.kind.name == "ServiceAccount";
            (is_it && faults > 0).then(|| {
                faults -= 1;
                fault
            })
        });
        let is_there = |store: &Store| store.get(&key("ServiceAccount", "cart")).is_some();
        run_during(&connection, PLAIN, async {
            let gone = server.until(|store| !is_there(store));
            let gone = tokio::time::timeout(Duration::from_mins(5), gone).await;
            assert!(gone.is_ok(), "{fault:?}: the account is still there");
        })
        .await;
        settle(&server, world::ACCOUNTS).await;
        assert!(server.with(|store| is_there(store)));
    }
}

/// A pod that has to be replaced needs its account, so that goes long after its setting.
pub(crate) async fn an_account_goes_with_the_last_pod() {
    let server = holding(&[service("cart", &json!({})), settings(ACCOUNTS)]);
    let connection = server.connect();
    let has_account = |store: &Store| store.get(&key("ServiceAccount", "cart")).is_some();
    run_during(&connection, PLAIN, async {
        rest(&connection).await;
        let template = server.with(|store| {
            let found = store.get(&key("Deployment", "cart-deployment")).unwrap();
            found["spec"]["template"].clone()
        });
        let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "spec": template["spec"] });
        pod["metadata"] = template["metadata"].clone();
        pod["metadata"]["name"] = json!("cart-1");
        pod["metadata"]["namespace"] = json!("shop");
        change(&server, &pod);
        change(&server, &settings(""));
        tokio::time::sleep(Duration::from_mins(3)).await;
        assert!(server.with(|store| has_account(store)), "taken from a pod that runs as it");
        server.with(|store| store.delete(&key("Pod", "cart-1"), &Value::Null)).unwrap();
        soon(&server, "the account goes", |store| !has_account(store)).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_account_goes_with_the_last_pod_that_runs_as_it() {
    an_account_goes_with_the_last_pod().await;
}

/// With the setting, the right may have gone.
#[tokio::test(start_paused = true)]
async fn what_may_not_be_taken_back_is_told_and_let_be() {
    let server = holding(&[service("cart", &json!({})), settings(ACCOUNTS)]);
    let connection = server.connect();
    run_during(&connection, PLAIN, async {
        rest(&connection).await;
        connection
            .on_call(|call| (call.kind.name == "ServiceAccount").then_some(Fault::Refused(403)));
        change(&server, &settings(""));
        tokio::time::sleep(Duration::from_mins(10)).await;
        let tries = writes(&connection)
            .iter()
            .filter(|call| call.verb == Verb::Delete && call.kind.name == "ServiceAccount")
            .count();
        assert_eq!(tries, 1);
        let told = server.with(|store| condition(store, "ResourcesAvailable"));
        assert_eq!(told["reason"], "Applied", "{told}");
        let events = server.with(|store| {
            store.all().filter(|(_, object)| object["reason"] == "LeftBehind").count()
        });
        assert_eq!(events, 1);
        rest(&connection).await;
    })
    .await;
}

/// Somebody else made the objects once, such as a tool that restores them, and claims all their fields.
pub(crate) async fn what_another_made_once_is_given_up_like_anything_else() {
    let spec = json!({
        "replicas": 2, "terminationGracePeriodSeconds": 7, "priorityClassName": "carts",
        "podSecurityContext": { "fsGroup": 2000 },
    });
    let mut cart = service("cart", &spec);
    cart["metadata"]["labels"] = json!({ "team": "blue" });
    let server = holding(&[cart]);
    settle(&server, PLAIN).await;
    server.with(|store| {
        for object in [
            key("Deployment", "cart-deployment"),
            key("Service", "cart"),
            key("PodDisruptionBudget", "cart"),
        ] {
            let was = store.get(&object).unwrap();
            store.delete(&object, &Value::Null).unwrap();
            store.put(&was);
        }
    });
    settle(&server, PLAIN).await;
    let plain = service("cart", &json!({ "replicas": 2 }));
    server.with(|store| drop(store.put(&plain)));
    settle(&server, PLAIN).await;
    let left = server.with(|store| {
        let all = store.all().filter(|(key, _)| key.kind.name != "Event");
        let all = all.map(|(key, object)| (key.clone(), object.to_string()));
        let words = ["blue", "\"terminationGracePeriodSeconds\":7", "carts", "fsGroup"];
        let is_left = |text: &str| words.into_iter().find(|word| text.contains(word));
        all.filter_map(|(key, text)| Some((key, is_left(&text)?))).collect::<Vec<_>>()
    });
    assert!(left.is_empty(), "{left:?}");
    assert_silence(&server, PLAIN, Duration::from_mins(1), "all claims are settled").await;
}

#[tokio::test(start_paused = true)]
async fn what_another_made_once_is_given_up_with_all_else() {
    what_another_made_once_is_given_up_like_anything_else().await;
}

/// A service that waits for its turn is kept as it is.
pub(crate) async fn a_hand_edit_of_what_waits_is_put_back() {
    let slowly = |image: &str| {
        settings(&format!(
            "rollout: {{interval: 1h}}\nproxy: {{image: {{no-store: 'registry.example/sidecar:{image}'}}}}"
        ))
    };
    let server = holding(&[service("cart", &json!({})), service("stock", &json!({})), slowly("1")]);
    let connection = server.connect();
    let sidecar = |store: &Store, name: &str| {
        let found = store.get(&key("Deployment", &format!("{name}-deployment"))).unwrap();
        found["spec"]["template"]["spec"]["containers"][1]["image"].clone()
    };
    run_during(&connection, PLAIN, async {
        rest(&connection).await;
        change(&server, &slowly("2"));
        tokio::time::sleep(Duration::from_mins(1)).await;
        let is_held =
            |name: &str| server.with(|store| sidecar(store, name)) == "registry.example/sidecar:1";
        let held = ["cart", "stock"].into_iter().filter(|name| is_held(name)).collect::<Vec<_>>();
        let [held] = held[..] else { panic!("one should wait: {held:?}") };
        let before = server.with(|store| {
            (*store.get(&key("Deployment", &format!("{held}-deployment"))).unwrap()).clone()
        });
        let mut edited = before.clone();
        edited["spec"]["replicas"] = json!(7);
        edited["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other:1");
        edited["spec"]["template"]["spec"]["containers"][1]["env"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "name": "ADDED", "value": "1" }));
        change(&server, &edited);
        let is_back = |store: &Store| {
            let found = store.get(&key("Deployment", &format!("{held}-deployment"))).unwrap();
            found["spec"] == before["spec"]
        };
        soon(&server, "a hand edit is put back", is_back).await;
        rest(&connection).await;
        assert!(server.with(|store| is_back(store)));
        let name = |annotation: &str| before["metadata"]["annotations"][annotation].clone();
        let after = server.with(|store| {
            store.get(&key("Deployment", &format!("{held}-deployment"))).unwrap()["metadata"]
                ["annotations"]
                .clone()
        });
        for noted in ["cloudstate.io/applied-from", "cloudstate.io/applied-hash"] {
            assert_eq!(after[noted], name(noted), "it is still known where it comes from");
        }
        // The user's own number of pods does not wait.
        server.with(|store| drop(store.put(&service(held, &json!({ "replicas": 3 })))));
        soon(&server, "it is scaled", |store| {
            let found = store.get(&key("Deployment", &format!("{held}-deployment"))).unwrap();
            found["spec"]["replicas"] == 3
        })
        .await;
        assert_eq!(server.with(|store| sidecar(store, held)), "registry.example/sidecar:1");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hand_edit_of_a_deployment_that_waits_is_put_back() {
    a_hand_edit_of_what_waits_is_put_back().await;
}
