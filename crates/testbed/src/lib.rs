//! Real parts for tests, measurements and chaos. Nothing here ships.

pub mod counter;
pub mod fuzz;
pub mod ledger;
pub mod load;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod scratch;
