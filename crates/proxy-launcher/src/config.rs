//! The only reader of the environment: everything else receives a [`Config`].
//!
//! Every variable stays the string that it is until a typed value is made of it, so a password `007`
//! remains one. All problems are reported together. What is not ours goes on to the proxy untouched,
//! also when it is not UTF-8.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::{NonZeroU16, NonZeroU64},
    path::{Path, PathBuf},
    time::Duration,
};

pub use api::environment::{Kind, Problem, Problems, termination_path};
use api::{
    contract::{self, Store, env, port},
    environment::{Reader, Size, size, value},
};

use crate::{
    command::{self, ProxyCommand},
    jvm::{Budget, Jvm, Policy, Regions, Wishes},
    user_function::{Cadence, Probe},
};

/// Prefix of the variables that only the launcher reads; none of them reaches the proxy.
pub const PREFIX: &str = "CLOUDSTATE_LAUNCHER_";

const COMMAND: &str = "CLOUDSTATE_LAUNCHER_COMMAND";
const ADMIN_PORT: &str = "CLOUDSTATE_LAUNCHER_ADMIN_PORT";
const ADMIN_BIND: &str = "CLOUDSTATE_LAUNCHER_ADMIN_BIND";
const BACKOFF_INITIAL: &str = "CLOUDSTATE_LAUNCHER_BACKOFF_INITIAL";
const BACKOFF_MAX: &str = "CLOUDSTATE_LAUNCHER_BACKOFF_MAX";
const STABLE_AFTER: &str = "CLOUDSTATE_LAUNCHER_STABLE_AFTER";
const BUDGET: &str = "CLOUDSTATE_LAUNCHER_BUDGET";
const BUDGET_WINDOW: &str = "CLOUDSTATE_LAUNCHER_BUDGET_WINDOW";
const START_TIMEOUT: &str = "CLOUDSTATE_LAUNCHER_START_TIMEOUT";
const HANG_AFTER: &str = "CLOUDSTATE_LAUNCHER_HANG_AFTER";
const UF_WAIT: &str = "CLOUDSTATE_LAUNCHER_UF_WAIT";
const UF_PROBE: &str = "CLOUDSTATE_LAUNCHER_UF_PROBE";
const UF_INTERVAL: &str = "CLOUDSTATE_LAUNCHER_UF_INTERVAL";
const UF_TIMEOUT: &str = "CLOUDSTATE_LAUNCHER_UF_TIMEOUT";
const UF_DOWN_AFTER: &str = "CLOUDSTATE_LAUNCHER_UF_DOWN_AFTER";
const UF_GIVE_UP: &str = "CLOUDSTATE_LAUNCHER_UF_GIVE_UP";
const UF_REQUIRED: &str = "CLOUDSTATE_LAUNCHER_UF_REQUIRED";
const UF_ON_RETURN: &str = "CLOUDSTATE_LAUNCHER_UF_ON_RETURN";
const DRAIN_PRE_DELAY: &str = "CLOUDSTATE_LAUNCHER_DRAIN_PRE_DELAY";
const DRAIN_KILL_MARGIN: &str = "CLOUDSTATE_LAUNCHER_DRAIN_KILL_MARGIN";
const LOG_LEVEL: &str = "CLOUDSTATE_LAUNCHER_LOG_LEVEL";

const KIND: &str = "CLOUDSTATE_LAUNCHER_KIND";
const JAVA: &str = "CLOUDSTATE_LAUNCHER_JAVA";
const CLASSPATH: &str = "CLOUDSTATE_LAUNCHER_CLASSPATH";
const MAIN_CLASS: &str = "CLOUDSTATE_LAUNCHER_MAIN_CLASS";
const MEMORY_POLICY: &str = "CLOUDSTATE_LAUNCHER_MEMORY_POLICY";
const MEM_DIRECT: &str = "CLOUDSTATE_LAUNCHER_MEM_DIRECT";
const MEM_CODE_CACHE: &str = "CLOUDSTATE_LAUNCHER_MEM_CODE_CACHE";
const MEM_METASPACE: &str = "CLOUDSTATE_LAUNCHER_MEM_METASPACE";
const MEM_THREADS: &str = "CLOUDSTATE_LAUNCHER_MEM_THREADS";

/// A JVM prefers it to its own command line, so the heap that was chosen would silently not be had.
const OVERRIDING: &str = "_JAVA_OPTIONS";

