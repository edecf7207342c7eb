//! Reads `spec.config` of a store, which the schema leaves free. What is there and wrong is noted with its
//! path, and never with its value: it may be a password in the wrong place.

use serde_json::{Map, Value};

use crate::Problem;

/// Where the section lies in a StatefulStore.
pub(super) const ROOT: &str = "spec.config";

/// What is wrong, by the path of the field.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<(String, String)>);

impl Faults {
    pub(super) fn one(path: &str, fault: &str) -> Self {
        Self(vec![(path.to_owned(), fault.to_owned())])
    }

    pub(super) fn push(&mut self, path: String, fault: impl Into<String>) {
        self.0.push((path, fault.into()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_problems(mut self, store: &str) -> impl Iterator<Item = Problem> {
        self.0.sort();
        let store = store.to_owned();
        self.0.into_iter().map(move |(path, fault)| Problem::StoreConfig {
            store: store.clone(),
            path,
            fault,
        })
    }
}

/// A field that is there and cannot be used; why not is among the faults already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted;

/// What may be there, or cannot be used.
pub(super) type Found<T> = Result<Option<T>, Noted>;

/// One object of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Section<'a> {
    path: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    pub(super) fn root(fields: &'a Map<String, Value>) -> Self {
        Self { path: ROOT.to_owned(), fields }
    }

    pub(super) fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    /// The object under that key.
    pub(super) fn section(&self, key: &str, faults: &mut Faults) -> Found<Self> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self { path: self.path(key), fields })),
            Some(other) => Err(self.wrong(key, other, "an object", faults)),
        }
    }

    /// The text under that key, which says something.
    pub(super) fn text(&self, key: &str, faults: &mut Faults) -> Found<&'a str> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => {
                faults.push(self.path(key), "is empty: set it, or leave it out");
                Err(Noted)
            }
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, other, "a text", faults)),
        }
    }

    /// The key of a Secret under that key. Pods are refused when it could be none.
    pub(super) fn secret_key(&self, key: &str, faults: &mut Faults) -> Found<&'a str> {
        const BYTES_MAX: usize = 253;
        let Some(text) = self.text(key, faults)? else { return Ok(None) };
        let is_one = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_way = text == "." || text.starts_with("..");
        if text.len() <= BYTES_MAX && text.bytes().all(is_one) && !is_way {
            return Ok(Some(text));
        }
        faults.push(
            self.path(key),
            format!(
                "is {text:?}, which cannot be a key of a Secret: use at most {BYTES_MAX} letters, digits, '-', '_' and '.', and no \"..\" at the beginning"
            ),
        );
        Err(Noted)
    }

    /// The text under that key, which has to be there.
    pub(super) fn mandatory(
        &self,
        key: &str,
        what: &str,
        faults: &mut Faults,
    ) -> Result<String, Noted> {
        if let Some(text) = self.text(key, faults)? {
            return Ok(text.to_owned());
        }
        faults.push(self.path(key), format!("is missing: set it to {what}"));
        Err(Noted)
    }

    /// The TCP port under that key.
    pub(super) fn port(&self, key: &str, faults: &mut Faults) -> Found<u16> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(number)) => {
                let port = number.as_u64().and_then(|number| u16::try_from(number).ok());
                let Some(port @ 1..) = port else {
                    faults.push(
                        self.path(key),
                        format!("is {number}, which is no port: set it to 1 to 65535"),
                    );
                    return Err(Noted);
                };
                Ok(Some(port))
            }
            Some(other) => Err(self.wrong(key, other, "a number from 1 to 65535", faults)),
        }
    }

    /// `null` says as much as nothing.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, value: &Value, wanted: &str, faults: &mut Faults) -> Noted {
        let is = match value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        faults.push(self.path(key), format!("is {is}: set it to {wanted}"));
        Noted
    }
}
