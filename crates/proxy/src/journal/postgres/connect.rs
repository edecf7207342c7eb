//! Opens connections, and remembers for a moment that none could be opened, so that a server that is
//! away costs every caller an error and nobody a wait. A host with several addresses is tried at each of them, each
//! with its share of the time, until one is a primary that lets us in.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::Chain;
use futures::{StreamExt as _, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::lookup_host,
    sync::watch,
    time::{Instant, timeout},
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, NoTls, Row, Socket, Statement, config::SslMode,
    error::SqlState, types::ToSql,
};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

use super::{
    failure::Failure,
    settings::{Settings, TlsMode},
    tls,
};
use crate::journal::Error;

/// Longest time until a connection can be used.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest time that we wait for a statement: the server's own limit in [`SESSION`] speaks first, unless it
/// is gone.
const ANSWER: Duration = Duration::from_secs(6);
/// How long nobody tries again after a failed attempt; doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Run on every new connection. Our word that something is durable rests on `synchronous_commit`, the
/// comparison of the epoch on `read committed`. Every statement finds its rows by their key, so it is planned
/// once, and never for the few rows that a table had when it was looked at last.
const SESSION: &str = "SET default_transaction_isolation = 'read committed'; SET synchronous_commit = on; \
    SET statement_timeout = '5s'; SET client_min_messages = warning; \
    SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off";

/// What a server must be like.
const LOOK: &str = "SELECT pg_is_in_recovery(), current_setting('server_version_num')::int, current_setting('server_encoding')";

/// Opens connections to one server.
#[derive(Debug)]
pub(super) struct Connector {
    settings: Settings,
    failed: Mutex<Option<Failed>>,
    /// Where the server was found last.
    found: Mutex<Option<IpAddr>>,
    /// Counts notifications, on whichever connection they come.
    pub(super) notified: watch::Sender<u64>,
}

/// The last attempt, as long as none succeeded since.
#[derive(Debug)]
struct Failed {
    at: Instant,
    pause: Duration,
    text: String,
}

/// One connection and what was prepared on it.
#[derive(Debug)]
pub(super) struct Link {
    client: Client,
    statements: Mutex<HashMap<String, Statement>>,
}

impl Connector {
    pub(super) fn new(settings: Settings) -> Self {
        let (failed, found) = (Mutex::default(), Mutex::default());
        Self { settings, failed, found, notified: watch::Sender::new(0) }
    }

    /// The schema that a test chose.
    #[cfg(test)]
    pub(super) fn schema(&self) -> &str {
        self.settings.schema.as_deref().unwrap()
    }

    /// Opens a connection, or says what kept another attempt from it a moment ago.
    pub(super) async fn connect(&self) -> Result<Link, Error> {
        let doing = format!("connect to Postgres at {}", self.settings.place());
        if let Some(Failed { at, pause, text }) = &*self.lock()
            && at.elapsed() < *pause
        {
            return Err(Error::new(doing, text.clone()));
        }
        let opened = Box::pin(self.open()).await;
        let mut failed = self.lock();
        match opened {
            Ok(client) => {
                *failed = None;
                Ok(Link { client, statements: Mutex::default() })
            }
            Err(text) => {
                let pause = failed.as_ref().map_or(PAUSE_MIN, |last| last.pause * 2);
                let at = Instant::now();
                *failed = Some(Failed { at, pause: pause.min(PAUSE_MAX), text: text.clone() });
                Err(Error::new(doing, text))
            }
        }
    }

    async fn open(&self) -> Result<Client, String> {
        let end = Instant::now() + CONNECT;
        let mut addresses = match timeout(CONNECT, self.addresses()).await {
            Ok(addresses) => addresses?,
            Err(_elapsed) => return Err(format!("the name was not found within {CONNECT:?}")),
        };
        let found = *self.found.lock().unwrap_or_else(PoisonError::into_inner);
        // Where it was last time, one that does not answer costs nothing.
        addresses.sort_by_key(|address| *address != found);
        self.open_first(&addresses, end).await
    }

    /// Opens a connection to the first address that has what we need.
    pub(super) async fn open_first(
        &self,
        addresses: &[Option<IpAddr>],
        end: Instant,
    ) -> Result<Client, String> {
        let mut refusals = Vec::new();
        for (left, address) in (1..=addresses.len()).rev().zip(addresses) {
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            let share = end.saturating_duration_since(Instant::now()) / left;
            let refusal = match timeout(share, self.open_at(*address)).await {
                Ok(Ok(client)) => {
                    *self.found.lock().unwrap_or_else(PoisonError::into_inner) = *address;
                    return Ok(client);
                }
                Ok(Err(refusal)) => refusal,
                Err(_elapsed) => format!("no answer within {share:.1?}"),
            };
            refusals.push(match address {
                Some(address) if addresses.len() > 1 => format!("at {address}: {refusal}"),
                _ => refusal,
            });
        }
        Err(refusals.join("; "))
    }

    /// What a name stands for; one none for what is no name.
    pub(super) async fn addresses(&self) -> Result<Vec<Option<IpAddr>>, String> {
        let Settings { host, port, .. } = &self.settings;
        if host.starts_with('/') || host.parse::<IpAddr>().is_ok() {
            return Ok(vec![None]);
        }
        let found = lookup_host((host.as_str(), *port)).await;
        let found = found.map_err(|error| format!("the name is not found: {error}"))?;
        let mut addresses: Vec<_> = Vec::new();
        for address in found {
            if !addresses.contains(&Some(address.ip())) {
                addresses.push(Some(address.ip()));
            }
        }
        if addresses.is_empty() {
            return Err("the name has no address".to_owned());
        }
        Ok(addresses)
    }

