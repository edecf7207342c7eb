//! Installs resources, operator and sample in a cluster.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    cluster::{self, Handle},
    digest::Digest,
    layout, manifests,
    progress::Progress,
};

/// Namespace of the operator in [`manifests::CLUSTER_WIDE`].
const NAMESPACE: &str = "cloudstate";
/// Its Deployment there.
const OPERATOR: &str = "cloudstate-operator";
/// The sample's `StatefulService`, and so its Service.
pub const SAMPLE: &str = "shopping-cart";

/// Which image really stands behind each image name of our manifests.
#[derive(Clone, Debug)]
pub struct References(Vec<(String, String)>);

impl References {
    /// From pairs of a name without tag and a full reference.
    pub fn new(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// Whether that is one of the references.
    fn holds(&self, reference: &str) -> bool {
        self.0.iter().any(|(_, known)| known == reference)
    }

    /// Replaces `<name>:<any tag>` by the reference, everywhere in the text.
    pub fn substitute(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (name, reference)| {
            let name = format!("{name}:");
            let mut pieces = text.split(&name);
            let mut out = pieces.next().unwrap_or_default().to_owned();
            for piece in pieces {
                let is_tag = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
                out.push_str(reference);
                out.push_str(piece.trim_start_matches(is_tag));
            }
            out
        })
    }
}

/// Installs the resource definitions and the operator, and waits until it is ready.
///
/// # Errors
/// When the API server refuses, or the operator does not become ready.
pub fn operator(progress: &Progress, handle: &Handle, references: &References) -> Result<()> {
    progress.say("installing resource definitions and operator");
    let crds = layout::root().join("deploy/crds");
    handle.ask(&[
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=cloudstate-xtask",
        "--filename",
        &crds.display().to_string(),
    ])?;
    // `kubectl wait` fails on a definition that has no status yet, so it may take a second attempt.
    progress.wait_until(
        "the resource definitions are established",
        Duration::from_secs(30),
        || {
            let crds = crds.display().to_string();
            handle
                .ask(&["wait", "--for=condition=Established", "--timeout=5s", "--filename", &crds])
                .map(drop)
        },
    )?;
    let manifest = references.substitute(&render(handle, references)?);
    cluster::apply(handle, &manifest)?;
    let selector = "app.kubernetes.io/name=cloudstate-operator";
    progress.wait_until("the operator is ready", Duration::from_mins(2), || {
        let rolled = handle.ask(&[
            "--namespace",
            NAMESPACE,
            "rollout",
            "status",
            "--timeout=2s",
            &format!("deployment/{OPERATOR}"),
        ]);
        rolled.map(drop).map_err(|error| error.context(why_waiting(handle, NAMESPACE, selector)))
    })
}

/// The operator's objects, with a digest of its configuration in the pod's annotations: the operator reads
/// its configuration when it starts, so another configuration must be another pod.
fn render(handle: &Handle, references: &References) -> Result<String> {
    let root = layout::root();
    let base =
        handle.ask(&["kustomize", &root.join(manifests::CLUSTER_WIDE).display().to_string()])?;
    let mut digest = Digest::new();
    for document in base.split("\n---\n").filter(|document| document.contains("kind: ConfigMap")) {
        digest.part("configuration", references.substitute(document).as_bytes());
    }
    let folder = root.join("target/install");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let overlay = format!(
        r#"resources: [../../{}]
patches:
- patch: '{{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {{"name": "{OPERATOR}", "namespace": "{NAMESPACE}"}},
    "spec": {{"template": {{"metadata": {{"annotations": {{"cloudstate.io/configuration": "{}"}}}}}}}}}}'
"#,
        manifests::CLUSTER_WIDE,
        digest.short()
    );
    fs::write(folder.join("kustomization.yaml"), overlay)
        .context("write target/install/kustomization.yaml")?;
    handle.ask(&["kustomize", &folder.display().to_string()])
}

