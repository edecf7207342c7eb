//! From one environment to a [`Config`]: each value by itself, then those that depend on each other.

use std::{
    net::IpAddr,
    num::{NonZeroU16, NonZeroU64},
    path::{Path, PathBuf},
    time::Duration,
};

use api::{
    contract::{self, Store, env, port},
    environment::{Kind, Problem, Reader, Refusal, Size, size, value},
};

use super::{
    Config, Contact, Drain, HangAction, Limits, OnReturn, Pod, Ports, ProxyKind, Restart, Startup,
    Supervise, Surroundings, UserFunction, Wait,
    names::{
        ADMIN_BIND, ADMIN_PORT, ADMIN_TOKEN_FILE, ALLOW_PLAINTEXT_STORE, BACKOFF_FACTOR,
        BACKOFF_INITIAL, BACKOFF_JITTER, BACKOFF_MAX, BUDGET, BUDGET_WINDOW, CLASSPATH, COMMAND,
        CONFIG, DRAIN_KILL_MARGIN, DRAIN_PRE_DELAY, HANG_ACTION, HANG_AFTER, JAVA, KIND,
        LOG_FORMAT, LOG_LEVEL, MAIN_CLASS, MEM_CODE_CACHE, MEM_DIRECT, MEM_METASPACE, MEM_THREADS,
        MEMORY_POLICY, MERGE_METRICS, NOFILE, OOM_STEP, RESTART, STABLE_AFTER, START_TIMEOUT,
        STARTUP_REQUIRE, STUCK_AFTER, UF_DOWN_AFTER, UF_GIVE_UP, UF_INTERVAL, UF_ON_RETURN,
        UF_PROBE, UF_REQUIRED, UF_TIMEOUT, UF_WAIT, WORKDIR, ZERO_ON_TERM,
    },
};
use crate::{
    jvm::{Jvm, Policy, Regions},
    log::Format,
    user_function::{Cadence, Probe},
};

/// A JVM's own stop has phases that take up to 75 s together; below this some of them are cut.
const GRACE_OF_A_JVM: Duration = Duration::from_secs(45);

pub(super) fn config(
    reader: &mut Reader,
    termination_path: Option<PathBuf>,
    surroundings: &Surroundings,
) -> Config {
    reader.read_optional(CONFIG, value::absolute_path);
    if reader.is_set(env::TERMINATION_PATH) && termination_path.is_some() {
        reader.read(env::TERMINATION_PATH, contract::TERMINATION_PATH, value::absolute_path);
    }
    let ports = ports(reader);
    let user_function_host = reader.read(env::USER_FUNCTION_HOST, "127.0.0.1", value::text);
    let pod = Pod {
        name: reader.read_optional(env::POD_NAME, value::text),
        namespace: reader.read_optional(env::POD_NAMESPACE, value::text),
        ip: reader.read_optional(env::POD_IP, value::address),
    };
    let kind = kind(reader, surroundings);
    let config = Config {
        admin_bind: reader.read(ADMIN_BIND, everywhere(pod.ip), value::address),
        admin_token_file: reader.read_optional(ADMIN_TOKEN_FILE, value::absolute_path),
        merge_metrics: reader
            .read(MERGE_METRICS, "off", |text| one_of(text, &[("off", false), ("proxy", true)])),
        memory_limit: reader.read_optional(env::MEMORY_LIMIT, value::bytes),
        store: reader.read_optional(env::STORE, value::store),
        command: reader.read(COMMAND, contract::PROXY_COMMAND, value::absolute_path),
        workdir: workdir(reader, &kind, surroundings),
        supervise: supervise(reader, &kind),
        drain: drain(reader, &kind),
        user_function: user_function(reader, &kind),
        startup: reader.read(STARTUP_REQUIRE, "launcher", |text| {
            one_of(text, &[("launcher", Startup::Launcher), ("proxy", Startup::Proxy)])
        }),
        limits: Limits {
            files: reader.read(NOFILE, "max", files),
            oom_score_step: reader.read(OOM_STEP, "100", value::count),
        },
        kind,
        log_level: reader.read(LOG_LEVEL, "info", value::level),
        log_format: reader.read(LOG_FORMAT, "json", |text| {
            one_of(text, &[("json", Format::Json), ("text", Format::Text)])
        }),
        ports,
        user_function_host,
        pod,
        termination_path,
    };
    port_conflicts(&config, reader);
    deadlock(&config, reader);
    store(reader, &config);
    config
}

