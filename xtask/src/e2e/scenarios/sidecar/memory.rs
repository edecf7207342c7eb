//! `sidecarJvmMemory` in a real pod: what is refused, and what is kept to.

use anyhow::{Context as _, ensure};

use super::{
    SIDECAR, deployed,
    kind::{Kind, metric},
};
use crate::e2e::{
    calls::Caller,
    crowd::{Crowd, Plan},
    namespace::Namespace,
    scenarios::manifests::{DEPLOYMENT, SERVICE, STORE, service, store},
};

/// Four times what the container may have.
const TOO_MUCH: &str = "  sidecarJvmMemory: 2g\n  sidecarResources: {limits: {memory: 512Mi}}";

pub(in super::super) fn native_memory_beyond_the_limit_is_refused(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    refused(namespace, Kind::Native, "at most 256m, the largest that fits").map(drop)
}

/// A JVM needs more beside its heap. The launcher, which has the same limit, refuses it in the same words.
pub(in super::super) fn jvm_memory_beyond_the_limit_is_refused(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let pod = refused(namespace, Kind::Jvm, "at most 240m, the largest that fits")?;
    let pod = pod["metadata"]["name"].as_str().context("a pod without a name")?;
    let check = ["exec", pod, "--container", SIDECAR, "--", "/proxy-launcher", "check", "-Xmx2g"];
    let told = namespace.fails(&check)?;
    for words in ["HeapExceedsLimit", "512m", "the largest heap that fits is 240m"] {
        ensure!(told.contains(words), "the launcher does not say {words:?} but: {told}");
    }
    Ok(())
}

/// What is refused is said with the most that would do, and what runs goes on.
fn refused(
    namespace: &mut Namespace<'_>,
    kind: Kind,
    largest: &str,
) -> anyhow::Result<serde_json::Value> {
    let before = deployed(namespace, kind, "")?;
    let generation = |namespace: &Namespace<'_>| -> anyhow::Result<_> {
        Ok(namespace.get("deployment", DEPLOYMENT)?["metadata"]["generation"].take())
    };
    let untouched = generation(namespace)?;
    namespace.apply(&kind.service(namespace.cluster, TOO_MUCH))?;
    let told = ["BadConfiguration", "spec.sidecarJvmMemory is \"2g\"", "\"512Mi\"", largest];
    let message = namespace.described(SERVICE, &told)?;
    namespace.note(format!("{message:?}"));
    ensure!(generation(namespace)? == untouched, "the Deployment was written");
    let after = namespace.pod(SERVICE)?;
    ensure!(after["metadata"]["uid"] == before["metadata"]["uid"], "the pod was replaced");
    kind.call(namespace)?;
    Ok(after)
}

/// Many times more entities than there is room for: those that idle longest are passivated, and the process stays
/// within the budget, with all that is beside it.
pub(in super::super) fn native_memory_is_kept_to_with_50000_entities(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    const MIB: f64 = 1_048_576.0;
    const BUDGET_MB: f64 = 64.0 * MIB / 1_000_000.0;
    const CALLERS: u64 = 50;
    const CALLS: u64 = 1_000;
    namespace.apply(&store("InMemory"))?;
    namespace.apply(&service(&format!(
        "  sidecarJvmMemory: 64m
  datastore:
    name: {STORE}
  containers:
  - image: {}",
        namespace.cluster.cart()
    )))?;
    namespace.ready(SERVICE)?;
    let caller = Caller::of(namespace, SERVICE)?;
    caller.fill_and_read("anna")?;
    let pod = namespace.pod(SERVICE)?;
    let proxy = Kind::Native.proxy(&pod)?;
    let idle = proxy.resident_mb()?;

    let plan = Plan {
        service: "com.example.shoppingcart.ShoppingCart",
        method: "GetCart",
        callers: CALLERS,
        calls: CALLS,
    };
    let took = Crowd::start(&namespace.cluster.crowd, &caller.address, plan)?.end()?;
    let peak = proxy.peak_mb()?;
    namespace.note(format!(
        "{} entities in {took:.1?}: {idle:.1} MB before, {peak:.1} MB at most, of {BUDGET_MB:.1}",
        CALLERS * CALLS
    ));
    ensure!(peak <= BUDGET_MB, "the proxy took {peak:.1} MB");
    let activated = metric(&pod, "cloudstate_eventsourced_activated_entities_total")?;
    ensure!(activated > CALLERS * CALLS, "only {activated} entities were opened");
    // Three quarters of the budget are for entities, at 14 KiB each beside their names.
    let open = metric(&pod, "cloudstate_open_entities")?;
    ensure!(open * (14 << 10) <= 48 << 20, "{open} entities are open");
    // What was passivated comes back as it was.
    let cart = caller.cart("anna")?;
    ensure!(cart == [("apples".to_owned(), 2), ("pears".to_owned(), 3)], "the cart holds {cart:?}");
    Ok(())
}
