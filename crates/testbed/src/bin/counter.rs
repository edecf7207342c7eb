//! The counter as a program: `counter <address> [<events per snapshot>]`. Its first line of output is the
//! address on which it listens.

use anyhow::{Context as _, Result};
use testbed::counter::Counter;
use tokio::net::TcpListener;

/// One thread, since half of a small machine is as much as a user function has of it beside its proxy.
#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "whoever started it reads the address there")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().context("say where to listen, such as 127.0.0.1:0")?;
    let snapshot_every = match arguments.next() {
        Some(text) => text.parse().with_context(|| format!("{text:?} is no number of events"))?,
        None => 0,
    };
    let listener =
        TcpListener::bind(&address).await.with_context(|| format!("cannot listen on {address}"))?;
    println!("{}", listener.local_addr()?);
    Counter { snapshot_every }.serve(listener).await
}
