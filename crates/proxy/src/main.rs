//! The proxy's program: command line, settings, log, signals, last words, exit code.

use std::{
    fs,
    io::{self, Write as _},
    num::NonZero,
    path::Path,
    process::ExitCode,
    thread,
};

use api::{
    Chain,
    contract::{INTERRUPT_STOP, NotReady, exit, reason},
    environment::{Problems, termination_path},
};
use proxy::{
    cli::{self, Invocation, Verb},
    config::{self, Config, Loaded},
    journal::postgres::statements,
    log,
};
use serde_json::json;
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
    match cli::parse(std::env::args_os().skip(1)) {
        Ok(Invocation { verb: Verb::Run, .. }) => run(),
        Ok(invocation) if invocation.verb == Verb::CheckConfig => check_config(invocation).into(),
        Ok(Invocation { verb: Verb::PrintSchema, .. }) => print_schema().into(),
        Ok(_) => {
            say(&format!("proxy {}", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
        Err(error) => {
            log::start("info");
            error!(%error, "the command line is refused");
            let reason = reason::CONFIGURATION_REFUSED.to_owned();
            if let Some(path) = termination_path(config::process_environment()) {
                leave_words(&path, &NotReady { reason, message: error.to_string() });
            }
            exit::USAGE.into()
        }
    }
}

fn run() -> ExitCode {
    let environment = config::process_environment();
    let termination_path = termination_path(environment.iter().cloned());
    let (code, refusal) = match config::load(environment) {
        Ok(Loaded { config, warnings, .. }) => {
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

/// Prints what a proxy in this environment would go by, or all that is wrong with it.
fn check_config(invocation: Invocation) -> u8 {
    let Loaded { warnings, readings, config } = match config::load(config::process_environment()) {
        Ok(loaded) => loaded,
        Err(problems) => return say_problems(&problems, invocation.json),
    };
    let denied = invocation.deny_warnings && !warnings.is_empty();
    if invocation.json {
        let settings = config::json(&readings);
        say(&json!({ "warnings": warnings, "hash": config.hash, "settings": settings }).to_string());
    } else {
        say(config::table(&readings).trim_end());
        for warning in &warnings {
            say(&format!("warning: {warning}"));
        }
        if denied {
            say("error: there are warnings, and --deny-warnings was given");
        } else {
            say(&format!("ok: the configuration's hash is {}", config.hash));
        }
    }
    if denied { exit::CONFIG } else { 0 }
}

/// Prints what an administrator runs where the proxy may not create its tables.
fn print_schema() -> u8 {
    match config::postgres_schema(config::process_environment()) {
        Ok(schema) => {
            say(statements(schema.as_deref()).trim_end());
            0
        }
        Err(problems) => say_problems(&problems, false),
    }
}

fn say_problems(problems: &Problems, json: bool) -> u8 {
    if json {
        say(&json!({ "errors": config::problems(&problems.0) }).to_string());
    } else {
        for problem in &problems.0 {
            say(&format!("error: {problem}"));
        }
    }
    exit::CONFIG
}

/// Prints a line; a closed pipe is the reader's wish.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
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
    let ended = runtime.block_on(stay(config));
    // Nothing that still blocks a thread is worth waiting for.
    runtime.shutdown_background();
    ended
}

async fn stay(config: Config) -> Result<(), Box<dyn std::error::Error>> {
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
    let (told, drain) = (stop.clone(), config.drain.clone());
    let told_twice = async move {
        tokio::select! {
            _ = term.recv() => {}
            // Some of that is for giving the entities up.
            _ = int.recv() => drain.limit(INTERRUPT_STOP * 3 / 4),
        }
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
