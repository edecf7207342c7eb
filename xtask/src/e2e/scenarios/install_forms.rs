//! Every way to install the operator, and to take it away again.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{
    every_right,
    manifests::{DEPLOYMENT, SERVICE, STORE, store},
};
use crate::{
    e2e::{
        audit::Audit,
        calls::Caller,
        cluster::OPERATOR,
        namespace::{Namespace, READY},
        operators,
        rights::{self, Mode},
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
    use_secrets(namespace)?;
    let count = rights::are_used(namespace, Mode::OneNamespace, &namespace.name, &audit)?;
    namespace.note(format!("all {count} rights used, no other asked for"));
    serves_after(namespace, |namespace| namespace.delete(&installed))
}

/// With Roles in listed namespaces, and those rights that settings ask for.
pub(super) fn helm_with_every_setting_that_needs_rights(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    operators::make_room(namespace)?;
    let misspelt = namespace.helm(&["template", "x", &chart(), "--set", "settings.concurency=1"]);
    let told = misspelt.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(told.contains("concurency"), "a setting that nobody knows is taken: {told}");

    let audit = Audit::from_now()?;
    let rbac = json!({ "dedicated-service-account": true });
    // The definitions are the cluster's, and there already.
    let settings = json!({ "protect-stores": true, "rbac": rbac });
    helm_install(namespace, false, &settings)?;
    for guard in ["poddisruptionbudget", "networkpolicy"] {
        namespace.get(guard, "cloudstate-operator")?;
    }
    let monitored = ["template", "x", &chart(), "--set", "podMonitor.enabled=true"];
    let monitored = namespace.helm(&monitored)?;
    ensure!(monitored.contains("kind: PodMonitor"), "no PodMonitor:\n{monitored}");
    every_right::use_them(namespace, &namespace.name, &audit)?;
    use_secrets(namespace)?;
    use_protection(namespace)?;
    use_rights_of_jars(namespace, "role")?;
    let count = rights::are_used(namespace, Mode::EverySetting, &namespace.name, &audit)?;
    namespace.note(format!("all {count} rights used, no other asked for"));
    // Or nobody would be left to take it off.
    let unguarded = ["--reuse-values", "--set", "settings.protect-stores=false"];
    namespace.helm(&[&["upgrade", "cloudstate", &chart()], &unguarded[..]].concat())?;
    until("no store is guarded any more", READY, || {
        let stores = namespace.list("statefulstores")?;
        let guarded = stores.iter().map(|store| &store["metadata"]["finalizers"]);
        let guarded: Vec<_> = guarded.filter(|finalizers| !finalizers.is_null()).collect();
        Ok(if guarded.is_empty() { Ok(()) } else { Err(format!("{guarded:?}")) })
    })?;
    serves_after(namespace, |namespace| namespace.helm(&["uninstall", "cloudstate"]).map(drop))
}

/// With `rbac.mode: bind`, and with the definitions as part of the release, which stay when it goes.
pub(super) fn helm_with_bind_and_its_definitions(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    operators::make_room(namespace)?;
    let definitions = |namespace: &Namespace<'_>| {
        let uids = "--output=jsonpath={.items[*].metadata.uid}";
        let named = ["statefulservices.cloudstate.io", "statefulstores.cloudstate.io"];
        namespace.kubectl(&[&["get", "customresourcedefinitions", uids], &named[..]].concat())
    };
    let before = definitions(namespace)?;
    // As if the mode had been another before: what was made for that is taken back.
    namespace.apply(FORMER_ROLE)?;
    let audit = Audit::from_now()?;
    let rbac = json!({ "mode": "bind", "dedicated-service-account": true });
    helm_install(namespace, true, &json!({ "validate-secrets": "off", "rbac": rbac }))?;
    let manager = "--output=jsonpath={.metadata.annotations.meta\\.helm\\.sh/release-namespace}";
    let owner = namespace.kubectl(&["get", "crd", "statefulservices.cloudstate.io", manager])?;
    ensure!(owner == namespace.name, "the definition is part of the release in {owner:?}");
    every_right::use_them(namespace, &namespace.name, &audit)?;
    use_rights_of_jars(namespace, "clusterrole")?;
    let count = rights::are_used(namespace, Mode::Bind, &namespace.name, &audit)?;
    namespace.note(format!("all {count} rights used, no other asked for"));
    serves_after(namespace, |namespace| namespace.helm(&["uninstall", "cloudstate"]).map(drop))?;
    ensure!(definitions(namespace)? == before, "the definitions went with the release");
    Ok(())
}

fn chart() -> String {
    layout::root().join(manifests::CHART).display().to_string()
}

