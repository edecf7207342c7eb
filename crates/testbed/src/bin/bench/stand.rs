//! What is measured: a store, a user function, a proxy, each a process of its own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use testbed::{
    counter::{self, Counter},
    load::Pool,
    postgres::Postgres,
    process::{Process, Usage, program},
    proxy::{Plan, Proxy},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::flags::{Flags, Function, Store};

/// How long a proxy may take to start or to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Connections of callers to the proxy.
const CONNECTIONS: usize = 4;

/// What all measurements of one store and one user function share.
pub(crate) struct Bench<'a> {
    pub(crate) flags: &'a Flags,
    pub(crate) store: Store,
    pub(crate) function: Function,
    postgres: Option<&'a Postgres>,
}

/// All parts, running.
pub(crate) struct Stand {
    pub(crate) proxy: Proxy,
    pub(crate) plan: Plan,
    pub(crate) function: Process,
    pub(crate) function_address: SocketAddr,
    postmaster: Option<i32>,
    _folder: TempDir,
}

/// Time on a processor that each part took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) callers: Duration,
    pub(crate) proxy: Duration,
    pub(crate) function: Duration,
    pub(crate) store: Option<Duration>,
}

/// Names that no earlier measurement on the same store used.
pub(crate) fn prefix(workload: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{workload}-{}-", COUNT.fetch_add(1, Ordering::Relaxed))
}

impl<'a> Bench<'a> {
    pub(crate) fn new(
        flags: &'a Flags,
        store: Store,
        function: Function,
        postgres: Option<&'a Postgres>,
    ) -> Self {
        Self { flags, store, function, postgres }
    }

    pub(crate) async fn stand(&self) -> Result<Stand> {
        self.stand_with(&[]).await
    }

    /// Starts everything, with further settings of the proxy.
    pub(crate) async fn stand_with(&self, settings: &[(&str, &str)]) -> Result<Stand> {
        let folder = tempfile::tempdir()?;
        let (function, function_address) = match self.function {
            Function::Rust => Counter::default().start((Ipv4Addr::LOCALHOST, 0).into()).await?,
            Function::Node => self.node(folder.path()).await?,
        };
        let mut plan = Plan::new(program("proxy")?, function_address);
        plan = plan.with("CLOUDSTATE_PROXY_LOG_LEVEL", "warn");
        match (self.store, self.postgres) {
            (Store::Memory, _) => plan = plan.with("CLOUDSTATE_STORE", "in-memory"),
            (Store::Sqlite, _) => {
                plan = plan.with("CLOUDSTATE_STORE", "sqlite");
                plan = plan.with("CLOUDSTATE_SQLITE_PATH", folder.path().join("bench.db"));
            }
            (Store::Postgres, postgres) => {
                for (name, value) in postgres.context("Postgres was not started")?.environment() {
                    plan = plan.with(name, value);
                }
            }
        }
        for (name, value) in settings {
            plan = plan.with(name, value);
        }
        let proxy = plan.start_ready(PATIENCE).await?;
        let postgres = self.postgres.filter(|_| self.store == Store::Postgres);
        Ok(Stand {
            proxy,
            plan,
            function,
            function_address,
            postmaster: postgres.and_then(Postgres::id),
            _folder: folder,
        })
    }

    async fn node(&self, folder: &Path) -> Result<(Process, SocketAddr)> {
        let packages = self.flags.node.as_deref().context("--node DIR names no folder")?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let descriptors = folder.join("counter.pb");
        std::fs::write(&descriptors, counter::spec().proto)?;
        let mut command = Command::new("node");
        command.arg(packages.join("counter.js")).arg("127.0.0.1:0");
        command.arg(root.join("../../protocols")).arg(root.join("proto"));
        command.arg(descriptors).arg("0").stdout(Stdio::piped());
        let mut process = Process::start(command)?;
        let stdout = process.stdout().context("node has no output")?;
        let line = BufReader::new(stdout).lines().next_line().await?;
        let line = line.with_context(|| format!("node is silent: {}", process.log()))?;
        Ok((process, line.parse().with_context(|| format!("{line:?} is no address"))?))
    }
}

impl Stand {
    /// Connections to the proxy.
    pub(crate) async fn pool(&self) -> Result<Pool> {
        self.pool_of(CONNECTIONS).await
    }

    /// So many connections to the proxy.
    pub(crate) async fn pool_of(&self, connections: usize) -> Result<Pool> {
        Pool::open(self.proxy.calls(), connections).await
    }

    /// What each part has used so far.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        Ok(Cpu {
            callers: Usage::of(std::process::id().cast_signed())?.cpu,
            proxy: self.proxy.usage()?.cpu,
            function: self.function.usage()?.cpu,
            store: self.postmaster.map(Usage::of_family).transpose()?.map(|usage| usage.cpu),
        })
    }

    /// Asks the proxy to leave, so that the next one finds the store free.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.proxy.terminate()?;
        self.proxy.ended(PATIENCE).await.map(drop)
    }
}

impl Cpu {
    /// What was used since then.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            callers: self.callers.saturating_sub(before.callers),
            proxy: self.proxy.saturating_sub(before.proxy),
            function: self.function.saturating_sub(before.function),
            store: self.store.zip(before.store).map(|(now, then)| now.saturating_sub(then)),
        }
    }
}
