//! The supervisor's mind: an event and a time in, actions out. No I/O, no clock, no task.
//!
//! Time is the duration since the launcher's start, so that moving the wall clock moves nothing here.
//! What must be done at a certain time is asked for with [`Machine::wake_at`] and answered with
//! [`Event::Tick`]. Every pair of state and event is defined; what has no meaning changes nothing.

mod backoff;
mod drain;
mod end;
mod ready;
mod stop;
#[cfg(test)]
mod tests;

use std::time::Duration;

use api::contract::{NotReady, reason};

use self::{backoff::Restarts, drain::Draining};
use crate::{
    config::{Drain, HangAction, OnReturn, Startup, Supervise, UserFunction, Wait},
    exit::{End, KILLED, UNAVAILABLE},
    health::{self, Answer, Health},
};

/// Without any event for so long this process itself was stopped, e.g. by SIGSTOP or a paused machine: the
/// prober alone makes one every two seconds. What was counted before says nothing about the proxy then.
const FROZEN: Duration = Duration::from_secs(4);
/// How long a proxy that hangs may take to write down what it is doing.
const DUMP_TIME: Duration = Duration::from_secs(2);
/// How long a proxy may take to leave that is to be started again, before it is killed.
const REPLACE_STOP: Duration = Duration::from_secs(5);
/// How long a killed process may take to vanish. Only the kernel can hold it up, e.g. in a stuck write.
const KILL_PATIENCE: Duration = Duration::from_secs(1);
/// A user function that comes and goes must not take the proxy with it each time.
const PLANNED_RESTART_INTERVAL: Duration = Duration::from_secs(30);
/// A proxy that gets stuck again and again has a reason that no restart removes.
const STUCK_RESTART_INTERVAL: Duration = Duration::from_hours(1);

/// Everything that [`Machine::state_name`] gives.
pub const STATE_NAMES: [&str; 9] = [
    "waiting", "backoff", "starting", "running", "dumping", "draining", "stopping", "failed",
    "stopped",
];

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing but time passed.
    Tick,
    /// The proxy process ended, or could not be started.
    Ended(End),
    /// The proxy of that generation was asked for its readiness.
    Answered {
        /// Which start of the proxy was asked; answers of earlier ones are stale.
        generation: u64,
        /// What it said.
        answer: Answer,
    },
    /// The user function is there, or is not any more.
    UserFunction {
        /// Whether it answers.
        up: bool,
    },
    /// TERM arrived.
    Terminate,
    /// INT arrived.
    Interrupt,
    /// Calls are to be sent elsewhere, while the proxy stays until TERM.
    Drain,
    /// That was not meant.
    CancelDrain,
    /// Leave without waiting until nobody is sent here any more: nobody is.
    Quit,
    /// So many calls are under way in the proxy.
    InFlight(u64),
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the proxy, and ask it for its readiness from now on.
    Spawn {
        /// Number of this start.
        generation: u64,
    },
    /// Tell that the proxy hangs.
    TellHang,
    /// Have the proxy write down what it is doing.
    Dump,
    /// Send TERM to the proxy's process group.
    Stop,
    /// Send INT to it, so that the proxy knows that it has less time.
    Interrupt,
    /// Send KILL to the proxy's process group.
    Kill,
    /// Leave.
    Exit {
        /// Our exit code.
        code: u8,
        /// What to leave in the termination file, unless the proxy has left something there.
        words: Option<NotReady>,
    },
}

/// Where we are. A proxy process exists in Starting, Running, Dumping, Draining, Stopping and Killing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// For the user function, before the first start.
    Waiting,
    Backoff {
        until: Duration,
        last: Option<End>,
    },
    Starting {
        since: Duration,
    },
    Running {
        since: Duration,
    },
    /// A proxy that does not answer writes down what it does, before it is stopped.
    Dumping {
        until: Duration,
        why: Why,
    },
    Draining {
        until: Duration,
        kill_at: Duration,
    },
    Stopping {
        kill_at: Duration,
        then: Then,
    },
    Killing {
        give_up_at: Duration,
        then: Then,
    },
    Failed {
        code: u8,
    },
    Stopped,
}

/// What follows a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Leave,
    StartAgain(Why),
}

/// Why a proxy that lives is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It has never answered.
    NeverAnswered,
    /// It answered once, and hangs.
    Hung,
    /// The user function came back and may be another one. No failure.
    UserFunctionReturned,
    /// It says for long that it serves no calls. One made of jars does so for ever when its first question to the
    /// user function went wrong. No failure.
    Stuck,
}

impl Why {
    /// Whether such a restart is no failure and outside the budget.
    fn is_planned(self) -> bool {
        matches!(self, Self::UserFunctionReturned | Self::Stuck)
    }
}

