//! What the kernel counts of one process: finer than the hundredths of a second of `/proc/<id>/stat`.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// What a process has used and holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    /// Time on a processor.
    pub(crate) cpu: Duration,
    /// How often it went to sleep by itself, and so how often it was woken.
    pub(crate) wakeups: u64,
    /// Bytes in memory.
    pub(crate) memory: u64,
    pub(crate) threads: usize,
    pub(crate) descriptors: usize,
}

impl Counted {
    /// Of the process with this number.
    pub(crate) fn of(id: u32) -> Result<Self> {
        let mut counted = Self::default();
        for thread in fs::read_dir(format!("/proc/{id}/task")).context("no such process")? {
            let folder = thread?.path();
            let read =
                |name| fs::read_to_string(folder.join(name)).with_context(|| format!("no {name}"));
            let schedstat = read("schedstat")?;
            let nanos = schedstat.split(' ').next().unwrap_or_default().parse()?;
            counted.cpu += Duration::from_nanos(nanos);
            counted.wakeups += field(&read("status")?, "voluntary_ctxt_switches:")?;
            counted.threads += 1;
        }
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        counted.memory = field(&status, "VmRSS:")? * 1024;
        counted.descriptors = fs::read_dir(format!("/proc/{id}/fd"))?.count();
        Ok(counted)
    }

    /// Seconds on a processor since an earlier look.
    pub(crate) fn cpu_since(&self, earlier: &Self) -> f64 {
        self.cpu.saturating_sub(earlier.cpu).as_secs_f64()
    }
}

fn field(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("no {name} in /proc"))?;
    line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{name} is {line:?}"))
}
