//! Many calls at once, each made once: the program `crowd` of package `testbed`, heard to its end.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};

/// How so many callers call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'a> {
    pub(super) service: &'a str,
    pub(super) method: &'a str,
    pub(super) callers: u64,
    /// How many calls each makes, one after the other.
    pub(super) calls: u64,
}

/// Callers under way. They are ended with this.
pub(super) struct Crowd {
    child: Child,
    lines: BufReader<ChildStdout>,
    expected: u64,
}

impl Crowd {
    /// Starts the callers, and waits until all their connections are open.
    pub(super) fn start(program: &Path, address: &str, plan: Plan<'_>) -> anyhow::Result<Self> {
        let Plan { service, method, callers, calls } = plan;
        let mut child = Command::new(program)
            .args([address, service, method, &callers.to_string(), &calls.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let lines = BufReader::new(child.stdout.take().context("the crowd has no output")?);
        let mut crowd = Self { child, lines, expected: callers * calls };
        let mut line = String::new();
        crowd.lines.read_line(&mut line).context("cannot read what the crowd says")?;
        ensure!(line.trim() == "open", "the crowd could not connect to {address}: {line:?}");
        Ok(crowd)
    }

    /// Waits until every call has ended, and says how long all took.
    ///
    /// # Errors
    /// Names the calls that were not answered well.
    pub(super) fn end(mut self) -> anyhow::Result<Duration> {
        let mut lines = Vec::new();
        for line in self.lines.by_ref().lines() {
            lines.push(line.context("cannot read what the crowd says")?);
        }
        let status = self.child.wait().context("cannot wait for the crowd")?;
        ensure!(status.success(), "the crowd broke off: {lines:#?}");
        took(&lines, self.expected)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // After `end` both say that it is gone.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Reads `good <count> <milliseconds>`, the last line, before which each failure has one.
fn took(lines: &[String], expected: u64) -> anyhow::Result<Duration> {
    let (last, failed) = lines.split_last().context("the crowd said nothing")?;
    let words: Vec<&str> = last.split(' ').collect();
    let ["good", good, millis] = words[..] else { anyhow::bail!("the crowd ended with {last:?}") };
    let good: u64 = good.parse().with_context(|| format!("a count, not {good:?}"))?;
    let some: Vec<_> = failed.iter().take(5).collect();
    ensure!(
        good == expected && failed.is_empty(),
        "{good} of {expected} calls were answered; {some:#?}"
    );
    Ok(Duration::from_millis(millis.parse().with_context(|| format!("a time, not {millis:?}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> Result<Duration, String> {
        let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
        took(&lines, 2).map_err(|error| error.to_string())
    }

    #[test]
    fn only_all_good_calls_are_good() {
        assert_eq!(heard(&["good 2 3010"]), Ok(Duration::from_millis(3010)));
        assert!(heard(&["good 1 3010"]).unwrap_err().contains("1 of 2"));
        assert!(heard(&["failed status 14 gone", "good 2 9"]).unwrap_err().contains("14 gone"));
        assert!(heard(&["failed status 14 gone"]).unwrap_err().contains("ended with"));
        assert!(heard(&[]).is_err());
    }
}
