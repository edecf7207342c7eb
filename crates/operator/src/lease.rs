//! Who leads, as one Lease says it. Pure: what was read goes in with the time, what to do comes out.
//!
//! Times that stand in a Lease are never compared with a clock of ours. A follower counts from when
//! it first saw a Lease as it is, a leader from when it sent what renewed it: so the leader stops
//! writing before anybody may take over, whatever the clocks say.

use std::time::Duration;

use tokio::time::Instant;

/// How long a Lease holds after it was seen renewed.
pub(crate) const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long after sending the last renewal its holder may write. What is left of
/// [`LEASE_DURATION`] is for writes that are under way.
pub(crate) const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often the Lease is renewed or looked at.
pub(crate) const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// What a Lease said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Nobody, once it was released.
    pub(crate) holder: Option<String>,
    pub(crate) duration: Duration,
    /// How often it changed hands.
    pub(crate) transitions: i32,
    /// Changes with each renewal.
    pub(crate) version: String,
}

/// What to do about the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make it, as there is none.
    Create,
    /// Write our name into it, unless it has changed since that version.
    Hold { version: String, transitions: i32 },
    /// It is another's, for as long as this unless that one renews it.
    Wait(Duration),
}

/// What one replica knows about the Lease.
#[derive(Debug)]
pub(crate) struct Election {
    identity: String,
    /// What was read last, and since when it has been like that.
    seen: Option<(Record, Instant)>,
}

impl Election {
    pub(crate) fn new(identity: String) -> Self {
        Self { identity, seen: None }
    }

    /// Takes in what was read at `now`.
    pub(crate) fn read(&mut self, found: Option<Record>, now: Instant) -> Action {
        let Some(record) = found else {
            self.seen = None;
            return Action::Create;
        };
        let since = match &self.seen {
            Some((seen, since)) if *seen == record => *since,
            _ => now,
        };
        let Record { holder, duration, transitions, version } = record.clone();
        self.seen = Some((record, since));
        let left = duration.saturating_sub(now.duration_since(since));
        match holder {
            Some(holder) if holder == self.identity => Action::Hold { version, transitions },
            Some(_) if !left.is_zero() => Action::Wait(left),
            _ => Action::Hold { version, transitions: transitions.saturating_add(1) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: Option<&str>, version: &str) -> Record {
        Record {
            holder: holder.map(str::to_owned),
            duration: LEASE_DURATION,
            transitions: 3,
            version: version.to_owned(),
        }
    }

    fn hold(version: &str, transitions: i32) -> Action {
        Action::Hold { version: version.to_owned(), transitions }
    }

    #[test]
    fn a_lease_that_is_absent_or_released_is_taken_at_once() {
        let mut election = Election::new("a".to_owned());
        let now = Instant::now();
        assert_eq!(election.read(None, now), Action::Create);
        assert_eq!(election.read(Some(record(None, "1")), now), hold("1", 4));
    }

    #[test]
    fn ones_own_lease_is_renewed_without_changing_hands() {
        let mut election = Election::new("a".to_owned());
        assert_eq!(election.read(Some(record(Some("a"), "1")), Instant::now()), hold("1", 3));
    }

    #[test]
    fn a_lease_is_taken_over_when_it_stood_still_for_its_whole_duration() {
        let mut election = Election::new("b".to_owned());
        let start = Instant::now();
        let mut read =
            |version, after| election.read(Some(record(Some("a"), version)), start + after);
        assert_eq!(read("1", Duration::ZERO), Action::Wait(LEASE_DURATION));
        assert_eq!(read("2", Duration::from_secs(14)), Action::Wait(LEASE_DURATION));
        // Counted from when it was first seen like this.
        assert_eq!(read("2", Duration::from_secs(28)), Action::Wait(Duration::from_secs(1)));
        assert_eq!(read("2", Duration::from_secs(29)), hold("2", 4));
    }

    #[test]
    fn a_follower_that_stood_still_itself_starts_counting_anew() {
        let mut election = Election::new("b".to_owned());
        let start = Instant::now();
        assert_eq!(
            election.read(Some(record(Some("a"), "1")), start),
            Action::Wait(LEASE_DURATION)
        );
        let later = start + Duration::from_mins(1);
        let wait = Action::Wait(LEASE_DURATION);
        assert_eq!(election.read(Some(record(Some("a"), "31")), later), wait);
    }

    #[test]
    fn the_last_write_of_a_leader_ends_before_the_first_of_the_next() {
        // A write may start until the deadline, and is given up at the deadline too.
        assert!(RENEW_DEADLINE < LEASE_DURATION);
        assert!(RETRY_PERIOD * 2 < RENEW_DEADLINE);
    }
}
