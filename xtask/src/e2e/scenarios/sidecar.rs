//! The sidecar in a real pod, with either kind of proxy: our own, and one made of jars on a real JVM.

mod ahead;
mod jvm;
mod kind;
mod memory;
mod scratch;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use serde_json::Value;

use self::kind::Kind;
pub(super) use self::{ahead::*, jvm::*, memory::*, scratch::*};
use super::manifests::{SERVICE, STORE, with_store};
use crate::e2e::{
    namespace::{Namespace, READY},
    processes::{self, Process},
    wait::until,
};

const SIDECAR: &str = "cloudstate-sidecar";
const USER: &str = "user-container";
const LAUNCHER: &str = "/proxy-launcher";

/// Calls under way when their pod is deleted, and as many when its proxy is told to stop.
const CALLS: u64 = 50;
/// How long each takes: so long that the second calls begin before the pre-delay is over, and end after it.
const CALL: Duration = Duration::from_secs(4);
/// From a pod's end to the TERM of its proxy.
const PRE_DELAY: Duration = Duration::from_secs(5);

pub(super) fn native_proxy_that_hangs_is_replaced(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    hangs(namespace, Kind::Native)
}

pub(super) fn native_calls_outlive_their_pod(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    drains(namespace, Kind::Native)
}

/// A store that our own proxy does not serve: trying again cannot help, and the pod says so.
pub(super) fn native_last_words_in_describe_pod(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    namespace.apply(&format!(
        "
apiVersion: cloudstate.io/v1alpha1
kind: StatefulStore
metadata: {{name: {STORE}}}
spec: {{type: Cassandra, deployment: Unmanaged, config: {{service: ring}}}}
"
    ))?;
    let config = format!("    name: {STORE}\n    config: {{keyspace: carts}}\n");
    let service =
        with_store(&namespace.cluster.scripted).replace(&format!("    name: {STORE}\n"), &config);
    namespace.apply(&service)?;
    let words = ["Exit Code: 78", "ConfigurationRefused", "CLOUDSTATE_STORE", "cassandra"];
    last_words(namespace, &words)
}

/// SIGSTOP of the proxy: it is there and silent. The launcher notices and starts another one.
fn hangs(namespace: &mut Namespace<'_>, kind: Kind) -> anyhow::Result<()> {
    let before = deployed(namespace, kind, "")?;
    let stopped = kind.proxy(&before)?;
    let launcher = processes::find(&before, SIDECAR, LAUNCHER)?;
    stopped.signal(Signal::STOP)?;
    // 20 s of silence, and 5 s for a TERM that it cannot hear.
    let (new, took) = until("a proxy that hangs is replaced", READY, || {
        Ok(match kind.proxy(&before) {
            Ok(process) if process != stopped => Ok(process),
            Ok(_) => Err("the stopped one is still there".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        })
    })?;
    namespace.note(format!("another proxy {took:.1?} after SIGSTOP of the first"));
    namespace.ready(SERVICE)?;
    kind.call(namespace)?;
    let after = same_pod(namespace, &before, launcher)?;
    ensure!(kind.proxy(&after)? == new, "it was replaced once more");
    ensure!(processes::restarts(&after, USER)? == 0, "the user function was restarted as well");
    Ok(())
}

/// `kubectl delete pod` with calls under way, and with others under way when the proxy gets its TERM.
fn drains(namespace: &mut Namespace<'_>, kind: Kind) -> anyhow::Result<()> {
    // The hook that the operator gives it keeps the user function until the drain is over.
    let pod = deployed(namespace, kind, "")?;
    let calls = kind.calls(namespace, &pod, CALLS)?;
    until("all calls are under way", CALL, || {
        let count = kind.under_way(&pod)?;
        Ok(if count == CALLS { Ok(()) } else { Err(format!("{count} of {CALLS} are")) })
    })?;
    let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
    namespace.kubectl(&["delete", "pod", name, "--wait=false"])?;
    let deleted = Instant::now();
    calls.end()?;
    let took = deleted.elapsed();
    ensure!(took > PRE_DELAY, "all ended {took:.1?} after the pod was deleted, before any TERM");
    until("the pod is gone", READY, || {
        let pods = namespace.list("pods")?;
        let is_left = pods.iter().any(|left| left["metadata"]["uid"] == pod["metadata"]["uid"]);
        Ok(if is_left { Err("it is still there".to_owned()) } else { Ok(()) })
    })?;
    namespace.ready(SERVICE)?;
    namespace.note(format!(
        "{} calls of {CALL:?}, half of them begun before the pod was deleted; the last ended {took:.1?} after that, none broken",
        2 * CALLS
    ));
    Ok(())
}

/// Waits until plain `kubectl describe pod` shows all of it, and keeps the message for the reader.
fn last_words(namespace: &mut Namespace<'_>, words: &[&str]) -> anyhow::Result<()> {
    let (message, _) = until("kubectl describe pod shows the last words", READY, || {
        let shown = namespace.kubectl(&["describe", "pods"])?;
        // How wide a column is depends on its neighbours.
        let flat = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        let missing: Vec<_> = words.iter().filter(|word| !flat.contains(**word)).collect();
        if !missing.is_empty() {
            return Ok(Err(format!("no {missing:?} in\n{shown}")));
        }
        let message = shown.lines().find(|line| line.trim_start().starts_with("Message:"));
        Ok(message.map(|line| line.trim().to_owned()).ok_or(shown.clone()))
    })?;
    namespace.note(message);
    Ok(())
}

/// A service of that kind that serves calls; its pod. More of its spec is given as YAML lines that are indented by two.
fn deployed(namespace: &Namespace<'_>, kind: Kind, more: &str) -> anyhow::Result<Value> {
    applied(namespace, kind, &kind.service(namespace.cluster, more))
}

fn applied(namespace: &Namespace<'_>, kind: Kind, service: &str) -> anyhow::Result<Value> {
    namespace.apply(service)?;
    namespace.ready(SERVICE)?;
    kind.call(namespace)?;
    namespace.pod(SERVICE)
}

/// The pod as it is now, in which neither launcher nor container was started anew.
fn same_pod(namespace: &Namespace<'_>, before: &Value, launcher: Process) -> anyhow::Result<Value> {
    let after = namespace.pod(SERVICE)?;
    ensure!(after["metadata"]["uid"] == before["metadata"]["uid"], "this is another pod");
    let restarts = processes::restarts(&after, SIDECAR)?;
    ensure!(restarts == 0, "{SIDECAR} was restarted: {restarts}");
    let now = processes::find(&after, SIDECAR, LAUNCHER)?;
    ensure!(now == launcher, "the launcher was replaced");
    Ok(after)
}
