//! W10: how long the first call of an entity takes that has a long history.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use prost::Message as _;
use testbed::{
    counter::{COUNTER, Request, Total},
    load::{Connection, Path, frame},
};
use tokio::time::{self, Instant};

use crate::{
    flags::Store,
    report::{Report, Row, millis},
    stand::{self, Bench, PATIENCE},
};

/// Events in one reply while the history is written.
const TOGETHER: u32 = 100;
/// What each event carries besides its numbers.
const DATA: usize = 80;
/// Entities with such a history; the median counts.
const ENTITIES: usize = 5;
/// How long an entity idles before it is passivated, where only that ends an activation.
const PASSIVATION: Duration = Duration::from_millis(500);

pub(crate) async fn replay(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let lengths = if bench.flags.short { vec![1_000] } else { vec![10_000, 100_000] };
    let mut settings = vec![];
    let passivation = format!("{}ms", PASSIVATION.as_millis());
    if bench.store == Store::Memory {
        settings.push(("CLOUDSTATE_PROXY_PASSIVATION_TIMEOUT", passivation.as_str()));
    }
    let mut stand = bench.stand_with(&settings).await?;
    for events in lengths {
        let prefix = stand::prefix("w10");
        let names: Vec<_> = (0..ENTITIES).map(|entity| format!("{prefix}{entity}")).collect();
        let connection = Connection::open(stand.proxy.calls()).await?;
        for name in &names {
            write(&connection, name, events).await?;
        }
        if bench.store == Store::Memory {
            time::sleep(PASSIVATION * 3).await;
        } else {
            stand.proxy.terminate()?;
            stand.proxy.ended(PATIENCE).await?;
            stand.proxy = stand.plan.start_ready(PATIENCE).await?;
        }
        let connection = Connection::open(stand.proxy.calls()).await?;
        // Connections are there, and nobody has to be found, before what is measured.
        call(&connection, "Get", Request { id: format!("{prefix}new"), ..Request::default() })
            .await?;
        let mut took = Vec::new();
        for name in &names {
            let begun = Instant::now();
            let read = Request { id: name.clone(), ..Request::default() };
            let total = call(&connection, "Get", read).await?;
            took.push(begun.elapsed());
            ensure!(total.value == i64::from(events), "{name} has {total:?} after {events} events");
        }
        took.sort();
        let median = millis(took[took.len() / 2]);
        let memory = stand.proxy.usage()?.memory_peak;
        let mut row = Row::new(bench, "W10", format!("{events} events"))
            .memory_peak(memory)
            .figure("first reply", median, "ms");
        if events == 10_000 && bench.store == Store::Postgres {
            row = row.at_most("ms", median, 60.0);
        }
        report.add(row);
    }
    stand.end().await
}

async fn write(connection: &Connection, name: &str, events: u32) -> Result<()> {
    for _ in 0..events / TOGETHER {
        let add = Request {
            id: name.to_owned(),
            amount: 1,
            events: TOGETHER,
            data: Bytes::from(vec![b'x'; DATA]),
            ..Request::default()
        };
        call(connection, "Add", add).await?;
    }
    Ok(())
}

async fn call(connection: &Connection, method: &str, request: Request) -> Result<Total> {
    let answer = connection.call(&Path::new(COUNTER, method), frame(&request)).await?;
    ensure!(answer.code == 0, "{method} failed: {answer:?}");
    Ok(Total::decode(answer.payload)?)
}
