//! Random walks: what must hold whatever happens.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Advance(u64),
    Crash(End),
    Answer(u8),
    StaleAnswer,
    UserFunction(bool),
    Terminate,
    Interrupt,
    Drain,
    CancelDrain,
    Quit,
    InFlight(u64),
    Become(Temper),
    SpawnFails(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        prop_oneof![Just(0), Just(1), Just(75), Just(143)].prop_map(End::Code),
        any::<u8>().prop_map(End::Code),
        (1..=64_u8).prop_map(End::Signal),
        Just(End::OutOfMemory),
    ];
    let temper =
        prop_oneof![Just(Temper::Obedient), Just(Temper::IgnoresTerm), Just(Temper::Undead)];
    prop_oneof![
        8 => (0..40_000_u64).prop_map(Step::Advance),
        2 => (0..700_000_u64).prop_map(Step::Advance),
        8 => end.prop_map(Step::Crash),
        6 => (0..3_u8).prop_map(Step::Answer),
        1 => Just(Step::StaleAnswer),
        4 => any::<bool>().prop_map(Step::UserFunction),
        1 => Just(Step::Terminate),
        1 => Just(Step::Interrupt),
        1 => Just(Step::Drain),
        1 => Just(Step::CancelDrain),
        1 => Just(Step::Quit),
        2 => (0..2_u64).prop_map(Step::InFlight),
        2 => temper.prop_map(Step::Become),
        1 => any::<bool>().prop_map(Step::SpawnFails),
    ]
}

fn walk(world: &mut World, step: Step) {
    match step {
        Step::Advance(ms) => world.advance(Duration::from_millis(ms)),
        Step::Crash(end) => world.crash(end),
        Step::Answer(0) => world.answer(Answer::Ready),
        Step::Answer(1) => world.answer(Answer::Silent("nothing".to_owned())),
        Step::Answer(_) => world.answer(Answer::NotReady(NotReady {
            reason: reason::USER_FUNCTION_UNREACHABLE.to_owned(),
            message: "nothing listens".to_owned(),
        })),
        Step::StaleAnswer => {
            let generation = world.machine.generation.wrapping_sub(1);
            world.give(Event::Answered { generation, answer: Answer::Ready });
        }
        Step::UserFunction(up) => world.give(Event::UserFunction { up }),
        Step::Terminate => world.give(Event::Terminate),
        Step::Interrupt => world.give(Event::Interrupt),
        Step::Drain => world.give(Event::Drain),
        Step::CancelDrain => world.give(Event::CancelDrain),
        Step::Quit => world.give(Event::Quit),
        Step::InFlight(calls) => world.give(Event::InFlight(calls)),
        Step::Become(temper) => world.temper = temper,
        Step::SpawnFails(fails) => world.spawn_fails = fails,
    }
    if world.exited.is_none() {
        let with_child = !matches!(world.machine.state, State::Waiting | State::Backoff { .. });
        assert_eq!(world.child, with_child, "{:?}", world.machine.state);
    }
    // Only a proxy that lives can serve calls.
    assert!(world.child || world.machine.health().ready().is_err());
}

/// Walks have thirty events on average; so many that there are a hundred thousand, unless the build was told
/// another number.
fn cases() -> u32 {
    const EVENTS: u32 = 100_000;
    let told = option_env!("LAUNCHER_MODEL_EVENTS").map(|events| events.parse().unwrap());
    told.unwrap_or(EVENTS) / 30
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    /// [`World`] checks on the way: never two proxies, never a start beyond the budget, one TERM for each.
    #[test]
    fn f32_whatever_happens_term_ends_it_within_the_grace_period(
        seed in any::<u64>(),
        gate in any::<bool>(),
        restart in any::<bool>(),
        give_up in any::<bool>(),
        restarts in prop_oneof![
            4 => Just(Restart::Always), 1 => Just(Restart::OnFailure), 1 => Just(Restart::Never)
        ],
        hang_action in prop_oneof![2 => Just(HangAction::Restart), 1 => Just(HangAction::Log)],
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let user_function = UserFunction {
            wait: if gate { Wait::Gate } else { Wait::Parallel },
            on_return: if restart { OnReturn::RestartProxy } else { OnReturn::Ignore },
            give_up_after: if give_up { 90 * SEC } else { Duration::ZERO },
            ..user_function()
        };
        let supervise = Supervise { restart: restarts, hang_action, ..supervise() };
        let mut world = World::beside(user_function, supervise, drain(), seed);
        for step in steps {
            walk(&mut world, step);
        }
        world.give(Event::Terminate);
        world.advance(world.machine.drain.grace);
        prop_assert!(world.exited.is_some(), "{:?}", world.machine.state);
        prop_assert_eq!(world.machine.wake_at(), None);
    }
}
