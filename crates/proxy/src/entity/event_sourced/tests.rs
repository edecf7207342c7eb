//! The machine, step by step: what comes in, what goes out.

use protocol::cloudstate::{self, Forward, SideEffect};

use super::*;

fn any(text: &str) -> Any {
    Any { type_url: "type".to_owned(), value: text.to_owned().into() }
}

fn request(ticket: Ticket) -> Event {
    let (name, payload) = ("Add".to_owned(), any(&format!("command {ticket}")));
    Event::Arrived(Request { ticket, name, payload, metadata: None })
}

fn answer(text: &str) -> client_action::Action {
    let reply = cloudstate::Reply { payload: Some(any(text)), metadata: None };
    client_action::Action::Reply(reply)
}

fn failure(text: &str, restart: bool) -> client_action::Action {
    let description = text.to_owned();
    client_action::Action::Failure(cloudstate::Failure { command_id: 0, description, restart })
}

fn reply(id: i64, action: client_action::Action, events: &[&str]) -> EventSourcedReply {
    EventSourcedReply {
        command_id: id,
        client_action: Some(ClientAction { action: Some(action) }),
        events: events.iter().map(|event| any(event)).collect(),
        ..EventSourcedReply::default()
    }
}

fn says(reply: EventSourcedReply) -> Event {
    Event::Message(Some(stream_out::Message::Reply(reply)))
}

fn ok(text: &str) -> Answer {
    let (type_url, payload) = ("type".to_owned(), text.to_owned().into());
    let then = Then::Reply(Reply { type_url, payload, metadata: None });
    Answer { effects: Vec::new(), then }
}

fn failed(kind: FailureKind, text: &str) -> Answer {
    Failure::new(kind, text).into()
}

#[track_caller]
fn kind(answer: &Answer) -> FailureKind {
    let Then::Fail(failure) = &answer.then else { panic!("{answer:?}") };
    failure.kind
}

/// A machine that has just been activated without any history, with `in_flight` places.
fn running(in_flight: usize) -> EventSourced {
    let mut machine = EventSourced::new("Cart".into(), "7".into(), in_flight);
    machine.phase = Phase::Running;
    machine
}

/// A running machine whose user function has command 1, which is ticket 1.
fn awaiting() -> EventSourced {
    let mut machine = running(32);
    machine.on(request(1));
    machine
}

fn released(actions: &[Action]) -> Vec<(Ticket, Answer)> {
    let mut released = Vec::new();
    for action in actions {
        if let Action::Release(ticket, answer) = action {
            released.push((*ticket, answer.clone()));
        }
    }
    released
}

/// Ids of the commands that were sent.
fn sent(actions: &[Action]) -> Vec<i64> {
    let command = |action: &Action| match action {
        Action::Send(stream_in::Message::Command(command)) => Some(command.id),
        _ => None,
    };
    actions.iter().filter_map(command).collect()
}

#[test]
fn the_first_command_activates_and_is_sent_once_the_history_is() {
    let mut machine = EventSourced::new("Cart".into(), "7".into(), 32);
    assert_eq!(machine.on(request(1)), [Action::Load, Action::Arm(Timer::Activation)]);

    let snapshot = machine.on(Event::Loaded(Loaded::Snapshot(Sequence(5), any("S"))));
    let [Action::Open, Action::Send(stream_in::Message::Init(init)), Action::Arm(_)] = &*snapshot
    else {
        panic!("{snapshot:?}")
    };
    assert_eq!((init.service_name.as_str(), init.entity_id.as_str()), ("Cart", "7"));
    assert_eq!(init.snapshot.as_ref().unwrap().snapshot_sequence, 5);

    let event = machine.on(Event::Loaded(Loaded::Event(Sequence(6), any("e"))));
    let expected = EventSourcedEvent { sequence: 6, payload: Some(any("e")) };
    assert_eq!(event[0], Action::Send(stream_in::Message::Event(expected)));

    let ended = machine.on(Event::LoadEnded);
    assert_eq!(sent(&ended), [1]);
    let appended = machine.on(says(reply(1, answer("r"), &["g"])));
    assert!(appended.iter().any(|a| matches!(a, Action::Append { expected: Sequence(6), .. })));
}

#[test]
fn init_has_no_snapshot_when_there_is_none() {
    let mut machine = EventSourced::new("Cart".into(), "7".into(), 32);
    machine.on(request(1));
    let actions = machine.on(Event::LoadEnded);
    let Action::Send(stream_in::Message::Init(init)) = &actions[1] else { panic!("{actions:?}") };
    assert_eq!(init.snapshot, None);
}

