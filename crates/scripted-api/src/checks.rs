//! What the API server refuses of what the operator may send.

use serde_json::Value;

use crate::kinds::Kind;
use crate::store::Refusal;

/// Looks at an object that is about to be stored.
pub(crate) fn check(kind: Kind, before: Option<&Value>, after: &Value) -> Result<(), Refusal> {
    let name = after["metadata"]["name"].as_str().unwrap_or_default();
    let refuse = |why: &str| {
        let message = format!("{}.{} {name:?} is invalid: {why}", kind.name, kind.group);
        Err(Refusal { code: 422, reason: "Invalid", message })
    };
    let owners = after["metadata"]["ownerReferences"].as_array();
    let controllers =
        owners.into_iter().flatten().filter(|owner| owner["controller"] == true).count();
    if controllers > 1 {
        return refuse(
            "metadata.ownerReferences: Only one reference can have Controller set to true",
        );
    }
    match kind.name {
        "Deployment" => {
            let strategy = &after["spec"]["strategy"];
            if strategy["type"] == "Recreate" && !strategy["rollingUpdate"].is_null() {
                return refuse(
                    "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
                );
            }
            let selector = |object: &Value| object["spec"]["selector"].clone();
            if before.is_some_and(|before| selector(before) != selector(after)) {
                return refuse("spec.selector: field is immutable");
            }
            let labels = &after["spec"]["template"]["metadata"]["labels"];
            let selected = selector(after)["matchLabels"].take();
            let selected = selected.as_object().cloned().unwrap_or_default();
            if selected.is_empty()
                || selected.iter().any(|(key, value)| labels[key.as_str()] != *value)
            {
                return refuse("spec.template.metadata.labels: `selector` does not match");
            }
            if after["spec"]["template"]["spec"]["containers"].as_array().is_none_or(Vec::is_empty)
            {
                return refuse("spec.template.spec.containers: Required value");
            }
        }
        "RoleBinding" if before.is_some_and(|before| before["roleRef"] != after["roleRef"]) => {
            return refuse("roleRef: cannot change roleRef");
        }
        _ => {}
    }
    Ok(())
}
