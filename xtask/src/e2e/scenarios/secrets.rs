//! What a Secret holds is nowhere else.

use anyhow::{Context as _, ensure};

use super::{
    manifests::{SERVICE, edited, on_postgres, postgres_store},
    postgres::{DATABASE, tells},
};
use crate::e2e::{
    cluster::{OPERATOR, OPERATOR_NAMESPACE},
    namespace::Namespace,
};

/// Planted: the password that works, and one that the database refuses.
const RIGHT: &str = "planted-0f6b2c-right";
const WRONG: &str = "planted-0f6b2c-wrong";

/// Every object of every kind, every log, every event, every metric.
pub(super) fn planted_passwords_show_up_nowhere(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    namespace.apply(&edited(&on_postgres(namespace.cluster)?, "change-me", RIGHT)?)?;
    namespace.ready(SERVICE)?;
    let first = scan(namespace)?;
    // Who speaks of an error likes to quote what went wrong.
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: other}},
          stringData: {{database: carts, username: carts, password: {WRONG}}}}}"
    ))?;
    namespace.apply(&postgres_store("other"))?;
    tells(namespace, &["StoreUnreachable", "password authentication failed"])?;
    let second = scan(namespace)?;
    namespace.note(format!("looked through {first} and {second} bytes"));
    Ok(())
}

/// Looks through all that is to be seen; how much that was.
fn scan(namespace: &Namespace<'_>) -> anyhow::Result<usize> {
    let mut needles = vec![RIGHT.to_owned(), WRONG.to_owned()];
    for name in [DATABASE, "other"] {
        let encoded = namespace.kubectl(&[
            "get",
            "secret",
            name,
            "--ignore-not-found",
            "--output=jsonpath={.data.password}",
        ])?;
        if !encoded.is_empty() {
            // The same look finds it where it is.
            let secret = namespace.kubectl(&["get", "secret", name, "--output=yaml"])?;
            ensure!(secret.contains(&encoded), "the Secret {name} is not shown as it is stored");
            needles.push(encoded);
        }
    }
    let mut seen = Vec::new();
    let kinds =
        namespace.kubectl(&["api-resources", "--namespaced", "--verbs=list", "--output=name"])?;
    for kind in kinds.lines().filter(|kind| *kind != "secrets") {
        seen.push((kind.to_owned(), namespace.kubectl(&["get", kind, "--output=yaml"])?));
    }
    ensure!(
        seen.iter().any(|(kind, text)| kind == "events" && text.contains(SERVICE)),
        "no events"
    );

    let mut pods = Vec::new();
    for place in [namespace.name.as_str(), OPERATOR_NAMESPACE] {
        let names = namespace.kubectl(&["get", "pods", "--namespace", place, "--output=name"])?;
        pods.extend(names.lines().map(|pod| (place, pod.to_owned())));
    }
    for (place, pod) in &pods {
        let log = ["logs", pod, "--namespace", place, "--all-containers"];
        seen.push((format!("the log of {pod}"), namespace.kubectl(&log)?));
        let name = pod.trim_start_matches("pod/");
        let port = if name.starts_with(OPERATOR) {
            8080
        } else if name.starts_with(SERVICE) {
            9090
        } else {
            continue;
        };
        let path = format!("/api/v1/namespaces/{place}/pods/{name}:{port}/proxy/metrics");
        let metrics = namespace.kubectl(&["get", "--raw", &path]);
        // A sidecar whose proxy does not come up has none.
        if port == 8080 {
            let metrics = metrics.context("the operator's metrics")?;
            ensure!(metrics.contains("cloudstate_operator_"), "these are no metrics: {metrics}");
            seen.push((format!("the metrics of {pod}"), metrics));
        } else if let Ok(metrics) = metrics {
            seen.push((format!("the metrics of {pod}"), metrics));
        }
    }
    for (what, text) in &seen {
        let shown = needles.iter().find(|needle| text.contains(needle.as_str()));
        ensure!(shown.is_none(), "a password is shown in {what}");
    }
    Ok(seen.iter().map(|(_, text)| text.len()).sum())
}
