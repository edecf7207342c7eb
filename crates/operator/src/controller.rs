//! What is watched, and which service or store each change leads to.

mod service;
mod store;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::contract::{FIELD_MANAGER, label};
use api::{Chain, StatefulService, StatefulStore};
use futures::{StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::controller::{Action, Config, Error as ControllerError};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store, store as cache};
use kube::runtime::{Controller, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin::Readiness;
use crate::config::Settings;
use crate::context::{Caches, Context, Failures, Pace};
use crate::error::Error;
use crate::watch::{self, Change, Trigger, Triggers};

/// Triggers that wait for a controller; watches wait when there are more.
const QUEUE_MAX: usize = 1024;

/// Watches and reconciles until told to stop.
pub(crate) async fn run(
    client: Client,
    settings: Settings,
    ready: Readiness,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (services_tx, services_rx) = mpsc::channel(QUEUE_MAX);
    let (stores_tx, stores_rx) = mpsc::channel(QUEUE_MAX);
    let triggers = Triggers { services: services_tx, stores: stores_tx };
    let mut watches = JoinSet::new();
    let caches = watch_everything(&mut watches, &client, &triggers);

    tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        complete = complete(&caches) => complete?,
    }
    ready.store(true, Ordering::Release);
    info!(services = caches.services.len(), stores = caches.stores.len(), "everything is watched");

    let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: None };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        settings: translate::Settings {
            proxy: translate::settings::Proxy {
                image: translate::settings::Images {
                    no_store: settings.proxy.image.no_store.clone(),
                    in_memory: settings.proxy.image.in_memory.clone(),
                    postgres: settings.proxy.image.postgres.clone(),
                    ..translate::settings::Images::default()
                },
                ..translate::settings::Proxy::default()
            },
            ..translate::Settings::default()
        },
        caches: caches.clone(),
        failures: Failures::default(),
        pace: Pace::default(),
    });
    let config = Config::default().concurrency(settings.concurrency);
    let services = controller(caches.services, services_rx, config.clone(), &shutdown)
        .run(service::reconcile, retry, Arc::clone(&context))
        .for_each(|result| async move { log(result) });
    let stores = controller(caches.stores, stores_rx, config, &shutdown)
        .run(store::reconcile, retry, context)
        .for_each(|result| async move { log(result) });
    tokio::select! {
        ((), ()) = futures::future::join(services, stores) => Ok(()),
        // A watch ends only by a panic, and without it nothing would be noticed any more.
        Some(ended) = watches.join_next() => {
            ended?;
            anyhow::bail!("a watch has ended")
        }
    }
}

fn watch_everything(tasks: &mut JoinSet<()>, client: &Client, triggers: &Triggers) -> Caches {
    let (services, services_writer) = cache();
    let (stores, stores_writer) = cache();
    let everything = Everything { services: services.clone(), stores: stores.clone() };

    let each = everything.clone();
    let on_service = move |change: Change<'_, StatefulService>| match change {
        Change::One(service) => vec![Trigger::Service(ObjectRef::from_obj(service))],
        Change::All => each.triggers(),
    };
    let each = everything.clone();
    let on_store = move |change: Change<'_, StatefulStore>| match change {
        Change::One(store) => each.users_of(store),
        Change::All => each.triggers(),
    };
    let all = Api::all(client.clone());
    watch::start(tasks, all, None, services_writer, triggers.clone(), on_service);
    let all = Api::all(client.clone());
    watch::start(tasks, all, None, stores_writer, triggers.clone(), on_store);
    Caches {
        deployments: watch_children(tasks, client, triggers, &everything),
        addresses: watch_children(tasks, client, triggers, &everything),
        pods: watch_children(tasks, client, triggers, &everything),
        services,
        stores,
    }
}

