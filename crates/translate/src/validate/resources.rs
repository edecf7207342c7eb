//! What containers ask for, and the memory of the sidecar within it.

use api::StatefulServiceSpec;
use api::contract::ProxyKind;
use api::environment::size;
use k8s_openapi::api::core::v1::ResourceRequirements;

use super::findings::Findings;
use super::heap;
use crate::quantity;

const UNIT: u128 = 1_000_000_000;

/// Requests that are quantities, and no more than the limits.
pub(super) fn check(path: &str, given: &ResourceRequirements, findings: &mut Findings) {
    let limits = given.limits.iter().flatten();
    for (kind, list) in [("limits", &given.limits), ("requests", &given.requests)] {
        for (name, quantity) in list.iter().flatten() {
            if quantity::parse(quantity).is_none() {
                let fault = format!(
                    "is {:?}, which is no quantity: set it to e.g. \"500m\" or \"128Mi\"",
                    quantity.0
                );
                findings.field(format!("{path}.{kind}.{name}"), fault);
            }
        }
    }
    for (name, limit) in limits {
        let Some(request) = given.requests.as_ref().and_then(|requests| requests.get(name)) else {
            continue;
        };
        if let (Some(most), Some(least)) = (quantity::parse(limit), quantity::parse(request))
            && least > most
        {
            let fault = format!(
                "is {:?}, more than {path}.limits.{name}, which is {:?}: ask for less, or raise the limit",
                request.0, limit.0
            );
            findings.field(format!("{path}.requests.{name}"), fault);
        }
    }
}

/// Resources of the sidecar, and the memory that it is to keep to.
pub(super) fn check_sidecar(spec: &StatefulServiceSpec, kind: ProxyKind, findings: &mut Findings) {
    let limit = spec.sidecar_resources.as_ref().and_then(|given| {
        check("spec.sidecarResources", given, findings);
        given.limits.as_ref()?.get("memory")
    });
    let Some(text) = &spec.sidecar_jvm_memory else { return };
    let path = "spec.sidecarJvmMemory";
    match size(text) {
        Err(refusal) if text.is_empty() => {
            findings
                .field(path, format!("is empty: set it to {}, or leave it out", refusal.expected));
        }
        Err(refusal) => {
            findings.field(path, format!("is {text:?}: set it to {}", refusal.expected));
        }
        Ok(memory) => {
            let limit = limit.and_then(|limit| Some((limit, quantity::parse(limit)?)));
            if let Some((limit, most)) = limit
                && u128::from(memory.bytes()) * UNIT >= most
            {
                let bytes = u64::try_from(most / UNIT).unwrap_or(u64::MAX);
                let advice = match heap::largest(kind, memory.bytes(), bytes) {
                    Some(largest) => format!(
                        "set it to at most {}m, the largest that fits, or raise the limit",
                        largest >> 20
                    ),
                    None => "raise the limit, since nothing fits into it".to_owned(),
                };
                let fault = format!(
                    "is {text:?}, and the sidecar may use no more than spec.sidecarResources.limits.memory, which is {:?}, for everything: {advice}",
                    limit.0
                );
                findings.field(path, fault);
            }
        }
    }
}
