//! The machine, step by step: what comes in, what goes out.

use protocol::cloudstate::{self, Forward, SideEffect};

use super::*;
use crate::{
    entity::{Reply, Then},
    route::Kind,
};

fn any(text: &str) -> Any {
    Any { type_url: "type".to_owned(), value: text.to_owned().into() }
}

fn service(kind: Kind) -> Arc<Service> {
    let (name, persistence_id) = ("Cart".to_owned(), "carts".to_owned());
    Arc::new(Service { name, kind, persistence_id, passivation_timeout: None })
}

fn cart() -> Arc<EntityId> {
    Arc::new(EntityId { persistence_id: "carts".to_owned(), key: "7".to_owned() })
}

/// A machine without an activation.
fn passive(kind: Kind) -> Machine {
    Machine::new(service(kind), cart(), 32)
}

fn request(ticket: Ticket) -> Event {
    let (name, payload) = ("Add".to_owned(), any(&format!("command {ticket}")));
    Event::Arrived(Request { ticket, name, payload, metadata: None })
}

fn answer(text: &str) -> Then {
    let (type_url, payload) = ("type".to_owned(), text.to_owned().into());
    Then::Reply(Reply { type_url, payload, metadata: None })
}

fn failure(text: &str) -> Then {
    Then::Fail(Failure::new(FailureKind::Failed, text))
}

fn reply(command_id: i64, then: Then, events: &[&str]) -> Reaction {
    let events: Vec<_> = events.iter().map(|event| any(event)).collect();
    let write = (!events.is_empty()).then_some(Write::Events(events, None));
    Reaction { command_id, then, effects: Vec::new(), write, restart: false, ignored: None }
}

fn update(command_id: i64, value: Option<&str>) -> Reaction {
    let write = Some(Write::Value(value.map(any)));
    Reaction { write, ..reply(command_id, answer("r"), &[]) }
}

fn restart(command_id: i64) -> Reaction {
    Reaction { restart: true, ..reply(command_id, failure("no"), &[]) }
}

fn says(reply: Reaction) -> Event {
    Event::Message(Incoming::Reply(reply))
}

fn ended() -> Event {
    Event::StreamEnded(StreamEnd::Ended, "cut".to_owned())
}

fn ok(text: &str) -> Answer {
    Answer { effects: Vec::new(), then: answer(text) }
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
fn running(in_flight: usize) -> Machine {
    let mut machine = Machine::new(service(Kind::EventSourced), cart(), in_flight);
    machine.phase = Phase::Running;
    machine
}

/// A running machine whose user function has command 1, which is ticket 1.
fn awaiting() -> Machine {
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
        Action::Send(Outgoing::Command { id, .. }) => Some(*id),
        _ => None,
    };
    actions.iter().filter_map(command).collect()
}

/// Where each write goes on, of those that were begun.
fn written(actions: &[Action]) -> Vec<Sequence> {
    let expected = |action: &Action| match action {
        Action::Write { expected, .. } => Some(*expected),
        _ => None,
    };
    actions.iter().filter_map(expected).collect()
}

/// The history is read and the stream is open; gives what follows from that.
fn activated(machine: &mut Machine) -> Vec<Action> {
    machine.on(Event::LoadEnded);
    machine.on(Event::Opened)
}

#[test]
fn the_first_command_activates_and_is_sent_once_the_history_is() {
    let mut machine = passive(Kind::EventSourced);
    assert_eq!(machine.on(request(1)), [Action::Load]);
    assert_eq!(machine.on(Event::LoadBegins), [Action::Arm(Timer::Activation)]);

    let state = Outgoing::Init(Some(State { sequence: Sequence(5), payload: any("S") }));
    let actions = machine.on(Event::State(Sequence(5), Some(any("S"))));
    assert_eq!(actions, [Action::Open, Action::Send(state), Action::Arm(Timer::Activation)]);

    let actions = machine.on(Event::Replay(Sequence(6), any("e")));
    assert_eq!(actions[0], Action::Send(Outgoing::Event(Sequence(6), any("e"))));

    assert!(sent(&machine.on(Event::LoadEnded)).is_empty(), "the stream may never open");
    assert_eq!(sent(&machine.on(Event::Opened)), [1]);
    assert_eq!(written(&machine.on(says(reply(1, answer("r"), &["g"])))), [Sequence(6)]);
}

