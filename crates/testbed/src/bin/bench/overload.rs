//! W13: three times the calls that can be answered.

use anyhow::Result;
use testbed::{
    counter::COUNTER,
    load::{Keys, Load},
};

use crate::{
    flags::Store,
    report::{Report, Row, mib},
    stand::{Bench, prefix},
    steady::measure,
};

/// With few, each connection's own bound keeps calls with the callers. With the most it does not: the proxy
/// must refuse what is too much for it.
const CONNECTIONS: [usize; 3] = [8, 32, 128];

pub(crate) async fn three_times(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let stand = bench.stand().await?;
    let load = Load::entities(COUNTER, &prefix("w13"), Keys::Among(1_000), 0);
    let pool = stand.pool().await?;
    let capacity = measure(bench, &stand, &pool, &load, 64).await?.0.rate();
    for connections in CONNECTIONS {
        let crowd = stand.pool_of(connections).await?;
        let before = stand.cpu()?;
        let measured = load.open(&crowd, capacity * 3.0, bench.flags.run()).await?;
        let cpu = stand.cpu()?.since(before);
        let memory = stand.proxy.usage()?.memory_peak;
        let share = 100.0 * measured.rate() / capacity;
        let refused = measured.refused.values().sum::<u64>() as f64;
        let unsent = measured.unsent as f64;
        let case = format!("{connections} connections, {:.0}/s", capacity * 3.0);
        let row = Row::new(bench, "W13", case)
            .steady(measured, cpu, memory)
            .figure("capacity", capacity, "/s")
            .figure("refused", refused, "calls")
            .figure("unsent", unsent, "calls");
        // With the in-memory store, what was written is in the proxy's memory too.
        report.add(if bench.store == Store::Postgres {
            row.at_least("% of capacity", share, 85.0).at_most("peak MiB", mib(memory), 256.0)
        } else {
            row.figure("of capacity", share, "%")
        });
    }
    load.verify(&pool).await?;
    stand.end().await
}
