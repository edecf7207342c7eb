//! The command line: one word, then arguments that belong to the proxy.

use std::ffi::OsString;

use crate::jvm::is_jvm_flag;

/// How the launcher is called; part of every [`UsageError`].
pub const USAGE: &str = "proxy-launcher [run|check|version] [--] [PROXY-ARGS...]";

/// What to do, and what to hand on to the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub verb: Verb,
    /// Arguments for the proxy, untouched.
    pub proxy_args: Vec<OsString>,
}

/// What the launcher is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Supervise the proxy; what no word at all means.
    Run,
    /// Print every problem, warning and effective setting, and start nothing.
    Check,
    /// Print the version.
    Version,
}

/// A command line that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// An option; the launcher has none.
    #[error(
        "unknown option {0:?}: settings of the launcher come from the environment, and options for the \
         proxy stand after `--`; usage: {USAGE}"
    )]
    UnknownOption(OsString),
    /// A first word that is no command.
    #[error(
        "unknown command {0:?}: use run, check or version, and put arguments for the proxy after `--`; \
         usage: {USAGE}"
    )]
    UnknownCommand(OsString),
}

/// Reads the arguments after the program's name.
///
/// The first `--`, the first plain word after a command, or a flag for a JVM ends our part.
///
/// # Errors
/// [`UsageError`] names the first argument that is neither a command nor clearly the proxy's.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut args = args.into_iter().peekable();
    let verb = match args.peek().and_then(|word| word.to_str()) {
        Some("run") => Some(Verb::Run),
        Some("check") => Some(Verb::Check),
        Some("version") => Some(Verb::Version),
        _ => None,
    };
    if verb.is_some() {
        args.next();
    }
    match args.peek() {
        Some(word) if word == "--" => {
            args.next();
        }
        // Older manifests hand flags for a JVM to the entrypoint without any mark.
        Some(word) if is_jvm_flag(word) => {}
        Some(word) if word.as_encoded_bytes().starts_with(b"-") => {
            return Err(UsageError::UnknownOption(word.clone()));
        }
        Some(word) if verb.is_none() => return Err(UsageError::UnknownCommand(word.clone())),
        _ => {}
    }
    Ok(Invocation { verb: verb.unwrap_or(Verb::Run), proxy_args: args.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(args: &[&str], verb: Verb, proxy_args: &[&str]) {
        let invocation = parse(args.iter().map(OsString::from)).unwrap();
        let proxy_args = proxy_args.iter().map(OsString::from).collect();
        assert_eq!(invocation, Invocation { verb, proxy_args });
    }

    #[test]
    fn no_word_means_run() {
        check(&[], Verb::Run, &[]);
        check(&["--", "--verbose", "x"], Verb::Run, &["--verbose", "x"]);
    }

    #[test]
    fn what_follows_a_command_belongs_to_the_proxy() {
        check(&["run", "a", "-b", "--"], Verb::Run, &["a", "-b", "--"]);
        check(&["check", "--", "--", "run"], Verb::Check, &["--", "run"]);
        check(&["version"], Verb::Version, &[]);
    }

    #[test]
    fn flags_for_a_jvm_need_no_mark() {
        check(
            &["-Dconfig.resource=no-store.conf", "x"],
            Verb::Run,
            &["-Dconfig.resource=no-store.conf", "x"],
        );
    }

    #[test]
    fn options_and_unknown_words_are_refused_by_name() {
        for (args, named) in [
            (&["--frobnicate"][..], "unknown option \"--frobnicate\""),
            (&["run", "-v"][..], "unknown option \"-v\""),
            (&["start"][..], "unknown command \"start\""),
        ] {
            let error = parse(args.iter().map(OsString::from)).unwrap_err().to_string();
            assert!(error.starts_with(named), "{error}");
            assert!(error.contains("after `--`") && error.ends_with(USAGE), "{error}");
        }
    }
}
