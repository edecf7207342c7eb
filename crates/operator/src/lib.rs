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
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::{Environment, Settings};

/// How long what is being done may take after SIGTERM. Less than the pod's grace period.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT.
pub fn run() -> ExitCode {
    telemetry::install();
    // Exactly one provider is in the program, but nothing says so to rustls unless we do.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        error!("a TLS provider was installed before");
        return ExitCode::FAILURE;
    }
    let environment = match Environment::read() {
        Ok(environment) => environment,
        Err(error) => return refuse(&error),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(error = %Chain(&error), "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(start(environment));
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn start(environment: Environment) -> ExitCode {
    let client = match client::connect().await {
        Ok(client) => client,
        Err(error) => {
            error!(error = %Chain(&*error), "no way to the API server: set KUBECONFIG, or run in a pod with a service account");
            return ExitCode::FAILURE;
        }
    };
    let settings = match config::load(&client, &environment).await {
        Ok(settings) => settings,
        Err(error @ config::Error::Unreadable { .. }) => {
            error!(error = %Chain(&error), "configuration cannot be read");
            return ExitCode::FAILURE;
        }
        Err(error) => return refuse(&error),
    };
    info!(settings = ?settings, namespace = environment.namespace, "configured");
    match serve(client, settings).await {
        Ok(()) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            error!(error = %Chain(&*error), "stopped");
            ExitCode::FAILURE
        }
    }
}

async fn serve(client: kube::Client, settings: Settings) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let admin = admin::Admin::bind(settings.admin.listen).await?;
    let ready = admin.readiness();
    let admin = tokio::spawn(admin.serve(shutdown.clone()));

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let work = controller::run(client, settings, ready, shutdown.clone());
    tokio::pin!(work);
    let ended = tokio::select! {
        biased;
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = &mut work => Some(ended),
    };
    info!("stopping");
    shutdown.cancel();
    let result = match ended {
        Some(ended) => ended,
        // The controllers may wait for what never becomes ready, so they get a deadline.
        None => tokio::time::timeout(DRAIN_TIMEOUT, work).await.unwrap_or(Ok(())),
    };
    admin.await?;
    result
}

fn refuse(error: &config::Error) -> ExitCode {
    error!(error = %Chain(error), "configuration refused");
    ExitCode::from(api::contract::exit::CONFIG)
}
