//! The only reader of the environment: everything else receives a [`Config`]
//! (`docs/environment.md`).

mod show;
mod store;
mod url;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use api::{
    contract::{env, port},
    environment::{Kind, Problems, Reader, Reading, Refusal, size, value},
};

pub use self::show::{json, problems, table};
use crate::{budget, entity, journal, serve, spec::Terms, user_function};

const PROTOCOL_CHECK: &str = "CLOUDSTATE_PROXY_PROTOCOL_COMPATIBILITY_CHECK";
const PASSIVATION_TIMEOUT: &str = "CLOUDSTATE_PROXY_PASSIVATION_TIMEOUT";
const MAX_IN_FLIGHT: &str = "CLOUDSTATE_PROXY_MAX_IN_FLIGHT";
const COMMAND_TIMEOUT: &str = "CLOUDSTATE_PROXY_COMMAND_TIMEOUT";
const MAX_REQUEST_SIZE: &str = "CLOUDSTATE_PROXY_MAX_REQUEST_SIZE";
const MAX_RESPONSE_SIZE: &str = "CLOUDSTATE_PROXY_MAX_RESPONSE_SIZE";
const MAX_CONNECTION_AGE: &str = "CLOUDSTATE_PROXY_MAX_CONNECTION_AGE";
const MAX_CONNECTION_CALLS: &str = "CLOUDSTATE_PROXY_MAX_CONNECTION_CALLS";
const REFLECTION: &str = "CLOUDSTATE_PROXY_REFLECTION";
const LOG_LEVEL: &str = "CLOUDSTATE_PROXY_LOG_LEVEL";
const BIND: &str = "CLOUDSTATE_PROXY_BIND";

/// Everything that the proxy can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where callers come in.
    pub listen: SocketAddr,
    /// Where health is asked for.
    pub management: SocketAddr,
    /// Where metrics are asked for.
    pub metrics: SocketAddr,
    /// `host:port` of the user function.
    pub user_function: String,
    /// Bounds of the way there.
    pub user_function_limits: user_function::Limits,
    /// Where entities are kept.
    pub store: journal::Settings,
    /// What a user function's description is judged by.
    pub terms: Terms,
    /// What the proxy may hold for others, in bytes.
    pub memory: u64,
    /// Bounds of entities.
    pub entities: entity::Limits,
    /// Bounds of the edge.
    pub edge: serve::Limits,
    /// How long calls, and what follows from them, may take to finish once the proxy is told to leave.
    pub drain: Drain,
    /// How much is logged.
    pub log_level: &'static str,
    /// Tells two configurations apart, secrets left aside.
    pub hash: String,
}

/// How long what is under way may take to finish: as set, or less once somebody has told the proxy to leave who waits
/// for less. Clones share that.
#[derive(Clone, Debug)]
pub struct Drain {
    set: Duration,
    most: Arc<OnceLock<Duration>>,
}

impl From<Duration> for Drain {
    fn from(set: Duration) -> Self {
        Self { set, most: Arc::default() }
    }
}

impl Drain {
    /// As long as it may take by now.
    pub fn time(&self) -> Duration {
        self.most.get().map_or(self.set, |most| self.set.min(*most))
    }

    /// What entities get, once calls have had that: only those commands are left whose callers went away.
    pub fn entities(&self) -> Duration {
        self.time() / 5
    }

    /// From now on no longer than that; who said so first counts.
    pub fn limit(&self, most: Duration) {
        self.most.get_or_init(|| most);
    }
}

/// An environment that was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What is odd about the environment, and does no harm.
    pub warnings: Vec<String>,
    /// Every variable that counts, with the value in effect; secrets are masked.
    pub readings: Vec<Reading>,
}

/// The process's environment.
pub fn process_environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}

/// Reads an environment.
///
/// # Errors
/// [`Problems`] with every value that cannot be used.
pub fn load(environment: Vec<(OsString, OsString)>) -> Result<Loaded, Problems> {
    let mut reader = Reader::new(environment);
    let mut config = read(&mut reader);
    // What nobody reads although it looks like ours is told of.
    reader.warn_of_unknown(env::PROXY_PREFIX);
    let readings = reader.readings();
    config.hash = show::hash(&readings);
    let (_rest, warnings, problems) = reader.finish();
    if problems.is_empty() {
        Ok(Loaded { config, warnings, readings })
    } else {
        Err(Problems(problems))
    }
}

/// The schema for our tables in Postgres, whatever else the environment says.
///
/// # Errors
/// [`Problems`] with the name that cannot be one.
pub fn postgres_schema(environment: Vec<(OsString, OsString)>) -> Result<Option<String>, Problems> {
    let mut reader = Reader::new(environment);
    let schema = reader.read_optional(env::POSTGRES_SCHEMA, store::schema);
    let (_rest, _warnings, problems) = reader.finish();
    if problems.is_empty() { Ok(schema) } else { Err(Problems(problems)) }
}

/// The names of all variables that are looked at: what contract and documentation are held to.
pub fn variables() -> BTreeSet<String> {
    let mut reader = Reader::new(Vec::new());
    read(&mut reader);
    reader.asked()
}

