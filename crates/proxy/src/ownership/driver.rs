//! Carries out what [`Ownership`] says, on the store, the open entities and the proxy's readiness.

use std::{sync::Arc, time::Duration};

use api::{
    Chain,
    contract::{NotReady, reason},
};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::{
    sync::Notify,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Action, Event, How, Ownership, SERVE, Status};
use crate::{
    config::Drain,
    entity::Entities,
    journal::{self, Owner, Shard, Store},
    readiness::{Part, Readiness},
};

/// How long the store may take to say something about the lease.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may take to change the owner: writes under way may hold that up.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long entities may take to end while the next owner waits.
const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(500);

/// Takes part in the ownership of all entities until `stop`, and gives it up then. `drain` says how long
/// entities may take to end after `stop`; `fenced` tells of writes that were.
pub async fn hold(
    store: Arc<dyn Store>,
    entities: Entities,
    readiness: Readiness,
    fenced: Arc<Notify>,
    drain: Drain,
    stop: CancellationToken,
) {
    let (shard, me) = (Shard::WHOLE, Owner(uuid::Uuid::now_v7()));
    let mut changes = store.changes();
    let machine = Ownership::new(shard, me, Instant::now().into_std());
    let (call, ending) = (None, None);
    let mut driver =
        Driver { store, shard, me, entities, readiness, drain, machine, call, ending, left: false };
    let mut event = Event::Woken;
    let mut stopping = false;
    loop {
        driver.on(event);
        if driver.left {
            return;
        }
        event = tokio::select! {
            biased;
            () = stop.cancelled(), if !stopping => { stopping = true; Event::Stop }
            () = at(driver.machine.wake()) => Event::Woken,
            event = finished(&mut driver.call) => event,
            () = finished(&mut driver.ending) => Event::Ended,
            () = fenced.notified() => Event::Hinted,
            Ok(()) = changes.changed() => Event::Hinted,
        };
    }
}

struct Driver {
    store: Arc<dyn Store>,
    shard: Shard,
    me: Owner,
    entities: Entities,
    readiness: Readiness,
    drain: Drain,
    machine: Ownership,
    call: Option<BoxFuture<'static, Event>>,
    ending: Option<BoxFuture<'static, ()>>,
    left: bool,
}

impl Driver {
    fn on(&mut self, event: Event) {
        for action in self.machine.on(event, Instant::now().into_std()) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        let (store, shard, me) = (Arc::clone(&self.store), self.shard, self.me);
        let (question, change) = (QUESTION_TIMEOUT, CHANGE_TIMEOUT);
        match action {
            Action::Ask => {
                self.call(Event::Seen, question, async move { store.ask(shard, me).await });
            }
            Action::Look => {
                self.call(Event::Seen, question, async move { store.lease(shard).await });
            }
            Action::Renew(guard) => {
                self.call(Event::Renewed, question, async move { store.renew(guard).await });
            }
            Action::Claim(seen) => {
                let claim = async move { store.claim(shard, me, &seen).await };
                self.call(Event::Claimed, change, claim);
            }
            Action::Release(guard) => {
                info!(epoch = guard.epoch.0, "the entities are given up");
                self.call(Event::Released, change, async move { store.release(guard).await });
            }
            Action::Begin(guard) => {
                info!(epoch = guard.epoch.0, "this proxy owns the entities");
                self.entities.begin(guard);
            }
            Action::ServeUntil(until) => self.entities.serve_until(until.into()),
            Action::End(how, why) => self.end(how, why),
            Action::Show(status) => self.show(&status),
            Action::Left => self.left = true,
        }
    }

    /// Asks the store; what it says comes as an event.
    fn call<T: 'static>(
        &mut self,
        event: impl FnOnce(Result<T, String>) -> Event + Send + 'static,
        limit: Duration,
        call: impl Future<Output = Result<T, journal::Error>> + Send + 'static,
    ) {
        let call = async move {
            event(match time::timeout(limit, call).await {
                Ok(answer) => answer.map_err(|error| Chain(&error).to_string()),
                Err(_elapsed) => Err(format!("no answer within {limit:?}")),
            })
        };
        self.call = Some(call.boxed());
    }

    fn end(&mut self, how: How, why: &'static str) {
        let limit = match how {
            How::Now => Duration::ZERO,
            How::Soon => HAND_OVER_TIMEOUT,
            How::Drain => self.drain.entities(),
        };
        let entities = self.entities.clone();
        let end = async move {
            if !entities.end(limit, why.to_owned()).await {
                warn!(after = ?limit, "entities were cut that were still busy");
            }
        };
        self.ending = Some(end.boxed());
    }

    fn show(&self, status: &Status) {
        let ready = ready(status);
        match &ready {
            Ok(()) => info!("the store is there and the entities are owned"),
            Err(NotReady { reason, message }) => {
                info!(reason, message, "the entities are not served");
            }
        }
        self.readiness.set(Part::Ownership, ready);
    }
}

/// What an on-call person reads about a status.
fn ready(status: &Status) -> Result<(), NotReady> {
    let (reason, message) = match status {
        Status::Owner => return Ok(()),
        Status::Other { epoch, owned: true } => (
            reason::OWNERSHIP_PENDING,
            format!(
                "another proxy owns the entities in epoch {}: it was asked to hand them over, and is replaced \
                 when it dies",
                epoch.0
            ),
        ),
        Status::Other { epoch, owned: false } => (
            reason::OWNERSHIP_PENDING,
            format!("epoch {} of the entities has ended: it is another proxy's turn", epoch.0),
        ),
        Status::HandingOver => (
            reason::OWNERSHIP_PENDING,
            "another proxy asked for the entities: they are handed over".to_owned(),
        ),
        Status::Fenced => (
            reason::OWNERSHIP_PENDING,
            "another proxy has taken the entities over: this one stands by".to_owned(),
        ),
        Status::StoreAway(why) => (
            reason::STORE_UNREACHABLE,
            format!("the store does not answer ({why}): entities are not served until it does"),
        ),
    };
    Err(NotReady { reason: reason.to_owned(), message })
}

async fn at(when: Option<std::time::Instant>) {
    match when {
        Some(when) => time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits for a future that is there, and takes it away then.
async fn finished<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(running) = future else { return std::future::pending().await };
    let output = running.await;
    *future = None;
    output
}

const _: () = assert!(QUESTION_TIMEOUT.as_millis() < SERVE.as_millis(), "a beat can be repeated");
