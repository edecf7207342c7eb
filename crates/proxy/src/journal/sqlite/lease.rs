//! Who owns which shard. A lease's row is also what writes compare their epoch with.

use rusqlite::{
    Connection, OptionalExtension as _, Row, ToSql, Transaction, TransactionBehavior, params,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef},
};
use uuid::Uuid;

use crate::journal::{Epoch, Guard, Lease, Owner, Renewed, Shard};

/// The leases of one service.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    service: String,
}

impl Leases {
    pub(super) fn new(service: &str) -> Self {
        Self { service: service.to_owned() }
    }

    /// Whether writes under this guard may be made.
    pub(super) fn holds(&self, at: &Transaction<'_>, guard: Guard) -> rusqlite::Result<bool> {
        let lease = self.lease(at, guard.shard)?;
        Ok(lease.epoch == guard.epoch && lease.owner.is_some())
    }

    pub(super) fn lease(&self, at: &Connection, shard: Shard) -> rusqlite::Result<Lease> {
        let sql = "SELECT epoch, owner, beat, asked_by FROM leases WHERE service = ? AND shard = ?";
        let lease =
            at.prepare_cached(sql)?.query_row(params![self.service, shard.0], lease).optional()?;
        Ok(lease.unwrap_or_default())
    }

    pub(super) fn ask(
        &self,
        at: &mut Connection,
        shard: Shard,
        asker: Owner,
    ) -> rusqlite::Result<Lease> {
        self.change(at, shard, |lease| {
            lease.asked_by = Some(asker);
            lease.clone()
        })
    }

    pub(super) fn claim(
        &self,
        at: &mut Connection,
        shard: Shard,
        owner: Owner,
        seen: &Lease,
    ) -> rusqlite::Result<Option<Epoch>> {
        self.change(at, shard, |lease| {
            if (lease.epoch, lease.owner, lease.beat) != (seen.epoch, seen.owner, seen.beat) {
                return None;
            }
            lease.epoch.0 += 1;
            lease.owner = Some(owner);
            lease.asked_by =
                lease.asked_by.filter(|asker| *asker != owner && Some(*asker) != seen.asked_by);
            Some(lease.epoch)
        })
    }

    pub(super) fn renew(&self, at: &mut Connection, guard: Guard) -> rusqlite::Result<Renewed> {
        self.change(at, guard.shard, |lease| {
            if lease.epoch != guard.epoch || lease.owner.is_none() {
                return Renewed::Fenced;
            }
            lease.beat += 1;
            Renewed::Kept { asked_by: lease.asked_by }
        })
    }

    pub(super) fn release(&self, at: &mut Connection, guard: Guard) -> rusqlite::Result<()> {
        self.change(at, guard.shard, |lease| {
            if lease.epoch == guard.epoch {
                lease.owner = None;
            }
        })
    }

    /// Reads, changes and writes a lease, with nobody in between.
    fn change<T>(
        &self,
        at: &mut Connection,
        shard: Shard,
        change: impl FnOnce(&mut Lease) -> T,
    ) -> rusqlite::Result<T> {
        let transaction = at.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut lease = self.lease(&transaction, shard)?;
        let before = lease.clone();
        let answer = change(&mut lease);
        if lease != before {
            let Lease { epoch, owner, beat, asked_by } = lease;
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO leases (service, shard, epoch, owner, beat, asked_by) VALUES (?, ?, ?, ?, ?, ?)",
                )?
                .execute(params![self.service, shard.0, epoch.0, owner, beat, asked_by])?;
        }
        transaction.commit()?;
        Ok(answer)
    }
}

fn lease(row: &Row<'_>) -> rusqlite::Result<Lease> {
    Ok(Lease {
        epoch: Epoch(row.get(0)?),
        owner: row.get(1)?,
        beat: row.get(2)?,
        asked_by: row.get(3)?,
    })
}

impl ToSql for Owner {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.to_string().into())
    }
}

impl FromSql for Owner {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let parsed = Uuid::parse_str(value.as_str()?).map(Self);
        parsed.map_err(|error| FromSqlError::Other(error.into()))
    }
}
