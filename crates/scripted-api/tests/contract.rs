//! What the operator relies on of an API server, held to the scripted one, and to a real one when
//! `CONTRACT_KUBECONFIG` names how to reach it.

#![expect(clippy::unwrap_used, reason = "a broken case may end the test")]

use std::time::Duration;

use futures::{AsyncBufReadExt, TryStreamExt};
use kube::Client;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::KubeConfigOptions;
use scripted_api::{Server, Store};
use serde_json::{Value, json};

const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON: &str = "application/json";

/// A namespace on an API server.
#[derive(Clone)]
struct Place {
    client: Client,
    namespace: String,
}

impl Place {
    async fn call(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<Value, (u16, String)> {
        let (group, rest) = path.split_once('/').unwrap();
        let root = match group {
            "core" => "/api/v1".to_owned(),
            "apps" => "/apis/apps/v1".to_owned(),
            "rbac" => "/apis/rbac.authorization.k8s.io/v1".to_owned(),
            "leases" => "/apis/coordination.k8s.io/v1".to_owned(),
            other => panic!("no group {other:?}"),
        };
        let uri = format!("{root}/namespaces/{}/{rest}", self.namespace);
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", content_type)
            .header("accept", JSON)
            .body(body)
            .unwrap();
        match self.client.request::<Value>(request).await {
            Ok(answer) => Ok(answer),
            Err(kube::Error::Api(status)) => Err((status.code, status.message.clone())),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    async fn apply(&self, path: &str, body: &Value) -> Result<Value, (u16, String)> {
        let path = format!("{path}?fieldManager=operator&force=true");
        self.call("PATCH", &path, APPLY, body).await
    }

    async fn get(&self, path: &str) -> Result<Value, (u16, String)> {
        self.call("GET", path, JSON, &Value::Null).await
    }

    /// What a watch says from that version on, until so many events have come.
    async fn events(&self, kind: &str, version: &Value, count: usize) -> Vec<(String, String)> {
        let uri = format!(
            "/api/v1/namespaces/{}/{kind}?watch=true&labelSelector=is%3Dseen&resourceVersion={}&timeoutSeconds=20",
            self.namespace,
            version.as_str().unwrap()
        );
        let request = http::Request::get(uri).body(Vec::new()).unwrap();
        let lines = self.client.request_stream(request).await.unwrap().lines();
        let mut lines = std::pin::pin!(lines);
        let mut events = Vec::new();
        while events.len() < count {
            let line = tokio::time::timeout(Duration::from_secs(20), lines.try_next());
            let line = line.await.expect("an event within its time").unwrap().expect("no end");
            let event: Value = serde_json::from_str(&line).unwrap();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            events.push((text(&event["type"]), text(&event["object"]["metadata"]["name"])));
        }
        events
    }
}

fn code<T: std::fmt::Debug>(answer: Result<T, (u16, String)>) -> u16 {
    match answer {
        Ok(found) => panic!("not refused: {found:?}"),
        Err((code, _)) => code,
    }
}

fn config_map(name: &str, data: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data })
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "labels": { "app": "a", "extra": "yes" } },
        "spec": {
            "replicas": 0,
            "selector": { "matchLabels": { "app": "a" } },
            "template": {
                "metadata": { "labels": { "app": "a" } },
                "spec": { "containers": [{
                    "name": "main", "image": "example.invalid/a:1",
                    "env": [{ "name": "A", "value": "1" }],
                    "readinessProbe": { "httpGet": { "path": "/", "port": 80 } },
                }]},
            },
        },
    })
}

fn main_container(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]["containers"][0]
}

async fn suite(at: &Place) {
    apply_writes_only_what_differs(at).await;
    apply_takes_back_what_it_gives_up(at).await;
    a_claim_to_a_field_can_be_taken_back(at).await;
    apply_leaves_what_others_add(at).await;
    writes_are_for_one_version_of_one_object(at).await;
    leases_are_replaced_by_version(at).await;
    what_cannot_be_is_refused(at).await;
    status_and_spec_are_apart(at).await;
    what_has_lost_its_owner_goes(at).await;
    finalizers_are_waited_for(at).await;
    watches_say_what_comes_into_sight_and_leaves_it(at).await;
    metadata_can_be_had_alone(at).await;
    everybody_may_ask_what_they_may_do(at).await;
    long_lists_come_in_pages(at).await;
}

