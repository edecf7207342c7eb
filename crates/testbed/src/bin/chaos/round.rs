//! One round: everything is started, callers call, something is killed again and again, and in the end the
//! callers' ledgers are compared with the journal.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use testbed::{
    ledger::{contradictions, effects_without_cause},
    load::Chance,
};
use tokio::time;

use crate::{
    callers::{Callers, EFFECTS},
    journal,
    kill::{Kind, PATIENCE, Victims, choose},
};

/// Longest time of peace between two kills; the least is none.
const PEACE: Duration = Duration::from_millis(400);

/// A recovery that takes longer is worth a look.
const SLOW: Duration = Duration::from_secs(10);

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Each kill, and how long it took until a call that was sent after it was answered.
    pub(crate) kills: Vec<(Kind, Duration)>,
    pub(crate) commands: usize,
    pub(crate) acknowledged: usize,
    pub(crate) events: usize,
    /// Owners that stood still and came back.
    pub(crate) fences: usize,
    pub(crate) contradictions: Vec<String>,
}

impl Outcome {
    pub(crate) fn merge(&mut self, other: Self) {
        self.kills.extend(other.kills);
        self.commands += other.commands;
        self.acknowledged += other.acknowledged;
        self.events += other.events;
        self.fences += other.fences;
        self.contradictions.extend(other.contradictions);
    }
}

pub(crate) async fn run(kills: usize, kinds: &[Kind], seed: u64) -> Result<Outcome> {
    let mut chance = Chance::new(seed);
    let mut victims = Victims::start().await?;
    let callers = Callers::start(&victims.target(), seed);
    callers.answered_again().await;
    let mut outcome = Outcome::default();
    for number in 1..=kills {
        time::sleep(chance.up_to(PEACE)).await;
        let kind = choose(kinds, &mut chance);
        let begun = Instant::now();
        victims.kill(kind).await?;
        if time::timeout(PATIENCE, callers.answered_again()).await.is_err() {
            let log = victims.log();
            bail!("no call was answered for {PATIENCE:?} after kill {number}, {kind:?}:\n{log}");
        }
        if begun.elapsed() > SLOW {
            println!("{kind:?} took {:.1?}; the proxy said:\n{}", begun.elapsed(), victims.log());
        }
        outcome.kills.push((kind, begun.elapsed()));
    }
    let ledger = callers.end().await?;
    victims.end().await?;
    let journal = journal::read(&victims.postgres).await?;
    outcome.commands = ledger.len();
    outcome.acknowledged = ledger.iter().filter(|entry| entry.told.is_some()).count();
    outcome.events = journal.values().map(Vec::len).sum();
    outcome.fences = victims.fences.len();
    outcome.contradictions = contradictions(&ledger, &journal, &victims.fences);
    let effects = effects_without_cause(&journal, |entity| entity.starts_with(EFFECTS));
    outcome.contradictions.extend(effects);
    Ok(outcome)
}
