//! Settings of the store.

use std::{fmt::Display, path::PathBuf};

use api::{
    contract::{Store, env},
    environment::{Kind, Problem, Reader, Refusal, value},
};

use super::url::Url;
use crate::journal::{
    Settings,
    postgres::{self, Secret, Tls, TlsMode},
};

const AUTO_CREATE_TABLES: &str = "CLOUDSTATE_PROXY_AUTO_CREATE_TABLES";
/// Says no more than that TLS is wanted, or not.
const SSL: &str = env::POSTGRES_SSL;
/// What is shown of a secret.
const HIDDEN: &str = "***";

/// Which kind of store, and how it is reached.
pub(super) fn read(reader: &mut Reader) -> (Store, Settings) {
    // A pod has no disk that outlives it, so there somebody must say what is wanted.
    let default = if reader.shown(env::KUBERNETES_SERVICE_HOST).is_some() {
        Store::None
    } else {
        Store::Sqlite
    };
    let kind = reader.read(env::STORE, default.as_str(), served);
    let path = reader.read(env::SQLITE_PATH, "cloudstate.db", value::text);
    let postgres = postgres(reader, kind == Store::Postgres);
    let settings = match kind {
        // `served` lets no Cassandra through.
        Store::None | Store::InMemory | Store::Cassandra => Settings::Memory,
        Store::Sqlite => Settings::Sqlite(PathBuf::from(path)),
        Store::Postgres => Settings::Postgres(Box::new(postgres)),
    };
    (kind, settings)
}

/// A store that this proxy has; a Cassandra is for proxies made of jars.
fn served(text: &str) -> Result<Store, Refusal> {
    match value::store(text)? {
        Store::Cassandra => {
            let served = Store::ALL.into_iter().filter(|store| *store != Store::Cassandra);
            Err(value::unknown(&served.map(Store::as_str).collect::<Vec<_>>()))
        }
        store => Ok(store),
    }
}

fn postgres(reader: &mut Reader, used: bool) -> postgres::Settings {
    let url = reader.read_secret(env::POSTGRES_URL, |text| {
        Url::parse(text)?;
        Ok(text.to_owned())
    });
    let url = url.and_then(|text| Url::parse(&text).ok()).unwrap_or_default();
    if url.host.is_some() {
        reader.note(env::POSTGRES_URL, url.masked());
    }
    let host = reader.read(env::POSTGRES_SERVICE, "localhost", value::text);
    let port = reader.read_port(env::POSTGRES_PORT, 5432).get();
    let database = reader.read(env::POSTGRES_DATABASE, "cloudstate", value::text);
    let role = reader.read(env::POSTGRES_USERNAME, "cloudstate", value::text);
    let password = reader.read_secret(env::POSTGRES_PASSWORD, |text| Ok(text.to_owned()));
    let tls = tls(reader, &url, used);
    let mut parts = Parts { reader, used };
    postgres::Settings {
        host: parts.either(env::POSTGRES_SERVICE, host, url.host),
        port: parts.either(env::POSTGRES_PORT, port, url.port),
        database: parts.either(env::POSTGRES_DATABASE, database, url.database),
        user: parts.either(env::POSTGRES_USERNAME, role, url.user),
        password: parts
            .any(env::POSTGRES_PASSWORD, password.map(Secret), url.password, |_| HIDDEN.to_owned())
            .unwrap_or_default(),
        schema: reader.read_optional(env::POSTGRES_SCHEMA, schema),
        tls,
        create_tables: reader.read(AUTO_CREATE_TABLES, "true", value::switch),
    }
}

/// Puts together what [`env::POSTGRES_URL`] says and what the variables of its parts say.
struct Parts<'a> {
    reader: &'a mut Reader,
    /// Whether the store is a Postgres at all.
    used: bool,
}