#[test]
fn one_command_is_outstanding_and_the_others_follow_in_order() {
    let mut machine = running(32);
    assert_eq!(sent(&machine.on(request(1))), [1]);
    assert_eq!(machine.on(request(2)), []);
    assert_eq!(machine.on(request(3)), []);
    let actions = machine.on(says(reply(1, answer("one"), &[])));
    assert_eq!(released(&actions), [(1, ok("one"))]);
    assert_eq!(sent(&actions), [2]);
    assert_eq!(sent(&machine.on(says(reply(2, answer("two"), &[])))), [3]);
}

#[test]
fn a_reply_waits_for_its_events_while_the_next_command_goes_out() {
    let mut machine = awaiting();
    machine.on(request(2));
    let actions = machine.on(says(reply(1, answer("one"), &["a", "b"])));
    assert_eq!(released(&actions), []);
    assert_eq!(sent(&actions), [2]);
    // A reply without events must not overtake either: it shows a state that may vanish.
    assert_eq!(released(&machine.on(says(reply(2, answer("read"), &[])))), []);
    let actions = machine.on(Event::Written(Written::Committed));
    assert_eq!(released(&actions), [(1, ok("one")), (2, ok("read"))]);
}

#[test]
fn sequence_numbers_go_on_from_reply_to_reply() {
    let mut machine = awaiting();
    machine.on(request(2));
    machine.on(says(reply(1, answer("one"), &["a", "b"])));
    let actions = machine.on(says(reply(2, answer("two"), &["c"])));
    assert!(actions.iter().any(|a| matches!(a, Action::Append { expected: Sequence(2), .. })));
}

#[test]
fn with_one_place_in_flight_the_next_command_waits_for_the_journal() {
    let mut machine = running(1);
    machine.on(request(1));
    machine.on(request(2));
    assert!(sent(&machine.on(says(reply(1, answer("one"), &["a"])))).is_empty());
    assert_eq!(sent(&machine.on(Event::Written(Written::Committed))), [2]);
}

#[test]
fn a_lost_write_fails_everything_in_flight_and_the_queue_starts_over() {
    for lost in [Written::Conflict, Written::Fenced, Written::Unknown("cut".to_owned())] {
        let mut machine = awaiting();
        machine.on(request(2));
        machine.on(request(3));
        machine.on(says(reply(1, answer("one"), &["a"])));
        let actions = machine.on(Event::Written(lost));
        let failures = released(&actions);
        assert_eq!(failures.iter().map(|(ticket, _)| *ticket).collect::<Vec<_>>(), [1, 2]);
        for (_, answer) in failures {
            assert_eq!(kind(&answer), FailureKind::Unavailable);
        }
        assert!(actions.contains(&Action::HalfClose));
        let actions = machine.on(Event::StreamEnded(StreamEnd::Ended));
        assert!(actions.contains(&Action::Load), "{actions:?}");
        assert_eq!(sent(&machine.on(Event::LoadEnded)), [1], "command 3 is the first of the next");
    }
}

#[test]
fn an_activation_ends_only_when_no_write_is_under_way() {
    let mut machine = awaiting();
    machine.on(says(reply(1, answer("one"), &["a"])));
    machine.on(request(2));
    machine.on(request(3));
    let actions = machine.on(Event::StreamEnded(StreamEnd::Ended));
    assert!(!actions.contains(&Action::Load), "{actions:?}");
    machine.on(request(4));
    let actions = machine.on(Event::Written(Written::Committed));
    assert_eq!(released(&actions), [(1, ok("one"))]);
    assert!(actions.contains(&Action::Load), "command 4 needs a new activation: {actions:?}");
}

#[track_caller]
fn check_violation(event: Event, text: &str) {
    let mut machine = awaiting();
    machine.on(request(2));
    let actions = machine.on(event);
    let expected = [
        (1, failed(FailureKind::Failed, text)),
        (2, failed(FailureKind::Failed, "Entity terminated")),
    ];
    assert_eq!(released(&actions), expected);
    assert!(actions.contains(&Action::HalfClose), "{actions:?}");
    assert!(matches!(actions[0], Action::Report(_)), "{actions:?}");
    let ended = machine.on(Event::StreamEnded(StreamEnd::Ended));
    assert!(ended.contains(&Action::End), "{ended:?}");
}

#[test]
fn protocol_violations_have_their_texts() {
    let stream_failure = |command_id| {
        let failure = cloudstate::Failure { command_id, ..cloudstate::Failure::default() };
        Event::Message(Some(stream_out::Message::Failure(failure)))
    };
    check_violation(stream_failure(1), "Unexpected entity failure");
    check_violation(stream_failure(0), "Unexpected entity failure");
    check_violation(stream_failure(99), "Unexpected entity failure");
    check_violation(says(reply(99, answer("x"), &["e"])), "Unexpected entity reply");
    check_violation(Event::Message(None), "Unexpected entity message");
}

