//! Which store there is, and opening it.

use std::{path::PathBuf, sync::Arc};

use super::{Error, Memory, Postgres, Sqlite, Store, postgres};

/// Which store keeps the entities, and how it is reached.
#[derive(Clone, Debug)]
pub enum Settings {
    /// The proxy's own memory.
    Memory,
    /// A file.
    Sqlite(PathBuf),
    /// A database.
    Postgres(Box<postgres::Settings>),
}

/// Opens the store, in one attempt. `service` tells apart the leases of several services in one store.
///
/// # Errors
/// When the store is away or refuses. Any of that may have changed at the next attempt: somebody may have
/// started the server, granted a right, created a table.
pub async fn open(settings: &Settings, service: &str) -> Result<Arc<dyn Store>, Error> {
    Ok(match settings {
        Settings::Memory => Arc::new(Memory::default()),
        Settings::Sqlite(path) => Arc::new(Sqlite::open(path.clone(), service).await?),
        Settings::Postgres(settings) => {
            Arc::new(Postgres::open((**settings).clone(), service).await?)
        }
    })
}
