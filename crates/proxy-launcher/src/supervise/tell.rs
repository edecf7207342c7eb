//! What is told, and to whom: to the board and the probes what there is to know, to the proxy what is wanted of it.

use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{info, warn};

use super::{DUMP_INTERVAL, Supervisor};
use crate::{
    board::{Facts, PastEnd},
    config::ProxyKind,
    health::{Answer, Drain},
    machine::Event,
    probe,
    process::Leader,
};

impl Supervisor<'_> {
    /// Notes what an event says, before the machine sees it.
    pub(super) fn write_up(&self, event: &Event, now: Duration) {
        let class = |end| self.machine.class_of(end);
        self.board.note(|facts| match event {
            Event::Answered { generation, answer } if *generation == facts.generation => {
                facts.proxy_answers = !matches!(answer, Answer::Silent(_));
                facts.proxy_ready = *answer == Answer::Ready;
                facts.probe_failures += u64::from(!facts.proxy_answers);
            }
            Event::UserFunction { up } => {
                facts.user_function_wait.get_or_insert(now);
                facts.user_function_changes += u64::from(facts.user_function.is_some());
                facts.user_function = Some(*up);
            }
            Event::InFlight(calls) => facts.in_flight = Some(*calls),
            Event::Ended(end) => {
                (facts.pid, facts.in_flight) = (None, None);
                (facts.proxy_answers, facts.proxy_ready) = (false, false);
                let lived = facts.spawned_at.take().map(|at| now.saturating_sub(at));
                let (class, text) = (class(*end), end.to_string());
                facts.ended(PastEnd { at: now, lived, class, text });
            }
            _ => {}
        });
    }

    pub(super) fn tell_hang(&self) {
        let (after, action) =
            (self.loaded.config.supervise.hang_after, self.loaded.config.supervise.hang_action);
        warn!(?after, ?action, "the proxy hangs");
        self.board.note(|facts| facts.hangs += 1);
    }

    /// Has the proxy write down what it is doing, unless it was asked to just now.
    pub(super) fn write_down(&mut self) {
        let (now, before) = (self.board.now(), self.board.look().dumped_at);
        if before.is_some_and(|at| now.saturating_sub(at) < DUMP_INTERVAL) {
            return;
        }
        self.board.note(|facts| facts.dumped_at = Some(now));
        self.dump();
    }

    /// A JVM writes down by itself what it is doing, our own proxy has a page for it.
    pub(super) fn dump(&mut self) {
        if matches!(self.loaded.config.kind, ProxyKind::Jvm(_)) {
            return self.signal(Leader::dump, "QUIT");
        }
        let port = self.loaded.config.ports.management.get();
        while self.talks.try_join_next().is_some() {}
        self.talks.spawn(async move {
            if let Some(status) = probe::page(port, "/status").await {
                info!(status, "what the proxy is doing");
            } else {
                warn!("the proxy does not say what it is doing");
            }
        });
    }

    pub(super) fn tell_probes(&self) {
        let (new, now) = (self.machine.health(), self.started.elapsed());
        self.board.note(|facts| {
            facts.state = self.machine.state_name();
            facts.budget_left = self.machine.budget_left(now);
            facts.pause_until = self.machine.pause_until();
            if new.ready().is_ok() {
                facts.time_to_ready.get_or_insert(now);
            }
            match new.drain {
                Drain::No => (facts.drain_begun, facts.drain_took) = (None, None),
                Drain::UnderWay => _ = facts.drain_begun.get_or_insert(now),
                Drain::Done | Drain::TimeUp => {
                    let begun = *facts.drain_begun.get_or_insert(now);
                    facts.drain_took.get_or_insert_with(|| now.saturating_sub(begun));
                }
            }
        });
        self.health.send_if_modified(|old| {
            if *old == new {
                return false;
            }
            if old.ready() != new.ready() {
                match new.ready() {
                    Ok(()) => info!("ready"),
                    Err(why) => info!(reason = why.reason, why = why.message, "not ready"),
                }
            }
            if old.drain != new.drain {
                let Facts { in_flight: calls, drain_took: took, .. } = self.board.look();
                info!(drain = new.drain.as_str(), calls, ?took, "drain");
            }
            *old = new;
            true
        });
    }

    pub(super) fn tell_proxy(&self) {
        if let Some(holds) = self.machine.holds(self.started.elapsed()) {
            self.hold.send_if_modified(|held| std::mem::replace(held, holds) != holds);
        }
    }

    /// Has the proxy's calls counted while somebody wants to know.
    pub(super) fn count_calls(&mut self) {
        let config = &self.loaded.config;
        let is_wanted = self.health.borrow().drain != Drain::No && self.leader.is_some();
        if !is_wanted || !config.drain.is_told {
            self.counter = None;
        } else if self.counter.is_none() {
            let (port, counts) = (config.ports.metrics.get(), self.counts.clone());
            self.counter.insert(JoinSet::new()).spawn(probe::count_calls(port, counts));
        }
    }
}
