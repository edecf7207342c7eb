//! One life of the proxy: open the management port, discover, open the store, serve while the entities
//! are owned, drain, hand over.

mod edge;
mod store;

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use api::{
    Chain,
    contract::{NotReady, exit, reason},
};
use futures::FutureExt as _;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    action::Actions,
    admin::Desk,
    budget::Budget,
    config::Config,
    discovery::{Discovery, Outdated, Refused},
    ending::{Ending, Outcome},
    entity::{Context, Entities, Turns},
    journal::{Batcher, Memory, Store},
    metrics::{self, Metrics, Sources},
    ownership,
    readiness::{Part, Readiness},
    report::Reporter,
    route::Routes,
    router::Router,
    serve::{
        Edge, connections,
        unread::{Peer, Total},
    },
    user_function::{AddressError, UserFunction},
};

/// Bytes of answers about health that nobody has read.
const MANAGEMENT_UNREAD_MAX: usize = 1 << 20;
/// What follows from calls that took all the time there was gets this much more.
const FOLLOW_MIN: Duration = Duration::from_secs(1);
/// Answers that may wait for the router after their callers have left.
const ORPHANS_MAX: usize = 1_024;
const FINISHES: &str = "the proxy finishes what is under way";

/// Why the proxy leaves.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port is taken, or may not be opened.
    #[error("failed to listen on {address}: free the port or choose another one")]
    Listen {
        /// The address as configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The user function's address makes no sense.
    #[error("the user function's address {address:?} is not host:port: set USER_FUNCTION_HOST")]
    Address {
        /// As configured.
        address: String,
        /// What is wrong with it.
        source: AddressError,
    },
    /// The user function describes itself in a way that cannot be served.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A part of the proxy broke down.
    #[error("the keeper of the ownership broke down")]
    Panicked(#[source] tokio::task::JoinError),
    /// The user function describes itself in another way than when the proxy started.
    #[error("the user function describes other entities than before: the proxy starts afresh")]
    Changed,
    /// The proxy was held, and is to serve again.
    #[error("the proxy was held and is to serve again: it starts afresh")]
    Resumed,
}

impl Error {
    /// What the process leaves with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Changed | Self::Resumed => exit::RESTART,
            Self::Refused(_) | Self::Address { .. } => exit::CONFIG,
            Self::Listen { .. } | Self::Panicked(_) => exit::FAILURE,
        }
    }

    /// What to tell whoever looks at the pod; none when starting again may help.
    pub fn refusal(&self) -> Option<NotReady> {
        let reason = match self {
            Self::Refused(_) => reason::USER_FUNCTION_REFUSED,
            Self::Address { .. } => reason::CONFIGURATION_REFUSED,
            Self::Listen { .. } | Self::Changed | Self::Resumed | Self::Panicked(_) => {
                return None;
            }
        };
        let message = Chain(self).to_string();
        Some(NotReady { reason: reason.to_owned(), message })
    }
}

/// Serves until `stop`, then lets everything under way finish.
///
/// # Errors
/// [`Error`] says what keeps the proxy from serving.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    run_on(config, None, stop).await
}

/// The same on a store that is open already, instead of the one that the settings name.
///
/// # Errors
/// [`Error`] says what keeps the proxy from serving.
pub async fn run_on(
    config: Config,
    store: Option<Arc<dyn Store>>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let readiness = Readiness::starting();
    let management = listen(config.management).await?;
    let alive = CancellationToken::new();
    let sources: Arc<OnceLock<Sources>> = Arc::default();
    // What ends the service from within drains it as a stop from outside does.
    let ending = Ending::new(stop);
    let stop = ending.stop();
    let desk = Desk::new(&config, readiness.clone(), Arc::clone(&sources), ending.clone());
    let answer =
        move |request, peer: Arc<Peer>| desk.clone().answer(request, peer.address().ip()).map(Ok);
    let unread = Arc::new(Total::new(MANAGEMENT_UNREAD_MAX));
    tokio::spawn(connections::serve(
        management,
        answer,
        Arc::clone(&unread),
        alive.clone(),
        config.drain.clone(),
        None,
        connections::CALLS_MAX,
    ));
    let told = Arc::clone(&sources);
    let answer = move |request, _peer| {
        let response = metrics::answer(told.get(), &request);
        async move { Ok(response) }
    };
    let metrics = listen(config.metrics).await?;
    tokio::spawn(connections::serve(
        metrics,
        answer,
        unread,
        alive.clone(),
        config.drain.clone(),
        None,
        connections::CALLS_MAX,
    ));
    let _alive = alive.drop_guard();

    let user_function = UserFunction::new(&config.user_function, config.user_function_limits)
        .map_err(|source| Error::Address { address: config.user_function.clone(), source })?;
    let mut discovery =
        Discovery::new(user_function.clone(), config.terms.clone(), readiness.clone());
    let opened = async {
        match store {
            Some(store) => Ok(Some(store)),
            None => Ok(store::open(&config, &readiness).await),
        }
    };
    let ((routes, described), store) = tokio::select! {
        biased;
        () = stop.cancelled() => {
            readiness.deny(Part::Staying, reason::DRAINING, FINISHES);
            return ended(&ending).await;
        }
        both = async { tokio::try_join!(discovery.discover(), opened) } => both?,
    };
    let serving = async {
        let served =
            serve(&config, user_function, routes, store, &readiness, &sources, stop.clone()).await;
        stop.cancel();
        served
    };
    let outdated = async {
        let outdated = stop.run_until_cancelled(discovery.watch(&described)).await;
        stop.cancel();
        outdated
    };
    match tokio::join!(serving, outdated) {
        (Err(error), _) => Err(error),
        (Ok(()), None) => ended(&ending).await,
        (Ok(()), Some(Outdated::Changed)) => Err(Error::Changed),
        (Ok(()), Some(Outdated::Refused(refused))) => Err(refused.into()),
    }
}

