//! The supervisor's mind: an event and a time in, actions out. No I/O, no clock, no task.
//!
//! Time is the duration since the launcher's start, so that moving the wall clock moves nothing here.
//! What must be done at a certain time is asked for with [`Machine::wake_at`] and answered with
//! [`Event::Tick`]. Every pair of state and event is defined; what has no meaning changes nothing.

mod backoff;
#[cfg(test)]
mod tests;

use std::time::Duration;

use api::contract::{NotReady, exit, reason};

use self::backoff::Restarts;
use crate::{
    config::{Drain, Supervise},
    exit::{End, KILLED, Verdict},
    health::{Answer, Health},
};

/// Without any event for so long this process itself was stopped, e.g. by SIGSTOP or a paused machine: the
/// prober alone makes one every two seconds. What was counted before says nothing about the proxy then.
const FROZEN: Duration = Duration::from_secs(4);
/// How long a proxy that does not answer may take to leave, before it is killed and tried again.
const SILENT_STOP: Duration = Duration::from_secs(5);
/// How long a killed process may take to vanish. Only the kernel can hold it up, e.g. in a stuck write.
const KILL_PATIENCE: Duration = Duration::from_secs(1);
/// An interrupt comes from a person who waits at a terminal.
const INTERRUPT_STOP: Duration = Duration::from_secs(5);

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
    /// TERM arrived.
    Terminate,
    /// INT arrived.
    Interrupt,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the proxy, and ask it for its readiness from now on.
    Spawn {
        /// Number of this start.
        generation: u64,
    },
    /// Send TERM to the proxy's process group.
    Stop,
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

/// Where we are. A proxy process exists in Starting, Running, Draining and Stopping, in no other.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Backoff { until: Duration, last: Option<End> },
    Starting { since: Duration },
    Running { since: Duration },
    Draining { until: Duration, kill_at: Duration },
    Stopping { kill_at: Duration, then: Then },
    Killing { give_up_at: Duration, then: Then },
    Failed { code: u8 },
    Stopped,
}

/// What follows a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Leave,
    StartAgain(Silence),
}

/// Why a proxy that lives is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// It has never answered.
    FromTheStart,
    /// It answered once, and hangs.
    Hang,
}

/// Decides when the proxy is started, stopped and given up, and what the probes hear.
#[derive(Debug)]
pub struct Machine {
    supervise: Supervise,
    drain: Drain,
    state: State,
    generation: u64,
    answer: Answer,
    /// Since when a running proxy has not answered.
    silent_since: Option<Duration>,
    last_event_at: Duration,
    restarts: Restarts,
}

impl Machine {
    /// A machine that starts the proxy with its first event. `seed` makes the jitter of the pauses.
    pub fn new(supervise: Supervise, drain: Drain, seed: u64) -> Self {
        Self {
            restarts: Restarts::new(supervise.clone(), seed),
            supervise,
            drain,
            state: State::Backoff { until: Duration::ZERO, last: None },
            generation: 0,
            answer: Answer::Ready,
            silent_since: None,
            last_event_at: Duration::ZERO,
        }
    }

    /// When [`Event::Tick`] is wanted at the latest.
    pub fn wake_at(&self) -> Option<Duration> {
        match &self.state {
            State::Backoff { until, .. } | State::Draining { until, .. } => Some(*until),
            State::Starting { since } if !self.supervise.start_timeout.is_zero() => {
                Some(since.saturating_add(self.supervise.start_timeout))
            }
            State::Stopping { kill_at, .. } => Some(*kill_at),
            State::Killing { give_up_at, .. } => Some(*give_up_at),
            State::Starting { .. }
            | State::Running { .. }
            | State::Failed { .. }
            | State::Stopped => None,
        }
    }

