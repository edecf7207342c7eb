//! Callers under way while something is done to the cluster, and what they were promised: the program
//! `carts` of package `testbed`, heard line by line.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, ensure};

use super::wait::until;

/// How long the callers may take to end: the last call of each, with all its attempts.
const END: Duration = Duration::from_mins(2);

/// Callers of one shopping cart service. They are ended with this.
pub(super) struct Load {
    child: Child,
    /// While it is open, the callers go on.
    input: Option<ChildStdin>,
    ledger: Arc<Mutex<Ledger>>,
    reader: Option<JoinHandle<()>>,
    callers: u32,
}

/// One acknowledged addition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ack {
    caller: u32,
    began: Duration,
    ended: Duration,
}

/// What a caller found at the end.
#[derive(Clone, Copy, Debug)]
struct End {
    acknowledged: u64,
    attempts: u64,
    quantity: i64,
}

/// What the callers said. Times are since 1970.
#[derive(Debug, Default)]
struct Ledger {
    acks: Vec<Ack>,
    ends: BTreeMap<u32, End>,
    /// Calls that failed though they were tried again, and lines that we do not understand.
    failures: Vec<String>,
}

/// What a load came to when every promise was kept.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) acknowledged: u64,
    pub(super) repeated: u64,
    /// The longest that a caller waited for one acknowledgement.
    pub(super) slowest: Duration,
}

impl Load {
    /// Starts so many callers, and waits until each was served.
    pub(super) fn start(program: &Path, address: &str, callers: u32) -> anyhow::Result<Self> {
        let _socket: SocketAddr = address.parse().with_context(|| format!("address {address}"))?;
        let mut child = Command::new(program)
            .args([address, &callers.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let lines = BufReader::new(child.stdout.take().context("the callers have no output")?);
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let heard = Arc::clone(&ledger);
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                heard.lock().unwrap_or_else(PoisonError::into_inner).hear(&line);
            }
        });
        let input = child.stdin.take();
        let load = Self { child, input, ledger, reader: Some(reader), callers };
        load.served_since(Duration::ZERO, Duration::from_secs(20))?;
        Ok(load)
    }

    /// Waits until each caller made a call after that moment that was acknowledged. Says when the last of
    /// them was, after that moment.
    pub(super) fn served_since(
        &self,
        since: Duration,
        limit: Duration,
    ) -> anyhow::Result<Duration> {
        let what = format!("each of {} callers is served", self.callers);
        let (last, _) = until(&what, limit, || {
            let ledger = self.ledger();
            let first = |caller| {
                let of_the_caller = |ack: &&Ack| ack.caller == caller && ack.ended >= since;
                ledger.acks.iter().find(of_the_caller).map(|ack| ack.ended)
            };
            let served: Vec<_> = (0..self.callers).filter_map(first).collect();
            let all = u32::try_from(served.len()) == Ok(self.callers);
            Ok(match served.iter().max() {
                Some(last) if all => Ok(last.saturating_sub(since)),
                _ => Err(format!("{} are; {:?}", served.len(), ledger.failures)),
            })
        })?;
        Ok(last)
    }

    /// Ends the callers, and compares what they were promised with what their carts hold.
    pub(super) fn end(mut self) -> anyhow::Result<Summary> {
        drop(self.input.take());
        until("the callers are done", END, || {
            let done = self.child.try_wait().context("cannot look at the callers")?;
            Ok(done.map(drop).ok_or_else(|| "they are not".to_owned()))
        })?;
        if let Some(reader) = self.reader.take() {
            ensure!(reader.join().is_ok(), "whoever listened to the callers panicked");
        }
        self.ledger().settle(self.callers)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After `end` both say that it is gone.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Ledger {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let heard = match words[..] {
            ["ack", caller, began, ended, _attempts] => {
                parse_ack(caller, began, ended).map(|ack| self.acks.push(ack))
            }
            ["end", caller, acknowledged, attempts, quantity] => {
                let end = parse_end(acknowledged, attempts, quantity);
                end.zip(caller.parse().ok()).map(|(end, caller)| {
                    self.ends.insert(caller, end);
                })
            }
            _ => None,
        };
        if heard.is_none() {
            self.failures.push(line.to_owned());
        }
    }

    /// Checks the ledger of each caller against its cart.
    fn settle(&self, callers: u32) -> anyhow::Result<Summary> {
        ensure!(self.failures.is_empty(), "calls failed for good: {:#?}", self.failures);
        let (mut acknowledged, mut attempts) = (0, 0);
        for caller in 0..callers {
            let end = self.ends.get(&caller);
            let end = end.with_context(|| format!("caller {caller} did not read its cart"))?;
            let counted = self.acks.iter().filter(|ack| ack.caller == caller).count();
            ensure!(
                u64::try_from(counted) == Ok(end.acknowledged),
                "caller {caller} says {}, and {counted} were heard",
                end.acknowledged
            );
            let quantity = u64::try_from(end.quantity).unwrap_or_default();
            ensure!(
                (end.acknowledged..=end.attempts).contains(&quantity),
                "the cart of caller {caller} holds {}, with {} acknowledged and {} attempted",
                end.quantity,
                end.acknowledged,
                end.attempts
            );
            acknowledged += end.acknowledged;
            attempts += end.attempts;
        }
        let slowest = self.acks.iter().map(|ack| ack.ended.saturating_sub(ack.began)).max();
        let repeated = attempts.saturating_sub(acknowledged);
        Ok(Summary { acknowledged, repeated, slowest: slowest.unwrap_or_default() })
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { acknowledged, repeated, slowest } = self;
        write!(
            f,
            "{acknowledged} additions acknowledged, none lost, none failed; {repeated} attempts were repeated, the slowest addition took {slowest:.1?}"
        )
    }
}