/// What the pods of that selector wait for, for a person.
fn why_waiting(handle: &Handle, namespace: &str, selector: &str) -> String {
    let path = "{range .items[*]}{.metadata.name}: {.status.phase}{range .status.containerStatuses[*]} \
                {.name} {.state.waiting.reason} {.state.waiting.message} {.state.terminated.reason}{end}; {end}";
    let pods = handle.ask(&[
        "--namespace",
        namespace,
        "get",
        "pods",
        "-l",
        selector,
        "-o",
        &format!("jsonpath={path}"),
    ]);
    match pods {
        Ok(pods) if pods.is_empty() => "no pod yet".to_owned(),
        Ok(pods) => pods.split_whitespace().collect::<Vec<_>>().join(" "),
        Err(error) => format!("{error:#}"),
    }
}

/// Applies the sample and waits for its condition `Ready`.
///
/// # Errors
/// When it does not become ready, with its condition.
pub fn sample(progress: &Progress, handle: &Handle, references: &References) -> Result<()> {
    progress.say("deploying samples/shopping-cart");
    let path = layout::root().join("samples/shopping-cart/shopping-cart.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    cluster::apply(handle, &references.substitute(&text))?;
    let service = format!("statefulservice/{SAMPLE}");
    progress.wait_until("the shopping cart is ready", Duration::from_mins(2), || {
        rolled_out(handle, references).map_err(|error| match condition(handle, &service) {
            Ok(condition) => error.context(condition),
            Err(_) => error,
        })?;
        // Ready for the specification that was just applied, not for the one before.
        let generations = handle.ask(&[
            "get",
            &service,
            "-o",
            "jsonpath={.metadata.generation} {.status.conditions[?(@.type==\"Ready\")].observedGeneration} \
             {.status.conditions[?(@.type==\"Ready\")].status}",
        ])?;
        ensure!(is_current_and_true(&generations), condition(handle, &service)?);
        Ok(())
    })?;
    handle.ask(&["wait", "--for=condition=Ready", "--timeout=30s", &service]).map(drop)
}

/// Refuses while pods of an earlier state are left.
///
/// An operator that was just replaced may still have to roll a new sidecar out. Until then the service is ready
/// with pods that are about to go, and with them what the first calls put there.
fn rolled_out(handle: &Handle, references: &References) -> Result<()> {
    let deployment = format!("deployment/{SAMPLE}-deployment");
    let images = "jsonpath={.spec.template.spec.containers[*].image}";
    let images = handle.ask(&["get", &deployment, "-o", images])?;
    if let Some(old) = images.split(' ').find(|image| !references.holds(image)) {
        bail!("{deployment} still has the image {old}");
    }
    handle.ask(&["rollout", "status", "--timeout=1s", &deployment]).map(drop)
}

/// What the service says of itself.
fn condition(handle: &Handle, service: &str) -> Result<String> {
    let path = "jsonpath={range .status.conditions[?(@.type==\"Ready\")]}{.status} {.reason}: {.message}{end}";
    Ok(format!("condition Ready is {}", handle.ask(&["get", service, "-o", path])?))
}

/// Reads `<generation> [<observed generation>] <status>`; a condition need not say what it observed.
fn is_current_and_true(text: &str) -> bool {
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        [generation, observed, "True"] => generation == observed,
        [_, "True"] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_are_replaced_with_their_tags() {
        let references = References::new(vec![
            ("localhost/cloudstate/operator".to_owned(), "r.example.com/operator:1-ab".to_owned()),
            (
                "localhost/cloudstate/sidecar".to_owned(),
                "localhost/cloudstate/sidecar:1-cd".to_owned(),
            ),
        ]);
        assert_eq!(
            references.substitute("image: localhost/cloudstate/operator:0.1.0\nx: \"localhost/cloudstate/sidecar:dev\""),
            "image: r.example.com/operator:1-ab\nx: \"localhost/cloudstate/sidecar:1-cd\""
        );
        assert_eq!(
            references.substitute("image: localhost/cloudstate/other:1"),
            "image: localhost/cloudstate/other:1"
        );
    }

    #[test]
    fn an_old_condition_does_not_count() {
        assert!(is_current_and_true("2 2 True"));
        assert!(!is_current_and_true("2 1 True"));
        assert!(!is_current_and_true("2 2 False"));
        assert!(!is_current_and_true("2"));
    }
}
