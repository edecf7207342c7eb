//! From the watches to the controllers: what to look at again.

use std::sync::{Arc, PoisonError, RwLock};

use api::{StatefulService, StatefulStore};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;

/// Triggers that wait for a controller; watches wait when there are more.
const QUEUE_MAX: usize = 1024;

/// Something to look at again.
#[derive(Clone, Debug)]
pub(crate) enum Trigger {
    Service(ObjectRef<StatefulService>),
    Store(ObjectRef<StatefulStore>),
    /// A store is gone, and services may be left without.
    StoreGone(Arc<StatefulStore>),
    /// A service of that namespace is gone, and something may be needed no more.
    ServiceGone(String),
}

impl Trigger {
    /// Where to look.
    pub(crate) fn namespace(&self) -> Option<&str> {
        match self {
            Self::Service(service) => service.namespace.as_deref(),
            Self::Store(store) => store.namespace.as_deref(),
            Self::StoreGone(store) => store.metadata.namespace.as_deref(),
            Self::ServiceGone(namespace) => Some(namespace),
        }
    }
}

/// What has to be done after something is gone.
#[derive(Clone, Debug)]
pub(crate) enum Gone {
    Store(Arc<StatefulStore>),
    Service { namespace: String },
}

/// Where triggers go while this process leads. Otherwise they are dropped: who takes over looks at
/// everything anyway.
#[derive(Clone, Debug, Default)]
pub(crate) struct Triggers(Arc<RwLock<Option<Queues>>>);

/// All queues are bounded: a watch waits when one is full.
#[derive(Clone, Debug)]
struct Queues {
    services: mpsc::Sender<ObjectRef<StatefulService>>,
    stores: mpsc::Sender<ObjectRef<StatefulStore>>,
    gone: mpsc::Sender<Gone>,
}

/// The other ends.
pub(crate) struct Work {
    pub(crate) services: mpsc::Receiver<ObjectRef<StatefulService>>,
    pub(crate) stores: mpsc::Receiver<ObjectRef<StatefulStore>>,
    pub(crate) gone: mpsc::Receiver<Gone>,
}

impl Triggers {
    /// From now on triggers come out here.
    pub(crate) fn connect(&self) -> Work {
        let (services, services_rx) = mpsc::channel(QUEUE_MAX);
        let (stores, stores_rx) = mpsc::channel(QUEUE_MAX);
        let (gone, gone_rx) = mpsc::channel(QUEUE_MAX);
        self.set(Some(Queues { services, stores, gone }));
        Work { services: services_rx, stores: stores_rx, gone: gone_rx }
    }

    /// From now on triggers are dropped.
    pub(crate) fn disconnect(&self) {
        self.set(None);
    }

    pub(crate) async fn send(&self, trigger: Trigger) {
        let queues = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(queues) = queues else { return };
        // A closed queue means that this process leads no more.
        let _ = match trigger {
            Trigger::Service(service) => queues.services.send(service).await.is_ok(),
            Trigger::Store(store) => queues.stores.send(store).await.is_ok(),
            Trigger::StoreGone(store) => queues.gone.send(Gone::Store(store)).await.is_ok(),
            Trigger::ServiceGone(namespace) => {
                queues.gone.send(Gone::Service { namespace }).await.is_ok()
            }
        };
    }

    fn set(&self, queues: Option<Queues>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = queues;
    }
}
