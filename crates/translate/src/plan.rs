//! A service that can be rendered: everything checked, every default filled in.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ResourceRequirements, Toleration, Volume};

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
    /// The user function as given; its name is not read.
    pub(crate) user: Container,
    /// Where the user function listens.
    pub(crate) port: u16,
    /// Further containers as given; their names are unique and none of ours.
    pub(crate) extra: Vec<Container>,
    pub(crate) store: Option<Binding>,
    pub(crate) replicas: i32,
    /// Why fewer replicas run than the spec asks for, if so.
    pub(crate) pinned: Option<String>,
    pub(crate) service_account_name: Option<String>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) sidecar_resources: Option<ResourceRequirements>,
    pub(crate) sidecar_jvm_memory: Option<String>,
    pub(crate) node_selector: BTreeMap<String, String>,
    pub(crate) tolerations: Vec<Toleration>,
    pub(crate) termination_grace_period_seconds: Option<i64>,
    /// What the user should know though nothing is wrong.
    pub(crate) warnings: Vec<Warning>,
}

/// The store that the service is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Name of the StatefulStore.
    pub name: String,
    /// What it is, with what the service asks of it.
    pub store: Known,
}

impl Binding {
    /// How the connection to the store is secured, where that is said.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        match &self.store {
            Known::InMemory => None,
            Known::Postgres(postgres) => postgres.tls.as_ref(),
        }
    }
}

/// Something that was decided otherwise than the spec says.
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

    /// How many pods there will be.
    pub fn replicas(&self) -> i32 {
        self.replicas
    }

    /// Why there will be fewer pods than the spec asks for, if so.
    pub fn pinned(&self) -> Option<&str> {
        self.pinned.as_deref()
    }

    /// What the user should know though nothing is wrong.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}
