//! The only reader of the environment: everything else receives a [`Config`].
//!
//! Every setting stays the string that it is until a typed value is made of it, so a password `007`
//! remains one. All problems are reported together. What is not ours goes on to the proxy untouched,
//! also when it is not UTF-8.

mod layers;
mod names;
mod read;
mod show;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    net::IpAddr,
    num::{NonZeroU16, NonZeroU64},
    path::{Path, PathBuf},
    time::Duration,
};

pub use api::environment::{Kind, Problem, termination_path};
use api::{
    contract::{Store, env},
    environment::{Reader, size},
};

use self::layers::Layers;
pub use self::{
    layers::{Above, Source},
    show::{Refused, Setting, json, table},
};
use crate::{
    command::{self, ProxyCommand},
    jvm::{Budget, Jvm, Wishes},
    log::Format,
    user_function::{Cadence, Probe},
};

const OVERRIDING: &str = env::OVERRIDING_JAVA_OPTIONS;

/// Everything that the launcher can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Ports of the pod.
    pub ports: Ports,
    /// Host that the user function listens on.
    pub user_function_host: String,
    /// Address that the probes are answered on.
    pub admin_bind: IpAddr,
    /// File that gets the token without which the admin port does nothing but tell; none when being in the pod
    /// is enough.
    pub admin_token_file: Option<PathBuf>,
    /// Whether the proxy's metrics follow on the launcher's.
    pub merge_metrics: bool,
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
    /// The folder that the proxy runs in.
    pub workdir: PathBuf,
    /// When the proxy is started again, and when no more.
    pub supervise: Supervise,
    /// How the proxy is stopped.
    pub drain: Drain,
    /// What the user function means for the proxy.
    pub user_function: UserFunction,
    /// What counts as the start of the sidecar.
    pub startup: Startup,
    /// What the proxy gets of the system.
    pub limits: Limits,
    /// How much is logged.
    pub log_level: &'static str,
    /// In which form.
    pub log_format: Format,
    /// File for last words; none when the variable is set to nothing.
    pub termination_path: Option<PathBuf>,
}

impl Config {
    /// The container's memory limit in bytes. What the kernel enforces counts, if that is known; without a limit
    /// there Kubernetes announces what the node has.
    pub(crate) fn limit(&self, around: &Surroundings) -> Option<u64> {
        around.memory_limit.unwrap_or_else(|| self.memory_limit.map(NonZeroU64::get))
    }
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
    /// The first bytes of a file, at most so many.
    pub read: fn(&Path, usize) -> io::Result<Vec<u8>>,
}

impl Surroundings {
    /// The file system as it is.
    pub fn of_this_process(memory_limit: Option<Option<u64>>) -> Self {
        let read = |path: &Path, max: usize| {
            let mut bytes = Vec::new();
            let max = u64::try_from(max).unwrap_or(u64::MAX);
            File::open(path)?.take(max).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        Self { memory_limit, exists: Path::exists, read }
    }
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

/// What counts as the start of the sidecar: with an init container Kubernetes holds all others back until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Startup {
    /// That the launcher runs.
    Launcher,
    /// That the proxy has answered.
    Proxy,
}

/// What the proxy gets of the system.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many files it may have open, as far as the hard limit allows.
    pub files: u64,
    /// By how much it is likelier than the launcher to be killed when memory is short.
    pub oom_score_step: u32,
}

/// After which ends the proxy is started again, apart from a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// After all that another start may mend.
    Always,
    /// The same, but not when it left with 0.
    OnFailure,
    /// After none.
    Never,
}

impl Restart {
    /// Its name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::OnFailure => "on-failure",
            Self::Never => "never",
        }
    }
}

/// What to do about a proxy that hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangAction {
    /// Start it again.
    Restart,
    /// Tell of it, and wait.
    Log,
}

/// When the proxy is started again after an end that nobody asked for.
#[derive(Clone, Debug)]
pub struct Supervise {
    /// After which ends.
    pub restart: Restart,
    /// Pause before the first restart.
    pub backoff_initial: Duration,
    /// By how much each further pause is longer than the one before; at least 1.
    pub backoff_factor: f64,
    /// Pauses differ by up to this share, so that pods that fell together do not rise together; at most 1.
    pub backoff_jitter: f64,
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
    /// What is done then.
    pub hang_action: HangAction,
    /// How long a proxy may answer that it serves no calls, although the user function is there; zero is for ever.
    pub stuck_after: Duration,
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
    /// Whether a stop that went well leaves with 0, or as a shell would count the signal that asked for it.
    pub zero_on_term: bool,
    /// Whether the proxy is told of it ahead of TERM, and tells how many calls are under way. Ours is.
    pub is_told: bool,
}

impl Drain {
    /// How long a native proxy may let calls finish: three quarters of its time between TERM and KILL, so
    /// that some is left for giving up its entities in order.
    fn calls(&self) -> Duration {
        let until_kill = self.grace.saturating_sub(self.pre_delay + self.kill_margin);
        (until_kill * 3 / 4).max(Duration::from_secs(1))
    }
}

/// What came out of all layers.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What was odd and did no harm.
    pub warnings: Vec<String>,
    /// What is started.
    pub proxy: ProxyCommand,
    /// What the proxy was made for.
    wishes: Wishes,
    /// What was given for the proxy.
    args: Vec<OsString>,
    /// What a JVM is estimated to use.
    pub budget: Option<Budget>,
    /// Every setting with its value and source, sorted by key.
    pub settings: Vec<Setting>,
    /// The names of all variables that are looked at: what contract and documentation are held to.
    pub variables: BTreeSet<String>,
}

impl Loaded {
    /// The container's memory limit in bytes, as far as it is known.
    pub fn memory_limit(&self) -> Option<u64> {
        self.wishes.limit
    }

