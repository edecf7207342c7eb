//! Writes: one statement for a whole batch, with the guard inside it.
//!
//! The statement locks the epoch's row in share mode, so that a claim waits for it and it for a claim;
//! takes the replies whose expected sequence number is the last one there is; and inserts their rows. What
//! others insert at the same moment meets the primary key: then everything is rolled back and tried again
//! reply by reply.

use std::borrow::Cow;

use futures::future::BoxFuture;
use tokio_postgres::types::ToSql;

use super::{
    failure::Failure,
    name::{Name, escape, name},
    pool::{Pool, Taken},
    schema::Prefix,
};
use crate::journal::{Append, EntityId, Guard, Put, Written};

/// Connections that write, and rows of an epoch: a connection locks the row of its own number.
pub(super) const WRITERS: u16 = 2;

/// Every statement that writes begins with this.
const GUARD: &str = "WITH guard AS MATERIALIZED (
    SELECT epoch FROM {epochs} WHERE service = $1 AND shard = $2 AND writer = $3 AND epoch = $4 FOR SHARE
)";

/// What comes before the expected one need not be looked at, and a page of the index holds a hundred of them. Where
/// somebody deleted what a snapshot contains, the history goes on behind the snapshot.
const FITS: &str = ", fits AS MATERIALIZED (
    SELECT a.n, a.persistence_id, a.key, a.expected
    FROM guard, unnest($5::text[], $6::text[], $7::bigint[]) WITH ORDINALITY AS a (persistence_id, key, expected, n)
    WHERE a.expected = coalesce((
        SELECT e.sequence FROM {events} e
        WHERE e.persistence_id = a.persistence_id AND e.key = a.key AND e.sequence >= a.expected
        ORDER BY e.sequence DESC LIMIT 1), (
        SELECT s.sequence FROM {snapshots} s
        WHERE s.persistence_id = a.persistence_id AND s.key = a.key), 0)
), written AS (
    INSERT INTO {events} (persistence_id, key, sequence, type_url, payload)
    SELECT f.persistence_id, f.key, f.expected + e.step, e.type_url, e.payload
    FROM unnest($8::bigint[], $9::bigint[], $10::text[], $11::bytea[]) AS e (n, step, type_url, payload)
    JOIN fits f ON f.n = e.n
)";

const SNAPSHOTS: &str = ", kept AS (
    INSERT INTO {snapshots} (persistence_id, key, sequence, type_url, payload)
    SELECT f.persistence_id, f.key, f.expected + s.step, s.type_url, s.payload
    FROM unnest($12::bigint[], $13::bigint[], $14::text[], $15::bytea[]) AS s (n, step, type_url, payload)
    JOIN fits f ON f.n = s.n
    ON CONFLICT (persistence_id, key) DO UPDATE
    SET sequence = excluded.sequence, type_url = excluded.type_url, payload = excluded.payload
)";

const APPENDED: &str = "
SELECT EXISTS (SELECT FROM guard), (SELECT array_agg(n) FROM fits)";

const PUT: &str = ", puts AS MATERIALIZED (
    SELECT a.* FROM guard, unnest($5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::text[], $10::bytea[])
        WITH ORDINALITY AS a (persistence_id, key, expected, version, type_url, payload, n)
), changed AS (
    UPDATE {values} v SET version = a.version, type_url = a.type_url, payload = a.payload
    FROM puts a
    WHERE v.persistence_id = a.persistence_id AND v.key = a.key AND v.version = a.expected
    RETURNING a.n
), added AS (
    INSERT INTO {values} (persistence_id, key, version, type_url, payload)
    SELECT persistence_id, key, version, type_url, payload FROM puts WHERE expected = 0
    ON CONFLICT DO NOTHING
    RETURNING persistence_id, key
)
SELECT EXISTS (SELECT FROM guard), (SELECT array_agg(n) FROM (
    SELECT n FROM changed UNION ALL
    SELECT a.n FROM added JOIN puts a USING (persistence_id, key)) done)";

const NAMES: &str = "INSERT INTO {names} (short, long) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING";

/// The statements, for tables in one schema, and whose epochs they compare.
#[derive(Debug)]
pub(super) struct Writer {
    pool: Pool,
    service: String,
    append: String,
    append_with_snapshots: String,
    put: String,
    names: String,
}

/// One write of a batch, append or put.
pub(super) trait Row: Sync + Sized {
    fn entity(&self) -> &EntityId;
    fn guard(&self) -> Guard;

    /// Writes them all in one statement.
    fn write<'a>(
        writer: &'a Writer,
        taken: &'a Taken,
        rows: &'a [&'a Self],
    ) -> BoxFuture<'a, Result<Vec<Written>, Failure>>;
}

