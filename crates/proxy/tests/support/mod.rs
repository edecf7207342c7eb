//! A proxy under test between a scripted user function and callers, all in this process and over
//! real sockets.

#![allow(dead_code, reason = "each test program uses its part")]

pub mod counter;
pub mod desk;
pub mod raw;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use api::contract::{Store, env};
use futures::Stream;
use proxy::config::{self, Config};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use counter::{Counter, Item, Total};
use desk::Order;

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A proxy, its user function and an address of their own.
pub struct Stand {
    pub address: Ipv4Addr,
    pub counter: Counter,
    pub proxy: JoinHandle<Result<(), proxy::Error>>,
    pub stop: CancellationToken,
}

impl Stand {
    /// Starts a user function and a proxy that is ready for calls.
    pub async fn start() -> Self {
        Self::start_with(|_config| {}).await
    }

    /// The same with other settings.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let stand = Self::start_without_waiting(Counter::default(), change);
        stand.counter.listen(stand.user_function());
        stand.until_ready().await;
        stand
    }

    /// Starts a proxy only.
    pub fn start_without_waiting(counter: Counter, change: impl FnOnce(&mut Config)) -> Self {
        let address = address();
        let mut config = config(address);
        change(&mut config);
        let stop = CancellationToken::new();
        let proxy = tokio::spawn(proxy::run(config, stop.clone()));
        Self { address, counter, proxy, stop }
    }

    pub fn user_function(&self) -> SocketAddr {
        (self.address, 8080).into()
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}:8013", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }

    pub async fn until_ready(&self) {
        eventually("the proxy is ready", async || {
            self.get("/ready").await.starts_with("HTTP/1.1 200")
        })
        .await;
    }

    /// What the management port answers, head and body.
    pub async fn get(&self, path: &str) -> String {
        get(self.address, path).await
    }

    /// What a scraper reads, head and body.
    pub async fn metrics(&self) -> String {
        ask((self.address, 9090).into(), "/metrics").await
    }

    /// Calls a method of the counter.
    pub async fn call(&self, method: &str, item: Item) -> Result<Response<Total>, Status> {
        call(self.channel().await, method, Request::new(item)).await
    }

    /// The value of a counter after a call that must succeed.
    pub async fn value(&self, method: &str, item: Item) -> i64 {
        self.call(method, item).await.unwrap().into_inner().value
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What the management port at an address answers, head and body; nothing when nobody listens.
pub async fn get(address: Ipv4Addr, path: &str) -> String {
    ask((address, 8558).into(), path).await
}

async fn ask(address: SocketAddr, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return String::new();
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Calls `/counter.Counter/<method>` through a channel.
pub async fn call(
    channel: Channel,
    method: &str,
    request: Request<Item>,
) -> Result<Response<Total>, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = format!("/counter.Counter/{method}").parse().unwrap();
    let codec = ProstCodec::<Item, Total>::default();
    time::timeout(PATIENCE, grpc.unary(request, path, codec)).await.expect("no answer at all")
}

/// Calls `/counter.Desk/<method>` through a channel, with one message and one reply.
pub async fn call_desk(
    channel: Channel,
    method: &str,
    request: Request<Order>,
) -> Result<Response<Total>, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = format!("/counter.Desk/{method}").parse().unwrap();
    let codec = ProstCodec::<Order, Total>::default();
    time::timeout(PATIENCE, grpc.unary(request, path, codec)).await.expect("no answer at all")
}

/// The same for a method that streams its replies, with as many messages as there are.
pub async fn stream_desk(
    channel: Channel,
    method: &str,
    request: Request<impl Stream<Item = Order> + Send + 'static>,
) -> Result<Response<Streaming<Total>>, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = format!("/counter.Desk/{method}").parse().unwrap();
    let codec = ProstCodec::<Order, Total>::default();
    time::timeout(PATIENCE, grpc.streaming(request, path, codec)).await.expect("no answer at all")
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(time::timeout(PATIENCE, waiting).await.is_ok(), "{what}: not within {PATIENCE:?}");
}

/// A loopback address that no other test uses, so that every port on it is free.
pub fn address() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high, low, COUNT.fetch_add(1, Ordering::Relaxed))
}

pub fn config(address: Ipv4Addr) -> Config {
    let address = address.to_string();
    let environment = [
        ("CLOUDSTATE_PROXY_BIND", address.as_str()),
        (env::USER_FUNCTION_HOST, &address),
        (env::STORE, Store::InMemory.as_str()),
    ];
    let environment = environment.map(|(name, value)| (name.into(), value.into()));
    config::load(environment.into()).unwrap().config
}
