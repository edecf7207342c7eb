//! What has to be known besides the service itself.

use api::StatefulStore;
use api::contract::Store;

/// What was read for one service.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The store that `spec.datastore.name` names, if it exists.
    pub store: Option<StatefulStore>,
}

/// The operator's settings, as far as they reach into the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Image of the sidecar of services without a store.
    pub image_no_store: String,
    /// Image of the sidecar of services with a store of type `InMemory`.
    pub image_in_memory: String,
    /// Image of the sidecar of services with a store of type `Postgres`.
    pub image_postgres: String,
}

impl Settings {
    /// The sidecar's image for that store.
    pub fn image(&self, store: Store) -> &str {
        match store {
            Store::None | Store::Sqlite => &self.image_no_store,
            Store::InMemory => &self.image_in_memory,
            Store::Postgres => &self.image_postgres,
        }
    }
}
