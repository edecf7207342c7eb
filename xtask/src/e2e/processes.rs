//! The processes of a container, seen from the machine that runs it.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A process inside a container, by its id on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process(pub(super) u32);

/// The one process of the pod's container that runs `program`, which is a path or the last part of one.
pub(super) fn find(pod: &Value, container: &str, program: &str) -> anyhow::Result<Process> {
    let id = container_id(pod, container)?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let folder = Path::new("/proc").join(format!("{pid}"));
        // Processes end while we look; one without these files is none of ours.
        let groups = fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
        let arguments = fs::read(folder.join("cmdline")).unwrap_or_default();
        let first = arguments.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = first.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if groups.contains(&id) && [first, name].contains(&program.as_bytes()) {
            found.push(Process(pid));
        }
    }
    match found[..] {
        [process] => Ok(process),
        _ => bail!("container {container} ({id}) runs {program} {} times: {found:?}", found.len()),
    }
}

/// How often the kubelet has started the container again.
pub(super) fn restarts(pod: &Value, container: &str) -> anyhow::Result<u64> {
    status(pod, container)?["restartCount"].as_u64().context("a container without restartCount")
}

impl Process {
    /// Ends it without a word, as the kernel does when memory runs out.
    pub(super) fn kill(self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Sends it a signal.
    pub(super) fn signal(self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.0).ok().and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("{} is no process", self.0))?;
        kill_process(pid, signal)
            .with_context(|| format!("cannot send {signal:?} to process {}", self.0))
    }

    /// What it was started with.
    pub(super) fn arguments(self) -> anyhow::Result<Vec<String>> {
        let path = format!("/proc/{}/cmdline", self.0);
        let line = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
        let arguments = line.split(|byte| *byte == 0);
        Ok(arguments.map(|argument| String::from_utf8_lossy(argument).into_owned()).collect())
    }

    /// A file that the kernel has about it.
    pub(super) fn file(self, name: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{name}", self.0);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }

    /// Whether its program needs no other file to be loaded.
    pub(super) fn is_static(self) -> anyhow::Result<bool> {
        let path = format!("/proc/{}/exe", self.0);
        let program = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
        is_static(&program).with_context(|| format!("{path} is no program for this machine"))
    }

    /// Resident memory in MB.
    pub(super) fn resident_mb(self) -> anyhow::Result<f64> {
        self.memory_mb("VmRSS")
    }

    /// The most that it ever had resident, in MB.
    pub(super) fn peak_mb(self) -> anyhow::Result<f64> {
        self.memory_mb("VmHWM")
    }

    fn memory_mb(self, field: &str) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/status", self.0);
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        parse_mb(&status, field).with_context(|| format!("no {field} in {path}"))
    }
}

/// Looks through the program headers of a 64-bit ELF file for one that names a loader.
fn is_static(program: &[u8]) -> Option<bool> {
    const LOADER: [u8; 4] = 3_u32.to_le_bytes();
    if !program.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = program.get(at..at + size)?.iter().rev();
        Some(bytes.fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    let (headers, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let kinds = (0..count).map(|index| program.get(headers + index * size..)?.get(..4));
    let kinds: Option<Vec<_>> = kinds.collect();
    Some(!kinds?.contains(&LOADER.as_slice()))
}

fn parse_mb(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0 / 1_000_000.0)
}

fn container_id(pod: &Value, container: &str) -> anyhow::Result<String> {
    let id =
        status(pod, container)?["containerID"].as_str().context("the container does not run")?;
    Ok(id.rsplit('/').next().unwrap_or(id).to_owned())
}

fn status<'a>(pod: &'a Value, container: &str) -> anyhow::Result<&'a Value> {
    ["containerStatuses", "initContainerStatuses"]
        .into_iter()
        .filter_map(|kind| pod["status"][kind].as_array())
        .flatten()
        .find(|status| status["name"] == container)
        .with_context(|| format!("the pod has no container {container}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn memory_is_read_from_proc() {
        let status = "Name:\tproxy\nVmHWM:\t  9000 kB\nVmRSS:\t    8000 kB\n";
        assert_eq!(parse_mb(status, "VmRSS"), Some(8.192));
        assert_eq!(parse_mb(status, "VmHWM"), Some(9.216));
        assert_eq!(parse_mb("Name:\tproxy\n", "VmRSS"), None);
    }

    #[test]
    fn a_static_program_names_no_loader() {
        let test = fs::read("/proc/self/exe").unwrap();
        assert_eq!(is_static(&test), Some(false), "tests are linked dynamically");
        assert_eq!(is_static(b"#!/bin/sh"), None);
        let mut program = [0; 64 + 56];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (program[32], program[54], program[56], program[64]) = (64, 56, 1, 1);
        assert_eq!(is_static(&program), Some(true));
        program[64] = 3;
        assert_eq!(is_static(&program), Some(false));
    }

    #[test]
    fn ids_lose_the_name_of_the_runtime() {
        let status = json!({"name": "a", "containerID": "containerd://0123", "restartCount": 2});
        let pod = json!({"status": {"containerStatuses": [status]}});
        assert_eq!(container_id(&pod, "a").unwrap(), "0123");
        assert_eq!(restarts(&pod, "a").unwrap(), 2);
        assert!(container_id(&pod, "b").is_err());
    }
}