/// Watches what carries the name of a service in its labels.
fn watch_children<K>(
    tasks: &mut JoinSet<()>,
    client: &Client,
    triggers: &Triggers,
    everything: &Everything,
) -> Store<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (reader, writer) = cache();
    let everything = everything.clone();
    let on_child = move |change: Change<'_, K>| match change {
        Change::One(child) => owners(child),
        Change::All => everything.triggers(),
    };
    let all = Api::all(client.clone());
    watch::start(tasks, all, Some(label::STATEFUL_SERVICE), writer, triggers.clone(), on_child);
    reader
}

/// The services that a child may belong to, by owner reference and by label: a hand may have
/// changed either.
fn owners<K: Resource<DynamicType = ()>>(child: &K) -> Vec<Trigger> {
    let namespace = child.namespace().unwrap_or_default();
    let controller = crate::apply::controller_of(child.meta())
        .filter(|owner| owner.kind == StatefulService::kind(&()))
        .map(|owner| &owner.name);
    let mut names: Vec<&String> =
        controller.into_iter().chain(child.labels().get(label::STATEFUL_SERVICE)).collect();
    names.dedup();
    let trigger = |name: &String| Trigger::Service(ObjectRef::new(name).within(&namespace));
    names.into_iter().map(trigger).collect()
}

/// All services and stores that are known.
#[derive(Clone)]
struct Everything {
    services: Store<StatefulService>,
    stores: Store<StatefulStore>,
}

impl Everything {
    fn triggers(&self) -> Vec<Trigger> {
        let services = self.services.state();
        let stores = self.stores.state();
        services
            .iter()
            .map(|service| Trigger::Service(ObjectRef::from_obj(&**service)))
            .chain(stores.iter().map(|store| Trigger::Store(ObjectRef::from_obj(&**store))))
            .collect()
    }

    /// The store itself, and every service that names it.
    fn users_of(&self, store: &StatefulStore) -> Vec<Trigger> {
        let (name, namespace) = (store.name_any(), store.namespace());
        let users = self.services.state_filter(|service| {
            service.namespace() == namespace
                && service.spec.datastore.as_ref().is_some_and(|datastore| datastore.name == name)
        });
        let users = users.iter().map(|service| Trigger::Service(ObjectRef::from_obj(&**service)));
        users.chain([Trigger::Store(ObjectRef::from_obj(store))]).collect()
    }
}

/// Returns once every cache is filled.
async fn complete(caches: &Caches) -> anyhow::Result<()> {
    let Caches { services, stores, deployments, addresses, pods } = caches;
    services.wait_until_ready().await?;
    stores.wait_until_ready().await?;
    deployments.wait_until_ready().await?;
    addresses.wait_until_ready().await?;
    pods.wait_until_ready().await?;
    Ok(())
}

/// A controller that looks at what the queue says, and stops in order.
fn controller<K>(
    reader: Store<K>,
    queue: mpsc::Receiver<ObjectRef<K>>,
    config: Config,
    shutdown: &CancellationToken,
) -> Controller<K>
where
    K: Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    Controller::for_stream(stream::pending::<watcher::Result<K>>(), reader)
        .with_config(config)
        .reconcile_on(ReceiverStream::new(queue))
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
}

/// When to try again what failed.
#[expect(clippy::needless_pass_by_value, reason = "the controller's shape")]
fn retry<K: Resource<DynamicType = ()>>(object: Arc<K>, _: &Error, ctx: Arc<Context>) -> Action {
    Action::requeue(ctx.failures.next_delay(&object.uid().unwrap_or_default()))
}

fn log<K: Resource<DynamicType = ()>>(
    result: Result<(ObjectRef<K>, Action), ControllerError<Error, watcher::Error>>,
) {
    match result {
        // Deleted between the trigger and the look at it.
        Ok(_) | Err(ControllerError::ObjectNotFound(_)) => {}
        Err(ControllerError::ReconcilerFailed(error, object)) => {
            warn!(%object, error = %Chain(&error), "reconcile failed and is tried again");
        }
        Err(error) => warn!(error = %Chain(&error), "controller stumbled"),
    }
}

/// A whole number of seconds that depends on the object, so that not all are looked at together.
fn spread(uid: &str, seconds_max: u64) -> u64 {
    let sum = uid.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    sum % seconds_max
}
