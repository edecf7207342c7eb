//! Prints generated services and all that becomes of them, as one list in JSON that `kubectl` takes:
//! `cargo run -p translate --example generated -- NAMESPACE FROM TO`.

use std::io::Write as _;

use serde_json::{Value, json};
use translate::{generated, render, validate};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [namespace, from, to] = &arguments[..] else {
        return Err("say NAMESPACE FROM TO".into());
    };
    let mut items = Vec::new();
    for seed in from.parse()?..to.parse()? {
        let mut case = generated::case(seed);
        case.service.metadata.namespace = Some(namespace.clone());
        let plan = validate(&case.settings, &case.service, &case.inputs())?;
        // No two services have the same uid, and none of these exists.
        let mut service = serde_json::to_value(&case.service)?;
        service["metadata"]["uid"] = Value::Null;
        items.push(service);
        for object in render(&case.settings, &plan) {
            items.push(serde_json::to_value(object)?);
        }
        if let Some(store) = &mut case.store {
            store.metadata.namespace = Some(namespace.clone());
            items.push(serde_json::to_value(store)?);
        }
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    Ok(std::io::stdout().write_all(list.to_string().as_bytes())?)
}
