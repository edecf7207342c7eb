//! W13: three times the calls that can be answered.

use anyhow::Result;
use testbed::{
    counter::COUNTER,
    load::{Keys, Load},
};

use crate::{
    report::{Report, Row, mib},
    stand::{Bench, prefix},
    steady::measure,
};

/// So many that no connection's own bound keeps calls from the proxy: it must refuse what is too much for it.
const CONNECTIONS: usize = 32;

pub(crate) async fn three_times(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let stand = bench.stand().await?;
    let load = Load::entities(COUNTER, &prefix("w13"), Keys::Among(1_000), 0);
    let pool = stand.pool().await?;
    let capacity = measure(bench, &stand, &pool, &load, 64).await?.0.rate();
    let crowd = stand.pool_of(CONNECTIONS).await?;
    let before = stand.cpu()?;
    let measured = load.open(&crowd, capacity * 3.0, bench.flags.run()).await?;
    let cpu = stand.cpu()?.since(before);
    let memory = stand.proxy.usage()?.memory_peak;
    let share = 100.0 * measured.rate() / capacity;
    let refused = measured.refused.values().sum::<u64>() as f64;
    let unsent = measured.unsent as f64;
    report.add(
        Row::new(bench, "W13", format!("{:.0}/s offered", capacity * 3.0))
            .steady(measured, cpu, memory)
            .figure("capacity", capacity, "/s")
            .figure("refused", refused, "calls")
            .figure("unsent", unsent, "calls")
            .at_least("% of capacity", share, 85.0)
            .at_most("peak MiB", mib(memory), 256.0),
    );
    load.verify(&pool).await?;
    stand.end().await
}
