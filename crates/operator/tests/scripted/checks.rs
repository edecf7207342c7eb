//! What the operator does when things go wrong. Each check is a test, and catches the bug that is
//! planted against it (`planted`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scripted_api::{Delivery, Fault, Key, Kind, Server, Store, Verb};
use serde_json::{Value, json};

use crate::convergence::assert_silence;
use crate::world::{
    JARS, PLAIN, SECRETS, Settings, assert_same, empty, key, memory, objects, postgres, rest,
    run_during, secret, service, settle,
};

/// A store that holds these objects and nothing of ours yet.
pub(crate) fn holding(objects: &[Value]) -> Server {
    let mut store = empty();
    for object in objects {
        store.put(object);
    }
    Server::new(store)
}

/// As long as a look at one object may take when nothing is wrong.
const SOON: Duration = Duration::from_secs(10);

pub(crate) async fn soon(server: &Server, what: &str, is_so: impl Fn(&Store) -> bool) {
    let waited = tokio::time::timeout(SOON, server.until(is_so)).await;
    assert!(waited.is_ok(), "{what}: not after {SOON:?}");
}

pub(crate) fn image_is(store: &Store, image: &str) -> bool {
    let found = store.get(&key("Deployment", "cart-deployment"));
    let pod = |found: &Value| found["spec"]["template"]["spec"].clone();
    found.is_some_and(|found| pod(&found)["containers"][0]["image"] == image)
}

pub(crate) fn with_image(image: &str) -> Value {
    service("cart", &json!({ "containers": [{ "image": image }] }))
}

pub(crate) fn condition(store: &Store, kind: &str) -> Value {
    let found = store.get(&key("StatefulService", "cart")).unwrap();
    let all = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|each| each["type"] == kind).unwrap_or(Value::Null)
}

fn of_kind(store: &Store, kind: &str) -> Vec<Arc<Value>> {
    store.list(Kind::named(kind).unwrap(), Some("shop"))
}

/// A change under a running operator leaves nothing to do for the next one, and ends where a service
/// ends that was always like this.
async fn change_leaves_nothing(settings: Settings, before: &[Value], after: &[Value]) {
    let server = holding(before);
    let connection = server.connect();
    run_during(&connection, settings, async {
        rest(&connection).await;
        server.with(|store| {
            for object in after {
                store.put(object);
            }
        });
        rest(&connection).await;
    })
    .await;
    assert_silence(&server, settings, Duration::from_secs(20), "after the change").await;
}

pub(crate) async fn nothing_is_written_at_rest() {
    let server =
        holding(&[service("cart", &json!({ "datastore": { "name": "memory" } })), memory()]);
    settle(&server, PLAIN).await;
    assert_silence(&server, PLAIN, Duration::from_mins(30), "at rest").await;
}

pub(crate) async fn objects_of_others_are_left_alone() {
    let mut foreign = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "cart-deployment", "namespace": "shop" },
        "spec": {
            "selector": { "matchLabels": { "app": "x" } },
            "template": {
                "metadata": { "labels": { "app": "x" } },
                "spec": { "containers": [{ "name": "x", "image": "x:1" }] },
            },
        },
    });
    for label in [None, Some("cart")] {
        if let Some(name) = label {
            foreign["metadata"]["labels"] = json!({ "cloudstate.io/statefulService": name });
        }
        let server = holding(&[foreign.clone()]);
        let before = objects(&server);
        server.with(|store| drop(store.put(&service("cart", &json!({})))));
        settle(&server, PLAIN).await;
        let mut after = objects(&server);
        after.retain(|key, _| key.kind.name != "StatefulService");
        assert_same(&after, &before, || "what belongs to others was changed".to_owned());
        let said = server.with(|store| condition(store, "ResourcesAvailable"));
        assert_eq!(said["reason"], "NotOwned", "{said}");
    }
}

