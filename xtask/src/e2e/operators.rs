//! Operators beside that of the whole cluster, each for one namespace.

use std::fs;

use anyhow::Context as _;

use super::{cluster::OPERATOR, namespace::Namespace};
use crate::{layout, manifests};

/// Keeps the operator of the whole cluster out of the namespace, and pods that are not restricted too.
pub(super) fn make_room(namespace: &Namespace<'_>) -> anyhow::Result<()> {
    let name = &namespace.name;
    namespace.kubectl(&["annotate", "namespace", name, "cloudstate.io/watch=disabled"])?;
    let enforce = "pod-security.kubernetes.io/enforce=restricted";
    namespace.kubectl(&["label", "namespace", name, enforce]).map(drop)
}

/// What the overlay for one namespace makes of the scenario's own, with more for its `ConfigMap`.
pub(super) fn kustomized(namespace: &Namespace<'_>, settings: &str) -> anyhow::Result<String> {
    let name = &namespace.name;
    let folder = layout::root().join("target").join(format!("install-{name}"));
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let overlay = format!("namespace: {name}\nresources: [../../{}]\n", manifests::ONE_NAMESPACE);
    fs::write(folder.join("kustomization.yaml"), overlay).context("write an overlay")?;
    let made = namespace.kubectl(&["kustomize", &folder.display().to_string()])?;
    let config = "  config.yaml: |\n";
    let settings: String = settings.lines().flat_map(|line| ["    ", line, "\n"]).collect();
    Ok(namespace.cluster.with_images(&made.replace(config, &format!("{config}{settings}"))))
}

/// Waits until the operator in the namespace is ready.
pub(super) fn ready(namespace: &Namespace<'_>) -> anyhow::Result<()> {
    let operator = format!("deployment/{OPERATOR}");
    namespace.kubectl(&["rollout", "status", &operator, "--timeout=60s"]).map(drop)
}