/// Leaves, once that is wanted.
async fn ended(ending: &Ending) -> Result<(), Error> {
    match ending.outcome().await {
        Outcome::Leave => Ok(()),
        Outcome::Resume => Err(Error::Resumed),
    }
}

async fn serve(
    config: &Config,
    user_function: UserFunction,
    discovered: Routes,
    store: Option<Arc<dyn Store>>,
    readiness: &Readiness,
    sources: &OnceLock<Sources>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let metrics = Metrics::new(&discovered);
    let store = store.map(|store| -> Arc<dyn Store> { Arc::new(metrics.measure(store)) });
    // Without a store no entity is ever opened, so nothing is ever kept in this one.
    let journal = store.clone().unwrap_or_else(|| Arc::new(Memory::default()));
    let writes = Batcher::new(&journal, config.entities.append);
    let fenced = writes.fenced();
    let reporter = Reporter::start(&user_function);
    let actions = Actions::new(user_function.clone());
    let (orphans, orphaned) = mpsc::channel(ORPHANS_MAX);
    let budget = Budget::new(config.memory);
    let entities = Entities::new(Context {
        journal,
        writes,
        user_function: user_function.clone(),
        metrics: metrics.clone(),
        reporter: reporter.clone(),
        orphans,
        turns: Turns::new(config.entities.replays, &budget),
        budget: budget.clone(),
        limits: config.entities,
    });
    let looked_at = Sources {
        metrics: metrics.clone(),
        user_function,
        entities: entities.clone(),
        readiness: readiness.clone(),
        reporter: reporter.clone(),
        services: discovered.served(),
    };
    // Nobody else sets it.
    drop(sources.set(looked_at));
    let router = Router::new(discovered, entities.clone(), actions, reporter, config.edge.call);
    let no_more = CancellationToken::new();
    let adopting = router.adopt(orphaned, no_more.clone());
    let calls = budget.calls().clone();
    let edge = Edge::new(router.clone(), readiness.clone(), metrics, calls, config.edge);
    let leave = CancellationToken::new();
    let owning = store.map(|store| {
        let (entities, readiness) = (entities.clone(), readiness.clone());
        let drain = config.drain.clone();
        let hold = ownership::hold(store, entities, readiness, fenced, drain, leave.clone());
        tokio::spawn(hold)
    });
    let mut serving = pin!(edge::serve(config, edge, readiness, stop.clone()));
    let (served, finish_by) = tokio::select! {
        // First, since an edge without calls ends at once: what is left to do then takes its time, too.
        biased;
        () = stop.cancelled() => {
            readiness.deny(Part::Staying, reason::DRAINING, FINISHES);
            let finish_by = Instant::now() + config.drain.time();
            (serving.await, finish_by)
        }
        served = &mut serving => (served, Instant::now() + config.drain.time()),
    };
    let left = finish_by.saturating_duration_since(Instant::now()).max(FOLLOW_MIN);
    if !router.stop(left).await {
        warn!(after = ?left, "side effects and forwards were cut that were still under way");
    }
    // Last of all, so that the next owner finds nothing under way, and at once.
    leave.cancel();
    if let Some(owning) = owning {
        owning.await.map_err(Error::Panicked)?;
    }
    // Entities that ended last may have said what is to be done for callers that were gone.
    no_more.cancel();
    let left = finish_by.saturating_duration_since(Instant::now()).max(FOLLOW_MIN);
    let followed = async {
        drop(adopting.await);
        // What nobody waited for is a task of its own.
        router.stop(left).await
    };
    if !time::timeout(left, followed).await.unwrap_or(false) {
        warn!(after = ?left, "effects of commands whose callers had left were cut");
    }
    info!("drained");
    served
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}
