//! What the machine decides, shown in a world with a clock and room for one proxy.

mod drain;
mod model;
mod restarts;

use api::contract::exit;

use super::*;
use crate::{
    config::Restart,
    exit::Verdict,
    user_function::{Cadence, Probe},
};

const SEC: Duration = Duration::from_secs(1);

fn supervise() -> Supervise {
    Supervise {
        restart: Restart::Always,
        backoff_initial: Duration::from_millis(500),
        backoff_factor: 2.0,
        backoff_jitter: 0.2,
        backoff_max: 30 * SEC,
        stable_after: 60 * SEC,
        budget: 5,
        budget_window: 600 * SEC,
        start_timeout: 120 * SEC,
        hang_after: 20 * SEC,
        hang_action: HangAction::Restart,
        stuck_after: 600 * SEC,
    }
}

fn drain() -> Drain {
    Drain {
        grace: 30 * SEC,
        pre_delay: 5 * SEC,
        kill_margin: 2 * SEC,
        zero_on_term: true,
        is_told: true,
    }
}

fn user_function() -> UserFunction {
    UserFunction {
        wait: Wait::Parallel,
        probe: Probe::Tcp,
        cadence: Cadence { interval: SEC, timeout: SEC, down_after: 3 },
        give_up_after: Duration::ZERO,
        required: true,
        on_return: OnReturn::Ignore,
    }
}

/// How the simulated proxy takes signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temper {
    Obedient,
    IgnoresTerm,
    /// Stuck in the kernel: not even KILL ends it.
    Undead,
}

