//! Lays the sources of the settings over each other. Pure.

use figment::Figment;
use figment::providers::Serialized;
use serde_json::{Map, Value};

use super::{Environment, Error, Settings, check};

/// The setting whose keys are labels of the user's.
const FREE: &str = "monitoring-namespaces";

/// Settings, and the keys that were given and mean nothing.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) settings: Settings,
    pub(crate) unknown: Vec<String>,
}

/// Code defaults, then the text of the ConfigMap, then what the environment says.
pub(crate) fn merge(environment: &Environment, text: Option<&str>) -> Result<Merged, Error> {
    let Environment { namespace, config_map: name, .. } = environment;
    let mut defaults = Settings::default();
    let known = known();
    let mut unknown = Vec::new();
    let mut given = Map::new();
    if let Some(text) = text.filter(|text| !text.trim().is_empty()) {
        let read = match serde_saphyr::from_str::<Option<Map<String, Value>>>(text) {
            Ok(read) => read.unwrap_or_default(),
            Err(source) => {
                let (name, namespace) = (name.clone(), namespace.clone());
                return Err(Error::NotYaml { name, namespace, source: Box::new(source) });
            }
        };
        given = without_unknown(read, &known, "", &mut unknown);
    }
    // Labels that are given are all there are: one beside the default would select no namespace.
    if environment.settings.contains_key(FREE) {
        given.remove(FREE);
    }
    if given.contains_key(FREE) || environment.settings.keys().any(|path| path.starts_with(FREE)) {
        defaults.monitoring_namespaces.clear();
    }
    let mut figment = Figment::from(Serialized::defaults(defaults));
    figment = figment.merge(Serialized::defaults(given));
    for (path, value) in &environment.settings {
        let pointer = format!("/{}", path.replace('.', "/"));
        if known.pointer(&pointer).is_none() && !path.starts_with(FREE) {
            unknown.push(path.clone());
            continue;
        }
        let Ok(value) = value.parse::<figment::value::Value>();
        figment = figment.merge(Serialized::default(path, value));
    }
    let settings: Settings = figment.extract().map_err(|source| {
        let (name, namespace) = (name.clone(), namespace.clone());
        Error::Refused { name, namespace, source: Box::new(source) }
    })?;
    check(&settings)?;
    Ok(Merged { settings, unknown })
}

/// Every key that has a meaning.
fn known() -> Value {
    let mut settings = Settings::default();
    // What is not set by default has a place too.
    settings.proxy.image.jvm = Some(String::new());
    serde_json::to_value(settings).expect("settings are made of JSON")
}

