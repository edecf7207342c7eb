//! A proxy with a store, and the wire between it and the user function.

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use protocol::cloudstate::ProxyInfo;
use tempfile::TempDir;
use testbed::{
    postgres::Postgres,
    proxy::{Plan, Proxy},
    scratch,
};
use tonic::transport::Channel;

use crate::{
    function::Running,
    wire::{Item, Message, Rpc, Wire},
};

/// How long a proxy may take until it serves.
const START: Duration = Duration::from_mins(1);
/// How long it may take to leave.
const LEAVE: Duration = Duration::from_secs(20);

/// Where the proxy keeps what entities say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    InMemory,
    Sqlite,
    Postgres,
}

/// How a proxy is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    pub store: Store,
    pub max_in_flight: u16,
}

/// The proxy with everything around it.
#[derive(Debug)]
pub struct Stand {
    pub wire: Arc<Wire>,
    pub proxy: Proxy,
    /// What the proxy said of itself at discovery.
    pub info: ProxyInfo,
    plan: Plan,
    /// Where SQLite's file is; goes with the stand.
    _folder: TempDir,
}

impl Store {
    pub fn name(self) -> &'static str {
        match self {
            Self::InMemory => "in-memory",
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.store.name(), self.max_in_flight)
    }
}

/// What stands are made of.
#[derive(Debug)]
pub struct Parts {
    /// The proxy's program.
    pub proxy: PathBuf,
    /// Started for the first stand that needs it.
    pub postgres: Postgres,
}

impl Stand {
    /// Starts a proxy in front of the user function at this address, in a store of its own.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn start(
        parts: &Parts,
        setup: Setup,
        function: SocketAddr,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let wire = Arc::new(Wire::start(function).await?);
        wire.begin("start");
        let folder = scratch::folder("cloudstate-conformance-")?;
        let mut plan = Plan::new(&parts.proxy, wire.address())
            .with("CLOUDSTATE_STORE", setup.store.name())
            .with("CLOUDSTATE_PROXY_MAX_IN_FLIGHT", setup.max_in_flight.to_string())
            .with("CLOUDSTATE_SQLITE_PATH", folder.path().join("cloudstate.db"));
        if setup.store == Store::Postgres {
            for (name, value) in parts.postgres.environment() {
                plan = plan.with(name, value);
            }
            // A schema of its own: another proxy on the same tables would be asked to hand over.
            let schema = format!("s{}", wire.address().port());
            plan = plan.with("POSTGRES_SCHEMA", schema);
        }
        for (name, value) in settings {
            plan = plan.with(*name, *value);
        }
        let proxy = plan.start_ready(START).await.with_context(|| format!("proxy on {setup}"))?;
        // A setting that nobody reads would make two columns of the table one.
        ensure!(!proxy.log().contains("not a known setting"), "{}", proxy.log());
        let discovery = wire.take(Rpc::Discover).await?;
        let (Item::Sent(Message::Discover(info)), Item::Answered(Message::Spec(_))) =
            (discovery.next_item().await?, discovery.next_item().await?)
        else {
            bail!("this is no discovery: {discovery}");
        };
        Ok(Self { wire, proxy, info, plan, _folder: folder })
    }

    /// To the proxy, as callers reach it.
    ///
    /// # Errors
    /// When the proxy does not listen.
    pub async fn channel(&self) -> Result<Channel> {
        let address = self.plan.calls();
        Ok(Channel::from_shared(format!("http://{address}"))?.connect().await?)
    }

    /// Kills the proxy and starts another one on the same store.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn replace_proxy(&mut self) -> Result<()> {
        self.proxy.kill().await?;
        self.proxy = self.plan.start_ready(START).await?;
        Ok(())
    }

    /// An outcome with how user function and proxy are and what they said last, where it tells of a failure.
    ///
    /// # Errors
    /// The outcome's own.
    pub fn explained(&self, outcome: Result<()>, function: &mut Running) -> Result<()> {
        const LINES: usize = 20;
        outcome.map_err(|error| {
            let log = self.proxy.log();
            let mut lines: Vec<_> = log.lines().rev().take(LINES).collect();
            lines.reverse();
            let (function, lines) = (function.state(), lines.join("\n"));
            error.context(format!("{function}\nthe proxy's last lines:\n{lines}\nthe step"))
        })
    }

    /// Asks the proxy to leave and waits until it has.
    ///
    /// # Errors
    /// When it does not, or is not content.
    pub async fn leave(&mut self) -> Result<()> {
        self.proxy.terminate()?;
        let status = self.proxy.ended(LEAVE).await?;
        ensure!(status.success(), "the proxy left with {status}: {}", self.proxy.log());
        Ok(())
    }
}