pub(super) fn contact(reader: &mut Reader) -> Contact {
    let ip = reader.read_optional(env::POD_IP, value::address);
    Contact {
        bind: reader.read(ADMIN_BIND, everywhere(ip), value::address),
        port: reader.read_port(ADMIN_PORT, port::ADMIN),
        token_file: reader.read_optional(ADMIN_TOKEN_FILE, value::absolute_path),
        grace: reader.read(env::TERMINATION_GRACE_PERIOD_SECONDS, "30", value::seconds),
    }
}

/// A pod with an IPv6 address may have no other; `::` listens on both kinds.
fn everywhere(pod: Option<IpAddr>) -> &'static str {
    if matches!(pod, Some(IpAddr::V6(_))) { "::" } else { "0.0.0.0" }
}

fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, Refusal> {
    let found = words.iter().find(|(word, _)| *word == text);
    found
        .map(|(_, meaning)| *meaning)
        .ok_or_else(|| value::unknown(&words.iter().map(|(word, _)| *word).collect::<Vec<_>>()))
}

/// How many files the proxy may have open.
fn files(text: &str) -> Result<u64, Refusal> {
    /// What nobody needs more of; some programs keep a table of all that there may be.
    const MAX: u64 = 1 << 20;
    const MIN: u64 = 64;
    let expected = || format!("max, or a whole number from {MIN} to {MAX}");
    match text {
        "max" => Ok(MAX),
        _ => match value::bytes(text).map(NonZeroU64::get) {
            Ok(files) if (MIN..=MAX).contains(&files) => Ok(files),
            Ok(_) => Err(Refusal { kind: Kind::OutOfRange, expected: expected() }),
            Err(Refusal { kind, .. }) => Err(Refusal { kind, expected: expected() }),
        },
    }
}

fn within(text: &str, min: f64, max: f64) -> Result<f64, Refusal> {
    let expected = || format!("a plain number from {min} to {max}");
    match value::decimal(text) {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err(Refusal { kind: Kind::OutOfRange, expected: expected() }),
    }
}

fn kind(reader: &mut Reader, surroundings: &Surroundings) -> ProxyKind {
    #[derive(Clone, Copy)]
    enum Named {
        Auto,
        Native,
        Jvm,
    }
    let java_home = reader.read_optional(env::JAVA_HOME, value::absolute_path);
    let java = java_home.map_or_else(|| "/usr/bin/java".into(), |home| home.join("bin/java"));
    let bytes = |reader: &mut Reader, name| reader.read_optional(name, size).map(Size::bytes);
    let named = reader.read(KIND, "auto", |text| {
        one_of(text, &[("auto", Named::Auto), ("native", Named::Native), ("jvm", Named::Jvm)])
    });
    let jvm = Jvm {
        java: reader.read(JAVA, &java.display().to_string(), value::absolute_path),
        class_path: reader.read(CLASSPATH, "/opt/proxy/lib/*", value::text),
        main_class: reader.read(MAIN_CLASS, "io.cloudstate.proxy.CloudStateProxyMain", value::text),
        regions: Regions {
            direct: bytes(reader, MEM_DIRECT),
            code_cache: bytes(reader, MEM_CODE_CACHE),
            metaspace: bytes(reader, MEM_METASPACE),
            threads: reader.read_optional(MEM_THREADS, value::positive).map(u64::from),
        },
        policy: reader.read(MEMORY_POLICY, "warn", |text| {
            one_of(
                text,
                &[("strict", Policy::Strict), ("warn", Policy::Warn), ("off", Policy::Off)],
            )
        }),
    };
    // What an image holds says what it is for.
    let has_native = (surroundings.exists)(Path::new(contract::PROXY_COMMAND));
    let has_jars = (surroundings.exists)(Path::new(jvm.class_path.trim_end_matches("/*")));
    let is_jvm = match named {
        Named::Native => false,
        Named::Jvm => true,
        Named::Auto => !has_native && has_jars && !reader.is_set(COMMAND),
    };
    reader.note(KIND, if is_jvm { "jvm" } else { "native" });
    if is_jvm { ProxyKind::Jvm(jvm) } else { ProxyKind::Native }
}

/// The folder that the proxy runs in.
fn workdir(reader: &mut Reader, kind: &ProxyKind, surroundings: &Surroundings) -> PathBuf {
    /// Where the original's images have their proxy.
    const OF_JARS: &str = "/opt/docker";
    // Of something else than a folder there is no such path.
    let is_there = |folder: &Path| (surroundings.exists)(&folder.join("."));
    let has_jars = matches!(kind, ProxyKind::Jvm(_)) && is_there(Path::new(OF_JARS));
    let default = if has_jars { OF_JARS } else { "/" };
    let folder = reader.read(WORKDIR, default, value::absolute_path);
    if reader.is_set(WORKDIR) && reader.is_sound(WORKDIR) && !is_there(&folder) {
        reader.add(Problem {
            kind: Kind::FileNotFound,
            variable: WORKDIR.to_owned(),
            value: folder.display().to_string(),
            expected: "a folder that exists".to_owned(),
            hint: format!("name one, or leave it out for the default {default}"),
        });
    }
    folder
}

