//! How often and how soon a proxy is started again, and after which ends.

use super::*;

#[test]
fn f02_pauses_double_within_their_jitter() {
    for seed in 0..200 {
        let generous = Supervise { budget: 100, ..supervise() };
        let mut world = World::with(generous, drain(), seed);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            world.crash(End::Code(1));
            let died = world.now;
            world.advance(40 * SEC);
            pauses.push(world.spawns.last().unwrap().saturating_sub(died).as_millis());
        }
        for (pause, middle) in
            pauses.iter().zip([500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000])
        {
            assert!((middle * 8 / 10..=middle * 12 / 10).contains(pause), "{pauses:?}");
        }
    }
}

#[test]
fn pauses_grow_and_differ_as_they_are_told_to() {
    let steady = Supervise {
        backoff_factor: 1.5,
        backoff_jitter: 0.0,
        backoff_max: 2 * SEC,
        budget: 100,
        ..supervise()
    };
    let mut world = World::with(steady, drain(), 7);
    for millis in [500, 750, 1_125, 1_687, 2_000, 2_000] {
        world.crash(End::Code(1));
        let pause = world.machine.pause_until().unwrap().saturating_sub(world.now);
        assert_eq!(pause.as_millis(), millis);
        world.advance(pause);
    }
}

#[test]
fn a_stable_proxy_starts_over_with_the_shortest_pause() {
    let mut world = World::running();
    for _ in 0..3 {
        world.crash(End::Code(1));
        world.advance(5 * SEC);
    }
    world.answer(Answer::Ready);
    world.advance(60 * SEC);
    world.crash(End::Code(1));
    let spawns = world.spawns.len();
    world.advance(Duration::from_millis(600));
    assert_eq!(world.spawns.len(), spawns + 1);
}

#[test]
fn a_proxy_that_hung_was_as_stable_as_long_as_it_answered() {
    for (seconds, millis) in [(60, 600), (50, 4_800)] {
        let mut world = World::with(supervise(), drain(), 1);
        for _ in 0..3 {
            world.crash(End::Code(1));
            world.advance(5 * SEC);
        }
        world.answer(Answer::Ready);
        world.advance(seconds * SEC);
        world.answer(Answer::Ready);
        silent_for(&mut world, 21);
        world.advance(10 * SEC);
        assert_eq!((world.failures.len(), world.spawns.len()), (4, 5));
        let pause = world.spawns[4].saturating_sub(world.failures[3]);
        assert!(pause <= Duration::from_millis(millis), "{pause:?} after {seconds} s");
        assert!(pause >= Duration::from_millis(millis) / 3, "{pause:?} after {seconds} s");
    }
}

#[test]
fn f02_the_end_beyond_the_budget_is_the_last() {
    let mut world = World::running();
    for _ in 0..5 {
        world.crash(End::Code(3));
        world.advance(40 * SEC);
        assert_eq!(world.exited, None);
    }
    world.crash(End::Code(3));
    let (code, words) = world.exited.clone().unwrap();
    assert_eq!(code, 3);
    let words = words.unwrap();
    assert_eq!(words.reason, reason::PROXY_CRASHED);
    assert!(
        words.message.contains("left with exit code 3; that was more than 5 times within 600s")
    );
    assert!(!world.machine.health().alive);
}

#[test]
fn the_third_kill_for_memory_is_the_last() {
    let mut world = World::running();
    for _ in 0..2 {
        world.crash(End::OutOfMemory);
        world.advance(40 * SEC);
        world.crash(End::Signal(9));
        world.advance(40 * SEC);
        assert_eq!(world.exited, None);
    }
    world.crash(End::OutOfMemory);
    let (code, words) = world.exited.clone().unwrap();
    assert_eq!(code, 137);
    let message = words.unwrap().message;
    assert!(message.contains("more than 2 times within 600s"), "{message}");
}

#[test]
fn old_failures_leave_the_budget() {
    let mut world = World::running();
    for _ in 0..20 {
        world.crash(End::Signal(9));
        world.advance(121 * SEC / 2);
        world.answer(Answer::Ready);
        world.advance(121 * SEC / 2);
    }
    assert_eq!(world.exited, None);
}

#[test]
fn a_proxy_is_started_again_after_what_the_setting_says() {
    let after = |restart, end| {
        let mut world = World::with(Supervise { restart, ..supervise() }, drain(), 1);
        world.answer(Answer::Ready);
        world.crash(end);
        world.exited.map(|(code, words)| (code, words.unwrap().message))
    };
    assert_eq!(after(Restart::Always, End::Code(0)), None);
    assert_eq!(after(Restart::OnFailure, End::Code(1)), None);
    assert_eq!(after(Restart::OnFailure, End::Code(exit::RESTART)), None);
    for (restart, end, code) in [
        (Restart::OnFailure, End::Code(0), 70),
        (Restart::Never, End::Code(1), 1),
        (Restart::Never, End::Code(exit::RESTART), 75),
        (Restart::Never, End::Signal(9), 137),
    ] {
        let (found, message) = after(restart, end).unwrap();
        assert_eq!(found, code, "{restart:?} {end:?}");
        let why = format!("CLOUDSTATE_LAUNCHER_RESTART is {}", restart.as_str());
        assert!(message.contains(&why), "{message}");
    }
}

#[test]
fn a_refused_configuration_is_not_tried_again() {
    for (end, code) in [
        (End::Code(78), 78),
        (End::Code(64), 78),
        (End::Code(2), 78),
        (End::NotFound, 127),
        (End::NotExecutable, 126),
    ] {
        let mut world = World::new(1);
        world.crash(end);
        world.exited_with(code);
        let (_, words) = world.exited.unwrap();
        assert_eq!(words.unwrap().reason, reason::CONFIGURATION_REFUSED);
    }
}

#[test]
fn a_fresh_start_is_immediate_once_and_never_spends_the_budget() {
    let mut world = World::running();
    world.advance(SEC);
    world.crash(End::Code(exit::RESTART));
    assert_eq!(world.spawns.len(), 2, "at once");
    for spawns in [3, 4] {
        world.advance(SEC);
        world.crash(End::Code(exit::RESTART));
        world.advance(28 * SEC);
        assert_eq!(world.spawns.len(), spawns - 1, "once in 30 s and no more often");
        world.advance(SEC);
        assert_eq!(world.spawns.len(), spawns);
    }
    for _ in 0..50 {
        world.crash(End::Code(exit::RESTART));
        world.advance(40 * SEC);
    }
    assert_eq!(world.exited, None);
    assert_eq!(world.spawns.len(), 54);
}
