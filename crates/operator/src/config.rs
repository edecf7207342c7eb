//! The operator's configuration: code defaults, then the ConfigMap, then the environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use api::Chain;
use figment::Figment;
use figment::providers::Serialized;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::{info, warn};

use crate::error;

const CONFIG_MAP_DEFAULT: &str = "cloudstate-operator-config";
const CONFIG_MAP_KEY: &str = "config.yaml";
const ENV_PREFIX: &str = "CLOUDSTATE_OPERATOR__";
/// The ConfigMap is asked for this often before we give up and let the kubelet start us again.
const ATTEMPTS: u32 = 12;
const RETRY_DELAY: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "environment variable NAMESPACE is not set: set it to the namespace that holds the operator's ConfigMap"
    )]
    NoNamespace,
    #[error("environment variable {name} is not UTF-8")]
    NotUtf8 { name: String },
    #[error("ConfigMap {name:?} in namespace {namespace:?} cannot be read")]
    Unreadable { name: String, namespace: String, source: Box<error::Error> },
    #[error("ConfigMap {name:?} in namespace {namespace:?}, key {CONFIG_MAP_KEY:?} is not YAML")]
    NotYaml { name: String, namespace: String, source: Box<serde_saphyr::Error> },
    #[error(
        "configuration from ConfigMap {name:?} in namespace {namespace:?} and variables {ENV_PREFIX}*"
    )]
    Refused { name: String, namespace: String, source: Box<figment::Error> },
    #[error("{key} is {value}: set it to {wanted}")]
    OutOfRange { key: &'static str, value: String, wanted: &'static str },
}

/// What only the environment can say.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Namespace of the operator's ConfigMap.
    pub namespace: String,
    /// Name of that ConfigMap.
    pub config_map: String,
    /// Who this process is among several operators; no two processes have the same.
    pub identity: String,
    /// Settings that win over those of the ConfigMap, such as `admin.listen`, by their path. Values
    /// are read as figment reads variables: numbers, `[lists]`, or else text.
    pub settings: BTreeMap<String, String>,
}

impl Environment {
    pub(crate) fn read() -> Result<Self, Error> {
        let settings = std::env::vars_os().filter_map(|(name, value)| {
            let key = setting(name.to_str()?)?;
            Some(match value.into_string() {
                Ok(value) => Ok((key, value)),
                Err(_) => Err(Error::NotUtf8 { name: name.to_string_lossy().into_owned() }),
            })
        });
        Ok(Self {
            namespace: variable("NAMESPACE")?.ok_or(Error::NoNamespace)?,
            config_map: variable("CONFIG_MAP")?.unwrap_or_else(|| CONFIG_MAP_DEFAULT.to_owned()),
            identity: format!(
                "{}_{}",
                variable("HOSTNAME")?.as_deref().unwrap_or("operator"),
                uuid::Uuid::now_v7()
            ),
            settings: settings.collect::<Result<_, _>>()?,
        })
    }
}

/// The path of the setting that a variable of that name is about. Levels are separated by two
/// underscores, so one may stand for the dash of a key.
fn setting(variable: &str) -> Option<String> {
    let path = variable.strip_prefix(ENV_PREFIX)?;
    Some(path.to_ascii_lowercase().replace("__", ".").replace('_', "-"))
}

#[expect(clippy::disallowed_methods, reason = "this is the file that reads the environment")]
fn variable(name: &'static str) -> Result<Option<String>, Error> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Error::NotUtf8 { name: name.to_owned() }),
    }
}

/// The effective settings. Keys are spelled as in the ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) admin: Admin,
    /// How many services may be reconciled at the same time.
    pub(crate) concurrency: u16,
    pub(crate) proxy: Proxy,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Admin {
    /// Where the probes are answered.
    pub(crate) listen: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Proxy {
    pub(crate) image: Images,
}

/// The sidecar's image by store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Images {
    pub(crate) no_store: String,
    pub(crate) in_memory: String,
    pub(crate) postgres: String,
}

impl Default for Settings {
    fn default() -> Self {
        let image = concat!("localhost/cloudstate/sidecar:", env!("CARGO_PKG_VERSION"));
        Self {
            admin: Admin { listen: SocketAddr::from(([0, 0, 0, 0], 8080)) },
            concurrency: 16,
            proxy: Proxy {
                image: Images {
                    no_store: image.to_owned(),
                    in_memory: image.to_owned(),
                    postgres: image.to_owned(),
                },
            },
        }
    }
}

