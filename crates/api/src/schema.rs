//! Schemas for the Kubernetes types that our resources embed.
//!
//! Their own texts are left out: with them one resource definition would outgrow the annotation that
//! client-side `kubectl apply` keeps it in (262,144 bytes).

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::contract::container;

/// More containers than this in one pod are a mistake.
pub(crate) const CONTAINERS_MAX: u32 = 16;

/// A name has to have a bound, or else comparing all of them costs more than the API server allows.
const CONTAINER_NAME_MAX: u32 = 63;

/// Containers as in a pod, except that the name may be missing and the image may not.
pub(crate) fn containers(generator: &mut SchemaGenerator) -> Schema {
    let mut container = embedded::<Container>(generator);
    container.insert("required".to_owned(), json!(["image"]));
    if let Some(Value::Object(properties)) = container.get_mut("properties") {
        if let Some(Value::Object(image)) = properties.get_mut("image") {
            image.remove("nullable");
            image.insert("type".to_owned(), json!("string"));
            image.insert("minLength".to_owned(), json!(1));
        }
        if let Some(Value::Object(name)) = properties.get_mut("name") {
            name.insert("maxLength".to_owned(), json!(CONTAINER_NAME_MAX));
        }
        // How a container of ours that stays is told from others, and nothing for the user's.
        properties.remove("restartPolicy");
        properties.remove("restartPolicyRules");
    }
    let mut list = list_of(&container, Some(CONTAINERS_MAX));
    list.insert("x-kubernetes-validations".to_owned(), container_rules());
    list
}

/// What only all containers together can break.
fn container_rules() -> Value {
    let (user, sidecar) = (container::USER, container::SIDECAR);
    json!([
        {
            "rule": "self.all(c, !has(c.name) || c.name == '' || self.exists_one(d, has(d.name) && d.name == c.name))",
            "message": "two containers have the same name: choose another for one of them",
        },
        {
            "rule": format!("!self.exists(c, has(c.name) && c.name == '{sidecar}')"),
            "message": format!("the name {sidecar:?} is that of the sidecar: choose another"),
        },
        {
            "rule": format!(
                "!self.exists(c, has(c.name) && c.name == '{user}') || (has(self[0].name) && self[0].name == '{user}')"
            ),
            "message": format!(
                "the name {user:?} is that of the first container, the user function: choose another"
            ),
        },
        {
            "rule": "self.size() == 0 || self.filter(c, !has(c.name) || c.name == '').size() == (!has(self[0].name) || self[0].name == '' ? 1 : 0)",
            "message": "a container beside the first has no name: only the user function may leave it out",
        },
    ])
}

/// A list of what Kubernetes has, as it stands in a pod.
pub(crate) fn list<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    list_of(&embedded::<T>(generator), None)
}

/// What Kubernetes has, as it stands in a pod. Like every field that may be left out it may be `null`,
/// which templates of YAML write when they have nothing to say.
pub(crate) fn optional<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = embedded::<T>(generator);
    schema.insert("nullable".to_owned(), json!(true));
    schema.into()
}

/// A duration as the original proxy reads them: `1m`, `30s`, `6 seconds`; a bare number is milliseconds.
pub(crate) fn duration(_: &mut SchemaGenerator) -> Schema {
    let units = [
        "ns|nano|nanos|nanosecond|nanoseconds",
        "us|micro|micros|microsecond|microseconds",
        "ms|milli|millis|millisecond|milliseconds",
        "s|second|seconds",
        "m|minute|minutes",
        "h|hour|hours",
        "d|day|days",
    ];
    let pattern = format!(r"^\\s*[0-9]+(\\.[0-9]+)?\\s*({})?\\s*$", units.join("|"));
    object(json!({
        "type": "string",
        "nullable": true,
        "maxLength": 40,
        // A pattern of the schema would be shown instead of what to do.
        "x-kubernetes-validations": [{
            "rule": format!("self.matches('{pattern}')"),
            "message": "is no duration: write a number and a unit, such as 30s, 1m or 6 seconds",
        }],
    }))
    .into()
}

/// An object of any content.
pub(crate) fn free_object(_: &mut SchemaGenerator) -> Schema {
    let schema =
        json!({ "type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true });
    object(schema).into()
}

fn list_of(item: &Map<String, Value>, items_max: Option<u32>) -> Schema {
    let mut list = object(json!({ "type": "array", "items": item }));
    if let Some(items_max) = items_max {
        list.insert("minItems".to_owned(), json!(1));
        list.insert("maxItems".to_owned(), json!(items_max));
    }
    list.into()
}

fn embedded<T: JsonSchema>(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut schema = generator.subschema_for::<T>().to_value();
    strip_descriptions(&mut schema);
    if T::schema_name() == IntOrString::schema_name() {
        bound(&mut schema);
    }
    bound_ports(&mut schema);
    object(schema)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("a Kubernetes object has an object for a schema, not {other}"),
    }
}

/// Numbers of what may be a text as well have no bounds in the schema, and the operator could not read an
/// object with a greater one. Quantities, which look the same there, have none.
fn bound(schema: &mut Value) {
    if schema["x-kubernetes-int-or-string"] == true {
        schema["minimum"] = json!(i32::MIN);
        schema["maximum"] = json!(i32::MAX);
    }
}

fn bound_ports(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(port) = map.get_mut("port") {
                bound(port);
            }
            map.values_mut().for_each(bound_ports);
        }
        Value::Array(items) => items.iter_mut().for_each(bound_ports),
        _ => {}
    }
}

fn strip_descriptions(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // A property of that name would have an object here, not a text.
            if map.get("description").is_some_and(Value::is_string) {
                map.remove("description");
            }
            map.values_mut().for_each(strip_descriptions);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_descriptions),
        _ => {}
    }
}
