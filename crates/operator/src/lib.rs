//! The controller: watches StatefulServices and keeps their objects as translated.
//!
//! One reconcile is five verbs, each a file: `dereference` reads, [`translate::validate`] says no,
//! [`translate::render`] makes objects, `apply` writes them, `report` writes the status. Nothing
//! else talks to the API server, and nothing is kept that could not be read from it again.

mod admin;
mod apply;
mod ask;
mod budget;
mod cache;
mod calls;
mod client;
mod config;
mod context;
mod controller;
mod dereference;
mod diagnose;
mod drift;
mod error;
mod leadership;
mod lease;
mod left_over;
mod malformed;
mod metrics;
mod origin;
#[cfg_attr(
    not(feature = "planted"),
    allow(dead_code, unreachable_pub, reason = "nothing is planted, and nobody else plants")
)]
mod planted;
mod publish;
mod readiness;
mod report;
mod reported;
mod review;
mod scope;
mod scopes;
mod secrets;
mod server;
mod status;
mod telemetry;
mod text;
mod throttle;
mod trigger;
mod watch;

use std::future::Future;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Chain;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

pub use crate::client::connect;
pub use crate::config::Environment;
#[cfg(feature = "planted")]
pub use crate::planted::{Bug, plant};

use crate::apply::Waiting;
use crate::ask::Asks;
use crate::calls::Calls;
use crate::config::{Rate, Source};
use crate::context::{Failures, GivenUp, LeftAlone, Pace, Shared};
use crate::leadership::{Leadership, elect};
use crate::metrics::Metrics;
use crate::publish::Publisher;
use crate::readiness::Readiness;
use crate::reported::Reported;
use crate::secrets::Secrets;
use crate::server::Server;

/// How long what is being done may take after SIGTERM. Less than the pod's grace period.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the operator ended though nobody told it to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What it is told cannot be used.
    #[error("configuration refused")]
    Configuration(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What it needs cannot be had.
    #[error("the operator cannot go on")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// What the program ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) => api::contract::exit::CONFIG,
            Self::Failed(_) => api::contract::exit::FAILURE,
        }
    }
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        match error {
            config::Error::Unreadable { .. } => Self::Failed(Box::new(error)),
            refused => Self::Configuration(Box::new(refused)),
        }
    }
}

/// The program: runs until SIGTERM or SIGINT.
pub fn run() -> ExitCode {
    telemetry::install();
    // Exactly one provider is in the program, but nothing says so to rustls unless we do.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        error!("a TLS provider was installed before");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(error = %Chain(&error), "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run_until_signal());
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended {
        Ok(()) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            error!(error = %Chain(&error), "stopped");
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run_until_signal() -> Result<(), Error> {
    let environment = Environment::read()?;
    let failed = |error: std::io::Error| Error::Failed(Box::new(error));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let client = client::infer().await.map_err(|error| Error::Failed(error.into()))?;

    let shutdown = CancellationToken::new();
    let work = run_with(client, environment, shutdown.clone());
    tokio::pin!(work);
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut work => return ended,
    }
    info!("stopping");
    shutdown.cancel();
    work.await
}

/// The operator as a whole, in this process: returns once `shutdown` is cancelled, or when it
/// cannot go on.
///
/// # Errors
/// Settings that are refused, and what the operator cannot do without.
///
/// # Cancel safety
/// Dropped, it stops at once and leaves nothing running, as if the process had been killed.
pub async fn run_with(
    client: kube::Client,
    environment: Environment,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let metrics = Metrics::new();
    // What it says before it leads is about itself.
    let unguarded =
        Publisher::new(client.clone(), Calls::new(Leadership::forever(), Rate::default()));
    let source = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        source = config::open(client.clone(), environment.clone(), metrics.clone(), &unguarded) => {
            source?
        }
    };
    serve(client, environment, source, metrics, shutdown)
        .await
        .map_err(|error| Error::Failed(error.into()))
}

async fn serve(
    client: kube::Client,
    environment: Environment,
    source: Source,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let live = source.live();
    let settings = live.now();
    let readiness = Readiness::default();
    let admin =
        admin::Admin::bind(settings.admin.listen, readiness.clone(), metrics.clone()).await?;
    let leadership =
        if settings.leader_election { Leadership::none() } else { Leadership::forever() };
    let calls = Calls::new(leadership.clone(), settings.calls);
    let publisher = Publisher::new(client.clone(), calls.clone());

    // Dropped, the set ends what is in it.
    let mut aside = JoinSet::new();
    aside.spawn(admin.serve(shutdown.clone()));
    aside.spawn(until(shutdown.clone(), source.follow(publisher.clone())));
    let leadership_metrics = metrics.clone();
    aside.spawn(until(
        shutdown.clone(),
        leadership.clone().tell(move |leads| leadership_metrics.leads(leads)),
    ));
    let done = CancellationToken::new();
    if settings.leader_election {
        let Environment { namespace, identity, .. } = environment.clone();
        aside.spawn(elect(client.clone(), namespace, identity, leadership.clone(), done.clone()));
    }
    let server = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        server = Server::ask(&client) => server,
    };
    aside.spawn(until(shutdown.clone(), server.clone().follow(client.clone())));
    let shared = Arc::new(Shared {
        client,
        calls,
        publisher,
        live,
        server,
        namespace: environment.namespace,
        leadership,
        readiness,
        metrics,
        failures: Failures::default(),
        left_alone: LeftAlone::default(),
        reported: Reported::default(),
        pace: Pace::default(),
        waiting: Waiting::default(),
        asks: Asks::default(),
        given_up: GivenUp::default(),
        secrets: Secrets::default(),
        throttle: Mutex::default(),
    });
    let work = scopes::run(&shared, &shutdown);
    tokio::pin!(work);
    let result = tokio::select! {
        biased;
        ended = &mut work => ended,
        // What is being done may wait for what never comes, so it gets a deadline.
        () = drained(&shutdown) => Ok(()),
    };
    shutdown.cancel();
    // Only now may another lead.
    done.cancel();
    while let Some(ended) = aside.join_next().await {
        ended?;
    }
    result
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await;
}

async fn drained(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(DRAIN_TIMEOUT).await;
}
