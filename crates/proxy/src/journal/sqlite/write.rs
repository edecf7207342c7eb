//! Writes: one transaction for a batch. The write lock is held from its first look on, so what is compared
//! holds until the commit.

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::lease::Leases;
use crate::journal::{Append, EntityId, Guard, Put, Written};

pub(super) fn append(
    connection: &mut Connection,
    leases: &Leases,
    batch: &[Append],
) -> Vec<Written> {
    write(connection, leases, batch, |append| append.guard, append_one)
}

pub(super) fn put(connection: &mut Connection, leases: &Leases, batch: &[Put]) -> Vec<Written> {
    write(connection, leases, batch, |put| put.guard, put_one)
}

fn write<T>(
    connection: &mut Connection,
    leases: &Leases,
    batch: &[T],
    guard: impl Fn(&T) -> Guard,
    write_one: impl Fn(&Transaction<'_>, &T) -> rusqlite::Result<Written>,
) -> Vec<Written> {
    let refused = |error: rusqlite::Error| vec![Written::Refused(error.to_string()); batch.len()];
    let transaction = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
        Ok(transaction) => transaction,
        Err(error) => return refused(error),
    };
    let outcomes = batch.iter().map(|write| {
        if leases.holds(&transaction, guard(write))? {
            write_one(&transaction, write)
        } else {
            Ok(Written::Fenced)
        }
    });
    match outcomes.collect() {
        // A transaction that is dropped is rolled back.
        Err(error) => refused(error),
        Ok(outcomes) => match transaction.commit() {
            Ok(()) => outcomes,
            // What is in the log may count after all, once the file is opened again.
            Err(error) => vec![Written::Unknown(error.to_string()); batch.len()],
        },
    }
}

fn append_one(at: &Transaction<'_>, append: &Append) -> rusqlite::Result<Written> {
    let Append { entity, expected, events, snapshot, .. } = append;
    let (persistence_id, key) = (&entity.persistence_id, &entity.key);
    let last: Option<u64> = at
        .prepare_cached("SELECT max(sequence) FROM events WHERE persistence_id = ? AND key = ?")?
        .query_row(params![persistence_id, key], |row| row.get(0))?;
    let last = match last {
        Some(last) if last >= expected.0 => last,
        // Where somebody deleted what a snapshot contains, the history goes on behind the snapshot.
        _ => snapshot_of(at, append)?.unwrap_or_default(),
    };
    if last != expected.0 {
        return Ok(Written::Conflict);
    }
    let mut insert = at.prepare_cached(
        "INSERT INTO events (persistence_id, key, sequence, type_url, payload) VALUES (?, ?, ?, ?, ?)",
    )?;
    for (step, event) in (1..).zip(events) {
        let sequence = expected.after(step).0;
        insert.execute(params![persistence_id, key, sequence, event.type_url, &event.value[..]])?;
    }
    if let Some(snapshot) = snapshot {
        let sequence = expected.after(events.len()).0;
        at.prepare_cached(
            "INSERT OR REPLACE INTO snapshots (persistence_id, key, sequence, type_url, payload) VALUES (?, ?, ?, ?, ?)",
        )?
        .execute(params![persistence_id, key, sequence, snapshot.type_url, &snapshot.value[..]])?;
    }
    Ok(Written::Committed)
}

/// The last event that the entity's snapshot contains.
fn snapshot_of(at: &Transaction<'_>, append: &Append) -> rusqlite::Result<Option<u64>> {
    let EntityId { persistence_id, key } = &append.entity;
    at.prepare_cached("SELECT sequence FROM snapshots WHERE persistence_id = ? AND key = ?")?
        .query_row(params![persistence_id, key], |row| row.get(0))
        .optional()
}

fn put_one(at: &Transaction<'_>, put: &Put) -> rusqlite::Result<Written> {
    let Put { entity, expected, next, value, .. } = put;
    let (persistence_id, key) = (&entity.persistence_id, &entity.key);
    let version: Option<u64> = at
        .prepare_cached("SELECT version FROM entity_values WHERE persistence_id = ? AND key = ?")?
        .query_row(params![persistence_id, key], |row| row.get(0))
        .optional()?;
    if version.unwrap_or_default() != expected.0 {
        return Ok(Written::Conflict);
    }
    let (type_url, payload) = value.as_ref().map(|any| (&any.type_url, &any.value[..])).unzip();
    at.prepare_cached(
        "INSERT OR REPLACE INTO entity_values (persistence_id, key, version, type_url, payload) VALUES (?, ?, ?, ?, ?)",
    )?
    .execute(params![persistence_id, key, next.0, type_url, payload])?;
    Ok(Written::Committed)
}
