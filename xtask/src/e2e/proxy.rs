//! The API server over plain HTTP, for requests by the hundred: `kubectl proxy` says who we are.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Stdio},
    time::Duration,
};

use anyhow::Context as _;

use super::{
    cluster::Cluster,
    http::{self, Answer, Request},
};

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A way to the API server, as an administrator. Closed with this.
pub(super) struct Proxy {
    child: Child,
    address: SocketAddr,
    /// While it is open, kubectl may write what it does.
    _output: BufReader<ChildStdout>,
}

impl Proxy {
    /// Opens it on a port that is free.
    pub(super) fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut child = cluster
            .kubectl()
            .args(["proxy", "--port=0"])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run kubectl proxy")?;
        let mut output = BufReader::new(child.stdout.take().context("it has no output")?);
        let mut line = String::new();
        output.read_line(&mut line).context("cannot read what kubectl proxy says")?;
        match line.trim().rsplit(' ').next().unwrap_or_default().parse() {
            Ok(address) => Ok(Self { child, address, _output: output }),
            Err(error) => {
                child.kill().and_then(|()| child.wait()).context("cannot end kubectl proxy")?;
                Err(error).with_context(|| format!("kubectl proxy says {line:?}"))
            }
        }
    }

    /// One request, made once.
    pub(super) fn send(&self, request: Request<'_>) -> anyhow::Result<Answer> {
        http::send(self.address, request, LIMIT)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // That it is gone already is as good.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