/// A running proxy does not answer.
#[derive(Clone, Copy, Debug)]
struct Silence {
    since: Duration,
    /// Whether that counts as a hang, and was told.
    is_told: bool,
}

/// Decides when the proxy is started, stopped and given up, and what the probes hear.
#[derive(Debug)]
pub struct Machine {
    supervise: Supervise,
    drain: Drain,
    user_function: UserFunction,
    startup: Startup,
    /// Whether a proxy has ever answered.
    has_answered: bool,
    /// Whether the user function answers; nothing as long as it never has.
    user_function_up: Option<bool>,
    draining: Option<Draining>,
    /// What a stop that went well leaves with, seen by whoever asked for it first.
    asked_by: Option<u8>,
    interrupted_at: Option<Duration>,
    /// When the last restart was that was no failure.
    planned_restart_at: Option<Duration>,
    /// Whether the user function has come back since this proxy was started, and may be another one.
    is_outdated: bool,
    state: State,
    generation: u64,
    answer: Answer,
    /// When it answered last, or when silence began to count.
    answered_at: Duration,
    silence: Option<Silence>,
    /// Since when it answers that it serves no calls, while the user function is there.
    unready_since: Option<Duration>,
    stuck_at: Option<Duration>,
    last_event_at: Duration,
    restarts: Restarts,
}

impl Machine {
    /// A machine that starts the proxy with its first event, or once the user function is there. `seed`
    /// makes the jitter of the pauses.
    pub fn new(
        supervise: Supervise,
        drain: Drain,
        user_function: UserFunction,
        startup: Startup,
        seed: u64,
    ) -> Self {
        let state = match user_function.wait {
            Wait::Gate => State::Waiting,
            Wait::Parallel | Wait::Never => State::Backoff { until: Duration::ZERO, last: None },
        };
        Self {
            restarts: Restarts::new(supervise.clone(), seed),
            supervise,
            drain,
            user_function,
            startup,
            has_answered: false,
            user_function_up: None,
            draining: None,
            asked_by: None,
            interrupted_at: None,
            planned_restart_at: None,
            is_outdated: false,
            state,
            generation: 0,
            answer: Answer::Ready,
            answered_at: Duration::ZERO,
            silence: None,
            unready_since: None,
            stuck_at: None,
            last_event_at: Duration::ZERO,
        }
    }

    /// When [`Event::Tick`] is wanted at the latest.
    pub fn wake_at(&self) -> Option<Duration> {
        let last = self.last_event_at;
        let drained_at = self.draining.as_ref().and_then(|draining| draining.wake_at(last));
        [self.due_at(), self.give_up_at(), drained_at].into_iter().flatten().min()
    }

    /// When time alone ends the state.
    fn due_at(&self) -> Option<Duration> {
        match &self.state {
            State::Backoff { until, .. }
            | State::Dumping { until, .. }
            | State::Draining { until, .. } => Some(*until),
            State::Starting { since } if !self.supervise.start_timeout.is_zero() => {
                Some(since.saturating_add(self.supervise.start_timeout))
            }
            State::Stopping { kill_at, .. } => Some(*kill_at),
            State::Killing { give_up_at, .. } => Some(*give_up_at),
            State::Running { .. } => self.outdated_at().into_iter().chain(self.stuck_at()).min(),
            State::Waiting | State::Starting { .. } | State::Failed { .. } | State::Stopped => None,
        }
    }

    /// When a proxy is started again that knows its user function from before that came back.
    fn outdated_at(&self) -> Option<Duration> {
        let is_due = self.is_outdated
            && self.user_function_up == Some(true)
            && self.draining.is_none()
            && self.user_function.on_return == OnReturn::RestartProxy;
        let at = self.planned_restart_at.map(|at| at.saturating_add(PLANNED_RESTART_INTERVAL));
        is_due.then_some(at.unwrap_or_default())
    }

    /// When a proxy that lives and serves nothing is started again.
    fn stuck_at(&self) -> Option<Duration> {
        let limit = self.supervise.stuck_after;
        let since = self.unready_since.filter(|_| !limit.is_zero() && self.draining.is_none())?;
        let again = self.stuck_at.map(|at| at.saturating_add(STUCK_RESTART_INTERVAL));
        Some(since.saturating_add(limit).max(again.unwrap_or_default()))
    }

    /// When a user function that has never answered is waited for no longer.
    fn give_up_at(&self) -> Option<Duration> {
        let waits = matches!(
            self.state,
            State::Waiting | State::Backoff { .. } | State::Starting { .. } | State::Running { .. }
        );
        let limit = self.user_function.give_up_after;
        (waits && self.is_watched() && self.user_function_up.is_none() && !limit.is_zero())
            .then_some(limit)
    }

