//! What really became durable, and every promise as a check against it.
//!
//! Each change that a user function makes is a node that knows the state it was made from. So a payload
//! names a whole state, and whether two states follow each other, and whether one contains the other,
//! can be told of any two.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use protocol::Any;

use crate::{
    entity::{Answer, Then, machine::Ticket},
    journal::{Append, Epoch, Put},
};

/// Names a state of one entity.
pub(super) type Node = usize;

struct Change {
    parent: Node,
    depth: u64,
    entity: usize,
    /// Which reply of which command made it; none for an entity's beginning.
    reaction: Option<usize>,
}

struct Reaction {
    ticket: Ticket,
    /// How many changes it made.
    changes: usize,
}

/// See the module.
pub(super) struct Truth {
    changes: Vec<Change>,
    reactions: Vec<Reaction>,
    /// The durable state of each entity.
    heads: Vec<Node>,
    /// The deepest state of each entity that a caller has been shown.
    shown: Vec<u64>,
    /// Epoch of the newest owner.
    epoch: Epoch,
    /// Commands that a user function has seen.
    seen: HashSet<Ticket>,
    /// The reaction of each command that became durable.
    durable: HashMap<Ticket, usize>,
    /// The first promise that was broken.
    pub(super) broken: Option<(&'static str, String)>,
}

impl Truth {
    pub(super) fn new(entities: usize) -> Self {
        let beginning = |entity| Change { parent: entity, depth: 0, entity, reaction: None };
        Self {
            changes: (0..entities).map(beginning).collect(),
            reactions: Vec::new(),
            heads: (0..entities).collect(),
            shown: vec![0; entities],
            epoch: Epoch::default(),
            seen: HashSet::new(),
            durable: HashMap::new(),
            broken: None,
        }
    }

    pub(super) fn check(
        &mut self,
        holds: bool,
        promise: &'static str,
        what: impl FnOnce() -> String,
    ) {
        if !holds && self.broken.is_none() {
            self.broken = Some((promise, what()));
        }
    }

    /// A user function gets a command.
    pub(super) fn sees(&mut self, ticket: Ticket) {
        let new = self.seen.insert(ticket);
        self.check(new, "I3", || format!("command {ticket} was sent to a user function twice"));
    }

    /// A user function answers a command with so many changes of a state.
    pub(super) fn react(&mut self, ticket: Ticket, from: Node, changes: usize) -> Vec<Node> {
        let (entity, reaction) = (self.changes[from].entity, Some(self.reactions.len()));
        self.reactions.push(Reaction { ticket, changes });
        let mut parent = from;
        let mut made = Vec::with_capacity(changes);
        for _ in 0..changes {
            let depth = self.changes[parent].depth + 1;
            self.changes.push(Change { parent, depth, entity, reaction });
            parent = self.changes.len() - 1;
            made.push(parent);
        }
        made
    }

    pub(super) fn depth(&self, node: Node) -> u64 {
        self.changes[node].depth
    }

    pub(super) fn parent(&self, node: Node) -> Node {
        self.changes[node].parent
    }

    pub(super) fn head(&self, entity: usize) -> Node {
        self.heads[entity]
    }

    /// How deep a state a caller has been shown.
    pub(super) fn shown(&self, entity: usize) -> u64 {
        self.shown[entity]
    }

    /// Whether a state is durable.
    fn is_durable(&self, node: Node) -> bool {
        let Change { depth, entity, .. } = self.changes[node];
        let mut at = self.heads[entity];
        while self.changes[at].depth > depth {
            at = self.changes[at].parent;
        }
        at == node
    }

    pub(super) fn claimed(&mut self, epoch: Epoch) {
        let newest = self.epoch;
        self.check(epoch > newest, "I4", || format!("{epoch:?} begins after {newest:?}"));
        self.epoch = epoch;
    }

