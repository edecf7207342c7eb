//! A StatefulStore of type `Postgres`: what its `spec.config` says.

use serde_json::{Map, Value};

use super::config::{Faults, Found, Noted, Section};

const CREDENTIALS: &str = "credentials";
const FROM_SECRET: &str = "credentialsFromSecret";

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

/// Where a value is that not everybody should see.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// In the StatefulStore itself.
    Literal(String),
    /// In a Secret of the same namespace.
    Secret {
        /// Name of the Secret.
        name: String,
        /// Key in it.
        key: String,
    },
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal"),
            Self::Secret { name, key } => write!(f, "Secret({name:?}, {key:?})"),
        }
    }
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
        let all = [
            ("database", Some(&self.database)),
            ("password", Some(&self.password)),
            ("schema", self.schema.as_ref()),
            ("username", Some(&self.username)),
        ];
        all.into_iter()
            .filter(|(_, credential)| matches!(credential, Some(Credential::Literal(_))))
            .map(|(key, _)| format!("spec.config.{CREDENTIALS}.{key}"))
            .collect()
    }
}

pub(super) fn read(config: &Map<String, Value>) -> Result<Postgres, Faults> {
    let mut faults = Faults::default();
    let root = Section::root(config);
    let service = mandatory(&root, "service", "the host name or address of Postgres", &mut faults);
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

fn mandatory(
    section: &Section<'_>,
    key: &str,
    what: &str,
    faults: &mut Faults,
) -> Result<String, Noted> {
    if let Some(text) = section.text(key, faults)? {
        return Ok(text.to_owned());
    }
    faults.push(section.path(key), format!("is missing: set it to {what}"));
    Err(Noted)
}

/// Both places where a credential may stand.
struct Credentials<'a> {
    literals: Found<Section<'a>>,
    /// The Secret's name, and the section that may name keys in it.
    secret: Found<(String, Section<'a>)>,
}

impl<'a> Credentials<'a> {
    fn read(root: &Section<'a>, faults: &mut Faults) -> Self {
        let literals = root.section(CREDENTIALS, faults);
        let secret = match root.section(FROM_SECRET, faults) {
            Ok(Some(section)) => {
                mandatory(&section, "name", "the name of a Secret in this namespace", faults)
                    .map(|name| Some((name, section)))
            }
            Ok(None) => Ok(None),
            Err(noted) => Err(noted),
        };
        Self { literals, secret }
    }

    /// A credential that there has to be. Its key in the Secret is its own name unless another is given.
    fn mandatory(&self, name: &str, faults: &mut Faults) -> Result<Credential, Noted> {
        let (found, secret) = self.look(name, faults)?;
        if let Some(found) = found {
            return Ok(found);
        }
        if let Some(secret) = secret {
            return Ok(Credential::Secret { name: secret, key: name.to_owned() });
        }
        faults.push(
            format!("spec.config.{CREDENTIALS}.{name}"),
            format!(
                "is missing: put it under the key {name:?} into a Secret, and name that in spec.config.{FROM_SECRET}.name"
            ),
        );
        Err(Noted)
    }

    /// A credential that is only there when it is spelled out.
    fn optional(&self, name: &str, faults: &mut Faults) -> Found<Credential> {
        self.look(name, faults).map(|(found, _)| found)
    }

    /// What is spelled out, and the Secret that there is besides.
    fn look(
        &self,
        name: &str,
        faults: &mut Faults,
    ) -> Result<(Option<Credential>, Option<String>), Noted> {
        let literal = match &self.literals {
            Ok(Some(literals)) => literals.text(name, faults),
            Ok(None) => Ok(None),
            Err(noted) => Err(*noted),
        };
        let key_field = format!("{name}Key");
        let key = match &self.secret {
            Ok(Some((_, section))) => section.text(&key_field, faults),
            Ok(None) => Ok(None),
            Err(noted) => Err(*noted),
        };
        let secret = match &self.secret {
            Ok(secret) => secret.as_ref().map(|(secret, _)| secret.clone()),
            // A literal stands by itself, whatever is wrong with the Secret.
            Err(noted) => {
                return Ok((Some(Credential::Literal(literal?.ok_or(*noted)?.to_owned())), None));
            }
        };
        match (literal?, &secret, key?) {
            (Some(_), Some(_), Some(_)) => {
                faults.push(
                    format!("spec.config.{CREDENTIALS}.{name}"),
                    format!("is given, and so is spec.config.{FROM_SECRET}.{key_field}: keep one of the two"),
                );
                Err(Noted)
            }
            (Some(literal), _, _) => Ok((Some(Credential::Literal(literal.to_owned())), secret)),
            (None, Some(name), Some(key)) => {
                let found = Credential::Secret { name: name.clone(), key: key.to_owned() };
                Ok((Some(found), secret))
            }
            (None, _, _) => Ok((None, secret)),
        }
    }
}

fn tls(root: &Section<'_>, faults: &mut Faults) -> Found<Tls> {
    let Some(section) = root.section("ssl", faults)? else { return Ok(None) };
    let mode = mandatory(&section, "mode", &modes(), faults).and_then(|mode| {
        if SSL_MODES.contains(&mode.as_str()) {
            return Ok(mode);
        }
        faults.push(section.path("mode"), format!("is {mode:?}: set it to {}", modes()));
        Err(Noted)
    });
    let secret = section.text("secret", faults);
    let mut file = |field| {
        let file = section.text(field, faults);
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
