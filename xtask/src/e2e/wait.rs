//! Waiting for a state, never for time to pass.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use anyhow::bail;

/// Bounds of the pause between two looks. A look costs a process, so looking more often than the
/// deadline asks for only takes the machine from what is being waited for.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_millis(250);

/// Looks until there is something, and says after how long it was seen.
///
/// The look tells what it saw instead, which is the message when the deadline is missed. An error
/// ends the waiting at once: what cannot be looked at is no state to wait for.
pub(super) fn until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> anyhow::Result<Result<T, String>>,
) -> anyhow::Result<(T, Duration)> {
    let interval = (deadline / 100).clamp(INTERVAL_MIN, INTERVAL_MAX);
    let begun = Instant::now();
    loop {
        // What counts is when it was asked: how long the answer takes says nothing about the state.
        let asked = begun.elapsed();
        match look()? {
            Ok(found) if asked <= deadline => return Ok((found, begun.elapsed())),
            Ok(_) => bail!("{what}: only after {asked:.1?}, not within {deadline:?}"),
            Err(seen) if asked > deadline => {
                bail!("{what}: not within {deadline:?}; last seen: {seen}")
            }
            Err(_) => thread::sleep(interval),
        }
    }
}

/// How often something is done that has to take effect within a second or two. A machine that pauses for as long breaks
/// such a promise and nobody is to blame; what is slow by itself is so each time.
const TRIES: usize = 3;

/// How long something took to take effect in time.
#[derive(Debug)]
pub(super) struct Prompt {
    pub took: Duration,
    /// The times at which it was late before; who reads the output shall know of them.
    pub late: Vec<Duration>,
}

impl fmt::Display for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1?}", self.took)?;
        if !self.late.is_empty() {
            write!(f, " (late before: {:.1?})", self.late)?;
        }
        Ok(())
    }
}

/// Has something done until it takes effect within the limit. Each try waits by itself for the effect, which has to come
/// in any case.
pub(super) fn promptly(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut(usize) -> anyhow::Result<Duration>,
) -> anyhow::Result<Prompt> {
    let mut late = Vec::new();
    for number in 0..TRIES {
        let took = attempt(number)?;
        if took <= limit {
            return Ok(Prompt { took, late });
        }
        late.push(took);
    }
    bail!("{what}: {late:.1?}, and not once within {limit:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_each_time_is_a_failure_and_once_in_time_is_enough() {
        let limit = Duration::from_secs(1);
        let slow_at_first = |number| Ok(Duration::from_secs(if number < 2 { 3 } else { 1 }));
        let prompt = promptly("back", limit, slow_at_first).unwrap();
        assert_eq!(prompt.to_string(), "1.0s (late before: [3.0s, 3.0s])");
        assert_eq!(promptly("back", limit, |_| Ok(limit)).unwrap().to_string(), "1.0s");
        let error = promptly("back", limit, |_| Ok(Duration::from_secs(2))).unwrap_err();
        assert_eq!(error.to_string(), "back: [2.0s, 2.0s, 2.0s], and not once within 1s");
        assert!(promptly("back", limit, |_| bail!("gone")).is_err());
    }

    #[test]
    fn what_comes_in_time_is_returned() {
        let mut looks = 0;
        let (found, took) = until("three looks", Duration::from_secs(10), || {
            looks += 1;
            Ok(if looks == 3 { Ok(looks) } else { Err("fewer".to_owned()) })
        })
        .unwrap();
        assert_eq!(found, 3);
        assert!(took >= 2 * INTERVAL_MIN, "{took:?}");
    }

    #[test]
    fn a_missed_deadline_says_what_was_seen() {
        let error = until::<()>("pods", Duration::from_millis(1), || Ok(Err("no pod".to_owned())))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "pods: not within 1ms; last seen: no pod");
    }

    #[test]
    fn what_comes_late_is_a_failure() {
        let mut first = true;
        let error = until("pods", Duration::from_millis(1), || {
            Ok(if std::mem::take(&mut first) { Err(String::new()) } else { Ok(()) })
        })
        .unwrap_err()
        .to_string();
        assert!(error.starts_with("pods: only after"), "{error}");
    }

    #[test]
    fn an_error_ends_the_waiting() {
        let error = until::<()>("pods", Duration::from_mins(10), || bail!("forbidden"));
        assert_eq!(error.unwrap_err().to_string(), "forbidden");
    }
}
