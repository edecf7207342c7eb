//! What is counted of the entities of one service. Names, label and buckets of event sourced entities are
//! those that dashboards of the original proxy use; value entities have the same under a prefix of their own.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{EntityName, Histograms, Summary, add, times};
use crate::route::Kind;

/// Name of the summary, behind the prefix.
pub(super) const ACTIVE_TIME: &str = "entity_active_time_seconds";

/// What the names of a kind's metrics begin with.
pub(super) const fn prefix(kind: Kind) -> &'static str {
    match kind {
        Kind::EventSourced => "cloudstate_eventsourced_",
        Kind::Value => "cloudstate_valueentity_",
        Kind::Action => "cloudstate_action_",
    }
}

/// One pair of counters: how many, and how many bytes of them.
#[derive(Clone, Debug, Default)]
pub struct Amount {
    count: Counter,
    bytes: Counter,
}

impl Amount {
    /// Adds some of this size.
    pub fn add(&self, count: usize, bytes: usize) {
        self.count.inc_by(count as u64);
        self.bytes.inc_by(bytes as u64);
    }

    /// Both so far.
    pub fn get(&self) -> (u64, u64) {
        (self.count.get(), self.bytes.get())
    }
}

/// The handle of one service.
#[derive(Debug)]
#[expect(missing_docs, reason = "named after their metrics, which docs/metrics.md explains")]
pub struct EntityMetrics {
    pub activated: Counter,
    pub passivated: Counter,
    pub failed: Counter,
    pub active: Gauge,
    active_time: Arc<Summary>,
    pub recovery_time: Histogram,
    pub received: Counter,
    pub stashed: Counter,
    pub unstashed: Counter,
    pub waiting: Gauge,
    pub stash_time: Histogram,
    pub processing_time: Histogram,
    pub failed_commands: Counter,
    pub completed: Counter,
    pub total_time: Histogram,
    pub persist_time: Histogram,
    /// Events or, for a value, updates.
    pub persisted: Amount,
    /// Events.
    pub loaded: Amount,
    /// What activations begin with: snapshots or values.
    pub loaded_states: Amount,
    pub persisted_snapshots: Amount,
    pub deleted: Counter,
}

impl EntityMetrics {
    pub(super) fn active_time(&self) -> Arc<Summary> {
        Arc::clone(&self.active_time)
    }

    /// An activation has ended that lasted for this long.
    pub fn was_active(&self, time: Duration) {
        self.active_time.observe(time);
    }
}

#[derive(Debug)]
struct Amounts {
    count: Family<EntityName, Counter>,
    bytes: Family<EntityName, Counter>,
}

impl Amounts {
    fn of(&self, name: &EntityName) -> Amount {
        let (count, bytes) =
            (self.count.get_or_create_owned(name), self.bytes.get_or_create_owned(name));
        Amount { count, bytes }
    }
}

/// The metrics of one kind of entity.
#[derive(Debug)]
pub(super) struct Families {
    kind: Kind,
    activated: Family<EntityName, Counter>,
    passivated: Family<EntityName, Counter>,
    failed: Family<EntityName, Counter>,
    active: Family<EntityName, Gauge>,
    recovery_time: Histograms<EntityName>,
    received: Family<EntityName, Counter>,
    stashed: Family<EntityName, Counter>,
    unstashed: Family<EntityName, Counter>,
    waiting: Family<EntityName, Gauge>,
    stash_time: Histograms<EntityName>,
    processing_time: Histograms<EntityName>,
    failed_commands: Family<EntityName, Counter>,
    completed: Family<EntityName, Counter>,
    total_time: Histograms<EntityName>,
    persist_time: Histograms<EntityName>,
    persisted: Amounts,
    loaded: Amounts,
    persisted_snapshots: Option<Amounts>,
    loaded_snapshots: Option<Amounts>,
    deleted: Option<Family<EntityName, Counter>>,
}