async fn apply_writes_only_what_differs(at: &Place) {
    let path = "apps/deployments/same";
    let body = deployment("same");
    let first = at.apply(path, &body).await.unwrap();
    assert_eq!(main_container(&first)["terminationMessagePath"], "/dev/termination-log");
    assert_eq!(first["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
    assert_eq!(first["metadata"]["generation"], 1);
    let spec_of = |object: &Value| object["metadata"]["generation"].clone();
    let second = at.apply(path, &body).await.unwrap();
    assert_eq!(spec_of(&second), spec_of(&first));
    let mut other = body.clone();
    other["metadata"]["labels"]["extra"] = json!("no");
    let labelled = at.apply(path, &other).await.unwrap();
    assert_eq!(labelled["metadata"]["generation"], 1);
    other["spec"]["template"]["spec"]["containers"][0]["image"] = json!("example.invalid/a:2");
    let changed = at.apply(path, &other).await.unwrap();
    assert_eq!(changed["metadata"]["generation"], 2);

    // Nobody else writes ConfigMaps, so the version can be looked at.
    let body = config_map("same", &json!({ "a": "1" }));
    let first = at.apply("core/configmaps/same", &body).await.unwrap();
    let second = at.apply("core/configmaps/same", &body).await.unwrap();
    assert_eq!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
}

async fn apply_takes_back_what_it_gives_up(at: &Place) {
    let path = "apps/deployments/gives-up";
    at.apply(path, &deployment("gives-up")).await.unwrap();
    let mut less = deployment("gives-up");
    less["metadata"]["labels"] = json!({ "app": "a" });
    let container = &mut less["spec"]["template"]["spec"]["containers"][0];
    container.as_object_mut().unwrap().remove("readinessProbe");
    container.as_object_mut().unwrap().remove("env");
    let found = at.apply(path, &less).await.unwrap();
    assert_eq!(found["metadata"]["labels"], json!({ "app": "a" }));
    assert_eq!(main_container(&found)["readinessProbe"], Value::Null);
    assert_eq!(main_container(&found)["env"], Value::Null);

    // But not what is copied to another field, which copies it back.
    let mut with_account = less.clone();
    with_account["spec"]["template"]["spec"]["serviceAccountName"] = json!("carts");
    at.apply(path, &with_account).await.unwrap();
    let found = at.apply(path, &less).await.unwrap();
    let accounts = |found: &Value| {
        let pod = &found["spec"]["template"]["spec"];
        [pod["serviceAccountName"].clone(), pod["serviceAccount"].clone()]
    };
    assert_eq!(accounts(&found), [json!("carts"), json!("carts")]);
    let both = json!({ "serviceAccountName": null, "serviceAccount": null });
    let change = json!({ "spec": { "template": { "spec": both } } });
    let found = at.call("PATCH", path, STRATEGIC, &change).await.unwrap();
    assert_eq!(accounts(&found), [Value::Null, Value::Null]);

    // Of another it is taken when it is applied, and not taken back when it is not.
    let change = json!({ "data": { "mine": "1", "theirs": "1" } });
    at.apply("core/configmaps/shared", &config_map("shared", &json!({ "mine": "0" })))
        .await
        .unwrap();
    at.call("PATCH", "core/configmaps/shared?fieldManager=hand", MERGE, &change).await.unwrap();
    let body = config_map("shared", &json!({ "mine": "0" }));
    let conflicting = "core/configmaps/shared?fieldManager=operator";
    assert_eq!(code(at.call("PATCH", conflicting, APPLY, &body).await), 409);
    let found = at.apply("core/configmaps/shared", &body).await.unwrap();
    assert_eq!(found["data"], json!({ "mine": "0", "theirs": "1" }));
}

async fn a_claim_to_a_field_can_be_taken_back(at: &Place) {
    // A ConfigMap, since nobody else writes it between two calls of ours.
    let with_label = |name: &str| {
        let mut object = config_map(name, &json!({}));
        object["metadata"]["labels"] = json!({ "kept": "1" });
        object
    };
    for is_taken_back in [false, true] {
        let name = format!("claimed-{is_taken_back}");
        let path = format!("core/configmaps/{name}");
        let create = "core/configmaps?fieldManager=former";
        at.call("POST", create, JSON, &with_label(&name)).await.unwrap();
        at.apply(&path, &with_label(&name)).await.unwrap();
        if is_taken_back {
            let live = at.get(&path).await.unwrap();
            let mut claims = live["metadata"]["managedFields"].as_array().unwrap().clone();
            let managers = claims.len();
            claims.retain(|claim| claim["manager"] != "former");
            assert_eq!(claims.len(), managers - 1, "{live}");
            let without = json!({ "metadata": {
                "managedFields": claims, "resourceVersion": live["metadata"]["resourceVersion"],
            }});
            at.call("PATCH", &format!("{path}?fieldManager=operator"), MERGE, &without)
                .await
                .unwrap();
        }
        let after = at.apply(&path, &config_map(&name, &json!({}))).await.unwrap();
        let label = &after["metadata"]["labels"]["kept"];
        assert_eq!(label.is_null(), is_taken_back, "{after}");
    }
}

async fn apply_leaves_what_others_add(at: &Place) {
    let path = "apps/deployments/added-to";
    let body = deployment("added-to");
    at.apply(path, &body).await.unwrap();
    let added = json!({ "spec": { "template": { "spec": { "containers": [
        { "name": "main", "env": [{ "name": "B", "value": "2" }] },
    ]}}}});
    at.call("PATCH", &format!("{path}?fieldManager=hand"), STRATEGIC, &added).await.unwrap();
    let found = at.apply(path, &body).await.unwrap();
    assert_eq!(main_container(&found)["env"].as_array().unwrap().len(), 2);
    let removed = json!({ "spec": { "template": { "spec": { "containers": [
        { "name": "main", "env": [{ "name": "B", "$patch": "delete" }] },
    ]}}}});
    let found = at.call("PATCH", path, STRATEGIC, &removed).await.unwrap();
    assert_eq!(main_container(&found)["env"], json!([{ "name": "A", "value": "1" }]));
}

async fn writes_are_for_one_version_of_one_object(at: &Place) {
    let path = "core/configmaps/versions";
    let with = |metadata: Value| {
        let mut body = config_map("versions", &json!({ "a": "1" }));
        body["metadata"] = metadata;
        body["metadata"]["name"] = json!("versions");
        body
    };
    let nobody = "11111111-2222-4333-8444-555555555555";
    assert_eq!(code(at.apply(path, &with(json!({ "uid": nobody }))).await), 409);
    let made = at.apply(path, &with(json!({ "resourceVersion": "1" }))).await.unwrap();
    assert_eq!(code(at.apply(path, &with(json!({ "resourceVersion": "1" }))).await), 409);
    assert_eq!(code(at.apply(path, &with(json!({ "uid": nobody }))).await), 422);
    let other = json!({ "uid": nobody, "resourceVersion": "1" });
    assert_eq!(code(at.apply(path, &with(other)).await), 409);
    let version = &made["metadata"]["resourceVersion"];
    at.apply(path, &with(json!({ "resourceVersion": version, "labels": { "x": "y" } })))
        .await
        .unwrap();
    assert_eq!(code(at.apply(path, &with(json!({ "resourceVersion": version }))).await), 409);
    let stale = json!({ "metadata": { "resourceVersion": version }, "data": { "a": "2" } });
    assert_eq!(code(at.call("PATCH", path, MERGE, &stale).await), 409);

    let delete = |preconditions: Value| {
        let body =
            json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions });
        async move { at.call("DELETE", path, JSON, &body).await }
    };
    assert_eq!(code(delete(json!({ "uid": nobody })).await), 409);
    assert_eq!(code(delete(json!({ "resourceVersion": version })).await), 409);
    delete(json!({ "uid": made["metadata"]["uid"] })).await.unwrap();
    assert_eq!(code(delete(json!({ "uid": made["metadata"]["uid"] })).await), 404);
    assert_eq!(code(at.get(path).await), 404);
}