pub(crate) async fn what_is_needed_no_more_goes() {
    let with = |is_there: bool| {
        let switch = json!({ "enabled": is_there });
        let spec = json!({ "replicas": 2, "podDisruptionBudget": switch, "networkPolicy": switch });
        service("cart", &spec)
    };
    let server = holding(&[with(true)]);
    settle(&server, PLAIN).await;
    let has = |kind| server.with(|store| !of_kind(store, kind).is_empty());
    assert!(has("PodDisruptionBudget") && has("NetworkPolicy"));
    server.with(|store| drop(store.put(&with(false))));
    settle(&server, PLAIN).await;
    assert!(!has("PodDisruptionBudget") && !has("NetworkPolicy"), "orphans are left");
}

pub(crate) async fn a_conflict_is_answered_by_another_look() {
    let server = holding(&[with_image("cart:1")]);
    let connection = server.connect();
    run_during(&connection, PLAIN, async {
        rest(&connection).await;
        // The cache is behind, and stays so.
        connection.on_event(|_, change| match change.key.kind.name {
            "Deployment" => Delivery::Missed,
            _ => Delivery::Once,
        });
        connection.on_call(|call| {
            let is_list = call.verb == Verb::List && call.kind.name == "Deployment";
            is_list.then_some(Fault::Refused(500))
        });
        server.with(|store| {
            let mut found = (*store.get(&key("Deployment", "cart-deployment")).unwrap()).clone();
            found["metadata"]["labels"]["hand"] = json!("was here");
            store.put(&found);
            store.put(&with_image("cart:2"));
        });
        soon(&server, "the new image", |store| image_is(store, "cart:2")).await;
    })
    .await;
}

pub(crate) async fn rights_go_with_the_last_who_needs_them() {
    let server = holding(&[service("cart", &json!({}))]);
    settle(&server, JARS).await;
    let has = |kind| server.with(|store| !of_kind(store, kind).is_empty());
    assert!(has("Role") && has("RoleBinding"));
    let connection = server.connect();
    run_during(&connection, JARS, async {
        rest(&connection).await;
        server.with(|store| store.delete(&key("StatefulService", "cart"), &Value::Null)).unwrap();
        rest(&connection).await;
    })
    .await;
    assert!(!has("Role") && !has("RoleBinding"), "rights are left");
}

pub(crate) async fn a_binding_to_another_role_is_made_anew() {
    let name = "cloudstate-read-pods-default";
    let server = holding(&[
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {
                "name": name, "namespace": "shop",
                "labels": { "app.kubernetes.io/managed-by": "cloudstate.io" },
            },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "old" },
            "subjects": [],
        }),
        service("cart", &json!({})),
    ]);
    settle(&server, JARS).await;
    let role = server
        .with(|store| store.get(&key("RoleBinding", name)).unwrap()["roleRef"]["name"].clone());
    assert_eq!(role, "cloudstate-pod-reader");
}

pub(crate) async fn what_a_hand_changes_is_put_right() {
    let server = holding(&[with_image("cart:1")]);
    settle(&server, PLAIN).await;
    let before = server.with(|store| store.get(&key("Deployment", "cart-deployment")).unwrap());
    let connection = server.connect();
    run_during(&connection, PLAIN, async {
        rest(&connection).await;
        server.with(|store| {
            let mut found = (*before).clone();
            let container = &mut found["spec"]["template"]["spec"]["containers"][0];
            container["image"] = json!("other:1");
            container["env"].as_array_mut().unwrap().push(json!({ "name": "HAND", "value": "1" }));
            store.put(&found);
        });
        soon(&server, "as it was", |store| {
            let found = store.get(&key("Deployment", "cart-deployment")).unwrap();
            found["spec"] == before["spec"]
        })
        .await;
    })
    .await;
}

pub(crate) async fn a_store_reaches_who_names_it() {
    let cart = service("cart", &json!({ "datastore": { "name": "carts" } }));
    change_leaves_nothing(SECRETS, &[cart, postgres("db"), secret("MQ==")], &[postgres("db2")])
        .await;
}

