//! A crowd of callers of one method, each with calls of its own: `crowd <address> <service> <method> <callers> <calls>`.
//!
//! Each caller makes so many calls, one after the other, over a connection that it shares with ten others. Nothing is
//! tried twice. Each message names another entity in its first field, as those of the shopping cart and of the scripted
//! user function do; a fourth field is a quantity. Whoever started us reads lines:
//!
//! - `open` when every connection is, which is before the first call
//! - `failed <why>` for each call without a good answer
//! - `good <count> <milliseconds>` at the end

#![expect(clippy::print_stdout, reason = "whoever started us reads what came of it there")]

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context as _, Result};
use testbed::load::{Path, Pool, frame};
use tokio::task::JoinSet;

/// How many callers share a connection.
const SHARED_BY: usize = 10;

/// What is asked of an entity.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Item {
    #[prost(string, tag = "1")]
    entity: String,
    #[prost(string, tag = "2")]
    product_id: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(int32, tag = "4")]
    quantity: i32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &'static str| arguments.next().context(what);
    let address: SocketAddr = next("say whom to call, such as 10.96.0.7:80")?.parse()?;
    let path = Path::new(&next("say which service")?, &next("say which method")?);
    let callers: usize = next("say how many callers there are")?.parse()?;
    let calls: usize = next("say how many calls each makes")?.parse()?;

    let pool = Pool::open(address, callers.div_ceil(SHARED_BY)).await?;
    println!("open");
    let begun = Instant::now();
    let mut working = JoinSet::new();
    for caller in 0..callers {
        let (connection, path) = (pool.of(caller).clone(), path.clone());
        working.spawn(async move {
            let mut good = 0_u64;
            for call in 0..calls {
                let item = Item {
                    entity: format!("crowd-{caller}-{call}"),
                    product_id: "apples".to_owned(),
                    name: "Apples".to_owned(),
                    quantity: 1,
                };
                match connection.call(&path, frame(&item)).await {
                    Ok(answer) if answer.code == 0 => good += 1,
                    Ok(answer) => println!("failed status {} {}", answer.code, answer.message),
                    Err(broken) => println!("failed {broken}"),
                }
            }
            good
        });
    }
    let mut good = 0;
    while let Some(ended) = working.join_next().await {
        good += ended.context("a caller panicked")?;
    }
    println!("good {good} {}", begun.elapsed().as_millis());
    Ok(())
}