async fn leases_are_replaced_by_version(at: &Place) {
    let body = |holder: &str, version: Option<&Value>| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": "one", "resourceVersion": version },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15 },
        })
    };
    let made = at.call("POST", "leases/leases", JSON, &body("a", None)).await.unwrap();
    assert_eq!(code(at.call("POST", "leases/leases", JSON, &body("b", None)).await), 409);
    let version = &made["metadata"]["resourceVersion"];
    let path = "leases/leases/one";
    at.call("PUT", path, JSON, &body("b", Some(version))).await.unwrap();
    assert_eq!(code(at.call("PUT", path, JSON, &body("c", Some(version))).await), 409);
    assert_eq!(at.get(path).await.unwrap()["spec"]["holderIdentity"], "b");
}

async fn what_cannot_be_is_refused(at: &Place) {
    let path = "apps/deployments/refused";
    let body = deployment("refused");
    at.apply(path, &body).await.unwrap();
    let mut other = body.clone();
    other["spec"]["selector"]["matchLabels"] = json!({ "app": "b" });
    other["spec"]["template"]["metadata"]["labels"] = json!({ "app": "b" });
    assert_eq!(code(at.apply(path, &other).await), 422);
    let mut other = body.clone();
    other["spec"]["strategy"] = json!({ "type": "Recreate" });
    assert_eq!(code(at.apply(path, &other).await), 422);
    let change = json!({ "spec": { "strategy": { "type": "Recreate", "rollingUpdate": null } } });
    let found = at.call("PATCH", path, STRATEGIC, &change).await.unwrap();
    assert_eq!(found["spec"]["strategy"], json!({ "type": "Recreate" }));

    let mut other = body.clone();
    other["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{ "name": "A", "value": "1" }, { "name": "A", "value": "2" }]);
    let (_, message) = at.apply(path, &other).await.unwrap_err();
    assert!(message.contains("duplicate entries for key"), "{message}");

    let owner = |uid: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": uid, "controller": true,
        })
    };
    let mut two = config_map("two-owners", &json!({}));
    let uids = ["11111111-2222-4333-8444-555555555555", "21111111-2222-4333-8444-555555555555"];
    two["metadata"]["ownerReferences"] = json!(uids.map(owner));
    assert_eq!(code(at.apply("core/configmaps/two-owners", &two).await), 422);

    let binding = |role: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": { "name": "bound" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": "default", "namespace": at.namespace }],
        })
    };
    at.apply("rbac/rolebindings/bound", &binding("a")).await.unwrap();
    assert_eq!(code(at.apply("rbac/rolebindings/bound", &binding("b")).await), 422);
}

