//! The operator's configuration: code defaults, then the ConfigMap, then the environment.

mod duration;
mod live;
mod merge;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use api::contract::ProxyKind;
use api::environment::value;
use serde::{Deserialize, Serialize};
use translate::settings::{Address, Choice, Images, Proxy, Rbac, Selector, Switch};

pub(crate) use self::live::{Live, Source, open};

const CONFIG_MAP_DEFAULT: &str = "cloudstate-operator-config";
const CONFIG_MAP_KEY: &str = "config.yaml";
const ENV_PREFIX: &str = "CLOUDSTATE_OPERATOR__";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "environment variable NAMESPACE is not set: set it to the namespace that holds the operator's ConfigMap"
    )]
    NoNamespace,
    #[error("environment variable {name} is not UTF-8")]
    NotUtf8 { name: String },
    #[error(
        "ConfigMap {name:?} in namespace {namespace:?} cannot be read: let the operator's service account list and watch it"
    )]
    Unreadable {
        name: String,
        namespace: String,
        source: Option<Box<kube::runtime::watcher::Error>>,
    },
    #[error("ConfigMap {name:?} in namespace {namespace:?}, key {CONFIG_MAP_KEY:?} is not YAML")]
    NotYaml { name: String, namespace: String, source: Box<serde_saphyr::Error> },
    #[error(
        "configuration from ConfigMap {name:?} in namespace {namespace:?} and variables {ENV_PREFIX}*"
    )]
    Refused { name: String, namespace: String, source: Box<figment::Error> },
    #[error("{}", .0.join("; "))]
    OutOfRange(Vec<String>),
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
#[serde(rename_all = "kebab-case")]
pub(crate) struct Settings {
    pub(crate) admin: Admin,
    pub(crate) calls: Rate,
    /// How many services of one watch may be reconciled at the same time.
    pub(crate) concurrency: u16,
    /// Whether replicas of the operator agree on one that writes.
    pub(crate) leader_election: bool,
    pub(crate) log: Log,
    /// Keys of a service that its objects do not get; see [`translate::Settings`] for this and for
    /// what is named like there.
    pub(crate) excluded_annotations: Vec<String>,
    pub(crate) monitoring_namespaces: BTreeMap<String, String>,
    pub(crate) network_policy: Switch,
    pub(crate) passivation_timeout: Option<String>,
    pub(crate) proxy: Proxy,
    pub(crate) rbac: Rbac,
    /// After so long everything is looked at again, in case that something was missed.
    #[serde(with = "duration")]
    pub(crate) resync: Duration,
    pub(crate) rollout: Rollout,
    pub(crate) selector: Selector,
    pub(crate) service: Address,
    /// Whether a store that is deleted stays until no service names it.
    pub(crate) protect_stores: Switch,
    /// Whether Secrets that stores name are read, see `secrets`.
    pub(crate) validate_secrets: Choice,
    pub(crate) watch: Watch,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Admin {
    /// Where probes and metrics are answered.
    pub(crate) listen: SocketAddr,
}

/// How many calls to the API server may go out, in calls that write; see `budget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Rate {
    pub(crate) per_second: u32,
    /// How many may go out at once after a pause.
    pub(crate) burst: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Self { per_second: 1_000, burst: 1_000 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Log {
    /// What is logged, in the words of `RUST_LOG`, which wins.
    pub(crate) level: String,
    pub(crate) format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    Json,
    Text,
}

/// How fast a change that is about many services reaches them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Rollout {
    /// How many Deployments may be under way at once.
    pub(crate) max_concurrent: u16,
    /// How long to wait between two starts.
    #[serde(with = "duration")]
    pub(crate) interval: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Watch {
    /// Namespaces to work in; `*` among them means all.
    pub(crate) namespaces: Vec<String>,
}

impl Watch {
    /// Every namespace that is watched by itself; nothing when all are watched at once.
    pub(crate) fn listed(&self) -> Option<&[String]> {
        (!self.namespaces.iter().any(|name| name == "*")).then_some(&self.namespaces)
    }
}

impl Settings {
    /// Those that reach into objects.
    pub(crate) fn for_objects(&self, operator_namespace: &str) -> translate::Settings {
        translate::Settings {
            proxy: self.proxy.clone(),
            selector: self.selector,
            rbac: self.rbac,
            service: self.service,
            network_policy: self.network_policy,
            monitoring_namespaces: self.monitoring_namespaces.clone(),
            passivation_timeout: self.passivation_timeout.clone(),
            excluded_annotations: self.excluded_annotations.clone(),
            operator_namespace: operator_namespace.to_owned(),
        }
    }

    /// Whether some service may have a proxy made of jars, which needs rights in its namespace.
    pub(crate) fn has_jvm(&self) -> bool {
        self.proxy.image.jvm.is_some()
    }
}

impl Default for Settings {
    fn default() -> Self {
        let translate::Settings {
            proxy,
            selector,
            rbac,
            service,
            network_policy,
            monitoring_namespaces,
            passivation_timeout,
            excluded_annotations,
            operator_namespace: _,
        } = translate::Settings::default();
        Self {
            admin: Admin { listen: SocketAddr::from(([0, 0, 0, 0], 8080)) },
            calls: Rate::default(),
            concurrency: 16,
            leader_election: true,
            log: Log { level: "info".to_owned(), format: LogFormat::Json },
            excluded_annotations,
            monitoring_namespaces,
            network_policy,
            passivation_timeout,
            proxy,
            rbac,
            resync: Duration::from_mins(10),
            rollout: Rollout { max_concurrent: 10, interval: Duration::from_secs(2) },
            selector,
            service,
            protect_stores: Switch::Off,
            validate_secrets: Choice::Auto,
            watch: Watch { namespaces: vec!["*".to_owned()] },
        }
    }
}

/// Everything that the types let through and that cannot be used.
fn check(settings: &Settings) -> Result<(), Error> {
    let mut problems = Vec::new();
    let mut refuse = |key: &str, value: String, wanted: &str| {
        problems.push(format!("{key} is {value}: set it to {wanted}"));
    };
    let Images { no_store, in_memory, postgres, cassandra, jvm } = &settings.proxy.image;
    for (key, image) in [
        ("proxy.image.no-store", Some(no_store)),
        ("proxy.image.in-memory", Some(in_memory)),
        ("proxy.image.postgres", Some(postgres)),
        ("proxy.image.cassandra", Some(cassandra)),
        ("proxy.image.jvm", jvm.as_ref()),
    ] {
        if let Some(image) = image.filter(|image| image.trim().is_empty()) {
            refuse(key, format!("{image:?}"), "an image");
        }
    }
    for (key, value) in [
        ("calls.per-second", settings.calls.per_second),
        ("calls.burst", settings.calls.burst),
        ("concurrency", settings.concurrency.into()),
        ("rollout.max-concurrent", settings.rollout.max_concurrent.into()),
    ] {
        if value == 0 {
            refuse(key, value.to_string(), "1 or more");
        }
    }
    if settings.proxy.kind == ProxyKind::Jvm && !settings.has_jvm() {
        let wanted = "native, or set proxy.image.jvm to the image of such a proxy";
        refuse("proxy.kind", "\"jvm\"".to_owned(), wanted);
    }
    if let Some(timeout) = &settings.passivation_timeout
        && value::pause(timeout).is_err()
    {
        let wanted = "a duration from 10ms to 24h, such as 30s, as the proxies take it";
        refuse("passivation-timeout", format!("{timeout:?}"), wanted);
    }
    if settings.resync < Duration::from_secs(1) {
        refuse("resync", format!("{:?}", settings.resync), "1s or more");
    }
    if settings.watch.namespaces.iter().all(|name| name.trim().is_empty()) {
        let value = format!("{:?}", settings.watch.namespaces);
        refuse("watch.namespaces", value, "names of namespaces, or to [\"*\"] for all");
    }
    let monitoring = &settings.monitoring_namespaces;
    if monitoring.is_empty() {
        let wanted = "one label or more, since without any all namespaces may read metrics";
        refuse("monitoring-namespaces", "{}".to_owned(), wanted);
    }
    for (key, value) in monitoring {
        if let Some(rule) = translate::label_fault(key, value) {
            refuse("monitoring-namespaces", format!("{{{key:?}: {value:?}}}"), rule);
        }
    }
    let level = &settings.log.level;
    if crate::telemetry::filter(level).is_none() {
        let wanted = "error, warn, info, debug or trace, or to more in the words of RUST_LOG";
        refuse("log.level", format!("{level:?}"), wanted);
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::OutOfRange(problems)) }
}