fn read(reader: &mut Reader) -> Config {
    let bind = reader.read(BIND, "0.0.0.0", value::address);
    let user_function_host = reader.read(env::USER_FUNCTION_HOST, "127.0.0.1", value::text);
    let user_function_port = reader.read_port(env::USER_FUNCTION_PORT, port::USER_DEFAULT);
    let command = reader.read(COMMAND_TIMEOUT, "60s", value::pause);
    let (kind, store) = store::read(reader);
    Config {
        store,
        listen: (bind, reader.read_port(env::HTTP_PORT, port::PROXY).get()).into(),
        management: (bind, reader.read_port(env::MANAGEMENT_PORT, port::MANAGEMENT).get()).into(),
        metrics: (bind, reader.read_port(env::METRICS_PORT, port::METRICS).get()).into(),
        user_function: format!("{user_function_host}:{user_function_port}"),
        user_function_limits: user_function::Limits::default(),
        terms: Terms {
            store: kind,
            stateful_service: reader.read_optional(env::SELECTOR_LABEL_VALUE, value::text),
            protocol_check: reader.read(PROTOCOL_CHECK, "true", value::switch),
        },
        memory: read_memory(reader),
        entities: entity::Limits {
            in_flight: reader.read(MAX_IN_FLIGHT, "32", value::limit),
            passivation: reader.read(PASSIVATION_TIMEOUT, "30s", value::pause),
            command,
            ..entity::Limits::default()
        },
        edge: serve::Limits {
            call: command,
            request_size: reader.read(MAX_REQUEST_SIZE, "4194304", value::message_size),
            response_size: reader.read(MAX_RESPONSE_SIZE, "4194304", value::message_size),
            reflection: reader.read(REFLECTION, "true", value::switch),
            connection_calls: reader.read(MAX_CONNECTION_CALLS, "256", calls),
            connection_age: reader.read(MAX_CONNECTION_AGE, "0s", age),
        },
        drain: reader.read(env::GRACEFUL_TERMINATION_TIMEOUT, "10s", value::pause).into(),
        log_level: reader.read(LOG_LEVEL, "info", value::level),
        hash: String::new(),
    }
}

/// Calls on one connection.
fn calls(text: &str) -> Result<u32, Refusal> {
    // A limit is at most a thousand.
    Ok(u32::try_from(value::limit(text)?).unwrap_or(u32::MAX))
}

/// The age of connections; below a second clients would do little else than connect.
fn age(text: &str) -> Result<Option<Duration>, Refusal> {
    match value::duration(text)? {
        Duration::ZERO => Ok(None),
        age if age < Duration::from_secs(1) => {
            let expected = "at least 1s, or 0s for ever".to_owned();
            Err(Refusal { kind: Kind::OutOfRange, expected })
        }
        age => Ok(Some(age)),
    }
}