async fn status_and_spec_are_apart(at: &Place) {
    let path = "apps/deployments/status";
    let mut body = deployment("status");
    body["status"] = json!({ "replicas": 7 });
    let made = at.apply(path, &body).await.unwrap();
    assert_ne!(made["status"]["replicas"], 7);
    let status = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "status" },
        "spec": { "replicas": 3 },
        "status": { "conditions": [{ "type": "Contract", "status": "True", "reason": "Said" }] },
    });
    let found = at.apply(&format!("{path}/status"), &status).await.unwrap();
    assert_eq!(found["spec"]["replicas"], 0);
    assert_eq!(found["metadata"]["generation"], 1);
    let has_ours = |object: &Value| {
        let all = object["status"]["conditions"].as_array().unwrap();
        all.iter().any(|each| each["type"] == "Contract")
    };
    assert!(has_ours(&found));
    let gone = at.apply("apps/deployments/nobody/status", &status).await;
    assert!([400, 404].contains(&code(gone)));
}

async fn what_has_lost_its_owner_goes(at: &Place) {
    let owner = at.apply("core/configmaps/owner", &config_map("owner", &json!({}))).await.unwrap();
    let mut child = config_map("child", &json!({}));
    child["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
        "uid": owner["metadata"]["uid"], "controller": true,
    }]);
    at.apply("core/configmaps/child", &child).await.unwrap();
    let body =
        json!({ "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background" });
    at.call("DELETE", "core/configmaps/owner", JSON, &body).await.unwrap();
    let goes = async {
        while at.get("core/configmaps/child").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), goes).await.expect("garbage is collected");
}

async fn finalizers_are_waited_for(at: &Place) {
    let path = "core/configmaps/finalized";
    let mut body = config_map("finalized", &json!({}));
    body["metadata"]["finalizers"] = json!(["example.com/contract"]);
    at.apply(path, &body).await.unwrap();
    at.call("DELETE", path, JSON, &Value::Null).await.unwrap();
    assert!(at.get(path).await.unwrap()["metadata"]["deletionTimestamp"].is_string());
    let change = json!({ "metadata": { "finalizers": null } });
    at.call("PATCH", path, MERGE, &change).await.unwrap();
    assert_eq!(code(at.get(path).await), 404);
}

