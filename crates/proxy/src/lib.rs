//! The native proxy: takes gRPC calls, has the user function carry them out on entities, and keeps
//! what comes back in a journal.
//!
//! The way of a command: [`serve`] → [`route`] → [`entity`] → user function and [`journal`], and back
//! once its events are durable. `ARCHITECTURE.md` shows the whole of it.

pub mod action;
pub mod admin;
pub mod budget;
pub mod cli;
pub mod config;
pub mod discovery;
pub mod ending;
pub mod entity;
pub mod journal;
pub mod key;
pub mod log;
pub mod metrics;
pub mod ownership;
#[cfg_attr(not(feature = "planted"), allow(dead_code, reason = "nothing is planted"))]
mod planted;
mod proxy;
pub mod readiness;
pub mod report;
pub mod route;
pub mod router;
pub mod serve;
mod shown;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod spec;
pub mod user_function;

pub use proxy::{Error, run, run_on};
