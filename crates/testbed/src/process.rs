//! A child process with its log, its signals and what it uses. It ends with its owner.

use std::{
    collections::VecDeque,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    time,
};

/// Lines that are kept of what a process says.
const LOG_LINES: usize = 500;

/// How long a process may take to stand still once it is told to.
const HOLD_LIMIT: Duration = Duration::from_secs(10);

/// The program of that name that cargo built beside the one that runs now.
///
/// # Errors
/// When it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("failed to find the program that runs")?;
    // Tests lie in `deps`, one floor below.
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    let found = found.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| anyhow!("no program {name} beside {}: build it first", own.display()))
}

/// A loopback address that nobody else on this machine uses, so that every port on it is free. Tests
/// that run a proxy within their own process count from 1; these count from 128.
pub fn own_address() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high, low, 128 + COUNT.fetch_add(1, Ordering::Relaxed) % 126)
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: Log,
}

impl Process {
    /// Starts a command; what it says on its standard error is kept.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let name = command.as_std().get_program().to_string_lossy().into_owned();
        let command = command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("failed to start {name}"))?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let pid = pid.context("a process that was just started has no id")?;
        let log = Log::default();
        let stderr = child.stderr.take().context("the log was not asked for")?;
        tokio::spawn(log.clone().keep(stderr));
        Ok(Self { name, child, pid, log })
    }

    /// The process's number.
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Its standard output, when the command asked for a pipe and nobody took it yet.
    pub fn stdout(&mut self) -> Option<tokio::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// The last lines that it wrote on its standard error.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Ends it at once, as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("failed to kill {}", self.name))
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Asks it to end, as a person does who waits for it at a terminal.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn interrupt(&self) -> Result<()> {
        self.signal(Signal::INT)
    }

    /// Holds it, wherever it is, and waits until it stands still: until then the kernel would deliver
    /// another signal that is sent to it before the one that holds it.
    ///
    /// # Errors
    /// When it has ended already, or does not come to stand.
    pub async fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let held = async {
            while !self.is_held()? {
                time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        let late =
            || format!("{} does not stand still {HOLD_LIMIT:?} after it was told to", self.name);
        time::timeout(HOLD_LIMIT, held).await.with_context(late)?
    }

    /// Whether every thread of it stands still.
    fn is_held(&self) -> Result<bool> {
        let path = format!("/proc/{}/task", self.id());
        let threads = fs::read_dir(&path).with_context(|| format!("failed to read {path}"))?;
        for thread in threads {
            // A thread may end in this moment.
            let stat = fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
            if after_name(&stat)
                .and_then(|mut fields| fields.next())
                .is_some_and(|state| state != "T")
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it is still there after `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = time::timeout(limit, self.child.wait()).await;
        let late = || format!("{} has not ended within {limit:?}; {}", self.name, self.log.text());
        status.with_context(late)?.with_context(|| format!("failed to wait for {}", self.name))
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it uses.
    ///
    /// # Errors
    /// When it has ended.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.id())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid, signal)
            .with_context(|| format!("failed to send {signal:?} to {}", self.name))
    }
}

/// The end of what a process said.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    async fn keep(self, source: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(source).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == LOG_LINES {
                kept.pop_front();
            }
            kept.push_back(line);
        }
    }

    fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// What a process uses, as the kernel counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on a processor so far.
    pub cpu: Duration,
    /// Bytes in memory now.
    pub memory: u64,
    /// The most bytes in memory so far.
    pub memory_peak: u64,
}

impl Usage {
    /// Of the process with this number.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(id: i32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{id}/{file}");
            fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))
        };
        let stat = read("stat")?;
        let status = read("status")?;
        let cpu = times(&stat, 11).with_context(|| format!("{stat:?} has no times"))?;
        Ok(Self { cpu, memory: field(&status, "VmRSS:")?, memory_peak: field(&status, "VmHWM:")? })
    }

    /// Of the process with this number and its children together, those that have ended included.
    ///
    /// # Errors
    /// When there is none.
    pub fn of_family(id: i32) -> Result<Self> {
        let mut all = Self::of(id)?;
        let path = format!("/proc/{id}/stat");
        let stat = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
        all.cpu += times(&stat, 13).with_context(|| format!("{stat:?} has no times"))?;
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(child) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            if parent(&stat) != Some(id) {
                continue;
            }
            // It may end in this moment.
            let Ok(usage) = Self::of(child) else { continue };
            all.cpu += usage.cpu;
            all.memory += usage.memory;
            all.memory_peak += usage.memory_peak;
        }
        Ok(all)
    }
}

/// Two times, for user and system, that stand together in a line of `/proc/<id>/stat`.
fn times(stat: &str, at: usize) -> Option<Duration> {
    /// The kernel shows times in hundredths of a second, on every architecture that we run on.
    const TICK: Duration = Duration::from_millis(10);
    let mut times = after_name(stat)?.skip(at).map(str::parse::<u32>);
    Some(TICK * (times.next()?.ok()? + times.next()?.ok()?))
}

/// The parent in a line of `/proc/<id>/stat`.
fn parent(stat: &str) -> Option<i32> {
    after_name(stat)?.nth(1)?.parse().ok()
}

/// The name may hold anything, brackets too.
fn after_name(stat: &str) -> Option<std::str::SplitWhitespace<'_>> {
    Some(stat.rsplit_once(')')?.1.split_whitespace())
}

/// A size in `/proc/<id>/status`; a process that is about to end has none.
fn field(status: &str, name: &str) -> Result<u64> {
    let Some(line) = status.lines().find_map(|line| line.strip_prefix(name)) else { return Ok(0) };
    let kilobytes = line.trim().strip_suffix(" kB").map(str::parse::<u64>);
    ensure!(matches!(kilobytes, Some(Ok(_))), "{name} is {line:?}");
    Ok(kilobytes.and_then(Result::ok).unwrap_or_default() * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start(command).unwrap()
    }

    #[tokio::test]
    async fn the_end_of_a_process_and_its_words_are_known() {
        let mut process = shell("echo words >&2; exit 7");
        assert_eq!(process.ended(PATIENCE).await.unwrap().code(), Some(7));
        let told = async {
            while process.log() != "words" {
                time::sleep(Duration::from_millis(1)).await;
            }
        };
        time::timeout(PATIENCE, told).await.unwrap();
    }

    #[tokio::test]
    async fn a_paused_process_ends_only_once_it_goes_on() {
        let mut process = shell("trap 'exit 3' TERM; while :; do sleep 0.01; done");
        assert!(process.usage().unwrap().memory > 0);
        process.pause().await.unwrap();
        process.terminate().unwrap();
        assert!(process.ended(Duration::from_millis(100)).await.is_err());
        process.resume().unwrap();
        // TERM before the trap was set ends the shell, too.
        assert!(!process.ended(PATIENCE).await.unwrap().success());
        assert!(!process.is_running());
    }

    #[test]
    fn a_name_in_brackets_hides_no_times() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0";
        assert_eq!(times(stat, 11), Some(Duration::from_secs(2)));
        assert_eq!(parent(stat), Some(1));
        assert_eq!(times("", 11), None);
    }
}
