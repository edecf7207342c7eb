//! Measures the launcher beside tini, which does less. `docs/launcher.md` tells what the figures mean;
//! `cargo xtask bench launcher` builds and runs this.
//!
//! Everything here blocks on one thread: whoever measures fractions of a millisecond wants nothing in between.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![allow(
    clippy::cast_precision_loss,
    reason = "figures for people; none comes near what a double holds exactly"
)]

mod measure;
mod moment;
mod proc;
mod supervised;
mod table;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;

use self::{
    supervised::{By, Programs},
    table::Table,
};

/// Measures the launcher beside tini
#[derive(Debug, Parser)]
struct Flags {
    /// The launcher's program
    #[arg(long)]
    launcher: PathBuf,
    /// tini's program
    #[arg(long)]
    tini: PathBuf,
    /// How often everything is measured; of each figure the median counts
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// For how many seconds both are left alone to see what they do then; the target for memory speaks of 600
    #[arg(long, default_value_t = 6.0)]
    idle: f64,
    /// Everything once and few times, to see that it works rather than how fast
    #[arg(long)]
    short: bool,
    /// Write all figures here, too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Starts and stops.
    starts: usize,
    /// Times that the user function comes up.
    arrivals: usize,
    /// Runs of `check`.
    checks: usize,
    /// How long nothing happens.
    idle: Duration,
    /// How long the probes are asked for.
    asked: Duration,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let size = if flags.short {
        let moment = Duration::from_millis(500);
        Size { starts: 2, arrivals: 1, checks: 2, idle: moment, asked: moment }
    } else {
        Size {
            starts: 40,
            arrivals: 5,
            checks: 20,
            idle: Duration::from_secs_f64(flags.idle),
            asked: Duration::from_secs(3),
        }
    };
    let programs = Programs::find(flags.launcher, flags.tini)?;
    let mut table = Table::new(flags.short);
    for run in 1..=if flags.short { 1 } else { flags.runs } {
        println!("run {run}");
        measure::everything(&programs, size, &mut table)
            .with_context(|| format!("run {run} broke off"))?;
    }
    for by in [By::Launcher, By::Tini] {
        let size = std::fs::metadata(programs.of(by))?.len();
        table.add("program's size", by, size as f64 / f64::from(1 << 20));
    }
    table.print(&programs)?;
    if let Some(file) = flags.json {
        table.write(&file)?;
    }
    Ok(())
}
