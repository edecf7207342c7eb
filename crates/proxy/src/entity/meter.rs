//! Counts and times what one entity does, by watching its state machine: what happens, and what the
//! machine says to it. The machine knows nothing of this.

use std::{collections::VecDeque, sync::Arc};

use tokio::time::Instant;

use super::{
    Then,
    machine::{Action, Event, Ticket},
    message::{Incoming, Outgoing, Write},
};
use crate::{journal::Written, metrics::EntityMetrics};

/// What is known of one entity.
#[derive(Debug)]
pub(super) struct Meter {
    metrics: Arc<EntityMetrics>,
    activation: Option<Activation>,
    /// Commands that the user function has not got yet, in order.
    waiting: VecDeque<Waiting>,
    outstanding: Option<Outstanding>,
    /// Commands with a reply that is not durable yet.
    replied: VecDeque<(Ticket, Instant)>,
    /// Writes under way, in order.
    writes: VecDeque<(Instant, Amount)>,
    stopping: bool,
}

#[derive(Debug)]
struct Activation {
    since: Instant,
    recovered: bool,
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    arrived: Instant,
    /// Since when the entity, and not its activation, is what it waits for.
    stashed: Option<Instant>,
}

#[derive(Debug)]
struct Outstanding {
    id: i64,
    ticket: Ticket,
    arrived: Instant,
    sent: Instant,
}

/// How much a write stores.
#[derive(Clone, Copy, Debug)]
enum Amount {
    Some { count: usize, bytes: usize },
    Deleted,
}

/// Whether an activation that ends now was meant to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Expected,
    Unexpected,
}

impl Meter {
    pub(super) fn new(metrics: Arc<EntityMetrics>) -> Self {
        Self {
            metrics,
            activation: None,
            waiting: VecDeque::new(),
            outstanding: None,
            replied: VecDeque::new(),
            writes: VecDeque::new(),
            stopping: false,
        }
    }

    /// Watches something happen, before the machine hears of it.
    pub(super) fn happens(&mut self, event: &Event, now: Instant) -> Cause {
        let metrics = &self.metrics;
        match event {
            Event::Arrived(request) => {
                metrics.received.inc();
                let ticket = request.ticket;
                self.waiting.push_back(Waiting { ticket, arrived: now, stashed: None });
            }
            Event::CallerLeft(ticket) => self.forget(*ticket),
            Event::State(_, Some(state)) => metrics.loaded_states.add(1, size(state)),
            Event::Replay(_, event) => metrics.loaded.add(1, size(event)),
            Event::Opened => {
                if let Some(activation) = &mut self.activation {
                    activation.recovered = true;
                    metrics.recovery_time.observe((now - activation.since).as_secs_f64());
                }
            }
            Event::Message(Incoming::Reply(reply)) => {
                let Some(sent) = self.outstanding.take_if(|sent| sent.id == reply.command_id)
                else {
                    return Cause::Unexpected;
                };
                metrics.processing_time.observe((now - sent.sent).as_secs_f64());
                self.replied.push_back((sent.ticket, sent.arrived));
            }
            Event::Written(outcome) => {
                if let Some((since, amount)) = self.writes.pop_front() {
                    metrics.persist_time.observe((now - since).as_secs_f64());
                    match (outcome, amount) {
                        (Written::Committed, Amount::Some { count, bytes }) => {
                            metrics.persisted.add(count, bytes);
                        }
                        (Written::Committed, Amount::Deleted) => drop(metrics.deleted.inc()),
                        _ => return Cause::Unexpected,
                    }
                }
            }
            Event::TimedOut => {
                let idle = self.activation.as_ref().is_some_and(|active| active.recovered);
                if !idle || self.outstanding.is_some() {
                    return Cause::Unexpected;
                }
            }
            Event::Message(_) | Event::StreamEnded(..) | Event::LoadFailed(_) => {
                return if self.stopping { Cause::Expected } else { Cause::Unexpected };
            }
            Event::Stop => self.stopping = true,
            Event::LoadBegins | Event::State(_, None) | Event::LoadEnded | Event::Passivate => {}
        }
        Cause::Expected
    }