impl Families {
    pub(super) fn register(registry: &mut Registry, kind: Kind) -> Self {
        let mut named = Named { registry, prefix: prefix(kind) };
        let value = kind == Kind::Value;
        let persisted = if value {
            ["updated_values", "updated_value"]
        } else {
            ["persisted_events", "persisted_event"]
        };
        let loaded = if value {
            ["loaded_values", "loaded_value"]
        } else {
            ["loaded_events", "loaded_event"]
        };
        Self {
            kind,
            activated: named.counter("activated_entities", "Activations of entities"),
            passivated: named
                .counter("passivated_entities", "Activations that have ended, for whatever reason"),
            failed: named.counter("failed_entities", "Activations that ended unexpectedly"),
            active: named.gauge("active_entities", "Entities with an activation"),
            recovery_time: named.times(
                "recovery_time_seconds",
                "From the beginning of an activation to its first command",
            ),
            received: named.counter("received_commands", "Commands that came in"),
            stashed: named
                .counter("stashed_commands", "Commands that had to wait for their entity"),
            unstashed: named.counter("unstashed_commands", "Commands that had waited and went on"),
            waiting: named.gauge("waiting_commands", "Commands that wait for their entity"),
            stash_time: named
                .times("command_stash_time_seconds", "How long commands waited for their entity"),
            processing_time: named.times(
                "command_processing_time_seconds",
                "From sending a command to the user function to its reply",
            ),
            failed_commands: named.counter("failed_commands", "Commands that ended in a failure"),
            completed: named.counter("completed_commands", "Commands that are done, and durable"),
            total_time: named
                .times("command_total_time_seconds", "From a command's arrival to its end"),
            persist_time: named
                .times("persist_time_seconds", "How long the store took for one reply"),
            persisted: named.amounts(persisted, "Stored"),
            loaded: named.amounts(loaded, "Read at activations"),
            persisted_snapshots: (!value).then(|| {
                named.amounts(["persisted_snapshots", "persisted_snapshot"], "Handed to the store")
            }),
            loaded_snapshots: (!value).then(|| {
                named.amounts(["loaded_snapshots", "loaded_snapshot"], "Read at activations")
            }),
            deleted: value.then(|| named.counter("deleted_values", "Values that were deleted")),
        }
    }

    pub(super) fn of(&self, persistence_id: &str) -> EntityMetrics {
        debug_assert!(self.kind != Kind::Action, "an action has no entities");
        let name = EntityName { entity_name: persistence_id.to_owned() };
        let optional = |amounts: &Option<Amounts>| amounts.as_ref().map(|a| a.of(&name));
        let loaded = self.loaded.of(&name);
        let (loaded, loaded_states) = match optional(&self.loaded_snapshots) {
            Some(snapshots) => (loaded, snapshots),
            None => (Amount::default(), loaded),
        };
        EntityMetrics {
            activated: self.activated.get_or_create_owned(&name),
            passivated: self.passivated.get_or_create_owned(&name),
            failed: self.failed.get_or_create_owned(&name),
            active: self.active.get_or_create_owned(&name),
            active_time: Arc::default(),
            recovery_time: self.recovery_time.get_or_create_owned(&name),
            received: self.received.get_or_create_owned(&name),
            stashed: self.stashed.get_or_create_owned(&name),
            unstashed: self.unstashed.get_or_create_owned(&name),
            waiting: self.waiting.get_or_create_owned(&name),
            stash_time: self.stash_time.get_or_create_owned(&name),
            processing_time: self.processing_time.get_or_create_owned(&name),
            failed_commands: self.failed_commands.get_or_create_owned(&name),
            completed: self.completed.get_or_create_owned(&name),
            total_time: self.total_time.get_or_create_owned(&name),
            persist_time: self.persist_time.get_or_create_owned(&name),
            persisted: self.persisted.of(&name),
            persisted_snapshots: optional(&self.persisted_snapshots).unwrap_or_default(),
            loaded,
            loaded_states,
            deleted: self
                .deleted
                .as_ref()
                .map(|d| d.get_or_create_owned(&name))
                .unwrap_or_default(),
        }
    }
}

/// Registers under a prefix.
struct Named<'a> {
    registry: &'a mut Registry,
    prefix: &'static str,
}

impl Named<'_> {
    fn counter(&mut self, name: &str, help: &str) -> Family<EntityName, Counter> {
        add(self.registry, &format!("{}{name}", self.prefix), help, Family::default())
    }

    fn gauge(&mut self, name: &str, help: &str) -> Family<EntityName, Gauge> {
        add(self.registry, &format!("{}{name}", self.prefix), help, Family::default())
    }

    fn times(&mut self, name: &str, help: &str) -> Histograms<EntityName> {
        add(self.registry, &format!("{}{name}", self.prefix), help, times())
    }

    fn amounts(&mut self, [many, one]: [&str; 2], help: &str) -> Amounts {
        Amounts {
            count: self.counter(many, help),
            bytes: self.counter(
                &format!("{one}_bytes"),
                &format!("{help}, in bytes with the names of types"),
            ),
        }
    }
}