/// A machine, a clock and a process table with room for one proxy. Checks what must always hold.
struct World {
    machine: Machine,
    now: Duration,
    child: bool,
    temper: Temper,
    spawn_fails: bool,
    spawns: Vec<Duration>,
    stops_of_this_child: u32,
    failures: Vec<Duration>,
    /// Those of them that were kills for memory.
    kills_for_memory: Vec<Duration>,
    hangs: u32,
    dumps: u32,
    exited: Option<(u8, Option<NotReady>)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self::with(supervise(), drain(), seed);
        world.give(Event::UserFunction { up: true });
        world
    }

    fn with(supervise: Supervise, drain: Drain, seed: u64) -> Self {
        Self::beside(user_function(), supervise, drain, seed)
    }

    fn beside(user_function: UserFunction, supervise: Supervise, drain: Drain, seed: u64) -> Self {
        let mut world = Self {
            machine: Machine::new(supervise, drain, user_function, Startup::Launcher, seed),
            now: Duration::ZERO,
            child: false,
            temper: Temper::Obedient,
            spawn_fails: false,
            spawns: Vec::new(),
            stops_of_this_child: 0,
            failures: Vec::new(),
            kills_for_memory: Vec::new(),
            hangs: 0,
            dumps: 0,
            exited: None,
        };
        world.give(Event::Tick);
        world
    }

    fn running() -> Self {
        let mut world = Self::new(1);
        world.answer(Answer::Ready);
        assert_eq!(world.machine.health().ready(), Ok(()));
        world
    }

    fn give(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            if let Event::Ended(end) = event {
                self.child = false;
                let planned = matches!(
                    self.machine.state,
                    State::Stopping { then: Then::StartAgain(why), .. }
                        | State::Killing { then: Then::StartAgain(why), .. } if why.is_planned()
                );
                if end.verdict() == Verdict::Failure && !planned {
                    self.failures.push(self.now);
                    if end == End::OutOfMemory {
                        self.kills_for_memory.push(self.now);
                    }
                }
            }
            for action in self.machine.handle(event, self.now) {
                assert_eq!(self.exited, None, "nothing may follow the exit");
                match action {
                    Action::Spawn { .. } => events.extend(self.spawn()),
                    Action::TellHang => {
                        assert!(self.child, "nobody can hang");
                        self.hangs += 1;
                    }
                    Action::Dump => {
                        assert!(self.child, "there is nobody to ask");
                        self.dumps += 1;
                    }
                    Action::Stop | Action::Interrupt => events.extend(self.stop()),
                    Action::Kill => {
                        assert!(self.child, "there is nobody to kill");
                        if self.temper != Temper::Undead {
                            events.push(Event::Ended(End::Signal(9)));
                        }
                    }
                    Action::Exit { code, words } => self.exited = Some((code, words)),
                }
            }
        }
    }

    fn spawn(&mut self) -> Option<Event> {
        assert!(!self.child, "a second proxy beside the first");
        self.check_budget();
        if self.spawn_fails {
            return Some(Event::Ended(End::NoResources));
        }
        self.child = true;
        self.stops_of_this_child = 0;
        self.spawns.push(self.now);
        None
    }

    fn stop(&mut self) -> Option<Event> {
        assert!(self.child, "there is nobody to stop");
        self.stops_of_this_child += 1;
        assert_eq!(self.stops_of_this_child, 1, "a second TERM means something else to the proxy");
        (self.temper == Temper::Obedient).then_some(Event::Ended(End::Signal(15)))
    }

    /// Every start must come after no more failures than the budget allows.
    fn check_budget(&self) {
        let Some(last) = self.failures.last() else { return };
        let window = self.machine.supervise.budget_window;
        let recent = self.failures.iter().filter(|at| last.saturating_sub(**at) < window).count();
        assert!(recent <= self.machine.supervise.budget as usize, "{recent} failures and a start");
        let is_recent = |at: &&Duration| last.saturating_sub(**at) < window;
        let for_memory = self.kills_for_memory.iter().filter(is_recent).count();
        assert!(for_memory <= 2, "{for_memory} kills for memory and a start");
    }

    fn crash(&mut self, end: End) {
        if self.child && self.temper != Temper::Undead {
            self.give(Event::Ended(end));
        }
    }

    fn answer(&mut self, answer: Answer) {
        let generation = self.machine.generation;
        self.give(Event::Answered { generation, answer });
    }

    fn advance(&mut self, by: Duration) {
        let target = self.now + by;
        while self.now < target || self.machine.wake_at().is_some_and(|at| at <= target) {
            let wanted = self.machine.wake_at().unwrap_or(target).min(target);
            // With a proxy there is somebody who asks it.
            let glance = if self.child { self.now + FROZEN } else { target };
            self.now = self.now.max(wanted.min(glance));
            self.give(Event::Tick);
        }
    }

    /// Time passes of which the launcher sees nothing.
    fn freeze(&mut self, by: Duration) {
        self.now += by;
        self.give(Event::Tick);
    }

    #[track_caller]
    fn not_ready(&self, reason: &str) -> String {
        let health = self.machine.health();
        let why = health.ready().unwrap_err();
        assert_eq!(why.reason, reason);
        why.message.clone()
    }

    #[track_caller]
    fn exited_with(&self, code: u8) {
        assert_eq!(self.exited.as_ref().map(|(code, _)| *code), Some(code));
    }
}

#[test]
fn a_started_proxy_is_ready_when_it_says_so() {
    let mut world = World::new(1);
    assert_eq!(
        world.not_ready(reason::PROXY_STARTING),
        "the proxy was started and has not answered yet"
    );
    world.answer(Answer::Silent("connection refused".to_owned()));
    assert_eq!(world.not_ready(reason::PROXY_STARTING), "connection refused");
    let why = NotReady { reason: "UserFunctionUnreachable".to_owned(), message: "…".to_owned() };
    world.answer(Answer::NotReady(why.clone()));
    assert_eq!(world.machine.health().ready(), Err(&why));
    world.answer(Answer::Ready);
    assert_eq!(
        world.machine.health(),
        Health { started: true, alive: true, reasons: Vec::new(), drain: health::Drain::No }
    );
}

#[test]
fn an_answer_of_an_earlier_proxy_counts_for_nothing() {
    let mut world = World::running();
    let generation = world.machine.generation;
    world.crash(End::Signal(9));
    world.advance(SEC);
    world.give(Event::Answered { generation, answer: Answer::Ready });
    world.not_ready(reason::PROXY_STARTING);
}

