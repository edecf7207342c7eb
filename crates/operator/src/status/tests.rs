use serde_json::{Value, json};
use translate::{Inputs, Settings, validate};

use super::*;
use crate::origin::Cause;

fn service(spec: &Value) -> StatefulService {
    let service = json!({
        "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulService",
        "metadata": { "name": "cart", "namespace": "shop", "uid": "u", "generation": 4 },
        "spec": spec,
    });
    serde_json::from_value(service).unwrap()
}

fn deployment(observed: i64, updated: i32, available: i32) -> Deployment {
    let deployment = json!({
        "metadata": { "name": "cart-deployment", "generation": 2 },
        "spec": { "replicas": 2, "selector": {}, "template": {} },
        "status": {
            "observedGeneration": observed, "replicas": 2, "updatedReplicas": updated,
            "availableReplicas": available, "readyReplicas": available,
        },
    });
    serde_json::from_value(deployment).unwrap()
}

/// Status, reason and message of the condition.
fn verdict(status: &StatefulServiceStatus, kind: &str) -> (String, String, String) {
    let found = condition::find(&status.conditions, kind).unwrap();
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

fn nothing_but<'a>(
    service: &'a StatefulService,
    plan: Result<&'a Plan, &'a Problems>,
) -> Facts<'a> {
    Facts {
        service,
        plan,
        pause: None,
        refusal: None,
        held: None,
        failed: None,
        deployment: None,
        diagnosis: None,
    }
}

fn status(
    service: &StatefulService,
    deployment: Option<&Deployment>,
    refusal: Option<&Refusal>,
    diagnosis: Option<&Diagnosis>,
) -> StatefulServiceStatus {
    let plan = validate(&Settings::default(), service, &Inputs::default());
    let facts = Facts { refusal, deployment, diagnosis, ..nothing_but(service, plan.as_ref()) };
    of_service(&facts, Timestamp::UNIX_EPOCH)
}

fn plain() -> StatefulService {
    service(&json!({ "replicas": 2, "containers": [{ "image": "a" }] }))
}

#[track_caller]
fn check(status: &StatefulServiceStatus, kind: &str, value: &str, reason: &str, part: &str) {
    let (actual_value, actual_reason, message) = verdict(status, kind);
    assert_eq!((actual_value.as_str(), actual_reason.as_str()), (value, reason), "{message}");
    assert!(message.contains(part), "{message}");
}

#[test]
fn ready_means_that_the_newest_generation_is_rolled_out() {
    let service = plain();
    let done = status(&service, Some(&deployment(2, 2, 2)), None, None);
    check(&done, "Ready", "True", "Available", "2 of 2 pods");
    check(&done, "Progressing", "False", "Complete", "");
    check(&done, "ResourcesAvailable", "True", "Applied", "cart-deployment");
    check(&done, "StatefulStoreValid", "True", "NoStore", "spec.datastore");
    assert_eq!(done.summary.as_deref(), Some("Ready"));
    assert_eq!(done.selector.as_deref(), Some("cloudstate.io/statefulServiceUID=u"));
    assert_eq!(done.observed_generation, Some(4));

    for (unfinished, reason) in [
        (deployment(1, 2, 2), "NewReplicaSet"),
        (deployment(2, 1, 2), "WaitingForReplicas"),
        (deployment(2, 2, 1), "WaitingForReplicas"),
    ] {
        let status = status(&service, Some(&unfinished), None, None);
        check(&status, "Ready", "False", "Progressing", "of 2 pods");
        check(&status, "Progressing", "True", reason, "");
    }
}

#[test]
fn a_diagnosis_is_the_reason_why_not() {
    let found = Diagnosis {
        is_stuck: false,
        reason: "UserFunctionUnreachable".to_owned(),
        message: "nothing listens".to_owned(),
    };
    let status = status(&plain(), Some(&deployment(2, 2, 0)), None, Some(&found));
    check(&status, "Ready", "False", "UserFunctionUnreachable", "nothing listens");
    assert_eq!(status.summary.as_deref(), Some("UserFunctionUnreachable"));
}

#[test]
fn a_missing_store_is_named_and_nothing_is_rolled_out() {
    let service = service(&json!({
        "containers": [{ "image": "a" }], "datastore": { "name": "carts" },
    }));
    let status = status(&service, None, None, None);
    check(&status, "Ready", "False", "StoreInvalid", "\"carts\"");
    check(&status, "StatefulStoreValid", "False", "StatefulStoreNotFound", "create it");
    check(&status, "ResourcesAvailable", "Unknown", "NotApplied", "");
    check(&status, "Progressing", "False", "Blocked", "");
    assert_eq!(status.store, None);
}