/// Everything that the launcher can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Ports of the pod.
    pub ports: Ports,
    /// Host that the user function listens on.
    pub user_function_host: String,
    /// Address that the probes are answered on.
    pub admin_bind: IpAddr,
    /// Which pod this is, as far as it was said.
    pub pod: Pod,
    /// Memory limit of the container in bytes.
    pub memory_limit: Option<NonZeroU64>,
    /// Kind of store behind the proxy.
    pub store: Option<Store>,
    /// What the proxy is.
    pub kind: ProxyKind,
    /// The native proxy's program.
    pub command: PathBuf,
    /// When the proxy is started again, and when no more.
    pub supervise: Supervise,
    /// How the proxy is stopped.
    pub drain: Drain,
    /// What the user function means for the proxy.
    pub user_function: UserFunction,
    /// How much is logged.
    pub log_level: &'static str,
    /// File for last words; none when the variable is set to nothing.
    pub termination_path: Option<PathBuf>,
}

/// What the proxy is.
#[derive(Clone, Debug)]
pub enum ProxyKind {
    /// Our own program.
    Native,
    /// Jars, and a JVM that runs them.
    Jvm(Jvm),
}

/// What the launcher finds around itself; everything else is in the environment.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// The container's memory limit in bytes, as the kernel enforces it. The outer `None` is not knowing,
    /// the inner one knowing that there is none.
    pub memory_limit: Option<Option<u64>>,
    /// Whether a file or folder exists.
    pub exists: fn(&Path) -> bool,
}

/// The TCP ports of the pod; no two are equal.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "contract::port describes each")]
pub struct Ports {
    pub traffic: NonZeroU16,
    pub user_function: NonZeroU16,
    pub metrics: NonZeroU16,
    pub remoting: NonZeroU16,
    pub management: NonZeroU16,
    pub admin: NonZeroU16,
}

/// The pod's own names, for the log.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Pod {
    pub name: Option<String>,
    pub namespace: Option<String>,
    pub ip: Option<IpAddr>,
}

/// When the proxy is started again after an end that nobody asked for.
#[derive(Clone, Debug)]
pub struct Supervise {
    /// Pause before the first restart; doubles with each further one.
    pub backoff_initial: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// Time in service after which the pause starts from the beginning.
    pub stable_after: Duration,
    /// How many ends within [`Self::budget_window`] are answered with a restart.
    pub budget: u32,
    /// How long an end counts.
    pub budget_window: Duration,
    /// How long a started proxy may stay silent; zero is for ever.
    pub start_timeout: Duration,
    /// How long a proxy that has answered before may be silent; zero is for ever.
    pub hang_after: Duration,
    /// Whether a proxy that does not answer is asked for what its threads do: a JVM writes that on QUIT.
    pub dump: bool,
}

/// What the user function means for the proxy.
#[derive(Clone, Debug)]
pub struct UserFunction {
    /// Whether the proxy waits for it.
    pub wait: Wait,
    /// How it is asked.
    pub probe: Probe,
    /// How often it is asked.
    pub cadence: Cadence,
    /// How long it may take to answer for the first time; zero is for ever.
    pub give_up_after: Duration,
    /// Whether calls are served only while it answers.
    pub required: bool,
    /// What to do when it comes back.
    pub on_return: OnReturn,
}

/// Whether the proxy waits for the user function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It is started at once; only readiness waits.
    Parallel,
    /// It is started once the user function answers.
    Gate,
    /// The user function is not asked at all.
    Never,
}

/// What to do when the user function comes back after it was gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReturn {
    /// Nothing: the native proxy notices by itself and asks again what it may serve.
    Ignore,
    /// Start the proxy again: one made of jars discovers once in its life.
    RestartProxy,
}

/// How the proxy is stopped.
#[derive(Clone, Debug)]
pub struct Drain {
    /// The pod's grace period.
    pub grace: Duration,
    /// How long calls are served on after readiness has gone, so that nobody is sent here any more.
    pub pre_delay: Duration,
    /// What is left of the grace period when the proxy is killed.
    pub kill_margin: Duration,
}

/// What came out of an environment.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What was odd and did no harm.
    pub warnings: Vec<String>,
    /// What is started.
    pub proxy: ProxyCommand,
    /// What a JVM is estimated to use.
    pub budget: Option<Budget>,
}

/// The process's environment.
pub fn process_environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
}

