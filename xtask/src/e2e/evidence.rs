//! What the cluster has to say about a scenario that failed.

use std::{fmt::Write as _, time::Duration};

use super::{
    cluster::{OPERATOR, OPERATOR_NAMESPACE},
    namespace::Namespace,
};

/// Lines of each log.
const TAIL: &str = "--tail=40";

/// Collects what a person would look at. A look that fails is itself evidence.
pub(super) fn collect(namespace: &Namespace<'_>, age: Duration) -> String {
    let mut evidence = String::new();
    let since = format!("--since={}s", age.as_secs() + 1);
    let operator = format!("deployment/{OPERATOR}");
    let mut looks: Vec<Vec<&str>> = vec![
        vec![
            "get",
            "statefulservices,statefulstores,deployments,replicasets,pods,services",
            "--output=wide",
        ],
        vec!["describe", "statefulservices,statefulstores"],
        vec!["describe", "pods"],
    ];
    let pods = namespace.kubectl(&["get", "pods", "--output=name"]).unwrap_or_default();
    for pod in pods.lines() {
        looks.push(vec!["logs", pod, "--all-containers", "--prefix", TAIL]);
    }
    looks.push(vec!["logs", &operator, "--namespace", OPERATOR_NAMESPACE, TAIL, &since]);
    for look in looks {
        let shown = namespace.kubectl(&look).unwrap_or_else(|error| format!("{error:#}\n"));
        let _infallible = writeln!(evidence, "     $ kubectl {}", look.join(" "));
        for line in shown.lines() {
            let _infallible = writeln!(evidence, "     {line}");
        }
    }
    evidence
}
