//! A journal in an SQLite file: for work without a database server, and for one replica with a volume.
//!
//! One thread writes, each batch as one transaction in a write-ahead log that is synced before the answer.
//! A few other connections read, page by page. A second process on the same file is kept out by the lease,
//! as with any store; the file's own lock only keeps transactions apart.

mod lease;
mod read;
mod schema;
#[cfg(test)]
mod tests;
mod write;

use std::{path::PathBuf, sync::Arc, thread};

use async_trait::async_trait;
use futures::stream::BoxStream;
use protocol::Any;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use self::{lease::Leases, read::Reader};
use super::{
    Append, EntityId, Epoch, Epochs, Error, Guard, Journal, Lease, Loaded, Owner, Position,
    Published, Put, Renewed, Shard, Values, Version, Written,
};

/// Work that waits for the writing thread; whoever brings more waits with it.
const QUEUE: usize = 16;

/// Events, values and leases in one file.
#[derive(Debug)]
pub struct Sqlite {
    writer: mpsc::Sender<Job>,
    reader: Arc<Reader>,
    leases: Leases,
    changes: watch::Sender<u64>,
}

/// Work for the writing thread.
struct Job(Box<dyn FnOnce(&mut Connection) + Send>);

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

impl Sqlite {
    /// Opens the file, or creates it. `service` tells apart the leases of several services in one file.
    ///
    /// # Errors
    /// When the file cannot be opened or is not ours.
    pub async fn open(path: PathBuf, service: &str) -> Result<Self, Error> {
        let named = path.clone();
        let opened = tokio::task::spawn_blocking(move || schema::open(&named)).await;
        let mut connection = opened.map_err(|error| Error::new("open the file", error))??;
        let (writer, mut jobs) = mpsc::channel::<Job>(QUEUE);
        // Ends with the last handle, and closes the file then.
        thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || {
                while let Some(Job(work)) = jobs.blocking_recv() {
                    work(&mut connection);
                }
            })
            .map_err(|error| Error::new("start the writing thread", error))?;
        Ok(Self {
            writer,
            reader: Arc::new(Reader::new(path)),
            leases: Leases::new(service),
            changes: watch::Sender::new(0),
        })
    }

    /// Has the writing thread do something; absent when that thread died of it.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let job = Job(Box::new(move |connection| {
            let _ = answer.send(work(connection));
        }));
        self.writer.send(job).await.ok()?;
        answered.await.ok()
    }

    /// As [`write`](Self::write), for what concerns leases.
    async fn lease_work<T: Send + 'static>(
        &self,
        doing: &str,
        work: impl FnOnce(&Leases, &mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let leases = self.leases.clone();
        match self.write(move |connection| work(&leases, connection)).await {
            Some(done) => done.map_err(|error| Error::new(format!("{doing} in SQLite"), error)),
            None => Err(Error::new(doing, GONE)),
        }
    }
}

/// What is left to say when the writing thread panicked.
const GONE: &str = "the thread that writes is gone: restart the proxy";

#[async_trait]
impl Journal for Sqlite {
    async fn append(&self, batch: Vec<Append>) -> Vec<Written> {
        let (leases, count) = (self.leases.clone(), batch.len());
        let written =
            self.write(move |connection| write::append(connection, &leases, &batch)).await;
        written.unwrap_or_else(|| vec![Written::Unknown(GONE.to_owned()); count])
    }

    fn load(&self, entity: &EntityId) -> BoxStream<'static, Result<Loaded, Error>> {
        read::history(Arc::clone(&self.reader), entity.clone())
    }

    fn events(
        &self,
        persistence_id: &str,
        after: &Position,
    ) -> BoxStream<'static, Result<Published, Error>> {
        read::events(Arc::clone(&self.reader), persistence_id.to_owned(), after)
    }
}

#[async_trait]
impl Values for Sqlite {
    async fn put(&self, batch: Vec<Put>) -> Vec<Written> {
        let (leases, count) = (self.leases.clone(), batch.len());
        let written = self.write(move |connection| write::put(connection, &leases, &batch)).await;
        written.unwrap_or_else(|| vec![Written::Unknown(GONE.to_owned()); count])
    }

    async fn value(&self, entity: &EntityId) -> Result<(Version, Option<Any>), Error> {
        self.reader.value(entity).await
    }
}

#[async_trait]
impl Epochs for Sqlite {
    async fn lease(&self, shard: Shard) -> Result<Lease, Error> {
        self.lease_work("read the lease", move |leases, at| leases.lease(at, shard)).await
    }

    async fn ask(&self, shard: Shard, asker: Owner) -> Result<Lease, Error> {
        let work = move |leases: &Leases, at: &mut Connection| leases.ask(at, shard, asker);
        let lease = self.lease_work("ask for the lease", work).await?;
        self.changes.send_modify(|count| *count += 1);
        Ok(lease)
    }

    async fn claim(
        &self,
        shard: Shard,
        owner: Owner,
        seen: &Lease,
    ) -> Result<Option<Epoch>, Error> {
        let seen = seen.clone();
        let work =
            move |leases: &Leases, at: &mut Connection| leases.claim(at, shard, owner, &seen);
        let epoch = self.lease_work("claim the lease", work).await?;
        self.changes.send_modify(|count| *count += 1);
        Ok(epoch)
    }

    async fn renew(&self, guard: Guard) -> Result<Renewed, Error> {
        self.lease_work("renew the lease", move |leases, at| leases.renew(at, guard)).await
    }

    async fn release(&self, guard: Guard) -> Result<(), Error> {
        let work = move |leases: &Leases, at: &mut Connection| leases.release(at, guard);
        self.lease_work("release the lease", work).await?;
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Only of changes by this process; others are seen by looking.
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
