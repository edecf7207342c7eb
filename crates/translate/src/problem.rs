//! Why a service or a store cannot be used: which object, which field, which value, what to do.

use api::condition::reason;

use crate::store;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The named store is not there.
    #[error(
        "spec.datastore.name is {store:?}, and namespace {namespace:?} has no StatefulStore of that name: create it, or name one that exists"
    )]
    StoreNotFound {
        /// Name of the store.
        store: String,
        /// Where it was looked for.
        namespace: String,
    },
    /// The store has no type.
    #[error("StatefulStore {store:?} has no spec.type: set it to one of {}", store::supported())]
    StoreTypeUnspecified {
        /// Name of the store.
        store: String,
    },
    /// The store has a type that we have not.
    #[error(
        "StatefulStore {store:?} has spec.type {value:?}, which is not known: set it to one of {}",
        store::supported()
    )]
    StoreTypeUnknown {
        /// Name of the store.
        store: String,
        /// What its type is.
        value: String,
    },
    /// The store does not say how it is run.
    #[error("StatefulStore {store:?} has no spec.deployment: set it to {}", store::deployments())]
    StoreDeploymentUnspecified {
        /// Name of the store.
        store: String,
    },
    /// The store is to be run in a way that we have not.
    #[error(
        "StatefulStore {store:?} has spec.deployment {value:?}, which is not known: set it to {}",
        store::deployments()
    )]
    StoreDeploymentUnknown {
        /// Name of the store.
        store: String,
        /// What was given.
        value: String,
    },
    /// The store's configuration cannot be used. Its values are not shown: one may be a password.
    #[error("StatefulStore {store:?}: {path} {fault}")]
    StoreConfig {
        /// Name of the store.
        store: String,
        /// The field.
        path: String,
        /// What is wrong with it, and what to do.
        fault: String,
    },
    /// The service names no keyspace, and its store needs one.
    #[error(
        "spec.datastore.config.keyspace is missing, and StatefulStore {store:?} of type \"Cassandra\" needs one: set it to the keyspace of this service"
    )]
    KeyspaceMissing {
        /// Name of the store.
        store: String,
    },
    /// A field of the service cannot be used.
    #[error("{path} {fault}")]
    Field {
        /// The field.
        path: String,
        /// What it is, what is wrong with that, and what to do.
        fault: String,
    },
}

impl Problem {
    /// The word for conditions and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::StoreNotFound { .. } => reason::STATEFUL_STORE_NOT_FOUND,
            Self::StoreTypeUnspecified { .. } => reason::UNSPECIFIED_STORE_TYPE,
            Self::StoreTypeUnknown { .. } => reason::UNKNOWN_STORE_TYPE,
            Self::StoreDeploymentUnspecified { .. } => reason::UNSPECIFIED_DEPLOYMENT_TYPE,
            Self::StoreDeploymentUnknown { .. } => reason::UNKNOWN_DEPLOYMENT_TYPE,
            Self::KeyspaceMissing { .. } => reason::MISSING_KEYSPACE,
            Self::StoreConfig { .. } | Self::Field { .. } => reason::BAD_CONFIGURATION,
        }
    }

    /// Whether it is the store that is wrong, and not the service's own spec.
    pub fn is_about_the_store(&self) -> bool {
        matches!(
            self,
            Self::StoreNotFound { .. }
                | Self::StoreTypeUnspecified { .. }
                | Self::StoreTypeUnknown { .. }
                | Self::StoreDeploymentUnspecified { .. }
                | Self::StoreDeploymentUnknown { .. }
                | Self::StoreConfig { .. }
                | Self::KeyspaceMissing { .. }
        )
    }
}

/// Everything that is wrong; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    /// The problems in the order of the spec's fields.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// Those that are about the store, if any.
    #[must_use]
    pub fn about_the_store(&self) -> Option<Self> {
        let found = self.iter().filter(|problem| problem.is_about_the_store()).cloned();
        let found: Vec<_> = found.collect();
        (!found.is_empty()).then_some(Self(found))
    }

    /// The word for conditions and events: that of the first problem.
    pub fn reason(&self) -> &'static str {
        self.0.first().map_or(reason::BAD_CONFIGURATION, Problem::reason)
    }
}
