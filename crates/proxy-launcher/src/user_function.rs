//! Asks the user function whether it is there: how, how often, and from when on it counts as gone.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{HeaderMap, Request, StatusCode, client::conn::http2, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{self, TcpStream},
    sync::mpsc,
    time::{self, Instant},
};

use crate::board::Board;

/// Right after a start or a loss an answer is expected soon, and waiting costs calls.
const FAST: Duration = Duration::from_millis(25);
const FAST_FOR: Duration = Duration::from_secs(5);
/// While it is there.
const STEADY: Duration = Duration::from_secs(1);
/// After the first failure of one that was there: is it really gone?
const DOUBT: Duration = Duration::from_millis(100);
/// Names are meant for development; the resolver must not hold the probes up.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
const BODY_MAX: usize = 4 * 1024 * 1024;

/// How the user function is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It accepts a connection.
    Tcp,
    /// It also speaks HTTP/2: a socket may listen long before its program answers.
    Http2,
    /// It serves `grpc.health.v1.Health` and says SERVING.
    GrpcHealth,
    /// It answers the protocol's own `discover`. Support libraries log each call, so only by choice.
    Discovery,
}

impl Probe {
    /// Every probe, for error messages.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Http2, Self::GrpcHealth, Self::Discovery];

    /// Its name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http2 => "http2",
            Self::GrpcHealth => "grpc-health",
            Self::Discovery => "discovery",
        }
    }
}

/// How often it is asked, and when it counts as gone.
#[derive(Clone, Debug)]
pub struct Cadence {
    /// Between two questions while it has not been there for a while.
    pub interval: Duration,
    /// How long one answer may take.
    pub timeout: Duration,
    /// Failures in a row after which it is gone.
    pub down_after: u32,
}

/// What is known of the user function. Pure: time comes in.
#[derive(Debug)]
struct Watch {
    cadence: Cadence,
    up: bool,
    failures: u32,
    fast_until: Duration,
}

impl Watch {
    fn new(cadence: Cadence) -> Self {
        Self { cadence, up: false, failures: 0, fast_until: FAST_FOR }
    }

    /// Takes the outcome of a question in; gives the new fact when it changed.
    fn record(&mut self, answered: bool, now: Duration) -> Option<bool> {
        if answered {
            self.failures = 0;
            return (!std::mem::replace(&mut self.up, true)).then_some(true);
        }
        self.failures = self.failures.saturating_add(1);
        if !self.up || self.failures < self.cadence.down_after {
            return None;
        }
        self.up = false;
        self.fast_until = now.saturating_add(FAST_FOR);
        Some(false)
    }

    /// How long to wait with the next question.
    fn pause(&self, now: Duration) -> Duration {
        match (self.up, self.failures) {
            (true, 0) => STEADY,
            (true, _) => DOUBT,
            (false, _) if now < self.fast_until => FAST,
            (false, _) => self.cadence.interval,
        }
    }
}

/// Where the user function listens.
#[derive(Clone, Debug)]
pub struct Target {
    /// Address or name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Asks again and again, and tells each change, for as long as somebody listens.
///
/// # Cancel safety
/// May be dropped at any point: a question in flight is then forgotten.
pub async fn watch(
    target: Target,
    probe: Probe,
    cadence: Cadence,
    changes: mpsc::Sender<bool>,
    board: Arc<Board>,
) {
    let timeout = cadence.timeout;
    let mut watch = Watch::new(cadence);
    let started = Instant::now();
    loop {
        let asked = Instant::now();
        let answered = matches!(time::timeout(timeout, ask(&target, probe)).await, Ok(Ok(())));
        board.note(|facts| facts.user_function_probes.observe(asked.elapsed()));
        if let Some(up) = watch.record(answered, started.elapsed())
            && changes.send(up).await.is_err()
        {
            return;
        }
        tokio::select! {
            () = time::sleep(watch.pause(started.elapsed())) => {}
            () = changes.closed() => return,
        }
    }
}

async fn ask(target: &Target, probe: Probe) -> io::Result<()> {
    let stream = connect(target).await?;
    match probe {
        Probe::Tcp => Ok(()),
        Probe::Http2 => ask_http2(stream).await,
        Probe::GrpcHealth => {
            /// `HealthCheckResponse { status: SERVING }`.
            const SERVING: &[u8] = &[0x08, 1];
            match call(stream, "/grpc.health.v1.Health/Check", &[]).await?.get(..SERVING.len()) {
                Some(SERVING) => Ok(()),
                _ => Err(io::Error::other("not serving")),
            }
        }
        // `ProxyInfo { protocol_minor_version: 2 }`: the least that a library may want to see.
        Probe::Discovery => {
            call(stream, "/cloudstate.EntityDiscovery/discover", &[0x10, 2]).await.map(drop)
        }
    }
}

async fn connect(target: &Target) -> io::Result<TcpStream> {
    let lookup = net::lookup_host((target.host.as_str(), target.port));
    let addresses: Vec<SocketAddr> = time::timeout(RESOLVE_TIMEOUT, lookup).await??.collect();
    TcpStream::connect(&addresses[..]).await
}

/// Exchanges the first frames of HTTP/2 (RFC 9113, 3.4): whoever answers with SETTINGS speaks it.
async fn ask_http2(mut stream: TcpStream) -> io::Result<()> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: u8 = 4;
    const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];
    stream.write_all(PREFACE).await?;
    stream.write_all(&EMPTY_SETTINGS).await?;
    let mut frame_head = [0; 9];
    stream.read_exact(&mut frame_head).await?;
    if frame_head[3] == SETTINGS { Ok(()) } else { Err(io::Error::other("no SETTINGS frame")) }
}

