//! Reads: histories page by page over a few connections, each page on a thread that may block.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{StreamExt as _, stream, stream::BoxStream};
use protocol::Any;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tokio::sync::Semaphore;

use super::schema;
use crate::{
    journal::{EntityId, Error, Loaded, Position, Published, Sequence, Version},
    shown,
};

/// Connections that read at once; whoever comes then waits.
const READERS: usize = 4;
/// A page ends with the event that reaches one of these.
const PAGE_BYTES: usize = 256 * 1024;
const PAGE_EVENTS: usize = 1_000;

#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    free: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Reader {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, free: Arc::new(Semaphore::new(READERS)), idle: Arc::default() }
    }

    pub(super) async fn value(&self, entity: &EntityId) -> Result<(Version, Option<Any>), Error> {
        let id = entity.clone();
        self.read(name(entity), move |connection| {
            let sql = "SELECT version, type_url, payload FROM entity_values WHERE persistence_id = ? AND key = ?";
            let found = connection
                .prepare_cached(sql)?
                .query_row(params![id.persistence_id, id.key], |row| {
                    let type_url: Option<String> = row.get(1)?;
                    let any = type_url.map(|type_url| any(type_url, row, 2)).transpose()?;
                    Ok((Version(row.get(0)?), any))
                })
                .optional()?;
            Ok(found.unwrap_or_default())
        })
        .await
    }

    /// One page, and whether another one may follow.
    async fn page(
        &self,
        entity: &EntityId,
        last: Option<Sequence>,
    ) -> Result<(VecDeque<Loaded>, bool), Error> {
        let id = entity.clone();
        self.read(name(entity), move |connection| page(connection, &id, last)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        what: String,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = Arc::clone(&self.free).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let (path, idle) = (self.path.clone(), Arc::clone(&self.idle));
        let read = tokio::task::spawn_blocking(move || {
            let known = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = known.map_or_else(|| schema::open_to_read(&path), Ok)?;
            let read = work(&mut connection)?;
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(permit);
            Ok::<_, rusqlite::Error>(read)
        });
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(format!("read {what} from SQLite"), error)
        };
        match read.await {
            Ok(read) => read.map_err(|error| failed(error.into())),
            Err(error) => Err(failed(error.into())),
        }
    }
}

/// The history of an entity as a stream that asks for a page when the last one was taken.
pub(super) fn history(
    reader: Arc<Reader>,
    entity: EntityId,
) -> BoxStream<'static, Result<Loaded, Error>> {
    let begin = (VecDeque::new(), None, true);
    stream::unfold(begin, move |(mut page, mut last, mut more)| {
        let (reader, entity) = (Arc::clone(&reader), entity.clone());
        async move {
            if page.is_empty() && more {
                match reader.page(&entity, last).await {
                    Ok(read) => (page, more) = read,
                    Err(error) => return Some((Err(error), (page, last, false))),
                }
            }
            let next = page.pop_front()?;
            let (Loaded::Snapshot(at, _) | Loaded::Event(at, _)) = next;
            last = Some(at);
            Some((Ok(next), (page, last, more)))
        }
    })
    .boxed()
}

fn page(
    connection: &mut Connection,
    entity: &EntityId,
    last: Option<Sequence>,
) -> rusqlite::Result<(VecDeque<Loaded>, bool)> {
    // One transaction, so that snapshot and events are of one moment.
    let at = connection.transaction()?;
    let mut page = VecDeque::new();
    let mut after = last;
    if last.is_none() {
        let sql = "SELECT sequence, type_url, payload FROM snapshots WHERE persistence_id = ? AND key = ?";
        let snapshot = at
            .prepare_cached(sql)?
            .query_row(params![entity.persistence_id, entity.key], numbered)
            .optional()?;
        if let Some((sequence, any)) = snapshot {
            after = Some(sequence);
            page.push_back(Loaded::Snapshot(sequence, any));
        }
    }
    let sql = "SELECT sequence, type_url, payload FROM events \
               WHERE persistence_id = ? AND key = ? AND sequence > ? ORDER BY sequence";
    let mut statement = at.prepare_cached(sql)?;
    let from = after.unwrap_or_default().0;
    let mut rows = statement.query(params![entity.persistence_id, entity.key, from])?;
    let (mut events, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        let (sequence, any) = numbered(row)?;
        (events, bytes) = (events + 1, bytes + any.value.len());
        page.push_back(Loaded::Event(sequence, any));
        if events == PAGE_EVENTS || bytes >= PAGE_BYTES {
            return Ok((page, true));
        }
    }
    Ok((page, false))
}

/// The events of a type as a stream that asks for a page when the last one was taken.
pub(super) fn events(
    reader: Arc<Reader>,
    persistence_id: String,
    after: &Position,
) -> BoxStream<'static, Result<Published, Error>> {
    let begin = (VecDeque::new(), after.at, true);
    stream::unfold(begin, move |(mut page, mut after, mut more)| {
        let (reader, persistence_id) = (Arc::clone(&reader), persistence_id.clone());
        async move {
            if page.is_empty() && more {
                let what = format!("the events of {persistence_id}");
                let work = move |connection: &mut Connection| {
                    published(connection, &persistence_id, after)
                };
                match reader.read(what, work).await {
                    Ok(read) => (page, more) = read,
                    Err(error) => return Some((Err(error), (page, after, false))),
                }
            }
            let next: Published = page.pop_front()?;
            after = next.position.at;
            Some((Ok(next), (page, after, more)))
        }
    })
    .boxed()
}

fn published(
    connection: &Connection,
    persistence_id: &str,
    after: u64,
) -> rusqlite::Result<(VecDeque<Published>, bool)> {
    let sql = "SELECT sequence, type_url, payload, key, position FROM events \
               WHERE position > ? AND persistence_id = ? ORDER BY position";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![after, persistence_id])?;
    let (mut page, mut bytes) = (VecDeque::new(), 0);
    while let Some(row) = rows.next()? {
        let ((sequence, event), key): (_, String) = (numbered(row)?, row.get(3)?);
        bytes += event.value.len();
        let position = Position { at: row.get(4)?, key: key.clone(), sequence };
        page.push_back(Published { position, key, sequence, event });
        if page.len() == PAGE_EVENTS || bytes >= PAGE_BYTES {
            return Ok((page, true));
        }
    }
    Ok((page, false))
}

fn name(entity: &EntityId) -> String {
    format!("{} {:?}", entity.persistence_id, shown::key(&entity.key))
}

fn numbered(row: &Row<'_>) -> rusqlite::Result<(Sequence, Any)> {
    Ok((Sequence(row.get(0)?), any(row.get(1)?, row, 2)?))
}

fn any(type_url: String, row: &Row<'_>, payload: usize) -> rusqlite::Result<Any> {
    Ok(Any { type_url, value: row.get::<_, Vec<u8>>(payload)?.into() })
}