impl Parts<'_> {
    /// A part that has a default.
    fn either<T: Display + PartialEq>(
        &mut self,
        variable: &'static str,
        own: T,
        by_url: Option<T>,
    ) -> T {
        match by_url {
            Some(by_url) if self.reader.is_set(variable) => {
                self.compare(variable, own == by_url);
                own
            }
            Some(by_url) => {
                self.reader.note_by(variable, by_url.to_string(), env::POSTGRES_URL);
                by_url
            }
            None => own,
        }
    }

    /// A part that may be said nowhere.
    fn any<T: PartialEq>(
        &mut self,
        variable: &'static str,
        own: Option<T>,
        by_url: Option<T>,
        shown: fn(&T) -> String,
    ) -> Option<T> {
        match (own, by_url) {
            (Some(own), Some(by_url)) => {
                self.compare(variable, own == by_url);
                Some(own)
            }
            (None, Some(by_url)) => {
                self.reader.note_by(variable, shown(&by_url), env::POSTGRES_URL);
                Some(by_url)
            }
            (own, None) => own,
        }
    }

    /// What is said twice must be said alike.
    fn compare(&mut self, variable: &str, alike: bool) {
        if alike || !self.used || !self.reader.is_sound(variable) {
            return;
        }
        self.reader.add(Problem {
            kind: Kind::ConflictingKeys,
            variable: format!("{} and {variable}", env::POSTGRES_URL),
            value: "hidden".to_owned(),
            expected: "the same in both".to_owned(),
            hint: format!("leave {variable} out, or its part of the URL"),
        });
    }
}

fn tls(reader: &mut Reader, url: &Url, used: bool) -> Tls {
    let wanted = reader.read_optional(SSL, value::switch);
    let mode = reader.read_optional(env::POSTGRES_SSL_MODE, mode);
    let roots = reader.read_optional(env::POSTGRES_SSL_ROOT_CERT, value::absolute_path);
    let certificate = reader.read_optional(env::POSTGRES_SSL_CERT, value::absolute_path);
    let key = reader.read_optional(env::POSTGRES_SSL_KEY, value::absolute_path);
    let mut parts = Parts { reader, used };
    let shown = |path: &PathBuf| path.display().to_string();
    let mode = parts.any(env::POSTGRES_SSL_MODE, mode, url.mode, |mode| mode.as_str().to_owned());
    let roots = parts.any(env::POSTGRES_SSL_ROOT_CERT, roots, url.roots.clone(), shown);
    let certificate =
        parts.any(env::POSTGRES_SSL_CERT, certificate, url.certificate.clone(), shown);
    let key = parts.any(env::POSTGRES_SSL_KEY, key, url.key.clone(), shown);
    let key_password = reader.read_secret(env::POSTGRES_SSL_PASSWORD, |text| Ok(text.to_owned()));
    let default = if wanted == Some(true) { TlsMode::Require } else { TlsMode::default() };
    let mode = match (wanted, mode) {
        (Some(wanted), Some(mode)) if wanted != mode.is_strict() && used => {
            reader.add(contradiction(
                &format!("{SSL} and {}", env::POSTGRES_SSL_MODE),
                &format!("{wanted} and {}", mode.as_str()),
                "true with require, verify-ca or verify-full, or false with the others",
                &format!("leave {SSL} out"),
            ));
            mode
        }
        (_, mode) => mode.unwrap_or(default),
    };
    if used && mode.verifies() && roots.is_none() && reader.is_sound(env::POSTGRES_SSL_ROOT_CERT) {
        reader.add(contradiction(
            env::POSTGRES_SSL_ROOT_CERT,
            "",
            &format!("a file, since {} is {}", env::POSTGRES_SSL_MODE, mode.as_str()),
            "name a PEM file with the certificates that the server's must lead to",
        ));
    }
    if used && key_password.is_some() {
        reader.add(contradiction(
            env::POSTGRES_SSL_PASSWORD,
            "hidden",
            "nothing, since keys that are encrypted cannot be read",
            &format!("decrypt the key that {} names", env::POSTGRES_SSL_KEY),
        ));
    }
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (certificate, _) => {
            let (set, missing) = if certificate.is_some() {
                (env::POSTGRES_SSL_CERT, env::POSTGRES_SSL_KEY)
            } else {
                (env::POSTGRES_SSL_KEY, env::POSTGRES_SSL_CERT)
            };
            if used && reader.is_sound(missing) {
                let hint = format!("set both {set} and {missing}, or neither");
                let expected = format!("a file, since {set} is set");
                reader.add(contradiction(missing, "", &expected, &hint));
            }
            None
        }
    };
    Tls { mode, roots, identity }
}

