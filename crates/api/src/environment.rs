//! Reading settings out of environment variables, for launcher and proxy alike.
//!
//! A value stays the string that it is until a typed value is made of it: nothing guesses that `007`
//! is a number. All problems are collected, and each names the variable, its value, what was expected
//! and what to do.

mod problem;
mod reader;
mod size;
pub mod value;

use std::{ffi::OsString, path::PathBuf};

use crate::contract;

pub use self::{
    problem::{Kind, Problem, Problems},
    reader::{Reader, Reading},
    size::{Size, size},
    value::Refusal,
};

/// Where last words go, if anywhere; told apart from the other settings since it must be known when those
/// are refused.
pub fn termination_path(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Option<PathBuf> {
    let set = environment.into_iter().find(|(name, _)| name == contract::env::TERMINATION_PATH);
    let path = set.map_or_else(|| contract::TERMINATION_PATH.into(), |(_, value)| value);
    if path.is_empty() { None } else { Some(path.into()) }
}
