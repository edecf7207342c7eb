use std::time::Duration;

use super::*;

/// A history of one command with one event and one with two, and a read behind them.
struct Sample {
    entries: Vec<Entry>,
    events: Vec<Event>,
    fences: Vec<Fence>,
}

fn sample() -> Sample {
    let begun = Instant::now();
    let at = |millis| begun + Duration::from_millis(millis);
    let entry = |number, asked, sent, told, ended| Entry {
        id: (1, number),
        entity: "a".to_owned(),
        asked,
        via: 1,
        sent: at(sent),
        told: Some((told, at(ended))),
    };
    let event = |sequence, number, amount, value| Event {
        sequence,
        transaction: 10 + number,
        id: (1, number),
        amount,
        value,
    };
    Sample {
        entries: vec![
            entry(1, Asked::Add(5, 1), 0, Told { value: 5, sequence: 1 }, 10),
            entry(2, Asked::Add(2, 2), 20, Told { value: 9, sequence: 3 }, 30),
            entry(3, Asked::Read, 40, Told { value: 9, sequence: 3 }, 50),
        ],
        events: vec![event(1, 1, 5, 5), event(2, 2, 2, 7), event(3, 2, 2, 9)],
        fences: vec![Fence { transaction: 13, via: 1 }],
    }
}

#[track_caller]
fn check(change: impl FnOnce(&mut Sample), expected: &str) {
    let mut sample = sample();
    change(&mut sample);
    let journal = Journal::from([("a".to_owned(), sample.events)]);
    let found = contradictions(&sample.entries, &journal, &sample.fences);
    if expected.is_empty() {
        assert_eq!(found, Vec::<String>::new());
    } else {
        assert!(
            found.iter().any(|found| found.contains(expected)),
            "{expected:?} not in {found:?}"
        );
    }
}

#[test]
fn what_is_as_promised_has_no_contradiction() {
    check(|_| {}, "");
}

#[test]
fn a_command_without_a_reply_may_have_happened_or_not() {
    check(|sample| sample.entries[1].told = None, "");
    check(
        |sample| {
            sample.entries[1].told = None;
            sample.entries[2].told = None;
            sample.events.truncate(1);
        },
        "",
    );
}

#[test]
fn a_lost_event_is_seen() {
    check(|sample| sample.events.truncate(1), "event 3, which is lost");
    check(
        |sample| {
            sample.events.remove(1);
        },
        "event 3 stands where 2 must",
    );
}

#[test]
fn a_torn_reply_is_seen() {
    check(
        |sample| {
            sample.entries[1].told = None;
            sample.entries[2].told = None;
            sample.events.truncate(2);
        },
        "only 1 of 2 events",
    );
}

#[test]
fn a_command_that_happened_twice_is_seen() {
    check(
        |sample| {
            let again = Event { sequence: 4, value: 14, transaction: 12, ..sample.events[0] };
            sample.events.push(again);
        },
        "(1, 1) happened twice",
    );
}

#[test]
fn a_command_that_nobody_sent_is_seen() {
    check(|sample| drop(sample.entries.remove(0)), "which nobody sent");
}

#[test]
fn a_state_that_is_not_its_events_is_seen() {
    check(|sample| sample.events[2].value = 10, "says 10, and the sum is 9");
}

#[test]
fn replies_out_of_order_are_seen() {
    check(
        |sample| {
            let before = sample.entries[0].sent;
            sample.entries[0].sent = sample.entries[2].sent + Duration::from_secs(1);
            sample.entries[1].told.as_mut().unwrap().1 = before;
        },
        "(1, 1) was sent after (1, 2) was answered",
    );
}

#[test]
fn reads_that_saw_the_same_stand_in_any_order() {
    check(
        |sample| {
            let mut again = sample.entries[2].clone();
            again.id = (2, 1);
            again.sent += Duration::from_secs(1);
            again.told.as_mut().unwrap().1 += Duration::from_secs(1);
            sample.entries.insert(0, again);
        },
        "",
    );
}

#[test]
fn a_read_of_the_past_is_seen() {
    let past = Told { value: 5, sequence: 1 };
    check(
        |sample| sample.entries[2].told.as_mut().unwrap().0 = past,
        "(1, 3) was sent after (1, 2) was answered, and stands before it",
    );
}

#[test]
fn a_write_of_an_owner_that_lost_is_seen() {
    check(|sample| sample.fences[0].transaction = 12, "(1, 2) was written by proxy 1");
}

#[test]
fn an_effect_needs_its_command_and_happens_once() {
    let sample = sample();
    let effect = Event { sequence: 1, ..sample.events[0] };
    let check = |effects: Vec<Event>| {
        let journal = Journal::from([
            ("a".to_owned(), sample.events.clone()),
            ("effect".to_owned(), effects),
        ]);
        effects_without_cause(&journal, |entity| entity == "effect")
    };
    assert_eq!(check(vec![effect]), Vec::<String>::new());
    assert!(check(vec![Event { id: (9, 9), ..effect }])[0].contains("without its command"));
    assert!(check(vec![effect, effect])[0].contains("twice"));
}
