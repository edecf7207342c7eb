//! What the scenarios apply.

use std::fs;

use anyhow::{Context as _, ensure};

use crate::{e2e::cluster::Cluster, layout};

/// The sample's names, which every scenario uses in a namespace of its own.
pub(super) const SERVICE: &str = "shopping-cart";
pub(super) const STORE: &str = "shopping-cart-store";
pub(super) const DEPLOYMENT: &str = "shopping-cart-deployment";

/// The sample as it lies in `samples/`, with the image that was built for this run.
pub(super) fn sample(cluster: &Cluster) -> anyhow::Result<String> {
    let path = layout::root().join("samples/shopping-cart/shopping-cart.yaml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(cluster.with_images(&text))
}

/// The sample on a Postgres of its own, as it lies in `samples/`.
pub(super) fn on_postgres(cluster: &Cluster) -> anyhow::Result<String> {
    let path = layout::root().join("samples/shopping-cart/postgres.yaml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(cluster.with_images(&text))
}

/// A manifest with one part of it replaced.
pub(super) fn edited(manifest: &str, old: &str, new: &str) -> anyhow::Result<String> {
    ensure!(manifest.contains(old), "the sample has no {old:?} any more");
    Ok(manifest.replacen(old, new, 1))
}

/// The store of the sample on Postgres, with its credentials in that Secret.
pub(super) fn postgres_store(secret: &str) -> String {
    let config = format!("{{service: carts-db, credentialsFromSecret: {{name: {secret}}}}}");
    format!("{}  deployment: Unmanaged\n  config: {config}\n", store("Postgres"))
}

/// A store of that type.
pub(super) fn store(kind: &str) -> String {
    format!(
        "
apiVersion: cloudstate.io/v1alpha1
kind: StatefulStore
metadata:
  name: {STORE}
spec:
  type: {kind}
"
    )
}

/// A service with that spec, given as YAML lines that are indented by two.
pub(super) fn service(spec: &str) -> String {
    format!(
        "
apiVersion: cloudstate.io/v1alpha1
kind: StatefulService
metadata:
  name: {SERVICE}
spec:
{spec}
"
    )
}

/// The minimal example: nothing but an image.
pub(super) fn minimal(image: &str) -> String {
    service(&format!("  containers:\n  - image: {image}"))
}

/// An image, bound to the store.
pub(super) fn with_store(image: &str) -> String {
    service(&format!("  datastore:\n    name: {STORE}\n  containers:\n  - image: {image}"))
}

/// The scripted user function with one variable set, bound to the store.
pub(super) fn scripted(cluster: &Cluster, variable: &str, value: &str) -> String {
    format!(
        "{}\n    env:\n    - name: {variable}\n      value: \"{value}\"\n",
        with_store(&cluster.scripted).trim_end()
    )
}
