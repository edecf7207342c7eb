//! The patches that are not apply: merge patches (RFC 7386) and strategic ones.

use serde_json::{Map, Value};

/// Lists that a strategic patch merges, and the field that their items are known by.
const MERGED: [(&str, &[&str]); 8] = [
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("volumes", &["name"]),
    ("env", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("ports", &["containerPort", "port"]),
    ("ownerReferences", &["uid"]),
    ("conditions", &["type"]),
];

/// What a merge patch makes of a value.
pub(crate) fn merge(live: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *live = patch.clone();
        return;
    };
    if !live.is_object() {
        *live = Value::Object(Map::new());
    }
    for (field, patch) in fields {
        if patch.is_null() {
            if let Some(map) = live.as_object_mut() {
                map.remove(field);
            }
        } else {
            merge(&mut live[field.as_str()], patch);
        }
    }
}

/// What a strategic merge patch makes of a value. Of its directives, `$patch: delete` is known.
pub(crate) fn strategic(live: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *live = patch.clone();
        return;
    };
    if !live.is_object() {
        *live = Value::Object(Map::new());
    }
    for (field, patch) in fields {
        match patch {
            Value::Null => {
                if let Some(map) = live.as_object_mut() {
                    map.remove(field);
                }
            }
            Value::Array(items) if MERGED.iter().any(|(list, _)| list == field) => {
                strategic_items(field, &mut live[field.as_str()], items);
                // A list without items is none in the server's types.
                if let Some(map) = live.as_object_mut()
                    && map[field].as_array().is_some_and(Vec::is_empty)
                {
                    map.remove(field);
                }
            }
            Value::Object(_) => strategic(&mut live[field.as_str()], patch),
            _ => live[field.as_str()] = patch.clone(),
        }
    }
}

fn strategic_items(field: &str, live: &mut Value, patches: &[Value]) {
    if !live.is_array() {
        *live = Value::Array(Vec::new());
    }
    let Value::Array(items) = live else { return };
    for patch in patches {
        let keys = MERGED.iter().find(|(list, _)| *list == field).map_or(&[][..], |(_, keys)| keys);
        let key = keys.iter().copied().find(|key| patch.get(key).is_some());
        let found = key.and_then(|key| items.iter().position(|item| item[key] == patch[key]));
        match (found, patch["$patch"] == "delete") {
            (Some(index), true) => drop(items.remove(index)),
            (None, true) => {}
            (Some(index), false) => strategic(&mut items[index], patch),
            (None, false) => items.push(patch.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_removes_and_lists_are_replaced() {
        let mut live = json!({ "a": 1, "b": { "c": [1, 2], "d": 3 } });
        merge(&mut live, &json!({ "a": null, "b": { "c": [4] } }));
        assert_eq!(live, json!({ "b": { "c": [4], "d": 3 } }));
    }

    #[test]
    fn a_strategic_patch_deletes_and_adds_items() {
        let mut live = json!({ "env": [{ "name": "A", "value": "1" }, { "name": "B" }] });
        let patch = json!({ "env": [
            { "name": "A", "$patch": "delete" }, { "name": "B", "value": "2" }, { "name": "C" },
        ]});
        strategic(&mut live, &patch);
        assert_eq!(live, json!({ "env": [{ "name": "B", "value": "2" }, { "name": "C" }] }));
    }
}
