//! Which fields an object has, and who owns them: the part of server-side apply that the operator
//! relies on (KEP-555).
//!
//! A field is named by its path. Items of lists that are merged by a key are steps of a path, any other
//! list is one field, and so is a map that is replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// Between two steps of a path.
pub(crate) const STEP: char = '\u{1f}';
/// In front of the key of an item.
pub(crate) const ITEM: char = '\u{1e}';

/// Lists that are merged, and what their items are known by. One that has none of a row's fields is
/// known by the next row.
const MERGED: [(&str, &[&str]); 13] = [
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("volumes", &["name"]),
    ("env", &["name"]),
    ("imagePullSecrets", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
    ("ports", &["containerPort", "protocol"]),
    ("ports", &["port", "protocol"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("ownerReferences", &["uid"]),
    ("conditions", &["type"]),
    ("finalizers", &[]),
];

/// Maps that are replaced as a whole.
const ATOMIC: [&str; 9] = [
    "selector",
    "podSelector",
    "labelSelector",
    "nodeSelector",
    "roleRef",
    "secretKeyRef",
    "configMapKeyRef",
    "fieldRef",
    "resourceFieldRef",
];

/// What the server writes, and nobody owns.
const OF_THE_SERVER: [&str; 8] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
];

/// Paths of fields.
pub(crate) type Fields = BTreeSet<String>;

/// The fields that each writer owns. A writer is a field manager and how it writes.
pub(crate) type Owners = BTreeMap<String, Fields>;

/// How lists of an object are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Whether lists of the spec are merged by their keys, as in kinds that are built in.
    pub(crate) merges_spec: bool,
}

/// Two items of a list that is merged have the same key.
#[derive(Debug)]
pub(crate) struct Duplicate(pub(crate) String);

impl Shape {
    /// The key of each item, if the list is merged.
    fn keys(self, path: &str, items: &[Value]) -> Option<Vec<String>> {
        let (root, field) = (first(path), last(path));
        if root == "spec" && !self.merges_spec || path.contains("ingress") {
            return None;
        }
        MERGED
            .iter()
            .filter(|(list, _)| *list == field)
            .find_map(|(_, keys)| items.iter().map(|item| key_of(item, keys)).collect())
    }
}

fn key_of(item: &Value, keys: &[&str]) -> Option<String> {
    if keys.is_empty() {
        return item.as_str().map(str::to_owned);
    }
    let parts = keys.iter().map(|key| match (item.get(*key), *key) {
        (Some(Value::String(text)), _) => Some(text.clone()),
        (Some(value), _) => Some(value.to_string()),
        (None, "protocol") => Some("TCP".to_owned()),
        (None, _) => None,
    });
    Some(parts.collect::<Option<Vec<_>>>()?.join(","))
}

fn first(path: &str) -> &str {
    path.split(STEP).next().unwrap_or_default()
}

fn last(path: &str) -> &str {
    path.rsplit(STEP).next().unwrap_or_default()
}

fn step(path: &str, next: &str) -> String {
    if path.is_empty() { next.to_owned() } else { format!("{path}{STEP}{next}") }
}

fn item(path: &str, key: &str) -> String {
    format!("{path}{STEP}{ITEM}{key}")
}

fn is_one_field(path: &str, map: &Map<String, Value>) -> bool {
    map.is_empty() || ATOMIC.contains(&last(path))
}

/// Every field of the object with its value, but for what the server writes.
pub(crate) fn leaves(object: &Value, shape: Shape) -> BTreeMap<String, &Value> {
    let mut found = BTreeMap::new();
    for (field, value) in object.as_object().into_iter().flatten() {
        match field.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                for (field, value) in value.as_object().into_iter().flatten() {
                    if !OF_THE_SERVER.contains(&field.as_str()) {
                        collect(&step("metadata", field), value, shape, &mut found);
                    }
                }
            }
            _ => collect(field, value, shape, &mut found),
        }
    }
    found
}

