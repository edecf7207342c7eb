//! A journal in Postgres: batches as single statements over two connections, replays page by page over a
//! few others, leases over one of their own.
//!
//! Whatever comes from the server goes to the caller as it is: a definite no is [`Written::Refused`], a
//! connection that broke after sending is [`Written::Unknown`]. Nothing here tries a write again, but for
//! one that was surely rolled back since one of its replies did not fit.

mod connect;
mod failure;
mod lease;
mod name;
mod pool;
mod published;
mod read;
mod schema;
mod settings;
#[cfg(test)]
mod tests;
mod tls;
mod write;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use protocol::Any;
use tokio::sync::watch;
use tracing::warn;

use self::{
    connect::Connector,
    lease::{CHANNEL, Leases},
    pool::Pool,
    read::Reader,
    schema::Prefix,
    write::{WRITERS, Writer},
};
pub use self::{
    schema::statements,
    settings::{Secret, Settings, Tls, TlsMode},
};
use super::{
    Append, EntityId, Epoch, Epochs, Error, Guard, Journal, Lease, Loaded, Owner, Position,
    Published, Put, Renewed, Shard, Values, Version, Written,
};

/// Connections that read.
const READERS: u16 = 4;

/// Events, values and leases in one database.
#[derive(Debug)]
pub struct Postgres {
    connector: Arc<Connector>,
    writer: Writer,
    reader: Arc<Reader>,
    leases: Leases,
}

impl Postgres {
    /// Connects, and makes sure of the tables. `service` tells apart the leases of several services in one
    /// database.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses, or the tables are not ours.
    pub async fn open(settings: Settings, service: &str) -> Result<Self, Error> {
        let (schema, create) = (settings.schema.clone(), settings.create_tables);
        let connector = Arc::new(Connector::new(settings));
        let prefix = Prefix::new(schema.as_deref());
        let pool = |size, greeting| Pool::new(Arc::clone(&connector), size, greeting);
        let readers = pool(READERS, None);
        let taken = readers.take().await?;
        schema::ensure(&taken, schema.as_deref(), create).await?;
        let fsync = taken.link().query("SELECT current_setting('fsync') = 'on'", &[]).await;
        if !fsync.map_err(|failure| Error::new("look at the server", failure))?[0].get::<_, bool>(0)
        {
            warn!(
                "the server runs without fsync: a crash of its machine loses what was acknowledged"
            );
        }
        taken.back();
        // One of each sort at once: where the server lets few in, readers must not take what writers need.
        let (writers, leases) = (pool(WRITERS, None), pool(1, Some(format!("LISTEN {CHANNEL}"))));
        writers.take().await?.back();
        leases.take().await?.back();
        Ok(Self {
            writer: Writer::new(writers, service, &prefix),
            leases: Leases::new(leases, service, &prefix),
            reader: Arc::new(Reader::new(readers, &prefix)),
            connector,
        })
    }
}

#[async_trait]
impl Journal for Postgres {
    async fn append(&self, batch: Vec<Append>) -> Vec<Written> {
        self.writer.write(&batch).await
    }

    fn load(&self, entity: &EntityId) -> BoxStream<'static, Result<Loaded, Error>> {
        read::history(Arc::clone(&self.reader), entity.clone())
    }

    fn events(
        &self,
        persistence_id: &str,
        after: &Position,
    ) -> BoxStream<'static, Result<Published, Error>> {
        published::events(Arc::clone(&self.reader), persistence_id.to_owned(), after.clone())
    }
}

#[async_trait]
impl Values for Postgres {
    async fn put(&self, batch: Vec<Put>) -> Vec<Written> {
        self.writer.write(&batch).await
    }

    async fn value(&self, entity: &EntityId) -> Result<(Version, Option<Any>), Error> {
        self.reader.value(entity).await
    }
}

#[async_trait]
impl Epochs for Postgres {
    async fn lease(&self, shard: Shard) -> Result<Lease, Error> {
        self.leases.lease(shard).await
    }

    async fn ask(&self, shard: Shard, asker: Owner) -> Result<Lease, Error> {
        self.leases.ask(shard, asker).await
    }

    async fn claim(
        &self,
        shard: Shard,
        owner: Owner,
        seen: &Lease,
    ) -> Result<Option<Epoch>, Error> {
        self.leases.claim(shard, owner, seen).await
    }

    async fn renew(&self, guard: Guard) -> Result<Renewed, Error> {
        self.leases.renew(guard).await
    }

    async fn release(&self, guard: Guard) -> Result<(), Error> {
        self.leases.release(guard).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.connector.notified.subscribe()
    }
}
