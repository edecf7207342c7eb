//! Every way to install the operator, and to take it away again.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{
    every_right,
    manifests::{DEPLOYMENT, SERVICE, STORE, store},
};
use crate::{
    e2e::{
        audit::Audit,
        calls::Caller,
        namespace::{Namespace, READY},
        operators, rights,
        wait::until,
    },
    layout, manifests,
};

/// With a Role in its own namespace, and none in any other.
pub(super) fn kustomize_in_one_namespace(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    operators::make_room(namespace)?;
    let installed = operators::kustomized(namespace, "")?;
    ensure!(!installed.contains("kind: Cluster"), "something is not in a namespace:\n{installed}");
    let audit = Audit::from_now()?;
    namespace.apply(&installed)?;
    operators::ready(namespace)?;
    every_right::use_them(namespace, &namespace.name, &audit)?;
    let count = rights::are_used(namespace, &namespace.name, &audit)?;
    namespace.note(format!("all {count} rights used, no other asked for"));
    serves_after(namespace, |namespace| namespace.delete(&installed))
}

/// With Roles in listed namespaces, and those rights that settings ask for.
pub(super) fn helm_with_every_setting_that_needs_rights(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    operators::make_room(namespace)?;
    let [operator, sidecar] = namespace.cluster.product_images();
    let jvm = sidecar.reference();
    let values = json!({
        "image": { "repository": operator.repository, "tag": operator.tag },
        "sidecarImage": { "repository": sidecar.repository, "tag": sidecar.tag },
        "namespaces": [namespace.name],
        // They are the cluster's, and there already.
        "crds": false,
        "settings": {
            "validate-secrets": "on",
            "rbac": { "dedicated-service-account": true },
            "proxy": { "image": { "jvm": jvm } },
        },
    });
    let file = layout::root().join("target").join(format!("{}.json", namespace.name));
    fs::write(&file, values.to_string()).with_context(|| format!("write {}", file.display()))?;
    let chart = layout::root().join(manifests::CHART).display().to_string();
    let misspelt = namespace.helm(&["template", "x", &chart, "--set", "settings.concurency=1"]);
    let told = misspelt.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(told.contains("concurency"), "a setting that nobody knows is taken: {told}");

    let audit = Audit::from_now()?;
    namespace.helm(&[
        "install",
        "cloudstate",
        &chart,
        "--values",
        &file.display().to_string(),
        "--wait",
        "--timeout=60s",
    ])?;
    every_right::use_them(namespace, &namespace.name, &audit)?;
    use_what_settings_ask_for(namespace)?;
    let count = rights::are_used(namespace, &namespace.name, &audit)?;
    namespace.note(format!("all {count} rights used, no other asked for"));

    // The definitions of the chart are those of the cluster.
    let definitions =
        namespace.helm(&["template", "x", &chart, "--show-only=templates/definitions.yaml"])?;
    namespace.dry_run(&definitions)?;
    serves_after(namespace, |namespace| namespace.helm(&["uninstall", "cloudstate"]).map(drop))
}

/// One file, with its names made those of a second operator.
pub(super) fn plain_yaml(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    operators::make_room(namespace)?;
    let path = layout::root().join(manifests::PLAIN);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    // As it is it stands for the operator that runs here.
    let told = namespace.dry_run(&namespace.cluster.with_images(&text))?;
    ensure!(told.lines().count() == text.matches("\nkind: ").count(), "{told}");

    let name = namespace.name.clone();
    let is_in_a_cluster = |document: &&str| {
        !document.contains("\nkind: CustomResourceDefinition\n")
            && !document.contains("\nkind: Namespace\n")
    };
    let documents: Vec<_> =
        text.split("---\n")
            .map(|document| {
                if document.starts_with('\n') {
                    document.to_owned()
                } else {
                    format!("\n{document}")
                }
            })
            .filter(|document| is_in_a_cluster(&document.as_str()))
            .map(|document| {
                let document =
                    document.replace("namespace: cloudstate", &format!("namespace: {name}"));
                if document.contains("\nkind: ClusterRole") {
                    return document
                        .replace("name: cloudstate-operator\n", &format!("name: {name}\n"))
                        .replace(
                            &format!("- kind: ServiceAccount\n  name: {name}"),
                            "- kind: ServiceAccount\n  name: cloudstate-operator",
                        );
                }
                let watch = format!("  config.yaml: |\n    watch:\n      namespaces: [{name}]\n");
                document.replace("  config.yaml: |\n", &watch)
            })
            .collect();
    let installed = namespace.cluster.with_images(&documents.join("---"));
    namespace.apply(&installed)?;
    operators::ready(namespace)?;
    serves_after(namespace, |namespace| namespace.delete(&installed))
}

