//! A StatefulStore of type `Cassandra`: what its `spec.config` says.

use serde_json::{Map, Value};

use super::config::{Faults, Section};
use super::credentials::{Credential, Credentials, plaintext};

/// How a Cassandra is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cassandra {
    pub(crate) service: String,
    pub(crate) port: Option<u16>,
    pub(crate) username: Option<Credential>,
    pub(crate) password: Option<Credential>,
    /// A Secret that is named without any key in it, so that nothing is taken from it.
    pub(crate) unread_secret: Option<String>,
}

impl Cassandra {
    /// Fields with a credential in plain text.
    pub(super) fn plaintext(&self) -> Vec<String> {
        plaintext(&[("password", self.password.as_ref()), ("username", self.username.as_ref())])
    }
}

pub(super) fn read(config: &Map<String, Value>) -> Result<Cassandra, Faults> {
    let mut faults = Faults::default();
    let root = Section::root(config);
    let service = root.mandatory("service", "the host name or address of Cassandra", &mut faults);
    let port = root.port("port", &mut faults);
    let credentials = Credentials::read(&root, &mut faults);
    let username = credentials.optional("username", &mut faults);
    let password = credentials.optional("password", &mut faults);
    match (service, port, username, password) {
        (Ok(service), Ok(port), Ok(username), Ok(password)) if faults.is_empty() => {
            let is_from_secret = |credential: &Option<Credential>| {
                matches!(credential, Some(Credential::Secret { .. }))
            };
            let is_read = is_from_secret(&username) || is_from_secret(&password);
            let unread_secret = credentials.secret().filter(|_| !is_read).map(str::to_owned);
            Ok(Cassandra { service, port, username, password, unread_secret })
        }
        _ => Err(faults),
    }
}
