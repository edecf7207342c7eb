//! The proxy's process as data: program, arguments, environment. Pure, but for one look at files.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use api::contract::{Store, env};

use crate::{
    config::{Config, Kind, Problem, ProxyKind},
    jvm::{self, Budget, Wishes},
};

/// Everything that is needed to start the proxy, any number of times.
#[derive(Clone, Debug)]
pub struct ProxyCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The folder that it runs in.
    pub folder: PathBuf,
    /// Its whole environment; nothing is inherited beside it.
    pub environment: BTreeMap<OsString, OsString>,
}

impl ProxyCommand {
    /// The arguments as they may be shown: what looks like a secret is masked.
    pub fn shown_args(&self) -> Vec<String> {
        let shown = |arg: &OsString| {
            let arg = arg.to_string_lossy();
            jvm::secret_name(&arg).map_or_else(|| arg.to_string(), |name| format!("{name}=***"))
        };
        self.args.iter().map(shown).collect()
    }
}

/// A [`ProxyCommand`], and what was thought about it.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    pub(crate) proxy: ProxyCommand,
    pub(crate) warnings: Vec<String>,
    pub(crate) budget: Option<Budget>,
}

/// Makes a command of the settings; `args` were given to the launcher for the proxy.
pub(crate) fn build(
    config: &Config,
    wishes: &Wishes,
    args: &[OsString],
    mut environment: BTreeMap<OsString, OsString>,
) -> Result<Built, Vec<Problem>> {
    let folder = config.workdir.clone();
    match &config.kind {
        ProxyKind::Native => {
            let mut warnings = Vec::new();
            let args = native_args(args, &mut environment, &mut warnings)?;
            let program = config.command.clone();
            let proxy = ProxyCommand { program, args, folder, environment };
            Ok(Built { proxy, warnings, budget: None })
        }
        ProxyKind::Jvm(jvm) => {
            let line = jvm.command_line(wishes, args)?;
            let program = jvm.java.clone();
            let proxy = ProxyCommand { program, args: line.args, folder, environment };
            Ok(Built { proxy, warnings: line.warnings, budget: Some(line.budget) })
        }
    }
}

/// Flags for a JVM mean nothing to the native proxy, except for the one that chose a store in older
/// manifests.
fn native_args(
    args: &[OsString],
    environment: &mut BTreeMap<OsString, OsString>,
    warnings: &mut Vec<String>,
) -> Result<Vec<OsString>, Vec<Problem>> {
    const CONFIG_RESOURCE: &str = "-Dconfig.resource=";
    let mut problems = Vec::new();
    let (flags, rest): (Vec<_>, Vec<_>) = args.iter().cloned().partition(jvm::is_jvm_flag);
    for flag in flags {
        let flag = flag.to_string_lossy();
        let store = match flag.strip_prefix(CONFIG_RESOURCE) {
            Some("no-store.conf") => Store::None,
            Some("in-memory.conf" | "dev-mode.conf") => Store::InMemory,
            _ => {
                let name = flag.split('=').next().unwrap_or_default();
                warnings.push(format!(
                    "UnsupportedByKind: {name} is for a JVM, and the native proxy does not get it"
                ));
                continue;
            }
        };
        let set = environment.entry(env::STORE.into()).or_insert_with(|| store.as_str().into());
        if set.as_os_str() != store.as_str() {
            problems.push(Problem {
                kind: Kind::ConflictingKeys,
                variable: format!("{} and {flag}", env::STORE),
                value: set.to_string_lossy().into_owned(),
                expected: format!("{}, as the argument says", store.as_str()),
                hint: "leave one of them out".to_owned(),
            });
        }
    }
    if problems.is_empty() { Ok(rest) } else { Err(problems) }
}

/// Looks whether the proxy's program could be started; what `check` does beyond reading settings.
pub fn problem_with_program(config: &Config) -> Option<Problem> {
    const ANY_EXECUTE: u32 = 0o111;
    let (variable, program): (_, &Path) = match &config.kind {
        ProxyKind::Native => ("CLOUDSTATE_LAUNCHER_COMMAND", &config.command),
        ProxyKind::Jvm(jvm) => ("CLOUDSTATE_LAUNCHER_JAVA", &jvm.java),
    };
    let problem = |kind, expected: &str| Problem {
        kind,
        variable: variable.to_owned(),
        value: program.display().to_string(),
        expected: expected.to_owned(),
        hint: "name the proxy's program, or leave it out for the image's own".to_owned(),
    };
    match fs::metadata(program) {
        Ok(file) if file.is_file() && file.permissions().mode() & ANY_EXECUTE != 0 => None,
        Ok(_) => Some(problem(Kind::ExecNotExecutable, "a file that may be executed")),
        Err(_) => Some(problem(Kind::ExecNotFound, "a file that exists")),
    }
}
