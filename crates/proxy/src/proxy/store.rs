//! Opens the store that the settings name, however long it takes to be there.

use std::{sync::Arc, time::Duration};

use api::{
    Chain,
    contract::{self, reason},
};
use tracing::{info, warn};

use crate::{
    config::Config,
    journal::{self, Settings, Store},
    readiness::{Part, Readiness},
};

/// Pause after a failed attempt; doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// None when the service has none. A store that is away or refuses is tried again, since somebody else has
/// to do something about it, and can without touching the proxy.
pub(super) async fn open(config: &Config, readiness: &Readiness) -> Option<Arc<dyn Store>> {
    if config.terms.store == contract::Store::None {
        readiness.set(Part::Ownership, Ok(()));
        return None;
    }
    if matches!(config.store, Settings::Memory) {
        warn!("events are kept in memory only: they are gone with this process");
    }
    let service = config.terms.stateful_service.as_deref().unwrap_or_default();
    let (mut pause, mut told) = (PAUSE_MIN, String::new());
    loop {
        match journal::open(&config.store, service).await {
            Ok(store) => {
                info!(store = config.terms.store.as_str(), "the store is open");
                return Some(store);
            }
            Err(error) => {
                let text = Chain(&error).to_string();
                if text != told {
                    warn!(error = text, "the store cannot be opened yet");
                    readiness.deny(Part::Ownership, reason::STORE_UNREACHABLE, &text);
                    told = text;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