fn contradiction(variable: &str, value: &str, expected: &str, hint: &str) -> Problem {
    Problem {
        kind: Kind::RangeConflict,
        variable: variable.to_owned(),
        value: value.to_owned(),
        expected: expected.to_owned(),
        hint: hint.to_owned(),
    }
}

pub(super) fn mode(text: &str) -> Result<TlsMode, Refusal> {
    TlsMode::parse(text).ok_or_else(|| Refusal {
        kind: Kind::UnknownVariant,
        expected: format!("one of {}", TlsMode::ALL.map(TlsMode::as_str).join(", ")),
    })
}

/// Postgres cuts longer names short without a word, and they would be two schemas in our eyes.
pub(super) fn schema(text: &str) -> Result<String, Refusal> {
    const MAX: usize = 63;
    if text.len() > MAX || text.contains('\0') || text.starts_with("pg_") {
        let expected = format!(
            "a name of at most {MAX} bytes that does not begin with pg_, which Postgres keeps for itself"
        );
        return Err(Refusal { kind: Kind::OutOfRange, expected });
    }
    value::text(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn read_from(pairs: &[(&str, &str)]) -> (Store, Settings, String) {
        let mut reader = Reader::new(pairs.iter().map(|(name, value)| (name.into(), value.into())));
        let (kind, settings) = read(&mut reader);
        let (_, _, problems) = reader.finish();
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        (kind, settings, problems.join("\n"))
    }

    fn postgres_from(pairs: &[(&str, &str)]) -> (postgres::Settings, String) {
        let store = [("CLOUDSTATE_STORE", "postgres")];
        let (_, settings, problems) = read_from(&[&store[..], pairs].concat());
        let Settings::Postgres(settings) = settings else { panic!("{settings:?}") };
        (*settings, problems)
    }

    #[test]
    fn events_go_to_a_file_unless_this_is_a_pod() {
        let (kind, settings, _) = read_from(&[]);
        assert_eq!(kind, Store::Sqlite);
        assert!(matches!(settings, Settings::Sqlite(path) if path == *"cloudstate.db"));
        assert_eq!(read_from(&[("KUBERNETES_SERVICE_HOST", "10.96.0.1")]).0, Store::None);
    }

    #[test]
    fn a_store_of_other_proxies_is_refused() {
        let (_, _, problems) = read_from(&[("CLOUDSTATE_STORE", "cassandra")]);
        assert!(
            problems.contains("expected one of none, in-memory, sqlite, postgres;"),
            "{problems}"
        );
    }

    #[test]
    fn a_password_shows_nowhere() {
        let (settings, problems) = postgres_from(&[("POSTGRES_PASSWORD", "s3cret")]);
        assert_eq!(settings.password.0, "s3cret");
        assert!(!format!("{settings:?}").contains("s3cret"));
        assert_eq!(problems, "");
        let odd = std::ffi::OsString::from_vec(b"s3cret\xff".to_vec());
        let mut reader = Reader::new([("POSTGRES_PASSWORD".into(), odd)]);
        read(&mut reader);
        let (_, _, problems) = reader.finish();
        let told = problems[0].to_string();
        assert!(told.contains("POSTGRES_PASSWORD") && !told.contains("s3cret"), "{told}");
    }

    #[test]
    fn no_mode_is_weaker_than_what_was_asked_for() {
        let mode = |pairs: &[(&str, &str)]| postgres_from(pairs).0.tls.mode;
        assert_eq!(mode(&[]), TlsMode::Prefer);
        assert_eq!(mode(&[("POSTGRES_SSL", "true")]), TlsMode::Require);
        for name in TlsMode::ALL {
            assert_eq!(mode(&[("POSTGRES_SSL_MODE", name.as_str())]), name);
        }
        for (pairs, part) in [
            (&[("POSTGRES_SSL_MODE", "verify")][..], "verify-full"),
            (&[("POSTGRES_SSL_MODE", "verify-full")], "POSTGRES_SSL_ROOT_CERT"),
            (
                &[("POSTGRES_SSL_MODE", "disable"), ("POSTGRES_SSL", "true")],
                "leave POSTGRES_SSL out",
            ),
            (&[("POSTGRES_SSL_CERT", "/c.pem")], "POSTGRES_SSL_KEY"),
            (&[("POSTGRES_SSL_PASSWORD", "s3cret")], "decrypt"),
            (&[("POSTGRES_SCHEMA", "pg_mine")], "POSTGRES_SCHEMA"),
        ] {
            let (_, problems) = postgres_from(pairs);
            assert!(problems.contains(part) && !problems.contains("s3cret"), "{problems}");
        }
    }

    #[test]
    fn a_url_says_what_its_parts_would_and_leaves_the_rest_to_them() {
        let url = ("POSTGRES_URL", "postgres://anna:s3cret@db:6432/cart?sslmode=require");
        let (settings, problems) = postgres_from(&[url, ("POSTGRES_SCHEMA", "mine")]);
        assert_eq!(problems, "");
        assert_eq!((settings.host.as_str(), settings.port), ("db", 6432));
        assert_eq!((settings.database.as_str(), settings.user.as_str()), ("cart", "anna"));
        assert_eq!((settings.password.0.as_str(), settings.tls.mode), ("s3cret", TlsMode::Require));
        assert_eq!(settings.schema.as_deref(), Some("mine"));
        let rest = [("POSTGRES_URL", "postgres://db"), ("POSTGRES_PASSWORD", "s3cret")];
        let (settings, problems) = postgres_from(&rest);
        assert_eq!(problems, "");
        assert_eq!((settings.host.as_str(), settings.port), ("db", 5432));
        assert_eq!(
            (settings.user.as_str(), settings.password.0.as_str()),
            ("cloudstate", "s3cret")
        );
    }

    #[test]
    fn a_url_and_a_variable_that_contradict_each_other_are_refused_by_name() {
        let url =
            "postgres://anna:s3cret@db:6432/cart?sslmode=require&sslcert=/c.pem&sslkey=/k.pem";
        for (variable, other, same) in [
            ("POSTGRES_SERVICE", "elsewhere", "db"),
            ("POSTGRES_PORT", "5432", "6432"),
            ("POSTGRES_DATABASE", "cloudstate", "cart"),
            ("POSTGRES_USERNAME", "cloudstate", "anna"),
            ("POSTGRES_PASSWORD", "0ther", "s3cret"),
            ("POSTGRES_SSL_MODE", "disable", "require"),
            ("POSTGRES_SSL_CERT", "/other.pem", "/c.pem"),
            ("POSTGRES_SSL_KEY", "/other.pem", "/k.pem"),
        ] {
            let (_, problems) = postgres_from(&[("POSTGRES_URL", url), (variable, other)]);
            let told = format!("ConflictingKeys: POSTGRES_URL and {variable} is \"hidden\"");
            assert!(problems.contains(&told), "{problems}");
            assert!(!problems.contains("s3cret") && !problems.contains("0ther"), "{problems}");
            let (_, problems) = postgres_from(&[("POSTGRES_URL", url), (variable, same)]);
            assert_eq!(problems, "");
            // Nobody minds where the store is another one.
            assert_eq!(read_from(&[("POSTGRES_URL", url), (variable, other)]).2, "");
        }
        let lax = "postgres://db?sslmode=prefer";
        let (_, problems) = postgres_from(&[("POSTGRES_URL", lax), ("POSTGRES_SSL", "true")]);
        assert!(problems.contains("leave POSTGRES_SSL out"), "{problems}");
        let (_, problems) = postgres_from(&[("POSTGRES_URL", "postgres://me:s3cret@/x")]);
        assert!(problems.contains("POSTGRES_URL is \"hidden\""), "{problems}");
        assert!(!problems.contains("s3cret"), "{problems}");
    }
}
