//! What the spec says of the pods besides their containers.

use std::collections::{BTreeMap, BTreeSet};

use api::StatefulServiceSpec;
use api::contract::{ProxyKind, annotation, label};
use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::findings::Findings;
use super::{resources, syntax};
use crate::Binding;
use crate::render::{SSL_VOLUME, binding_name};

/// Labels that tell us our own objects.
const OUR_LABELS: [&str; 4] = [
    label::STATEFUL_SERVICE,
    label::STATEFUL_SERVICE_UID,
    label::STATEFUL_STORE,
    label::MANAGED_BY,
];
/// Annotations that we alone write.
pub(super) const OUR_ANNOTATIONS: [&str; 6] = [
    annotation::APPLIED_FROM,
    annotation::APPLIED_HASH,
    annotation::CLUSTER_PROTOCOL,
    annotation::INITIAL_REPLICAS,
    annotation::REPLACING,
    annotation::SIDECAR_STRIPPED,
];

/// Kubernetes takes no longer names.
const NAME_MAX: usize = 253;

pub(super) fn check(
    spec: &StatefulServiceSpec,
    kind: ProxyKind,
    store: Option<&Binding>,
    findings: &mut Findings,
) {
    if spec.replicas < 0 {
        let fault = format!("is {}: set it to 0 or more", spec.replicas);
        findings.field("spec.replicas", fault);
    }
    resources::check_sidecar(spec, kind, findings);
    check_account(spec, kind, findings);
    check_volumes(spec, store, findings);
    for (key, value) in &spec.node_selector {
        let path = format!("spec.nodeSelector[{key:?}]");
        findings.rule(format!("{path}, the key,"), key, syntax::key(key));
        findings.rule(path, value, syntax::label_value(value));
    }
    for (index, toleration) in spec.tolerations.iter().enumerate() {
        check_toleration(&format!("spec.tolerations[{index}]"), toleration, findings);
    }
    check_spread(spec, findings);
    if let Some(name) = &spec.priority_class_name {
        findings.rule("spec.priorityClassName", name, syntax::subdomain(name));
    }
    let mut secrets = BTreeSet::new();
    for (index, secret) in spec.image_pull_secrets.iter().enumerate() {
        let (path, name) = (format!("spec.imagePullSecrets[{index}].name"), &secret.name);
        findings.rule(&path, name, syntax::subdomain(name));
        if !secrets.insert(name) {
            findings.field(path, format!("is {name:?}, which is there already: leave one out"));
        }
    }
    if let Some(seconds) = spec.termination_grace_period_seconds.filter(|seconds| *seconds < 0) {
        let fault = format!("is {seconds}: set it to 0 or more");
        findings.field("spec.terminationGracePeriodSeconds", fault);
    }
    check_keys("spec.podLabels", &spec.pod_labels, &OUR_LABELS, findings);
    for (key, value) in &spec.pod_labels {
        let path = format!("spec.podLabels[{key:?}]");
        findings.rule(path, value, syntax::label_value(value));
    }
    check_keys("spec.podAnnotations", &spec.pod_annotations, &OUR_ANNOTATIONS, findings);
    check_budget(spec, findings);
}

fn check_account(spec: &StatefulServiceSpec, kind: ProxyKind, findings: &mut Findings) {
    let path = "spec.serviceAccountName";
    let Some(name) = spec.service_account_name.as_deref().filter(|name| !name.is_empty()) else {
        return;
    };
    findings.rule(path, name, syntax::subdomain(name));
    let binding = binding_name(name);
    if kind == ProxyKind::Jvm && name.len() <= NAME_MAX && binding.len() > NAME_MAX {
        let fault = format!(
            "has {} characters, and the RoleBinding {binding:?} may have no more than {NAME_MAX}: use an account with a shorter name",
            name.len()
        );
        findings.field(path, fault);
    }
}

