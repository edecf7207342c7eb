//! The operator itself.

use std::collections::BTreeMap;

use anyhow::ensure;

use super::manifests::{SERVICE, sample};
use crate::e2e::{
    cluster::{OPERATOR, OPERATOR_NAMESPACE},
    namespace::{Namespace, READY},
    wait::until,
};

/// A new operator finds everything as it should be, and writes nothing.
pub(super) fn restart_changes_no_object(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&sample(namespace.cluster)?)?;
    namespace.ready(SERVICE)?;
    let before = settled(namespace)?;
    let operator = format!("deployment/{OPERATOR}");
    let there = ["--namespace", OPERATOR_NAMESPACE];
    namespace.kubectl(&[&["rollout", "restart", &operator], &there[..]].concat())?;
    namespace
        .kubectl(&[&["rollout", "status", &operator, "--timeout=60s"], &there[..]].concat())?;
    // A service that comes after the restart is seen after those from before, so once it is ready
    // the new operator has been through them all.
    let later = sample(namespace.cluster)?.replace("name: shopping-cart", "name: later");
    namespace.apply(&later)?;
    namespace.ready("later")?;
    let mut after = versions(namespace)?;
    after.retain(|name, _| before.contains_key(name));
    for (name, version) in &before {
        ensure!(after.get(name) == Some(version), "{name} was written: {version} before");
    }
    namespace.note(format!("{} objects untouched", before.len()));
    Ok(())
}

/// How many looks in a row must find the same.
const QUIET: u32 = 10;

/// The versions once nothing changes any more: Kubernetes' own controllers also write.
fn settled(namespace: &Namespace<'_>) -> anyhow::Result<BTreeMap<String, String>> {
    let mut last = BTreeMap::new();
    let mut looks = 0;
    let what = "objects no longer change";
    let (settled, _) = until(what, READY, || {
        let now = versions(namespace)?;
        looks = if now == last { looks + 1 } else { 0 };
        last.clone_from(&now);
        Ok(if looks >= QUIET { Ok(now) } else { Err(format!("{now:?}")) })
    })?;
    Ok(settled)
}

/// Kind and name of everything that the operator or Kubernetes made of a service.
fn versions(namespace: &Namespace<'_>) -> anyhow::Result<BTreeMap<String, String>> {
    let kinds =
        "statefulservices,statefulstores,deployments,replicasets,pods,services,endpointslices";
    let objects = namespace.list(kinds)?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let versions = objects.iter().map(|object| {
        let metadata = &object["metadata"];
        let name = format!("{}/{}", text(&object["kind"]), text(&metadata["name"]));
        (name, text(&metadata["resourceVersion"]))
    });
    Ok(versions.collect())
}