/// Reads an environment; `args` were given for the proxy.
///
/// # Errors
/// [`Problems`] with every value that cannot be used or contradicts another.
pub fn load(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    args: &[OsString],
    surroundings: &Surroundings,
) -> Result<Loaded, Problems> {
    let environment: Vec<_> = environment.into_iter().collect();
    let termination_path = termination_path(environment.iter().cloned());
    let mut reader = Reader::new(environment);

    let ports = read_ports(&mut reader);
    let user_function_host = reader.read(env::USER_FUNCTION_HOST, "127.0.0.1", value::text);
    let pod = Pod {
        name: reader.read_optional(env::POD_NAME, value::text),
        namespace: reader.read_optional(env::POD_NAMESPACE, value::text),
        ip: reader.read_optional(env::POD_IP, value::address),
    };
    // A pod with an IPv6 address may have no other; `::` listens on both kinds.
    let everywhere = match pod.ip {
        Some(IpAddr::V6(_)) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::from(Ipv4Addr::UNSPECIFIED),
    };
    let kind = read_kind(&mut reader, surroundings);
    let config = Config {
        admin_bind: reader.read(ADMIN_BIND, &everywhere.to_string(), value::address),
        memory_limit: reader.read_optional(env::MEMORY_LIMIT, value::bytes),
        store: reader.read_optional(env::STORE, value::store),
        command: reader.read(COMMAND, contract::PROXY_COMMAND, value::absolute_path),
        supervise: read_supervise(&mut reader, &kind),
        drain: read_drain(&mut reader),
        user_function: read_user_function(&mut reader, &kind),
        kind,
        log_level: reader.read(LOG_LEVEL, "info", value::level),
        ports,
        user_function_host,
        pod,
        termination_path,
    };
    check_port_conflicts(&config, &mut reader);
    let wishes = Wishes {
        memory: reader.read_optional(env::SIDECAR_JVM_MEMORY, size),
        java_opts: reader.shown(env::JAVA_OPTS),
        limit: match surroundings.memory_limit {
            Some(known) => known,
            None => config.memory_limit.map(NonZeroU64::get),
        },
    };
    if reader.shown(OVERRIDING).is_some() {
        reader.warn(format!("OverridingJavaOptions: {OVERRIDING} is set and taken away: a JVM prefers it to its arguments"));
    }
    reader.warn_of_unknown(PREFIX);

    let (rest, mut warnings, mut problems) = reader.finish();
    let environment = for_proxy(rest, &config);
    match command::build(&config, &wishes, args, environment) {
        Ok(built) if problems.is_empty() => {
            warnings.extend(built.warnings);
            Ok(Loaded { config, warnings, proxy: built.proxy, budget: built.budget })
        }
        Ok(_) => Err(Problems(problems)),
        Err(more) => {
            problems.extend(more);
            Err(Problems(problems))
        }
    }
}

fn read_kind(reader: &mut Reader, surroundings: &Surroundings) -> ProxyKind {
    const KINDS: &[&str] = &["auto", "native", "jvm"];
    let named = |text: &str| {
        KINDS.iter().find(|kind| **kind == text).copied().ok_or_else(|| value::unknown(KINDS))
    };
    let policy = |text: &str| match text {
        "strict" => Ok(Policy::Strict),
        "warn" => Ok(Policy::Warn),
        "off" => Ok(Policy::Off),
        _ => Err(value::unknown(&["strict", "warn", "off"])),
    };
    let java_home = reader.read_optional("JAVA_HOME", value::absolute_path);
    let java = java_home.map_or_else(|| "/usr/bin/java".into(), |home| home.join("bin/java"));
    let bytes = |reader: &mut Reader, name| reader.read_optional(name, size).map(Size::bytes);
    let kind = reader.read(KIND, "auto", named);
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
        policy: reader.read(MEMORY_POLICY, "warn", policy),
    };
    // What an image holds says what it is for.
    let has_native = (surroundings.exists)(Path::new(contract::PROXY_COMMAND));
    let has_jars = (surroundings.exists)(Path::new(jvm.class_path.trim_end_matches("/*")));
    match kind {
        "jvm" => ProxyKind::Jvm(jvm),
        "auto" if !has_native && has_jars && reader.shown(COMMAND).is_none() => ProxyKind::Jvm(jvm),
        _ => ProxyKind::Native,
    }
}

fn read_ports(reader: &mut Reader) -> Ports {
    let fallback = reader.read_optional_port(env::PORT);
    let user_function = reader.read_optional_port(env::USER_FUNCTION_PORT);
    if let (Some(fallback), Some(port)) = (fallback, user_function)
        && fallback != port
    {
        let (fallback_name, name) = (env::PORT, env::USER_FUNCTION_PORT);
        reader.warn(format!("{name} is {port} and {fallback_name} is {fallback}: {name} is used"));
    }
    let user_default = NonZeroU16::new(port::USER_DEFAULT).expect("a port is not zero");
    Ports {
        traffic: reader.read_port(env::HTTP_PORT, port::PROXY),
        user_function: user_function.or(fallback).unwrap_or(user_default),
        metrics: reader.read_port(env::METRICS_PORT, port::METRICS),
        remoting: reader.read_port(env::REMOTING_PORT, port::REMOTING),
        management: reader.read_port(env::MANAGEMENT_PORT, port::MANAGEMENT),
        admin: reader.read_port(ADMIN_PORT, port::ADMIN),
    }
}

