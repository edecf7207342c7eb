//! W11 and W12: from start to ready, from a stop to the end, and what memory it takes.

use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::{
    counter::{COUNTER, Request},
    load::{Keys, Load, Path, frame},
};
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use crate::{
    report::{Report, Row, mib, millis},
    stand::{self, Bench, PATIENCE},
};

/// Starts of which the median counts.
const STARTS: usize = 9;
/// Calls under way when the stop comes.
const UNDER_WAY: usize = 1_000;
/// How long each of them takes at the user function.
const CALL: Duration = Duration::from_millis(500);

/// W11.
pub(crate) async fn start_and_drain(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let mut stand = bench.stand().await?;
    let mut took = Vec::new();
    for _ in 0..if bench.flags.short { 1 } else { STARTS } {
        stand.proxy.terminate()?;
        stand.proxy.ended(PATIENCE).await?;
        let begun = Instant::now();
        stand.proxy = stand.plan.start_ready(PATIENCE).await?;
        took.push(begun.elapsed());
    }
    took.sort();
    let median = millis(took[took.len() / 2]);
    let memory = stand.proxy.usage()?.memory;
    let row = Row::new(bench, "W11", "start to ready").memory_peak(memory);
    report.add(row.figure("took", median, "ms").at_most("ms", median, 50.0));

    let (prefix, pool, add) =
        (stand::prefix("w11"), stand.pool().await?, Path::new(COUNTER, "Add"));
    let mut calls = JoinSet::new();
    for call in 0..UNDER_WAY {
        let request = Request {
            id: format!("{prefix}{call}"),
            amount: 1,
            delay_ms: u32::try_from(CALL.as_millis())?,
            ..Request::default()
        };
        let (connection, add) = (pool.of(call).clone(), add.clone());
        calls.spawn(async move { connection.call(&add, frame(&request)).await });
    }
    // All of them are at the user function well before the first is back.
    time::sleep(CALL / 2).await;
    ensure!(calls.try_join_next().is_none(), "a call was quicker than the user function");
    let begun = Instant::now();
    stand.proxy.terminate()?;
    let mut answered = 0;
    while let Some(call) = calls.join_next().await {
        answered += usize::from(call?.is_ok_and(|answer| answer.code == 0));
    }
    let status = stand.proxy.ended(PATIENCE).await?;
    let took = millis(begun.elapsed());
    ensure!(status.success(), "the proxy ended with {status}: {}", stand.proxy.log());
    ensure!(
        answered == UNDER_WAY,
        "only {answered} of {UNDER_WAY} calls were answered in the drain"
    );
    report
        .add(Row::new(bench, "W11", format!("drain {UNDER_WAY} calls")).figure("took", took, "ms"));
    Ok(())
}

/// W12.
pub(crate) async fn memory(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let mut stand = bench
        .stand_with(&[
            ("CLOUDSTATE_PROXY_PASSIVATION_TIMEOUT", "1h"),
            ("CLOUDSTATE_SIDECAR_JVM_MEMORY", "4g"),
        ])
        .await?;
    let idle = stand.proxy.usage()?.memory;
    let row = Row::new(bench, "W12", "idle").figure("memory", mib(idle), "MiB");
    report.add(row.at_most("MiB", mib(idle), 12.0));
    let steps = if bench.flags.short { vec![100] } else { vec![1_000, 10_000, 100_000] };
    let pool = stand.pool().await?;
    let mut open = 0;
    for entities in steps {
        let load = Load::entities(COUNTER, &stand::prefix("w12"), Keys::Fresh, 0);
        while open < entities {
            // Few callers, since what is measured is entities, not calls.
            let all = load.some(&pool, 16, entities - open).await?.without_refusal()?;
            open += usize::try_from(all.latency.count())?;
        }
        let memory = stand.proxy.usage()?.memory;
        let more = mib(memory.saturating_sub(idle));
        let each = more * 1024.0 / entities as f64;
        let mut row = Row::new(bench, "W12", format!("{entities} open"));
        row = row.figure("memory", mib(memory), "MiB").figure("more", more, "MiB");
        row = row.figure("each", each, "KiB");
        if entities == 10_000 {
            row = row.at_most("more MiB", more, 140.0);
        }
        report.add(row);
    }
    ensure!(stand.proxy.is_running(), "the proxy ended: {}", stand.proxy.log());
    // Passivating a hundred thousand entities in good order is not what this measures.
    stand.proxy.kill().await?;
    Ok(())
}
