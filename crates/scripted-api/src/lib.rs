//! A Kubernetes API server for tests that does as the test says. It ships nowhere.
//!
//! [`Store`] is the server without a network: objects, versions, field ownership, preconditions, what
//! goes with its owner, and the log that watches read. It has no clock and no I/O, and a clone of it is
//! a snapshot. [`Server`] puts HTTP around it, for any number of [`Connection`]s; each of them can be
//! told to fail at any call or watch event, see [`Fault`] and [`Delivery`].
//!
//! It knows what the operator asks for and no more: no admission by schema or CEL, no scale, no dry run.
//! What it claims is held to a real API server by one suite that runs on both (`tests/contract.rs`).

mod checks;
mod claims;
mod defaults;
mod fault;
mod fields;
mod kinds;
mod list;
mod patch;
mod relay;
mod request;
mod server;
mod store;
mod stream;

pub use crate::fault::{Call, Delivery, Fault, Verb};
pub use crate::kinds::{KINDS, Kind};
pub use crate::relay::Relay;
pub use crate::server::{Connection, Server};
pub use crate::store::{Change, Key, Patch, Refusal, Store, WriteOptions};
