//! The sidecar's entrypoint: reads its environment, keeps one proxy process running, tells the kubelet
//! the truth about it, and stops it within the pod's grace period.
//!
//! It never sits on the data path. [`machine`] decides and does nothing else; [`supervise`] does what
//! it is told and decides nothing; [`process`] is the only module that may hold `unsafe`.

pub mod admin;
pub mod board;
pub mod cgroup;
pub mod cli;
pub mod client;
pub mod command;
pub mod config;
pub mod exit;
pub mod health;
pub mod jvm;
pub mod log;
pub mod machine;
pub mod metrics;
pub mod probe;
pub mod process;
pub mod signals;
pub mod supervise;
pub mod termination;
pub mod user_function;