/// Installs for the namespace alone, with an image for proxies made of jars among the settings.
fn helm_install(
    namespace: &Namespace<'_>,
    with_definitions: bool,
    settings: &Value,
) -> anyhow::Result<()> {
    let [operator, sidecar] = namespace.cluster.product_images();
    let mut settings = settings.clone();
    settings["proxy"] = json!({ "image": { "jvm": sidecar.reference() } });
    let values = json!({
        "image": { "repository": operator.repository, "tag": operator.tag },
        "sidecarImage": { "repository": sidecar.repository, "tag": sidecar.tag },
        "namespaces": [namespace.name],
        "crds": with_definitions,
        "podDisruptionBudget": { "enabled": true },
        "networkPolicy": { "enabled": true },
        "settings": settings,
    });
    let file = layout::root().join("target").join(format!("{}.json", namespace.name));
    fs::write(&file, values.to_string()).with_context(|| format!("write {}", file.display()))?;
    let values = file.display().to_string();
    let install = ["install", "cloudstate", &chart(), "--values", &values];
    // What is the cluster's already is taken over.
    let more = ["--take-ownership", "--wait", "--timeout=60s"];
    namespace.helm(&[&install[..], &more[..]].concat()).map(drop)
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
    // It is told of one namespace, and has the rights of an operator for all.
    let log = namespace.kubectl(&["logs", &format!("deployment/{OPERATOR}")])?;
    let told = "validate-secrets is auto, and the operator may not get, list and watch them";
    ensure!(log.matches(told).count() == 1, "not told once that no Secret is looked at:\n{log}");
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

/// A Role for proxies made of jars, as the operator makes it where they get their rights by one.
const FORMER_ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: cloudstate-pod-reader
  labels:
    app.kubernetes.io/managed-by: cloudstate.io
rules:
- apiGroups: ['']
  resources: [pods]
  verbs: [get, watch, list]
";

/// A store that is deleted while a service names it stays until none does.
fn use_protection(namespace: &Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(
        "
apiVersion: cloudstate.io/v1alpha1
kind: StatefulStore
metadata:
  name: guarded
spec:
  type: InMemory
---
apiVersion: cloudstate.io/v1alpha1
kind: StatefulService
metadata:
  name: depends
spec:
  replicas: 0
  datastore:
    name: guarded
  containers:
  - image: localhost/nothing:1
",
    )?;
    let store = || namespace.get("statefulstore", "guarded");
    until("the store is guarded", READY, || {
        let finalizers = store()?["metadata"]["finalizers"].to_string();
        Ok(if finalizers.contains("cloudstate.io/protect-store") {
            Ok(())
        } else {
            Err(finalizers)
        })
    })?;
    namespace.kubectl(&["delete", "statefulstore", "guarded", "--wait=false"])?;
    until("the store says who needs it", READY, || {
        let store = namespace.kubectl(&["describe", "statefulstore", "guarded"])?;
        let is_told = store.contains("StoreInUse") && store.contains("delete depends");
        Ok(if is_told { Ok(()) } else { Err(store) })
    })?;
    namespace.kubectl(&["delete", "statefulservice", "depends"])?;
    until("the store is gone", READY, || {
        let left = namespace.list("statefulstores")?;
        let names = left.iter().map(|store| store["metadata"]["name"].to_string());
        let left: Vec<_> = names.filter(|name| name.contains("guarded")).collect();
        Ok(if left.is_empty() { Ok(()) } else { Err(left.join(", ")) })
    })
    .map(drop)
}

/// A store with a Secret that is not there.
fn use_secrets(namespace: &Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&super::manifests::postgres_store("nowhere"))?;
    until("the store says which Secret is missing", READY, || {
        let store = namespace.kubectl(&["describe", "statefulstore", STORE])?;
        Ok(if store.contains("SecretNotFound") { Ok(()) } else { Err(store) })
    })
    .map(drop)
}

/// An account of its own and a proxy made of jars, which may read pods by a role of that kind: there, and gone again.
fn use_rights_of_jars(namespace: &Namespace<'_>, role: &str) -> anyhow::Result<()> {
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
    let ours = || -> anyhow::Result<BTreeSet<String>> {
        let kinds = "serviceaccounts,roles,rolebindings";
        let path = "--output=jsonpath={range .items[*]}{.kind}/{.metadata.name}/{.roleRef.kind}{\"\\n\"}{end}";
        let selector = "--selector=app.kubernetes.io/managed-by=cloudstate.io";
        let names = namespace.kubectl(&["get", kinds, selector, path])?;
        Ok(names.lines().map(str::to_lowercase).collect())
    };
    let has = |what: &str, is_done: &dyn Fn(&BTreeSet<String>) -> bool| {
        until(what, READY, || {
            let now = ours()?;
            Ok(if is_done(&now) { Ok(()) } else { Err(format!("{now:?}")) })
        })
    };
    let account = "serviceaccount/jars/";
    let reader = "role/cloudstate-pod-reader/";
    let is_binding = |name: &String| name.starts_with("rolebinding/");
    namespace.apply(&service(""))?;
    has(&format!("account and RoleBinding to a {role} are there"), &|now| {
        now.contains(account)
            && (role != "role" || now.contains(reader))
            && now.iter().any(|name| is_binding(name) && name.ends_with(&format!("/{role}")))
    })?;
    namespace.apply(&service("\n  serviceAccountName: default"))?;
    has("the account is gone", &|now| !now.contains(account))?;
    // Rights are taken back when it is known of every service that it needs none, so not while one cannot be translated.
    namespace.kubectl(&["delete", "statefulservice", "jars", "restored"])?;
    has("Role and RoleBinding are gone", &|now| {
        !now.contains(reader) && !now.iter().any(is_binding)
    })?;
    Ok(())
}