/// A service of restricted pods becomes ready, and serves calls also when the operator is gone.
fn serves_after(
    namespace: &Namespace<'_>,
    uninstall: impl Fn(&Namespace<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    namespace.apply(&store("InMemory"))?;
    namespace.apply(&format!(
        "
apiVersion: cloudstate.io/v1alpha1
kind: StatefulService
metadata:
  name: {SERVICE}
spec:
  datastore:
    name: {STORE}
  podSecurityContext:
    runAsNonRoot: true
    runAsUser: 65532
    seccompProfile:
      type: RuntimeDefault
  containers:
  - image: {}
    securityContext:
      allowPrivilegeEscalation: false
      capabilities:
        drop: [ALL]
",
        namespace.cluster.cart()
    ))?;
    namespace.ready(SERVICE)?;
    Caller::of(namespace, SERVICE)?.fill_and_read("anna")?;
    let before = namespace.pod(SERVICE)?;
    uninstall(namespace)?;
    until("the operator is gone", READY, || {
        let kinds = "deployments,pods,roles,rolebindings,serviceaccounts,configmaps";
        let names = namespace.kubectl(&["get", kinds, "--output=name"])?;
        let left: Vec<_> =
            names.lines().filter(|name| name.contains("/cloudstate-operator")).collect();
        Ok(if left.is_empty() { Ok(()) } else { Err(left.join(", ")) })
    })?;
    ensure!(
        namespace.get("deployment", DEPLOYMENT)?["metadata"]["deletionTimestamp"].is_null(),
        "the Deployment went with the operator"
    );
    ensure!(namespace.pod(SERVICE)?["metadata"]["uid"] == before["metadata"]["uid"], "another pod");
    let cart = Caller::of(namespace, SERVICE)?.cart("anna")?;
    ensure!(cart.len() == 2, "the cart holds {cart:?}");
    Ok(())
}

/// An account of its own, a proxy made of jars, a store with a Secret: there, and gone again.
fn use_what_settings_ask_for(namespace: &Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&super::manifests::postgres_store("nowhere"))?;
    until("the store says which Secret is missing", READY, || {
        let store = namespace.kubectl(&["describe", "statefulstore", STORE])?;
        Ok(if store.contains("SecretNotFound") { Ok(()) } else { Err(store) })
    })?;
    let service = |account: &str| {
        format!(
            "
apiVersion: cloudstate.io/v1alpha1
kind: StatefulService
metadata:
  name: jars
  annotations:
    cloudstate.io/proxy-kind: jvm
spec:{account}
  replicas: 0
  containers:
  - image: localhost/nothing:1
"
        )
    };
    let ours = || -> anyhow::Result<Vec<String>> {
        let kinds = "serviceaccounts,roles,rolebindings";
        let selector = "--selector=app.kubernetes.io/managed-by=cloudstate.io";
        let names = namespace.kubectl(&["get", kinds, selector, "--output=name"])?;
        Ok(names.lines().map(str::to_owned).collect())
    };
    let has = |what: &'static str, is_done: &dyn Fn(&[String]) -> bool| {
        until(what, Duration::from_secs(20), || {
            let now = ours()?;
            Ok(if is_done(&now) { Ok(()) } else { Err(format!("{now:?}")) })
        })
    };
    namespace.apply(&service(""))?;
    has("account, Role and RoleBinding are there", &|now| {
        ["serviceaccount/jars", "role.rbac.authorization.k8s.io/cloudstate-pod-reader"]
            .iter()
            .all(|name| now.iter().any(|found| found == name))
            && now.iter().any(|name| name.starts_with("rolebinding"))
    })?;
    namespace.apply(&service("\n  serviceAccountName: default"))?;
    has("the account is gone", &|now| !now.iter().any(|name| name == "serviceaccount/jars"))?;
    // Rights are taken back when it is known of every service that it needs none, so not while one cannot be translated.
    namespace.kubectl(&["delete", "statefulservice", "jars", "restored"])?;
    has("Role and RoleBinding are gone", &|now| !now.iter().any(|name| name.starts_with("role")))?;
    Ok(())
}
