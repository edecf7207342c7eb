//! A wire that can be cut, or made to swallow what goes through it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How a wire behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    /// Bytes vanish, and nobody is told.
    Silent,
    /// Connections are reset, and new ones as well.
    Cut,
}

/// Passes TCP on to a server. Clones are the same wire.
#[derive(Clone, Debug)]
pub struct Relay {
    address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
}

impl Relay {
    /// A wire to that address, and what has to be polled so that it works.
    ///
    /// # Errors
    /// When no port of loopback can be had.
    pub async fn new(to: SocketAddr) -> io::Result<(Self, impl Future<Output = io::Result<()>>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mode = Arc::new(watch::Sender::new(Mode::Open));
        let relay = Self { address: listener.local_addr()?, mode: Arc::clone(&mode) };
        Ok((relay, accept(listener, to, mode)))
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes everything on. What vanished stays away, and connections from then stay silent.
    pub fn open(&self) {
        self.mode.send_replace(Mode::Open);
    }

    /// Swallows everything from now on, on connections that exist and on new ones.
    pub fn swallow(&self) {
        self.mode.send_replace(Mode::Silent);
    }

    /// Breaks all connections, and each new one, until it is opened again.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }
}

async fn accept(
    listener: TcpListener,
    to: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
) -> io::Result<()> {
    let mut pairs = JoinSet::new();
    loop {
        while pairs.try_join_next().is_some() {}
        let (client, _) = listener.accept().await?;
        let mut seen = mode.subscribe();
        if *seen.borrow_and_update() == Mode::Cut {
            continue;
        }
        pairs.spawn(async move {
            let server = TcpStream::connect(to).await?;
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let mut cut = seen.clone();
            tokio::select! {
                _ = cut.wait_for(|mode| *mode == Mode::Cut) => Ok(()),
                ended = pass(from_client, to_server, seen.clone()) => ended,
                ended = pass(from_server, to_client, seen) => ended,
            }
        });
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    let mut has_lost = false;
    loop {
        let count = from.read(&mut buffer).await?;
        // Half of what was said is worse than nothing: once silent, always silent.
        has_lost |= *mode.borrow() == Mode::Silent;
        if count == 0 && !has_lost {
            return Ok(());
        }
        if count == 0 {
            return std::future::pending().await;
        }
        if !has_lost {
            to.write_all(&buffer[..count]).await?;
        }
    }
}