/// One unary gRPC call; gives the message of a reply with status OK.
async fn call(stream: TcpStream, path: &'static str, message: &[u8]) -> io::Result<Bytes> {
    const FRAME_HEAD: usize = 5;
    let length = u32::try_from(message.len()).expect("a probe's message is a few bytes");
    let frame = [&[0], &length.to_be_bytes()[..], message].concat();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let request = Request::post(format!("http://user-function{path}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(Bytes::from(frame)))
        .map_err(io::Error::other)?;
    let question = async move {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        if response.status() != StatusCode::OK {
            return Err(io::Error::other(response.status().to_string()));
        }
        let headers = response.headers().clone();
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(io::Error::other)?;
        let is_ok = |of: &HeaderMap| of.get("grpc-status").is_some_and(|status| status == "0");
        if !is_ok(&headers) && !body.trailers().is_some_and(is_ok) {
            return Err(io::Error::other("not OK"));
        }
        let mut bytes = body.to_bytes();
        Ok(bytes.split_off(FRAME_HEAD.min(bytes.len())))
    };
    // The connection does the work that the question waits for.
    tokio::select! {
        answer = question => answer,
        end = connection => Err(end.err().map_or_else(|| io::ErrorKind::UnexpectedEof.into(), io::Error::other)),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::{Response, body::Incoming, server::conn as server, service::service_fn};

    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    fn watch() -> Watch {
        Watch::new(Cadence {
            interval: Duration::from_millis(250),
            timeout: Duration::from_millis(500),
            down_after: 3,
        })
    }

    /// Serves one gRPC answer over and over, and gives where.
    async fn serves(message: &'static [u8], status: &'static str) -> Target {
        let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service_fn(move |_request: Request<Incoming>| async move {
                    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                    let frame = [&[0], &length[..], message].concat();
                    let trailers = HeaderMap::from_iter([(
                        header::HeaderName::from_static("grpc-status"),
                        header::HeaderValue::from_static(status),
                    )]);
                    let body = Full::new(Bytes::from(frame))
                        .with_trailers(std::future::ready(Some(Ok(trailers))));
                    Ok::<_, Infallible>(Response::new(body))
                });
                tokio::spawn(
                    server::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Target { host: "localhost".to_owned(), port }
    }

    #[tokio::test]
    async fn each_probe_asks_its_own_question() {
        let serving = serves(&[0x08, 1], "0").await;
        for probe in Probe::ALL {
            ask(&serving, probe).await.unwrap();
        }
        let not_serving = serves(&[0x08, 2], "0").await;
        ask(&not_serving, Probe::Http2).await.unwrap();
        ask(&not_serving, Probe::Discovery).await.unwrap();
        ask(&not_serving, Probe::GrpcHealth).await.unwrap_err();
        let without_health = serves(&[], "12").await;
        ask(&without_health, Probe::Http2).await.unwrap();
        ask(&without_health, Probe::GrpcHealth).await.unwrap_err();
        ask(&without_health, Probe::Discovery).await.unwrap_err();
    }

    #[tokio::test]
    async fn nobody_there_is_a_failure_of_every_probe() {
        let unused = net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let target = Target { host: "127.0.0.1".to_owned(), port: unused.port() };
        for probe in Probe::ALL {
            ask(&target, probe).await.unwrap_err();
        }
    }

    #[test]
    fn one_answer_makes_it_there_and_three_failures_make_it_gone() {
        let mut watch = watch();
        assert_eq!(watch.record(false, SEC), None);
        assert_eq!(watch.record(true, SEC), Some(true));
        assert_eq!(watch.record(true, SEC), None);
        for _ in 0..2 {
            assert_eq!(watch.record(false, 2 * SEC), None);
        }
        assert_eq!(watch.record(true, 2 * SEC), None, "a hiccup");
        for _ in 0..2 {
            assert_eq!(watch.record(false, 3 * SEC), None);
        }
        assert_eq!(watch.record(false, 3 * SEC), Some(false));
        assert_eq!(watch.record(true, 3 * SEC), Some(true));
    }

    #[test]
    fn questions_come_fast_when_an_answer_is_expected_soon() {
        let mut watch = watch();
        assert_eq!(watch.pause(Duration::ZERO), FAST);
        assert_eq!(watch.pause(6 * SEC), watch.cadence.interval);
        watch.record(true, 6 * SEC);
        assert_eq!(watch.pause(6 * SEC), STEADY);
        watch.record(false, 7 * SEC);
        assert_eq!(watch.pause(7 * SEC), DOUBT);
        watch.record(false, 7 * SEC);
        watch.record(false, 7 * SEC);
        assert_eq!(watch.pause(8 * SEC), FAST);
        assert_eq!(watch.pause(13 * SEC), watch.cadence.interval);
    }
}
