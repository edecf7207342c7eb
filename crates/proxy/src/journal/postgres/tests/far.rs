//! A server at the end of a slow way.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use testbed::process::own_address;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::*;

/// Passes bytes on to a server and back, each piece after so many milliseconds.
async fn relay(server: &Server, way: &Arc<AtomicU64>) -> String {
    let (host, port) = (own_address().to_string(), server.port());
    let listener = TcpListener::bind((host.as_str(), port)).await.unwrap();
    let (target, way) = ((server.host(), port), Arc::clone(way));
    tokio::spawn(async move {
        loop {
            let (from_us, to_us) = listener.accept().await.unwrap().0.into_split();
            let there = TcpStream::connect(target.clone()).await.unwrap();
            let (from_server, to_server) = there.into_split();
            tokio::spawn(pass(from_us, to_server, Arc::clone(&way)));
            tokio::spawn(pass(from_server, to_us, Arc::clone(&way)));
        }
    });
    host
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Arc<AtomicU64>,
) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        sleep(Duration::from_millis(way.load(Ordering::Relaxed))).await;
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_connection_that_takes_longer_than_a_question_may_is_there_for_the_next_one() {
    /// As the keeper of the lease has it.
    const QUESTION: Duration = Duration::from_secs(1);
    let server = Server::start().await.unwrap();
    let way = Arc::default();
    let host = relay(&server, &way).await;
    let store = Postgres::open(Settings { host, ..settings(&server) }, "cart").await.unwrap();
    // An opening takes seven ways there and back, a question two.
    way.store(100, Ordering::Relaxed);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name = 'cloudstate'";
    server.execute(end).await.unwrap();
    let mut given_up = 0;
    while !matches!(timeout(QUESTION, store.lease(Shard::WHOLE)).await, Ok(Ok(_))) {
        given_up += 1;
        assert!(given_up < 100, "every question begins anew");
        sleep(Duration::from_millis(100)).await;
    }
    assert!(given_up > 0, "the way is not slow");
}
