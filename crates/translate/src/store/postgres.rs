//! A StatefulStore of type `Postgres`: what its `spec.config` says.

use serde_json::{Map, Value};

use super::config::{Faults, Found, Noted, Section};
use super::credentials::{Credential, Credentials, plaintext};

/// What `spec.config.ssl.mode` may be, in the words of libpq's `sslmode`.
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// How a Postgres is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgres {
    pub(crate) service: String,
    pub(crate) port: Option<u16>,
    pub(crate) database: Credential,
    pub(crate) username: Credential,
    pub(crate) password: Credential,
    pub(crate) schema: Option<Credential>,
    pub(crate) tls: Option<Tls>,
}

/// How far the connection is secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub(crate) mode: String,
    /// Secret with the files, when there are any.
    pub(crate) secret: Option<String>,
    /// Keys in that Secret.
    pub(crate) root_cert: Option<String>,
    pub(crate) cert: Option<String>,
    pub(crate) key: Option<String>,
}

impl Postgres {
    /// Fields with a credential in plain text.
    pub(super) fn plaintext(&self) -> Vec<String> {
        plaintext(&[
            ("database", Some(&self.database)),
            ("password", Some(&self.password)),
            ("schema", self.schema.as_ref()),
            ("username", Some(&self.username)),
        ])
    }
}

pub(super) fn read(config: &Map<String, Value>) -> Result<Postgres, Faults> {
    let mut faults = Faults::default();
    let root = Section::root(config);
    let service = root.mandatory("service", "the host name or address of Postgres", &mut faults);
    let port = root.port("port", &mut faults);
    let credentials = Credentials::read(&root, &mut faults);
    let database = credentials.mandatory("database", &mut faults);
    let username = credentials.mandatory("username", &mut faults);
    let password = credentials.mandatory("password", &mut faults);
    let schema = credentials.optional("schema", &mut faults);
    let tls = tls(&root, &mut faults);
    match (service, port, database, username, password, schema, tls) {
        (Ok(service), Ok(port), Ok(database), Ok(username), Ok(password), Ok(schema), Ok(tls))
            if faults.is_empty() =>
        {
            Ok(Postgres { service, port, database, username, password, schema, tls })
        }
        _ => Err(faults),
    }
}

fn tls(root: &Section<'_>, faults: &mut Faults) -> Found<Tls> {
    let Some(section) = root.section("ssl", faults)? else { return Ok(None) };
    let mode = section.mandatory("mode", &modes(), faults).and_then(|mode| {
        if SSL_MODES.contains(&mode.as_str()) {
            return Ok(mode);
        }
        faults.push(section.path("mode"), format!("is {mode:?}: set it to {}", modes()));
        Err(Noted)
    });
    let secret = section.text("secret", faults);
    let mut file = |field| {
        let file = section.secret_key(field, faults);
        if secret == Ok(None) && matches!(file, Ok(Some(_))) {
            faults.push(
                section.path(field),
                "names a key of a Secret, and no Secret is named: set spec.config.ssl.secret",
            );
        }
        file.map(|file| file.map(str::to_owned))
    };
    let (root_cert, cert, key) = (file("rootCert"), file("cert"), file("key"));
    let mode = mode?;
    if mode.starts_with("verify-") && root_cert == Ok(None) {
        faults.push(
            section.path("rootCert"),
            format!(
                "is missing, and the mode {mode:?} needs it: set it to the key of spec.config.ssl.secret that holds the certificate of the authority"
            ),
        );
    }
    for (given, other, field) in [(&cert, &key, "key"), (&key, &cert, "cert")] {
        if matches!(given, Ok(Some(_))) && *other == Ok(None) {
            faults.push(
                section.path(field),
                "is missing: a certificate of ours needs both spec.config.ssl.cert and spec.config.ssl.key",
            );
        }
    }
    let secret = secret?.map(str::to_owned);
    Ok(Some(Tls { mode, secret, root_cert: root_cert?, cert: cert?, key: key? }))
}

fn modes() -> String {
    format!("one of {}", SSL_MODES.map(|mode| format!("{mode:?}")).join(", "))
}

#[cfg(test)]
mod tests;