    /// Makes what is started fit a container whose limit has changed. Nothing else changes.
    ///
    /// # Errors
    /// Every [`Problem`] with that limit; then all stays as it was.
    pub fn fit(&mut self, limit: Option<u64>) -> Result<(), Vec<Problem>> {
        let wishes = Wishes { limit, ..self.wishes.clone() };
        let environment = self.proxy.environment.clone();
        let built = command::build(&self.config, &wishes, &self.args, environment)?;
        (self.proxy, self.budget, self.wishes) = (built.proxy, built.budget, wishes);
        Ok(())
    }

    /// Lets what is started next know how long calls may finish by other settings.
    pub(crate) fn tell_time_of(&mut self, other: &Self) {
        let name = OsString::from(env::GRACEFUL_TERMINATION_TIMEOUT);
        if let Some(time) = other.proxy.environment.get(&name) {
            self.proxy.environment.insert(name, time.clone());
        }
    }
}

/// How the launcher that runs in the same container is asked.
#[derive(Clone, Debug)]
pub struct Contact {
    /// Address of its admin port, as it was bound.
    pub bind: IpAddr,
    /// Its admin port.
    pub port: NonZeroU16,
    /// Where it left a token.
    pub token_file: Option<PathBuf>,
    /// The pod's grace period.
    pub grace: Duration,
}

/// Reads how to ask the launcher that runs. Nothing is judged: that launcher may do well although the file
/// has become bad since it started.
pub fn contact(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    above: &Above,
    surroundings: &Surroundings,
) -> Contact {
    let layers = Layers::new(environment, above, surroundings);
    read::contact(&mut Reader::new(layers.environment))
}

/// The process's environment.
pub fn process_environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
}

/// Reads all layers; `args` were given for the proxy.
///
/// # Errors
/// [`Refused`] with every value that cannot be used or contradicts another.
pub fn load(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    above: &Above,
    args: &[OsString],
    surroundings: &Surroundings,
) -> Result<Loaded, Refused> {
    let Layers { environment, sources, problems: mut all } =
        Layers::new(environment, above, surroundings);
    let termination_path = termination_path(environment.clone());
    let mut reader = Reader::new(environment);
    let config = read::config(&mut reader, termination_path, surroundings);
    let wishes = Wishes {
        memory: reader.read_optional(env::SIDECAR_JVM_MEMORY, size),
        java_opts: reader.read_text(env::JAVA_OPTS),
        others: [env::JDK_JAVA_OPTIONS, env::JAVA_TOOL_OPTIONS].map(|name| reader.shown(name)),
        properties: read::properties(&mut reader, &config),
        limit: config.limit(surroundings),
        exists: surroundings.exists,
    };
    if reader.is_set(OVERRIDING) {
        reader.warn(format!(
            "OverridingJavaOptions: {OVERRIDING} is set and taken away: a JVM prefers it to its arguments"
        ));
    }
    reader.warn_of_unknown(env::LAUNCHER_PREFIX);

    let settings = settings(&reader, &sources);
    let variables = reader.asked();
    let (rest, mut warnings, problems) = reader.finish();
    all.extend(problems);
    match command::build(&config, &wishes, args, for_proxy(rest, &config)) {
        Ok(built) if all.is_empty() => {
            warnings.extend(built.warnings);
            let (proxy, budget) = (built.proxy, built.budget);
            let args = args.to_vec();
            Ok(Loaded { config, warnings, proxy, wishes, args, budget, settings, variables })
        }
        Ok(_) => Err(Refused::new(all, sources)),
        Err(more) => {
            all.extend(more);
            Err(Refused::new(all, sources))
        }
    }
}

fn settings(reader: &Reader, sources: &BTreeMap<&'static str, Source>) -> Vec<Setting> {
    let one = |reading: api::environment::Reading| Setting {
        key: names::key(reading.variable).to_owned(),
        source: Layers::source(sources, reading.variable, reading.is_set),
        value: reading.value,
    };
    let mut settings: Vec<_> = reader.readings().into_iter().map(one).collect();
    settings.sort_by(|a, b| a.key.cmp(&b.key));
    settings
}

fn for_proxy(
    mut environment: BTreeMap<OsString, OsString>,
    config: &Config,
) -> BTreeMap<OsString, OsString> {
    // To a native proxy `sidecarJvmMemory` is the budget that it keeps to; to a JVM it has become a flag.
    let of_a_jvm: &[&str] = match config.kind {
        ProxyKind::Native => &[env::JAVA_OPTS, OVERRIDING],
        ProxyKind::Jvm(_) => {
            &[env::JAVA_OPTS, OVERRIDING, env::SIDECAR_JVM_MEMORY, env::REQUEST_RATE_WINDOW]
        }
    };
    environment.retain(|name, _| {
        !name.as_encoded_bytes().starts_with(env::LAUNCHER_PREFIX.as_bytes())
            && !of_a_jvm.iter().any(|taken| name == taken)
    });
    // The proxy need not know the rule with the fallback.
    let user_port = config.ports.user_function.to_string().into();
    environment.insert(env::USER_FUNCTION_PORT.into(), user_port);
    // Always told, also when it is the default: it is how the proxy knows that somebody else already
    // waits before the stop, see [`Drain::pre_delay`].
    let grace = config.drain.grace.as_secs().to_string().into();
    environment.insert(env::TERMINATION_GRACE_PERIOD_SECONDS.into(), grace);
    if matches!(config.kind, ProxyKind::Native) {
        let calls = config.drain.calls().as_millis();
        environment
            .entry(env::GRACEFUL_TERMINATION_TIMEOUT.into())
            .or_insert_with(|| format!("{calls}ms").into());
    }
    environment
}