/// Reads the ConfigMap and lays everything over each other.
pub(crate) async fn load(client: &Client, environment: &Environment) -> Result<Settings, Error> {
    let text = read_config_map(client, environment).await?;
    merge(environment, text.as_deref())
}

async fn read_config_map(
    client: &Client,
    environment: &Environment,
) -> Result<Option<String>, Error> {
    let Environment { namespace, config_map: name, .. } = environment;
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let mut attempt = 1;
    let found = loop {
        match error::call("get", "ConfigMap", name, api.get_opt(name)).await {
            Ok(found) => break found,
            Err(source) if attempt == ATTEMPTS => {
                let (name, namespace) = (name.clone(), namespace.clone());
                return Err(Error::Unreadable { name, namespace, source: Box::new(source) });
            }
            Err(error) => {
                warn!(attempt, error = %Chain(&error), "configuration cannot be read yet");
            }
        }
        attempt += 1;
        tokio::time::sleep(RETRY_DELAY).await;
    };
    let text = found.and_then(|found| found.data).and_then(|mut data| data.remove(CONFIG_MAP_KEY));
    if text.is_none() {
        info!(
            namespace,
            name,
            key = CONFIG_MAP_KEY,
            "no configuration in ConfigMap: defaults are used"
        );
    }
    Ok(text)
}

fn merge(environment: &Environment, text: Option<&str>) -> Result<Settings, Error> {
    let Environment { namespace, config_map: name, settings: overrides, .. } = environment.clone();
    let mut figment = Figment::from(Serialized::defaults(Settings::default()));
    if let Some(text) = text.filter(|text| !text.trim().is_empty()) {
        let value: Value = match serde_saphyr::from_str(text) {
            Ok(value) => value,
            Err(source) => {
                return Err(Error::NotYaml { name, namespace, source: Box::new(source) });
            }
        };
        figment = figment.merge(Serialized::defaults(value));
    }
    for (path, value) in overrides {
        let Ok(value) = value.parse::<figment::value::Value>();
        figment = figment.merge(Serialized::default(&path, value));
    }
    let settings: Settings = figment.extract().map_err(|source| Error::Refused {
        name,
        namespace,
        source: Box::new(source),
    })?;
    check(&settings)?;
    Ok(settings)
}

fn check(settings: &Settings) -> Result<(), Error> {
    if settings.concurrency == 0 {
        let value = settings.concurrency.to_string();
        return Err(Error::OutOfRange { key: "concurrency", value, wanted: "1 or more" });
    }
    let Images { no_store, in_memory, postgres } = &settings.proxy.image;
    for (key, image) in [
        ("proxy.image.no-store", no_store),
        ("proxy.image.in-memory", in_memory),
        ("proxy.image.postgres", postgres),
    ] {
        if image.trim().is_empty() {
            return Err(Error::OutOfRange { key, value: format!("{image:?}"), wanted: "an image" });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged_under(
        variables: &[(&str, &str)],
        text: Option<&str>,
    ) -> Result<Settings, Box<Error>> {
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

    fn merged(text: Option<&str>) -> Result<Settings, Box<Error>> {
        merged_under(&[], text)
    }

    fn refusal(text: &str) -> String {
        let error = merged(Some(text)).unwrap_err();
        Chain(&*error).to_string()
    }

    #[test]
    fn defaults_hold_without_configuration() {
        assert_eq!(merged(None).unwrap(), Settings::default());
        assert_eq!(merged(Some("\n")).unwrap(), Settings::default());
    }

    #[test]
    fn the_environment_wins_over_the_config_map() {
        let text = "concurrency: 3\nproxy:\n  image:\n    no-store: a:1\n    in-memory: a:1\n";
        let variables = [
            ("CLOUDSTATE_OPERATOR__PROXY__IMAGE__NO_STORE", "b:2"),
            ("CLOUDSTATE_OPERATOR__ADMIN__LISTEN", "127.0.0.1:0"),
        ];
        let settings = merged_under(&variables, Some(text)).unwrap();
        assert_eq!(settings.proxy.image.no_store, "b:2");
        assert_eq!(settings.proxy.image.in_memory, "a:1");
        assert_eq!(settings.concurrency, 3);
        assert_eq!(settings.admin.listen, SocketAddr::from(([127, 0, 0, 1], 0)));
    }

    #[test]
    fn refusals_name_the_key() {
        assert!(refusal("proxy:\n  imaeg: {}\n").contains("imaeg"));
        assert!(refusal("concurrency: 0\n").contains("concurrency is 0"));
        assert!(refusal("concurrency: many\n").contains("concurrency"));
        assert!(refusal("proxy: [").contains("ConfigMap \"config\""));
    }
}
