//! A Postgres in one word: `postgres://user:password@host:port/database?sslmode=…` (`docs/environment.md`).
//!
//! The word holds a password, so no refusal repeats any of its values.

use std::{fmt::Write as _, path::PathBuf};

use api::environment::{Kind, Refusal, value};

use super::store::mode;
use crate::journal::postgres::{Secret, TlsMode};

/// What can stand behind the question mark, as libpq calls it.
const PARAMETERS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];
const SHAPE: &str =
    "postgres://user:password@host:port/database?sslmode=mode, all but the host may be left out";

/// What such a word says; a part that is not there is left to its variable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) database: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) mode: Option<TlsMode>,
    pub(super) roots: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

impl Url {
    /// Takes the word apart.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let Some(rest) = rest else { return refuse(SHAPE) };
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        // A password with an @ in it is a frequent mistake, and what follows would be taken for a host.
        let (who, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        if who.contains('@') || database.contains(['/', '@']) {
            return refuse(
                "a user and a password with every @, / and : in them as %40, %2F and %3A",
            );
        }
        let (user, password) = match who.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (who, None),
        };
        let (host, port) = place_of(place)?;
        let mut url = Self {
            host: Some(decoded(host)?).filter(|host| !host.is_empty()),
            port,
            database: Some(decoded(database)?).filter(|database| !database.is_empty()),
            user: Some(decoded(user)?).filter(|user| !user.is_empty()),
            password: password.map(decoded).transpose()?.map(Secret),
            ..Self::default()
        };
        if url.host.is_none() {
            return refuse(SHAPE);
        }
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            url.take(parameter)?;
        }
        Ok(url)
    }

    fn take(&mut self, parameter: &str) -> Result<(), Refusal> {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = decoded(value)?;
        let path =
            || value::absolute_path(&value).map_err(|refusal| named(name, refusal)).map(Some);
        let is_new = match name {
            "sslmode" => {
                let mode = mode(&value).map_err(|refusal| named(name, refusal))?;
                self.mode.replace(mode).is_none()
            }
            "sslrootcert" => std::mem::replace(&mut self.roots, path()?).is_none(),
            "sslcert" => std::mem::replace(&mut self.certificate, path()?).is_none(),
            "sslkey" => std::mem::replace(&mut self.key, path()?).is_none(),
            _ => {
                return refuse(format!("no parameters but {}", PARAMETERS.join(", ")));
            }
        };
        if is_new { Ok(()) } else { refuse(format!("{name} once")) }
    }

    /// The word without its password, for whoever looks at settings.
    pub(super) fn masked(&self) -> String {
        // Writing into a string cannot fail.
        let mut shown = "postgres://".to_owned();
        let (user, host) = (self.user.as_deref().unwrap_or_default(), self.host.as_deref());
        shown += user;
        if self.password.is_some() {
            shown += ":***";
        }
        if !user.is_empty() || self.password.is_some() {
            shown.push('@');
        }
        match host {
            Some(address) if address.contains(':') => {
                let _ = write!(shown, "[{address}]");
            }
            host => shown += host.unwrap_or_default(),
        }
        if let Some(port) = self.port {
            let _ = write!(shown, ":{port}");
        }
        if let Some(database) = &self.database {
            let _ = write!(shown, "/{database}");
        }
        shown
    }
}

/// Host and port; an IPv6 address stands in brackets.
fn place_of(place: &str) -> Result<(&str, Option<u16>), Refusal> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let Some((host, rest)) = rest.split_once(']') else { return refuse(SHAPE) };
            (host, rest)
        }
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    if place.contains(',') {
        return refuse("one host; a name may have several addresses, and each is tried");
    }
    match port.strip_prefix(':') {
        Some(port) => Ok((host, Some(value::port(port).map_err(|it| named("port", it))?.get()))),
        None if port.is_empty() => Ok((host, None)),
        None => refuse(SHAPE),
    }
}

/// Text with `%40` and its like made what they stand for.
fn decoded(text: &str) -> Result<String, Refusal> {
    const EXPECTED: &str =
        "two hexadecimal digits behind every %, and text in UTF-8; a % itself is %25";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let number = digits.and_then(|digits| str::from_utf8(digits).ok());
        let Some(number) = number.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
            return refuse(EXPECTED);
        };
        bytes.push(number);
        rest = &after[2..];
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => refuse(EXPECTED),
    }
}

fn named(part: &str, refusal: Refusal) -> Refusal {
    let Refusal { kind, expected } = refusal;
    Refusal { kind, expected: format!("{part} to be {expected}") }
}

fn refuse<T>(expected: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { kind: Kind::InvalidAddress, expected: expected.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_found_and_decoded() {
        let text = "postgres://an%40na:s3%2Fcr%3Aet@db.example:6432/ca%20rt?sslmode=verify-full&sslrootcert=/ca.pem\
                    &sslcert=/c.pem&sslkey=/k.pem";
        let url = Url::parse(text).unwrap();
        let expected = Url {
            host: Some("db.example".to_owned()),
            port: Some(6432),
            database: Some("ca rt".to_owned()),
            user: Some("an@na".to_owned()),
            password: Some(Secret("s3/cr:et".to_owned())),
            mode: Some(TlsMode::VerifyFull),
            roots: Some("/ca.pem".into()),
            certificate: Some("/c.pem".into()),
            key: Some("/k.pem".into()),
        };
        assert_eq!(url, expected);
        assert_eq!(url.masked(), "postgres://an@na:***@db.example:6432/ca rt");
    }

    #[test]
    fn parts_may_be_left_out() {
        for (text, host, port, masked) in [
            ("postgresql://db", "db", None, "postgres://db"),
            ("postgres://me@db/", "db", None, "postgres://me@db"),
            ("postgres://[fd00::1]:5433/x", "fd00::1", Some(5433), "postgres://[fd00::1]:5433/x"),
            ("postgres://%2Frun%2Fpg?", "/run/pg", None, "postgres:///run/pg"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.host.as_deref(), url.port), (Some(host), port), "{text}");
            assert_eq!(url.masked(), masked);
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused_without_a_word_of_it() {
        for (text, part) in [
            ("mysql://me:s3cret@db", "postgres://user"),
            ("me:s3cret@db", "postgres://user"),
            ("postgres://me:s3cret@", "postgres://user"),
            ("postgres://me:s3cret@/db", "postgres://user"),
            ("postgres://me:s3cret@a@db", "%40"),
            ("postgres://me:s3cret/x@db", "%40"),
            ("postgres://me:s3cret%4@db", "hexadecimal"),
            ("postgres://me:s3cret%ff@db", "UTF-8"),
            ("postgres://me:s3cret%00@db", "UTF-8"),
            ("postgres://me:s3cret@[fd00::1/x", "postgres://user"),
            ("postgres://me:s3cret@a:1,b:2/x", "one host"),
            ("postgres://me:s3cret@db:0/x", "port to be"),
            ("postgres://me@db:s3cret/x", "port to be"),
            ("postgres://me@db/x?sslmode=s3cret", "sslmode to be one of disable"),
            ("postgres://me@db/x?sslrootcert=s3cret", "sslrootcert to be"),
            (
                "postgres://me@db/x?options=s3cret",
                "no parameters but sslmode, sslrootcert, sslcert, sslkey",
            ),
            ("postgres://me@db/x?s3cret", "no parameters but"),
            ("postgres://me@db/x?sslmode=require&sslmode=disable", "sslmode once"),
        ] {
            let said = Url::parse(text).unwrap_err().expected;
            assert!(said.contains(part), "{text}: {said}");
            assert!(!said.contains("s3cret"), "{text}: {said}");
        }
    }
}
