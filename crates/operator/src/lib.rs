//! The controller: watches StatefulServices and keeps their objects as translated.
//!
//! One reconcile is five verbs, each a file: `dereference` reads, [`translate::validate`] says no,
//! [`translate::render`] makes objects, `apply` writes them, `report` writes the status. Nothing
//! else talks to the API server, and nothing is kept that could not be read from it again.

mod admin;
mod apply;
mod ask;
mod client;
mod config;
mod context;
mod controller;
mod dereference;
mod diagnose;
mod drift;
mod error;
mod report;
mod status;
mod telemetry;
mod text;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use api::Chain;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

pub use crate::client::connect;
pub use crate::config::Environment;
use crate::config::Settings;

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
    let settings = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        settings = config::load(&client, &environment) => settings?,
    };
    info!(settings = ?settings, namespace = environment.namespace, "configured");
    serve(client, settings, shutdown).await.map_err(|error| Error::Failed(error.into()))
}

async fn serve(
    client: kube::Client,
    settings: Settings,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let admin = admin::Admin::bind(settings.admin.listen).await?;
    let ready = admin.readiness();
    // Dropped, the set ends what is in it.
    let mut admins = JoinSet::new();
    admins.spawn(admin.serve(shutdown.clone()));

    let work = controller::run(client, settings, ready, shutdown.clone());
    tokio::pin!(work);
    let result = tokio::select! {
        biased;
        ended = &mut work => ended,
        // The controllers may wait for what never becomes ready, so they get a deadline.
        () = drained(&shutdown) => Ok(()),
    };
    shutdown.cancel();
    while let Some(ended) = admins.join_next().await {
        ended?;
    }
    result
}

async fn drained(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(DRAIN_TIMEOUT).await;
}
