//! Which processes are ours, and how they are started and ended.
//!
//! Every component carries a mark in its environment. So nothing has to be written down when it starts, an
//! `up` that is killed at any moment leaves nothing unknown, and a process id that was given to somebody else
//! is never mistaken for ours.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Says which component a process is. What a component starts inherits it.
const MARK: &str = "CLOUDSTATE_DEV_COMPONENT";
/// Says from which program and configuration it was started.
const VERSION_MARK: &str = "CLOUDSTATE_DEV_VERSION";

/// A process with our mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Its id.
    pub pid: u32,
    /// The component that it is, or was started by.
    pub component: String,
    /// What it was started from.
    pub version: String,
    /// The program that it runs.
    pub program: PathBuf,
}

/// Lists the processes with our mark.
///
/// # Errors
/// When /proc cannot be listed.
pub fn marked() -> Result<Vec<Marked>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may be gone by now; then it is not of interest.
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        let Some(component) = variable(&environment, MARK) else { continue };
        let version = variable(&environment, VERSION_MARK).unwrap_or_default();
        let program = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        found.push(Marked { pid, component, version, program: without_deleted(program) });
    }
    Ok(found)
}

/// The value of a variable in what /proc says of a process's environment.
fn variable(environment: &[u8], name: &str) -> Option<String> {
    environment.split(|byte| *byte == 0).find_map(|entry| {
        let text = std::str::from_utf8(entry).ok()?;
        Some(text.strip_prefix(name)?.strip_prefix('=')?.to_owned())
    })
}

/// The kernel adds this to the path of a program that was removed while it runs.
fn without_deleted(program: PathBuf) -> PathBuf {
    match program.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(text) => text.into(),
        None => program,
    }
}

/// A component as it should run.
#[derive(Debug)]
pub struct Component {
    /// Name of the component, and of its log.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// A digest of program, arguments and configuration files.
    pub version: String,
}

impl Component {
    /// Whether that process is this component, and not merely something that it started.
    fn is(&self, process: &Marked) -> bool {
        process.component == self.name && process.program == self.program
    }

    /// Starts it unless it runs, and replaces one that runs with an older configuration.
    ///
    /// Returns whether it had to be started.
    ///
    /// # Errors
    /// When it cannot be started, or the older one cannot be ended.
    pub fn ensure(&self, log: &Path) -> Result<bool> {
        let running = marked()?;
        let mine: Vec<_> =
            running.iter().filter(|process| process.component == self.name).collect();
        if mine.iter().any(|process| self.is(process) && process.version == self.version) {
            return Ok(false);
        }
        // An older one may run another program: whatever leads the component goes, its shims stay.
        let old =
            mine.iter().filter(|process| !is_shim(&process.program)).map(|process| process.pid);
        end(&old.collect::<Vec<_>>(), Duration::from_secs(10))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        // A session of its own: neither the end of `up` nor Ctrl-C in its terminal reaches the component.
        Command::new("setsid")
            .arg(&self.program)
            .args(&self.arguments)
            .env(MARK, self.name)
            .env(VERSION_MARK, &self.version)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        Ok(true)
    }

    /// Whether it runs now.
    ///
    /// # Errors
    /// When it does not, with the end of its log.
    pub fn require_alive(&self, log: &Path) -> Result<()> {
        if marked()?.iter().any(|process| self.is(process)) {
            return Ok(());
        }
        bail!(
            "{} has ended; the end of {}:\n{}",
            self.name,
            log.display(),
            crate::progress::tail(log)
        )
    }
}

/// containerd's shims outlive it on purpose: they hold the containers.
fn is_shim(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("containerd-shim"))
}

/// Ends these processes: asks first, and insists after `patience`.
///
/// # Errors
/// When one of them is still there in the end.
pub fn end(pids: &[u32], patience: Duration) -> Result<()> {
    for (signal, patience) in [(Signal::TERM, patience), (Signal::KILL, Duration::from_secs(10))] {
        let left: Vec<_> = pids.iter().copied().filter(|pid| is_running(*pid)).collect();
        for pid in &left {
            signal_to(*pid, signal);
        }
        let started = Instant::now();
        while left.iter().any(|pid| is_running(*pid)) && started.elapsed() < patience {
            thread::sleep(Duration::from_millis(10));
        }
    }
    match pids.iter().find(|pid| is_running(**pid)) {
        Some(pid) => bail!("process {pid} does not end, not even by SIGKILL"),
        None => Ok(()),
    }
}

