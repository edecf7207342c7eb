//! How the operator is installed: plain YAML, kustomize and a Helm chart, all from one table of rights, one
//! Deployment and one `ConfigMap`. What comes out is committed in `deploy/`, and held fresh by a test.

mod chart;
mod rights;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use self::rights::When;

/// Folders in which there is nothing else.
const FOLDERS: [&str; 3] = ["deploy/plain", "deploy/kustomize", "deploy/helm"];
/// Overlay of kustomize for an operator that works in every namespace.
pub const CLUSTER_WIDE: &str = "deploy/kustomize/cluster-wide";
/// Overlay of kustomize for an operator that works in its own namespace only.
pub const ONE_NAMESPACE: &str = "deploy/kustomize/one-namespace";
/// Everything in one file.
pub const PLAIN: &str = "deploy/plain/cluster-wide.yaml";
/// The Helm chart.
pub const CHART: &str = "deploy/helm/cloudstate-operator";

const NAMESPACE: &str = "cloudstate";
const HEADER: &str = "# Generated. Write it anew: cargo xtask codegen\n";
const DEPLOYMENT: &str = include_str!("../parts/install/deployment.yaml");
const RESOURCES: &str = "requests:
  cpu: 20m
  memory: 32Mi
limits:
  memory: 128Mi
";

/// Writes all of it.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write(root: &Path) -> Result<()> {
    let files = files(root)?;
    for stale in present(root)?.difference(&files.keys().cloned().collect()) {
        fs::remove_file(root.join(stale)).with_context(|| format!("remove {}", stale.display()))?;
    }
    for (path, text) in files {
        let path = root.join(path);
        let folder = path.parent().context("a file is in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Every file with its text.
fn files(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let definitions = definitions(root)?;
    let everywhere = cluster_role(&[When::Always, When::AllNamespaces]);
    let mut plain: Vec<String> = definitions.iter().map(|(_, text)| text.clone()).collect();
    plain.extend([namespace(), account(), everywhere.clone(), own_role(), config(), deployment()]);
    let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut add = |path: &str, text: String| files.insert(path.into(), HEADER.to_owned() + &text);
    add(PLAIN, plain.join("---\n"));

    let base = "deploy/kustomize/base";
    add(&format!("{base}/rights.yaml"), [account(), own_role()].join("---\n"));
    add(&format!("{base}/config.yaml"), config());
    add(&format!("{base}/deployment.yaml"), deployment());
    let resources = ["rights.yaml", "config.yaml", "deployment.yaml"];
    add(&format!("{base}/kustomization.yaml"), kustomization(&resources, ""));

    add(&format!("{CLUSTER_WIDE}/namespace.yaml"), namespace());
    add(&format!("{CLUSTER_WIDE}/rights.yaml"), everywhere);
    let resources = ["namespace.yaml", "../base", "rights.yaml"];
    add(&format!("{CLUSTER_WIDE}/kustomization.yaml"), kustomization(&resources, ""));

    add(&format!("{ONE_NAMESPACE}/rights.yaml"), role(&[When::Always, When::Secrets]));
    let own_namespace = format!(
        "# The namespace of all of it, and of the services. It is there already.
namespace: {NAMESPACE}
patches:
- path: watch.yaml
"
    );
    let resources = ["../base", "rights.yaml"];
    add(&format!("{ONE_NAMESPACE}/kustomization.yaml"), kustomization(&resources, &own_namespace));
    add(
        &format!("{ONE_NAMESPACE}/watch.yaml"),
        format!(
            r#"apiVersion: apps/v1
kind: Deployment
metadata:
  name: cloudstate-operator
  namespace: {NAMESPACE}
spec:
  template:
    spec:
      containers:
      - name: operator
        env:
        # Wins over the ConfigMap. Repeated, since what is referred to has to stand before.
        - name: NAMESPACE
          valueFrom:
            fieldRef:
              fieldPath: metadata.namespace
        - name: CLOUDSTATE_OPERATOR__WATCH__NAMESPACES
          value: '["$(NAMESPACE)"]'
"#
        ),
    );
    for (path, text) in chart::files(&definitions) {
        let is_yaml = Path::new(path).extension().is_some_and(|extension| extension == "yaml");
        let text = if is_yaml { HEADER.to_owned() + &text } else { text };
        files.insert(format!("{CHART}/{path}").into(), text);
    }
    Ok(files)
}

/// The generated files that are there.
fn present(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut folders: Vec<_> = FOLDERS.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        if !folder.exists() {
            continue;
        }
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(root).unwrap_or(&path).to_path_buf());
            }
        }
    }
    Ok(found)
}