    /// The store has taken events.
    pub(super) fn appended(&mut self, entity: usize, append: &Append) {
        self.accepted(append.guard.epoch);
        let nodes: Vec<_> = append.events.iter().map(node).collect();
        let last = nodes.last().copied().unwrap_or(self.heads[entity]);
        if let Some(snapshot) = &append.snapshot {
            let (state, at) = (node(snapshot), self.changes[last].depth);
            self.check(state == last, "I5", || {
                format!("a snapshot of {state} stands at event {at}")
            });
        }
        self.grow(entity, nodes);
    }

    /// The store has taken a value, which is this state.
    pub(super) fn put(&mut self, entity: usize, put: &Put, state: Node) {
        self.accepted(put.guard.epoch);
        let (depth, version) = (self.changes[state].depth, put.next.0);
        self.check(depth == version, "I2", || format!("version {version} is of write {depth}"));
        let mut nodes = vec![state];
        while let Some(first) = nodes.last()
            && self.changes[*first].depth > self.changes[self.heads[entity]].depth + 1
        {
            nodes.push(self.changes[*first].parent);
        }
        nodes.reverse();
        self.grow(entity, nodes);
    }

    fn accepted(&mut self, epoch: Epoch) {
        let newest = self.epoch;
        self.check(epoch == newest, "I4", || format!("a write of {epoch:?} came in {newest:?}"));
    }

    fn grow(&mut self, entity: usize, nodes: Vec<Node>) {
        let mut count = HashMap::<usize, usize>::new();
        for node in nodes {
            let Change { parent, reaction, .. } = self.changes[node];
            let head = self.heads[entity];
            self.check(parent == head, "I2", || {
                format!(
                    "entity {entity}: change {node} follows {parent}, and was stored after {head}"
                )
            });
            self.heads[entity] = node;
            if let Some(reaction) = reaction {
                *count.entry(reaction).or_default() += 1;
                let ticket = self.reactions[reaction].ticket;
                let known = *self.durable.entry(ticket).or_insert(reaction);
                self.check(known == reaction, "I3", || format!("command {ticket} happened twice"));
            }
        }
        for (reaction, stored) in count {
            let Reaction { ticket, changes } = self.reactions[reaction];
            self.check(stored == changes, "I2", || {
                format!("command {ticket} made {changes} changes, and {stored} were stored")
            });
        }
    }

    /// A caller is told the answer to a command, which it gave when a state as deep as `floor` had
    /// been shown already.
    pub(super) fn answered(&mut self, entity: usize, ticket: Ticket, floor: u64, answer: &Answer) {
        self.effects(ticket, answer);
        let Then::Reply(reply) = &answer.then else { return };
        let state = number(&reply.payload);
        let (durable, depth) = (self.is_durable(state), self.changes[state].depth);
        self.check(durable, "I1", || {
            format!("command {ticket} shows {state}, which is not durable")
        });
        self.check(depth >= floor, "I3", || {
            format!("command {ticket} shows change {depth}, and {floor} was shown before it came")
        });
        self.shown[entity] = self.shown[entity].max(depth);
    }

    /// Effects of an answer begin.
    pub(super) fn effects(&mut self, ticket: Ticket, answer: &Answer) {
        for effect in &answer.effects {
            let state = effect.payload.as_ref().map(node).unwrap_or_default();
            let durable = self.is_durable(state);
            self.check(durable, "I7", || {
                format!("an effect of {ticket} follows from lost {state}")
            });
        }
    }
}

/// A payload that names a state.
pub(super) fn payload(node: Node) -> Any {
    Any { type_url: String::new(), value: bytes(node) }
}

pub(super) fn bytes(node: Node) -> Bytes {
    Bytes::copy_from_slice(&node.to_be_bytes())
}

/// The state that a payload names.
pub(super) fn node(payload: &Any) -> Node {
    number(&payload.value)
}

pub(super) fn number(bytes: &Bytes) -> Node {
    bytes.as_ref().try_into().map(Node::from_be_bytes).unwrap_or_default()
}
