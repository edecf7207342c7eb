//! Callers: HTTP/2 without a gRPC library, so that most of the machine is left to what they call. Every
//! reply is checked, since a fast wrong answer is no answer.

mod account;
mod chance;
mod connection;
mod latency;
mod run;

pub use account::{Accounts, Wrong};
pub use chance::Chance;
pub use connection::{Answer, Broken, Connection, Path, frame};
pub use latency::Latency;
pub use run::{Keys, Load, Measured, Pool};
