//! What callers were told, compared with what the journal holds in the end.
//!
//! Pure: entries and events in, contradictions out. The promises I1 to I4 and I7 of `docs/promises.md` are
//! what is looked for; "before" between two commands is by the clock of the callers, who share one process.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Instant,
};

/// Names a command: whose, and which of theirs.
pub type Id = (u64, u64);

/// One command as its caller saw it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Names the command; no two are alike.
    pub id: Id,
    /// The entity that it went to.
    pub entity: String,
    /// What it asked for.
    pub asked: Asked,
    /// Which proxy it was sent to; later ones have higher numbers.
    pub via: u32,
    /// When it went out.
    pub sent: Instant,
    /// The reply and when it came; none when nobody knows what became of it.
    pub told: Option<(Told, Instant)>,
}

/// What a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To add this amount in so many events.
    Add(i64, u32),
    /// The total.
    Read,
}

/// A reply: the total, and the number of events behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The total.
    pub value: i64,
    /// The last event that it contains.
    pub sequence: i64,
}

/// One event as the journal holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the entity's history.
    pub sequence: i64,
    /// Orders writes across entities.
    pub transaction: u64,
    /// The command that it came from.
    pub id: Id,
    /// What was added.
    pub amount: i64,
    /// The total after it, as the entity knew it.
    pub value: i64,
}

/// From this transaction on, nothing that was sent to this proxy or an earlier one may be written.
#[derive(Clone, Copy, Debug)]
pub struct Fence {
    /// The first transaction of the time after.
    pub transaction: u64,
    /// The proxy that lost its ownership.
    pub via: u32,
}

/// The events of each entity, in the order of their sequence numbers.
pub type Journal = BTreeMap<String, Vec<Event>>;

/// Names every contradiction; none is what was promised.
pub fn contradictions(entries: &[Entry], journal: &Journal, fences: &[Fence]) -> Vec<String> {
    let mut found = Vec::new();
    let by_id: HashMap<Id, &Entry> = entries.iter().map(|entry| (entry.id, entry)).collect();
    let mut by_entity: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        by_entity.entry(&entry.entity).or_default().push(entry);
    }
    for (entity, events) in journal {
        let mut say = |what: String| found.push(format!("{entity}: {what}"));
        history(events, &mut say);
        commands(entity, events, &by_id, fences, &mut say);
    }
    for (entity, entries) in by_entity {
        let events = journal.get(entity).map_or(&[][..], Vec::as_slice);
        replies(&entries, events, &mut |what| found.push(format!("{entity}: {what}")));
    }
    found
}

/// Effects are commands of their own, to entities where nobody else writes: one is there only when the
/// command that asked for it is, and once at most.
pub fn effects_without_cause(journal: &Journal, is_effect: impl Fn(&str) -> bool) -> Vec<String> {
    let (effects, commands): (Vec<_>, Vec<_>) =
        journal.iter().partition(|(entity, _)| is_effect(entity));
    let durable: HashSet<Id> =
        commands.iter().flat_map(|(_, events)| events.iter()).map(|event| event.id).collect();
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for (entity, event) in
        effects.iter().flat_map(|(entity, all)| all.iter().map(move |e| (entity, e)))
    {
        if !durable.contains(&event.id) {
            found.push(format!(
                "{entity}: the effect of {:?} is there without its command",
                event.id
            ));
        }
        if !seen.insert(event.id) {
            found.push(format!("{entity}: the effect of {:?} happened twice", event.id));
        }
    }
    found
}

/// A history by itself: no gap, and every total is the sum of what was added.
fn history(events: &[Event], say: &mut impl FnMut(String)) {
    let (mut sum, mut transaction) = (0, 0);
    for (event, expected) in events.iter().zip(1..) {
        if event.sequence != expected {
            return say(format!("event {} stands where {expected} must", event.sequence));
        }
        sum += event.amount;
        if event.value != sum {
            return say(format!("event {expected} says {}, and the sum is {sum}", event.value));
        }
        if event.transaction < transaction {
            return say(format!("event {expected} was written before the one it follows"));
        }
        transaction = event.transaction;
    }
}

/// A history against the commands: each happened once or not at all, whole, and under its own owner.
fn commands(
    entity: &str,
    events: &[Event],
    by_id: &HashMap<Id, &Entry>,
    fences: &[Fence],
    say: &mut impl FnMut(String),
) {
    let mut seen = HashSet::new();
    for together in events.chunk_by(|a, b| a.id == b.id) {
        let (first, id) = (together[0], together[0].id);
        // Effects are not in any caller's ledger.
        let Some(entry) = by_id.get(&id) else {
            say(format!("event {} is of {id:?}, which nobody sent", first.sequence));
            continue;
        };
        if entry.entity != entity {
            continue;
        }
        let Asked::Add(amount, events) = entry.asked else {
            say(format!("event {} is of {id:?}, which only reads", first.sequence));
            continue;
        };
        if !seen.insert(id) || together.len() > events as usize {
            say(format!("{id:?} happened twice, again at {}", first.sequence));
        } else if together.len() < events as usize {
            say(format!("of {id:?} only {} of {events} events are there", together.len()));
        }
        if together.iter().any(|event| event.amount != amount) {
            say(format!("{id:?} asked for {amount}, and event {} differs", first.sequence));
        }
        let late =
            |fence: &&Fence| first.transaction >= fence.transaction && entry.via <= fence.via;
        if fences.iter().find(late).is_some() {
            say(format!("{id:?} was written by proxy {} after it had lost ownership", entry.via));
        }
    }
}

/// Replies against the history: what was told is there, and what came later comes later.
fn replies(entries: &[&Entry], events: &[Event], say: &mut impl FnMut(String)) {
    let mut told: Vec<(Told, Instant, &Entry)> = entries
        .iter()
        .filter_map(|entry| entry.told.map(|(told, at)| (told, at, *entry)))
        .collect();
    // A read stands right behind the event that it saw, and reads that saw the same in any order.
    told.sort_by_key(|(told, _, entry)| (told.sequence, entry.asked == Asked::Read, entry.sent));
    let mut latest: Option<(Instant, Id)> = None;
    for (told, at, entry) in told {
        let id = entry.id;
        let at_sequence = usize::try_from(told.sequence - 1).ok().and_then(|at| events.get(at));
        match (entry.asked, at_sequence) {
            (Asked::Read, None) if told == (Told { value: 0, sequence: 0 }) => {}
            (_, None) => say(format!("{id:?} was told of event {}, which is lost", told.sequence)),
            (_, Some(event)) if event.value != told.value => {
                say(format!(
                    "{id:?} was told {} at {}, where {} stands",
                    told.value, told.sequence, event.value
                ));
            }
            (Asked::Add(..), Some(event)) if event.id != id => {
                say(format!(
                    "{id:?} was told of event {}, which is of {:?}",
                    told.sequence, event.id
                ));
            }
            (_, Some(_)) => {}
        }
        if let Some((_, later)) = latest.filter(|(sent, _)| at < *sent) {
            say(format!("{later:?} was sent after {id:?} was answered, and stands before it"));
        }
        if latest.is_none_or(|(sent, _)| entry.sent > sent) {
            latest = Some((entry.sent, id));
        }
    }
}

#[cfg(test)]
mod tests;