async fn watches_say_what_comes_into_sight_and_leaves_it(at: &Place) {
    let listed = at.get("core/configmaps?labelSelector=is%3Dseen").await.unwrap();
    assert_eq!(listed["items"], json!([]));
    let path = "core/configmaps/watched";
    let labelled = |label: &str, value: &str| {
        let mut body = config_map("watched", &json!({ "value": value }));
        body["metadata"]["labels"] = json!({ "is": label });
        body
    };
    for body in [labelled("hidden", "1"), labelled("seen", "1"), labelled("seen", "2")] {
        at.apply(path, &body).await.unwrap();
    }
    at.apply(path, &labelled("hidden", "2")).await.unwrap();
    at.apply(path, &labelled("seen", "2")).await.unwrap();
    at.call("DELETE", path, JSON, &Value::Null).await.unwrap();
    let version = &listed["metadata"]["resourceVersion"];
    let events = at.events("configmaps", version, 5).await;
    let said: Vec<_> = events.iter().map(|(kind, name)| (kind.as_str(), name.as_str())).collect();
    let expected = ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"];
    assert_eq!(said, expected.map(|kind| (kind, "watched")));
}

async fn metadata_can_be_had_alone(at: &Place) {
    at.apply("core/configmaps/bare", &config_map("bare", &json!({ "a": "1" }))).await.unwrap();
    let api = kube::Api::<k8s_openapi::api::core::v1::ConfigMap>::namespaced(
        at.client.clone(),
        &at.namespace,
    );
    let found = api.get_metadata("bare").await.unwrap();
    assert_eq!(found.metadata.name.as_deref(), Some("bare"));
    let listed = api.list_metadata(&ListParams::default()).await.unwrap();
    assert!(listed.items.iter().any(|each| each.metadata.name.as_deref() == Some("bare")));
}

async fn everybody_may_ask_what_they_may_do(at: &Place) {
    let asked = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": {
            "verb": "list", "group": "rbac.authorization.k8s.io", "resource": "roles",
            "namespace": at.namespace,
        }},
    });
    let uri = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let request = http::Request::post(uri)
        .header("content-type", JSON)
        .body(asked.to_string().into_bytes())
        .unwrap();
    let answer = at.client.request::<Value>(request).await.unwrap();
    assert_eq!(answer["status"]["allowed"], true, "{answer}");
    assert_eq!(answer["spec"], asked["spec"]);
}

async fn long_lists_come_in_pages(at: &Place) {
    for name in ["page-a", "page-b", "page-c"] {
        let mut body = config_map(name, &json!({}));
        body["metadata"]["labels"] = json!({ "of": "pages" });
        at.apply(&format!("core/configmaps/{name}"), &body).await.unwrap();
    }
    let page = |next: &str| {
        let path = format!("core/configmaps?labelSelector=of%3Dpages&limit=2&continue={next}");
        async move { at.get(&path).await }
    };
    let names = |page: &Value| {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = page("").await.unwrap();
    assert_eq!(names(&first), ["page-a", "page-b"]);
    // What is written meanwhile does not make the version of the list another one.
    at.apply("core/configmaps/page-z", &config_map("page-z", &json!({}))).await.unwrap();
    let next = first["metadata"]["continue"].as_str().unwrap();
    let second = page(&next.replace('/', "%2F")).await.unwrap();
    assert_eq!(names(&second), ["page-c"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(second["metadata"]["continue"].as_str().unwrap_or_default().is_empty());
    assert_eq!(code(page("nonsense").await), 400);
}

#[tokio::test]
async fn the_scripted_server_keeps_the_contract() {
    let server = Server::new(Store::new());
    let client = Client::new(server.connect(), "default");
    suite(&Place { client, namespace: "contract".to_owned() }).await;
}

#[tokio::test]
async fn a_real_server_keeps_the_contract() {
    let Some(path) = std::env::var_os("CONTRACT_KUBECONFIG") else {
        println!("skipped: CONTRACT_KUBECONFIG names no real API server");
        return;
    };
    // The test is the program here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let found = kube::config::Kubeconfig::read_from(path).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(found, &KubeConfigOptions::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    let namespace = format!("contract-{}", std::process::id());
    let body =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> =
        kube::Api::all(client.clone());
    namespaces
        .create(&PostParams::default(), &serde_json::from_value(body).unwrap())
        .await
        .unwrap();
    let place = Place { client, namespace: namespace.clone() };
    // The namespace goes whatever comes of it.
    let ended = tokio::spawn(async move { suite(&place).await }).await;
    namespaces.delete(&namespace, &DeleteParams::default()).await.unwrap();
    ended.unwrap();
}
