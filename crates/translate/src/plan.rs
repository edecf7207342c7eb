//! A service that can be rendered: everything checked, every default filled in.

use std::collections::BTreeMap;

use api::StatefulServiceSpec;
use api::contract::ProxyKind;
use api::environment::Size;
use k8s_openapi::api::core::v1::Container;

use crate::{Known, Tls};

/// A validated service.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    /// The user's labels that are passed on.
    pub(crate) labels: BTreeMap<String, String>,
    /// The user's annotations that are passed on.
    pub(crate) annotations: BTreeMap<String, String>,
    /// The spec as given, for what a pod takes over as it is.
    pub(crate) spec: StatefulServiceSpec,
    /// The user function as given; its name is not read.
    pub(crate) user: Container,
    /// Where the user function listens.
    pub(crate) port: u16,
    /// Further containers as given; their names are unique and none of ours.
    pub(crate) extra: Vec<Container>,
    pub(crate) kind: ProxyKind,
    /// The sidecar's image.
    pub(crate) image: String,
    pub(crate) place: Place,
    /// What `spec.sidecarJvmMemory` says.
    pub(crate) memory: Option<Size>,
    pub(crate) store: Option<Binding>,
    /// What selects the pods.
    pub(crate) selector: BTreeMap<String, String>,
    pub(crate) replicas: i32,
    /// How many pods there were to be at first, where proxies find out by that how many peers they need.
    pub(crate) initial_replicas: Option<i32>,
    /// Whether the store allows no more than one pod.
    pub(crate) is_single: bool,
    /// Why fewer replicas run than the spec asks for, if so.
    pub(crate) pinned: Option<String>,
    pub(crate) account: Account,
    /// Whether pods of another protocol have to be gone before new ones come.
    pub(crate) is_replacing: bool,
    /// Whether only those who need it may connect to the pods.
    pub(crate) is_guarded: bool,
    /// What the user should know though nothing is wrong.
    pub(crate) warnings: Vec<Warning>,
}

/// Where in the pod the sidecar stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Beside the user function: both come and go together.
    Container,
    /// As an init container that stays: there before the user function, and until after it.
    InitContainer,
    /// As [`Self::Container`], since a pod came without what makes an init container stay.
    Stripped,
}

/// What the pods run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// The namespace's default one.
    Default,
    /// One that the user named, and made.
    Named(String),
    /// One of the service's own, with the service's name.
    Dedicated,
}

/// The store that the service is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Name of the StatefulStore.
    pub name: String,
    /// Generation of the StatefulStore's spec.
    pub generation: Option<i64>,
    /// What it is, with what the service asks of it.
    pub store: Known,
    /// What the service asks of a Cassandra.
    pub(crate) keyspace: Option<String>,
}

impl Binding {
    /// How the connection to the store is secured, where that is said.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        match &self.store {
            Known::InMemory | Known::Cassandra(_) => None,
            Known::Postgres(postgres) => postgres.tls.as_ref(),
        }
    }

    /// The Secret whose files the sidecar needs, if any.
    pub(crate) fn files(&self) -> Option<&str> {
        self.tls().and_then(|tls| tls.secret.as_deref())
    }
}

/// Something that was decided otherwise than the spec says, or that the user should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// One CamelCase word for the event.
    pub reason: &'static str,
    /// Object, field, value and what was done instead.
    pub message: String,
}

impl Plan {
    /// The store, if the service is bound to one.
    pub fn store(&self) -> Option<&Binding> {
        self.store.as_ref()
    }

    /// Labels and annotations of the service that its objects get.
    pub fn passed_on(&self) -> (&BTreeMap<String, String>, &BTreeMap<String, String>) {
        (&self.labels, &self.annotations)
    }

    /// How many pods there will be.
    pub fn replicas(&self) -> i32 {
        self.replicas
    }

    /// Why there will be fewer pods than the spec asks for, if so.
    pub fn pinned(&self) -> Option<&str> {
        self.pinned.as_deref()
    }

    /// Which kind of proxy the sidecars are.
    pub fn kind(&self) -> ProxyKind {
        self.kind
    }

    /// Image of the sidecars.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// What selects the pods.
    pub fn selector(&self) -> &BTreeMap<String, String> {
        &self.selector
    }

    /// Whether pods that speak another protocol have to be gone before new ones come.
    pub fn is_replacing(&self) -> bool {
        self.is_replacing
    }

    /// What the pods run as; `default` when nobody said otherwise.
    pub fn service_account(&self) -> &str {
        match &self.account {
            Account::Default => "default",
            Account::Named(name) => name,
            Account::Dedicated => &self.name,
        }
    }

    /// What the user should know though nothing is wrong.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}
