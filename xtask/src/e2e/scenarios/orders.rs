//! Pieces that come in any order, and children that go.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;

use super::manifests::{DEPLOYMENT, SERVICE, STORE, minimal, sample};
use crate::e2e::{
    namespace::{Namespace, READY, condition},
    wait::{promptly, until},
};

const SETTLED: Duration = Duration::from_secs(2);
const BACK: Duration = Duration::from_secs(1);
/// An autoscaler looks every 15 s.
const SCALED: Duration = Duration::from_secs(45);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Service,
    Store,
    Secret,
}
use Piece::{Secret, Service, Store};

/// Service, store and Secret in each of their six orders: within 2 s of the last, the Deployment is there and nothing is
/// said against the store.
pub(super) fn pieces_come_in_any_order(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    let orders = [
        [Service, Store, Secret],
        [Service, Secret, Store],
        [Store, Service, Secret],
        [Store, Secret, Service],
        [Secret, Service, Store],
        [Secret, Store, Service],
    ];
    let (mut slowest, mut late) = (Duration::ZERO, Vec::new());
    for (number, order) in orders.iter().enumerate() {
        let what = format!("settled after the last of {order:?}");
        let prompt = promptly(&what, SETTLED, |again| {
            settles(namespace, &format!("cart-{number}-{again}"), *order)
        })?;
        slowest = slowest.max(prompt.took);
        late.extend(prompt.late);
    }
    namespace.note(format!(
        "{} orders, the slowest seen settled {slowest:.1?} after its last piece; late, and tried again: {late:.1?}",
        orders.len()
    ));
    Ok(())
}

/// Applies the pieces, each when what the one before leads to has come to be. How long the last one takes.
fn settles(namespace: &Namespace<'_>, name: &str, order: [Piece; 3]) -> anyhow::Result<Duration> {
    let mut last = Duration::ZERO;
    for (index, piece) in order.iter().enumerate() {
        namespace.apply(&manifest(*piece, name))?;
        let done = &order[..=index];
        let (has_store, has_service) = (done.contains(&Store), done.contains(&Service));
        if !has_service {
            continue;
        }
        let ((), took) = until(&format!("{name} is settled with {done:?}"), READY, || {
            let object = namespace.get("statefulservice", name)?;
            let valid = condition(&object, "StatefulStoreValid");
            let wanted = if has_store { "True" } else { "False" };
            let deployments = namespace.kubectl(&[
                "get",
                "deployment",
                &format!("{name}-deployment"),
                "--ignore-not-found",
                "--output=name",
            ])?;
            let is_made = !deployments.is_empty();
            Ok(if valid["status"] == wanted && is_made == has_store {
                Ok(())
            } else {
                Err(format!("StatefulStoreValid: {valid}; Deployment there: {is_made}"))
            })
        })?;
        last = took;
    }
    Ok(last)
}

fn manifest(piece: Piece, name: &str) -> String {
    match piece {
        Service => format!(
            "
apiVersion: cloudstate.io/v1alpha1
kind: StatefulService
metadata: {{name: {name}}}
spec:
  replicas: 0
  datastore: {{name: {name}}}
  containers:
  - image: localhost/nothing:1
"
        ),
        Store => format!(
            "
apiVersion: cloudstate.io/v1alpha1
kind: StatefulStore
metadata: {{name: {name}}}
spec:
  type: Postgres
  deployment: Unmanaged
  config: {{service: carts-db, credentialsFromSecret: {{name: {name}}}}}
"
        ),
        Secret => format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: {name}}},
              stringData: {{database: carts, username: carts, password: change-me}}}}"
        ),
    }
}

