//! Stands where the proxy would be while the launcher is measured: says on its standard output when it begins,
//! when TERM reaches it and when it leaves, in nanoseconds of the clock that all processes share, and answers the
//! management port in between. Its arguments are for a JVM, which it is taken for, and mean nothing.

#![allow(clippy::disallowed_methods, reason = "the environment is this program's only input")]
#![allow(clippy::print_stdout, reason = "whoever measures reads the moments there")]

use std::{env, io::Write as _, net::Ipv4Addr, process::ExitCode};

use anyhow::{Context as _, Result};
use api::contract::env::MANAGEMENT_PORT;
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Asks this program to leave, so that the launcher starts it again at once.
const LEAVE: &str = "POST /leave ";

fn main() -> Result<ExitCode> {
    // Before anything else: what comes later is not the launcher's time.
    say("begun")?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve())
}

async fn serve() -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    // Without a port there is nothing to answer; tini and nobody give none.
    let Ok(port) = env::var(MANAGEMENT_PORT) else {
        say("serving")?;
        terminate.recv().await;
        say("told")?;
        return Ok(ExitCode::SUCCESS);
    };
    let port: u16 = port.parse().with_context(|| format!("{MANAGEMENT_PORT} is no port"))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    say("serving")?;
    loop {
        let (mut stream, _) = tokio::select! {
            biased;
            _ = terminate.recv() => {
                say("told")?;
                return Ok(ExitCode::SUCCESS);
            }
            accepted = listener.accept() => accepted?,
        };
        let mut question = [0; 1024];
        let length = stream.read(&mut question).await.unwrap_or_default();
        let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        // Whoever asked may have gone.
        let _ = stream.write_all(answer.as_bytes()).await;
        if question[..length].starts_with(LEAVE.as_bytes()) {
            say("left")?;
            return Ok(api::contract::exit::RESTART.into());
        }
    }
}

fn say(what: &str) -> Result<()> {
    let now = clock_gettime(ClockId::Monotonic);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} {} {}", now.tv_sec, now.tv_nsec).context("nobody listens")?;
    out.flush().context("nobody listens")
}