#[test]
fn problems_of_spec_and_store_are_told_together() {
    let service = service(&json!({ "containers": [], "datastore": { "name": "carts" } }));
    let status = status(&service, None, None, None);
    check(&status, "Ready", "False", "BadConfiguration", "spec.containers is empty");
    check(&status, "Ready", "False", "BadConfiguration", "\"carts\"");
}

#[test]
fn a_foreign_object_is_named() {
    let refusal = Refusal::NotOwned {
        kind: "Deployment".to_owned(),
        name: "cart-deployment".to_owned(),
        owner: "it has no controlling owner".to_owned(),
    };
    let status = status(&plain(), None, Some(&refusal), None);
    check(&status, "Ready", "False", "NotOwned", "\"cart-deployment\"");
    check(&status, "ResourcesAvailable", "False", "NotOwned", "delete it");
}

#[test]
fn nothing_is_served_by_no_replicas() {
    let service = service(&json!({ "replicas": 0, "containers": [{ "image": "a" }] }));
    let status = status(&service, Some(&deployment(2, 0, 0)), None, None);
    check(&status, "Ready", "False", "NoReadyReplicas", "spec.replicas is 0");
}

#[test]
fn the_same_facts_give_the_same_status_at_any_time() {
    let mut service = plain();
    let first = status(&service, Some(&deployment(2, 2, 2)), None, None);
    service.status = Some(first.clone());
    let plan = validate(&Settings::default(), &service, &Inputs::default());
    let deployment = deployment(2, 2, 2);
    let facts = Facts { deployment: Some(&deployment), ..nothing_but(&service, plan.as_ref()) };
    assert_eq!(of_service(&facts, Timestamp::from_second(99).unwrap()), first);
}

