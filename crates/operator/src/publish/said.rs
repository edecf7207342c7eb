//! Which events were published a while ago, so that one that is said again becomes a count on the first.
//!
//! A few words are kept of each, since thousands of services can be new at once and each has something to
//! say; kube's recorder keeps whole events, and looks through all of them for each new one.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::{LazyLock, Mutex, PoisonError};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// What has not been said for so long is a new event again, as with the recorder of Kubernetes itself.
const MEMORY: SignedDuration = SignedDuration::from_mins(6);
/// When more is known than that, all is forgotten: what is then said again becomes an event of its own.
const KNOWN_MAX: usize = 20_000;

/// Everything that was said.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<HashMap<u64, Once>>);

#[derive(Debug)]
struct Once {
    first: Timestamp,
    last: Timestamp,
    count: i32,
}

/// What is to be done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Saying {
    /// When it was said first, which its name is made of.
    pub(super) first: Timestamp,
    /// How often it was said by now; nothing when it is new.
    pub(super) count: Option<i32>,
}

impl Said {
    /// What tells an event from others. That two have the same is as good as impossible, and would
    /// lead to one too few.
    pub(super) fn words(event: &impl Hash) -> u64 {
        static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        STATE.hash_one(event)
    }

    /// Notes that it is said now.
    pub(super) fn say(&self, words: u64, now: Timestamp) -> Saying {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |once: &Once| now.duration_since(once.last) >= MEMORY;
        if known.len() >= KNOWN_MAX && !known.contains_key(&words) {
            known.retain(|_, once| !is_over(once));
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
        }
        let new = || Once { first: now, last: now, count: 0 };
        let once = known.entry(words).or_insert_with(new);
        if is_over(once) {
            *once = new();
        }
        once.last = now;
        once.count = once.count.saturating_add(1);
        Saying { first: once.first, count: (once.count > 1).then_some(once.count) }
    }

    /// It was not said after all, or is not there any more.
    pub(super) fn forget(&self, words: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_again_soon_is_counted_on_the_first() {
        let said = Said::default();
        let start = Timestamp::UNIX_EPOCH;
        let (a, b) = (Said::words(&("shop", "a")), Said::words(&("shop", "b")));
        assert_eq!(said.say(a, start), Saying { first: start, count: None });
        assert_eq!(said.say(b, start), Saying { first: start, count: None });
        let soon = start + SignedDuration::from_mins(5);
        assert_eq!(said.say(a, soon), Saying { first: start, count: Some(2) });
        // It counts from the last time.
        let later = start + SignedDuration::from_mins(10);
        assert_eq!(said.say(a, later), Saying { first: start, count: Some(3) });
        assert_eq!(said.say(b, later), Saying { first: later, count: None });
        said.forget(a);
        assert_eq!(said.say(a, later), Saying { first: later, count: None });
    }

    #[test]
    fn no_more_is_known_than_there_is_room_for() {
        let said = Said::default();
        let start = Timestamp::UNIX_EPOCH;
        let known = || said.0.lock().unwrap().len();
        for words in 0..KNOWN_MAX as u64 {
            said.say(words, start);
        }
        assert_eq!(known(), KNOWN_MAX);
        said.say(0, start);
        assert_eq!(known(), KNOWN_MAX);
        said.say(u64::MAX, start);
        assert_eq!(known(), 1);
    }
}