impl Row for Append {
    fn entity(&self) -> &EntityId {
        &self.entity
    }

    fn guard(&self) -> Guard {
        self.guard
    }

    fn write<'a>(
        writer: &'a Writer,
        taken: &'a Taken,
        rows: &'a [&'a Self],
    ) -> BoxFuture<'a, Result<Vec<Written>, Failure>> {
        Box::pin(writer.try_append(taken, rows))
    }
}

impl Row for Put {
    fn entity(&self) -> &EntityId {
        &self.entity
    }

    fn guard(&self) -> Guard {
        self.guard
    }

    fn write<'a>(
        writer: &'a Writer,
        taken: &'a Taken,
        rows: &'a [&'a Self],
    ) -> BoxFuture<'a, Result<Vec<Written>, Failure>> {
        Box::pin(writer.try_put(taken, rows))
    }
}

impl Writer {
    pub(super) fn new(pool: Pool, service: &str, prefix: &Prefix) -> Self {
        Self {
            pool,
            service: service.to_owned(),
            append: prefix.fill(&[GUARD, FITS, APPENDED].concat()),
            append_with_snapshots: prefix.fill(&[GUARD, FITS, SNAPSHOTS, APPENDED].concat()),
            put: prefix.fill(&[GUARD, PUT].concat()),
            names: prefix.fill(NAMES),
        }
    }

    /// Writes a batch, guard by guard.
    pub(super) async fn write<T: Row>(&self, batch: &[T]) -> Vec<Written> {
        let mut outcomes = vec![None; batch.len()];
        while let Some(first) = outcomes.iter().position(Option::is_none) {
            let guard = batch[first].guard();
            let places: Vec<_> = (first..batch.len())
                .filter(|place| outcomes[*place].is_none() && batch[*place].guard() == guard)
                .collect();
            let rows: Vec<_> = places.iter().map(|place| &batch[*place]).collect();
            let written = self.write_guarded(&rows).await;
            for (place, outcome) in places.into_iter().zip(written) {
                outcomes[place] = Some(outcome);
            }
        }
        outcomes.into_iter().flatten().collect()
    }

    /// Writes rows of one guard together, and one by one where the whole failed for one of them.
    async fn write_guarded<T: Row>(&self, rows: &[&T]) -> Vec<Written> {
        let taken = match self.pool.take().await {
            Ok(taken) => taken,
            Err(error) => {
                let refused = Written::Refused(api::Chain(&error).to_string());
                return vec![refused; rows.len()];
            }
        };
        let named = self.keep_names(&taken, rows).await;
        let failure = match named {
            Ok(()) => match T::write(self, &taken, rows).await {
                Ok(outcomes) => {
                    taken.back();
                    return outcomes;
                }
                Err(failure) => failure,
            },
            // Nothing but names was sent.
            Err(Failure::Unclear(text)) => return vec![Written::Refused(text); rows.len()],
            Err(failure) => failure,
        };
        if rows.len() == 1 || !failure.may_be_of_one_row() {
            let outcome = outcome(failure);
            if !matches!(outcome, Written::Unknown(_)) {
                taken.back();
            }
            return vec![outcome; rows.len()];
        }
        let mut outcomes = Vec::with_capacity(rows.len());
        for row in rows {
            match T::write(self, &taken, &[row]).await {
                Ok(one) => outcomes.extend(one),
                Err(failure) => outcomes.push(outcome(failure)),
            }
            if let Some(Written::Unknown(text)) = outcomes.last() {
                // The connection is gone, and the others were not sent on it again.
                let refused = Written::Refused(text.clone());
                outcomes.resize(rows.len(), refused);
                return outcomes;
            }
        }
        taken.back();
        outcomes
    }

    /// Writes down what the digests of long ids stand for; harmless when nothing follows.
    async fn keep_names<T: Row>(&self, taken: &Taken, rows: &[&T]) -> Result<(), Failure> {
        let ids = rows.iter().flat_map(|row| [&row.entity().persistence_id, &row.entity().key]);
        let (short, long): (Vec<_>, Vec<_>) = ids
            .filter_map(|id| match name(id) {
                Name { short, long: Some(long) } => Some((short, long)),
                Name { .. } => None,
            })
            .unzip();
        if short.is_empty() {
            return Ok(());
        }
        taken.link().query(&self.names, &[&short, &long]).await.map(drop)
    }