/// The resource definitions by name, without what generated them.
fn definitions(root: &Path) -> Result<Vec<(&'static str, String)>> {
    let read = |name: &'static str| {
        let path = root.join(format!("deploy/crds/{name}.yaml"));
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let lines = text.lines().skip_while(|line| line.starts_with('#'));
        Ok((name, lines.flat_map(|line| [line, "\n"]).collect()))
    };
    ["statefulservices", "statefulstores"].into_iter().map(read).collect()
}

fn kustomization(resources: &[&str], rest: &str) -> String {
    let resources: String = resources.iter().flat_map(|resource| ["- ", resource, "\n"]).collect();
    format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{resources}{rest}"
    )
}

fn namespace() -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    app.kubernetes.io/part-of: cloudstate
    pod-security.kubernetes.io/enforce: restricted
"
    )
}

fn account() -> String {
    format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: cloudstate-operator\n  namespace: {NAMESPACE}\n"
    )
}

fn cluster_role(holds: &[When]) -> String {
    granted(
        "ClusterRole",
        "cloudstate-operator",
        "",
        NAMESPACE,
        &rights::plain(rights::OF_SERVICES, holds),
    )
}

fn role(holds: &[When]) -> String {
    let rules = rights::plain(rights::OF_SERVICES, holds);
    granted("Role", "cloudstate-operator", NAMESPACE, NAMESPACE, &rules)
}

fn own_role() -> String {
    let rules = rights::plain(rights::OF_ITSELF, &[When::Always]);
    granted("Role", "cloudstate-operator-own", NAMESPACE, NAMESPACE, &rules)
}

/// A role, and what gives it to the operator. `within` is the role's namespace, if it has one; `of` is the
/// operator's.
fn granted(kind: &str, name: &str, within: &str, of: &str, rules: &str) -> String {
    let namespace =
        if within.is_empty() { String::new() } else { format!("  namespace: {within}\n") };
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: {kind}
metadata:
  name: {name}
{namespace}rules:
{rules}---
apiVersion: rbac.authorization.k8s.io/v1
kind: {kind}Binding
metadata:
  name: {name}
{namespace}roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {kind}
  name: {name}
subjects:
- kind: ServiceAccount
  name: cloudstate-operator
  namespace: {of}
"
    )
}

fn image(name: &str) -> String {
    format!("localhost/cloudstate/{name}:{}", env!("CARGO_PKG_VERSION"))
}

fn config() -> String {
    let sidecar = image("sidecar");
    format!(
        "# Followed while the operator runs. docs/operator.md lists the keys.
apiVersion: v1
kind: ConfigMap
metadata:
  name: cloudstate-operator-config
  namespace: {NAMESPACE}
data:
  config.yaml: |
    proxy:
      image:
        no-store: {sidecar}
        in-memory: {sidecar}
        postgres: {sidecar}
        cassandra: {sidecar}
"
    )
}

fn deployment() -> String {
    fill(
        DEPLOYMENT,
        &[
            ("NAMESPACE", NAMESPACE),
            ("LABELS", ""),
            ("REPLICAS", "1"),
            ("POD_ANNOTATIONS", ""),
            ("POD", ""),
            ("IMAGE", &image("operator")),
            ("PULL_POLICY", "IfNotPresent"),
            ("ENV", ""),
            ("RESOURCES", &indented(RESOURCES, 10)),
        ],
    )
}

/// Fills a template in. A place that is a line of its own takes lines that end, or nothing.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(template.to_owned(), |text, (name, value)| {
        text.replace(&format!("\n@{name}@\n"), &format!("\n{value}"))
            .replace(&format!("@{name}@"), value)
    })
}

fn indented(text: &str, columns: usize) -> String {
    let indent = " ".repeat(columns);
    text.lines().flat_map(|line| [&indent, line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    #[test]
    fn what_is_in_deploy_is_what_is_generated() {
        let root = layout::root();
        let files = files(&root).unwrap();
        let names: BTreeSet<_> = files.keys().cloned().collect();
        assert_eq!(present(&root).unwrap(), names, "run cargo xtask codegen");
        for (path, text) in files {
            let stored = fs::read_to_string(root.join(&path)).unwrap();
            assert!(stored == text, "{} is stale: run cargo xtask codegen", path.display());
        }
    }

    #[test]
    fn no_place_of_a_template_is_left_open() {
        for (path, text) in files(&layout::root()).unwrap() {
            let is_open = text
                .lines()
                .any(|line| line.trim().strip_prefix('@').is_some_and(|rest| rest.ends_with('@')));
            assert!(!is_open, "{}", path.display());
        }
    }
}