fn collect<'a>(
    path: &str,
    value: &'a Value,
    shape: Shape,
    found: &mut BTreeMap<String, &'a Value>,
) {
    match value {
        Value::Null => {}
        Value::Object(map) if !is_one_field(path, map) => {
            for (field, value) in map {
                collect(&step(path, field), value, shape, found);
            }
        }
        Value::Array(items) if !items.is_empty() => match shape.keys(path, items) {
            Some(keys) => {
                for (key, value) in keys.iter().zip(items) {
                    let path = item(path, key);
                    // That the item is there is a field by itself.
                    found.insert(path.clone(), &Value::Null);
                    for (field, value) in value.as_object().into_iter().flatten() {
                        collect(&step(&path, field), value, shape, found);
                    }
                }
            }
            None => drop(found.insert(path.to_owned(), value)),
        },
        _ => drop(found.insert(path.to_owned(), value)),
    }
}

/// Writes every field of `wanted` into `live`.
pub(crate) fn merge(live: &mut Value, wanted: &Value, shape: Shape) -> Result<(), Duplicate> {
    merge_at("", live, wanted, shape)
}

fn merge_at(path: &str, live: &mut Value, wanted: &Value, shape: Shape) -> Result<(), Duplicate> {
    match wanted {
        Value::Null => {}
        Value::Object(fields) if !is_one_field(path, fields) => {
            if !live.is_object() {
                *live = Value::Object(Map::new());
            }
            for (field, wanted) in fields.iter().filter(|(_, wanted)| !wanted.is_null()) {
                merge_at(&step(path, field), &mut live[field.as_str()], wanted, shape)?;
            }
        }
        // An empty map says that it is there, and leaves what is in it.
        Value::Object(fields) if fields.is_empty() && live.is_object() => {}
        Value::Array(items) => match shape.keys(path, items) {
            Some(keys) => merge_items(path, live, items, &keys, shape)?,
            None => *live = wanted.clone(),
        },
        _ => *live = wanted.clone(),
    }
    Ok(())
}

/// What is wanted comes first and in its order, what others added behind it.
fn merge_items(
    path: &str,
    live: &mut Value,
    items: &[Value],
    keys: &[String],
    shape: Shape,
) -> Result<(), Duplicate> {
    let mut others = match live.take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    let mut merged = Vec::with_capacity(items.len());
    let mut seen = BTreeSet::new();
    for (wanted, key) in items.iter().zip(keys) {
        if !seen.insert(key) {
            return Err(Duplicate(format!("{}[{key}]", path.replace(STEP, "."))));
        }
        let found = others.iter().position(|other| {
            shape.keys(path, std::slice::from_ref(other)).is_some_and(|keys| keys[0] == *key)
        });
        let mut value = found.map_or(Value::Null, |index| others.remove(index));
        if wanted.is_object() {
            for (field, wanted) in wanted.as_object().into_iter().flatten() {
                if value.is_null() {
                    value = Value::Object(Map::new());
                }
                let path = step(&item(path, key), field);
                merge_at(&path, &mut value[field.as_str()], wanted, shape)?;
            }
        } else {
            value = wanted.clone();
        }
        merged.push(value);
    }
    merged.append(&mut others);
    *live = Value::Array(merged);
    Ok(())
}

/// Takes the fields out that nobody owns any more, each with what stands around it as far as nobody
/// owns anything there: defaults go with what they were defaults of.
pub(crate) fn remove(object: &mut Value, given_up: &Fields, owners: &Owners, shape: Shape) {
    for path in given_up {
        let steps: Vec<&str> = path.split(STEP).collect();
        let gone = (2..=steps.len())
            .map(|length| steps[..length].join(&STEP.to_string()))
            .find(|prefix| !owners.values().any(|fields| has_below(fields, prefix)));
        if let Some(gone) = gone {
            let steps: Vec<&str> = gone.split(STEP).collect();
            remove_at("", object, &steps, owners, shape);
        }
    }
}

fn has_below(fields: &Fields, prefix: &str) -> bool {
    if fields.contains(prefix) {
        return true;
    }
    let below = format!("{prefix}{STEP}");
    fields.range(below.clone()..).next().is_some_and(|path| path.starts_with(&below))
}

