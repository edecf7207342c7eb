//! The proxy's state machines in a world without time, threads or I/O: two proxies with entities,
//! batches and ownership, one faulty store, user functions that misbehave, and callers that leave, all
//! driven by one seed. Crashes come between any two actions.
//!
//! Every promise of `docs/promises.md` is checked while the world runs, against what really became
//! durable ([`truth`]). A broken one is told with its seed, and the same seed breaks it again:
//! `cargo xtask sim --seed S`.
//!
//! What is real: the machines of entities, batches and ownership, and the store in memory. What is
//! played: the drivers, which are thin, and everything around them.

mod callers;
mod entity;
mod function;
mod owner;
mod random;
mod truth;
mod world;
mod writes;

use std::fmt;

use world::World;

/// What one run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands that callers gave.
    pub commands: u64,
    /// Those that got a reply.
    pub replies: u64,
    /// Events and values that became durable.
    pub writes: u64,
    /// Writes whose outcome the proxy did not learn.
    pub lost_answers: u64,
    /// Proxies that ended without a word.
    pub crashes: u64,
    /// Epochs that began.
    pub epochs: u64,
    /// Things that happened, in all.
    pub steps: u64,
}

impl Counts {
    /// Adds another run.
    pub fn add(&mut self, other: Self) {
        self.commands += other.commands;
        self.replies += other.replies;
        self.writes += other.writes;
        self.lost_answers += other.lost_answers;
        self.crashes += other.crashes;
        self.epochs += other.epochs;
        self.steps += other.steps;
    }
}

/// A promise that did not hold.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Its name in `docs/promises.md`.
    pub promise: &'static str,
    /// How it was broken.
    pub what: String,
    /// Breaks it again.
    pub seed: u64,
    /// What happened until then, the last things last.
    pub trace: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "  {line}")?;
        }
        write!(f, "{} is broken: {} (seed {})", self.promise, self.what, self.seed)
    }
}

/// Runs the world that this seed makes, and tells what happened when a promise breaks.
///
/// # Errors
/// The first promise that breaks.
pub fn run(seed: u64) -> Result<Counts, Box<Broken>> {
    World::new(seed, false).run().or_else(|_| World::new(seed, true).run())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promise_holds_in_a_hundred_worlds() {
        let mut all = Counts::default();
        for seed in 0..100 {
            all.add(run(seed).unwrap_or_else(|broken| panic!("{broken}")));
        }
        // A world in which nothing happens keeps every promise.
        assert!(all.replies > all.commands / 3, "{all:?}");
        assert!(all.crashes > 20 && all.lost_answers > 20 && all.epochs > 150, "{all:?}");
    }

    #[test]
    fn a_seed_makes_the_same_world_again() {
        assert_eq!(run(7).unwrap(), run(7).unwrap());
        assert_ne!(run(7).unwrap(), run(8).unwrap());
    }
}
