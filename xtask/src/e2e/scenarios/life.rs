//! A service from its first call to its end.

use std::time::Duration;

use anyhow::ensure;

use super::manifests::{SERVICE, sample};
use crate::e2e::{calls::Caller, namespace::Namespace, processes, wait::until};

/// What a service becomes, and what Kubernetes makes of that.
const KINDS: &str = "deployments,replicasets,pods,services,endpointslices";
const SIDECAR: &str = "cloudstate-sidecar";
const USER: &str = "user-container";

/// Add two, read the cart, through the address of the Service.
pub(super) fn cart_through_the_service(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&sample(namespace.cluster)?)?;
    let waited = namespace.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "statefulservice/shopping-cart",
        "--timeout=60s",
    ])?;
    ensure!(waited.contains("condition met"), "kubectl wait printed {waited}");
    let caller = Caller::of(namespace, SERVICE)?;
    caller.fill_and_read("anna")?;
    let other = caller.cart("bert")?;
    ensure!(other.is_empty(), "what anna added is in the cart of bert: {other:?}");
    Ok(())
}

pub(super) fn deleting_the_service_removes_everything(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    namespace.apply(&sample(namespace.cluster)?)?;
    namespace.ready(SERVICE)?;
    ensure!(namespace.list(KINDS)?.len() == 5, "a ready service is five objects");
    namespace.kubectl(&["delete", "statefulservice", SERVICE])?;
    let ((), took) = until("every object is gone", Duration::from_mins(1), || {
        let left: Vec<_> = namespace
            .list(KINDS)?
            .iter()
            .map(|object| format!("{}/{}", object["kind"], object["metadata"]["name"]))
            .collect();
        Ok(if left.is_empty() { Ok(()) } else { Err(left.join(", ")) })
    })?;
    namespace.note(format!("everything gone after {took:.1?}"));
    Ok(())
}

pub(super) fn deleted_pod_comes_back(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&sample(namespace.cluster)?)?;
    namespace.ready(SERVICE)?;
    let old = namespace.pod(SERVICE)?;
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    namespace.kubectl(&["delete", "pod", name])?;
    let what = "another pod is there";
    until(what, Duration::from_secs(30), || {
        Ok(namespace.pod(SERVICE).map(drop).map_err(|error| error.to_string()))
    })?;
    ensure!(namespace.pod(SERVICE)?["metadata"]["uid"] != old["metadata"]["uid"], "the same pod");
    namespace.ready(SERVICE)?;
    Caller::of(namespace, SERVICE)?.fill_and_read("anna")
}

/// `kill -9` of the proxy process: the launcher starts it again, and Kubernetes does not notice.
pub(super) fn killed_proxy_is_back_within_two_seconds(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    namespace.apply(&sample(namespace.cluster)?)?;
    namespace.ready(SERVICE)?;
    let caller = Caller::of(namespace, SERVICE)?;
    caller.fill_and_read("anna")?;
    let before = namespace.pod(SERVICE)?;
    let launcher = processes::find(&before, SIDECAR, "/proxy-launcher")?;
    let proxy = processes::find(&before, SIDECAR, "/proxy")?;

    proxy.kill()?;
    let ((), took) = until("a call works again", Duration::from_secs(2), || {
        Ok(caller.cart("anna").map(drop).map_err(|error| format!("{error:#}")))
    })?;
    namespace.note(format!("first call after kill -9 of the proxy: {took:.1?}"));

    // The store lives in the proxy's memory, and a new proxy must not know half of it.
    let cart = caller.cart("anna")?;
    ensure!(cart.is_empty(), "the cart of before the kill holds {cart:?}");
    caller.fill_and_read("bert")?;
    let after = namespace.pod(SERVICE)?;
    ensure!(before["metadata"]["uid"] == after["metadata"]["uid"], "this is another pod");
    for container in [SIDECAR, USER] {
        let restarts = processes::restarts(&after, container)?;
        ensure!(
            restarts == processes::restarts(&before, container)?,
            "{container} was restarted: {restarts}"
        );
    }
    let new = processes::find(&after, SIDECAR, "/proxy")?;
    ensure!(new != proxy, "the proxy was not killed at all");
    ensure!(
        processes::find(&after, SIDECAR, "/proxy-launcher")? == launcher,
        "the launcher was replaced"
    );
    Ok(())
}

/// What a cart holds is in the proxy's journal, so the user function may die at any time.
pub(super) fn cart_survives_the_user_function(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&sample(namespace.cluster)?)?;
    namespace.ready(SERVICE)?;
    let caller = Caller::of(namespace, SERVICE)?;
    caller.fill_and_read("anna")?;
    let before = namespace.pod(SERVICE)?;
    let expected = caller.cart("anna")?;
    processes::find(&before, USER, "/shopping-cart")?.kill()?;
    let what = "the cart is read again";
    let (cart, took) = until(what, Duration::from_secs(20), || {
        Ok(caller.cart("anna").map_err(|error| format!("{error:#}")))
    })?;
    ensure!(cart == expected, "the cart now holds {cart:?}");
    namespace.note(format!("cart read again {took:.1?} after kill -9 of the user function"));
    // The kubelet tells of the new container a moment after it serves.
    let what = "the pod's status shows that the user function was started again";
    let (after, _) = until(what, Duration::from_secs(20), || {
        let pod = namespace.pod(SERVICE)?;
        let restarts = processes::restarts(&pod, USER)?;
        Ok(if restarts == 1 { Ok(pod) } else { Err(format!("{restarts} restarts")) })
    })?;
    ensure!(processes::restarts(&after, SIDECAR)? == 0, "the sidecar was restarted as well");
    caller.add("anna", "plums", 1)
}
