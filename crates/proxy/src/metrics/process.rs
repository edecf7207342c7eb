//! What the system knows of this process, under the names that all Prometheus libraries use.

use std::{fs, sync::OnceLock, time::SystemTime};

use prometheus_client::{
    metrics::{
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

/// Linux tells times of processes to programs in hundredths of a second, on every machine.
const TICKS: f64 = 100.0;

/// When the process was first asked about; as good as its start.
pub(super) fn started() -> SystemTime {
    static STARTED: OnceLock<SystemTime> = OnceLock::new();
    *STARTED.get_or_init(SystemTime::now)
}

/// Memory in use, in bytes.
pub(crate) fn resident_memory() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1_024)
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program stands in brackets and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS)
}

fn open_files() -> Option<i64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    i64::try_from(count).ok()
}

pub(super) fn register(registry: &mut Registry) {
    if let Some(seconds) = cpu_seconds() {
        registry.register("process_cpu_seconds", "Time on processors", ConstCounter::new(seconds));
    }
    let started = started().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let started = ConstGauge::new(started.as_secs_f64());
    registry.register("process_start_time_seconds", "Start of the process, since 1970", started);
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Memory in use", resident_memory()),
        ("process_open_fds", "Open files and sockets", open_files()),
    ] {
        if let Some(value) = value {
            registry.register(name, help, ConstGauge::new(value));
        }
    }
    // A gauge rather than OpenMetrics' own kind for it, which Prometheus' older format does not have.
    let build = Family::<[(&str, &str); 1], Gauge>::default();
    build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
    registry.register("cloudstate_proxy_build_info", "Which proxy this is", build);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_knows_this_process() {
        assert!(resident_memory().unwrap() > 1 << 20);
        assert!(cpu_seconds().is_some());
        assert!(open_files().unwrap() > 2);
    }
}
