//! One life of the proxy: open the management port, discover, claim the store, serve, drain.

use std::{io, net::SocketAddr, sync::Arc};

use api::{
    Chain,
    contract::{NotReady, Store, reason},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    action::Actions,
    admin,
    config::Config,
    discovery::{self, Refused},
    entity::{Context, Entities},
    journal::{self, Batcher, Epochs as _, Guard, Memory, Owner, Shard},
    readiness::{Part, Readiness},
    report::Reporter,
    route::Routes,
    router::Router,
    serve::{Edge, connections},
    user_function::UserFunction,
};

/// Answers that may wait for the router after their callers have left.
const ORPHANS_MAX: usize = 1_024;

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
        source: tonic::transport::Error,
    },
    /// The user function describes itself in a way that cannot be served.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store cannot be taken over.
    #[error("failed to claim the store")]
    Store(#[from] journal::Error),
}

impl Error {
    /// What to tell whoever looks at the pod; none when starting again may help.
    pub fn refusal(&self) -> Option<NotReady> {
        let reason = match self {
            Self::Refused(_) => reason::USER_FUNCTION_REFUSED,
            Self::Address { .. } => reason::CONFIGURATION_REFUSED,
            Self::Listen { .. } | Self::Store(_) => return None,
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
    let readiness = Readiness::starting();
    let management = listen(config.management).await?;
    let alive = CancellationToken::new();
    let told = readiness.clone();
    let answer = move |request| {
        let response = admin::answer(&told.now(), &request);
        async move { Ok(response) }
    };
    tokio::spawn(connections::serve(management, answer, alive.clone(), config.drain));
    let _alive = alive.drop_guard();

    let user_function =
        UserFunction::new(config.user_function.clone(), config.user_function_message_size_max)
            .map_err(|source| Error::Address { address: config.user_function.clone(), source })?;
    let routes = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        routes = discovery::discover(&user_function, &config.terms, &readiness) => routes?,
    };
    readiness.set(Part::UserFunction, Ok(()));
    serve(&config, user_function, routes, &readiness, stop).await
}

async fn serve(
    config: &Config,
    user_function: UserFunction,
    discovered: Routes,
    readiness: &Readiness,
    stop: CancellationToken,
) -> Result<(), Error> {
    if config.terms.store == Store::InMemory {
        warn!("events are kept in memory only: they are gone with this process");
    }
    let journal = Memory::default();
    let shard = Shard::WHOLE;
    let seen = journal.lease(shard).await?;
    let owner = Owner(uuid::Uuid::now_v7());
    let epoch = journal.claim(shard, owner, &seen).await?.expect("nobody else has this memory");
    let reporter = Reporter::start(&user_function);
    let journal: Arc<dyn journal::Store> = Arc::new(journal);
    let actions = Actions::new(user_function.clone());
    let (orphans, orphaned) = mpsc::channel(ORPHANS_MAX);
    let entities = Entities::new(Context {
        writes: Batcher::new(&journal, config.entities.append),
        journal,
        user_function,
        reporter: reporter.clone(),
        orphans,
        limits: config.entities,
    });
    entities.begin(Guard { shard, epoch });
    readiness.set(Part::Ownership, Ok(()));
    let router = Router::new(discovered, entities.clone(), actions, reporter, config.edge.call);
    router.adopt(orphaned);
    let edge = Edge::new(router.clone(), config.edge);
    let listener = listen(config.listen).await?;
    readiness.set(Part::Edge, Ok(()));
    info!(address = %config.listen, "ready");

    let answer = move |request| edge.clone().answer(request);
    let draining = async {
        stop.cancelled().await;
        let finishes = "the proxy finishes what is under way";
        readiness.deny(Part::Staying, reason::DRAINING, finishes);
    };
    tokio::join!(draining, connections::serve(listener, answer, stop.clone(), config.drain));
    if !router.stop(config.drain).await {
        warn!(after = ?config.drain, "side effects and forwards were cut that were still under way");
    }
    if !entities.end(config.drain).await {
        warn!(after = ?config.drain, "entities were cut that were still busy");
    }
    info!("drained");
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}
