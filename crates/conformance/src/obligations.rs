//! What a proxy owes, by what it owes it for.

mod action;
mod discovery;
mod event_sourced;
mod value;

use crate::suite::Obligation;

/// Those that hold in front of the published models.
pub const MODELS: &[&[Obligation]] = &[discovery::ALL, event_sourced::ALL, value::ALL, action::ALL];
