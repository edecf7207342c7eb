//! The operator's settings, as far as they reach into objects: each section as it stands in the ConfigMap.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use api::contract::ProxyKind;
use serde::{Deserialize, Deserializer, Serialize};

use crate::Known;

/// The operator's settings, as far as they reach into the objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Settings {
    /// The sidecars.
    pub proxy: Proxy,
    /// What pods are selected by. Takes effect for Deployments that do not exist yet.
    pub selector: Selector,
    /// What the pods run as, and what that may do.
    pub rbac: Rbac,
    /// The Kubernetes Services.
    pub service: Address,
    /// Whether services get a NetworkPolicy that do not say otherwise.
    pub network_policy: Switch,
    /// Labels of the namespaces from which metrics are read, for NetworkPolicies.
    pub monitoring_namespaces: BTreeMap<String, String>,
    /// Idle time after which an entity is passivated, such as `30s`; the proxy's own default if not set.
    pub passivation_timeout: Option<String>,
    /// Labels and annotations of a service that its objects do not get: whole keys, or prefixes that end
    /// in `/`.
    pub excluded_annotations: Vec<String>,
    /// The operator's own namespace, from which it asks sidecars why they are not ready.
    pub operator_namespace: String,
}

/// The sidecars.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Proxy {
    /// Which kind of proxy a sidecar is when its service does not say.
    pub kind: ProxyKind,
    /// Images by store.
    pub image: Images,
    /// Whether the sidecar is an init container that stays, which Kubernetes calls a sidecar: started before
    /// the user function and stopped after it. Left to the surroundings, where the cluster can.
    pub native_sidecar: Choice,
    /// How many peers a proxy made of jars must find before it forms a cluster.
    pub required_contact_points: ContactPoints,
    /// Whether pods carry the annotations that keep a service mesh out of the proxies' own ports.
    pub istio_annotations: bool,
}

/// The sidecar's image by store; one for a proxy made of jars, whatever the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Images {
    /// For services without a store.
    pub no_store: String,
    /// For services with a store of type `InMemory`.
    pub in_memory: String,
    /// For services with a store of type `Postgres`.
    pub postgres: String,
    /// For services with a store of type `Cassandra`.
    pub cassandra: String,
    /// For services whose proxy is made of jars. There is none that everybody has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jvm: Option<String>,
}

/// Something that is there or not, or as the surroundings say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// Where the surroundings are right for it.
    Auto,
    /// Always.
    On,
    /// Never.
    #[default]
    Off,
}

/// Something that is either there or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// There.
    On,
    /// Not there.
    #[default]
    Off,
}

/// How many peers must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ContactPoints {
    /// So many.
    Number(NonZeroU16),
    /// Two where there are as many pods, else one.
    Auto(AutoWord),
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AutoWord {
    /// The word `auto`.
    Auto,
}

/// What pods are selected by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selector {
    /// The uid of the StatefulService.
    #[default]
    Uid,
    /// Its name, which outlives a restore from a backup.
    Name,
}

/// What the pods run as, and what that may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Rbac {
    /// How pods with a proxy made of jars get the right to read pods.
    pub mode: RbacMode,
    /// Whether a service that names no service account gets one of its own.
    pub dedicated_service_account: bool,
}

/// How pods with a proxy made of jars get the right to read pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RbacMode {
    /// By a Role in their namespace; the operator can then only give away what it holds.
    #[default]
    Role,
    /// By binding a ClusterRole that came with the operator, which has to hold the right to bind that one.
    Bind,
}

/// The Kubernetes Services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Address {
    /// Whether metrics can be read through the Service.
    pub expose_metrics: bool,
}

/// Keys under these prefixes are the book-keeping of deployment tools: passed on to the pods, each
/// of their edits would restart them. The last is Knative's, on the same kind of object.
const EXCLUDED: [&str; 7] = [
    "kubectl.kubernetes.io/",
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
    "meta.helm.sh/",
    "helm.sh/",
    "serving.knative.dev/lastPinned",
];

impl Default for Settings {
    fn default() -> Self {
        Self {
            proxy: Proxy::default(),
            selector: Selector::default(),
            rbac: Rbac::default(),
            service: Address::default(),
            network_policy: Switch::default(),
            monitoring_namespaces: BTreeMap::from([(
                "kubernetes.io/metadata.name".to_owned(),
                "monitoring".to_owned(),
            )]),
            passivation_timeout: None,
            excluded_annotations: EXCLUDED.map(str::to_owned).to_vec(),
            operator_namespace: "cloudstate".to_owned(),
        }
    }
}

impl Default for Images {
    fn default() -> Self {
        let image = concat!("localhost/cloudstate/sidecar:", env!("CARGO_PKG_VERSION")).to_owned();
        Self {
            no_store: image.clone(),
            in_memory: image.clone(),
            postgres: image.clone(),
            cassandra: image,
            jvm: None,
        }
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            kind: ProxyKind::default(),
            image: Images::default(),
            native_sidecar: Choice::default(),
            required_contact_points: ContactPoints::default(),
            istio_annotations: true,
        }
    }
}

impl Default for ContactPoints {
    fn default() -> Self {
        Self::Number(NonZeroU16::MIN)
    }
}

impl Images {
    /// The image of that kind of proxy for that store.
    pub(crate) fn of(&self, kind: ProxyKind, store: Option<&Known>) -> Option<&str> {
        match (kind, store) {
            (ProxyKind::Jvm, _) => self.jvm.as_deref(),
            (ProxyKind::Native, None) => Some(&self.no_store),
            (ProxyKind::Native, Some(Known::InMemory)) => Some(&self.in_memory),
            (ProxyKind::Native, Some(Known::Postgres(_))) => Some(&self.postgres),
            (ProxyKind::Native, Some(Known::Cassandra(_))) => Some(&self.cassandra),
        }
    }
}

/// `on` and `off` are words of YAML for true and false to some readers, and texts to others.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word {
    Truth(bool),
    Text(String),
}

impl Word {
    fn into_text(self) -> String {
        match self {
            Self::Truth(true) => "on".to_owned(),
            Self::Truth(false) => "off".to_owned(),
            Self::Text(text) => text,
        }
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Word::deserialize(deserializer)?.into_text().as_str() {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            other => Err(unknown(other, &["auto", "on", "off"])),
        }
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Word::deserialize(deserializer)?.into_text().as_str() {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            other => Err(unknown(other, &["on", "off"])),
        }
    }
}

fn unknown<E: serde::de::Error>(word: &str, words: &'static [&'static str]) -> E {
    E::unknown_variant(word, words)
}
