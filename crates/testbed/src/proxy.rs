//! The proxy as a process of its own, at an address where every port is free.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    ops::{Deref, DerefMut},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use api::contract::{env, port, probe};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
    time::{self, Instant},
};

use crate::process::{Process, own_address};

const BIND: &str = "CLOUDSTATE_PROXY_BIND";
/// Between two looks at whether a state is reached.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// A proxy that runs; derefs to its [`Process`].
#[derive(Debug)]
pub struct Proxy {
    process: Process,
    address: Ipv4Addr,
}

/// How to start a proxy; the same plan can be carried out again after a kill.
#[derive(Clone, Debug)]
pub struct Plan {
    program: OsString,
    address: Ipv4Addr,
    environment: Vec<(OsString, OsString)>,
}

impl Plan {
    /// A proxy in front of a user function, at an address of its own and without a store.
    pub fn new(program: impl AsRef<Path>, user_function: SocketAddr) -> Self {
        let address = own_address();
        let plan = Self { program: program.as_ref().into(), address, environment: Vec::new() };
        plan.with(BIND, address.to_string())
            .with(env::USER_FUNCTION_HOST, user_function.ip().to_string())
            .with(env::USER_FUNCTION_PORT, user_function.port().to_string())
            .with(env::STORE, "none")
            .with("CLOUDSTATE_PROXY_LOG_LEVEL", "info")
    }

    /// The same at another address.
    #[must_use]
    pub fn moved(mut self) -> Self {
        self.address = own_address();
        let address = self.address.to_string();
        self.with(BIND, address)
    }

    /// The same with one more variable, or another value of it.
    #[must_use]
    pub fn with(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        let name = name.into();
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value.into()));
        self
    }

    /// Where callers go.
    pub fn calls(&self) -> SocketAddr {
        (self.address, port::PROXY).into()
    }

    /// Starts it; nothing but the plan's variables reaches it.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn start(&self) -> Result<Proxy> {
        let mut command = Command::new(&self.program);
        command.env_clear().envs(self.environment.iter().cloned());
        Ok(Proxy { process: Process::start(command)?, address: self.address })
    }

    /// Starts it and waits until it serves calls.
    ///
    /// # Errors
    /// As [`Proxy::until_ready`].
    pub async fn start_ready(&self, limit: Duration) -> Result<Proxy> {
        let mut proxy = self.start()?;
        proxy.until_ready(limit).await?;
        Ok(proxy)
    }
}

impl Proxy {
    /// Where callers go.
    pub fn calls(&self) -> SocketAddr {
        (self.address, port::PROXY).into()
    }

    /// Where health is asked for.
    pub fn management(&self) -> SocketAddr {
        (self.address, port::MANAGEMENT).into()
    }

    /// Waits until `/ready` says yes.
    ///
    /// # Errors
    /// When it ended, or still says no after `limit`; with its last answer and its log.
    pub async fn until_ready(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let answer = self.get(probe::READY).await;
            if matches!(&answer, Ok(answer) if answer.starts_with("HTTP/1.1 200")) {
                return Ok(());
            }
            if Instant::now() >= end || !self.is_running() {
                let answer = answer.unwrap_or_else(|error| format!("{error:#}"));
                anyhow::bail!(
                    "the proxy is not ready after {limit:?}, running: {}; {answer}; its log:\n{}",
                    self.is_running(),
                    self.log()
                );
            }
            time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What the management port answers, head and body.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn get(&self, path: &str) -> Result<String> {
        let address = self.management();
        let asking = async {
            let mut stream = TcpStream::connect(address).await?;
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = time::timeout(LOOK_TIMEOUT, asking).await;
        answer.context("no answer in time")?.with_context(|| format!("failed to ask {address}"))
    }
}

impl Deref for Proxy {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Proxy {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}
