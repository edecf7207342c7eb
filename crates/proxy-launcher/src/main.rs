//! The sidecar's entrypoint: reads command line and settings, then supervises the proxy.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use api::{
    Chain,
    contract::{NotReady, exit, reason},
};
use proxy_launcher::{
    cgroup,
    cli::{self, Invocation, Verb},
    client::Client,
    command,
    config::{self, Contact, Loaded, Refused, Surroundings},
    exit::{OS_ERROR, UNAVAILABLE},
    log::{Format, Log},
    process,
    signals::Signals,
    supervise, termination,
};
use serde_json::json;
use tracing::{debug, error, info, warn};

/// Names that are looked up at once; a lookup may hang for longer than anybody waits for it.
const LOOKUPS_MAX: usize = 4;

fn main() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os().skip(1)) {
        Ok(invocation) => invocation,
        Err(error) => {
            let log = Log::start("info", Format::Json);
            error!(%error, "command line refused");
            leave_words(&error.to_string());
            log.flush();
            return exit::USAGE.into();
        }
    };
    match invocation.verb {
        Verb::Run => run(&invocation).into(),
        Verb::Check => check(&invocation).into(),
        Verb::PrintConfig => print_config(&invocation).into(),
        Verb::Probe(path) => ask(&invocation, |client, _| {
            let (is_good, body) = client.probe(path)?;
            say(&body);
            Ok(u8::from(!is_good))
        })
        .into(),
        Verb::Wait(what, timeout) => ask(&invocation, |client, _| {
            Ok(if client.wait(what, timeout) { 0 } else { UNAVAILABLE })
        })
        .into(),
        Verb::Drain { wait } => ask(&invocation, |client, contact| {
            say(&client.drain(wait, contact.grace)?);
            Ok(0)
        })
        .into(),
        Verb::Help => {
            say(&format!("usage: {}", cli::USAGE));
            ExitCode::SUCCESS
        }
        Verb::Version => {
            say(&format!("proxy-launcher {}", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
    }
}

fn load(invocation: &Invocation) -> Result<Loaded, Refused> {
    config::load(
        config::process_environment(),
        &invocation.above,
        &invocation.proxy_args,
        &Surroundings::of_this_process(cgroup::enforced_limit()),
    )
}

fn run(invocation: &Invocation) -> u8 {
    // One thread does everything: the proxy dies with the thread that started it, and memory stays small.
    // Only names are looked up elsewhere.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(LOOKUPS_MAX)
        .build();
    // Before anything else: a signal that nobody has taken yet is lost to PID 1.
    let started = runtime.and_then(|runtime| {
        let signals = runtime.block_on(async { Signals::take() })?;
        process::unblock_signals()?;
        Ok((runtime, signals))
    });
    let loaded = load(invocation);
    let log = match &loaded {
        Ok(Loaded { config, .. }) => Log::start(config.log_level, config.log_format),
        Err(_) => Log::start("info", Format::Json),
    };
    let code = match (loaded, started) {
        (Err(refused), _) => {
            for problem in refused.problems() {
                error!(%problem, "configuration refused");
            }
            leave_words(&refused.to_string());
            exit::CONFIG
        }
        (Ok(_), Err(error)) => {
            error!(%error, "failed to start the event loop, or to take over the signals");
            OS_ERROR
        }
        (Ok(loaded), Ok((runtime, signals))) => {
            log_settings(&loaded);
            let again = || load(invocation);
            let supervised = supervise::run(loaded, signals, log.clone(), &again);
            let code = conclude(runtime.block_on(supervised));
            // A lookup that hangs keeps nobody here.
            runtime.shutdown_background();
            code
        }
    };
    log.flush();
    code
}

fn conclude(supervised: Result<u8, supervise::Error>) -> u8 {
    match supervised {
        Ok(code) => {
            info!(code, "launcher leaves");
            code
        }
        Err(error) => {
            error!(error = %Chain(&error), "launcher cannot start");
            leave_words(&Chain(&error).to_string());
            error.exit_code()
        }
    }
}

/// Talks to the launcher that runs here.
fn ask(invocation: &Invocation, question: impl FnOnce(&Client, &Contact) -> io::Result<u8>) -> u8 {
    let surroundings = Surroundings::of_this_process(None);
    let contact = config::contact(config::process_environment(), &invocation.above, &surroundings);
    let answer = Client::new(&contact).and_then(|client| question(&client, &contact));
    answer.unwrap_or_else(|error| {
        say(&format!("error: {error}"));
        exit::FAILURE
    })
}

fn check(invocation: &Invocation) -> u8 {
    let loaded = match load(invocation) {
        Ok(loaded) => loaded,
        Err(refused) => return say_refused(&refused, invocation.json),
    };
    let program = command::problem_with_program(&loaded.config);
    let denied = invocation.deny_warnings && !loaded.warnings.is_empty();
    let args = loaded.proxy.shown_args();
    let memory = loaded.budget.as_ref().map(ToString::to_string);
    if invocation.json {
        say(&json!({
            "errors": program.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "warnings": loaded.warnings,
            "memory": memory,
            "program": loaded.proxy.program,
            "args": args,
        })
        .to_string());
    } else {
        for warning in &loaded.warnings {
            say(&format!("warning: {warning}"));
        }
        if let Some(memory) = memory {
            say(&format!("memory: {memory}"));
        }
        match &program {
            Some(problem) => say(&format!("error: {problem}")),
            None if denied => say("error: there are warnings, and --deny-warnings was given"),
            None => {
                say(&format!("ok: would start {} with {args:?}", loaded.proxy.program.display()));
            }
        }
    }
    if program.is_some() || denied { exit::CONFIG } else { 0 }
}

fn print_config(invocation: &Invocation) -> u8 {
    match load(invocation) {
        Ok(loaded) if invocation.json => say(&config::json(&loaded.settings).to_string()),
        Ok(loaded) => say(config::table(&loaded.settings).trim_end()),
        Err(refused) => return say_refused(&refused, invocation.json),
    }
    0
}

fn say_refused(refused: &Refused, json: bool) -> u8 {
    if json {
        say(&json!({ "errors": refused.json() }).to_string());
    } else {
        for problem in refused.problems() {
            say(&format!("error: {problem}"));
        }
    }
    exit::CONFIG
}

fn log_settings(loaded: &Loaded) {
    for warning in &loaded.warnings {
        warn!(warning, "odd setting");
    }
    let config = &loaded.config;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        command = %loaded.proxy.program.display(),
        pod = config.pod.name,
        namespace = config.pod.namespace,
        http_port = config.ports.traffic,
        user_function = %format_args!("{}:{}", config.user_function_host, config.ports.user_function),
        management_port = config.ports.management,
        admin_port = config.ports.admin,
        store = config.store.map(api::contract::Store::as_str),
        memory_limit = config.memory_limit,
        grace = ?config.drain.grace,
        "launcher starts",
    );
}

fn leave_words(message: &str) {
    let Some(path) = config::termination_path(config::process_environment()) else { return };
    let reason = reason::CONFIGURATION_REFUSED.to_owned();
    let words = NotReady { reason, message: message.to_owned() };
    let left = termination::clear(&path).and_then(|()| termination::write_if_empty(&path, &words));
    if let Err(error) = left {
        debug!(path = %path.display(), %error, "failed to leave last words");
    }
}

/// Prints a line; a closed pipe is the reader's wish.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
