//! Credentials of a store: in plain text, or in a Secret that the kubelet reads.

use super::config::{Faults, Found, Noted, Section};

const CREDENTIALS: &str = "credentials";
const FROM_SECRET: &str = "credentialsFromSecret";

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

/// Those of the fields that hold a credential in plain text.
pub(super) fn plaintext(all: &[(&str, Option<&Credential>)]) -> Vec<String> {
    all.iter()
        .filter(|(_, credential)| matches!(credential, Some(Credential::Literal(_))))
        .map(|(key, _)| format!("spec.config.{CREDENTIALS}.{key}"))
        .collect()
}

/// Both places where a credential may stand.
pub(super) struct Credentials<'a> {
    literals: Found<Section<'a>>,
    /// The Secret's name, and the section that may name keys in it.
    secret: Found<(String, Section<'a>)>,
}

impl<'a> Credentials<'a> {
    pub(super) fn read(root: &Section<'a>, faults: &mut Faults) -> Self {
        let literals = root.section(CREDENTIALS, faults);
        let secret = match root.section(FROM_SECRET, faults) {
            Ok(Some(section)) => section
                .mandatory("name", "the name of a Secret in this namespace", faults)
                .map(|name| Some((name, section))),
            Ok(None) => Ok(None),
            Err(noted) => Err(noted),
        };
        Self { literals, secret }
    }

    /// The Secret that is named, if any.
    pub(super) fn secret(&self) -> Option<&str> {
        self.secret.as_ref().ok()?.as_ref().map(|(name, _)| name.as_str())
    }

    /// A credential that there has to be. Its key in the Secret is its own name unless another is given.
    pub(super) fn mandatory(&self, name: &str, faults: &mut Faults) -> Result<Credential, Noted> {
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
    pub(super) fn optional(&self, name: &str, faults: &mut Faults) -> Found<Credential> {
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
            Ok(Some((_, section))) => section.secret_key(&key_field, faults),
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