#[test]
fn time_in_line_does_not_count_and_a_place_is_given_up_when_all_callers_have_left() {
    let mut machine = passive(Kind::EventSourced);
    machine.on(request(1));
    assert_eq!(machine.on(request(2)), [], "no timer runs while others are read");
    assert_eq!(machine.glance().phase, "in line to be read");
    assert_eq!(machine.on(Event::CallerLeft(1)), []);
    assert_eq!(machine.on(Event::CallerLeft(1)), []);
    let gone = machine.on(Event::CallerLeft(2));
    assert_eq!(gone, [Action::Abort, Action::Disarm, Action::Disarm, Action::End]);

    machine.on(request(3));
    machine.on(Event::LoadBegins);
    assert_eq!(machine.on(Event::CallerLeft(3)), [], "what is read already is read to its end");
    assert!(sent(&activated(&mut machine)).is_empty());
}

#[test]
fn an_activation_that_takes_too_long_says_at_what() {
    let late = |steps: &[fn() -> Event]| {
        let mut machine = passive(Kind::EventSourced);
        machine.on(request(1));
        machine.on(Event::LoadBegins);
        for step in steps {
            machine.on(step());
        }
        let actions = machine.on(Event::TimedOut);
        assert!(actions.contains(&Action::Abort), "{actions:?}");
        match released(&actions)[..] {
            [(1, Answer { then: Then::Fail(ref failure), .. })] => failure.message.clone(),
            ref other => panic!("{other:?}"),
        }
    };
    let begin = "the entity was not activated in time: ";
    let read: fn() -> Event = || Event::Replay(Sequence(1), any("e"));
    let taken: fn() -> Event = || Event::LoadEnded;
    assert_eq!(late(&[]), format!("{begin}the store did not give its history"));
    let both = "the store or the user function did not go on with its history";
    assert_eq!(late(&[read]), format!("{begin}{both}"));
    let function = "the user function did not take its history";
    assert_eq!(late(&[read, taken]), format!("{begin}{function}"));
}

#[test]
fn a_report_shows_the_beginning_of_a_key_that_is_as_long_as_a_message() {
    let id = EntityId { persistence_id: "carts".to_owned(), key: "k".repeat(4 << 20) };
    let mut machine = Machine::new(service(Kind::EventSourced), Arc::new(id), 32);
    machine.phase = Phase::Running;
    let actions = machine.on(says(reply(9, answer("r"), &[])));
    let report = actions.iter().find_map(|action| match action {
        Action::Report(report) => Some(report),
        _ => None,
    });
    let report = report.unwrap();
    assert!(report.len() < 500 && report.contains("… (4194304 bytes)"), "{report}");
}

#[test]
fn init_has_no_state_when_there_is_none() {
    let init = [Action::Open, Action::Send(Outgoing::Init(None)), Action::Arm(Timer::Activation)];
    let mut machine = passive(Kind::EventSourced);
    machine.on(request(1));
    assert_eq!(machine.on(Event::LoadEnded), init);

    let mut machine = passive(Kind::Value);
    machine.on(request(1));
    assert_eq!(machine.on(Event::State(Sequence(3), None)), init);
    activated(&mut machine);
    assert_eq!(
        written(&machine.on(says(update(1, Some("v"))))),
        [Sequence(3)],
        "a deleted value keeps its count"
    );
}

#[test]
fn a_value_goes_on_from_version_to_version_without_waiting_for_the_store() {
    let mut machine = passive(Kind::Value);
    machine.on(request(1));
    machine.on(request(2));
    machine.on(Event::State(Sequence(4), Some(any("v"))));
    activated(&mut machine);
    let actions = machine.on(says(update(1, Some("w"))));
    assert_eq!((written(&actions), sent(&actions)), (vec![Sequence(4)], vec![2]));
    let actions = machine.on(says(update(2, None)));
    assert_eq!(written(&actions), [Sequence(5)]);
    assert_eq!(released(&actions), []);
    assert_eq!(released(&machine.on(Event::Written(Written::Committed))), [(1, ok("r"))]);
    assert_eq!(released(&machine.on(Event::Written(Written::Committed))), [(2, ok("r"))]);
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
    assert_eq!(written(&actions), [Sequence(2)]);
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
        let actions = machine.on(ended());
        assert!(actions.contains(&Action::Load), "{actions:?}");
        assert_eq!(sent(&activated(&mut machine)), [1], "command 3 is the first of the next");
    }
}

