//! Workloads that go on and on: W1, W3, W4, W5, W6, W9.

use anyhow::Result;
use bytes::Bytes;
use prost::Message as _;
use protocol::{
    Any,
    cloudstate::{
        Reply,
        action::{ActionCommand, ActionResponse, action_response},
    },
};
use testbed::{
    counter::{COUNTER, ECHO, REGISTER, Request},
    load::{Keys, Latency, Load, Measured, Path, Pool},
};

use crate::{
    flags::{Function, Store},
    report::{Report, Row, millis},
    stand::{Bench, Cpu, Stand, prefix},
};

/// Entities among which W1, W4 and W5 choose.
const ENTITIES: usize = 1_000;
/// Callers at which the machine is full.
const CALLERS: usize = 64;

/// W1: additions to a thousand entities.
pub(crate) async fn many_entities(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let stand = bench.stand().await?;
    let load = Load::entities(COUNTER, &prefix("w1"), Keys::Among(ENTITIES), 0);
    let pool = stand.pool().await?;
    for callers in [1, 16, CALLERS, 256] {
        let (measured, cpu) = measure(bench, &stand, &pool, &load, callers).await?;
        let (rate, latency) = (measured.rate(), measured.latency.clone());
        let mut row = Row::new(bench, "W1", plural(callers)).steady(measured, cpu, peak(&stand)?);
        if bench.store == Store::Postgres && callers == CALLERS {
            let bound = if bench.function == Function::Rust { 14_000.0 } else { 10_000.0 };
            row = row.at_least("per s", rate, bound).at_most("p99", millis(latency.p99()), 10.0);
        } else if bench.store == Store::Postgres && callers == 1 && bench.function == Function::Rust
        {
            row = row.at_most("p50", millis(latency.p50()), 0.5);
            row = row.at_most("p99", millis(latency.p99()), 1.5);
        }
        report.add(row);
    }
    load.verify(&pool).await?;
    stand.end().await
}

/// W3: additions to one entity.
pub(crate) async fn hot_entity(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let load = Load::entities(COUNTER, &prefix("w3"), Keys::Among(1), 0);
    let target = (bench.store == Store::Postgres).then_some(10_000.0);
    one(bench, report, ("W3", load, 32, target)).await
}

/// W4: nineteen reads for each addition.
pub(crate) async fn reads(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let load = Load::entities(COUNTER, &prefix("w4"), Keys::Among(ENTITIES), 95);
    let target = if bench.function == Function::Rust { 35_000.0 } else { 20_000.0 };
    let target = (bench.store == Store::Postgres).then_some(target);
    one(bench, report, ("W4", load, CALLERS, target)).await
}

/// W5: additions to value entities.
pub(crate) async fn values(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let load = Load::entities(REGISTER, &prefix("w5"), Keys::Among(ENTITIES), 0);
    one(bench, report, ("W5", load, CALLERS, None)).await
}

/// W9: each call is the first one of its entity.
pub(crate) async fn new_entities(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let load = Load::entities(COUNTER, &prefix("w9"), Keys::Fresh, 0);
    one(bench, report, ("W9", load, CALLERS, None)).await
}

async fn one(
    bench: &Bench<'_>,
    report: &mut Report,
    (workload, load, callers, target): (&'static str, Load, usize, Option<f64>),
) -> Result<()> {
    let stand = bench.stand().await?;
    let pool = stand.pool().await?;
    let (measured, cpu) = measure(bench, &stand, &pool, &load, callers).await?;
    let rate = measured.rate();
    let mut row = Row::new(bench, workload, plural(callers)).steady(measured, cpu, peak(&stand)?);
    if let Some(target) = target {
        row = row.at_least("per s", rate, target);
    }
    report.add(row);
    load.verify(&pool).await?;
    stand.end().await
}

/// W6: an action with one kilobyte, through the proxy and without it.
pub(crate) async fn action(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let stand = bench.stand().await?;
    let data = Bytes::from(vec![b'x'; 1024]);
    let message = Request { id: "w6".to_owned(), data, ..Request::default() };
    let through = Load::same(Path::new(ECHO, "Once"), &message, &message);
    let direct = direct(&message);
    let pool = stand.pool().await?;
    let direct_pool = Pool::open(stand.function_address, 4).await?;
    for callers in [1, CALLERS] {
        let (without, cpu) = measure(bench, &stand, &direct_pool, &direct, callers).await?;
        let alone = without.latency.clone();
        let case = format!("{}, no proxy", plural(callers));
        report.add(Row::new(bench, "W6", case).steady(without, cpu, 0));
        let (with, cpu) = measure(bench, &stand, &pool, &through, callers).await?;
        let latency = with.latency.clone();
        let mut row = Row::new(bench, "W6", plural(callers)).steady(with, cpu, peak(&stand)?);
        if callers == 1 {
            let added = |of: fn(&Latency) -> _| millis(of(&latency)) - millis(of(&alone));
            row = row.at_most("added p50", added(Latency::p50), 0.15);
            row = row.at_most("added p99", added(Latency::p99), 0.5);
        }
        report.add(row);
    }
    stand.end().await
}

/// What the proxy says to the user function for such a call, and what it hears.
fn direct(message: &Request) -> Load {
    let payload = Any {
        type_url: "type.googleapis.com/testbed.Request".to_owned(),
        value: message.encode_to_vec().into(),
    };
    let command = ActionCommand {
        service_name: ECHO.to_owned(),
        name: "Once".to_owned(),
        payload: Some(payload.clone()),
        metadata: None,
    };
    let reply = Reply { payload: Some(payload), metadata: None };
    let response = ActionResponse {
        response: Some(action_response::Response::Reply(reply)),
        side_effects: Vec::new(),
    };
    Load::same(Path::new(protocol::ACTION, "handleUnary"), &command, &response)
}

/// The run with the median throughput, after a warm-up.
pub(crate) async fn measure(
    bench: &Bench<'_>,
    stand: &Stand,
    pool: &Pool,
    load: &Load,
    callers: usize,
) -> Result<(Measured, Cpu)> {
    load.closed(pool, callers, bench.flags.warm_up()).await?.without_refusal()?;
    let mut runs = Vec::new();
    for _ in 0..bench.flags.runs.max(1) {
        let before = stand.cpu()?;
        let measured = load.closed(pool, callers, bench.flags.run()).await?.without_refusal()?;
        runs.push((measured, stand.cpu()?.since(before)));
    }
    runs.sort_by(|a, b| a.0.rate().total_cmp(&b.0.rate()));
    Ok(runs.swap_remove(runs.len() / 2))
}

fn peak(stand: &Stand) -> Result<u64> {
    Ok(stand.proxy.usage()?.memory_peak)
}

fn plural(callers: usize) -> String {
    if callers == 1 { "1 caller".to_owned() } else { format!("{callers} callers") }
}
