//! What `check` and `print-config` write: problems, warnings and settings, as text or JSON. A secret never
//! gets here; [`api::environment::Reader`] masks it.

use std::{collections::BTreeMap, fmt, fmt::Write as _};

use api::environment::Problem;
use serde_json::{Value, json};

use super::{
    layers::{Layers, Source},
    names,
};

/// One setting, its value, and who chose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its key in the file, or its variable when no file can set it.
    pub key: String,
    /// The value in effect.
    pub value: Option<String>,
    /// The layer that it comes from.
    pub source: Source,
}

/// Settings as a table: key, value and source in columns.
pub fn table(settings: &[Setting]) -> String {
    let value = |setting: &Setting| setting.value.clone().unwrap_or_else(|| "-".to_owned());
    let width = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or_default();
    let key_width = width(&mut settings.iter().map(|setting| setting.key.len()));
    let value_width = width(&mut settings.iter().map(|setting| value(setting).chars().count()));
    let mut table = String::new();
    for setting in settings {
        let (key, value, source) = (&setting.key, value(setting), &setting.source);
        // Writing into a string cannot fail.
        let _ = writeln!(table, "{key:key_width$}  {value:value_width$}  {source}");
    }
    table
}

/// The same as JSON.
pub fn json(settings: &[Setting]) -> Value {
    let one = |setting: &Setting| {
        let source = setting.source.to_string();
        (setting.key.clone(), json!({ "value": setting.value, "source": source }))
    };
    Value::Object(settings.iter().map(one).collect())
}

/// Every problem of the settings; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    problems: Vec<Problem>,
    sources: BTreeMap<&'static str, Source>,
}

impl std::error::Error for Refused {}

impl Refused {
    pub(super) fn new(mut problems: Vec<Problem>, sources: BTreeMap<&'static str, Source>) -> Self {
        problems.sort_by(|a, b| names::key(&a.variable).cmp(names::key(&b.variable)));
        Self { problems, sources }
    }

    /// The problems, sorted by key, each naming the place where the value stands.
    pub fn problems(&self) -> Vec<Problem> {
        let place = |variable: &str| match self.sources.get(variable) {
            Some(Source::File(path)) => format!("{} in {}", names::key(variable), path.display()),
            Some(Source::Set) => format!("--set {}", names::key(variable)),
            _ => variable.to_owned(),
        };
        let named = |problem: &Problem| {
            let places: Vec<_> = problem.variable.split(" and ").map(place).collect();
            Problem { variable: places.join(" and "), ..problem.clone() }
        };
        self.problems.iter().map(named).collect()
    }

    /// The problems as JSON.
    pub fn json(&self) -> Value {
        let one = |problem: &Problem| {
            let source = Layers::source(&self.sources, &problem.variable, true);
            json!({
                "kind": problem.kind.to_string(),
                "key": names::key(&problem.variable),
                "source": source.to_string(),
                "value": problem.value,
                "expected": problem.expected,
                "hint": problem.hint,
            })
        };
        self.problems.iter().map(one).collect()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.problems().iter().map(ToString::to_string).collect();
        f.write_str(&lines.join(" | "))
    }
}
