//! A drain, ahead of TERM or with it.

use super::*;

#[test]
fn f33_a_drain_ahead_of_term_keeps_the_proxy_and_uses_up_the_time() {
    let mut world = World::running();
    world.give(Event::Drain);
    assert_eq!(world.not_ready(reason::DRAINING), "the pod is being stopped");
    world.advance(20 * SEC);
    assert!(world.child, "whoever asked for it may need the proxy still");
    assert_eq!(world.stops_of_this_child, 0);
    world.temper = Temper::IgnoresTerm;
    world.give(Event::Terminate);
    assert_eq!(world.stops_of_this_child, 1, "the delay is over");
    world.advance(Duration::from_millis(7_900));
    assert_eq!(world.exited, None);
    world.advance(Duration::from_millis(200));
    world.exited_with(KILLED);
}

#[test]
fn a_drain_is_over_with_the_last_call_and_not_before_callers_know() {
    let mut world = World::running();
    world.give(Event::Drain);
    for calls in [0, 0] {
        world.give(Event::InFlight(calls));
    }
    assert_eq!(world.machine.health().drain, health::Drain::UnderWay, "callers may still come");
    world.advance(5 * SEC);
    for (calls, drain) in [
        (2, health::Drain::UnderWay),
        (0, health::Drain::UnderWay),
        (0, health::Drain::Done),
        (1, health::Drain::Done),
    ] {
        world.give(Event::InFlight(calls));
        assert_eq!(world.machine.health().drain, drain, "{calls}");
    }
}

#[test]
fn a_drain_leaves_the_proxy_its_share_of_the_time() {
    let mut world = World::running();
    world.give(Event::Drain);
    world.give(Event::InFlight(1));
    world.advance(Duration::from_millis(20_900));
    assert_eq!(world.machine.health().drain, health::Drain::UnderWay);
    world.advance(Duration::from_millis(200));
    assert_eq!(world.machine.health().drain, health::Drain::TimeUp);
}

#[test]
fn a_proxy_that_does_not_count_its_calls_is_given_a_while() {
    let drain = Drain { is_told: false, ..drain() };
    let mut world = World::with(supervise(), drain, 1);
    world.answer(Answer::Ready);
    world.give(Event::Drain);
    world.advance(Duration::from_millis(9_900));
    assert_eq!(world.machine.health().drain, health::Drain::UnderWay);
    world.advance(Duration::from_millis(200));
    assert_eq!(world.machine.health().drain, health::Drain::TimeUp);
}

#[test]
fn a_cancelled_drain_never_was() {
    let mut world = World::running();
    world.give(Event::Drain);
    world.advance(10 * SEC);
    world.give(Event::CancelDrain);
    assert_eq!(world.machine.health().ready(), Ok(()));
    world.give(Event::Terminate);
    assert_eq!(world.stops_of_this_child, 0, "the delay begins now");
    world.give(Event::CancelDrain);
    assert_eq!(world.machine.health().drain, health::Drain::UnderWay, "too late");
    world.advance(5 * SEC);
    world.exited_with(0);
}

#[test]
fn f33_a_proxy_takes_no_new_calls_once_callers_know_and_until_that_is_taken_back() {
    let mut world = World::running();
    world.give(Event::Drain);
    assert_eq!(world.machine.holds(world.now), Some(false), "callers do not know yet");
    assert_eq!(world.machine.wake_at(), Some(5 * SEC));
    world.advance(5 * SEC);
    assert_eq!(world.machine.holds(world.now), Some(true));
    world.crash(End::Signal(9));
    world.advance(SEC);
    assert_eq!(world.spawns.len(), 2);
    assert_eq!(world.machine.holds(world.now), Some(true), "nor does another proxy");
    world.give(Event::CancelDrain);
    assert_eq!(world.machine.holds(world.now), Some(false));
    // What is held serves again afresh.
    world.crash(End::Code(exit::RESTART));
    assert_eq!(world.spawns.len(), 3, "at once");
    world.give(Event::Terminate);
    assert_eq!(world.machine.holds(world.now), None, "TERM says it");
}

#[test]
fn a_proxy_made_of_jars_is_not_told_of_a_drain() {
    let drain = Drain { is_told: false, ..drain() };
    let mut world = World::with(supervise(), drain, 1);
    world.answer(Answer::Ready);
    world.give(Event::Drain);
    world.advance(10 * SEC);
    assert_eq!(world.machine.holds(world.now), Some(false));
}

#[test]
fn quit_does_not_wait_for_callers() {
    let mut world = World::running();
    world.give(Event::Quit);
    world.exited_with(0);
}
