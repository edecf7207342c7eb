//! The command line of `cargo xtask`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Every command that we run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
pub struct Flags {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a Kubernetes on this machine with the operator and the sample in it, and call the sample
    Up(Up),
    /// Stop that Kubernetes and leave nothing of it behind, except for the cache
    Down,
    /// Format, lints, tidy, every test of the workspace, conformance, then the end-to-end scenarios
    Test,
    /// Check the dependency arrows, and what else the compiler does not hold together
    Tidy,
    /// Plant bugs in proxy and operator, one at a time, and check that each is noticed
    Planted,
    /// Run the proxy's state machines in simulated worlds, and check its promises in each
    Sim(Sim),
    /// Write every generated file again
    Codegen,
    /// Measure the proxy as a whole, or with `launcher` or `operator` that one; `… --help` names workloads and flags
    Bench(Passed),
    /// Drive user functions that others wrote through the proxy, on every store
    Conformance(Conformance),
    /// Kill proxy, user function and Postgres under load; `cargo xtask chaos --help` names the flags
    Chaos(Passed),
    /// Send the proxy what nobody would send, and see that it stands it
    Fuzz(Fuzz),
    /// Run the end-to-end scenarios on the cluster, which is started when it does not run
    E2e(E2e),
}

/// What goes on to another program as it is.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub arguments: Vec<String>,
}

/// Flags of `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Use the cluster that this kubeconfig names, instead of starting one
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Push the images to this registry, such as `registry.example.com/team`
    #[arg(long, value_name = "PREFIX", requires = "kubeconfig")]
    pub registry: Option<String>,
}

/// Flags of `conformance`.
#[derive(Debug, Args)]
pub struct Conformance {
    /// Run only tests whose name contains one of these
    #[arg(value_name = "FILTER")]
    pub filters: Vec<String>,
}

/// Flags of `fuzz`.
#[derive(Debug, Args)]
pub struct Fuzz {
    /// How long each target is tried
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub seconds: u64,
    /// Where the inputs come from; another number each time if not given
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Try this one input, as a failure has printed it
    #[arg(long, value_name = "HEX")]
    pub input: Option<String>,
}

/// Flags of `e2e`.
#[derive(Debug, Args)]
pub struct E2e {
    /// How long an operator that has nothing to do is watched
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub silence: u64,
    /// Run only scenarios whose name contains one of these
    #[arg(value_name = "FILTER")]
    pub filters: Vec<String>,
}

/// Flags of `sim`.
#[derive(Debug, Default, Args)]
pub struct Sim {
    /// How many worlds
    #[arg(long, value_name = "N")]
    pub seeds: Option<u64>,
    /// The first of them; alone, this one only
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// Build with optimizations, for long runs
    #[arg(long)]
    pub release: bool,
}