#[test]
fn an_activation_ends_only_when_no_write_is_under_way() {
    let mut machine = awaiting();
    machine.on(says(reply(1, answer("one"), &["a"])));
    machine.on(request(2));
    machine.on(request(3));
    let actions = machine.on(ended());
    assert!(!actions.contains(&Action::Load), "{actions:?}");
    machine.on(request(4));
    let actions = machine.on(Event::Written(Written::Committed));
    assert_eq!(released(&actions), [(1, ok("one"))]);
    assert!(actions.contains(&Action::Load), "command 4 needs a new activation: {actions:?}");
}

#[track_caller]
fn check_violation(kind: Kind, event: Event, text: &str, behind: &str) {
    let mut machine = Machine { texts: Texts::of(kind), ..awaiting() };
    machine.on(request(2));
    let actions = machine.on(event);
    let expected =
        [(1, failed(FailureKind::Failed, text)), (2, failed(FailureKind::Failed, behind))];
    assert_eq!(released(&actions), expected);
    assert!(actions.contains(&Action::HalfClose), "{actions:?}");
    assert!(matches!(actions[0], Action::Report(_)), "{actions:?}");
    let ended = machine.on(ended());
    assert!(ended.contains(&Action::End), "{ended:?}");
}

#[test]
fn protocol_violations_have_their_texts() {
    let stream_failure = |command_id| {
        let failure = cloudstate::Failure { command_id, ..cloudstate::Failure::default() };
        Event::Message(Incoming::Failure(failure))
    };
    let wrong = || says(reply(99, answer("x"), &["e"]));
    let nonsense = || Event::Message(Incoming::Nonsense("noise"));
    let check = |event, text| check_violation(Kind::EventSourced, event, text, "Entity terminated");
    check(stream_failure(1), "Unexpected entity failure");
    check(stream_failure(0), "Unexpected entity failure");
    check(stream_failure(99), "Unexpected entity failure");
    check(wrong(), "Unexpected entity reply");
    check(nonsense(), "Unexpected entity message");
    let check = |event, text| check_violation(Kind::Value, event, text, "Value entity terminated");
    check(stream_failure(1), "Unexpected Value entity failure");
    check(stream_failure(0), "Unexpected Value entity failure");
    check(wrong(), "Unexpected Value entity reply");
    check(nonsense(), "Unexpected Value entity failure");
}

#[test]
fn a_user_function_that_goes_on_after_the_end_is_cut_off() {
    let mut machine = awaiting();
    machine.on(Event::Message(Incoming::Nonsense("noise")));
    for _ in 0..STRAYS_MAX {
        assert_eq!(machine.on(says(reply(9, answer("x"), &["e"]))), []);
    }
    let actions = machine.on(says(reply(9, answer("x"), &["e"])));
    assert!(actions.contains(&Action::Abort), "{actions:?}");
}

#[test]
fn a_reply_when_none_is_outstanding_is_a_violation() {
    let mut machine = running(32);
    let actions = machine.on(says(reply(1, answer("x"), &["e"])));
    assert!(actions.contains(&Action::HalfClose), "{actions:?}");
    assert_eq!(written(&actions), []);
}

#[test]
fn a_stream_that_ends_under_a_command_fails_it_and_those_behind_it() {
    let mut machine = awaiting();
    machine.on(request(2));
    let actions = machine.on(ended());
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
    let actions = machine.on(Event::StreamEnded(StreamEnd::NeverReached, String::new()));
    let (ticket, answer) = released(&actions).remove(0);
    assert_eq!((ticket, kind(&answer)), (1, FailureKind::Unavailable));
}

#[test]
fn commands_that_were_not_seen_go_to_the_next_activation_once() {
    let mut machine = passive(Kind::EventSourced);
    machine.on(request(1));
    machine.on(Event::Replay(Sequence(1), any("e")));
    let actions = machine.on(ended());
    assert_eq!(released(&actions), []);
    assert!(actions.contains(&Action::Load));
    machine.on(Event::Replay(Sequence(1), any("e")));
    let actions = machine.on(ended());
    let expected = failed(FailureKind::Unavailable, "Unexpected entity termination");
    assert_eq!(released(&actions), [(1, expected)]);
}

#[test]
fn a_failure_is_an_answer_and_its_events_are_kept() {
    let mut machine = awaiting();
    let actions = machine.on(says(reply(1, failure("no"), &["e"])));
    assert_eq!(written(&actions).len(), 1);
    let actions = machine.on(Event::Written(Written::Committed));
    assert_eq!(released(&actions), [(1, failed(FailureKind::Failed, "no"))]);
}