#[test]
fn a_reply_when_none_is_outstanding_is_a_violation() {
    let mut machine = running(32);
    let actions = machine.on(says(reply(1, answer("x"), &["e"])));
    assert!(actions.contains(&Action::HalfClose), "{actions:?}");
    assert!(!actions.iter().any(|action| matches!(action, Action::Append { .. })));
}

#[test]
fn a_stream_that_ends_under_a_command_fails_it_and_those_behind_it() {
    let mut machine = awaiting();
    machine.on(request(2));
    let actions = machine.on(Event::StreamEnded(StreamEnd::Ended));
    let expected = [
        (1, failed(FailureKind::Failed, "Unexpected entity termination")),
        (2, failed(FailureKind::Failed, "Entity terminated")),
    ];
    assert_eq!(released(&actions), expected);
    assert_eq!(actions.last(), Some(&Action::End));
}

#[test]
fn a_user_function_that_was_never_reached_is_unavailable() {
    let mut machine = awaiting();
    let actions = machine.on(Event::StreamEnded(StreamEnd::NeverReached));
    let (ticket, answer) = released(&actions).remove(0);
    assert_eq!((ticket, kind(&answer)), (1, FailureKind::Unavailable));
}

#[test]
fn commands_that_were_not_seen_go_to_the_next_activation_once() {
    let mut machine = EventSourced::new("Cart".into(), "7".into(), 32);
    machine.on(request(1));
    machine.on(Event::Loaded(Loaded::Event(Sequence(1), any("e"))));
    let actions = machine.on(Event::StreamEnded(StreamEnd::Ended));
    assert_eq!(released(&actions), []);
    assert!(actions.contains(&Action::Load));
    machine.on(Event::Loaded(Loaded::Event(Sequence(1), any("e"))));
    let actions = machine.on(Event::StreamEnded(StreamEnd::Ended));
    let expected = failed(FailureKind::Unavailable, "Unexpected entity termination");
    assert_eq!(released(&actions), [(1, expected)]);
}

#[test]
fn a_failure_is_an_answer_and_its_events_are_kept() {
    let mut machine = awaiting();
    let actions = machine.on(says(reply(1, failure("no", false), &["e"])));
    assert!(actions.iter().any(|action| matches!(action, Action::Append { .. })));
    let actions = machine.on(Event::Written(Written::Committed));
    assert_eq!(released(&actions), [(1, failed(FailureKind::Failed, "no"))]);
}

#[test]
fn a_failure_with_restart_drops_its_events_and_activates_again_at_once() {
    let mut machine = awaiting();
    machine.on(request(2));
    let actions = machine.on(says(reply(1, failure("no", true), &["e"])));
    assert_eq!(released(&actions), [(1, failed(FailureKind::Failed, "no"))]);
    assert!(!actions.iter().any(|action| matches!(action, Action::Append { .. })));
    assert!(actions.contains(&Action::HalfClose));
    machine.on(request(3));
    let actions = machine.on(Event::StreamEnded(StreamEnd::Ended));
    assert!(actions.contains(&Action::Load));
    assert_eq!(sent(&machine.on(Event::LoadEnded)), [1]);
    assert_eq!(sent(&machine.on(says(reply(1, answer("two"), &[])))), [2]);
}

#[test]
fn a_restart_activates_again_even_when_no_command_waits() {
    let mut machine = awaiting();
    machine.on(says(reply(1, failure("no", true), &[])));
    let actions = machine.on(Event::StreamEnded(StreamEnd::Ended));
    assert!(actions.contains(&Action::Load), "{actions:?}");
}

#[test]
fn an_idle_entity_is_passivated_and_a_command_that_comes_meanwhile_is_kept() {
    let mut machine = running(32);
    assert_eq!(machine.on(Event::TimedOut), [Action::HalfClose, Action::Arm(Timer::Close)]);
    assert_eq!(machine.on(request(1)), []);
    let actions = machine.on(Event::StreamEnded(StreamEnd::Ended));
    assert!(actions.contains(&Action::Load), "{actions:?}");
}

#[test]
fn a_user_function_that_does_not_end_its_stream_is_cut_off() {
    let mut machine = running(32);
    machine.on(Event::TimedOut);
    let actions = machine.on(Event::TimedOut);
    assert_eq!(actions, [Action::Abort, Action::Disarm, Action::Disarm, Action::End]);
}

