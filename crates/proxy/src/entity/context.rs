//! What all entities share.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::warn;

use super::{Answer, Limits, Turns};
use crate::{
    budget::Budget,
    journal::{Batcher, Store},
    metrics::Metrics,
    report::Reporter,
    route::Service,
    user_function::UserFunction,
};

/// What all entities share.
#[allow(missing_debug_implementations, reason = "a store has nothing to show")]
pub struct Context {
    /// Where events live.
    pub journal: Arc<dyn Store>,
    /// The way of writes there.
    pub writes: Batcher,
    /// Who runs the entities' code.
    pub user_function: UserFunction,
    /// What is counted of the entities.
    pub metrics: Metrics,
    /// Who hears of what the user function does wrong.
    pub reporter: Reporter,
    /// Who carries out what is left of commands whose callers have gone.
    pub orphans: mpsc::Sender<Orphan>,
    /// What all of them together may hold.
    pub budget: Budget,
    /// Whose history is read.
    pub turns: Turns,
    /// The bounds.
    pub limits: Limits,
}

/// What an entity said to a command whose caller has gone: its effects and its forward are owed all
/// the same, since what they follow from is durable.
#[derive(Debug)]
pub struct Orphan {
    /// Whose entity said it.
    pub service: Arc<Service>,
    /// What it said; only effects and a forward are of interest still.
    pub answer: Answer,
}

impl Context {
    /// Passes on an answer that nobody waits for, unless nothing follows from it.
    pub(super) fn adopt(&self, service: &Arc<Service>, answer: Answer) {
        if !answer.is_to_be_carried_out() {
            return;
        }
        let orphan = Orphan { service: Arc::clone(service), answer };
        if let Err(refused) = self.orphans.try_send(orphan) {
            let Orphan { service, answer } = refused.into_inner();
            warn!(
                service = service.name,
                effects = answer.effects.len(),
                "effects of a command whose caller left were dropped: too many wait"
            );
        }
    }
}

/// What entities share that never speak to their user function, and what is left to others.
#[cfg(test)]
pub(super) fn alone(budget: &Budget) -> (Context, mpsc::Receiver<Orphan>) {
    let journal: Arc<dyn Store> = Arc::new(crate::journal::Memory::default());
    let limits = crate::user_function::Limits::default();
    let user_function = UserFunction::new("127.0.0.1:9", limits).expect("an address");
    let (limits, (orphans, orphaned)) = (Limits::default(), mpsc::channel(1));
    let context = Context {
        writes: Batcher::new(&journal, limits.append),
        journal,
        metrics: Metrics::new(&crate::route::Routes::default()),
        reporter: Reporter::start(&user_function),
        user_function,
        orphans,
        turns: Turns::new(limits.replays, budget),
        budget: budget.clone(),
        limits,
    };
    (context, orphaned)
}
