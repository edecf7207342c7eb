//! What is killed, and how it comes back.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use api::contract::probe;
use clap::ValueEnum;
use testbed::{
    counter::Counter,
    ledger::Fence,
    load::Chance,
    postgres::Postgres,
    process::{Process, own_address, program},
    proxy::{Plan, Proxy},
};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use crate::{callers::Target, journal::next_transaction};

/// How long anything may take to come back.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// How long an owner that stood still may take to say that it is not ready.
const TO_NOTICE: Duration = Duration::from_secs(10);
/// Events per snapshot, few so that most activations begin with one.
const SNAPSHOT_EVERY: u32 = 7;
/// Name of the proxy's connections in Postgres.
const APPLICATION: &str = "cloudstate";

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// The proxy, with SIGKILL.
    Proxy,
    /// The user function, with SIGKILL.
    Function,
    /// Every Postgres backend of the proxy, with SIGKILL: Postgres ends all others, and recovers.
    Backend,
    /// The whole of Postgres, with SIGKILL.
    Postmaster,
    /// The proxy stands still until another one owns its entities, then goes on.
    Zombie,
}

/// Every kind, as often as it is to come.
pub(crate) const ALL: [Kind; 12] = [
    Kind::Proxy,
    Kind::Proxy,
    Kind::Function,
    Kind::Function,
    Kind::Function,
    Kind::Function,
    Kind::Backend,
    Kind::Backend,
    Kind::Backend,
    Kind::Postmaster,
    Kind::Postmaster,
    Kind::Zombie,
];

/// Everything that runs, and can be killed.
pub(crate) struct Victims {
    pub(crate) postgres: Postgres,
    function: Process,
    function_address: SocketAddr,
    plan: Plan,
    /// The same proxy at another address, for when there are two.
    spare: Plan,
    proxy: Proxy,
    /// Number of the proxy that is called now.
    number: u32,
    target: watch::Sender<Target>,
    pub(crate) fences: Vec<Fence>,
}

impl Victims {
    /// Starts everything.
    pub(crate) async fn start() -> Result<Self> {
        let postgres = Postgres::start_on_disk().await.context("failed to start Postgres")?;
        // A port of its own, so that nobody takes it between two lives.
        let address = (own_address(), 8080).into();
        let (function, function_address) = counter().start(address).await?;
        let mut plan = Plan::new(program("proxy")?, function_address);
        for (name, value) in postgres.environment() {
            plan = plan.with(name, value);
        }
        let proxy = plan.start_ready(PATIENCE).await?;
        let (target, _) = watch::channel((plan.calls(), 1));
        let (spare, number, fences) = (plan.clone().moved(), 1, Vec::new());
        Ok(Self {
            postgres,
            function,
            function_address,
            plan,
            spare,
            proxy,
            number,
            target,
            fences,
        })
    }

    /// Where callers are to go.
    pub(crate) fn target(&self) -> watch::Receiver<Target> {
        self.target.subscribe()
    }

    /// Kills, and starts again what does not do so by itself.
    pub(crate) async fn kill(&mut self, kind: Kind) -> Result<()> {
        match kind {
            Kind::Proxy => {
                self.proxy.kill().await?;
                self.proxy = self.plan.start()?;
                self.called_now();
            }
            Kind::Function => {
                self.function.kill().await?;
                self.function = counter().start(self.function_address).await?.0;
            }
            Kind::Backend => {
                self.until_postgres_answers().await?;
                let begun = Instant::now();
                // Right after another kill the proxy may not have connected again.
                while self.postgres.kill_backends(APPLICATION).await? == 0 {
                    ensure!(begun.elapsed() < PATIENCE, "the proxy does not connect to Postgres");
                    time::sleep(Duration::from_millis(5)).await;
                }
            }
            Kind::Postmaster => {
                self.postgres.kill_postmaster()?;
                self.postgres.restart().await?;
            }
            Kind::Zombie => self.zombie().await?,
        }
        Ok(())
    }

    async fn zombie(&mut self) -> Result<()> {
        self.proxy.pause().await?;
        let next = self.spare.start_ready(PATIENCE).await?;
        self.until_postgres_answers().await?;
        let transaction = next_transaction(&self.postgres).await?;
        self.fences.push(Fence { transaction, via: self.number });
        let mut zombie = std::mem::replace(&mut self.proxy, next);
        std::mem::swap(&mut self.plan, &mut self.spare);
        self.called_now();
        zombie.resume()?;
        // It must notice by itself; until then it may answer what it is asked, if the answer is right.
        let begun = Instant::now();
        while zombie.get(probe::READY).await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
        {
            ensure!(begun.elapsed() < TO_NOTICE, "two proxies say that they are ready");
            time::sleep(Duration::from_millis(5)).await;
        }
        zombie.kill().await
    }

    /// An entity may have answered while Postgres still recovers from the kill before.
    async fn until_postgres_answers(&self) -> Result<()> {
        let begun = Instant::now();
        while let Err(error) = self.postgres.client().await {
            if begun.elapsed() > PATIENCE {
                return Err(error.context("Postgres does not come back"));
            }
            time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Calls go to the proxy that was started last.
    fn called_now(&mut self) {
        self.number += 1;
        self.target.send_replace((self.plan.calls(), self.number));
    }

    /// Asks the proxy to leave in good order, so that nothing is under way any more.
    pub(crate) async fn end(&mut self) -> Result<()> {
        self.until_postgres_answers().await?;
        self.proxy.terminate()?;
        let status = self.proxy.ended(PATIENCE).await?;
        ensure!(status.success(), "the proxy ended with {status}: {}", self.proxy.log());
        Ok(())
    }

    /// What the proxy said last.
    pub(crate) fn log(&self) -> String {
        self.proxy.log()
    }
}

fn counter() -> Counter {
    Counter { snapshot_every: SNAPSHOT_EVERY }
}

/// One kind, as chance has it.
pub(crate) fn choose(kinds: &[Kind], chance: &mut Chance) -> Kind {
    kinds[chance.below(kinds.len())]
}