#[test]
fn the_sidecar_has_started_when_what_was_asked_for_is_there() {
    let starts = |startup| {
        let mut machine = Machine::new(supervise(), drain(), user_function(), startup, 1);
        let before = machine.health().started;
        machine.handle(Event::Tick, Duration::ZERO);
        let answer = Answer::NotReady(NotReady { reason: String::new(), message: String::new() });
        machine.handle(Event::Answered { generation: 1, answer }, SEC);
        machine.handle(Event::Ended(End::Signal(9)), 2 * SEC);
        [before, machine.health().started]
    };
    assert_eq!(starts(Startup::Launcher), [true, true]);
    assert_eq!(starts(Startup::Proxy), [false, true], "any answer is one, and it stays so");
}

#[test]
fn term_serves_on_for_the_delay_then_stops_cleanly() {
    let mut world = World::running();
    world.give(Event::Terminate);
    world.not_ready(reason::DRAINING);
    world.advance(Duration::from_millis(4_999));
    assert_eq!(world.stops_of_this_child, 0);
    world.give(Event::Terminate);
    world.advance(Duration::from_millis(1));
    assert_eq!(world.stops_of_this_child, 1);
    world.exited_with(0);
}

#[test]
fn a_proxy_that_ignores_term_is_killed_at_the_deadline_and_not_before() {
    let mut world = World::running();
    world.temper = Temper::IgnoresTerm;
    world.give(Event::Terminate);
    for _ in 0..1_000 {
        world.give(Event::Terminate);
    }
    world.advance(Duration::from_millis(27_999));
    assert_eq!(world.exited, None);
    world.advance(Duration::from_millis(1));
    world.exited_with(KILLED);
    let message = world.exited.unwrap().1.unwrap().message;
    let what = "the proxy was told to stop, did not in time and was killed (stop_timeout): raise ";
    assert!(message.starts_with(what), "{message}");
}

#[test]
fn an_interrupt_waits_for_nobody() {
    let mut world = World::running();
    world.give(Event::Interrupt);
    world.exited_with(0);

    let mut world = World::running();
    world.temper = Temper::IgnoresTerm;
    world.give(Event::Interrupt);
    world.advance(5 * SEC);
    world.exited_with(KILLED);
}

#[test]
fn a_second_interrupt_waits_no_longer() {
    let mut world = World::running();
    world.temper = Temper::IgnoresTerm;
    world.give(Event::Interrupt);
    world.advance(2 * SEC);
    assert_eq!(world.exited, None);
    world.give(Event::Interrupt);
    world.exited_with(KILLED);

    let mut world = World::running();
    world.temper = Temper::IgnoresTerm;
    world.give(Event::Interrupt);
    world.advance(3 * SEC);
    world.give(Event::Interrupt);
    assert_eq!(world.exited, None, "that one comes from somebody else");
}

#[test]
fn a_clean_stop_can_tell_which_signal_it_was() {
    let drain = Drain { zero_on_term: false, ..drain() };
    for (event, code) in [(Event::Terminate, 143), (Event::Interrupt, 130), (Event::Quit, 0)] {
        let mut world = World::with(supervise(), drain.clone(), 1);
        world.answer(Answer::Ready);
        world.give(event.clone());
        world.give(Event::Terminate);
        world.advance(5 * SEC);
        world.exited_with(code);
        let mut world = World::with(supervise(), drain.clone(), 1);
        world.crash(End::Signal(9));
        world.give(event);
        world.exited_with(code);
    }
}

#[test]
fn term_without_a_running_proxy_leaves_at_once() {
    let mut starting = World::new(1);
    starting.give(Event::Terminate);
    starting.exited_with(0);

    let mut waiting = World::running();
    waiting.crash(End::Signal(9));
    assert_eq!(
        waiting.not_ready(reason::PROXY_STARTING),
        "the proxy was killed by signal 9 and will be started again shortly"
    );
    waiting.give(Event::Terminate);
    waiting.exited_with(0);
}

#[test]
fn f31_a_crash_while_draining_ends_with_its_code() {
    let mut world = World::running();
    world.give(Event::Terminate);
    world.crash(End::Signal(11));
    world.exited_with(139);
    assert_eq!(world.spawns.len(), 1);
    let (_, words) = world.exited.unwrap();
    let words = words.unwrap();
    assert_eq!(words.reason, reason::PROXY_CRASHED);
    let what = "the proxy was killed by signal 11 while it was to finish its calls (crash); ";
    assert!(words.message.starts_with(what), "{}", words.message);
}

