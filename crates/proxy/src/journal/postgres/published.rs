//! The events of a type, page by page, in the order of the transactions that wrote them.
//!
//! Transactions are numbered as they begin and seen as they commit, so one with a smaller number may be seen later. What
//! is behind the oldest one that still runs is left for the next reading: nothing can come before it any more.

use std::{collections::VecDeque, sync::Arc};

use futures::{StreamExt as _, stream, stream::BoxStream};
use tokio_postgres::{Row, types::ToSql};

use super::{
    name::{name, unescape},
    read::{PAGE_BYTES, PAGE_EVENTS, Reader, any},
    write::number,
};
use crate::journal::{Error, Position, Published, Sequence};

/// No index serves this: it would cost every write, and so far nobody reads by type all the time.
pub(super) const EVENTS: &str = "
WITH tail AS (
    SELECT e.transaction, e.key, e.sequence, e.type_url, e.payload FROM {events} e
    WHERE e.persistence_id = $1 AND (e.transaction, e.key, e.sequence) > ($2::text::xid8, $3, $4)
      AND e.transaction < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY 1, 2, 3 LIMIT $6
), page AS (
    SELECT t.*, sum(octet_length(payload)) OVER place - octet_length(payload) AS before, count(*) OVER () AS found
    FROM tail t WINDOW place AS (ORDER BY transaction, key, sequence)
)
SELECT p.transaction::text, p.key, p.sequence, p.type_url, p.payload, p.found, n.long
FROM page p LEFT JOIN {names} n ON n.short = p.key
WHERE p.before < $5 ORDER BY p.transaction, p.key, p.sequence";

/// The events of a type as a stream that asks for a page when the last one was taken.
pub(super) fn events(
    reader: Arc<Reader>,
    persistence_id: String,
    after: Position,
) -> BoxStream<'static, Result<Published, Error>> {
    let begin = Reading { reader, persistence_id, page: VecDeque::new(), after, more: true };
    stream::unfold(begin, |mut reading| async move {
        let next = reading.next().await.transpose()?;
        reading.more &= next.is_ok();
        Some((next, reading))
    })
    .boxed()
}

struct Reading {
    reader: Arc<Reader>,
    persistence_id: String,
    page: VecDeque<Published>,
    after: Position,
    more: bool,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Published>, Error> {
        if self.page.is_empty() && self.more {
            self.turn().await?;
        }
        let next = self.page.pop_front();
        if let Some(next) = &next {
            self.after = next.position.clone();
        }
        Ok(next)
    }

    async fn turn(&mut self) -> Result<(), Error> {
        let failed = |failure| {
            Error::new(format!("read the events of {} from Postgres", self.persistence_id), failure)
        };
        let Position { at, key, sequence } = &self.after;
        let (persistence_id, at, sequence) =
            (name(&self.persistence_id).short, at.to_string(), number(sequence.0));
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&persistence_id, &at, key, &sequence, &PAGE_BYTES, &PAGE_EVENTS];
        let taken = self.reader.pool().take().await?;
        let rows = taken.link().query(&self.reader.events, &parameters).await.map_err(failed)?;
        taken.back();
        let found: i64 = rows.last().map_or(0, |row| row.get(5));
        self.more = found == PAGE_EVENTS || number(rows.len() as u64) < found;
        self.page = rows.iter().map(published).collect();
        Ok(())
    }
}

fn published(row: &Row) -> Published {
    let at = row.get::<_, &str>(0).parse().unwrap_or_default();
    let (short, long): (String, Option<String>) = (row.get(1), row.get(6));
    let sequence = Sequence(row.get::<_, i64>(2).unsigned_abs());
    let key = unescape(long.unwrap_or_else(|| short.clone()));
    let position = Position { at, key: short, sequence };
    Published { position, key, sequence, event: any(row.get(3), row.get(4)) }
}
