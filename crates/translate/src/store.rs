//! Which store a StatefulStore is, and how it is reached.

mod cassandra;
mod config;
mod credentials;
mod postgres;

use std::collections::{BTreeMap, BTreeSet};

use api::StatefulStore;
use api::contract::Store;
use kube::ResourceExt;
use serde_json::{Map, Value};

pub use self::cassandra::Cassandra;
use self::config::Faults;
pub use self::credentials::Credential;
pub use self::postgres::{Postgres, Tls};
use crate::{Problem, Problems};

/// The one way in which a store is run: by somebody else.
const UNMANAGED: &str = "Unmanaged";
/// Where Postgres listens unless the store says otherwise.
const POSTGRES_PORT: u16 = 5432;
/// Where Cassandra listens unless the store says otherwise.
const CASSANDRA_PORT: u16 = 9042;

/// A store that services can be bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// The memory of the proxy.
    InMemory,
    /// A database that is there already.
    Postgres(Box<Postgres>),
    /// A ring of Cassandra nodes that is there already.
    Cassandra(Box<Cassandra>),
}

impl Known {
    /// Every value that `spec.type` may have.
    const TYPES: [&str; 3] = ["Cassandra", "InMemory", "Postgres"];

    /// What `spec.type` says for this store.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InMemory => "InMemory",
            Self::Postgres(_) => "Postgres",
            Self::Cassandra(_) => "Cassandra",
        }
    }

    /// What the proxy is told of it.
    pub fn store(&self) -> Store {
        match self {
            Self::InMemory => Store::InMemory,
            Self::Postgres(_) => Store::Postgres,
            Self::Cassandra(_) => Store::Cassandra,
        }
    }

    /// Where it listens; nothing for one that is not reached over the network.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::InMemory => None,
            Self::Postgres(postgres) => Some(postgres.port.unwrap_or(POSTGRES_PORT)),
            Self::Cassandra(cassandra) => Some(cassandra.port.unwrap_or(CASSANDRA_PORT)),
        }
    }

    /// The Secrets that pods of this store read, with the keys that they need of each.
    pub fn secrets(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let (credentials, tls) = match self {
            Self::InMemory => (Vec::new(), None),
            Self::Postgres(postgres) => {
                let Postgres { database, username, password, schema, tls, .. } = &**postgres;
                let mut credentials = vec![database, username, password];
                credentials.extend(schema);
                (credentials, tls.as_ref())
            }
            Self::Cassandra(cassandra) => {
                (cassandra.username.iter().chain(&cassandra.password).collect(), None)
            }
        };
        let mut secrets = BTreeMap::<&str, BTreeSet<&str>>::new();
        for credential in credentials {
            if let Credential::Secret { name, key } = credential {
                secrets.entry(name).or_default().insert(key);
            }
        }
        if let Some(Tls { secret: Some(name), root_cert, cert, key, .. }) = tls {
            let keys = [root_cert, cert, key].into_iter().flatten().map(String::as_str);
            secrets.entry(name).or_default().extend(keys);
        }
        secrets
    }

    /// Fields of `spec.config` that hold a credential in plain text.
    pub fn plaintext(&self) -> Vec<String> {
        match self {
            Self::InMemory => Vec::new(),
            Self::Postgres(postgres) => postgres.plaintext(),
            Self::Cassandra(cassandra) => cassandra.plaintext(),
        }
    }

    /// A Secret that the store names and that nothing is taken from: almost surely a mistake.
    pub fn unread_secret(&self) -> Option<&str> {
        match self {
            Self::Cassandra(cassandra) => cassandra.unread_secret.as_deref(),
            Self::InMemory | Self::Postgres(_) => None,
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
        Some("Postgres") => unmanaged(object, "Postgres", |config| {
            Ok(Known::Postgres(Box::new(postgres::read(config)?)))
        }),
        Some("Cassandra") => unmanaged(object, "Cassandra", |config| {
            Ok(Known::Cassandra(Box::new(cassandra::read(config)?)))
        }),
        Some(value) => refuse(Problem::StoreTypeUnknown { store, value: value.to_owned() }),
    }
}

/// A store that somebody else runs, reached as its configuration says.
fn unmanaged(
    object: &StatefulStore,
    kind: &str,
    read: impl Fn(&Map<String, Value>) -> Result<Known, Faults>,
) -> Result<Known, Problems> {
    let mut problems: Vec<_> = check_deployment(object).into_iter().collect();
    let known = match &object.spec.config {
        Some(config) => read(config),
        None => {
            Err(Faults::one(config::ROOT, &format!("is missing: say in it how {kind} is reached")))
        }
    };
    match known {
        Ok(known) if problems.is_empty() => Ok(known),
        Ok(_) => Err(Problems(problems)),
        Err(faults) => {
            problems.extend(faults.into_problems(&object.name_any()));
            Err(Problems(problems))
        }
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