    /// Watches what the machine said to it.
    pub(super) fn follows(&mut self, cause: Cause, actions: &[Action], now: Instant) {
        for action in actions {
            match action {
                Action::Load => self.begins(now),
                Action::Send(Outgoing::Command { id, .. }) => self.sent(*id, now),
                Action::Write { write, .. } => self.writes(write, now),
                Action::Release(ticket, answer) => {
                    self.released(*ticket, matches!(answer.then, Then::Fail(_)), now);
                }
                Action::HalfClose | Action::Abort | Action::End => self.ends(cause, now),
                _ => {}
            }
        }
        // Whatever is still here waits for the commands before it.
        if self.activation.as_ref().is_some_and(|activation| activation.recovered) {
            for waiting in self.waiting.iter_mut().rev().take_while(|w| w.stashed.is_none()) {
                waiting.stashed = Some(now);
                self.metrics.stashed.inc();
                self.metrics.waiting.inc();
            }
        }
    }

    fn begins(&mut self, now: Instant) {
        self.activation = Some(Activation { since: now, recovered: false });
        self.metrics.activated.inc();
        self.metrics.active.inc();
    }

    fn ends(&mut self, cause: Cause, now: Instant) {
        let Some(activation) = self.activation.take() else { return };
        self.metrics.passivated.inc();
        self.metrics.active.dec();
        self.metrics.was_active(now - activation.since);
        if cause == Cause::Unexpected {
            self.metrics.failed.inc();
        }
    }

    fn sent(&mut self, id: i64, now: Instant) {
        let Some(Waiting { ticket, arrived, stashed }) = self.waiting.pop_front() else { return };
        if let Some(since) = stashed {
            self.metrics.unstashed.inc();
            self.metrics.waiting.dec();
            self.metrics.stash_time.observe((now - since).as_secs_f64());
        }
        self.outstanding = Some(Outstanding { id, ticket, arrived, sent: now });
    }

    fn writes(&mut self, write: &Write, now: Instant) {
        let amount = match write {
            Write::Events(events, snapshot) => {
                if let Some(snapshot) = snapshot {
                    self.metrics.persisted_snapshots.add(1, size(snapshot));
                }
                Amount::Some { count: events.len(), bytes: events.iter().map(size).sum() }
            }
            Write::Value(Some(value)) => Amount::Some { count: 1, bytes: size(value) },
            Write::Value(None) => Amount::Deleted,
        };
        self.writes.push_back((now, amount));
    }

    fn released(&mut self, ticket: Ticket, failed: bool, now: Instant) {
        if failed {
            self.metrics.failed_commands.inc();
        }
        if let Some(at) = self.replied.iter().position(|(replied, _)| *replied == ticket) {
            if let Some((_, arrived)) = self.replied.remove(at) {
                self.metrics.completed.inc();
                self.metrics.total_time.observe((now - arrived).as_secs_f64());
            }
        } else if self.outstanding.take_if(|sent| sent.ticket == ticket).is_none() {
            self.forget(ticket);
        }
    }

    /// A command ends that the user function has not got.
    fn forget(&mut self, ticket: Ticket) {
        let Some(at) = self.waiting.iter().position(|waiting| waiting.ticket == ticket) else {
            return;
        };
        if self.waiting.remove(at).is_some_and(|waiting| waiting.stashed.is_some()) {
            self.metrics.waiting.dec();
        }
    }
}

impl Drop for Meter {
    /// An entity may be dropped in the middle of what it does.
    fn drop(&mut self) {
        self.ends(Cause::Expected, Instant::now());
        let stashed = self.waiting.iter().filter(|waiting| waiting.stashed.is_some()).count();
        self.metrics.waiting.dec_by(i64::try_from(stashed).unwrap_or_default());
    }
}

/// The encoded size of a payload with the name of its type.
fn size(payload: &protocol::Any) -> usize {
    prost::Message::encoded_len(payload)
}

#[cfg(test)]
mod tests;