fn ports(reader: &mut Reader) -> Ports {
    let fallback = reader.read_optional_port(env::PORT);
    let user_function = reader.read_optional_port(env::USER_FUNCTION_PORT);
    if let (Some(fallback), Some(port)) = (fallback, user_function)
        && fallback != port
    {
        let (fallback_name, name) = (env::PORT, env::USER_FUNCTION_PORT);
        reader.warn(format!("{name} is {port} and {fallback_name} is {fallback}: {name} is used"));
    }
    let user_default = NonZeroU16::new(port::USER_DEFAULT).expect("a port is not zero");
    let user_function = user_function.or(fallback).unwrap_or(user_default);
    reader.note(env::USER_FUNCTION_PORT, user_function.to_string());
    Ports {
        traffic: reader.read_port(env::HTTP_PORT, port::PROXY),
        user_function,
        metrics: reader.read_port(env::METRICS_PORT, port::METRICS),
        remoting: reader.read_port(env::REMOTING_PORT, port::REMOTING),
        management: reader.read_port(env::MANAGEMENT_PORT, port::MANAGEMENT),
        admin: reader.read_port(ADMIN_PORT, port::ADMIN),
    }
}

fn supervise(reader: &mut Reader, kind: &ProxyKind) -> Supervise {
    // Ours looks for a way by itself, and may wait for another proxy's entities as long as that lives.
    let stuck_default = if matches!(kind, ProxyKind::Jvm(_)) { "10m" } else { "0s" };
    let supervise = Supervise {
        restart: reader.read(RESTART, "always", |text| {
            one_of(
                text,
                &[Restart::Always, Restart::OnFailure, Restart::Never].map(|it| (it.as_str(), it)),
            )
        }),
        backoff_factor: reader.read(BACKOFF_FACTOR, "2.0", |text| within(text, 1.0, 10.0)),
        backoff_jitter: reader.read(BACKOFF_JITTER, "0.2", |text| within(text, 0.0, 1.0)),
        hang_action: reader.read(HANG_ACTION, "restart", |text| {
            one_of(text, &[("restart", HangAction::Restart), ("log", HangAction::Log)])
        }),
        backoff_initial: reader.read(BACKOFF_INITIAL, "500ms", value::pause),
        backoff_max: reader.read(BACKOFF_MAX, "30s", value::pause),
        stable_after: reader.read(STABLE_AFTER, "60s", value::duration),
        budget: reader.read(BUDGET, "5", value::count),
        budget_window: reader.read(BUDGET_WINDOW, "10m", value::pause),
        start_timeout: reader.read(START_TIMEOUT, "120s", value::duration),
        hang_after: reader.read(HANG_AFTER, "20s", value::duration),
        stuck_after: reader.read(STUCK_AFTER, stuck_default, value::duration),
    };
    let sound = reader.is_sound(BACKOFF_INITIAL) && reader.is_sound(BACKOFF_MAX);
    if sound && supervise.backoff_initial > supervise.backoff_max {
        reader.add(Problem {
            kind: Kind::RangeConflict,
            variable: BACKOFF_INITIAL.to_owned(),
            value: format!("{:?}", supervise.backoff_initial),
            expected: format!("at most {BACKOFF_MAX}, which is {:?}", supervise.backoff_max),
            hint: "lower the first or raise the second".to_owned(),
        });
    }
    supervise
}

fn user_function(reader: &mut Reader, kind: &ProxyKind) -> UserFunction {
    let on_return_default = match kind {
        ProxyKind::Native => "ignore",
        ProxyKind::Jvm(_) => "restart-proxy",
    };
    UserFunction {
        wait: reader.read(UF_WAIT, "parallel", |text| {
            let words = [("parallel", Wait::Parallel), ("gate", Wait::Gate), ("none", Wait::Never)];
            one_of(text, &words)
        }),
        probe: reader.read(UF_PROBE, "tcp", |text| {
            one_of(text, &Probe::ALL.map(|probe| (probe.as_str(), probe)))
        }),
        cadence: Cadence {
            interval: reader.read(UF_INTERVAL, "250ms", value::pause),
            timeout: reader.read(UF_TIMEOUT, "500ms", value::pause),
            down_after: reader.read(UF_DOWN_AFTER, "3", value::positive),
        },
        give_up_after: reader.read(UF_GIVE_UP, "0s", value::duration),
        required: reader.read(UF_REQUIRED, "true", value::switch),
        on_return: reader.read(UF_ON_RETURN, on_return_default, |text| {
            one_of(text, &[("ignore", OnReturn::Ignore), ("restart-proxy", OnReturn::RestartProxy)])
        }),
    }
}