#[test]
fn a_store_of_unknown_type_says_which_types_there_are() {
    let store: StatefulStore = serde_json::from_value(json!({
        "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulStore",
        "metadata": { "name": "carts" }, "spec": { "type": "Excel" },
    }))
    .unwrap();
    let status = of_store(&store, &StoreFacts::default(), Timestamp::UNIX_EPOCH);
    let valid = condition::find(&status.conditions, "StatefulStoreValid").unwrap();
    assert_eq!((valid.status.as_str(), valid.reason.as_str()), ("False", "UnknownStoreType"));
    assert!(valid.message.contains("\"Excel\"") && valid.message.contains("\"InMemory\""));
    let ready = condition::find(&status.conditions, "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "StoreInvalid"));
}

fn store_of(spec: &Value) -> StatefulStore {
    let store = json!({
        "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulStore",
        "metadata": { "name": "carts", "namespace": "shop", "generation": 1 },
        "spec": spec,
    });
    serde_json::from_value(store).unwrap()
}

fn postgres(config: &Value) -> StatefulStore {
    store_of(&json!({ "type": "Postgres", "deployment": "Unmanaged", "config": config }))
}

#[test]
fn a_pinned_replica_count_has_a_condition_while_it_lasts() {
    let config = json!({ "service": "db", "credentialsFromSecret": { "name": "cart-db" } });
    let inputs = Inputs { store: Some(postgres(&config)), ..Inputs::default() };
    let spec = |replicas: i32| {
        service(&json!({
            "replicas": replicas, "containers": [{ "image": "a" }], "datastore": { "name": "carts" },
        }))
    };
    let status = |service: &StatefulService| {
        let plan = validate(&Settings::default(), service, &inputs).unwrap();
        of_service(&nothing_but(service, Ok(&plan)), Timestamp::UNIX_EPOCH)
    };
    let three = status(&spec(3));
    check(&three, "ReplicasPinned", "True", "OneOwner", "spec.replicas is 3, and 1 is used");
    assert_eq!(three.store.unwrap().kind, "Postgres");
    assert!(condition::find(&status(&spec(1)).conditions, "ReplicasPinned").is_none());
}

#[test]
fn plain_text_credentials_are_told_by_field_and_not_by_value() {
    let config = json!({
        "service": "db", "credentials": { "password": "swordfish" },
        "credentialsFromSecret": { "name": "cart-db" },
    });
    let status = of_store(&postgres(&config), &StoreFacts::default(), Timestamp::UNIX_EPOCH);
    let found = condition::find(&status.conditions, "ConfigurationDeprecated").unwrap();
    assert_eq!(found.reason, "PlaintextCredentials");
    assert!(found.message.contains("spec.config.credentials.password"), "{}", found.message);
    assert_eq!(condition::find(&status.conditions, "Ready").unwrap().status, "True");
    assert!(!serde_json::to_string(&status).unwrap().contains("swordfish"));
}

#[test]
fn a_store_tells_all_that_is_wrong_with_it() {
    let store = store_of(&json!({ "type": "Postgres", "config": { "port": 1 } }));
    let status = of_store(&store, &StoreFacts::default(), Timestamp::UNIX_EPOCH);
    let found = condition::find(&status.conditions, "StatefulStoreValid").unwrap();
    assert_eq!((found.status.as_str(), &*found.reason), ("False", "UnspecifiedDeploymentType"));
    for part in ["spec.deployment", "spec.config.service", "spec.config.credentials.password"] {
        assert!(found.message.contains(part), "{part} is missing in {}", found.message);
    }
    assert_eq!(status.summary.as_deref(), Some("StoreInvalid"));
}

#[test]
fn what_is_paused_says_who_paused_it() {
    let service = plain();
    let deployment = deployment(2, 2, 2);
    let plan = validate(&Settings::default(), &service, &Inputs::default());
    for (pause, part) in [
        (Pause::Service, "spec.paused is true"),
        (Pause::Namespace("shop".to_owned()), "cloudstate.io/watch: disabled"),
    ] {
        let facts = Facts {
            pause: Some(&pause),
            deployment: Some(&deployment),
            ..nothing_but(&service, plan.as_ref())
        };
        let paused = of_service(&facts, Timestamp::UNIX_EPOCH);
        check(&paused, "Ready", "Unknown", "Paused", part);
        check(&paused, "Ready", "Unknown", "Paused", "2 of 2 pods serve calls");
        check(&paused, "Progressing", "False", "Paused", part);
        assert_eq!(paused.summary.as_deref(), Some("Paused"));
    }
}

#[test]
fn a_rollout_that_waits_says_why_and_what_for() {
    let service = plain();
    let deployment = deployment(2, 2, 2);
    let plan = validate(&Settings::default(), &service, &Inputs::default());
    let held = |cause, answer| Held { cause, answer };
    let status = |held: &Held| {
        let facts = Facts {
            held: Some(held),
            deployment: Some(&deployment),
            ..nothing_but(&service, plan.as_ref())
        };
        of_service(&facts, Timestamp::UNIX_EPOCH)
    };
    let ask_again_in = std::time::Duration::from_secs(2);
    let waiting = status(&held(Cause::Store, Answer::Wait { running: 10, ask_again_in }));
    check(&waiting, "Ready", "True", "Available", "2 of 2 pods");
    check(&waiting, "Progressing", "True", "ThrottledRollout", "the StatefulStore has changed");
    check(&waiting, "Reconciling", "True", "StatefulStoreChanged", "");
    assert!(condition::find(&waiting.conditions, "Stalled").is_none());

    let halted = status(&held(Cause::Image, Answer::Halted { ask_again_in }));
    check(&halted, "Progressing", "False", "ThrottledRollout", "three services in a row");
    check(&halted, "Stalled", "True", "ThrottledRollout", "another image of the sidecar");
    assert!(condition::find(&halted.conditions, "Reconciling").is_none());
}

#[test]
fn a_rollout_is_over_when_its_pods_served_once() {
    let over = |observed, updated, available, reason: &str| {
        let mut deployment = deployment(observed, updated, available);
        let condition = json!([{ "type": "Progressing", "status": "True", "reason": reason }]);
        deployment.status.get_or_insert_default().conditions =
            serde_json::from_value(condition).unwrap();
        Rollout::of(&deployment).was_complete
    };
    let (once, never) = ("NewReplicaSetAvailable", "ReplicaSetUpdated");
    assert!(over(2, 2, 2, once));
    assert!(over(2, 2, 0, once));
    assert!(!over(2, 2, 0, never));
    // The next template has not been looked at, or its pods are to follow.
    assert!(!over(1, 2, 2, once));
    assert!(!over(2, 0, 0, once));
    assert!(!over(2, 1, 2, once));
}

#[test]
fn a_store_says_what_it_names_that_is_not_there() {
    let config = json!({ "service": "db", "credentialsFromSecret": { "name": "cart-db" } });
    let missing = Missing::Secret { secret: "cart-db".to_owned() };
    let dependents = ["cart", "stock", "user"].map(str::to_owned);
    let facts =
        StoreFacts { missing: Some(&missing), dependents: &dependents, ..StoreFacts::default() };
    let status = of_store(&postgres(&config), &facts, Timestamp::UNIX_EPOCH);
    let valid = condition::find(&status.conditions, "StatefulStoreValid").unwrap();
    assert_eq!((valid.status.as_str(), &*valid.reason), ("Unknown", "SecretNotFound"));
    assert!(valid.message.contains("\"cart-db\""), "{}", valid.message);
    assert_eq!(status.dependents, Some(3));
}

#[test]
fn what_keeps_failing_is_told_and_the_status_tells_what_runs() {
    let mut service = service(&json!({
        "containers": [{ "image": "a" }], "datastore": { "name": "memory" },
    }));
    let mut live = serde_json::to_value(deployment(2, 2, 2)).unwrap();
    live["spec"]["template"] = json!({ "spec": { "containers": [
        { "name": "cloudstate-sidecar", "image": "sidecar:1" },
    ]}});
    live["spec"]["selector"] = json!({ "matchLabels": { "app": "former" } });
    let live: Deployment = serde_json::from_value(live).unwrap();
    let mut before = serde_json::to_value(StatefulServiceStatus::default()).unwrap();
    before["store"] = serde_json::to_value(BoundStore {
        name: "carts".to_owned(),
        kind: "Postgres".to_owned(),
        observed_generation: None,
    })
    .unwrap();
    service.status = Some(serde_json::from_value(before).unwrap());
    let store: StatefulStore = serde_json::from_value(json!({
        "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulStore",
        "metadata": { "name": "memory" }, "spec": { "type": "InMemory" },
    }))
    .unwrap();
    let plan = validate(
        &Settings::default(),
        &service,
        &Inputs { store: Some(store), ..Inputs::default() },
    )
    .unwrap();
    let error =
        Error::Timeout { verb: "apply", kind: "Service".to_owned(), name: "cart".to_owned() };
    let facts =
        Facts { failed: Some(&error), deployment: Some(&live), ..nothing_but(&service, Ok(&plan)) };
    let status = of_service(&facts, Timestamp::UNIX_EPOCH);
    let (is, why, message) = verdict(&status, "ResourcesAvailable");
    assert_eq!((is.as_str(), why.as_str()), ("Unknown", "UnknownError"));
    assert!(message.contains("Service \"cart\"") && message.contains("tried again"), "{message}");
    assert_eq!(status.proxy_image.as_deref(), Some("sidecar:1"));
    assert_eq!(status.store.unwrap().name, "carts");
    // Once it is applied, what is asked for is what runs.
    let facts = Facts { failed: None, ..facts };
    let status = of_service(&facts, Timestamp::UNIX_EPOCH);
    assert_eq!(status.store.unwrap().name, "memory");
    // What cannot be translated runs on under the labels that it has.
    let problems = validate(&Settings::default(), &service, &Inputs::default()).unwrap_err();
    let facts = Facts { plan: Err(&problems), ..facts };
    let status = of_service(&facts, Timestamp::UNIX_EPOCH);
    assert_eq!(status.selector.as_deref(), Some("app=former"));
    assert_eq!(status.store.unwrap().name, "carts");
}

#[test]
fn a_store_that_is_to_go_names_who_needs_it() {
    let mut store = store_of(&json!({ "type": "InMemory" }));
    let dependents = ["cart", "stock"].map(str::to_owned);
    let facts = StoreFacts { dependents: &dependents, ..StoreFacts::default() };
    let stalled = |store: &StatefulStore| {
        let status = of_store(store, &facts, Timestamp::UNIX_EPOCH);
        condition::find(&status.conditions, "Stalled").cloned()
    };
    assert_eq!(stalled(&store), None);
    store.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let told = stalled(&store).unwrap();
    assert_eq!(told.reason, "StoreInUse");
    assert!(told.message.contains("delete cart, stock"), "{}", told.message);
}

#[test]
fn a_store_that_cannot_be_looked_after_says_why() {
    let config = json!({ "service": "db", "credentialsFromSecret": { "name": "cart-db" } });
    let error =
        Error::Timeout { verb: "get", kind: "Secret".to_owned(), name: "cart-db".to_owned() };
    let facts = StoreFacts { failed: Some(&error), ..StoreFacts::default() };
    let status = of_store(&postgres(&config), &facts, Timestamp::UNIX_EPOCH);
    let valid = condition::find(&status.conditions, "StatefulStoreValid").unwrap();
    assert_eq!((valid.status.as_str(), &*valid.reason), ("Unknown", "UnknownOperatorError"));
    assert!(valid.message.contains("get Secret \"cart-db\""), "{}", valid.message);
}
