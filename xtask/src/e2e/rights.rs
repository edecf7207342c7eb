//! Whether the operator uses every right that it has, and asks for no other.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use serde_json::Value;

use super::{audit::Audit, cluster::OPERATOR, namespace::Namespace, wait::until};

/// Rights that the API server asks for within another request, which leaves no trace: with the admission plugin that
/// our cluster has, an owner reference is refused without the first; a Role is refused to whoever lacks what it gives.
const UNTRACED: [&str; 2] = ["update statefulservices/finalizers.cloudstate.io", "get pods"];

/// Roles that every install makes. Others may give the operator more for a purpose of their own.
const ROLES: [&str; 2] = [OPERATOR, "cloudstate-operator-own"];

/// Waits until the rights of the operator in that namespace are those that it has used since. Says how many.
pub(super) fn are_used(
    namespace: &Namespace<'_>,
    operator_namespace: &str,
    since: &Audit,
) -> anyhow::Result<usize> {
    let granted = granted(namespace, operator_namespace)?;
    until("rights granted are rights used", Duration::from_secs(30), || {
        let mut used = BTreeSet::new();
        let mut denied = BTreeSet::new();
        for request in since.of_account(operator_namespace, OPERATOR)? {
            let right = format!("{} {}", request.verb, request.resource);
            if request.is_denied {
                denied.insert(right);
                continue;
            }
            // Server-side apply is a patch that may create, and then needs both.
            if request.verb == "patch" && request.code == 201 {
                used.insert(format!("create {}", request.resource));
            }
            used.insert(right);
        }
        let unused: Vec<_> =
            granted.difference(&used).filter(|right| !UNTRACED.contains(&right.as_str())).collect();
        Ok(if unused.is_empty() && denied.is_empty() {
            Ok(())
        } else {
            Err(format!("granted and not used: {unused:?}; asked for and not granted: {denied:?}"))
        })
    })?;
    Ok(granted.len())
}

/// What roles give to the operator in that namespace, as `<verb> <resource>`.
fn granted(
    namespace: &Namespace<'_>,
    operator_namespace: &str,
) -> anyhow::Result<BTreeSet<String>> {
    let mut granted = BTreeSet::new();
    for (bindings, arguments) in
        [("clusterrolebindings", &[][..]), ("rolebindings", &["--all-namespaces"][..])]
    {
        let json = namespace.kubectl(&[&["get", bindings, "--output=json"], arguments].concat())?;
        let list: Value = serde_json::from_str(&json).context("kubectl prints no JSON")?;
        for binding in items(&list["items"]) {
            let is_ours = items(&binding["subjects"]).any(|subject| {
                subject["kind"] == "ServiceAccount"
                    && subject["name"] == OPERATOR
                    && subject["namespace"] == operator_namespace
            });
            if !is_ours {
                continue;
            }
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (kind, name) =
                (text(&binding["roleRef"]["kind"]), text(&binding["roleRef"]["name"]));
            if !ROLES.contains(&name.as_str()) {
                continue;
            }
            let within = text(&binding["metadata"]["namespace"]);
            let json = namespace.kubectl(&[
                "get",
                &kind,
                &name,
                "--namespace",
                &within,
                "--output=json",
            ])?;
            let role: Value = serde_json::from_str(&json).context("kubectl prints no JSON")?;
            for rule in items(&role["rules"]) {
                granted.extend(rights(rule));
            }
        }
    }
    Ok(granted)
}

fn rights(rule: &Value) -> Vec<String> {
    let words = |field: &str| {
        let words = rule[field].as_array().cloned().unwrap_or_default();
        words.into_iter().filter_map(|word| word.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let mut rights = Vec::new();
    for group in words("apiGroups") {
        for resource in words("resources") {
            let resource = if group.is_empty() { resource } else { format!("{resource}.{group}") };
            rights.extend(words("verbs").iter().map(|verb| format!("{verb} {resource}")));
        }
    }
    rights
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_is_every_verb_on_every_resource() {
        let rule = json!({
            "apiGroups": ["", "apps"], "resources": ["a", "b/status"], "verbs": ["get", "list"],
        });
        let expected = [
            "get a",
            "list a",
            "get b/status",
            "list b/status",
            "get a.apps",
            "list a.apps",
            "get b/status.apps",
            "list b/status.apps",
        ];
        assert_eq!(rights(&rule), expected);
    }
}
