//! Opens the store that the settings name.

use std::sync::Arc;

use api::contract;
use tracing::warn;

use crate::{
    config::Config,
    journal::{Memory, Store},
    readiness::{Part, Readiness},
};

/// None when the service has none.
pub(super) fn open(config: &Config, readiness: &Readiness) -> Option<Arc<dyn Store>> {
    if config.terms.store == contract::Store::None {
        readiness.set(Part::Ownership, Ok(()));
        return None;
    }
    warn!("events are kept in memory only: they are gone with this process");
    Some(Arc::new(Memory::default()))
}