fn check_volumes(spec: &StatefulServiceSpec, store: Option<&Binding>, findings: &mut Findings) {
    let is_ours = store.and_then(Binding::files).is_some();
    let mut names = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let (path, name) = (format!("spec.volumes[{index}].name"), volume.name.as_str());
        if is_ours && name == SSL_VOLUME {
            let fault =
                format!("is {name:?}, which is the name of a volume of ours: choose another name");
            findings.field(path, fault);
        } else if !names.insert(name) {
            let fault = format!("is {name:?}, which another volume has: choose another name");
            findings.field(path, fault);
        } else {
            findings.rule(path, name, syntax::label(name));
        }
    }
}

fn check_toleration(path: &str, toleration: &Toleration, findings: &mut Findings) {
    let Toleration { key, operator, value, effect, toleration_seconds } = toleration;
    let key = key.as_deref().unwrap_or_default();
    // Newer API servers know more operators, so others are theirs to judge.
    let operator = operator.as_deref().unwrap_or("Equal");
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let effect = effect.as_deref().filter(|effect| !effect.is_empty());
    findings.word(format!("{path}.effect"), effect, &effects);
    if key.is_empty() && operator != "Exists" {
        let fault = "is empty, which tolerates every taint: set it, or set operator to \"Exists\"";
        findings.field(format!("{path}.key"), fault);
    } else if !key.is_empty() {
        findings.rule(format!("{path}.key"), key, syntax::key(key));
    }
    let value = value.as_deref().unwrap_or_default();
    if operator == "Exists" && !value.is_empty() {
        let fault = format!(
            "is {value:?}, and the operator \"Exists\" takes none: leave it out, or set operator to \"Equal\""
        );
        findings.field(format!("{path}.value"), fault);
    }
    if toleration_seconds.is_some() && effect != Some("NoExecute") {
        let fault = "is set, and pods leave after a while only for the effect \"NoExecute\": set that, or leave it out";
        findings.field(format!("{path}.tolerationSeconds"), fault);
    }
}

fn check_spread(spec: &StatefulServiceSpec, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for (index, spread) in spec.topology_spread_constraints.iter().enumerate() {
        let path = format!("spec.topologySpreadConstraints[{index}]");
        if spread.max_skew < 1 {
            let fault = format!("is {}: set it to 1 or more", spread.max_skew);
            findings.field(format!("{path}.maxSkew"), fault);
        }
        let key = &spread.topology_key;
        findings.rule(format!("{path}.topologyKey"), key, syntax::key(key));
        let when = spread.when_unsatisfiable.as_str();
        let known = ["DoNotSchedule", "ScheduleAnyway"];
        findings.word(format!("{path}.whenUnsatisfiable"), Some(when), &known);
        if !seen.insert((key, when)) {
            let fault =
                format!("is {key:?} with {when:?}, which is there already: leave one of them out");
            findings.field(format!("{path}.topologyKey"), fault);
        }
    }
}

fn check_keys(
    path: &str,
    given: &BTreeMap<String, String>,
    ours: &[&str],
    findings: &mut Findings,
) {
    for key in given.keys() {
        let path = format!("{path}[{key:?}]");
        if ours.contains(&key.as_str()) {
            findings.field(path, "is written by the operator alone: leave it out");
        } else {
            findings.rule(format!("{path}, the key,"), key, syntax::key(key));
        }
    }
}

fn check_budget(spec: &StatefulServiceSpec, findings: &mut Findings) {
    let given = spec.pod_disruption_budget.as_ref();
    let is_wrong = match given.and_then(|budget| budget.max_unavailable.as_ref()) {
        Some(IntOrString::Int(number)) if *number < 0 => number.to_string(),
        Some(IntOrString::String(text)) if !is_percent(text) => format!("{text:?}"),
        _ => return,
    };
    let fault = format!("is {is_wrong}: set it to a number of pods, or to e.g. \"25%\"");
    findings.field("spec.podDisruptionBudget.maxUnavailable", fault);
}

fn is_percent(text: &str) -> bool {
    let number = text.strip_suffix('%').and_then(|number| number.parse::<u8>().ok());
    number.is_some_and(|percent| percent <= 100)
}