#[test]
fn a_restart_activates_again_at_once_and_keeps_the_queue() {
    let mut machine = awaiting();
    machine.on(request(2));
    let actions = machine.on(says(restart(1)));
    assert_eq!(released(&actions), [(1, failed(FailureKind::Failed, "no"))]);
    assert!(actions.contains(&Action::HalfClose));
    machine.on(request(3));
    let actions = machine.on(ended());
    assert!(actions.contains(&Action::Load));
    assert_eq!(sent(&activated(&mut machine)), [1]);
    assert_eq!(sent(&machine.on(says(reply(1, answer("two"), &[])))), [2]);
}

#[test]
fn a_restart_with_a_new_value_begins_when_that_is_stored() {
    let mut machine = awaiting();
    machine.on(says(Reaction { restart: true, ..update(1, Some("v")) }));
    let actions = machine.on(ended());
    assert!(!actions.contains(&Action::Load), "{actions:?}");
    let actions = machine.on(Event::Written(Written::Committed));
    assert_eq!(released(&actions), [(1, ok("r"))]);
    assert!(actions.contains(&Action::Load), "{actions:?}");
}

#[test]
fn a_restart_activates_again_even_when_no_command_waits() {
    let mut machine = awaiting();
    machine.on(says(restart(1)));
    let actions = machine.on(ended());
    assert!(actions.contains(&Action::Load), "{actions:?}");
}

#[test]
fn an_idle_entity_is_passivated_and_a_command_that_comes_meanwhile_is_kept() {
    let mut machine = running(32);
    assert_eq!(machine.on(Event::TimedOut), [Action::HalfClose, Action::Arm(Timer::Close)]);
    assert_eq!(machine.on(request(1)), []);
    let actions = machine.on(ended());
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
    assert_eq!(written(&actions).len(), 1);
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
    assert_eq!(machine.on(ended()).last(), Some(&Action::End));
}

#[test]
fn a_journal_that_cannot_be_read_is_told_to_every_waiting_caller() {
    let mut machine = passive(Kind::EventSourced);
    machine.on(request(1));
    machine.on(request(2));
    let actions = machine.on(Event::LoadFailed("down".to_owned()));
    let expected = failed(FailureKind::Unavailable, "the entity's history cannot be read");
    assert_eq!(released(&actions), [(1, expected.clone()), (2, expected)]);
    assert_eq!(actions.last(), Some(&Action::End));
}

#[test]
fn what_was_ignored_is_reported() {
    let odd = Reaction { ignored: Some("a snapshot"), ..reply(1, answer("r"), &[]) };
    let actions = awaiting().on(says(odd));
    assert!(matches!(actions[0], Action::Report(_)), "{actions:?}");
    assert_eq!(released(&actions), [(1, ok("r"))]);
}

#[test]
fn only_an_entity_without_anything_under_way_makes_room() {
    assert!(running(32).on(Event::Passivate).contains(&Action::HalfClose));
    assert_eq!(awaiting().on(Event::Passivate), []);
    let mut machine = awaiting();
    machine.on(says(reply(1, answer("r"), &["e"])));
    assert_eq!(machine.on(Event::Passivate), []);
}

#[test]
fn effects_and_forwards_leave_only_when_the_events_before_them_are_durable() {
    let mut machine = awaiting();
    machine.on(request(2));
    let forward = Forward { service_name: "S".to_owned(), ..Forward::default() };
    let effect = SideEffect { service_name: "T".to_owned(), ..SideEffect::default() };
    machine.on(says(reply(1, answer("one"), &["e"])));
    let then = Then::Forward(forward);
    let forwarded = Answer { effects: vec![effect], then };
    let Answer { effects, then } = forwarded.clone();
    let forwarding = Reaction { effects, ..reply(2, then, &[]) };
    assert_eq!(released(&machine.on(says(forwarding))), []);
    let actions = machine.on(Event::Written(Written::Committed));
    assert_eq!(released(&actions), [(1, ok("one")), (2, forwarded)]);
}

#[test]
fn a_restart_keeps_the_effects() {
    let effects = vec![SideEffect { service_name: "T".to_owned(), ..SideEffect::default() }];
    let actions = awaiting().on(says(Reaction { effects: effects.clone(), ..restart(1) }));
    assert_eq!(released(&actions), [(1, Answer { effects, then: failure("no") })]);
}

#[test]
fn a_lost_write_takes_the_effects_behind_it_with_it() {
    let mut machine = awaiting();
    let effects = vec![SideEffect::default()];
    machine.on(says(Reaction { effects, ..reply(1, answer("one"), &["e"]) }));
    let actions = machine.on(Event::Written(Written::Fenced));
    assert!(released(&actions)[0].1.effects.is_empty(), "{actions:?}");
}
