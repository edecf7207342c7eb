//! Which store a StatefulStore is.

use api::StatefulStore;
use api::contract::Store;
use kube::ResourceExt;

use crate::Problem;

/// The types that `spec.type` may name.
const TYPES: [(&str, Store); 1] = [("InMemory", Store::InMemory)];

/// Which store this is.
///
/// # Errors
/// The type is missing or not one of ours.
pub fn validate_store(object: &StatefulStore) -> Result<Store, Problem> {
    let store = object.name_any();
    let Some(value) = object.spec.kind.clone() else {
        return Err(Problem::StoreTypeUnspecified { store });
    };
    TYPES
        .into_iter()
        .find_map(|(name, kind)| (name == value).then_some(kind))
        .ok_or(Problem::StoreTypeUnknown { store, value })
}

/// The types as a list for messages.
pub(crate) fn supported() -> String {
    TYPES.map(|(name, _)| format!("{name:?}")).join(", ")
}