/// Deployment and Service, deleted and edited: each is back within a second of kubectl's return.
pub(super) fn children_are_back_within_a_second(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    namespace.apply(&sample(namespace.cluster)?)?;
    namespace.ready(SERVICE)?;
    let mut notes = Vec::new();
    for (kind, name) in [("deployment", DEPLOYMENT), ("service", SERVICE)] {
        let took = promptly(&format!("a deleted {kind} is back"), BACK, |_| {
            let old = namespace.get(kind, name)?["metadata"]["uid"].take();
            namespace.kubectl(&["delete", kind, name, "--wait=false", "--cascade=background"])?;
            let path = "--output=jsonpath={.metadata.uid}";
            let ((), took) = until(&format!("another {kind} is there"), READY, || {
                let uid = namespace.kubectl(&["get", kind, name, "--ignore-not-found", path])?;
                Ok(if !uid.is_empty() && old != uid { Ok(()) } else { Err(format!("uid {uid:?}")) })
            })?;
            Ok(took)
        })?;
        notes.push(format!("deleted {kind}: {took}"));
    }
    let edits = [
        ("deployment", DEPLOYMENT, "/spec/replicas", r#"{"spec": {"replicas": 3}}"#),
        (
            "service",
            SERVICE,
            "/spec/ports/0/targetPort",
            r#"{"spec": {"ports": [{"name": "grpc", "port": 80, "targetPort": 1}]}}"#,
        ),
    ];
    for (kind, name, pointer, edit) in edits {
        let value = |object: &Value| object.pointer(pointer).cloned().unwrap_or_default();
        let before = value(&namespace.get(kind, name)?);
        let patch = ["patch", kind, name, "--type=merge", "--patch", edit, "--output=json"];
        let what = format!("{pointer} of the {kind} is as before");
        let took = promptly(&what, BACK, |_| {
            let printed = namespace.kubectl(&patch)?;
            ensure!(value(&serde_json::from_str(&printed)?) != before, "{pointer} was not edited");
            let ((), took) = until(&what, READY, || {
                let now = value(&namespace.get(kind, name)?);
                Ok(if now == before { Ok(()) } else { Err(now.to_string()) })
            })?;
            Ok(took)
        })?;
        notes.push(format!("edited {kind}: {took}"));
    }
    namespace.note(format!("back after, of which most is kubectl: {}", notes.join(", ")));
    Ok(())
}

/// `kubectl scale` and an autoscaler on the service's scale subresource reach the Deployment; a hand edit of it does not last.
pub(super) fn replicas_are_those_of_the_service(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    // Its pods never come up, and nobody waits for them.
    namespace.apply(&minimal("localhost/nothing:1"))?;
    has_replicas(namespace, 1, READY)?;
    let service = format!("statefulservice/{SERVICE}");
    namespace.kubectl(&["scale", &service, "--replicas=3"])?;
    let ((), scaled) = has_replicas(namespace, 3, READY)?;
    namespace.kubectl(&["scale", &format!("deployment/{DEPLOYMENT}"), "--replicas=5"])?;
    let ((), repaired) = has_replicas(namespace, 3, READY)?;
    namespace.apply(&autoscaler())?;
    let ((), by_autoscaler) = has_replicas(namespace, 4, SCALED)?;
    ensure!(namespace.get("statefulservice", SERVICE)?["spec"]["replicas"] == 4, "spec.replicas");
    let autoscaler = namespace.get("horizontalpodautoscaler", SERVICE)?;
    let able = condition(&autoscaler, "AbleToScale");
    ensure!(able["status"] == "True", "the autoscaler says {able}");
    namespace.note(format!(
        "kubectl scale {scaled:.1?}, hand edit put back {repaired:.1?}, autoscaler {by_autoscaler:.1?}"
    ));
    Ok(())
}

/// With a store in memory it is one pod, whoever asks for more: `kubectl scale`, a hand at the Deployment, an autoscaler.
/// Each time the service says so.
pub(super) fn a_store_in_memory_pins_one_pod(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&sample(namespace.cluster)?)?;
    namespace.ready(SERVICE)?;
    let pod = namespace.pod(SERVICE)?["metadata"]["uid"].take();
    let told = |asked: u32, limit: Duration| {
        let wanted = format!("spec.replicas is {asked}, and 1 is used");
        until(&format!("the condition ReplicasPinned says {wanted:?}"), limit, || {
            let object = namespace.get("statefulservice", SERVICE)?;
            let pinned = condition(&object, "ReplicasPinned");
            let message = pinned["message"].as_str().unwrap_or_default();
            let is_told = pinned["status"] == "True" && message.contains(&wanted);
            Ok(if is_told { Ok(message.to_owned()) } else { Err(pinned.to_string()) })
        })
    };
    let service = format!("statefulservice/{SERVICE}");
    namespace.kubectl(&["scale", &service, "--replicas=3"])?;
    let (message, _) = told(3, READY)?;
    ensure!(message.contains(STORE), "the store is not named: {message}");
    one_is_asked_for(namespace)?;
    namespace.kubectl(&["scale", &format!("deployment/{DEPLOYMENT}"), "--replicas=2"])?;
    has_replicas(namespace, 1, READY)?;
    namespace.apply(&autoscaler())?;
    told(4, SCALED)?;
    one_is_asked_for(namespace)?;
    // One more may have been begun and ended by the hand's edit; that of before was not touched.
    ensure!(namespace.pod(SERVICE)?["metadata"]["uid"] == pod, "another pod");
    namespace.ready(SERVICE)?;
    namespace.note(format!("ReplicasPinned=True: {message}"));
    Ok(())
}

fn one_is_asked_for(namespace: &Namespace<'_>) -> anyhow::Result<()> {
    let replicas = namespace.get("deployment", DEPLOYMENT)?["spec"]["replicas"].take();
    ensure!(replicas == 1, "the Deployment has {replicas} replicas");
    Ok(())
}

/// Waits until the Deployment has so many.
fn has_replicas(
    namespace: &Namespace<'_>,
    wanted: u32,
    limit: Duration,
) -> anyhow::Result<((), Duration)> {
    until(&format!("the Deployment has {wanted} replicas"), limit, || {
        let path = "--output=jsonpath={.spec.replicas}";
        let found =
            namespace.kubectl(&["get", "deployment", DEPLOYMENT, "--ignore-not-found", path])?;
        Ok(if found == wanted.to_string() { Ok(()) } else { Err(found) })
    })
}

/// Below its least number it scales up, whatever the metrics say.
fn autoscaler() -> String {
    format!(
        "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: {SERVICE}}}
spec:
  scaleTargetRef: {{apiVersion: cloudstate.io/v1alpha1, kind: StatefulService, name: {SERVICE}}}
  minReplicas: 4
  maxReplicas: 6
"
    )
}
