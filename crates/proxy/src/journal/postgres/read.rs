//! Reads: histories page by page, so that a slow replay holds neither a connection nor more than a page.

use std::collections::VecDeque;

use futures::{StreamExt as _, stream, stream::BoxStream};
use protocol::Any;
use tokio_postgres::Row;

use super::{
    name::{name, unescape},
    pool::Pool,
    published::EVENTS,
    schema::Prefix,
    write::number,
};
use crate::{
    journal::{EntityId, Error, Loaded, Sequence, Version},
    shown,
};

/// Largest page in bytes of payload, but for a single event that is larger, and in events.
pub(super) const PAGE_BYTES: i64 = 256 * 1024;
pub(super) const PAGE_EVENTS: i64 = 1_000;

/// `$3` is the last event that is known, or null for the snapshot and what follows it, in one look at both.
const PAGE: &str = "
WITH snapshot AS MATERIALIZED (
    SELECT sequence, type_url, payload FROM {snapshots}
    WHERE $3::bigint IS NULL AND persistence_id = $1 AND key = $2
), tail AS (
    SELECT sequence, type_url, payload FROM {events}
    WHERE persistence_id = $1 AND key = $2
      AND sequence > coalesce($3::bigint, (SELECT sequence FROM snapshot), 0)
    ORDER BY sequence LIMIT $5
), page AS (
    SELECT t.*, sum(octet_length(payload)) OVER (ORDER BY sequence) - octet_length(payload) AS before, count(*) OVER () AS found
    FROM tail t
)
SELECT true AS is_snapshot, sequence, type_url, payload, 0 AS found FROM snapshot
UNION ALL
SELECT false, sequence, type_url, payload, found FROM page WHERE before < $4
ORDER BY 1 DESC, 2";

const VALUE: &str =
    "SELECT version, type_url, payload FROM {values} WHERE persistence_id = $1 AND key = $2";

#[derive(Debug)]
pub(super) struct Reader {
    pool: Pool,
    page: String,
    value: String,
    /// For [`published`](super::published).
    pub(super) events: String,
}

impl Reader {
    pub(super) fn new(pool: Pool, prefix: &Prefix) -> Self {
        let [page, value, events] = [PAGE, VALUE, EVENTS].map(|sql| prefix.fill(sql));
        Self { pool, page, value, events }
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) async fn value(&self, entity: &EntityId) -> Result<(Version, Option<Any>), Error> {
        let taken = self.pool.take().await?;
        let (persistence_id, key) = (name(&entity.persistence_id).short, name(&entity.key).short);
        let found = taken.link().query(&self.value, &[&persistence_id, &key]).await;
        let found = found.map_err(|failure| reading(entity, failure))?;
        taken.back();
        let Some(row) = found.first() else { return Ok(Default::default()) };
        let version = Version(row.get::<_, i64>(0).unsigned_abs());
        let type_url: Option<String> = row.get(1);
        Ok((version, type_url.map(|type_url| any(type_url, row.get(2)))))
    }

    /// One page, and whether another one follows.
    async fn page(
        &self,
        entity: &EntityId,
        last: Option<Sequence>,
    ) -> Result<(VecDeque<Loaded>, bool), Error> {
        let taken = self.pool.take().await?;
        let (persistence_id, key) = (name(&entity.persistence_id).short, name(&entity.key).short);
        let from = last.map(|last| number(last.0));
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&persistence_id, &key, &from, &PAGE_BYTES, &PAGE_EVENTS];
        let rows = taken.link().query(&self.page, &parameters).await;
        let rows = rows.map_err(|failure| reading(entity, failure))?;
        taken.back();
        let events = rows.iter().filter(|row| !row.get::<_, bool>(0)).count();
        let found: i64 = rows.last().map_or(0, |row| row.get(4));
        let more = found == PAGE_EVENTS || number(events as u64) < found;
        Ok((rows.iter().map(loaded).collect(), more))
    }
}

/// The history of an entity as a stream that asks for a page when the last one was taken.
pub(super) fn history(
    reader: std::sync::Arc<Reader>,
    entity: EntityId,
) -> BoxStream<'static, Result<Loaded, Error>> {
    let begin = Replay { reader, entity, page: VecDeque::new(), last: None, more: true };
    stream::unfold(begin, |mut replay| async move {
        let next = replay.next().await.transpose()?;
        replay.more &= next.is_ok();
        Some((next, replay))
    })
    .boxed()
}

struct Replay {
    reader: std::sync::Arc<Reader>,
    entity: EntityId,
    page: VecDeque<Loaded>,
    last: Option<Sequence>,
    more: bool,
}

impl Replay {
    async fn next(&mut self) -> Result<Option<Loaded>, Error> {
        if self.page.is_empty() {
            if !self.more {
                return Ok(None);
            }
            (self.page, self.more) = self.reader.page(&self.entity, self.last).await?;
        }
        let Some(next) = self.page.pop_front() else { return Ok(None) };
        match next {
            Loaded::Snapshot(sequence, _) => self.last = Some(sequence),
            Loaded::Event(sequence, _) => {
                let wanted = self.last.unwrap_or_default().after(1);
                if sequence != wanted {
                    let gap = format!("event {} is missing, {} is there", wanted.0, sequence.0);
                    return Err(reading(&self.entity, gap));
                }
                self.last = Some(sequence);
            }
        }
        Ok(Some(next))
    }
}

fn loaded(row: &Row) -> Loaded {
    let sequence = Sequence(row.get::<_, i64>(1).unsigned_abs());
    let any = any(row.get(2), row.get(3));
    if row.get(0) { Loaded::Snapshot(sequence, any) } else { Loaded::Event(sequence, any) }
}

pub(super) fn any(type_url: String, value: Vec<u8>) -> Any {
    Any { type_url: unescape(type_url), value: value.into() }
}

fn reading(
    entity: &EntityId,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    let EntityId { persistence_id, key } = entity;
    let key = shown::key(key);
    Error::new(format!("read {persistence_id} {key:?} from Postgres"), source)
}
