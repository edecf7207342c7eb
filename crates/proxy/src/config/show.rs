//! Settings for people and programs to read. A secret never gets here; [`api::environment::Reader`] masks it.

use std::fmt::Write as _;

use api::environment::{Problem, Reading};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Bytes of the hash that are shown: enough to tell two configurations apart.
const HASH_SHOWN: usize = 8;

/// Settings as a table: variable, value and where that comes from, in columns.
pub fn table(settings: &[Reading]) -> String {
    let value = |setting: &Reading| setting.value.clone().unwrap_or_else(|| "-".to_owned());
    let names = settings.iter().map(|setting| setting.variable.len()).max().unwrap_or_default();
    let values = settings.iter().map(|setting| value(setting).chars().count());
    let values = values.max().unwrap_or_default();
    let mut table = String::new();
    for setting in settings {
        let (variable, value, source) = (setting.variable, value(setting), source(setting));
        // Writing into a string cannot fail.
        let _ = writeln!(table, "{variable:names$}  {value:values$}  {source}");
    }
    table
}

/// The same as JSON.
pub fn json(settings: &[Reading]) -> Value {
    let one = |setting: &Reading| {
        let shown = json!({ "value": setting.value, "source": source(setting) });
        (setting.variable.to_owned(), shown)
    };
    Value::Object(settings.iter().map(one).collect())
}

/// Problems as JSON.
pub fn problems(problems: &[Problem]) -> Value {
    let one = |problem: &Problem| {
        json!({
            "kind": problem.kind.to_string(),
            "variable": problem.variable,
            "value": problem.value,
            "expected": problem.expected,
            "hint": problem.hint,
        })
    };
    problems.iter().map(one).collect()
}

/// The same for two proxies exactly when their settings in effect are, secrets left aside.
pub(super) fn hash(settings: &[Reading]) -> String {
    let mut hasher = Sha256::new();
    for setting in settings {
        let value = setting.value.as_deref();
        // Lengths, so that no value can look like another setting.
        let length = value.map_or(-1, |value| i64::try_from(value.len()).unwrap_or(i64::MAX));
        hasher.update(format!("{} {length} {}\n", setting.variable, value.unwrap_or_default()));
    }
    let mut shown = String::new();
    for byte in &hasher.finalize()[..HASH_SHOWN] {
        // Writing into a string cannot fail.
        let _ = write!(shown, "{byte:02x}");
    }
    shown
}

fn source(setting: &Reading) -> &'static str {
    match setting.said_by {
        Some(variable) => variable,
        None if setting.is_set => "environment",
        None => "default",
    }
}
