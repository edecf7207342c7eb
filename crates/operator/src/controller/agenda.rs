//! Which objects are to be looked at, and when. Pure.
//!
//! kube's controller does the same with several copies of each name and a look at everything that is
//! under way whenever one of it goes on; with thousands of services both are felt.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// What follows from a look at an object, apart from what was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action(Option<Duration>);

impl Action {
    /// Another look after so long, or as soon as something changes.
    pub(crate) fn requeue(after: Duration) -> Self {
        Self(Some(after))
    }

    /// Another look as soon as something changes.
    pub(crate) fn await_change() -> Self {
        Self(None)
    }

    /// When the next look is due.
    pub(super) fn due(self, now: Instant) -> Option<Instant> {
        // What is so far off that no clock knows it never comes.
        now.checked_add(self.0?)
    }
}

/// Objects that are to be looked at, each at most once at a time.
#[derive(Debug)]
pub(super) struct Agenda<T> {
    /// When each is due, of those that nobody looks at now.
    due: HashMap<T, Instant>,
    order: BTreeSet<(Instant, T)>,
    /// What is looked at now, and when it is due again.
    under_way: HashMap<T, Option<Instant>>,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { due: HashMap::new(), order: BTreeSet::new(), under_way: HashMap::new() }
    }
}

impl<T: Clone + Eq + Hash + Ord> Agenda<T> {
    /// The object is to be looked at then, or sooner if that was said before.
    pub(super) fn add(&mut self, object: T, at: Instant) {
        if let Some(again) = self.under_way.get_mut(&object) {
            *again = Some(again.map_or(at, |again| again.min(at)));
            return;
        }
        if let Some(due) = self.due.get_mut(&object) {
            if *due <= at {
                return;
            }
            self.order.remove(&(*due, object.clone()));
            *due = at;
        } else {
            self.due.insert(object.clone(), at);
        }
        self.order.insert((at, object));
    }

    /// The next object, if one is due: it is under way from now on.
    pub(super) fn take(&mut self, now: Instant) -> Option<T> {
        if self.next_due()? > now {
            return None;
        }
        let (_, object) = self.order.pop_first()?;
        self.due.remove(&object);
        self.under_way.insert(object.clone(), None);
        Some(object)
    }

    /// When the next object is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.order.first().map(|(due, _)| *due)
    }

    /// The object has been looked at, and is to be again then, if at all.
    pub(super) fn done(&mut self, object: T, again: Option<Instant>) {
        let asked = self.under_way.remove(&object).flatten();
        if let Some(at) = asked.into_iter().chain(again).min() {
            self.add(object, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_due_first_comes_first_and_the_sooner_date_counts() {
        let now = Instant::now();
        let mut agenda = Agenda::default();
        agenda.add("a", now + SECOND * 3);
        agenda.add("b", now + SECOND);
        agenda.add("a", now);
        agenda.add("b", now + SECOND * 2);
        assert_eq!(agenda.next_due(), Some(now));
        assert_eq!(agenda.take(now), Some("a"));
        assert_eq!(agenda.take(now), None);
        assert_eq!(agenda.next_due(), Some(now + SECOND));
        assert_eq!(agenda.take(now + SECOND), Some("b"));
        assert_eq!(agenda.next_due(), None);
    }

    #[test]
    fn nothing_is_looked_at_twice_at_a_time_and_nothing_is_missed() {
        let now = Instant::now();
        let mut agenda = Agenda::default();
        agenda.add("a", now);
        assert_eq!(agenda.take(now), Some("a"));
        agenda.add("a", now + SECOND);
        agenda.add("a", now);
        assert_eq!(agenda.take(now), None);
        agenda.done("a", Some(now + SECOND * 9));
        assert_eq!(agenda.take(now), Some("a"));
        agenda.done("a", Some(now + SECOND));
        assert_eq!(agenda.next_due(), Some(now + SECOND));
        assert_eq!(agenda.take(now + SECOND), Some("a"));
        agenda.done("a", None);
        assert_eq!(agenda.next_due(), None);
        assert!(agenda.under_way.is_empty());
    }

    #[test]
    fn an_action_that_is_too_far_off_never_comes() {
        let now = Instant::now();
        assert_eq!(Action::requeue(SECOND).due(now), Some(now + SECOND));
        assert_eq!(Action::requeue(Duration::MAX).due(now), None);
        assert_eq!(Action::await_change().due(now), None);
    }
}
