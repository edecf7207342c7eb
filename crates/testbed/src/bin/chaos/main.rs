//! Kills what the proxy lives with, and the proxy, while callers call; then compares what they were told with
//! what the journal holds. `docs/chaos.md` tells what is killed and what must hold; `cargo xtask chaos` builds
//! and runs this.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

mod callers;
mod journal;
mod kill;
mod round;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, ensure};
use clap::Parser;
use tokio::task::JoinSet;

use kill::Kind;
use round::Outcome;

/// Kills what the proxy lives with, and the proxy, while callers call.
#[derive(Clone, Debug, Parser)]
struct Flags {
    /// How many kills in all
    #[arg(long, default_value_t = 60)]
    kills: usize,
    /// Kinds of kills, any of them as chance has it; all unless named
    #[arg(long, value_enum)]
    kind: Vec<Kind>,
    /// Where chance begins; another one each time unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Stands that run at the same time, since much of the time is waiting for a lease to run out
    #[arg(long, default_value_t = 2)]
    stands: usize,
}

/// After so many kills everything is compared and begins anew, so that no ledger grows for ever.
const ROUND: usize = 50;

#[tokio::main]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    let seed = match flags.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
    };
    println!("{} kills on {} stands, seed {seed}", flags.kills, flags.stands);
    let begun = Instant::now();
    let mut stands = JoinSet::new();
    for stand in 0..flags.stands.max(1) {
        let share = (flags.kills + stand) / flags.stands.max(1);
        let kinds = if flags.kind.is_empty() { kill::ALL.to_vec() } else { flags.kind.clone() };
        stands.spawn(run(share, kinds, seed.wrapping_mul(1_000) + stand as u64));
    }
    let mut all = Outcome::default();
    while let Some(outcome) = stands.join_next().await {
        all.merge(outcome??);
    }
    tell(&all, begun.elapsed());
    for contradiction in &all.contradictions {
        println!("CONTRADICTION: {contradiction}");
    }
    ensure!(
        all.contradictions.is_empty(),
        "{} contradictions: run again with --seed {seed}",
        all.contradictions.len()
    );
    Ok(())
}

/// One stand, round after round.
async fn run(kills: usize, kinds: Vec<Kind>, seed: u64) -> Result<Outcome> {
    let mut all = Outcome::default();
    let mut left = kills;
    while left > 0 {
        let now = left.min(ROUND);
        let round = round::run(now, &kinds, seed.wrapping_add(left as u64 * 7_919)).await?;
        println!("{now} kills, {} contradictions", round.contradictions.len());
        all.merge(round);
        left -= now;
    }
    Ok(all)
}

fn tell(all: &Outcome, took: Duration) {
    let mut by_kind: BTreeMap<Kind, Vec<Duration>> = BTreeMap::new();
    for (kind, away) in &all.kills {
        by_kind.entry(*kind).or_default().push(*away);
    }
    println!("kill        times   until a call is answered again, median and longest");
    for (kind, mut away) in by_kind {
        away.sort();
        let (median, longest) = (away[away.len() / 2], away[away.len() - 1]);
        println!("{:<12}{:>5}   {median:>8.2?} {longest:>8.2?}", format!("{kind:?}"), away.len());
    }
    println!(
        "{} kills in {:.0} s; {} commands, {} acknowledged, {} without an answer; {} events; {} owners back from standing still; {} contradictions",
        all.kills.len(),
        took.as_secs_f64(),
        all.commands,
        all.acknowledged,
        all.commands - all.acknowledged,
        all.events,
        all.fences,
        all.contradictions.len()
    );
}