/// Sends a signal; a process that is gone is fine.
pub fn signal_to(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone = kill_process(pid, signal);
    }
}

/// Whether the process exists and is more than a zombie.
fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !is_zombie(&stat))
}

/// Reads state and number of threads out of /proc/PID/stat; the name before them may hold anything, also
/// parentheses. The first thread of a killed process may be a zombie while others still hold its sockets.
fn is_zombie(stat: &str) -> bool {
    let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
    let fields: Vec<_> = rest.split(' ').collect();
    let threads: u32 = fields.get(17).and_then(|field| field.parse().ok()).unwrap_or(0);
    rest.starts_with(['Z', 'X']) && threads <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_read_from_an_environment() {
        let environment =
            b"PATH=/bin\0CLOUDSTATE_DEV_COMPONENT=etcd\0CLOUDSTATE_DEV_COMPONENTS=no\0";
        assert_eq!(variable(environment, MARK).as_deref(), Some("etcd"));
        assert_eq!(variable(b"XCLOUDSTATE_DEV_COMPONENT=etcd\0", MARK), None);
        assert_eq!(variable(b"", MARK), None);
    }

    #[test]
    fn a_program_that_was_replaced_is_still_recognized() {
        assert_eq!(
            without_deleted("/usr/bin/etcd (deleted)".into()),
            PathBuf::from("/usr/bin/etcd")
        );
        assert_eq!(without_deleted("/usr/bin/etcd".into()), PathBuf::from("/usr/bin/etcd"));
    }

    #[test]
    fn a_shim_is_not_the_component_that_started_it() {
        let component = Component {
            name: "containerd",
            program: "/usr/bin/containerd".into(),
            arguments: Vec::new(),
            version: "1".to_owned(),
        };
        let process = |program: &str| Marked {
            pid: 1,
            component: "containerd".to_owned(),
            version: "1".to_owned(),
            program: program.into(),
        };
        assert!(component.is(&process("/usr/bin/containerd")));
        assert!(!component.is(&process("/usr/bin/containerd-shim-runc-v2")));
        assert!(is_shim(Path::new("/usr/bin/containerd-shim-runc-v2")));
    }

    #[test]
    fn zombies_do_not_run() {
        let stat = |state: &str, threads: u32| {
            format!("12 (a) Z (b) {state} 1 12 12 0 -1 4 0 0 0 0 0 0 0 0 20 0 {threads} 0 5 0")
        };
        assert!(is_zombie(&stat("Z", 1)));
        assert!(!is_zombie(&stat("S", 1)));
        assert!(!is_zombie(&stat("Z", 3)));
    }

    #[test]
    fn a_component_runs_once_and_ends() {
        let log = std::env::temp_dir().join(format!("xtask-component-{}.log", std::process::id()));
        let sleep = fs::canonicalize("/bin/sleep").unwrap();
        let component = |version: &str| Component {
            name: "test-sleeper",
            program: sleep.clone(),
            arguments: vec!["600".to_owned()],
            version: version.to_owned(),
        };
        let pids = || -> Vec<u32> {
            let all = marked().unwrap();
            all.iter()
                .filter(|process| process.component == "test-sleeper")
                .map(|process| process.pid)
                .collect()
        };
        let until = |condition: &dyn Fn() -> bool| {
            let started = Instant::now();
            while !condition() {
                assert!(started.elapsed() < Duration::from_secs(10), "not within 10 s");
                thread::sleep(Duration::from_millis(5));
            }
        };
        assert!(component("1").ensure(&log).unwrap());
        until(&|| component("1").require_alive(&log).is_ok());
        assert!(!component("1").ensure(&log).unwrap());
        let first = pids();
        assert!(component("2").ensure(&log).unwrap());
        until(&|| component("2").require_alive(&log).is_ok());
        assert!(first.iter().all(|pid| !is_running(*pid)));
        end(&pids(), Duration::from_secs(5)).unwrap();
        assert!(component("2").require_alive(&log).is_err());
        fs::remove_file(log).unwrap();
    }
}
