//! The proxy's process as data: program, arguments, environment. Pure.

use std::{collections::BTreeMap, ffi::OsString, fs, os::unix::fs::PermissionsExt, path::PathBuf};

use crate::config::{Config, Kind, Loaded, Problem};

/// Everything that is needed to start the proxy, any number of times.
#[derive(Clone, Debug)]
pub struct ProxyCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment; nothing is inherited beside it.
    pub environment: BTreeMap<OsString, OsString>,
}

impl ProxyCommand {
    /// The native proxy with the arguments that the launcher was given for it.
    pub fn new(loaded: &Loaded, args: Vec<OsString>) -> Self {
        Self {
            program: loaded.config.command.clone(),
            args,
            environment: loaded.proxy_environment.clone(),
        }
    }
}

/// Looks whether the proxy's program could be started; what `check` does beyond reading settings.
pub fn problem_with_program(config: &Config) -> Option<Problem> {
    const ANY_EXECUTE: u32 = 0o111;
    let problem = |kind, expected: &str| Problem {
        kind,
        variable: "CLOUDSTATE_LAUNCHER_COMMAND".to_owned(),
        value: config.command.display().to_string(),
        expected: expected.to_owned(),
        hint: "name the proxy's program, or leave it out for the image's own".to_owned(),
    };
    match fs::metadata(&config.command) {
        Ok(file) if file.is_file() && file.permissions().mode() & ANY_EXECUTE != 0 => None,
        Ok(_) => Some(problem(Kind::ExecNotExecutable, "a file that may be executed")),
        Err(_) => Some(problem(Kind::ExecNotFound, "a file that exists")),
    }
}
