use serde_json::{Value, json};

use super::*;

const WORDS: &str =
    r#"{"reason":"UserFunctionRefused","message":"protocol version 9.9 is not supported"}"#;

/// A pod with these states of user container and sidecar; both may carry `lastState`.
fn pod(name: &str, user: &Value, sidecar: &Value) -> Arc<Pod> {
    let status = |name: &str, given: &Value| {
        let mut status = json!({
            "name": name, "image": "registry.example/cart:1", "imageID": "", "ready": false,
            "restartCount": 0,
        });
        status.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        status
    };
    let pod = json!({
        "metadata": {
            "name": name, "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "pod-template-hash": "1" },
        },
        "status": {
            "podIP": "10.0.0.7",
            "conditions": [{ "type": "Ready", "status": "False" }],
            "containerStatuses":
                [status("user-container", user), status("cloudstate-sidecar", sidecar)],
        },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn running() -> Value {
    json!({ "state": { "running": {} } })
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({ "state": { "waiting": { "reason": reason, "message": message } } })
}

fn restarted(message: &str) -> Value {
    json!({
        "state": { "running": {} },
        "lastState": { "terminated": { "exitCode": 78, "message": message } },
    })
}

fn says(reason: &str, message: &str) -> Answer {
    Answer::NotReady(NotReady { reason: reason.to_owned(), message: message.to_owned() })
}

#[track_caller]
fn check(pods: &[Arc<Pod>], answer: &Answer, expected: Option<(&str, &str)>) {
    let answers = pods.iter().map(|pod| (pod.name_any(), answer.clone())).collect();
    let found = diagnose(pods, &answers);
    match (&found, expected) {
        (None, None) => {}
        (Some(found), Some((reason, part))) => {
            assert_eq!(found.reason, reason, "{found:?}");
            assert!(found.message.contains(part), "{found:?}");
        }
        _ => panic!("expected {expected:?}, found {found:?}"),
    }
}

#[test]
fn the_sidecars_answer_comes_through_with_the_name_of_the_pod() {
    let pods = [pod("a", &running(), &running())];
    check(
        &pods,
        &says("UserFunctionUnreachable", "nothing listens"),
        Some(("UserFunctionUnreachable", "pod \"a\": nothing listens")),
    );
    check(&pods, &Answer::Nothing, None);
}

#[test]
fn last_words_hold_while_the_sidecar_is_started_again() {
    let crashed = json!({ "state": { "terminated": { "exitCode": 78, "message": WORDS } } });
    let backing_off = json!({
        "state": { "waiting": { "reason": "CrashLoopBackOff" } },
        "lastState": { "terminated": { "exitCode": 78, "message": WORDS } },
    });
    let expected = Some(("UserFunctionRefused", "9.9"));
    check(&[pod("a", &running(), &crashed)], &Answer::Nothing, expected);
    check(&[pod("a", &running(), &backing_off)], &Answer::Nothing, expected);
    let again = [pod("a", &running(), &restarted(WORDS))];
    check(&again, &Answer::Nothing, expected);
    check(&again, &says("ProxyStarting", "wait"), expected);
    check(&again, &says("UserFunctionUnreachable", "wait"), expected);
    check(
        &again,
        &says("UserFunctionRefused", "no such type"),
        Some(("UserFunctionRefused", "no such type")),
    );
    check(&again, &Answer::Ready, Some(("UserContainerNotReady", "user-container")));
}

#[test]
fn both_words_of_the_kubelet_for_a_missing_image_give_one_diagnosis() {
    let cause = "failed to pull: not found";
    let first = waiting("ErrImagePull", cause);
    let later = waiting(
        "ImagePullBackOff",
        &format!("Back-off pulling image \"registry.example/cart:1\": ErrImagePull: {cause}"),
    );
    let [first, later] = [first, later]
        .map(|user| diagnose(&[pod("a", &user, &running())], &BTreeMap::new()).unwrap());
    assert_eq!(first, later);
    assert_eq!(first.reason, "ImagePullBackOff");
    assert!(first.message.contains("registry.example/cart:1"), "{first:?}");
}

#[test]
fn a_user_function_that_exits_is_shown_with_its_last_words() {
    let user = json!({
        "state": { "running": {} },
        "lastState": { "terminated": { "exitCode": 3, "message": "no \u{1b}[31mdatabase\n" } },
    });
    let pods = [pod("a", &user, &running())];
    let expected =
        Some(("CrashLoopBackOff", "exit code 3; its last words: no \u{fffd}[31mdatabase"));
    check(&pods, &says("UserFunctionUnreachable", "nothing listens"), expected);
    // What the proxy has against it weighs more than that it was started twice.
    check(&pods, &says("UserFunctionRefused", "9.9"), Some(("UserFunctionRefused", "9.9")));
}

#[test]
fn a_command_that_does_not_exist_is_one_diagnosis_whatever_the_kubelet_calls_it() {
    let ended = json!({ "terminated": { "exitCode": 128, "reason": "StartError", "message": "stat /nope" } });
    let expected = Some(("CrashLoopBackOff", "cannot be started"));
    for reason in ["RunContainerError", "CrashLoopBackOff"] {
        let mut user = waiting(reason, "back-off");
        user["lastState"] = ended.clone();
        let pods = [pod("a", &user, &running())];
        check(&pods, &says("UserFunctionUnreachable", "nothing listens"), expected);
    }
}

#[test]
fn a_sidecar_without_last_words_is_a_crash() {
    let sidecar = json!({
        "state": { "waiting": { "reason": "CrashLoopBackOff" } },
        "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } },
    });
    let expected = Some(("SidecarCrashed", "memory"));
    check(&[pod("a", &running(), &sidecar)], &Answer::Nothing, expected);
    let mut again = sidecar;
    again["state"] = json!({ "running": {} });
    let again = [pod("a", &running(), &again)];
    check(&again, &says("ProxyStarting", "wait"), expected);
    let unreachable = says("UserFunctionUnreachable", "nothing listens");
    check(&again, &unreachable, Some(("UserFunctionUnreachable", "nothing")));
}

#[test]
fn a_reason_that_is_no_word_is_replaced() {
    let pods = [pod("a", &running(), &running())];
    check(&pods, &says("not a reason\u{7}", "text"), Some(("SidecarNotReady", "text")));
    check(&pods, &says(&"A".repeat(65), "text"), Some(("SidecarNotReady", "text")));
    let long = says("UserFunctionUnreachable", &"x".repeat(100_000));
    let answers = BTreeMap::from([("a".to_owned(), long)]);
    assert!(diagnose(&pods, &answers).unwrap().message.len() <= MESSAGE_BYTES_MAX);
}

#[test]
fn the_surest_finding_of_several_pods_is_shown() {
    let pods = [
        pod("a", &running(), &running()),
        pod("b", &running(), &restarted(WORDS)),
        pod("c", &running(), &running()),
    ];
    check(&pods, &says("ProxyStarting", "wait"), Some(("UserFunctionRefused", "pod \"b\"")));
}

#[test]
fn old_templates_and_pods_on_their_way_out_do_not_count() {
    let mut old = Pod::clone(&pod("old", &waiting("ErrImagePull", "x"), &running()));
    old.labels_mut().insert("pod-template-hash".to_owned(), "0".to_owned());
    old.metadata.creation_timestamp =
        serde_json::from_value(json!("2025-01-01T00:00:00Z")).unwrap();
    let mut leaving = Pod::clone(&pod("leaving", &waiting("ErrImagePull", "x"), &running()));
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    let pods = [Arc::new(old), Arc::new(leaving), pod("new", &running(), &running())];
    check(&pods, &says("ProxyStarting", "wait"), Some(("ProxyStarting", "pod \"new\"")));
    let asked: Vec<_> = whom_to_ask(&pods).into_keys().collect();
    assert_eq!(asked, ["new"]);
}

#[test]
fn a_bounded_number_of_running_sidecars_is_asked() {
    let mut pods: Vec<_> =
        (0..9).map(|index| pod(&format!("p{index}"), &running(), &running())).collect();
    pods.push(pod("a", &running(), &waiting("ContainerCreating", "")));
    assert_eq!(whom_to_ask(&pods).len(), ASK_MAX);
    assert!(!whom_to_ask(&pods).contains_key("a"));
}

#[test]
fn a_pod_that_no_node_takes_says_why() {
    let mut stuck = Pod::clone(&pod("a", &json!({}), &json!({})));
    stuck.status.as_mut().unwrap().conditions = serde_json::from_value(json!([{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient cpu.",
    }]))
    .unwrap();
    check(&[Arc::new(stuck)], &Answer::Nothing, Some(("Unschedulable", "Insufficient cpu")));
}

#[test]
fn a_missing_secret_is_told_with_the_store_that_names_it() {
    const CAUSE: &str = "CreateContainerConfigError";
    let sidecar = |said: &str| {
        let mut pod = pod("a", &running(), &waiting(CAUSE, said));
        let labels = Arc::make_mut(&mut pod).metadata.labels.get_or_insert_default();
        labels.insert("cloudstate.io/statefulStore".to_owned(), "carts".to_owned());
        [pod]
    };
    let gone = sidecar("secret \"carts-db\" not found");
    check(
        &gone,
        &Answer::Nothing,
        Some(("SecretNotFound", "secret \"carts-db\" not found; create")),
    );
    check(&gone, &Answer::Nothing, Some(("SecretNotFound", "StatefulStore \"carts\"")));
    let keyless = sidecar("couldn't find key password in Secret shop/carts-db");
    check(&keyless, &Answer::Nothing, Some(("SecretKeyNotFound", "key password in Secret")));
    let other = [pod("a", &waiting(CAUSE, "configmap \"c\" not found"), &running())];
    check(&other, &Answer::Nothing, Some(("CreateContainerError", "configmap")));
    let users = [pod("a", &waiting(CAUSE, "secret \"mine\" not found"), &running())];
    check(&users, &Answer::Nothing, Some(("SecretNotFound", "user-container")));
}

#[test]
fn a_sidecar_that_is_an_init_container_is_seen_and_no_other_init_container() {
    let mut found = serde_json::to_value(&*pod("a", &running(), &running())).unwrap();
    let mut all = found["status"]["containerStatuses"].take();
    let sidecar = all.as_array_mut().unwrap().pop().unwrap();
    let mut other = sidecar.clone();
    other["name"] = json!("istio-init");
    other["state"] = json!({ "terminated": { "exitCode": 0 } });
    found["status"]["containerStatuses"] = all;
    found["status"]["initContainerStatuses"] = json!([other, sidecar]);
    let native = |found: &Value| Arc::new(serde_json::from_value(found.clone()).unwrap());
    assert_eq!(whom_to_ask(&[native(&found)]).len(), 1);
    check(&[native(&found)], &Answer::Nothing, None);
    let image = waiting("ImagePullBackOff", "no such image");
    found["status"]["initContainerStatuses"][1]["state"] = image["state"].clone();
    let expected = ("ImagePullBackOff", "the operator's setting proxy.image");
    check(&[native(&found)], &Answer::Nothing, Some(expected));
}