#[test]
fn a_proxy_that_never_answers_is_started_again() {
    let mut world = World::new(1);
    world.temper = Temper::IgnoresTerm;
    world.advance(120 * SEC);
    assert_eq!((world.dumps, world.stops_of_this_child), (1, 0));
    assert!(world.not_ready(reason::PROXY_STARTING).contains("did not answer within 120s"));
    world.advance(2 * SEC);
    assert_eq!(world.stops_of_this_child, 1);
    world.advance(6 * SEC);
    assert_eq!(world.spawns.len(), 2);
}

#[test]
fn calls_are_served_only_while_the_user_function_is_there() {
    let mut world = World::running();
    world.give(Event::UserFunction { up: false });
    assert!(world.not_ready(reason::USER_FUNCTION_UNREACHABLE).contains("user-container"));
    world.give(Event::UserFunction { up: true });
    assert_eq!(world.machine.health().ready(), Ok(()));
    assert_eq!(world.spawns.len(), 1, "the native proxy looks after that by itself");
}

#[test]
fn every_reason_is_known_and_the_first_is_told() {
    let mut world = World::with(supervise(), drain(), 1);
    let reasons = |world: &World| -> Vec<String> {
        world.machine.health().reasons.into_iter().map(|why| why.reason).collect()
    };
    let (starting, function) = (reason::PROXY_STARTING, reason::USER_FUNCTION_UNREACHABLE);
    assert_eq!(reasons(&world), [starting, function]);
    world.answer(Answer::Ready);
    assert_eq!(reasons(&world), [function]);
    world.give(Event::Terminate);
    assert_eq!(reasons(&world), [reason::DRAINING, function]);
}

#[test]
fn a_gate_holds_the_proxy_back_until_the_user_function_is_there() {
    let gate = UserFunction { wait: Wait::Gate, ..user_function() };
    let mut world = World::beside(gate, supervise(), drain(), 1);
    world.advance(1_000 * SEC);
    assert_eq!(world.spawns.len(), 0);
    world.not_ready(reason::USER_FUNCTION_UNREACHABLE);
    world.give(Event::UserFunction { up: true });
    assert_eq!(world.spawns.len(), 1);
}

#[test]
fn a_returning_user_function_gets_a_new_proxy_but_not_all_the_time() {
    let restart = UserFunction { on_return: OnReturn::RestartProxy, ..user_function() };
    let supervise = Supervise { budget: 0, ..supervise() };
    let mut world = World::beside(restart, supervise, drain(), 1);
    world.give(Event::UserFunction { up: true });
    world.answer(Answer::Ready);
    assert_eq!(world.spawns.len(), 1, "the first time is no return");
    for (after, spawns) in [(1, 2), (10, 2), (30, 3)] {
        world.advance(after * SEC);
        world.give(Event::UserFunction { up: false });
        world.give(Event::UserFunction { up: true });
        assert_eq!(world.spawns.len(), spawns, "{after} s later");
        world.answer(Answer::Ready);
    }
    world.advance(30 * SEC);
    assert_eq!(world.spawns.len(), 4, "what was too early is made up for");
    world.give(Event::UserFunction { up: false });
    world.give(Event::UserFunction { up: true });
    world.answer(Answer::Ready);
    world.advance(60 * SEC);
    assert_eq!(world.spawns.len(), 5, "also what came while the proxy started");
    assert_eq!(world.exited, None, "it costs no budget");
}

#[test]
fn a_user_function_that_never_comes_is_given_up_when_that_is_wanted() {
    let patient = UserFunction { give_up_after: 60 * SEC, ..user_function() };
    let mut world = World::beside(patient.clone(), supervise(), drain(), 1);
    world.answer(Answer::Ready);
    world.advance(60 * SEC);
    world.exited_with(69);
    assert_eq!(world.exited.unwrap().1.unwrap().reason, reason::USER_FUNCTION_UNREACHABLE);

    let mut world = World::beside(patient, supervise(), drain(), 1);
    world.give(Event::UserFunction { up: true });
    world.give(Event::UserFunction { up: false });
    world.answer(Answer::Ready);
    world.advance(600 * SEC);
    assert_eq!(world.exited, None);
}

