//! Mistakes: each is told where `kubectl describe` shows it, and repairing the cause is enough.

use anyhow::ensure;

use super::manifests::{SERVICE, STORE, minimal, sample, scripted, service, store, with_store};
use crate::e2e::{calls::Caller, namespace::Namespace};

pub(super) fn store_that_does_not_exist(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&with_store(&namespace.cluster.cart()))?;
    tells(
        namespace,
        &["StatefulStoreNotFound", "spec.datastore.name", &format!("{STORE:?}"), "create it"],
    )?;
    namespace.apply(&store("InMemory"))?;
    healed(namespace)
}

pub(super) fn store_type_that_does_not_exist(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&store("Excel"))?;
    namespace.apply(&with_store(&namespace.cluster.cart()))?;
    let told = ["UnknownStoreType", STORE, "spec.type", "\"Excel\"", "\"InMemory\""];
    tells(namespace, &told)?;
    // The store says so itself as well.
    let description = namespace.kubectl(&["describe", "statefulstore", STORE])?;
    for word in told {
        ensure!(description.contains(word), "no {word:?} in\n{description}");
    }
    namespace.apply(&store("InMemory"))?;
    healed(namespace)
}

/// Refused where it is written down, so there is no object to describe.
pub(super) fn service_without_containers(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    let empty = namespace.refused(&service("  containers: []"))?;
    says(&empty, &["StatefulService", SERVICE, "spec.containers", "at least 1"])?;
    let missing = namespace.refused(&service("  replicas: 1"))?;
    says(&missing, &["StatefulService", SERVICE, "spec.containers", "Required"])?;
    namespace.apply(&sample(namespace.cluster)?)?;
    healed(namespace)
}

pub(super) fn unknown_field(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    let misspelt = format!(
        "  datastor:\n    name: {STORE}\n  containers:\n  - image: {}\n    prots: []",
        namespace.cluster.cart()
    );
    let told = namespace.refused(&service(&misspelt))?;
    says(
        &told,
        &["StatefulService", "spec.datastor", "spec.containers[0].prots", "unknown field"],
    )?;
    namespace.apply(&sample(namespace.cluster)?)?;
    healed(namespace)
}

pub(super) fn user_function_that_never_listens(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    namespace.apply(&store("InMemory"))?;
    namespace.apply(&scripted(namespace.cluster, "SCRIPT_LISTEN", "never"))?;
    tells(namespace, &["UserFunctionUnreachable", "8080", "PORT"])?;
    namespace.apply(&with_store(&namespace.cluster.cart()))?;
    healed(namespace)
}

pub(super) fn protocol_version_of_tomorrow(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&store("InMemory"))?;
    namespace.apply(&scripted(namespace.cluster, "SCRIPT_PROTOCOL", "9.9"))?;
    tells(namespace, &["UserFunctionRefused", "9.9", "0.2"])?;
    namespace.apply(&with_store(&namespace.cluster.cart()))?;
    healed(namespace)
}

pub(super) fn unknown_entity_type(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&store("InMemory"))?;
    namespace.apply(&scripted(namespace.cluster, "SCRIPT_ENTITY_TYPE", "example.Oracle"))?;
    tells(
        namespace,
        &[
            "UserFunctionRefused",
            "scripted.Scripted",
            "example.Oracle",
            "cloudstate.eventsourced.EventSourced",
        ],
    )?;
    namespace.apply(&with_store(&namespace.cluster.cart()))?;
    healed(namespace)
}

pub(super) fn event_sourced_without_datastore(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&minimal(&namespace.cluster.cart()))?;
    tells(
        namespace,
        &["UserFunctionRefused", "com.example.shoppingcart.ShoppingCart", "spec.datastore"],
    )?;
    namespace.apply(&store("InMemory"))?;
    namespace.apply(&with_store(&namespace.cluster.cart()))?;
    healed(namespace)
}

pub(super) fn image_that_does_not_exist(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    const IMAGE: &str = "localhost/cloudstate/no-such-image:1";
    namespace.apply(&store("InMemory"))?;
    namespace.apply(&with_store(IMAGE))?;
    // The kubelet alternates between ErrImagePull and ImagePullBackOff.
    tells(namespace, &["ImagePull", "user-container", IMAGE])?;
    namespace.apply(&with_store(&namespace.cluster.cart()))?;
    healed(namespace)
}

/// Waits until plain `kubectl describe` shows all of it, and keeps the message for the reader.
fn tells(namespace: &mut Namespace<'_>, words: &[&str]) -> anyhow::Result<()> {
    let message = namespace.described(SERVICE, words)?;
    namespace.note(format!("Ready=False: {message}"));
    Ok(())
}

fn says(text: &str, words: &[&str]) -> anyhow::Result<()> {
    for word in words {
        ensure!(text.contains(word), "kubectl does not say {word:?} but: {text}");
    }
    Ok(())
}

/// With the cause gone, the service serves calls without anything else being done.
fn healed(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    let took = namespace.ready(SERVICE)?;
    Caller::of(namespace, SERVICE)?.fill_and_read("anna")?;
    namespace.note(format!("serves calls {took:.1?} after the cause was repaired"));
    Ok(())
}