fn read_supervise(reader: &mut Reader, kind: &ProxyKind) -> Supervise {
    let supervise = Supervise {
        backoff_initial: reader.read(BACKOFF_INITIAL, "500ms", value::pause),
        backoff_max: reader.read(BACKOFF_MAX, "30s", value::pause),
        stable_after: reader.read(STABLE_AFTER, "60s", value::duration),
        budget: reader.read(BUDGET, "5", value::count),
        budget_window: reader.read(BUDGET_WINDOW, "10m", value::pause),
        start_timeout: reader.read(START_TIMEOUT, "120s", value::duration),
        hang_after: reader.read(HANG_AFTER, "20s", value::duration),
        dump: matches!(kind, ProxyKind::Jvm(_)),
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

fn read_user_function(reader: &mut Reader, kind: &ProxyKind) -> UserFunction {
    let on_return_default = match kind {
        ProxyKind::Native => "ignore",
        ProxyKind::Jvm(_) => "restart-proxy",
    };
    let wait = |text: &str| match text {
        "parallel" => Ok(Wait::Parallel),
        "gate" => Ok(Wait::Gate),
        "none" => Ok(Wait::Never),
        _ => Err(value::unknown(&["parallel", "gate", "none"])),
    };
    let probe = |text: &str| {
        let found = Probe::ALL.into_iter().find(|probe| probe.as_str() == text);
        found.ok_or_else(|| value::unknown(&Probe::ALL.map(Probe::as_str)))
    };
    let on_return = |text: &str| match text {
        "ignore" => Ok(OnReturn::Ignore),
        "restart-proxy" => Ok(OnReturn::RestartProxy),
        _ => Err(value::unknown(&["ignore", "restart-proxy"])),
    };
    UserFunction {
        wait: reader.read(UF_WAIT, "parallel", wait),
        probe: reader.read(UF_PROBE, "tcp", probe),
        cadence: Cadence {
            interval: reader.read(UF_INTERVAL, "250ms", value::pause),
            timeout: reader.read(UF_TIMEOUT, "500ms", value::pause),
            down_after: reader.read(UF_DOWN_AFTER, "3", value::positive),
        },
        give_up_after: reader.read(UF_GIVE_UP, "0s", value::duration),
        required: reader.read(UF_REQUIRED, "true", value::switch),
        on_return: reader.read(UF_ON_RETURN, on_return_default, on_return),
    }
}

fn read_drain(reader: &mut Reader) -> Drain {
    /// Below this there is no time to give away.
    const GRACE_FOR_PRE_DELAY: Duration = Duration::from_secs(4);

    let mut drain = Drain {
        grace: reader.read(env::TERMINATION_GRACE_PERIOD_SECONDS, "30", value::seconds),
        pre_delay: reader.read(DRAIN_PRE_DELAY, "5s", value::duration),
        kill_margin: reader.read(DRAIN_KILL_MARGIN, "2s", value::pause),
    };
    let pre_delay_max =
        if drain.grace < GRACE_FOR_PRE_DELAY { Duration::ZERO } else { drain.grace / 2 };
    // Only a value that somebody chose can be wrong; the default gives way to a short grace period.
    if drain.pre_delay > pre_delay_max && reader.shown(DRAIN_PRE_DELAY).is_none() {
        drain.pre_delay = pre_delay_max;
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
    drain
}

/// All containers of a pod share one network, so each port can be had once.
fn check_port_conflicts(config: &Config, reader: &mut Reader) {
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

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn for_proxy(
    mut environment: BTreeMap<OsString, OsString>,
    config: &Config,
) -> BTreeMap<OsString, OsString> {
    // To a native proxy `sidecarJvmMemory` is the budget that it keeps to; to a JVM it has become a flag.
    let of_a_jvm: &[&str] = match config.kind {
        ProxyKind::Native => &[env::JAVA_OPTS, OVERRIDING],
        ProxyKind::Jvm(_) => &[env::JAVA_OPTS, OVERRIDING, env::SIDECAR_JVM_MEMORY],
    };
    environment.retain(|name, _| {
        !name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && !of_a_jvm.iter().any(|taken| name == taken)
    });
    // The proxy need not know the rule with the fallback.
    let user_port = config.ports.user_function.to_string().into();
    environment.insert(env::USER_FUNCTION_PORT.into(), user_port);
    // Always told, also when it is the default: it is how the proxy knows that somebody else already
    // waits before the stop, see [`Drain::pre_delay`].
    let grace = config.drain.grace.as_secs().to_string().into();
    environment.insert(env::TERMINATION_GRACE_PERIOD_SECONDS.into(), grace);
    environment
}

#[cfg(test)]
mod tests;
