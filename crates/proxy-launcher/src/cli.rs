//! The command line: options and a command of ours, then arguments that belong to the proxy.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use api::{
    contract::{DRAIN, probe},
    environment::value,
};

use crate::{client::WaitFor, config::Above, jvm::is_jvm_flag};

/// How the launcher is called; part of every [`UsageError`].
pub const USAGE: &str = "proxy-launcher [--config FILE] [--set KEY=VALUE]... [--log-format FORMAT] [--log-level LEVEL] \
                         [--output table|json] [--deny-warnings] [--help] [--version] \
                         [run|check|print-config|version|probe|wait|drain] [--] [PROXY-ARGS...]";

/// What to do, with which settings, and what to hand on to the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub verb: Verb,
    /// Settings from the command line.
    pub above: Above,
    /// Whether `check` and `print-config` write JSON.
    pub json: bool,
    /// Whether `check` fails on warnings too.
    pub deny_warnings: bool,
    /// Arguments for the proxy, untouched.
    pub proxy_args: Vec<OsString>,
}

/// What the launcher is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Supervise the proxy; what no word at all means.
    Run,
    /// Print every problem and warning, and what would be started; start nothing.
    Check,
    /// Print every setting, its value, and where it comes from.
    PrintConfig,
    /// Print the version.
    Version,
    /// Print how the launcher is called.
    Help,
    /// Ask the running launcher what the kubelet would ask.
    Probe(&'static str),
    /// Wait for something.
    Wait(WaitFor, Duration),
    /// Have calls sent elsewhere; wait until none is under way, if that is said.
    Drain {
        /// Whether to wait.
        wait: bool,
    },
}

/// How long `wait` waits unless it is said.
const WAIT_DEFAULT: Duration = Duration::from_mins(1);

const VERBS: [(&str, Verb); 7] = [
    ("run", Verb::Run),
    ("check", Verb::Check),
    ("print-config", Verb::PrintConfig),
    ("version", Verb::Version),
    ("probe", Verb::Probe(probe::READY)),
    ("wait", Verb::Wait(WaitFor::Ready, WAIT_DEFAULT)),
    (DRAIN, Verb::Drain { wait: false }),
];

/// A command line that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// An option that the launcher does not have.
    #[error("UnknownOption: {0:?}: options for the proxy stand after `--`; usage: {USAGE}")]
    UnknownOption(OsString),
    /// A first word that is no command.
    #[error(
        "UnknownCommand: {0:?}: use run, check, print-config, version, probe, wait or drain, and put arguments for the proxy after \
         `--`; usage: {USAGE}"
    )]
    UnknownCommand(OsString),
    /// An option without its value, or with one that makes no sense.
    #[error("InvalidOption: {option} wants {wanted}; usage: {USAGE}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// What should follow it.
        wanted: &'static str,
    },
}

/// Reads the arguments after the program's name.
///
/// Options stand before or after the command. The first `--`, the first plain word after a command, or a
/// flag for a JVM ends our part: older manifests hand those to the entrypoint without any mark.
///
/// # Errors
/// [`UsageError`] names the first argument that cannot be followed.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut args = args.into_iter().peekable();
    // The flags that stand for a command; they win over a word.
    let (mut verb, mut told) = (None, None);
    let (mut above, mut json, mut deny_warnings) = (Above::default(), false, false);
    let mut proxy_args = Vec::new();
    while let Some(word) = args.next_if(|word| !is_jvm_flag(word)) {
        let mut value = |option, wanted| {
            let value = args.next().and_then(|value| value.into_string().ok());
            value.ok_or(UsageError::InvalidOption { option, wanted })
        };
        let named = VERBS.iter().find(|(name, _)| word == *name).map(|(_, verb)| *verb);
        match word.to_str() {
            Some("--") => break,
            Some("--config") => above.file = Some(PathBuf::from(value("--config", "a file")?)),
            Some("--set") => {
                let (option, wanted) = ("--set", "KEY=VALUE");
                let set = value(option, wanted)?;
                let pair =
                    set.split_once('=').ok_or(UsageError::InvalidOption { option, wanted })?;
                above.set.push((pair.0.to_owned(), pair.1.to_owned()));
            }
            Some("--log-format") => {
                above.set.push(("log.format".to_owned(), value("--log-format", "json or text")?));
            }
            Some("--log-level") => {
                above.set.push(("log.level".to_owned(), value("--log-level", "a level")?));
            }
            Some("--output") => {
                let (option, wanted) = ("--output", "table or json");
                json = match value(option, wanted)?.as_str() {
                    "json" => true,
                    "table" => false,
                    _ => return Err(UsageError::InvalidOption { option, wanted }),
                };
            }
            Some("--deny-warnings") => deny_warnings = true,
            Some("--print-config") => told = told.or(Some(Verb::PrintConfig)),
            Some("--help" | "-h") => told = Some(Verb::Help),
            Some("--version" | "-V") => told = told.or(Some(Verb::Version)),
            Some("--for") if let Some(Verb::Wait(what, _)) = &mut verb => {
                let (option, wanted) = ("--for", "proxy, user-function or ready");
                *what = match value(option, wanted)?.as_str() {
                    "proxy" => WaitFor::Proxy,
                    "user-function" => WaitFor::UserFunction,
                    "ready" => WaitFor::Ready,
                    _ => return Err(UsageError::InvalidOption { option, wanted }),
                };
            }
            Some("--timeout") if let Some(Verb::Wait(_, timeout)) = &mut verb => {
                let (option, wanted) = ("--timeout", "a duration such as 60s");
                let text = value(option, wanted)?;
                *timeout = value::duration(&text)
                    .ok()
                    .ok_or(UsageError::InvalidOption { option, wanted })?;
            }
            Some("--wait") if let Some(Verb::Drain { wait }) = &mut verb => *wait = true,
            Some(word) if let Some(Verb::Probe(path)) = &mut verb => {
                let probes = [probe::STARTUP, probe::ALIVE, probe::READY];
                let found = probes.into_iter().find(|path| path.strip_prefix('/') == Some(word));
                *path = found.ok_or(UsageError::InvalidOption {
                    option: "probe",
                    wanted: "startup, alive or ready",
                })?;
            }
            _ if word.as_encoded_bytes().starts_with(b"-") => {
                return Err(UsageError::UnknownOption(word));
            }
            _ if verb.is_none() => match named {
                Some(named) => verb = Some(named),
                None => return Err(UsageError::UnknownCommand(word)),
            },
            _ => {
                proxy_args.push(word);
                break;
            }
        }
    }
    proxy_args.extend(args);
    let verb = told.or(verb).unwrap_or(Verb::Run);
    Ok(Invocation { verb, above, json, deny_warnings, proxy_args })
}
