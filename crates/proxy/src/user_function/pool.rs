//! Which connection carries the next stream.

use super::connection::{Connection, Place};

/// Names a connection for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number(u64);

/// Connections that are open.
#[derive(Debug)]
pub(super) struct Pool {
    /// The first `base` are always used; the others only when those are full, so that they fall idle.
    open: Vec<(Number, Connection)>,
    next: Number,
    /// Connections from here on lead to whoever answers since the last loss; older ones may belong to a process
    /// that is gone, even where that was not noticed yet.
    fresh: Number,
    base: usize,
    max: usize,
}

impl Pool {
    pub(super) fn new(base: usize, max: usize) -> Self {
        Self { open: Vec::new(), next: Number(0), fresh: Number(0), base, max }
    }

    pub(super) fn add(&mut self, connection: Connection) -> Number {
        let number = self.next;
        self.next = Number(number.0 + 1);
        self.open.push((number, connection));
        number
    }

    /// Forgets a connection that has ended. Says whether that is news: whoever answers now may be another
    /// process, and is only reached by connections to come.
    pub(super) fn lose(&mut self, number: Number) -> bool {
        let known = self.open.len();
        self.open.retain(|(found, _)| *found != number);
        let news = self.open.len() < known && number >= self.fresh;
        if news {
            self.fresh = self.next;
        }
        news
    }

    /// Takes out all connections; what comes next may be another process.
    pub(super) fn lose_all(&mut self) -> Vec<Connection> {
        self.fresh = self.next;
        self.open.drain(..).map(|(_, connection)| connection).collect()
    }

    /// The connection to use, with a place on it; none when all are full.
    pub(super) fn take(&self) -> Option<(Connection, Place)> {
        let (base, surplus) = self.open.split_at(self.open.len().min(self.base));
        let fewest =
            base.iter().filter(|entry| usable(entry)).min_by_key(|(_, c)| c.streams.open());
        let (_, connection) = fewest.or_else(|| surplus.iter().find(|entry| usable(entry)))?;
        Some((connection.clone(), Place::on(&connection.streams)))
    }

    /// The same among connections to whoever answers now.
    pub(super) fn take_fresh(&self) -> Option<(Connection, Place)> {
        let fresh = |entry: &(Number, Connection)| entry.0 >= self.fresh && usable(entry);
        let (_, connection) = self.open.iter().find(|entry| fresh(entry))?;
        Some((connection.clone(), Place::on(&connection.streams)))
    }

    /// Whether another connection should be opened; `needed` says that a call found no place.
    pub(super) fn wants(&self, needed: bool) -> bool {
        let alive =
            self.open.iter().filter(|(_, connection)| !connection.sender.is_closed()).count();
        let fresh = self.open.iter().any(|(number, _)| *number >= self.fresh);
        alive < self.base || !fresh || (needed && alive < self.max && self.take().is_none())
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn streams(&self) -> usize {
        self.open.iter().map(|(_, connection)| connection.streams.open()).sum()
    }

    /// Lets connections go that only a burst needed.
    pub(super) fn shrink(&mut self) {
        let mut at = 0;
        self.open.retain(|(_, connection)| {
            at += 1;
            at <= self.base || connection.streams.open() > 0
        });
    }
}

fn usable((_, connection): &(Number, Connection)) -> bool {
    !connection.sender.is_closed() && connection.streams.has_room()
}
