//! The Helm chart.

use super::{
    DEPLOYMENT, RESOURCES, fill, granted, indented,
    rights::{self, When},
};

const VALUES: &str = include_str!("../../parts/install/values.yaml");
const SCHEMA: &str = include_str!("../../parts/install/values.schema.json");
const HELPERS: &str = include_str!("../../parts/install/helpers.tpl");
const GUARDS: &str = include_str!("../../parts/install/guards.yaml");
const NOTES: &str = include_str!("../../parts/install/NOTES.txt");

const NAMESPACE: &str = "{{ .Release.Namespace }}";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Files of the chart with their texts.
pub(super) fn files(definitions: &[(&str, String)]) -> Vec<(&'static str, String)> {
    vec![
        ("Chart.yaml", description()),
        ("values.yaml", fill(VALUES, &[("RESOURCES", &indented(RESOURCES, 2))])),
        ("values.schema.json", SCHEMA.to_owned()),
        ("templates/_helpers.tpl", HELPERS.to_owned()),
        ("templates/NOTES.txt", NOTES.to_owned()),
        ("templates/definitions.yaml", kept(definitions)),
        ("templates/rights.yaml", rights()),
        ("templates/config.yaml", config()),
        ("templates/deployment.yaml", deployment()),
        ("templates/guards.yaml", GUARDS.to_owned()),
    ]
}

fn description() -> String {
    format!(
        "apiVersion: v2
name: cloudstate-operator
description: Runs stateful services of the Cloudstate protocol on Kubernetes
type: application
version: {VERSION}
appVersion: \"{VERSION}\"
kubeVersion: \">=1.25.0-0\"
"
    )
}

/// The resource definitions. In Helm's own folder for them they would never be upgraded; removed with the
/// release they would take every service of the cluster along.
fn kept(definitions: &[(&str, String)]) -> String {
    let mut text = "{{- if .Values.crds }}\n".to_owned();
    for (_, definition) in definitions {
        let definition = definition.replace("{{", "{{ \"{{\" }}").replacen(
            "metadata:\n",
            "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n",
            1,
        );
        text.push_str("---\n");
        text.push_str(&definition);
    }
    text.push_str("{{- end }}\n");
    text
}

/// What has to be in the settings for a rule.
fn condition(when: When) -> Option<&'static str> {
    match when {
        When::Always => None,
        When::AllNamespaces => Some("not .Values.namespaces"),
        When::Accounts => Some("dig \"rbac\" \"dedicated-service-account\" false .Values.settings"),
        When::Protection => Some("hasKey .Values.settings \"protect-stores\""),
        When::Secrets => Some("include \"secrets\" ."),
        When::JvmByRole => Some(
            "and (dig \"proxy\" \"image\" \"jvm\" \"\" .Values.settings) (ne (dig \"rbac\" \"mode\" \"role\" .Values.settings) \"bind\")",
        ),
        When::JvmByBind => Some(
            "and (dig \"proxy\" \"image\" \"jvm\" \"\" .Values.settings) (eq (dig \"rbac\" \"mode\" \"role\" .Values.settings) \"bind\")",
        ),
    }
}

fn rights() -> String {
    let account = format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: cloudstate-operator\n  namespace: {NAMESPACE}\n"
    );
    let own = rights::chart(rights::OF_ITSELF, condition);
    let of_services = rights::chart(rights::OF_SERVICES, condition);
    // Within the range, the dot is a namespace.
    let of_namespace =
        of_services.replace(".Values", "$.Values").replace("\"secrets\" .", "\"secrets\" $");
    let reader = "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: cloudstate-pod-reader
rules:
- apiGroups: [\"\"]
  resources: [\"pods\"]
  verbs: [\"get\", \"list\", \"watch\"]
";
    let bind = condition(When::JvmByBind).unwrap_or_default();
    [
        account,
        "---\n".to_owned(),
        granted("Role", "cloudstate-operator-own", NAMESPACE, NAMESPACE, &own),
        "{{- if not .Values.namespaces }}\n---\n".to_owned(),
        granted("ClusterRole", "cloudstate-operator", "", NAMESPACE, &of_services),
        "{{- end }}\n{{- range .Values.namespaces }}\n---\n".to_owned(),
        granted(
            "Role",
            "cloudstate-operator",
            "{{ . }}",
            "{{ $.Release.Namespace }}",
            &of_namespace,
        ),
        format!("{{{{- end }}}}\n{{{{- if {bind} }}}}\n---\n{reader}{{{{- end }}}}\n"),
    ]
    .concat()
}

fn config() -> String {
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata:
  name: cloudstate-operator-config
  namespace: {NAMESPACE}
data:
  config.yaml: |
    {{{{- include \"settings\" . | nindent 4 }}}}
"
    )
}

fn deployment() -> String {
    let optional = |name: &str| {
        format!(
            "      {{{{- with .Values.{name} }}}}\n      {name}:\n        {{{{- toYaml . | nindent 8 }}}}\n      {{{{- end }}}}\n"
        )
    };
    let priority = "      {{- with .Values.priorityClassName }}\n      priorityClassName: {{ . }}\n      {{- end }}\n";
    let pod: String = ["imagePullSecrets", "nodeSelector", "tolerations", "affinity"]
        .iter()
        .map(|name| optional(name))
        .chain([priority.to_owned()])
        .collect();
    fill(
        DEPLOYMENT,
        &[
            ("NAMESPACE", NAMESPACE),
            ("LABELS", "    helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}\n"),
            ("REPLICAS", "{{ .Values.replicas }}"),
            (
                "POD_ANNOTATIONS",
                "        {{- with .Values.podAnnotations }}\n        {{- toYaml . | nindent 8 }}\n        {{- end }}\n",
            ),
            ("POD", &pod),
            ("IMAGE", "{{ include \"image\" (list . .Values.image) }}"),
            ("PULL_POLICY", "{{ .Values.image.pullPolicy }}"),
            ("ENV", ""),
            ("RESOURCES", "          {{- toYaml .Values.resources | nindent 10 }}\n"),
        ],
    )
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use serde_json::Value;

    use super::*;
    use crate::layout;

    /// The first parts of the settings' keys in the table of the docs.
    fn documented() -> BTreeSet<String> {
        let text = fs::read_to_string(layout::root().join("docs/operator.md")).unwrap();
        let table = text.split("| Key | Default | Meaning |").nth(1).unwrap();
        let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
        let keys = rows.filter_map(|row| row.split('`').nth(1)).map(|key| {
            let end = key.find('.').unwrap_or(key.len());
            key[..end].to_owned()
        });
        keys.collect()
    }

    #[test]
    fn the_schema_knows_every_setting() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let known = schema["properties"]["settings"]["properties"].as_object().unwrap();
        let mut known: BTreeSet<_> = known.keys().cloned().collect();
        // A value of its own, on which rights depend.
        known.insert("watch".to_owned());
        assert_eq!(known, documented());
    }

    #[test]
    fn every_value_is_in_the_schema() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let values = VALUES.lines().filter_map(|line| {
            let (key, _) = line.split_once(':')?;
            key.chars().all(|c| c.is_ascii_alphanumeric()).then_some(key)
        });
        let values: BTreeSet<_> = values.collect();
        let known: BTreeSet<_> =
            schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(values, known);
    }
}
