//! Connections that get old, with a client that does what gRPC wants of one: a call that the proxy has said it
//! never began goes to the next connection.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioIo},
};
use prost::Message as _;
use support::{
    PATIENCE, Stand,
    counter::{Item, Total, item},
    eventually,
    raw::framed,
};
use tokio::{net::TcpStream, time};
use tower::util::BoxCloneSyncService;

type Connector = BoxCloneSyncService<Uri, TokioIo<TcpStream>, std::io::Error>;

/// Keeps one connection, and opens another one when that is told to go away.
#[derive(Clone)]
struct Client {
    http: legacy::Client<Connector, Full<Bytes>>,
    host: String,
    opened: Arc<AtomicUsize>,
    /// Calls that went to another connection since the proxy never began them on theirs.
    moved: Arc<AtomicUsize>,
}

impl Client {
    fn new(stand: &Stand) -> Self {
        let opened = Arc::new(AtomicUsize::new(0));
        let (host, count) = (format!("{}:8013", stand.address), Arc::clone(&opened));
        let place = host.clone();
        let connector = tower::service_fn(move |_uri: Uri| {
            let (place, count) = (place.clone(), Arc::clone(&count));
            async move {
                let stream = TcpStream::connect(place).await?;
                stream.set_nodelay(true)?;
                count.fetch_add(1, Ordering::SeqCst);
                Ok(TokioIo::new(stream))
            }
        });
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        let http = builder.http2_only(true).build(BoxCloneSyncService::new(connector));
        Self { http, host, opened, moved: Arc::default() }
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// The value of a counter after a call that must succeed.
    async fn call(&self, method: &str, item: &Item) -> i64 {
        let answer = time::timeout(PATIENCE, self.answer(method, item)).await.expect("no answer");
        let body = answer.collect().await.unwrap();
        let status = body.trailers().and_then(|trailers| trailers.get("grpc-status")).unwrap();
        assert_eq!(status, "0", "{:?}", body.trailers());
        Total::decode(body.to_bytes().slice(5..)).unwrap().value
    }

    async fn answer(&self, method: &str, item: &Item) -> hyper::body::Incoming {
        loop {
            let request = Request::post(format!("http://{}/counter.Counter/{method}", self.host))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(framed(&item.encode_to_vec())))
                .unwrap();
            match self.http.request(request).await {
                Ok(answer) => return answer.into_body(),
                Err(error) if was_never_begun(&error) => {
                    self.moved.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => panic!("{method} {:?}: {error:?}", item.id),
            }
        }
    }
}

/// A GOAWAY names the last call that the other side takes; those behind it are as if they had never been sent
/// (RFC 9113, section 6.8).
fn was_never_begun(error: &legacy::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            let away = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            return error.is_remote() && (refused || away);
        }
        cause = error.source();
    }
    false
}

#[tokio::test]
async fn callers_with_old_connections_open_new_ones_and_no_call_is_broken() {
    const CALLERS: usize = 4;
    const CONNECTIONS: usize = 6;
    let stand = Stand::start_with(|config| {
        config.edge.connection_age = Some(Duration::from_millis(100));
    })
    .await;
    let client = Client::new(&stand);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.call("Wait", &item("held", 0)).await }
    });
    eventually("a call is under way", async || {
        stand.counter.seen().iter().any(|what| what.ends_with("Wait"))
    })
    .await;
    let calling = (0..CALLERS).map(async |caller| {
        let (id, mut calls) = (format!("caller {caller}"), 0);
        while client.opened() < CONNECTIONS || calls == 0 {
            calls += 1;
            // Each call was carried out, and once.
            assert_eq!(client.call("Add", &item(&id, 1)).await, calls, "{id}");
        }
        calls
    });
    let calls = time::timeout(PATIENCE, join_all(calling)).await.expect("connections stay");
    assert!(!waiting.is_finished(), "the call on the first connection goes on");
    stand.counter.go();
    waiting.await.unwrap();
    let moved = client.moved.load(Ordering::SeqCst);
    println!("{calls:?} calls on {} connections, {moved} moved", client.opened());
}

#[tokio::test]
async fn connections_stay_unless_an_age_is_said() {
    let stand = Stand::start().await;
    let client = Client::new(&stand);
    for calls in 1..=20 {
        assert_eq!(client.call("Add", &item("a", 1)).await, calls);
    }
    assert_eq!(client.opened(), 1);
}