fn parse_ack(caller: &str, began: &str, ended: &str) -> Option<Ack> {
    Some(Ack {
        caller: caller.parse().ok()?,
        began: Duration::from_micros(began.parse().ok()?),
        ended: Duration::from_micros(ended.parse().ok()?),
    })
}

fn parse_end(acknowledged: &str, attempts: &str, quantity: &str) -> Option<End> {
    Some(End {
        acknowledged: acknowledged.parse().ok()?,
        attempts: attempts.parse().ok()?,
        quantity: quantity.parse().ok()?,
    })
}

/// The time since 1970, as the callers tell it.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(lines: &[&str]) -> Ledger {
        let mut ledger = Ledger::default();
        for line in lines {
            ledger.hear(line);
        }
        ledger
    }

    #[test]
    fn a_kept_promise_counts() {
        let ledger = ledger(&["ack 0 1000 3000 1", "ack 0 4000 9000 3", "end 0 2 4 3"]);
        let summary = ledger.settle(1).unwrap();
        assert_eq!((summary.acknowledged, summary.repeated), (2, 2));
        assert_eq!(summary.slowest, Duration::from_millis(5));
    }

    #[test]
    fn a_lost_or_doubled_item_a_failed_call_and_a_silent_caller_are_told() {
        for (lines, words) in [
            (&["ack 0 1 2 1", "ack 0 3 4 1", "end 0 2 2 1"][..], "holds 1, with 2 acknowledged"),
            (&["ack 0 1 2 1", "end 0 1 1 2"], "holds 2, with 1 acknowledged"),
            (&["ack 0 1 2 1", "end 0 1 1 -1"], "holds -1"),
            (&["ack 0 1 2 1", "failed 0 status 2: no", "end 0 1 1 1"], "status 2: no"),
            (&["ack 0 1 2 1"], "caller 0 did not read its cart"),
            (&["end 0 1 1 1"], "says 1, and 0 were heard"),
        ] {
            let error = ledger(lines).settle(1).unwrap_err().to_string();
            assert!(error.contains(words), "{words:?} is missing in {error}");
        }
    }
}