    /// The state's name, for the log.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Backoff { .. } => "backoff",
            State::Starting { .. } => "starting",
            State::Running { .. } => "running",
            State::Draining { .. } => "draining",
            State::Stopping { .. } | State::Killing { .. } => "stopping",
            State::Failed { .. } => "failed",
            State::Stopped => "stopped",
        }
    }

    /// What the probes are to be told.
    pub fn health(&self) -> Health {
        Health { alive: !matches!(self.state, State::Failed { .. }), ready: self.ready() }
    }

    /// Takes an event in.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        if now.saturating_sub(self.last_event_at) > FROZEN {
            self.silent_since = None;
        }
        self.last_event_at = now;
        match event {
            Event::Tick => self.tick(now),
            Event::Ended(end) => self.ended(end, now),
            Event::Answered { generation, answer } => self.answered(generation, answer, now),
            Event::Terminate => self.leave(now, self.drain.pre_delay, self.stop_time()),
            Event::Interrupt => {
                self.leave(now, Duration::ZERO, self.stop_time().min(INTERRUPT_STOP))
            }
        }
    }

    /// From the first TERM to KILL. A grace period too short for the margin is halved instead.
    fn stop_time(&self) -> Duration {
        let Drain { grace, kill_margin, .. } = self.drain;
        grace.saturating_sub(kill_margin).max(grace / 2)
    }

    fn tick(&mut self, now: Duration) -> Vec<Action> {
        if self.wake_at().is_none_or(|at| now < at) {
            return Vec::new();
        }
        match self.state {
            State::Backoff { .. } => self.start(now),
            State::Starting { .. } => self.replace(Silence::FromTheStart, now),
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
            State::Running { .. } | State::Failed { .. } | State::Stopped => Vec::new(),
        }
    }

    fn start(&mut self, now: Duration) -> Vec<Action> {
        self.generation += 1;
        self.answer = Answer::Silent("the proxy was started and has not answered yet".to_owned());
        self.silent_since = None;
        self.state = State::Starting { since: now };
        vec![Action::Spawn { generation: self.generation }]
    }

    /// Stops a proxy that lives and does not answer, to start another one.
    fn replace(&mut self, silence: Silence, now: Duration) -> Vec<Action> {
        let kill_at = now.saturating_add(SILENT_STOP);
        self.state = State::Stopping { kill_at, then: Then::StartAgain(silence) };
        vec![Action::Stop]
    }

    fn answered(&mut self, generation: u64, answer: Answer, now: Duration) -> Vec<Action> {
        if generation != self.generation {
            return Vec::new();
        }
        let silent = matches!(answer, Answer::Silent(_));
        self.answer = answer;
        match self.state {
            // Any answer is a sign of life; whether it is a good one only matters for `/ready`.
            State::Starting { .. } if !silent => self.state = State::Running { since: now },
            State::Running { .. } if silent => {
                let since = *self.silent_since.get_or_insert(now);
                let hang_after = self.supervise.hang_after;
                if !hang_after.is_zero() && now.saturating_sub(since) >= hang_after {
                    return self.replace(Silence::Hang, now);
                }
            }
            _ => self.silent_since = None,
        }
        Vec::new()
    }

    fn ended(&mut self, end: End, now: Duration) -> Vec<Action> {
        match self.state {
            State::Running { since } => {
                if now.saturating_sub(since) >= self.supervise.stable_after {
                    self.restarts.forget_pause();
                }
                self.unplanned(end, now)
            }
            State::Starting { .. }
            | State::Stopping { then: Then::StartAgain(_), .. }
            | State::Killing { then: Then::StartAgain(_), .. } => self.unplanned(end, now),
            State::Draining { .. }
            | State::Stopping { then: Then::Leave, .. }
            | State::Killing { then: Then::Leave, .. } => self.stopped(end),
            State::Backoff { .. } | State::Failed { .. } | State::Stopped => Vec::new(),
        }
    }

    fn unplanned(&mut self, end: End, now: Duration) -> Vec<Action> {
        match end.verdict() {
            Verdict::Refused => {
                let message = if let End::Code(_) = end {
                    format!(
                        "the proxy {end} and did not say why; see the log of the container \
                         (kubectl logs --previous), then correct the setting that it names"
                    )
                } else {
                    format!(
                        "the proxy {end}; CLOUDSTATE_LAUNCHER_COMMAND must name the proxy's program"
                    )
                };
                let reason = reason::CONFIGURATION_REFUSED.to_owned();
                self.fail(end.final_code(), Some(NotReady { reason, message }))
            }
            Verdict::FreshStart => match self.restarts.fresh_start(now) {
                None => self.start(now),
                Some(pause) => self.back_off(pause, end, now),
            },
            Verdict::Failure => self.failure(end, now),
        }
    }

    fn failure(&mut self, end: End, now: Duration) -> Vec<Action> {
        if let Some(pause) = self.restarts.failure(now) {
            return self.back_off(pause, end, now);
        }
        let Supervise { budget, budget_window, .. } = self.supervise;
        let words = NotReady {
            reason: reason::PROXY_CRASHED.to_owned(),
            message: format!(
                "the proxy {end}; that was more than {budget} times within {budget_window:?}, so it is not \
                 started again in place; see the log of the container (kubectl logs --previous)"
            ),
        };
        self.fail(end.final_code(), Some(words))
    }

    fn back_off(&mut self, pause: Duration, end: End, now: Duration) -> Vec<Action> {
        self.state = State::Backoff { until: now.saturating_add(pause), last: Some(end) };
        Vec::new()
    }

    /// TERM or INT. Only the first counts: a later one neither shortens nor lengthens anything.
    fn leave(&mut self, now: Duration, pre_delay: Duration, stop_time: Duration) -> Vec<Action> {
        let kill_at = now.saturating_add(stop_time);
        match self.state {
            State::Running { .. } if !pre_delay.is_zero() => {
                let until = now.saturating_add(pre_delay).min(kill_at);
                self.state = State::Draining { until, kill_at };
                Vec::new()
            }
            State::Starting { .. } | State::Running { .. } => {
                self.state = State::Stopping { kill_at, then: Then::Leave };
                vec![Action::Stop]
            }
            State::Stopping { kill_at: earlier, then: Then::StartAgain(_) } => {
                let kill_at = earlier.min(kill_at);
                self.state = State::Stopping { kill_at, then: Then::Leave };
                Vec::new()
            }
            State::Killing { give_up_at, then: Then::StartAgain(_) } => {
                self.state = State::Killing { give_up_at, then: Then::Leave };
                Vec::new()
            }
            State::Backoff { .. } => {
                self.state = State::Stopped;
                vec![Action::Exit { code: 0, words: None }]
            }
            State::Draining { .. }
            | State::Stopping { then: Then::Leave, .. }
            | State::Killing { then: Then::Leave, .. }
            | State::Failed { .. }
            | State::Stopped => Vec::new(),
        }
    }

    fn stopped(&mut self, end: End) -> Vec<Action> {
        self.state = State::Stopped;
        let code = if end.is_clean_stop() { 0 } else { end.final_code() };
        vec![Action::Exit { code, words: None }]
    }

    fn fail(&mut self, code: u8, words: Option<NotReady>) -> Vec<Action> {
        self.state = State::Failed { code };
        vec![Action::Exit { code, words }]
    }

    fn ready(&self) -> Result<(), NotReady> {
        let not_ready =
            |reason: &str, message: String| Err(NotReady { reason: reason.to_owned(), message });
        match &self.state {
            State::Running { .. } | State::Starting { .. } => match &self.answer {
                Answer::Ready => Ok(()),
                Answer::NotReady(why) => Err(why.clone()),
                Answer::Silent(why) => not_ready(reason::PROXY_STARTING, why.clone()),
            },
            State::Backoff { last: None, .. } => {
                not_ready(reason::PROXY_STARTING, "the proxy is being started".to_owned())
            }
            State::Backoff { last: Some(end), .. } => not_ready(
                reason::PROXY_STARTING,
                format!("the proxy {end} and will be started again shortly"),
            ),
            State::Stopping { then: Then::StartAgain(silence), .. }
            | State::Killing { then: Then::StartAgain(silence), .. } => {
                let limit = match silence {
                    Silence::FromTheStart => self.supervise.start_timeout,
                    Silence::Hang => self.supervise.hang_after,
                };
                not_ready(
                    reason::PROXY_STARTING,
                    format!("the proxy did not answer within {limit:?} and is being started again"),
                )
            }
            State::Draining { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Stopped => not_ready(reason::DRAINING, "the pod is being stopped".to_owned()),
            State::Failed { code: exit::CONFIG } => not_ready(
                reason::CONFIGURATION_REFUSED,
                "the proxy refused its settings".to_owned(),
            ),
            State::Failed { code } => not_ready(
                reason::PROXY_CRASHED,
                format!("the proxy is not started again; the container leaves with {code}"),
            ),
        }
    }
}