/// Gives the answers that a prober gets from a proxy that is stopped: none within a second each.
fn silent_for(world: &mut World, seconds: u32) {
    for _ in 0..seconds {
        world.answer(Answer::Silent("deadline has elapsed".to_owned()));
        world.advance(SEC);
    }
}

#[test]
fn a_proxy_that_hangs_is_started_again() {
    let mut world = World::running();
    world.temper = Temper::IgnoresTerm;
    silent_for(&mut world, 20);
    assert_eq!(world.stops_of_this_child, 0);
    silent_for(&mut world, 1);
    assert_eq!((world.dumps, world.stops_of_this_child, world.hangs), (1, 0, 1));
    assert!(matches!(world.machine.state, State::Dumping { why: Why::Hung, .. }));
    assert!(world.not_ready(reason::PROXY_STARTING).contains("did not answer within 20s"));
    world.advance(SEC);
    assert_eq!(world.stops_of_this_child, 1, "it had its time to write down what it does");
    world.advance(6 * SEC);
    assert_eq!(world.spawns.len(), 2);
}

#[test]
fn silence_counts_from_the_last_answer_and_one_question_alone_is_none() {
    let mut world = World::running();
    world.advance(SEC);
    // It was asked a second after its last answer, and that question took nearly one by itself.
    world.advance(Duration::from_millis(900));
    silent_for(&mut world, 19);
    assert_eq!(world.hangs, 0, "the last of them 19.9 s after its last answer");
    silent_for(&mut world, 1);
    assert_eq!(world.hangs, 1, "20.9 s after it");

    let hasty = Supervise { hang_after: SEC, ..supervise() };
    let mut world = World::with(hasty, drain(), 1);
    world.answer(Answer::Ready);
    world.advance(2 * SEC);
    world.answer(Answer::Silent("connection refused".to_owned()));
    world.answer(Answer::Ready);
    assert_eq!(world.hangs, 0);
}

#[test]
fn a_proxy_that_hangs_is_only_told_of_when_that_is_wanted() {
    let patient = Supervise { hang_action: HangAction::Log, ..supervise() };
    let mut world = World::with(patient, drain(), 1);
    world.answer(Answer::Ready);
    for hangs in [1, 2] {
        silent_for(&mut world, 100);
        assert_eq!((world.hangs, world.spawns.len(), world.stops_of_this_child), (hangs, 1, 0));
        world.not_ready(reason::PROXY_STARTING);
        world.answer(Answer::Ready);
    }
}

#[test]
fn a_proxy_that_serves_nothing_for_long_is_started_again_once_an_hour() {
    let mut world = World::new(1);
    let why = NotReady { reason: "UserFunctionRefused".to_owned(), message: "no".to_owned() };
    let unready = |world: &mut World, seconds: u32| {
        for _ in 0..seconds {
            world.advance(SEC);
            world.answer(Answer::NotReady(why.clone()));
        }
    };
    unready(&mut world, 599);
    assert_eq!(world.spawns.len(), 1);
    unready(&mut world, 3);
    assert_eq!((world.spawns.len(), world.failures.len()), (2, 0), "it is no failure");
    unready(&mut world, 3_500);
    assert_eq!(world.spawns.len(), 2);
    unready(&mut world, 110);
    assert_eq!(world.spawns.len(), 3);
    // Without the user function nobody can serve anything.
    world.give(Event::UserFunction { up: false });
    unready(&mut world, 7_300);
    assert_eq!(world.spawns.len(), 3);
}

#[test]
fn an_answer_in_time_is_no_hang() {
    let mut world = World::running();
    for _ in 0..10 {
        silent_for(&mut world, 19);
        world.answer(Answer::Ready);
    }
    assert_eq!((world.hangs, world.dumps, world.spawns.len()), (0, 0, 1));
}