fn drain(reader: &mut Reader, kind: &ProxyKind) -> Drain {
    /// Below this there is no time to give away.
    const GRACE_FOR_PRE_DELAY: Duration = Duration::from_secs(4);

    let mut drain = Drain {
        grace: reader.read(env::TERMINATION_GRACE_PERIOD_SECONDS, "30", value::seconds),
        pre_delay: reader.read(DRAIN_PRE_DELAY, "5s", value::duration),
        kill_margin: reader.read(DRAIN_KILL_MARGIN, "2s", kill_margin),
        zero_on_term: reader.read(ZERO_ON_TERM, "true", value::switch),
        is_told: matches!(kind, ProxyKind::Native),
    };
    let pre_delay_max =
        if drain.grace < GRACE_FOR_PRE_DELAY { Duration::ZERO } else { drain.grace / 2 };
    // Only a value that somebody chose can be wrong; the default gives way to a short grace period.
    if drain.pre_delay > pre_delay_max && !reader.is_set(DRAIN_PRE_DELAY) {
        drain.pre_delay = pre_delay_max;
        reader.note(DRAIN_PRE_DELAY, format!("{pre_delay_max:?}"));
    }
    if drain.pre_delay > pre_delay_max
        && reader.is_sound(env::TERMINATION_GRACE_PERIOD_SECONDS)
        && reader.is_sound(DRAIN_PRE_DELAY)
    {
        reader.add(Problem {
            kind: Kind::RangeConflict,
            variable: DRAIN_PRE_DELAY.to_owned(),
            value: format!("{:?}", drain.pre_delay),
            expected: format!(
                "at most {pre_delay_max:?}: half of {}, which is {:?}, and nothing below {:?}",
                env::TERMINATION_GRACE_PERIOD_SECONDS,
                drain.grace,
                GRACE_FOR_PRE_DELAY,
            ),
            hint: "lower the delay, or raise terminationGracePeriodSeconds of the pod".to_owned(),
        });
    }
    if matches!(kind, ProxyKind::Jvm(_)) && drain.grace < GRACE_OF_A_JVM {
        reader.warn(format!(
            "{} is {:?}: a proxy made of jars may need {GRACE_OF_A_JVM:?} to hand its entities over",
            env::TERMINATION_GRACE_PERIOD_SECONDS,
            drain.grace
        ));
    }
    drain
}

/// Burying what was killed and last words take their time, too.
fn kill_margin(text: &str) -> Result<Duration, Refusal> {
    const MIN: Duration = Duration::from_millis(500);
    let margin = value::duration(text)?;
    if margin < MIN {
        return Err(Refusal {
            kind: Kind::OutOfRange,
            expected: format!("at least {MIN:?}, for burying what was killed"),
        });
    }
    Ok(margin)
}

/// All containers of a pod share one network, so each port can be had once.
fn port_conflicts(config: &Config, reader: &mut Reader) {
    let ports = &config.ports;
    let mut used = vec![
        (env::HTTP_PORT, ports.traffic),
        (env::METRICS_PORT, ports.metrics),
        (env::REMOTING_PORT, ports.remoting),
        (env::MANAGEMENT_PORT, ports.management),
        (ADMIN_PORT, ports.admin),
    ];
    if is_loopback(&config.user_function_host) {
        used.push((env::USER_FUNCTION_PORT, ports.user_function));
    } else {
        reader.warn(format!(
            "{} is {:?}, which is not this pod; only meant for development",
            env::USER_FUNCTION_HOST,
            config.user_function_host
        ));
    }
    used.retain(|(variable, _)| reader.is_sound(variable));
    for (index, (second, port)) in used.iter().enumerate() {
        for (first, _) in used.iter().take(index).filter(|(_, earlier)| earlier == port) {
            reader.add(Problem {
                kind: Kind::PortConflict,
                variable: format!("{first} and {second}"),
                value: port.to_string(),
                expected: "two different ports".to_owned(),
                hint: "give one of them another port".to_owned(),
            });
        }
    }
}

