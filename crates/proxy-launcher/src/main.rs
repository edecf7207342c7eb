//! The sidecar's entrypoint: reads command line and environment, then supervises the proxy.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use api::{
    Chain,
    contract::{NotReady, exit, reason},
};
use proxy_launcher::{
    cgroup::{self, Cgroup},
    cli::{self, Invocation, Verb},
    command,
    config::{self, Loaded, Problems, Surroundings},
    exit::OS_ERROR,
    supervise, termination,
};
use tracing::{debug, error, info, warn};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os().skip(1)) {
        Ok(invocation) => invocation,
        Err(error) => {
            start_log("info");
            error!(%error, "command line refused");
            leave_words(&error.to_string());
            return exit::USAGE.into();
        }
    };
    match invocation.verb {
        Verb::Run => run(&invocation).into(),
        Verb::Check => check(&invocation).into(),
        Verb::Version => {
            say(&format!("proxy-launcher {}", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
    }
}

fn load(invocation: &Invocation) -> Result<Loaded, Problems> {
    let surroundings = Surroundings {
        memory_limit: Cgroup::of_this_process().map(|group| {
            let machine = cgroup::machine_memory().unwrap_or(u64::MAX);
            group.limit().filter(|limit| *limit < machine)
        }),
        exists: std::path::Path::exists,
    };
    config::load(config::process_environment(), &invocation.proxy_args, &surroundings)
}

fn run(invocation: &Invocation) -> u8 {
    let loaded = match load(invocation) {
        Ok(loaded) => loaded,
        Err(problems) => {
            start_log("info");
            for problem in &problems.0 {
                error!(%problem, "configuration refused");
            }
            leave_words(&problems.to_string());
            return exit::CONFIG;
        }
    };
    start_log(loaded.config.log_level);
    log_settings(&loaded);
    // One thread does everything: the proxy dies with the thread that started it, and memory stays small.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "failed to start the event loop");
            return OS_ERROR;
        }
    };
    match runtime.block_on(supervise::run(&loaded.config, &loaded.proxy)) {
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

fn check(invocation: &Invocation) -> u8 {
    let loaded = match load(invocation) {
        Ok(loaded) => loaded,
        Err(Problems(problems)) => {
            for problem in problems {
                say(&format!("error: {problem}"));
            }
            return exit::CONFIG;
        }
    };
    for warning in &loaded.warnings {
        say(&format!("warning: {warning}"));
    }
    if let Some(problem) = command::problem_with_program(&loaded.config) {
        say(&format!("error: {problem}"));
        return exit::CONFIG;
    }
    if let Some(budget) = &loaded.budget {
        say(&format!("memory: {budget}"));
    }
    say(&format!(
        "ok: would start {} with {:?}",
        loaded.proxy.program.display(),
        loaded.proxy.args
    ));
    0
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

fn start_log(level: &str) {
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(EnvFilter::new(level))
        .with_writer(io::stderr)
        .init();
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
