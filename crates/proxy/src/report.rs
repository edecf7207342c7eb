//! Tells the developer of a user function, through the protocol's `reportError` and our log, of what
//! the user function does wrong.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use protocol::cloudstate::{UserFunctionError, entity_discovery_client::EntityDiscoveryClient};
use tokio::{sync::mpsc, time};
use tracing::{debug, warn};

use crate::user_function::UserFunction;

/// Reports that may wait; what comes on top is in the log only.
const WAITING: usize = 64;
/// Reports that are kept for whoever looks.
const KEPT: usize = 32;
/// How long the user function may take for one.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A handle for whoever notices something; clones share the queue.
#[derive(Clone, Debug)]
pub struct Reporter {
    queue: mpsc::Sender<String>,
    recent: Arc<Mutex<VecDeque<(SystemTime, String)>>>,
}

impl Reporter {
    /// Starts to hand on reports; ends when all handles are gone.
    pub fn start(user_function: &UserFunction) -> Self {
        let (queue, mut reports) = mpsc::channel::<String>(WAITING);
        let mut client = EntityDiscoveryClient::new(user_function.stranger());
        tokio::spawn(async move {
            while let Some(message) = reports.recv().await {
                let call = client.report_error(UserFunctionError { message });
                if !matches!(time::timeout(TIMEOUT, call).await, Ok(Ok(_))) {
                    debug!("the user function did not take a report");
                }
            }
        });
        Self { queue, recent: Arc::default() }
    }

    /// Logs what happened and tells the user function, which need not listen.
    pub fn report(&self, message: String) {
        warn!(message, "the user function broke the protocol");
        self.hand_on(message);
    }

    /// The same for what is in the log already.
    pub fn hand_on(&self, message: String) {
        {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.truncate(KEPT - 1);
            recent.push_front((SystemTime::now(), message.clone()));
        }
        if self.queue.try_send(message).is_err() {
            debug!("a report was not handed on, since too many wait");
        }
    }

    /// The last reports, the newest first.
    pub fn recent(&self) -> Vec<(SystemTime, String)> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