/// A start that waits for a proxy that waits for a user function that Kubernetes holds back until the start.
fn deadlock(config: &Config, reader: &mut Reader) {
    if config.startup == Startup::Proxy && config.user_function.wait == Wait::Gate {
        reader.add(Problem {
            kind: Kind::StartupDeadlock,
            variable: format!("{STARTUP_REQUIRE} and {UF_WAIT}"),
            value: "proxy and gate".to_owned(),
            expected: "a start that does not wait for the user function: as an init container the sidecar comes first"
                .to_owned(),
            hint: "set one of them to its default, launcher or parallel".to_owned(),
        });
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// What the proxy checks itself when it is ours, and what jars would stumble over without a word.
fn store(reader: &mut Reader, config: &Config) {
    let secret = |text: &str| Ok(text.to_owned());
    // Here for the service link alone: a Service named `postgres` sets it.
    reader.read_port(env::POSTGRES_PORT, 5432);
    let password = reader.read_secret(env::POSTGRES_PASSWORD, secret);
    let url = reader.read_secret(env::POSTGRES_URL, secret);
    let allow_plaintext = reader.read(ALLOW_PLAINTEXT_STORE, "false", value::switch);
    let ProxyKind::Jvm(jvm) = &config.kind else { return };
    for pair in [
        [env::SELECTOR_LABEL, env::SELECTOR_LABEL_VALUE],
        [env::CASSANDRA_USERNAME, env::CASSANDRA_PASSWORD],
    ] {
        let set = pair.map(|name| {
            if name == env::CASSANDRA_PASSWORD {
                reader.read_secret(name, secret).is_some()
            } else {
                reader.read_optional(name, value::text).is_some()
            }
        });
        match set {
            [true, false] => required(reader, pair[1], &format!("{} is set", pair[0])),
            [false, true] => required(reader, pair[0], &format!("{} is set", pair[1])),
            _ => {}
        }
    }
    reader.read_optional(env::REQUIRED_CONTACT_POINT_NR, value::positive);
    reader.read_optional(env::AUTOSCALER_ENABLED, value::switch);
    reader.read_optional(env::CASSANDRA_CONTACT_POINTS, value::text);
    reader.read_optional(env::CASSANDRA_KEYSPACE, value::text);
    let [gcp, spanner] = [env::GCP_PROJECT, env::SPANNER_INSTANCE]
        .map(|name| (name, reader.read_optional(name, value::text)));
    if jvm.main_class.contains("Spanner") {
        let because = format!("the main class is {}", jvm.main_class);
        for (name, _) in [gcp, spanner].iter().filter(|(_, value)| value.is_none()) {
            required(reader, name, &because);
        }
    }
    if config.store == Some(Store::Postgres) && password.is_none() {
        reader.warn(format!(
            "{} is not set: a proxy made of jars then uses the password that its image brings",
            env::POSTGRES_PASSWORD
        ));
    }
    if url.is_some() {
        reader.warn(format!(
            "{} is set, and a proxy made of jars does not read it",
            env::POSTGRES_URL
        ));
    }
    let ssl = reader.read_optional(env::POSTGRES_SSL, value::switch) == Some(true);
    if ssl && !allow_plaintext {
        reader.add(Problem {
            kind: Kind::UnsupportedByKind,
            variable: env::POSTGRES_SSL.to_owned(),
            value: "true".to_owned(),
            expected:
                "nothing: a proxy made of jars does not read it, and would talk in plain text"
                    .to_owned(),
            hint:
                "leave it out, and set security.allow_plaintext_store=true if that is what you want"
                    .to_owned(),
        });
    }
}

fn required(reader: &mut Reader, variable: &str, because: &str) {
    if !reader.is_sound(variable) {
        return;
    }
    reader.add(Problem {
        kind: Kind::MissingRequired,
        variable: variable.to_owned(),
        value: String::new(),
        expected: format!("a value, since {because}"),
        hint: "set it".to_owned(),
    });
}

/// What jars expect as properties although the operator of the original gave it as variables.
pub(super) fn properties(reader: &mut Reader, config: &Config) -> Vec<String> {
    if matches!(config.kind, ProxyKind::Native) {
        return Vec::new();
    }
    let window = reader.read_optional(env::REQUEST_RATE_WINDOW, value::text);
    reader.read_port(env::CASSANDRA_PORT, 9042);
    let port = reader.shown(env::CASSANDRA_PORT);
    let of_port = ["cassandra-journal", "cassandra-snapshot-store", "cassandra-read-journal"];
    let ports = port.iter().flat_map(|port| of_port.map(|of| format!("-D{of}.port={port}")));
    let window =
        window.map(|window| format!("-Dcloudstate.proxy.autoscaler.request-rate.window={window}"));
    window.into_iter().chain(ports).collect()
}
