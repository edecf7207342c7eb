//! Takes variables out of an environment one by one and remembers what was wrong with them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    num::NonZeroU16,
};

use super::{
    problem::{Kind, Problem},
    value::{self, Refusal},
};

/// Kubernetes injects `<SERVICE>_PORT=tcp://…` for every Service of the namespace.
const SERVICE_LINK_SCHEMES: [&str; 3] = ["tcp://", "udp://", "sctp://"];

/// A variable that somebody asked for, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The variable.
    pub variable: &'static str,
    /// The value in effect; none when it is unset and has no default. A secret shows as `***`.
    pub value: Option<String>,
    /// Whether it was set; else the value is a default, or what another variable says.
    pub is_set: bool,
    /// The other variable, where one says this one's value.
    pub said_by: Option<&'static str>,
}

/// An environment in the course of being read.
#[derive(Debug)]
pub struct Reader {
    environment: BTreeMap<OsString, OsString>,
    readings: BTreeMap<&'static str, Reading>,
    /// Names that were looked for, in whatever way.
    asked: RefCell<BTreeSet<String>>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Reader {
    /// Begins to read an environment.
    pub fn new(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self {
            environment: environment.into_iter().collect(),
            readings: BTreeMap::new(),
            asked: RefCell::default(),
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The variable's value, or that of `default` when it is unset or refused.
    ///
    /// # Panics
    /// When the default is no valid value.
    pub fn read<T>(
        &mut self,
        variable: &'static str,
        default: &str,
        parse: fn(&str) -> Result<T, Refusal>,
    ) -> T {
        let hint = format!("set it so, or leave it out for the default {default}");
        let taken = self.take(variable, &hint, parse);
        if !self.is_set(variable) {
            self.note(variable, default);
        }
        taken.unwrap_or_else(|| parse(default).expect("a default in the code is a valid value"))
    }

    /// The variable's value, if it is set.
    pub fn read_optional<T>(
        &mut self,
        variable: &'static str,
        parse: fn(&str) -> Result<T, Refusal>,
    ) -> Option<T> {
        self.take(variable, "set it so, or leave it out", parse)
    }

    /// As [`Self::read_optional`], for a value that must not show in a message.
    pub fn read_secret(
        &mut self,
        variable: &'static str,
        parse: fn(&str) -> Result<String, Refusal>,
    ) -> Option<String> {
        let before = self.problems.len();
        let value = self.read_optional(variable, parse);
        for problem in &mut self.problems[before..] {
            "hidden".clone_into(&mut problem.value);
        }
        if self.is_set(variable) {
            self.note(variable, "***");
        }
        value
    }

    /// A port, after values that Kubernetes put there for a Service of that name were dropped.
    pub fn read_port(&mut self, variable: &'static str, default: u16) -> NonZeroU16 {
        self.drop_service_link(variable, Some(default));
        self.read(variable, &default.to_string(), value::port)
    }

    /// As [`Self::read_port`], without a default.
    pub fn read_optional_port(&mut self, variable: &'static str) -> Option<NonZeroU16> {
        self.drop_service_link(variable, None);
        self.read_optional(variable, value::port)
    }

    /// Text that nobody parses here. It may be empty, and may hold what must not show in a message.
    pub fn read_text(&mut self, variable: &'static str) -> Option<String> {
        let shown = self.shown(variable)?;
        let is_text = self.environment[&OsString::from(variable)].to_str().is_some();
        if is_text {
            return Some(shown);
        }
        self.add(Problem {
            kind: Kind::NotUtf8,
            variable: variable.to_owned(),
            value: "hidden".to_owned(),
            expected: "text in UTF-8".to_owned(),
            hint: "set it so, or leave it out".to_owned(),
        });
        None
    }

    /// The text as it is set; for messages about values that are valid by themselves.
    pub fn shown(&self, variable: &str) -> Option<String> {
        self.asked.borrow_mut().insert(variable.to_owned());
        self.environment
            .get(&OsString::from(variable))
            .map(|value| value.to_string_lossy().into_owned())
    }

    /// Whether the variable is set, to whatever.
    pub fn is_set(&self, variable: &str) -> bool {
        self.asked.borrow_mut().insert(variable.to_owned());
        self.environment.contains_key(&OsString::from(variable))
    }

    /// Tells that something else than the variable's own value, or its default, is in effect.
    pub fn note(&mut self, variable: &str, value: impl Into<String>) {
        if let Some(reading) = self.readings.get_mut(variable) {
            reading.value = Some(value.into());
        }
    }

    /// As [`Self::note`], for a value that stands in another variable.
    pub fn note_by(&mut self, variable: &str, value: impl Into<String>, by: &'static str) {
        if let Some(reading) = self.readings.get_mut(variable) {
            reading.value = Some(value.into());
            reading.said_by = Some(by);
        }
    }

    /// Everything that was asked for so far, sorted by variable.
    pub fn readings(&self) -> Vec<Reading> {
        self.readings.values().cloned().collect()
    }

    /// The names of everything that was looked for so far: what contract and documentation are held to.
    pub fn asked(&self) -> BTreeSet<String> {
        self.asked.borrow().clone()
    }

    /// Whether a later check may rely on the variable's value.
    pub fn is_sound(&self, variable: &str) -> bool {
        self.problems.iter().all(|problem| problem.variable != variable)
    }

    /// Adds a problem that concerns more than one variable.
    pub fn add(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Adds something that is odd and does no harm.
    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Warns about every variable with this prefix that nobody asked for: most likely a typing error.
    pub fn warn_of_unknown(&mut self, prefix: &str) {
        let known = &self.readings;
        let unknown = self
            .environment
            .keys()
            .filter_map(|name| name.to_str())
            .filter(|name| name.starts_with(prefix) && !known.contains_key(name));
        let warnings: Vec<_> = unknown
            .map(|name| {
                format!("{name} is not a known setting and is ignored; see docs/environment.md")
            })
            .collect();
        self.warnings.extend(warnings);
    }

    /// Environment that is left, warnings, and problems sorted by variable.
    pub fn finish(mut self) -> (BTreeMap<OsString, OsString>, Vec<String>, Vec<Problem>) {
        self.problems.sort_by(|a, b| a.variable.cmp(&b.variable));
        (self.environment, self.warnings, self.problems)
    }

    fn take<T>(
        &mut self,
        variable: &'static str,
        hint: &str,
        parse: fn(&str) -> Result<T, Refusal>,
    ) -> Option<T> {
        let set = self.shown(variable);
        let is_set = set.is_some();
        self.readings.insert(variable, Reading { variable, is_set, value: set, said_by: None });
        let value = self.environment.get(&OsString::from(variable))?;
        let refusal = match value.to_str() {
            None => Refusal { kind: Kind::NotUtf8, expected: "text in UTF-8".to_owned() },
            Some("") => {
                Refusal { kind: Kind::EmptyValue, expected: "a value that is not empty".to_owned() }
            }
            Some(text) => match parse(text) {
                Ok(value) => return Some(value),
                Err(refusal) => refusal,
            },
        };
        let problem = Problem {
            kind: refusal.kind,
            variable: variable.to_owned(),
            value: value.to_string_lossy().into_owned(),
            expected: refusal.expected,
            hint: hint.to_owned(),
        };
        self.problems.push(problem);
        None
    }

    fn drop_service_link(&mut self, variable: &'static str, default: Option<u16>) {
        let Some(value) = self.shown(variable) else { return };
        if SERVICE_LINK_SCHEMES.iter().any(|scheme| value.starts_with(scheme)) {
            self.environment.remove(&OsString::from(variable));
            let instead = match default {
                Some(port) => format!("{port} is used"),
                None => "it counts as unset".to_owned(),
            };
            self.warnings.push(format!(
                "ServiceLinkCollision: {variable} is {value:?}, which Kubernetes set for a Service of that name; dropped, \
                 {instead}; set enableServiceLinks: false in the pod"
            ));
        }
    }
}
