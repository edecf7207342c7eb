//! Whether the operator uses every right that it has, and asks for no other: each install for itself, and for each mode of
//! installing it all scenarios of a run together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{
    audit::Audit,
    cluster::OPERATOR,
    namespace::{Namespace, READY},
    wait::until,
};

/// Rights that the API server asks for within another request, which leaves no trace: with the admission plugin that
/// our cluster has, an owner reference is refused without the first; a Role is refused to whoever lacks what it gives,
/// and a binding to a `ClusterRole` to whoever may not bind that.
const UNTRACED: [&str; 3] = [
    "update statefulservices/finalizers.cloudstate.io",
    "get pods",
    "bind clusterroles.rbac.authorization.k8s.io",
];

/// Roles that installs make, and the one for proxies made of jars. Others may give the operator more for a purpose of their
/// own.
const ROLES: [&str; 3] = [OPERATOR, "cloudstate-operator-own", "cloudstate-operator-jvm"];

/// How the operator is installed, and so what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    AllNamespaces,
    OneNamespace,
    EverySetting,
    /// Every setting that needs rights, with `rbac.mode: bind`, but for those to Secrets and stores.
    Bind,
}

/// Rights as `<verb> <resource>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rights {
    granted: BTreeSet<String>,
    used: BTreeSet<String>,
    /// Asked for and not granted.
    denied: BTreeSet<String>,
}

/// What all scenarios of a run have seen, by mode.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<BTreeMap<Mode, Rights>>);

impl Ledger {
    fn add(&self, mode: Mode, seen: Rights) {
        let mut modes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rights = modes.entry(mode).or_default();
        rights.granted.extend(seen.granted);
        rights.used.extend(seen.used);
        rights.denied.extend(seen.denied);
    }

    /// One line for each mode.
    ///
    /// # Errors
    /// Names the rights of a mode that are not used by any scenario, or not granted.
    pub(super) fn balance(&self) -> anyhow::Result<Vec<String>> {
        let modes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(!modes.is_empty(), "no scenario has looked at rights");
        let line = |(mode, rights): (&Mode, &Rights)| {
            rights.balance().with_context(|| format!("{mode:?}"))?;
            let (granted, used) = (rights.granted.len(), rights.used.len());
            let untraced = rights.granted.difference(&rights.used).count();
            Ok(format!(
                "{mode:?}: {granted} rights granted, {used} of them in the audit log and {untraced} that leave no trace, none asked for beyond"
            ))
        };
        modes.iter().map(line).collect()
    }
}

impl Rights {
    /// What that operator has now, and has done since.
    fn of(namespace: &Namespace<'_>, operator: &str, since: &Audit) -> anyhow::Result<Self> {
        let mut rights = Self { granted: granted(namespace, operator)?, ..Self::default() };
        rights.look(operator, since)?;
        Ok(rights)
    }

    /// Looks into the audit log.
    fn look(&mut self, operator: &str, since: &Audit) -> anyhow::Result<()> {
        for request in since.of_account(operator, OPERATOR)? {
            let right = format!("{} {}", request.verb, request.resource);
            if request.is_denied {
                self.denied.insert(right);
                continue;
            }
            // Server-side apply is a patch that may create, and then needs both.
            if request.verb == "patch" && request.code == 201 {
                self.used.insert(format!("create {}", request.resource));
            }
            self.used.insert(right);
        }
        Ok(())
    }

    fn balance(&self) -> anyhow::Result<()> {
        let Self { granted, used, denied } = self;
        let is_traced = |right: &&String| !UNTRACED.contains(&right.as_str());
        let unused: Vec<_> = granted.difference(used).filter(is_traced).collect();
        let others: Vec<_> = used.difference(granted).collect();
        ensure!(
            unused.is_empty() && others.is_empty() && denied.is_empty(),
            "granted and not used: {unused:?}; used and not granted: {others:?}; asked for and not granted: {denied:?}"
        );
        Ok(())
    }
}

/// Waits until the rights of the operator in that namespace are those that it has used since. Says how many.
pub(super) fn are_used(
    namespace: &Namespace<'_>,
    mode: Mode,
    operator_namespace: &str,
    since: &Audit,
) -> anyhow::Result<usize> {
    let mut rights = Rights::of(namespace, operator_namespace, since)?;
    until("rights granted are rights used", READY, || {
        rights.look(operator_namespace, since)?;
        Ok(rights.balance().map_err(|error| error.to_string()))
    })?;
    let count = rights.granted.len();
    namespace.cluster.rights.add(mode, rights);
    Ok(count)
}

/// Adds to the balance of the mode what an operator has used since that need not be all that it may do.
pub(super) fn keep(
    namespace: &Namespace<'_>,
    mode: Mode,
    operator_namespace: &str,
    since: &Audit,
) -> anyhow::Result<()> {
    namespace.cluster.rights.add(mode, Rights::of(namespace, operator_namespace, since)?);
    Ok(())
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

    fn seen(granted: &[&str], used: &[&str], denied: &[&str]) -> Rights {
        let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Rights { granted: set(granted), used: set(used), denied: set(denied) }
    }

    #[test]
    fn scenarios_of_a_mode_are_taken_together_and_those_of_others_are_not() {
        let ledger = Ledger::default();
        assert!(ledger.balance().is_err());
        ledger.add(Mode::OneNamespace, seen(&["get a", "get pods", "list a"], &["get a"], &[]));
        let told = ledger.balance().unwrap_err();
        assert!(format!("{told:#}").contains("OneNamespace: granted and not used: [\"list a\"]"));
        ledger.add(Mode::OneNamespace, seen(&[], &["list a"], &[]));
        assert_eq!(ledger.balance().unwrap().len(), 1);
        ledger.add(Mode::EverySetting, seen(&["get a"], &["get a"], &["watch b"]));
        let told = ledger.balance().unwrap_err();
        assert!(format!("{told:#}").contains("asked for and not granted: {\"watch b\"}"));
    }

    #[test]
    fn a_right_that_was_used_and_is_not_granted_is_named() {
        let told = seen(&["get a"], &["get a", "list a"], &[]).balance().unwrap_err().to_string();
        assert!(told.contains("used and not granted: [\"list a\"]"), "{told}");
    }
}