pub(crate) async fn a_secret_reaches_who_depends_on_it() {
    let cart = service("cart", &json!({ "datastore": { "name": "carts" } }));
    change_leaves_nothing(SECRETS, &[cart, postgres("db"), secret("MQ==")], &[secret("Mg==")])
        .await;
}

pub(crate) async fn a_child_that_is_gone_is_back() {
    let server = holding(&[with_image("cart:1")]);
    let connection = server.connect();
    run_during(&connection, PLAIN, async {
        rest(&connection).await;
        for (kind, name) in [("Deployment", "cart-deployment"), ("Service", "cart")] {
            server.with(|store| store.delete(&key(kind, name), &Value::Null)).unwrap();
            soon(&server, kind, |store| store.get(&key(kind, name)).is_some()).await;
        }
    })
    .await;
}

pub(crate) async fn what_a_watch_missed_is_found_in_the_list() {
    let server = holding(&[with_image("cart:1")]);
    let connection = server.connect();
    run_during(&connection, PLAIN, async {
        rest(&connection).await;
        let has_missed = AtomicBool::new(false);
        connection.on_event(move |_, change| {
            let is_it = change.key.kind.name == "StatefulService"
                && !has_missed.swap(true, Ordering::Relaxed);
            if is_it { Delivery::Missed } else { Delivery::Once }
        });
        server.with(|store| drop(store.put(&with_image("cart:2"))));
        soon(&server, "the new image", |store| image_is(store, "cart:2")).await;
    })
    .await;
}

pub(crate) async fn events_that_are_doubled_or_stale_do_no_harm() {
    for delivery in [Delivery::Twice, Delivery::ThenStale, Delivery::Cut] {
        let server = holding(&[with_image("cart:1")]);
        let connection = server.connect();
        run_during(&connection, PLAIN, async {
            rest(&connection).await;
            // A connection that breaks each time would never say anything.
            let mut count = 0;
            connection.on_event(move |_, _| {
                count += 1;
                let is_odd = delivery == Delivery::Cut && count % 2 == 0;
                if is_odd { Delivery::Once } else { delivery }
            });
            server.with(|store| drop(store.put(&with_image("cart:2"))));
            rest(&connection).await;
        })
        .await;
        assert!(server.with(|store| image_is(store, "cart:2")), "{delivery:?}");
        assert_silence(&server, PLAIN, SOON, &format!("{delivery:?}")).await;
    }
}

pub(crate) async fn paused_services_stay_as_they_are() {
    let server = holding(&[with_image("cart:1")]);
    settle(&server, PLAIN).await;
    let mut paused = with_image("cart:2");
    paused["spec"]["paused"] = json!(true);
    server.with(|store| drop(store.put(&paused)));
    settle(&server, PLAIN).await;
    assert!(server.with(|store| image_is(store, "cart:1")), "it is changed though it is paused");
}

pub(crate) async fn a_service_on_its_way_out_gets_nothing_new() {
    let mut cart = with_image("cart:1");
    cart["metadata"]["finalizers"] = json!(["example.com/wait"]);
    let server = holding(&[cart]);
    let deployment: Key = key("Deployment", "cart-deployment");
    let connection = server.connect();
    run_during(&connection, PLAIN, async {
        rest(&connection).await;
        server.with(|store| {
            store.delete(&key("StatefulService", "cart"), &Value::Null).unwrap();
            store.delete(&deployment, &Value::Null).unwrap();
        });
        rest(&connection).await;
    })
    .await;
    assert!(server.with(|store| store.get(&deployment)).is_none(), "its Deployment is back");
}

const NATIVE: Settings = &[("proxy.native-sidecar", "auto")];