    fn is_watched(&self) -> bool {
        self.user_function.wait != Wait::Never
    }

    /// The state's name, for the log.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Waiting => "waiting",
            State::Backoff { .. } => "backoff",
            State::Starting { .. } => "starting",
            State::Running { .. } => "running",
            State::Dumping { .. } => "dumping",
            State::Draining { .. } => "draining",
            State::Stopping { .. } | State::Killing { .. } => "stopping",
            State::Failed { .. } => "failed",
            State::Stopped => "stopped",
        }
    }

    /// Whether the user function answers; nothing as long as it never has.
    pub fn user_function_up(&self) -> Option<bool> {
        self.user_function_up
    }

    /// How many more failures are answered with a restart.
    pub fn budget_left(&self, now: Duration) -> u32 {
        self.restarts.left(now)
    }

    /// Until when a restart waits.
    pub fn pause_until(&self) -> Option<Duration> {
        match self.state {
            State::Backoff { until, last: Some(_) } => Some(until),
            _ => None,
        }
    }

    /// What an end that happens now is, in one word.
    pub fn class_of(&self, end: End) -> &'static str {
        match self.state {
            State::Stopping { then: Then::StartAgain(why), .. }
            | State::Killing { then: Then::StartAgain(why), .. }
            | State::Dumping { why, .. } => match why {
                Why::NeverAnswered => "start_timeout",
                Why::Hung => "hang",
                Why::UserFunctionReturned => "replaced",
                Why::Stuck => "stuck",
            },
            State::Stopping { .. } | State::Draining { .. } if end.is_clean_stop() => "clean",
            State::Stopping { .. } => "stop_error",
            State::Killing { .. } => "stop_timeout",
            _ => end.class(),
        }
    }

    /// Takes other settings from now on.
    pub fn reconfigure(&mut self, supervise: Supervise, drain: Drain) {
        self.restarts.reconfigure(supervise.clone());
        self.supervise = supervise;
        self.drain = drain;
    }

    /// What the probes are to be told.
    pub fn health(&self) -> Health {
        Health {
            started: self.startup == Startup::Launcher || self.has_answered,
            alive: !matches!(self.state, State::Failed { .. }),
            reasons: self.reasons(),
            drain: self.draining.as_ref().map_or(health::Drain::No, Draining::progress),
        }
    }

    /// Takes an event in.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let frozen = now.saturating_sub(self.last_event_at);
        if frozen > FROZEN {
            self.silence = None;
            self.answered_at = now;
            self.unready_since = None;
            // Nor had it any of that time, if it was frozen with us.
            if let State::Starting { since } = &mut self.state {
                *since = since.saturating_add(frozen);
            }
        }
        self.last_event_at = now;
        let actions = self.react(event, now);
        let has_proxy = self.has_proxy();
        if let Some(draining) = &mut self.draining {
            draining.look(has_proxy, now);
        }
        actions
    }

    fn react(&mut self, event: Event, now: Duration) -> Vec<Action> {
        match event {
            Event::Tick => self.tick(now),
            Event::Ended(end) => self.ended(end, now),
            Event::Answered { generation, answer } => self.answered(generation, answer, now),
            Event::UserFunction { up } => self.user_function(up, now),
            Event::Terminate => self.terminate(now),
            Event::Interrupt => self.interrupt(now),
            Event::Quit => self.quit(now),
            Event::Drain => {
                self.begin_drain(now, self.drain.pre_delay);
                Vec::new()
            }
            Event::CancelDrain => {
                if !self.is_leaving() {
                    self.draining = None;
                }
                Vec::new()
            }
            Event::InFlight(calls) => {
                if let Some(draining) = &mut self.draining {
                    draining.in_flight(calls, now);
                }
                Vec::new()
            }
        }
    }

    fn has_proxy(&self) -> bool {
        !matches!(
            self.state,
            State::Waiting | State::Backoff { .. } | State::Failed { .. } | State::Stopped
        )
    }

    fn tick(&mut self, now: Duration) -> Vec<Action> {
        if self.give_up_at().is_some_and(|at| at <= now) {
            return self.give_up();
        }
        if self.due_at().is_none_or(|at| now < at) {
            return Vec::new();
        }
        match self.state {
            State::Backoff { .. } => self.start(now),
            State::Starting { .. } => self.silent(Why::NeverAnswered, now),
            State::Dumping { why, .. } => self.replace(why, now),
            State::Draining { kill_at, .. } => {
                self.state = State::Stopping { kill_at, then: Then::Leave };
                vec![Action::Stop]
            }
            State::Stopping { then, .. } => {
                let give_up_at = now.saturating_add(KILL_PATIENCE);
                self.state = State::Killing { give_up_at, then };
                vec![Action::Kill]
            }
            // Starting another proxy beside one that cannot die would be two; leaving ends both.
            State::Killing { .. } => self.fail(KILLED, None),
            State::Running { .. } if self.outdated_at().is_some_and(|at| at <= now) => {
                self.planned_restart_at = Some(now);
                self.replace(Why::UserFunctionReturned, now)
            }
            State::Running { .. } => {
                self.stuck_at = Some(now);
                self.replace(Why::Stuck, now)
            }
            State::Waiting | State::Failed { .. } | State::Stopped => Vec::new(),
        }
    }

    fn start(&mut self, now: Duration) -> Vec<Action> {
        self.generation += 1;
        self.answer = Answer::Silent("the proxy was started and has not answered yet".to_owned());
        self.silence = None;
        self.unready_since = None;
        self.is_outdated = false;
        self.state = State::Starting { since: now };
        vec![Action::Spawn { generation: self.generation }]
    }

    /// Takes note of how long the proxy has served, which ends now. While it was silent it did not.
    fn leave_service(&mut self, now: Duration) {
        let State::Running { since } = self.state else { return };
        let served = self.silence.map_or(now, |silence| silence.since).saturating_sub(since);
        if served >= self.supervise.stable_after {
            self.restarts.forget_pause();
        }
    }

    /// A proxy lives and does not answer.
    fn silent(&mut self, why: Why, now: Duration) -> Vec<Action> {
        self.leave_service(now);
        self.state = State::Dumping { until: now.saturating_add(DUMP_TIME), why };
        vec![Action::Dump]
    }

    /// Stops a proxy that lives, to start another one.
    fn replace(&mut self, why: Why, now: Duration) -> Vec<Action> {
        self.leave_service(now);
        let kill_at = now.saturating_add(REPLACE_STOP);
        self.state = State::Stopping { kill_at, then: Then::StartAgain(why) };
        vec![Action::Stop]
    }

    fn user_function(&mut self, up: bool, now: Duration) -> Vec<Action> {
        let returned = up && self.user_function_up == Some(false);
        self.user_function_up = Some(up);
        if up && self.state == State::Waiting {
            return self.start(now);
        }
        self.is_outdated |= returned;
        self.tick(now)
    }

    /// Leaves, and the proxy with us: its user function never came.
    fn give_up(&mut self) -> Vec<Action> {
        let limit = self.user_function.give_up_after;
        let words = NotReady {
            reason: reason::USER_FUNCTION_UNREACHABLE.to_owned(),
            message: format!(
                "the user function did not answer within {limit:?}, which is CLOUDSTATE_LAUNCHER_UF_GIVE_UP: \
                 look at the log of the container user-container"
            ),
        };
        self.fail(UNAVAILABLE, Some(words))
    }

    fn answered(&mut self, generation: u64, answer: Answer, now: Duration) -> Vec<Action> {
        if generation != self.generation {
            return Vec::new();
        }
        let silent = matches!(answer, Answer::Silent(_));
        if matches!(answer, Answer::NotReady(_)) && !self.misses_user_function() {
            self.unready_since.get_or_insert(now);
        } else {
            self.unready_since = None;
        }
        self.answer = answer;
        if !silent {
            self.answered_at = now;
        }
        match self.state {
            // Any answer is a sign of life; whether it is a good one only matters for `/ready`.
            State::Starting { .. } if !silent => {
                self.has_answered = true;
                self.state = State::Running { since: now };
            }
            State::Running { .. } if silent => return self.silent_again(now),
            _ => self.silence = None,
        }
        Vec::new()
    }

    /// A running proxy does not answer, perhaps not for the first time.
    fn silent_again(&mut self, now: Duration) -> Vec<Action> {
        let Supervise { hang_after, hang_action, .. } = self.supervise;
        let Some(silence) = &mut self.silence else {
            // One question alone may have met a bad moment, however long ago the one before was.
            self.silence = Some(Silence { since: self.answered_at, is_told: false });
            return Vec::new();
        };
        if hang_after.is_zero() || now.saturating_sub(silence.since) < hang_after {
            return Vec::new();
        }
        let is_told = std::mem::replace(&mut silence.is_told, true);
        let mut actions = Vec::from_iter((!is_told).then_some(Action::TellHang));
        if hang_action == HangAction::Restart {
            actions.extend(self.silent(Why::Hung, now));
        }
        actions
    }

    fn fail(&mut self, code: u8, words: Option<NotReady>) -> Vec<Action> {
        self.state = State::Failed { code };
        vec![Action::Exit { code, words }]
    }
}
