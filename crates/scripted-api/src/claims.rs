//! Who owns which field, as objects say it in `metadata.managedFields`, and as a client may say it there. The keys of
//! items are written otherwise than a real server writes them, and clients have no business with those.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::fields::{Fields, ITEM, Owners, STEP};

const ITSELF: &str = ".";
const APPLY: &str = "apply";
const UPDATE: &str = "update";

/// The list; nothing where nobody but appliers owns anything, since that tells a client nothing new. A real server
/// says it always.
pub(crate) fn told(owners: &Owners) -> Option<Value> {
    let is_update = |writer: &String| writer.ends_with(&format!("/{UPDATE}"));
    if !owners.keys().any(is_update) {
        return None;
    }
    let entries = owners.iter().map(|(writer, fields)| {
        let (writer, subresource) = match writer.strip_suffix("/status") {
            Some(writer) => (writer, Some("status")),
            None => (writer.as_str(), None),
        };
        let (manager, operation) = writer.rsplit_once('/').unwrap_or((writer, UPDATE));
        let operation = if operation == APPLY { "Apply" } else { "Update" };
        let mut entry = json!({
            "manager": manager, "operation": operation, "fieldsType": "FieldsV1",
            "fieldsV1": Node::of(fields).told(),
        });
        if let Some(subresource) = subresource {
            entry["subresource"] = json!(subresource);
        }
        entry
    });
    Some(entries.collect())
}

/// What such a list says; nothing if there is none.
pub(crate) fn read(list: &Value) -> Option<Owners> {
    let entries = list.as_array().filter(|entries| !entries.is_empty())?;
    let mut owners = Owners::new();
    for entry in entries {
        // One without a manager takes away all that there are.
        let Some(manager) = entry["manager"].as_str() else { continue };
        let operation = if entry["operation"] == "Apply" { APPLY } else { UPDATE };
        let suffix = if entry["subresource"] == "status" { "/status" } else { "" };
        let mut fields = Fields::new();
        read_below("", &entry["fieldsV1"], &mut fields);
        owners.insert(format!("{manager}/{operation}{suffix}"), fields);
    }
    Some(owners)
}

fn read_below(path: &str, node: &Value, fields: &mut Fields) {
    let Some(below) = node.as_object() else { return };
    if below.is_empty() && !path.is_empty() {
        fields.insert(path.to_owned());
    }
    for (name, node) in below {
        let step = match name.split_once(':') {
            Some(("k", key)) => format!("{ITEM}{key}"),
            Some((_, field)) => field.to_owned(),
            // That it is there.
            None => {
                fields.insert(path.to_owned());
                continue;
            }
        };
        let path = if path.is_empty() { step } else { format!("{path}{STEP}{step}") };
        read_below(&path, node, fields);
    }
}

#[derive(Default)]
struct Node<'a> {
    is_owned: bool,
    below: BTreeMap<&'a str, Self>,
}

impl<'a> Node<'a> {
    fn of(fields: &'a Fields) -> Self {
        let mut root = Self::default();
        for path in fields {
            let mut node = &mut root;
            for step in path.split(STEP) {
                node = node.below.entry(step).or_default();
            }
            node.is_owned = true;
        }
        root
    }

    fn told(&self) -> Value {
        let mut told = Map::new();
        if self.is_owned && !self.below.is_empty() {
            told.insert(ITSELF.to_owned(), json!({}));
        }
        for (step, node) in &self.below {
            let name = match step.strip_prefix(ITEM) {
                Some(key) => format!("k:{key}"),
                None => format!("f:{step}"),
            };
            told.insert(name, node.told());
        }
        Value::Object(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_as_it_was() {
        let path = |steps: &[&str]| steps.join(&STEP.to_string());
        let container = format!("{ITEM}a,b:c");
        let fields = Fields::from([
            path(&["metadata", "labels", "example.com/a:b"]),
            path(&["spec", "containers", &container]),
            path(&["spec", "containers", &container, "image"]),
            path(&["spec", "emptyDir"]),
            path(&["spec", "emptyDir", "medium"]),
        ]);
        let owners = Owners::from([
            ("a/apply".to_owned(), fields.clone()),
            ("a/apply/status".to_owned(), Fields::from(["status".to_owned()])),
            ("a-b/update".to_owned(), fields),
        ]);
        let told = told(&owners).unwrap();
        assert_eq!(read(&told), Some(owners), "{told}");
        assert_eq!(read(&json!([])), None);
        assert_eq!(read(&json!([{}])), Some(Owners::new()));
    }
}
