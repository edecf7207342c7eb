//! Real parts for tests, measurements and chaos. Nothing here ships.

pub mod postgres;