    async fn try_append(&self, taken: &Taken, rows: &[&Append]) -> Result<Vec<Written>, Failure> {
        let keys = Keys::of(rows);
        let expected: Vec<_> = rows.iter().map(|row| number(row.expected.0)).collect();
        let (mut events, mut snapshots) = (Payloads::default(), Payloads::default());
        for (n, row) in (1..).zip(rows) {
            for (step, event) in (1..).zip(&row.events) {
                events.push(n, step, event);
            }
            if let Some(snapshot) = &row.snapshot {
                snapshots.push(n, number(row.events.len() as u64), snapshot);
            }
        }
        let guard = GuardRow::new(taken, rows[0].guard);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = guard.parameters(&self.service);
        parameters.extend::<[&(dyn ToSql + Sync); 3]>([&keys.types, &keys.keys, &expected]);
        parameters.extend(events.parameters());
        let sql = if snapshots.n.is_empty() {
            &self.append
        } else {
            parameters.extend(snapshots.parameters());
            &self.append_with_snapshots
        };
        let found = taken.link().query(sql, &parameters).await?;
        answers(&found, rows.len())
    }

    async fn try_put(&self, taken: &Taken, rows: &[&Put]) -> Result<Vec<Written>, Failure> {
        let keys = Keys::of(rows);
        let expected: Vec<_> = rows.iter().map(|row| number(row.expected.0)).collect();
        let next: Vec<_> = rows.iter().map(|row| number(row.next.0)).collect();
        let values = rows.iter().map(|row| row.value.as_ref());
        let (type_urls, payloads): (Vec<_>, Vec<_>) = values
            .map(|value| value.map(|any| (escape(&any.type_url), any.value.as_ref())).unzip())
            .unzip();
        let guard = GuardRow::new(taken, rows[0].guard);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = guard.parameters(&self.service);
        parameters.extend::<[&(dyn ToSql + Sync); 6]>([
            &keys.types,
            &keys.keys,
            &expected,
            &next,
            &type_urls,
            &payloads,
        ]);
        let found = taken.link().query(&self.put, &parameters).await?;
        answers(&found, rows.len())
    }
}

/// The row of the epochs that a write locks and compares.
struct GuardRow {
    shard: i64,
    writer: i64,
    epoch: i64,
}

impl GuardRow {
    fn new(taken: &Taken, guard: Guard) -> Self {
        let (shard, writer) = (guard.shard.0.into(), taken.number().into());
        Self { shard, writer, epoch: number(guard.epoch.0) }
    }

    fn parameters<'a>(&'a self, service: &'a String) -> Vec<&'a (dyn ToSql + Sync)> {
        vec![service, &self.shard, &self.writer, &self.epoch]
    }
}

/// Key columns of a batch.
struct Keys<'a> {
    types: Vec<Cow<'a, str>>,
    keys: Vec<Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    fn of<T: Row>(rows: &[&'a T]) -> Self {
        let names = rows
            .iter()
            .map(|row| (name(&row.entity().persistence_id).short, name(&row.entity().key).short));
        let (types, keys) = names.unzip();
        Self { types, keys }
    }
}

/// Columns of events or snapshots: whose they are, how far behind the expected one, and what.
#[derive(Default)]
struct Payloads<'a> {
    n: Vec<i64>,
    step: Vec<i64>,
    type_url: Vec<Cow<'a, str>>,
    payload: Vec<&'a [u8]>,
}

impl<'a> Payloads<'a> {
    fn push(&mut self, n: i64, step: i64, any: &'a protocol::Any) {
        self.n.push(n);
        self.step.push(step);
        self.type_url.push(escape(&any.type_url));
        self.payload.push(&any.value);
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.n, &self.step, &self.type_url, &self.payload]
    }
}

/// Reads whether the guard held, and which of the batch fitted.
fn answers(found: &[tokio_postgres::Row], count: usize) -> Result<Vec<Written>, Failure> {
    let Some(row) = found.first() else {
        return Err(Failure::Unclear("Postgres gave no row where one was due".to_owned()));
    };
    if !row.get::<_, bool>(0) {
        return Ok(vec![Written::Fenced; count]);
    }
    let mut outcomes = vec![Written::Conflict; count];
    for n in row.get::<_, Option<Vec<i64>>>(1).unwrap_or_default() {
        let place = usize::try_from(n - 1).ok().and_then(|place| outcomes.get_mut(place));
        *place.expect("the statement numbers what it was given") = Written::Committed;
    }
    Ok(outcomes)
}

fn outcome(failure: Failure) -> Written {
    if failure.is_duplicate() {
        return Written::Conflict;
    }
    match failure {
        Failure::Definite { text, .. } => Written::Refused(text),
        Failure::Unclear(text) => Written::Unknown(text),
    }
}

/// As Postgres counts; what would not fit comes after everything that is there.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