/// The memory budget: as it was said, else as much as suits the container's limit.
fn read_memory(reader: &mut Reader) -> u64 {
    let said = reader.read_optional(env::SIDECAR_JVM_MEMORY, size);
    let limit = reader.read_optional(env::MEMORY_LIMIT, value::bytes);
    match (said, limit) {
        (Some(said), _) => said.bytes(),
        (None, Some(limit)) => budget::of_limit(limit.get()),
        (None, None) => budget::DEFAULT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(pairs: &[(&str, &str)]) -> Result<Loaded, Problems> {
        load(pairs.iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    fn load_from(pairs: &[(&str, &str)]) -> Result<(Config, Vec<String>), Problems> {
        loaded(pairs).map(|loaded| (loaded.config, loaded.warnings))
    }

    #[test]
    fn nothing_set_gives_the_defaults_of_the_contract() {
        let (config, warnings) = load_from(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:8013");
        assert_eq!(config.management.to_string(), "0.0.0.0:8558");
        assert_eq!(config.metrics.to_string(), "0.0.0.0:9090");
        assert_eq!(config.user_function, "127.0.0.1:8080");
        assert_eq!(config.terms.store, api::contract::Store::Sqlite);
        assert!(config.terms.protocol_check);
        assert_eq!(warnings, Vec::<String>::new());
    }

    #[test]
    fn every_problem_is_told_with_its_variable_and_value() {
        let problems = load_from(&[
            ("HTTP_PORT", "eighty"),
            ("CLOUDSTATE_STORE", "redis"),
            ("CLOUDSTATE_PROXY_PASSIVATION_TIMEOUT", "30"),
            ("CLOUDSTATE_PROXY_MAX_IN_FLIGHT", "0"),
        ])
        .unwrap_err()
        .to_string();
        for part in [
            "HTTP_PORT is \"eighty\"",
            "CLOUDSTATE_STORE is \"redis\"",
            "none, in-memory",
            "is \"30\"",
            "CLOUDSTATE_PROXY_MAX_IN_FLIGHT is \"0\"",
        ] {
            assert!(problems.contains(part), "{part} is missing in {problems}");
        }
    }

    #[test]
    fn the_memory_budget_is_what_was_said_or_half_of_the_limit() {
        let (said, limit) = ("CLOUDSTATE_SIDECAR_JVM_MEMORY", "MEMORY_LIMIT");
        let memory = |pairs: &[(&str, &str)]| load_from(pairs).unwrap().0.memory;
        assert_eq!(memory(&[]), 256 << 20);
        assert_eq!(memory(&[(limit, "134217728")]), 64 << 20);
        assert_eq!(memory(&[(limit, "134217728"), (said, "96m")]), 96 << 20);
        let problems = load_from(&[(said, "64MB")]).unwrap_err().to_string();
        assert!(problems.contains("CLOUDSTATE_SIDECAR_JVM_MEMORY is \"64MB\""), "{problems}");
    }

    #[test]
    fn calls_may_finish_for_as_long_as_it_is_said() {
        let drain = |pairs: &[(&str, &str)]| load_from(pairs).unwrap().0.drain;
        assert_eq!(drain(&[]).time(), Duration::from_secs(10));
        let name = "CLOUDSTATE_PROXY_GRACEFUL_TERMINATION_TIMEOUT";
        let long = drain(&[(name, "42s")]);
        assert_eq!(long.time(), Duration::from_secs(42));
        let short = drain(&[(name, "1s")]);
        for drain in [&long, &short] {
            drain.limit(Duration::from_secs(4));
        }
        assert_eq!(long.clone().time(), Duration::from_secs(4));
        assert_eq!(short.time(), Duration::from_secs(1), "no longer than was set");
    }

    #[test]
    fn connections_carry_as_much_and_get_as_old_as_it_is_said() {
        let name = "CLOUDSTATE_PROXY_MAX_CONNECTION_CALLS";
        let calls = |pairs: &[(&str, &str)]| load_from(pairs).map(|it| it.0.edge.connection_calls);
        assert_eq!(calls(&[]), Ok(serve::connections::CALLS_MAX));
        assert_eq!(calls(&[(name, "1000")]), Ok(1_000));
        assert!(calls(&[(name, "0")]).unwrap_err().to_string().contains(name));
        let name = "CLOUDSTATE_PROXY_MAX_CONNECTION_AGE";
        let age = |pairs: &[(&str, &str)]| load_from(pairs).map(|it| it.0.edge.connection_age);
        assert_eq!(age(&[]), Ok(None));
        assert_eq!(age(&[(name, "0s")]), Ok(None));
        assert_eq!(age(&[(name, "5m")]), Ok(Some(Duration::from_mins(5))));
        let problems = age(&[(name, "999ms")]).unwrap_err().to_string();
        assert!(problems.contains("at least 1s, or 0s for ever"), "{problems}");
    }

    #[test]
    fn a_typing_error_in_a_name_is_told() {
        let (_, warnings) = load_from(&[("CLOUDSTATE_PROXY_PASSIVATION", "30s")]).unwrap();
        assert!(warnings[0].starts_with("CLOUDSTATE_PROXY_PASSIVATION is not a known setting"));
    }

    #[test]
    fn settings_show_with_their_source_and_without_secrets() {
        let loaded = loaded(&[
            ("POSTGRES_URL", "postgres://anna:s3cret@db/cart"),
            ("HTTP_PORT", "9000"),
            ("CLOUDSTATE_PROXY_BIND", "127.0.0.1"),
        ]);
        let readings = loaded.unwrap().readings;
        let table = table(&readings);
        let row = |name: &str| {
            let found = table.lines().find(|line| line.starts_with(&format!("{name} ")));
            found.unwrap().split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(row("HTTP_PORT"), "9000 environment");
        assert_eq!(row("METRICS_PORT"), "9090 default");
        assert_eq!(row("MEMORY_LIMIT"), "- default");
        assert_eq!(row("POSTGRES_URL"), "postgres://anna:***@db/cart environment");
        assert_eq!(row("POSTGRES_USERNAME"), "anna POSTGRES_URL");
        assert_eq!(row("POSTGRES_PASSWORD"), "*** POSTGRES_URL");
        assert_eq!(row("POSTGRES_PORT"), "5432 default");
        let json = json(&readings);
        assert_eq!(json["POSTGRES_DATABASE"]["value"], "cart");
        assert_eq!(json["POSTGRES_DATABASE"]["source"], "POSTGRES_URL");
        assert!(!table.contains("s3cret") && !json.to_string().contains("s3cret"));
    }

    #[test]
    fn the_hash_tells_settings_apart_and_no_secrets() {
        let hash = |pairs: &[(&str, &str)]| load_from(pairs).unwrap().0.hash;
        let plain = hash(&[]);
        assert_eq!(plain.len(), 16);
        assert_eq!(plain, hash(&[("HTTP_PORT", "8013"), ("ELSEWHERE", "x")]));
        assert_ne!(plain, hash(&[("HTTP_PORT", "8014")]));
        let password = |password| hash(&[("POSTGRES_PASSWORD", password)]);
        assert_eq!(password("one"), password("two"));
    }
}
