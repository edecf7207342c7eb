//! Who owns which shard: leases in one table, the epochs that writes lock in another, so that a renewal
//! waits for no write.

use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    failure::Failure,
    pool::Pool,
    schema::Prefix,
    write::{WRITERS, number},
};
use crate::journal::{Epoch, Error, Guard, Lease, Owner, Renewed, Shard};

/// Where proxies tell each other that a lease changed; what is sent there is the service's name.
pub(super) const CHANNEL: &str = "cloudstate_leases";

const CREATE: &str = "
WITH lease AS (
    INSERT INTO {leases} (service, shard, epoch, beat) VALUES ($1, $2, 0, 0) ON CONFLICT DO NOTHING
)
INSERT INTO {epochs} (service, shard, writer)
SELECT $1, $2, writer FROM generate_series(0, $3::bigint - 1) AS writer ON CONFLICT DO NOTHING";

const LEASE: &str =
    "SELECT epoch, owner, beat, asked_by FROM {leases} WHERE service = $1 AND shard = $2";

const ASK: &str = "
WITH asked AS (
    UPDATE {leases} SET asked_by = $3 WHERE service = $1 AND shard = $2
    RETURNING epoch, owner, beat, asked_by
)
SELECT epoch, owner, beat, asked_by, pg_notify($4, $1) FROM asked";

/// The rows of the epochs can be changed only when no write of an older epoch is under way any more.
const CLAIM: &str = "
WITH claimed AS (
    UPDATE {leases} SET epoch = epoch + 1, owner = $3,
        asked_by = CASE WHEN asked_by IN ($3, $8) THEN NULL ELSE asked_by END
    WHERE service = $1 AND shard = $2 AND epoch = $4 AND owner IS NOT DISTINCT FROM $5 AND beat = $6
    RETURNING epoch
), fenced AS (
    UPDATE {epochs} SET epoch = claimed.epoch FROM claimed WHERE service = $1 AND shard = $2
)
SELECT epoch, pg_notify($7, $1) FROM claimed";

const RENEW: &str = "
UPDATE {leases} SET beat = beat + 1
WHERE service = $1 AND shard = $2 AND epoch = $3 AND owner IS NOT NULL RETURNING asked_by";

const RELEASE: &str = "
WITH released AS (
    UPDATE {leases} SET owner = NULL WHERE service = $1 AND shard = $2 AND epoch = $3 RETURNING epoch
), fenced AS (
    UPDATE {epochs} SET epoch = NULL FROM released WHERE service = $1 AND shard = $2
)
SELECT pg_notify($4, $1) FROM released";

#[derive(Debug)]
pub(super) struct Leases {
    pool: Pool,
    service: String,
    create: String,
    lease: String,
    ask: String,
    claim: String,
    renew: String,
    release: String,
}

impl Leases {
    pub(super) fn new(pool: Pool, service: &str, prefix: &Prefix) -> Self {
        let service = service.to_owned();
        let [create, lease, ask, claim, renew, release] =
            [CREATE, LEASE, ASK, CLAIM, RENEW, RELEASE].map(|sql| prefix.fill(sql));
        Self { pool, service, create, lease, ask, claim, renew, release }
    }

    pub(super) async fn lease(&self, shard: Shard) -> Result<Lease, Error> {
        let rows = self.run("read the lease", &self.lease, &[&self.service, &id(shard)]).await?;
        rows.first().map_or_else(|| Ok(Lease::default()), lease)
    }

    pub(super) async fn ask(&self, shard: Shard, asker: Owner) -> Result<Lease, Error> {
        let doing = "ask for the lease";
        let (shard, asker) = (id(shard), asker.0.to_string());
        self.create(doing, shard).await?;
        let rows = self.run(doing, &self.ask, &[&self.service, &shard, &asker, &CHANNEL]).await?;
        rows.first().map_or_else(|| Err(Error::new(doing, "its row is gone")), lease)
    }

    pub(super) async fn claim(
        &self,
        shard: Shard,
        owner: Owner,
        seen: &Lease,
    ) -> Result<Option<Epoch>, Error> {
        let doing = "claim the lease";
        let (shard, owner) = (id(shard), owner.0.to_string());
        if seen.epoch == Epoch(0) {
            self.create(doing, shard).await?;
        }
        let (epoch, beat) = (number(seen.epoch.0), number(seen.beat));
        let asked_by = seen.asked_by.map(|asker| asker.0.to_string());
        let seen = seen.owner.map(|owner| owner.0.to_string());
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 8] =
            [&self.service, &shard, &owner, &epoch, &seen, &beat, &CHANNEL, &asked_by];
        let rows = self.run(doing, &self.claim, &parameters).await?;
        Ok(rows.first().map(|row| Epoch(row.get::<_, i64>(0).unsigned_abs())))
    }

    pub(super) async fn renew(&self, guard: Guard) -> Result<Renewed, Error> {
        let (shard, epoch) = (id(guard.shard), number(guard.epoch.0));
        let rows =
            self.run("renew the lease", &self.renew, &[&self.service, &shard, &epoch]).await?;
        match rows.first() {
            None => Ok(Renewed::Fenced),
            Some(row) => Ok(Renewed::Kept { asked_by: owner(row.get(0))? }),
        }
    }

    pub(super) async fn release(&self, guard: Guard) -> Result<(), Error> {
        let (shard, epoch) = (id(guard.shard), number(guard.epoch.0));
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&self.service, &shard, &epoch, &CHANNEL];
        self.run("release the lease", &self.release, &parameters).await.map(drop)
    }

    /// Makes the shard's rows, where they are not there yet.
    async fn create(&self, doing: &str, shard: i64) -> Result<(), Error> {
        let writers = i64::from(WRITERS);
        self.run(doing, &self.create, &[&self.service, &shard, &writers]).await.map(drop)
    }

    async fn run(
        &self,
        doing: &str,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        let taken = self.pool.take().await?;
        let result = taken.link().query(sql, parameters).await;
        if matches!(result, Ok(_) | Err(Failure::Definite { .. })) {
            taken.back();
        }
        result.map_err(|failure| Error::new(format!("{doing} in Postgres"), failure))
    }
}

fn lease(row: &Row) -> Result<Lease, Error> {
    Ok(Lease {
        epoch: Epoch(row.get::<_, i64>(0).unsigned_abs()),
        owner: owner(row.get(1))?,
        beat: row.get::<_, i64>(2).unsigned_abs(),
        asked_by: owner(row.get(3))?,
    })
}

fn owner(text: Option<String>) -> Result<Option<Owner>, Error> {
    let owner = text.map(|text| Uuid::parse_str(&text).map(Owner)).transpose();
    owner.map_err(|error| Error::new("read the lease in Postgres", error))
}

fn id(shard: Shard) -> i64 {
    shard.0.into()
}
