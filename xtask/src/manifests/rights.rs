//! What the operator may do, and nothing more. One table, from which every form of the install takes its roles.

use std::fmt::Write as _;

/// Some verbs on some resources.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Why, for whoever reads the role.
    pub(super) why: &'static str,
    pub(super) group: &'static str,
    pub(super) resources: &'static [&'static str],
    /// Only objects of these names, if any.
    pub(super) names: &'static [&'static str],
    pub(super) verbs: &'static [&'static str],
    pub(super) when: When,
}

/// Which installs need a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    /// Those that work in every namespace.
    AllNamespaces,
    /// `rbac.dedicated-service-account`.
    Accounts,
    /// `validate-secrets`: not switched off, and in listed namespaces unless it is switched on.
    Secrets,
    /// `protect-stores`.
    Protection,
    /// `proxy.image.jvm`, and `rbac.mode` is `role`.
    JvmByRole,
    /// The same, and `rbac.mode` is `bind`.
    JvmByBind,
}

const READ: &[&str] = &["get", "list", "watch"];
const WATCH: &[&str] = &["list", "watch"];
const KEEP: &[&str] = &["get", "list", "watch", "create", "patch"];
const OWN: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];

const fn rule(
    when: When,
    why: &'static str,
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
) -> Rule {
    Rule { why, group, resources, names: &[], verbs, when }
}

/// Where services are.
pub(super) const OF_SERVICES: &[Rule] = &[
    rule(When::Always, "", "cloudstate.io", &["statefulservices"], READ),
    rule(When::Always, "", "cloudstate.io", &["statefulstores"], WATCH),
    rule(
        When::Always,
        "",
        "cloudstate.io",
        &["statefulservices/status", "statefulstores/status"],
        &["patch"],
    ),
    rule(
        When::Always,
        "Owner references with blockOwnerDeletion ask for this where that admission plugin is on.",
        "cloudstate.io",
        &["statefulservices/finalizers"],
        &["update"],
    ),
    rule(When::Always, "Never deleted: these go with their owner.", "apps", &["deployments"], KEEP),
    rule(When::Always, "", "", &["services"], KEEP),
    rule(
        When::Always,
        "What a service has or has not, as its spec says.",
        "policy",
        &["poddisruptionbudgets"],
        OWN,
    ),
    rule(When::Always, "", "networking.k8s.io", &["networkpolicies"], OWN),
    rule(
        When::AllNamespaces,
        "To leave out namespaces with the annotation cloudstate.io/watch: disabled.",
        "",
        &["namespaces"],
        WATCH,
    ),
    rule(When::Always, "Read only, to say why a pod is not ready.", "", &["pods"], WATCH),
    rule(When::Always, "", "events.k8s.io", &["events"], &["create", "patch"]),
    rule(
        When::Accounts,
        "The setting rbac.dedicated-service-account.",
        "",
        &["serviceaccounts"],
        OWN,
    ),
    rule(
        When::Protection,
        "The setting protect-stores: finalizers.",
        "cloudstate.io",
        &["statefulstores"],
        &["patch"],
    ),
    rule(
        When::Secrets,
        "The setting validate-secrets, which is on in listed namespaces unless it says otherwise.",
        "",
        &["secrets"],
        READ,
    ),
    rule(
        When::JvmByRole,
        "The setting proxy.image.jvm: such proxies find each other by pods, and a right can only be given by who has it.",
        "",
        &["pods"],
        &["get"],
    ),
    rule(When::JvmByRole, "", "rbac.authorization.k8s.io", &["roles", "rolebindings"], OWN),
    rule(When::JvmByBind, "", "rbac.authorization.k8s.io", &["rolebindings"], OWN),
    rule(
        When::JvmByBind,
        "What was made before rbac.mode was bind.",
        "rbac.authorization.k8s.io",
        &["roles"],
        &["list", "watch", "delete"],
    ),
    Rule {
        why: "",
        group: "rbac.authorization.k8s.io",
        resources: &["clusterroles"],
        names: &["cloudstate-pod-reader"],
        verbs: &["bind"],
        when: When::JvmByBind,
    },
];

/// In the operator's own namespace.
pub(super) const OF_ITSELF: &[Rule] = &[
    Rule {
        why: "",
        group: "",
        resources: &["configmaps"],
        names: &["cloudstate-operator-config"],
        verbs: WATCH,
        when: When::Always,
    },
    rule(When::Always, "About the ConfigMap.", "events.k8s.io", &["events"], &["create", "patch"]),
    rule(
        When::Always,
        "Which replica works. What is to be created has no name yet that could be asked for.",
        "coordination.k8s.io",
        &["leases"],
        &["create"],
    ),
    Rule {
        why: "",
        group: "coordination.k8s.io",
        resources: &["leases"],
        names: &["cloudstate-operator"],
        verbs: &["get", "update"],
        when: When::Always,
    },
];

/// The rules as YAML, with a condition of the chart around those that not all installs need.
pub(super) fn chart(rules: &[Rule], condition: impl Fn(When) -> Option<&'static str>) -> String {
    let mut text = String::new();
    for rule in rules {
        match condition(rule.when) {
            None => text.push_str(&yaml(rule)),
            Some(condition) => {
                let _infallible =
                    write!(text, "{{{{- if {condition} }}}}\n{}{{{{- end }}}}\n", yaml(rule));
            }
        }
    }
    text
}

/// Those rules that hold in such installs as YAML.
pub(super) fn plain(rules: &[Rule], holds: &[When]) -> String {
    rules.iter().filter(|rule| holds.contains(&rule.when)).map(yaml).collect()
}

fn yaml(rule: &Rule) -> String {
    let Rule { why, group, resources, names, verbs, .. } = rule;
    let list = |words: &[&str]| {
        let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
        format!("[{}]", words.join(", "))
    };
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    if !why.is_empty() {
        line(format!("# {why}"));
    }
    line(format!("- apiGroups: [\"{group}\"]"));
    line(format!("  resources: {}", list(resources)));
    if !names.is_empty() {
        line(format!("  resourceNames: {}", list(names)));
    }
    line(format!("  verbs: {}", list(verbs)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_holds_more_than_it_names() {
        for rule in OF_SERVICES.iter().chain(OF_ITSELF) {
            let words = rule.verbs.iter().chain(rule.resources).chain([&rule.group]);
            assert!(words.into_iter().all(|word| !word.contains('*')), "{rule:?}");
        }
    }

    #[test]
    fn secrets_are_read_only_where_that_is_asked_for() {
        let rules = plain(OF_SERVICES, &[When::Always, When::AllNamespaces]);
        assert!(!rules.contains("secrets") && !rules.contains("serviceaccounts"));
        assert!(plain(OF_SERVICES, &[When::Secrets]).contains("\"secrets\""));
    }
}