    async fn open_at(&self, address: Option<IpAddr>) -> Result<Client, String> {
        let client = match self.settings.tls.mode {
            TlsMode::Disable => self.plain(address).await.map_err(|refusal| refusal.text)?,
            TlsMode::Allow => match self.plain(address).await {
                Err(refusal) if !refusal.is_final => refusal.or(self.secure(address).await)?,
                opened => opened.map_err(|refusal| refusal.text)?,
            },
            TlsMode::Prefer => match self.secure(address).await {
                Err(refusal) if !refusal.is_final => refusal.or(self.plain(address).await)?,
                opened => opened.map_err(|refusal| refusal.text)?,
            },
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => {
                self.secure(address).await.map_err(|refusal| refusal.text)?
            }
        };
        client.batch_execute(SESSION).await.map_err(said)?;
        let row = client.query_one(LOOK, &[]).await.map_err(said)?;
        if row.get(0) {
            return Err("this server is a replica: name the primary".to_owned());
        }
        let version: i32 = row.get(1);
        if version < 130_000 {
            let major = version / 10_000;
            return Err(format!("this server is of version {major}: use Postgres 13 or later"));
        }
        let encoding: &str = row.get(2);
        if encoding != "UTF8" {
            return Err(format!("this database has encoding {encoding}: create one with UTF8"));
        }
        Ok(client)
    }

    async fn plain(&self, address: Option<IpAddr>) -> Result<Client, Refusal> {
        let opened = self.config(address, SslMode::Disable).connect(NoTls).await;
        let (client, connection) = opened.map_err(|error| Refusal::new("without TLS", &error))?;
        self.drive(connection);
        Ok(client)
    }

    async fn secure(&self, address: Option<IpAddr>) -> Result<Client, Refusal> {
        let tls = tls::client(&self.settings.tls)
            .map_err(|error| Refusal { is_final: true, text: error.to_string() })?;
        let config = self.config(address, SslMode::Require);
        let opened = config.connect(MakeRustlsConnect::new(tls)).await;
        let (client, connection) = opened.map_err(|error| Refusal::new("with TLS", &error))?;
        self.drive(connection);
        Ok(client)
    }

    fn config(&self, address: Option<IpAddr>, mode: SslMode) -> Config {
        let Settings { host, port, database, user, password, .. } = &self.settings;
        let mut config = Config::new();
        config
            .host(host)
            .port(*port)
            .dbname(database)
            .user(user)
            .password(&password.0)
            .ssl_mode(mode)
            .application_name("cloudstate")
            .connect_timeout(CONNECT)
            .tcp_user_timeout(ANSWER)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3);
        if let Some(address) = address {
            config.hostaddr(address);
        }
        config
    }

    /// Moves messages until the connection ends; whoever waits for an answer learns of that end.
    fn drive<S>(&self, mut connection: Connection<Socket, S>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let notified = self.notified.clone();
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(message) = messages.next().await {
                match message {
                    Ok(AsyncMessage::Notification(_)) => notified.send_modify(|count| *count += 1),
                    Ok(AsyncMessage::Notice(notice)) => {
                        debug!(notice = notice.message(), "notice from Postgres");
                    }
                    Ok(_) => {}
                    Err(error) => {
                        debug!(error = %said(error), "a connection to Postgres ended");
                        return;
                    }
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Failed>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Whether the connection has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs a statement, which is prepared the first time.
    ///
    /// # Cancel safety
    /// The statement may run on; a link that was left like that must not be used again.
    pub(super) async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        let run = async {
            let statement = self.prepared(sql).await?;
            Ok(self.client.query(&statement, parameters).await?)
        };
        timeout(ANSWER, run).await.unwrap_or_else(|_elapsed| Err(Failure::silent(ANSWER)))
    }

    /// Runs statements that have no parameters.
    ///
    /// # Cancel safety
    /// As for [`query`](Self::query).
    pub(super) async fn execute(&self, sql: &str) -> Result<(), Failure> {
        let run = async { Ok(self.client.batch_execute(sql).await?) };
        timeout(ANSWER, run).await.unwrap_or_else(|_elapsed| Err(Failure::silent(ANSWER)))
    }

    async fn prepared(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        let known = || self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = known().get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        known().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// Why one attempt failed.
struct Refusal {
    /// Whether another one, with or without TLS, cannot end otherwise.
    is_final: bool,
    text: String,
}

impl Refusal {
    fn new(how: &str, error: &tokio_postgres::Error) -> Self {
        let is_final = match error.code() {
            // So says a server whose access rules want TLS, or do not want it.
            Some(code) => *code != SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            // Nobody is there, either way.
            None => error.to_string().contains("error connecting to server"),
        };
        Self { is_final, text: format!("{how}: {}", Chain(error)) }
    }

    fn or(self, second: Result<Client, Self>) -> Result<Client, String> {
        second.map_err(|second| format!("{}; {}", self.text, second.text))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(error: tokio_postgres::Error) -> String {
    Chain(&error).to_string()
}
