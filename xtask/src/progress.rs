//! What a person sees while something takes long: one line per step with the time since the start, a sign of
//! life now and then, and the end of the log when a step fails.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long a step stays silent before it gives a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How often a state is asked for that is awaited; each time is a run of kubectl.
const ASK: Duration = Duration::from_millis(250);
/// How many lines of a log are shown after a failure.
const TAIL: usize = 20;

/// The story of one command.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    logs: PathBuf,
}

impl Progress {
    /// Starts the clock; the output of programs goes to files in `logs`.
    pub fn start(logs: PathBuf) -> Result<Self> {
        fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
        Ok(Self { started: Instant::now(), logs })
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Says what begins now.
    pub fn say(&self, text: &str) {
        println!("[{}] {text}", clock(self.elapsed()));
    }

    /// Runs `command` to its end within `limit`, with its output in the log `name`.
    ///
    /// # Errors
    /// When it cannot be started, fails, or is not done in time; the end of the log is part of the text.
    pub fn run(&self, name: &str, mut command: Command, limit: Duration) -> Result<()> {
        let path = self.logs.join(format!("{name}.log"));
        let log = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let started = Instant::now();
        let mut spoken = started;
        loop {
            if let Some(status) = child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!(
                    "{program} ended with {status}; the end of {}:\n{}",
                    path.display(),
                    tail(&path)
                );
            }
            if started.elapsed() > limit {
                child.kill()?;
                child.wait()?;
                bail!(
                    "{program} was not done after {} s; the end of {}:\n{}",
                    limit.as_secs(),
                    path.display(),
                    tail(&path)
                );
            }
            if spoken.elapsed() > HEARTBEAT {
                spoken = Instant::now();
                let tail = tail(&path);
                // Go says nothing at all while it compiles.
                let last = tail.lines().last().map_or("still at it", str::trim);
                self.say(&format!("  {} s: {}", started.elapsed().as_secs(), shorten(last, 90)));
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until `done` says yes, within `limit`.
    ///
    /// # Errors
    /// With `what` and the last refusal of `done` when the time is up.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let started = Instant::now();
        let mut spoken = started;
        loop {
            let Err(refusal) = done() else { return Ok(()) };
            if started.elapsed() > limit {
                return Err(refusal.context(format!("{what}: not within {} s", limit.as_secs())));
            }
            if spoken.elapsed() > HEARTBEAT {
                spoken = Instant::now();
                self.say(&format!("  {} s: {refusal:#}", started.elapsed().as_secs()));
            }
            thread::sleep(ASK);
        }
    }
}

/// The last lines of the file, or why they cannot be had.
pub fn tail(path: &Path) -> String {
    match fs::read(path) {
        Ok(bytes) => last_lines(&String::from_utf8_lossy(&bytes), TAIL),
        Err(error) => format!("  ({}: {error})", path.display()),
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.split(['\n', '\r']).filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(count);
    lines[from..].iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width).chain(['…']).collect()
}

/// Minutes and seconds, of constant width up to an hour and a half.
fn clock(elapsed: Duration) -> String {
    let tenths = elapsed.as_millis() / 100;
    format!("{:2}:{:02}.{}", tenths / 600, tenths / 10 % 60, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_counts_minutes() {
        assert_eq!(clock(Duration::from_millis(4_250)), " 0:04.2");
        assert_eq!(clock(Duration::from_secs(754)), "12:34.0");
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines_without_blank_ones() {
        assert_eq!(last_lines("a\n\nb\rc\n\n", 2), "  b\n  c");
        assert_eq!(last_lines("", 2), "");
    }

    #[test]
    fn a_failing_program_shows_the_end_of_its_log() {
        let logs = std::env::temp_dir().join(format!("xtask-progress-{}", std::process::id()));
        let progress = Progress::start(logs.clone()).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason >&2; exit 3"]);
        let error = progress.run("failing", command, Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        assert!(error.to_string().contains("the reason"), "{error}");
        fs::remove_dir_all(logs).unwrap();
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let logs = std::env::temp_dir().join(format!("xtask-progress-hang-{}", std::process::id()));
        let progress = Progress::start(logs.clone()).unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        let error = progress.run("hanging", command, Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("was not done"), "{error}");
        fs::remove_dir_all(logs).unwrap();
    }
}