/// Something that changes pods on their way and is older than the field takes `restartPolicy` away.
pub(crate) async fn a_sidecar_that_may_not_stay_beforehand_stands_beside() {
    let server = holding(&[with_image("cart:1")]);
    settle(&server, NATIVE).await;
    let deployment = |store: &Store| store.get(&key("Deployment", "cart-deployment")).unwrap();
    let place = |store: &Store| {
        let pod = deployment(store)["spec"]["template"]["spec"].clone();
        ["initContainers", "containers"].into_iter().find(|list| {
            let mut all = pod[*list].as_array().into_iter().flatten();
            all.any(|each| each["name"] == "cloudstate-sidecar")
        })
    };
    assert_eq!(server.with(|store| place(store)), Some("initContainers"));
    server.with(|store| {
        let template = deployment(store)["spec"]["template"].clone();
        let mut spec = template["spec"].clone();
        spec["initContainers"][0].as_object_mut().unwrap().remove("restartPolicy").unwrap();
        store.put(&json!({
            "apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {
                "name": "cart-1", "namespace": "shop", "labels": template["metadata"]["labels"],
            },
        }));
    });
    settle(&server, NATIVE).await;
    assert_eq!(server.with(|store| place(store)), Some("containers"));
    let is_told = |event: &Arc<Value>| event["reason"] == "NativeSidecarStripped";
    assert!(server.with(|store| of_kind(store, "Event").iter().any(is_told)));
    // With the pod goes what it showed, and not what is known.
    server.with(|store| store.delete(&key("Pod", "cart-1"), &Value::Null)).unwrap();
    assert_silence(&server, NATIVE, Duration::from_secs(20), "without the pod").await;
}

/// After so long everything was looked at once more, whatever was said about it.
const LOOKED_AT_AGAIN: Duration = Duration::from_mins(16);

/// Whatever a call ends with, the end is the same, by the same operator.
pub(crate) async fn every_way_to_fail_is_got_over() {
    let cart =
        || service("cart", &json!({ "podDisruptionBudget": { "enabled": true }, "replicas": 2 }));
    let fresh = holding(&[]);
    fresh.with(|store| drop(store.put(&cart())));
    settle(&fresh, PLAIN).await;
    let expected = objects(&fresh);
    let mut faults = vec![Fault::Lost, Fault::ReplyLost, Fault::Hangs, Fault::ReplyHangs];
    faults.extend([409, 410, 422, 429, 500].map(Fault::Refused));
    for fault in faults {
        for kind in ["Service", "PodDisruptionBudget", "Deployment", "StatefulService"] {
            let server = holding(&[]);
            let connection = server.connect();
            let has_failed = Arc::new(AtomicBool::new(false));
            run_during(&connection, PLAIN, async {
                rest(&connection).await;
                let failed = Arc::clone(&has_failed);
                connection.on_call(move |call| {
                    let is_it = call.verb == Verb::Apply
                        && call.kind.name == kind
                        && !failed.swap(true, Ordering::Relaxed);
                    is_it.then_some(fault)
                });
                server.with(|store| drop(store.put(&cart())));
                if fault == Fault::Refused(422) {
                    // What is said against an object holds until it is another: it is not asked again soon.
                    tokio::time::sleep(LOOKED_AT_AGAIN).await;
                }
                rest(&connection).await;
            })
            .await;
            assert!(has_failed.load(Ordering::Relaxed), "{fault:?} never came to pass at {kind}");
            assert_same(&objects(&server), &expected, || format!("{fault:?} at {kind}"));
        }
    }
}

mod tests {
    macro_rules! tests {
        ($($name:ident)*) => {$(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name().await;
            }
        )*};
    }

    tests! {
        nothing_is_written_at_rest
        objects_of_others_are_left_alone
        what_is_needed_no_more_goes
        a_conflict_is_answered_by_another_look
        rights_go_with_the_last_who_needs_them
        a_binding_to_another_role_is_made_anew
        what_a_hand_changes_is_put_right
        a_store_reaches_who_names_it
        a_secret_reaches_who_depends_on_it
        a_child_that_is_gone_is_back
        what_a_watch_missed_is_found_in_the_list
        events_that_are_doubled_or_stale_do_no_harm
        paused_services_stay_as_they_are
        a_service_on_its_way_out_gets_nothing_new
        every_way_to_fail_is_got_over
        a_sidecar_that_may_not_stay_beforehand_stands_beside
    }
}
