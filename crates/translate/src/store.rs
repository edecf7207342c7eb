//! Which store a StatefulStore is.

use api::StatefulStore;
use api::contract::Store;
use kube::ResourceExt;

use crate::Problem;

/// The stores that `spec.type` may name.
const TYPES: [Store; 1] = [Store::InMemory];

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
        .find(|known| store_type(*known) == value)
        .ok_or(Problem::StoreTypeUnknown { store, value })
}

/// What `spec.type` says for that store; nothing for none.
pub fn store_type(store: Store) -> &'static str {
    match store {
        // A file beside a proxy is none of what a cluster has.
        Store::None | Store::Sqlite => "",
        Store::InMemory => "InMemory",
        Store::Postgres => "Postgres",
    }
}

/// The types as a list for messages.
pub(crate) fn supported() -> String {
    TYPES.map(|store| format!("{:?}", store_type(store))).join(", ")
}
