//! The command line: a command and its options; without one the proxy serves.

use std::ffi::OsString;

/// How the proxy is called; part of every [`UsageError`].
pub const USAGE: &str =
    "proxy [run|check-config|schema print|version] [--output table|json] [--deny-warnings]";

/// What the proxy is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Serve; what no word at all means.
    Run,
    /// Print every setting in effect, or every problem with them; serve nothing.
    CheckConfig,
    /// Print the statements that create the tables in Postgres.
    PrintSchema,
    /// Print the version.
    Version,
}

/// What to do, and how to say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub verb: Verb,
    /// Whether `check-config` writes JSON.
    pub json: bool,
    /// Whether `check-config` fails on warnings too.
    pub deny_warnings: bool,
}

/// A command line that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// A word that is neither a command nor an option, or a second command.
    #[error("UnknownArgument: {0:?}; usage: {USAGE}")]
    Unknown(OsString),
    /// `--output` without its value, or with one that makes no sense.
    #[error("InvalidOption: --output wants table or json; usage: {USAGE}")]
    Output,
    /// `schema` with nothing to do about it.
    #[error("InvalidCommand: schema wants print behind it; usage: {USAGE}")]
    Schema,
}

/// Reads the arguments after the program's name. Options stand before or after the command.
///
/// # Errors
/// [`UsageError`] names the first argument that cannot be followed.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut args = args.into_iter();
    let (mut verb, mut json, mut deny_warnings) = (None, false, false);
    while let Some(word) = args.next() {
        let named = match word.to_str() {
            Some("run") => Verb::Run,
            Some("check-config" | "--check-config") => Verb::CheckConfig,
            Some("schema") => match args.next() {
                Some(word) if word == "print" => Verb::PrintSchema,
                _ => return Err(UsageError::Schema),
            },
            Some("version" | "--version") => Verb::Version,
            Some("--output") => {
                json = match args.next().as_ref().and_then(|value| value.to_str()) {
                    Some("json") => true,
                    Some("table") => false,
                    _ => return Err(UsageError::Output),
                };
                continue;
            }
            Some("--deny-warnings") => {
                deny_warnings = true;
                continue;
            }
            _ => return Err(UsageError::Unknown(word)),
        };
        if verb.replace(named).is_some() {
            return Err(UsageError::Unknown(word));
        }
    }
    Ok(Invocation { verb: verb.unwrap_or(Verb::Run), json, deny_warnings })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn commands_and_options_stand_in_any_order() {
        let plain = |verb| Ok(Invocation { verb, json: false, deny_warnings: false });
        for (line, verb) in [
            ("", Verb::Run),
            ("run", Verb::Run),
            ("check-config", Verb::CheckConfig),
            ("--check-config --output table", Verb::CheckConfig),
            ("schema print", Verb::PrintSchema),
            ("version", Verb::Version),
        ] {
            assert_eq!(parsed(line), plain(verb), "{line}");
        }
        let all = Invocation { verb: Verb::CheckConfig, json: true, deny_warnings: true };
        assert_eq!(parsed("--output json check-config --deny-warnings"), Ok(all));
        assert_eq!(parsed("check-config --deny-warnings --output json"), Ok(all));
    }

    #[test]
    fn what_cannot_be_followed_is_named_with_the_usage() {
        for (line, part) in [
            ("serve", "\"serve\""),
            ("--verbose", "\"--verbose\""),
            ("run run", "\"run\""),
            ("--output", "table or json"),
            ("--output yaml", "table or json"),
            ("schema", "print behind it"),
            ("schema drop", "print behind it"),
        ] {
            let said = parsed(line).unwrap_err().to_string();
            assert!(said.contains(part) && said.contains(USAGE), "{line}: {said}");
        }
    }
}