/// What has a meaning of what was given; the paths of the rest are collected.
fn without_unknown(
    given: Map<String, Value>,
    known: &Value,
    path: &str,
    unknown: &mut Vec<String>,
) -> Map<String, Value> {
    let mut kept = Map::new();
    for (key, given) in given {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let given = match (known.get(&key), given) {
            (None, _) => {
                unknown.push(path);
                continue;
            }
            (Some(known @ Value::Object(_)), Value::Object(given)) if path != FREE => {
                Value::Object(without_unknown(given, known, &path, unknown))
            }
            (Some(_), given) => given,
        };
        kept.insert(key, given);
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use api::Chain;

    use super::super::setting;
    use super::*;

    fn merged_under(variables: &[(&str, &str)], text: Option<&str>) -> Result<Merged, Box<Error>> {
        let settings = variables
            .iter()
            .map(|(name, value)| (setting(name).unwrap(), (*value).to_owned()))
            .collect();
        let environment = Environment {
            namespace: "cloudstate".to_owned(),
            config_map: "config".to_owned(),
            identity: "operator".to_owned(),
            settings,
        };
        merge(&environment, text).map_err(Box::new)
    }

    fn merged(text: Option<&str>) -> Settings {
        merged_under(&[], text).unwrap().settings
    }

    fn refusal(text: &str) -> String {
        let error = merged_under(&[], Some(text)).unwrap_err();
        Chain(&*error).to_string()
    }

    #[test]
    fn defaults_hold_without_configuration() {
        for text in [None, Some("\n"), Some("# nothing\n"), Some("{}")] {
            assert_eq!(merged(text), Settings::default(), "{text:?}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_config_map() {
        let text = "concurrency: 3\nproxy:\n  image:\n    no-store: a:1\n    in-memory: a:1\n";
        let variables = [
            ("CLOUDSTATE_OPERATOR__PROXY__IMAGE__NO_STORE", "b:2"),
            ("CLOUDSTATE_OPERATOR__ADMIN__LISTEN", "127.0.0.1:0"),
            ("CLOUDSTATE_OPERATOR__WATCH__NAMESPACES", "[shop, \"stock\"]"),
            ("CLOUDSTATE_OPERATOR__ROLLOUT__INTERVAL", "500ms"),
        ];
        let settings = merged_under(&variables, Some(text)).unwrap().settings;
        assert_eq!(settings.proxy.image.no_store, "b:2");
        assert_eq!(settings.proxy.image.in_memory, "a:1");
        assert_eq!(settings.concurrency, 3);
        assert_eq!(settings.admin.listen, SocketAddr::from(([127, 0, 0, 1], 0)));
        assert_eq!(settings.watch.listed().unwrap(), ["shop", "stock"]);
        assert_eq!(settings.rollout.interval, Duration::from_millis(500));
    }

    #[test]
    fn unknown_keys_are_named_and_do_no_harm() {
        let text = "concurency: 3\nproxy:\n  image:\n    no-stor: a:1\n    in-memory: a:2\n";
        let variables = [("CLOUDSTATE_OPERATOR__LOG__LEVLE", "debug")];
        let merged = merged_under(&variables, Some(text)).unwrap();
        assert_eq!(merged.unknown, ["concurency", "proxy.image.no-stor", "log.levle"]);
        assert_eq!(merged.settings.proxy.image.in_memory, "a:2");
        assert_eq!(merged.settings.concurrency, Settings::default().concurrency);
    }

    #[test]
    fn refusals_name_the_key() {
        assert!(refusal("concurrency: 0\n").contains("concurrency is 0"));
        assert!(refusal("concurrency: many\n").contains("concurrency"));
        assert!(refusal("network-policy: maybe\n").contains("network-policy"));
        assert!(refusal("proxy:\n  kind: jvm\n").contains("proxy.kind is"));
        // As the proxies refuse them, which would then leave.
        for timeout in ["soon", "0s", "5ms", "25h"] {
            let said = refusal(&format!("passivation-timeout: {timeout}\n"));
            assert!(said.contains("passivation-timeout is") && said.contains("10ms"), "{said}");
        }
        assert!(refusal("resync: soon\n").contains("resync"));
        assert!(refusal("log:\n  level: \"lou=d=er\"\n").contains("log.level"));
        assert!(refusal("watch:\n  namespaces: []\n").contains("watch.namespaces"));
        assert!(refusal("proxy: [").contains("ConfigMap \"config\""));
        assert!(refusal("just text").contains("ConfigMap \"config\""));
    }

    #[test]
    fn labels_of_monitoring_namespaces_replace_the_default() {
        let labels = |merged: Merged| {
            let all = merged.settings.monitoring_namespaces.into_iter();
            all.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
        };
        let text = "monitoring-namespaces:\n  team: ops\n";
        assert_eq!(labels(merged_under(&[], Some(text)).unwrap()), ["team=ops"]);
        let variable = "CLOUDSTATE_OPERATOR__MONITORING_NAMESPACES";
        let by_variable = merged_under(&[(variable, "{a=\"b\"}")], Some(text)).unwrap();
        assert_eq!(labels(by_variable), ["a=b"]);
        assert_eq!(labels(merged_under(&[], None).unwrap()).len(), 1);
        for text in ["{}", "{ team: -ops }", "{ \"a b\": c }"] {
            let said = refusal(&format!("monitoring-namespaces: {text}\n"));
            assert!(said.contains("monitoring-namespaces is"), "{said}");
        }
    }

    #[test]
    fn all_that_is_out_of_range_is_told_at_once() {
        let said = refusal(
            "concurrency: 0\nrollout:\n  max-concurrent: 0\ncalls:\n  per-second: 0\n  burst: 0\n",
        );
        assert!(said.contains("calls.per-second is 0") && said.contains("calls.burst is 0"));
        assert!(said.contains("concurrency is 0") && said.contains("rollout.max-concurrent is 0"));
    }
}
