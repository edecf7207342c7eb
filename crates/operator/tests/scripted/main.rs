//! The operator as a whole against a scripted API server, in this process and on paused time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a broken case may end the test")]

mod checks;
mod convergence;
mod leftovers;
mod pairs;
#[cfg(feature = "planted")]
mod planted;
mod rights;
mod scenarios;
mod secrets;
mod stores;
mod traps;
mod upkeep;
mod world;