#[test]
fn a_launcher_that_was_frozen_itself_blames_nobody() {
    let mut world = World::running();
    silent_for(&mut world, 15);
    world.freeze(60 * SEC);
    silent_for(&mut world, 15);
    world.answer(Answer::Ready);
    assert_eq!((world.hangs, world.dumps, world.spawns.len()), (0, 0, 1));
    // Nor one that is still starting.
    let mut world = World::new(1);
    for _ in 0..70 {
        world.advance(SEC);
        world.answer(Answer::Silent("not yet".to_owned()));
    }
    world.freeze(90 * SEC);
    assert_eq!(world.dumps, 0);
    world.advance(53 * SEC);
    assert_eq!(world.spawns.len(), 2, "it has had its 120 s now");
}

#[test]
fn last_words_on_a_proxy_that_hung_say_so_whatever_ended_it() {
    for (temper, code) in [(Temper::IgnoresTerm, 137), (Temper::Obedient, 143)] {
        let mut world = World::with(Supervise { budget: 0, ..supervise() }, drain(), 1);
        world.answer(Answer::Ready);
        world.temper = temper;
        silent_for(&mut world, 21);
        world.advance(6 * SEC);
        let (left, words) = world.exited.clone().unwrap();
        let message = words.unwrap().message;
        assert_eq!(left, code);
        assert!(
            message.starts_with("the proxy did not answer any more for 20s and was stopped"),
            "{message}"
        );
        assert!(!message.contains("who else sends signals"), "{message}");
    }
}

#[test]
fn term_turns_a_restart_into_a_stop() {
    let mut world = World::new(1);
    world.temper = Temper::IgnoresTerm;
    world.advance(123 * SEC);
    world.give(Event::Terminate);
    world.not_ready(reason::DRAINING);
    world.advance(5 * SEC);
    world.exited_with(KILLED);
    assert_eq!(world.spawns.len(), 1);
}

/// A world in each of the states that a machine can be in, by its name.
fn worlds() -> Vec<(&'static str, World)> {
    let gate = UserFunction { wait: Wait::Gate, ..user_function() };
    let stubborn = |mut world: World| {
        world.temper = Temper::IgnoresTerm;
        world
    };
    let mut backoff = World::running();
    backoff.crash(End::Signal(9));
    let mut dumping = World::running();
    silent_for(&mut dumping, 21);
    let mut draining = World::running();
    draining.give(Event::Terminate);
    let mut restarting = stubborn(World::running());
    silent_for(&mut restarting, 21);
    restarting.advance(2 * SEC);
    let mut stopping = stubborn(World::running());
    stopping.give(Event::Terminate);
    stopping.advance(10 * SEC);
    let mut killing = World::running();
    killing.temper = Temper::Undead;
    silent_for(&mut killing, 21);
    killing.advance(6 * SEC);
    let mut failed = World::new(1);
    failed.crash(End::Code(78));
    let mut stopped = World::running();
    stopped.give(Event::Interrupt);
    vec![
        ("waiting", World::beside(gate, supervise(), drain(), 1)),
        ("starting", World::new(1)),
        ("running", World::running()),
        ("dumping", dumping),
        ("backoff", backoff),
        ("draining", draining),
        ("stopping", restarting),
        ("stopping", stopping),
        ("stopping", killing),
        ("failed", failed),
        ("stopped", stopped),
    ]
}

#[test]
fn f12_term_in_any_state_ends_it_within_the_grace_period() {
    for (name, mut world) in worlds() {
        assert_eq!(world.machine.state_name(), name);
        assert!(STATE_NAMES.contains(&name));
        let before = world.exited.clone();
        let spawns = world.spawns.len();
        world.give(Event::Terminate);
        world.advance(world.machine.drain.grace);
        let (code, _) = world.exited.clone().unwrap_or_else(|| panic!("{name} goes on"));
        match before {
            Some((earlier, _)) => assert_eq!(code, earlier, "{name}: the code stands"),
            None if world.temper == Temper::Obedient => assert_eq!(code, 0, "{name}"),
            None => assert_eq!(code, KILLED, "{name}"),
        }
        assert_eq!(world.spawns.len(), spawns, "{name}: nothing is started any more");
    }
}
