//! One HTTP/2 connection: opened, used, and cut when nobody answers on it.

use std::{
    io,
    net::{Shutdown, TcpStream as StdTcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{
    Uri,
    uri::{Authority, InvalidUri},
};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time};
use tonic::body::Body;

/// Each entity holds a stream; a small window bounds what one of them can make us hold.
const STREAM_WINDOW: u32 = 64 * 1024;
/// What all streams of the connection together may have under way.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// How often a fresh connection is asked whether the peer's settings have come: hyper has no event for it.
const SETTINGS_POLL: Duration = Duration::from_millis(1);
/// How often an old one is asked whether they have changed.
const SETTINGS_REFRESH: Duration = Duration::from_secs(1);

/// Where the user function listens.
#[derive(Clone, Debug)]
pub(super) struct Target(Authority);

impl Target {
    pub(super) fn parse(address: &str) -> Result<Self, InvalidUri> {
        Ok(Self(address.parse()?))
    }

    pub(super) fn address(&self) -> &str {
        self.0.as_str()
    }

    /// The absolute form of a path, which HTTP/2 wants.
    pub(super) fn uri(&self, path: &Uri) -> Uri {
        let mut parts = path.clone().into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(self.0.clone());
        Uri::from_parts(parts).expect("a path of gRPC is a path")
    }
}

/// An open connection.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<Body>,
    pub(super) streams: Arc<Streams>,
    socket: Arc<StdTcpStream>,
}

/// How many streams a connection has and may have.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: AtomicUsize,
    max: AtomicUsize,
}

impl Streams {
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn has_room(&self) -> bool {
        self.open() < self.max.load(Ordering::Relaxed)
    }
}

/// One stream's place on its connection; given back on drop.
#[derive(Debug)]
pub(super) struct Place(Arc<Streams>);

impl Place {
    pub(super) fn on(streams: &Arc<Streams>) -> Self {
        streams.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    /// Opens a connection, and waits until the peer has spoken: a process that hangs still gets its
    /// connections accepted by the kernel. The future runs the connection until it ends.
    ///
    /// # Errors
    /// Why it could not be opened.
    pub(super) async fn open(
        target: &Target,
    ) -> io::Result<(Self, impl Future<Output = hyper::Result<()>> + Send + use<>)> {
        let stream = TcpStream::connect(target.address()).await?;
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let socket = Arc::new(stream.try_clone()?);
        let (sender, mut driver) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            // None until the peer says how many, or that there is no bound.
            .initial_max_send_streams(0)
            .handshake::<_, Body>(TokioIo::new(TcpStream::from_std(stream)?))
            .await
            .map_err(io::Error::other)?;
        let mut poll = time::interval(SETTINGS_POLL);
        while driver.current_max_send_streams() == 0 {
            tokio::select! {
                ended = &mut driver => {
                    let text = "the connection was closed before HTTP/2 was spoken on it";
                    return Err(ended.err().map_or_else(|| io::Error::other(text), io::Error::other));
                }
                _ = poll.tick() => {}
            }
        }
        let streams = Arc::new(Streams::default());
        streams.max.store(driver.current_max_send_streams(), Ordering::Relaxed);
        let seen = Arc::clone(&streams);
        let run = async move {
            let mut refresh = time::interval(SETTINGS_REFRESH);
            loop {
                tokio::select! {
                    ended = &mut driver => return ended,
                    _ = refresh.tick() => {
                        seen.max.store(driver.current_max_send_streams(), Ordering::Relaxed);
                    }
                }
            }
        };
        Ok((Self { sender, streams, socket }, run))
    }

    /// Ends the connection under whatever is still on it.
    pub(super) fn cut(&self) {
        // It fails only when the connection has ended already.
        drop(self.socket.shutdown(Shutdown::Both));
    }
}
