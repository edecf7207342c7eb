//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

/// Measures the proxy as a whole.
#[derive(Debug, Parser)]
pub(crate) struct Flags {
    /// What to measure; everything unless named
    #[arg(value_name = "WORKLOAD", ignore_case = true)]
    workloads: Vec<Workload>,
    /// How long each figure is measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How often each figure is measured; the median counts
    #[arg(long, default_value_t = 1)]
    pub(crate) runs: usize,
    /// Where events go; Postgres and memory unless named
    #[arg(long)]
    store: Vec<Store>,
    /// Who carries commands out; both unless named, Node only with --node
    #[arg(long)]
    function: Vec<Function>,
    /// Folder in which the Node packages of the counter are installed
    #[arg(long)]
    pub(crate) node: Option<PathBuf>,
    /// Everything small, to see that it works rather than how fast
    #[arg(long)]
    pub(crate) short: bool,
    /// Write all figures here, too
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

/// What is measured; `docs/benchmarks.md` describes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    W1,
    W3,
    W4,
    W5,
    W6,
    W9,
    W10,
    W11,
    W12,
    W13,
}

/// Where events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Store {
    Postgres,
    Sqlite,
    Memory,
}

/// Who carries commands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Function {
    Rust,
    Node,
}

impl Flags {
    pub(crate) fn workloads(&self) -> Vec<Workload> {
        match &self.workloads[..] {
            [] => Workload::value_variants().to_vec(),
            named => named.to_vec(),
        }
    }

    pub(crate) fn stores(&self) -> Vec<Store> {
        match &self.store[..] {
            [] => vec![Store::Postgres, Store::Memory],
            named => named.to_vec(),
        }
    }

    pub(crate) fn functions(&self) -> Vec<Function> {
        match &self.function[..] {
            [] if self.node.is_none() => vec![Function::Rust],
            [] => vec![Function::Rust, Function::Node],
            named => named.to_vec(),
        }
    }

    /// How long each figure is measured.
    pub(crate) fn run(&self) -> Duration {
        Duration::from_secs_f64(if self.short { 0.5 } else { self.seconds })
    }

    /// How long goes by before.
    pub(crate) fn warm_up(&self) -> Duration {
        (self.run() / 4).min(Duration::from_secs(2))
    }
}