fn remove_at(path: &str, value: &mut Value, steps: &[&str], owners: &Owners, shape: Shape) {
    let [next, rest @ ..] = steps else { return };
    if let Some(key) = next.strip_prefix(ITEM) {
        let Value::Array(items) = value else { return };
        let found = items.iter().position(|other| {
            shape.keys(path, std::slice::from_ref(other)).is_some_and(|keys| keys[0] == key)
        });
        let Some(index) = found else { return };
        if rest.is_empty() {
            items.remove(index);
        } else {
            remove_at(&item(path, key), &mut items[index], rest, owners, shape);
        }
        return;
    }
    let Value::Object(map) = value else { return };
    if rest.is_empty() {
        map.remove(*next);
        return;
    }
    let Some(inner) = map.get_mut(*next) else { return };
    let path = step(path, next);
    remove_at(&path, inner, rest, owners, shape);
    let is_empty = match inner {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    // One that is empty may be just what somebody wants.
    if is_empty && !owners.values().any(|fields| fields.contains(&path)) {
        map.remove(*next);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BUILT_IN: Shape = Shape { merges_spec: true };

    #[test]
    fn items_are_merged_by_their_key_and_others_stay() {
        let mut live = json!({ "spec": { "containers": [
            { "name": "b", "image": "b:1", "env": [{ "name": "X", "value": "1" }] },
            { "name": "other", "image": "o" },
        ]}});
        let wanted = json!({ "spec": { "containers": [
            { "name": "a", "image": "a:1" },
            { "name": "b", "image": "b:2" },
        ]}});
        merge(&mut live, &wanted, BUILT_IN).unwrap();
        let merged = json!({ "spec": { "containers": [
            { "name": "a", "image": "a:1" },
            { "name": "b", "image": "b:2", "env": [{ "name": "X", "value": "1" }] },
            { "name": "other", "image": "o" },
        ]}});
        assert_eq!(live, merged);
    }

    #[test]
    fn two_items_of_one_key_are_refused() {
        let wanted = json!({ "env": [{ "name": "X" }, { "name": "X" }] });
        let Duplicate(at) = merge(&mut json!({}), &wanted, BUILT_IN).unwrap_err();
        assert_eq!(at, "env[X]");
    }

    #[test]
    fn what_is_given_up_goes_with_its_defaults_unless_another_owns_something_there() {
        let probe = json!({ "spec": { "probe": { "path": "/", "timeout": 1 }, "replicas": 1 } });
        let given_up = Fields::from([format!("spec{STEP}probe{STEP}path")]);
        let mut owners =
            Owners::from([("a".into(), Fields::from([format!("spec{STEP}replicas")]))]);
        let mut live = probe.clone();
        remove(&mut live, &given_up, &owners, BUILT_IN);
        assert_eq!(live, json!({ "spec": { "replicas": 1 } }));

        owners.insert("b".into(), Fields::from([format!("spec{STEP}probe{STEP}timeout")]));
        live = probe;
        remove(&mut live, &given_up, &owners, BUILT_IN);
        assert_eq!(live, json!({ "spec": { "probe": { "timeout": 1 }, "replicas": 1 } }));
    }

    #[test]
    fn what_is_wanted_empty_stays_empty() {
        let given_up = Fields::from([format!("spec{STEP}emptyDir{STEP}medium")]);
        let owners = Owners::from([("a".into(), Fields::from([format!("spec{STEP}emptyDir")]))]);
        let mut live = json!({ "spec": { "emptyDir": { "medium": "Memory" } } });
        remove(&mut live, &given_up, &owners, BUILT_IN);
        assert_eq!(live, json!({ "spec": { "emptyDir": {} } }));
    }

    #[test]
    fn lists_of_custom_resources_are_one_field_and_their_conditions_are_not() {
        let object = json!({
            "spec": { "containers": [{ "name": "a" }] },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        let fields = leaves(&object, Shape { merges_spec: false });
        assert!(fields.contains_key(&format!("spec{STEP}containers")));
        assert!(fields.contains_key(&format!("status{STEP}conditions{STEP}{ITEM}Ready")));
    }
}
