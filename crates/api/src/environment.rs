//! Reading settings out of environment variables, for launcher and proxy alike.
//!
//! A value stays the string that it is until a typed value is made of it: nothing guesses that `007`
//! is a number. All problems are collected, and each names the variable, its value, what was expected
//! and what to do.

mod problem;
mod reader;
pub mod value;

pub use self::{
    problem::{Kind, Problem, Problems},
    reader::Reader,
    value::Refusal,
};
