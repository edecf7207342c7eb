//! The proxy's program: settings, log, signals, last words, exit code.

use std::{fs, num::NonZero, path::Path, process::ExitCode, thread};

use api::{
    Chain,
    contract::{NotReady, exit, reason},
    environment::termination_path,
};
use proxy::{
    config::{self, Config},
    log,
};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Without huge pages: they would double what an idle proxy holds, and calls are no faster with them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let environment = config::process_environment();
    let termination_path = termination_path(environment.iter().cloned());
    let (code, refusal) = match config::load(environment) {
        Ok((config, warnings)) => {
            log::start(config.log_level);
            for warning in warnings {
                warn!(warning, "odd setting");
            }
            match serve(config) {
                Ok(()) => return ExitCode::SUCCESS,
                Err(error) => {
                    error!(error = %Chain(&*error), "the proxy leaves");
                    let known = error.downcast_ref::<proxy::Error>();
                    let code = known.map_or(exit::FAILURE, proxy::Error::exit_code);
                    (code, known.and_then(proxy::Error::refusal))
                }
            }
        }
        Err(problems) => {
            log::start("info");
            error!(error = %problems, "the settings are refused");
            let reason = reason::CONFIGURATION_REFUSED.to_owned();
            (exit::CONFIG, Some(NotReady { reason, message: problems.to_string() }))
        }
    };
    if let (Some(why), Some(path)) = (refusal, termination_path) {
        leave_words(&path, &why);
    }
    code.into()
}

/// Runs the proxy on its threads: half of the processors, since the user function works beside it. A call
/// goes through several tasks, and to wake one on another thread costs more than most of them do.
///
/// Where that is one thread, it is one that runs its tasks in turn: what became ready together is done
/// before a connection gets its turn, which then sends all of it in one go. A runtime for several threads
/// would run each task right behind the one that woke it, and so make a system call for each message.
fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let mut builder = match processors.div_ceil(2) {
        1 => runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    let runtime = builder.enable_all().build()?;
    let ended = runtime.block_on(run(config));
    // Nothing that still blocks a thread is worth waiting for.
    runtime.shutdown_background();
    ended
}

async fn run(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %config.listen,
        management = %config.management,
        user_function = config.user_function,
        store = config.terms.store.as_str(),
        passivation = ?config.entities.passivation,
        "proxy starts"
    );
    // What is secret does not show.
    info!(settings = ?config, "effective settings");
    let stop = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = stop.clone();
    let told_twice = async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        info!("told to stop");
        told.cancel();
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    };
    tokio::select! {
        served = proxy::run(config, stop) => Ok(served?),
        () = told_twice => Err("told to stop twice: what was under way is cut".into()),
    }
}

/// Writes why the proxy leaves where Kubernetes, through the launcher, reads it.
fn leave_words(path: &Path, why: &NotReady) {
    let words = serde_json::to_string(&why.clone().cut()).expect("two strings always make JSON");
    if let Err(error) = fs::write(path, words) {
        warn!(path = %path.display(), %error, "last words could not be written");
    }
}