#[test]
fn a_command_without_an_answer_ends_the_activation() {
    let mut machine = awaiting();
    machine.on(request(2));
    let actions = machine.on(Event::TimedOut);
    let (ticket, answer) = released(&actions).remove(0);
    assert_eq!((ticket, kind(&answer)), (1, FailureKind::DeadlineExceeded));
    assert!(actions.contains(&Action::Abort) && actions.contains(&Action::Load), "{actions:?}");
}

#[test]
fn a_caller_that_leaves_gives_up_its_place_but_not_what_was_sent() {
    let mut machine = awaiting();
    machine.on(request(2));
    machine.on(Event::CallerLeft(2));
    machine.on(Event::CallerLeft(1));
    let actions = machine.on(says(reply(1, answer("one"), &["e"])));
    assert!(actions.iter().any(|action| matches!(action, Action::Append { .. })));
    assert!(sent(&actions).is_empty(), "{actions:?}");
}

#[test]
fn a_stop_waits_for_the_queue() {
    let mut machine = awaiting();
    machine.on(request(2));
    assert_eq!(machine.on(Event::Stop), []);
    assert_eq!(sent(&machine.on(says(reply(1, answer("one"), &[])))), [2]);
    let actions = machine.on(says(reply(2, answer("two"), &["e"])));
    assert!(!actions.contains(&Action::HalfClose), "its event is not durable: {actions:?}");
    let actions = machine.on(Event::Written(Written::Committed));
    assert!(actions.contains(&Action::HalfClose), "{actions:?}");
    assert_eq!(machine.on(Event::StreamEnded(StreamEnd::Ended)).last(), Some(&Action::End));
}

#[test]
fn a_journal_that_cannot_be_read_is_told_to_every_waiting_caller() {
    let mut machine = EventSourced::new("Cart".into(), "7".into(), 32);
    machine.on(request(1));
    machine.on(request(2));
    let actions = machine.on(Event::LoadFailed("down".to_owned()));
    let expected = failed(FailureKind::Unavailable, "down");
    assert_eq!(released(&actions), [(1, expected.clone()), (2, expected)]);
    assert_eq!(actions.last(), Some(&Action::End));
}

#[test]
fn a_snapshot_without_events_is_ignored_and_reported() {
    let mut machine = awaiting();
    let odd = EventSourcedReply { snapshot: Some(any("S")), ..reply(1, answer("r"), &[]) };
    let actions = machine.on(says(odd));
    assert!(matches!(actions[0], Action::Report(_)), "{actions:?}");
    assert_eq!(released(&actions), [(1, ok("r"))]);
    assert!(!actions.iter().any(|action| matches!(action, Action::Append { .. })));
}

#[test]
fn effects_and_forwards_leave_only_when_the_events_before_them_are_durable() {
    let mut machine = awaiting();
    machine.on(request(2));
    let forward = Forward { service_name: "S".to_owned(), ..Forward::default() };
    let effect = SideEffect { service_name: "T".to_owned(), ..SideEffect::default() };
    machine.on(says(reply(1, answer("one"), &["e"])));
    let action = client_action::Action::Forward(forward.clone());
    let forwarding =
        EventSourcedReply { side_effects: vec![effect.clone()], ..reply(2, action, &[]) };
    assert_eq!(released(&machine.on(says(forwarding))), []);
    let actions = machine.on(Event::Written(Written::Committed));
    let forwarded = Answer { effects: vec![effect], then: Then::Forward(forward) };
    assert_eq!(released(&actions), [(1, ok("one")), (2, forwarded)]);
}

#[test]
fn a_failure_with_restart_keeps_its_effects() {
    let effect = SideEffect { service_name: "T".to_owned(), ..SideEffect::default() };
    let regret = EventSourcedReply {
        side_effects: vec![effect.clone()],
        ..reply(1, failure("no", true), &["e"])
    };
    let actions = awaiting().on(says(regret));
    let then = Then::Fail(Failure::new(FailureKind::Failed, "no"));
    assert_eq!(released(&actions), [(1, Answer { effects: vec![effect], then })]);
}

#[test]
fn a_lost_write_takes_the_effects_behind_it_with_it() {
    let mut machine = awaiting();
    let effects = vec![SideEffect::default()];
    let odd = EventSourcedReply { side_effects: effects, ..reply(1, answer("one"), &["e"]) };
    machine.on(says(odd));
    let actions = machine.on(Event::Written(Written::Fenced));
    assert!(released(&actions)[0].1.effects.is_empty(), "{actions:?}");
}

#[test]
fn a_reply_without_an_answer_says_nothing() {
    let empty = EventSourcedReply { command_id: 1, ..EventSourcedReply::default() };
    let actions = awaiting().on(says(empty));
    assert_eq!(released(&actions)[0].1.then, Then::Nothing);
}
