//! Which store a StatefulStore is, and how it is reached.

mod config;
mod postgres;

use api::StatefulStore;
use api::contract::Store;
use kube::ResourceExt;

pub use self::postgres::{Credential, Postgres, Tls};
use crate::{Problem, Problems};

/// The one way in which a store is run: by somebody else.
const UNMANAGED: &str = "Unmanaged";

/// A store that services can be bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// The memory of the proxy.
    InMemory,
    /// A database that is there already.
    Postgres(Box<Postgres>),
}

impl Known {
    /// Every value that `spec.type` may have.
    const TYPES: [&str; 2] = ["InMemory", "Postgres"];

    /// What `spec.type` says for this store.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InMemory => "InMemory",
            Self::Postgres(_) => "Postgres",
        }
    }

    /// What the proxy is told of it.
    pub fn store(&self) -> Store {
        match self {
            Self::InMemory => Store::InMemory,
            Self::Postgres(_) => Store::Postgres,
        }
    }

    /// Fields of `spec.config` that hold a credential in plain text.
    pub fn plaintext(&self) -> Vec<String> {
        match self {
            Self::InMemory => Vec::new(),
            Self::Postgres(postgres) => postgres.plaintext(),
        }
    }
}

/// Which store this is.
///
/// # Errors
/// Everything that is wrong with it; for what it says in `spec.config`, sorted by the field's path.
pub fn validate_store(object: &StatefulStore) -> Result<Known, Problems> {
    let store = object.name_any();
    let refuse = |problem| Err(Problems(vec![problem]));
    match object.spec.kind.as_deref() {
        None => refuse(Problem::StoreTypeUnspecified { store }),
        Some("InMemory") => Ok(Known::InMemory),
        Some("Postgres") => {
            let mut problems: Vec<_> = check_deployment(object).into_iter().collect();
            let postgres = match &object.spec.config {
                Some(config) => postgres::read(config),
                None => Err(config::Faults::one(
                    config::ROOT,
                    "is missing: say in it how Postgres is reached",
                )),
            };
            match postgres {
                Ok(postgres) if problems.is_empty() => Ok(Known::Postgres(Box::new(postgres))),
                Ok(_) => Err(Problems(problems)),
                Err(faults) => {
                    problems.extend(faults.into_problems(&store));
                    Err(Problems(problems))
                }
            }
        }
        Some(value) => refuse(Problem::StoreTypeUnknown { store, value: value.to_owned() }),
    }
}

fn check_deployment(object: &StatefulStore) -> Option<Problem> {
    let store = object.name_any();
    match object.spec.deployment.as_deref() {
        Some(UNMANAGED) => None,
        Some(value) => Some(Problem::StoreDeploymentUnknown { store, value: value.to_owned() }),
        None => Some(Problem::StoreDeploymentUnspecified { store }),
    }
}

/// The types as a list for messages.
pub(crate) fn supported() -> String {
    Known::TYPES.map(|kind| format!("{kind:?}")).join(", ")
}

/// The ways in which a store may be run, as a list for messages.
pub(crate) fn deployments() -> String {
    format!("{UNMANAGED:?}")
}
