//! What the proxy holds in memory, as the kernel counts it: the real program, a user function in this
//! process, and more entities and events than one would like to keep.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{path::Path as File, time::Duration};

use api::contract::env;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use prost::Message as _;
use testbed::{
    counter::{COUNTER, Counter, Request, Total},
    load::{Connection, Path, frame},
    proxy::{Plan, Proxy},
};
use tokio::{
    net::TcpListener,
    time::{self, Instant},
};

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_mins(1);
/// Callers at once.
const CALLERS: usize = 64;
const MIB: u64 = 1 << 20;

/// A proxy before a counter that lives in this process.
async fn plan() -> Plan {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Counter::default().serve(listener));
    Plan::new(env!("CARGO_BIN_EXE_proxy"), address)
        .with(env::STORE, "in-memory")
        .with("CLOUDSTATE_PROXY_LOG_LEVEL", "error")
}

async fn start(plan: &Plan) -> (Proxy, Connection) {
    let proxy = plan.start_ready(PATIENCE).await.unwrap();
    let connection = Connection::open(proxy.calls()).await.unwrap();
    (proxy, connection)
}

async fn call(connection: &Connection, method: &str, request: &Request) -> Total {
    let path = Path::new(COUNTER, method);
    let answer = connection.call(&path, frame(request)).await.unwrap();
    assert_eq!(answer.code, 0, "{}: {}", request.id, answer.message);
    Total::decode(answer.payload).unwrap()
}

/// Reads so many entities that nobody has heard of before.
async fn open(connection: &Connection, prefix: &str, entities: usize) {
    let calls = stream::iter(0..entities).map(|entity| async move {
        let id = format!("{prefix} {entity}");
        call(connection, "Get", &Request { id, ..Request::default() }).await
    });
    assert_eq!(calls.buffer_unordered(CALLERS).count().await, entities);
}

fn memory(proxy: &Proxy) -> u64 {
    proxy.usage().unwrap().memory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_open_entities_fit_into_140_mib() {
    const ENTITIES: u64 = 10_000;
    let (proxy, connection) = start(&plan().await).await;
    open(&connection, "first", 100).await;
    let before = memory(&proxy);
    open(&connection, "open", usize::try_from(ENTITIES).unwrap()).await;
    let after = memory(&proxy);
    let each = after.saturating_sub(before) / ENTITIES;
    println!("{} MiB with {ENTITIES} open entities, {each} bytes each", after / MIB);
    assert!(after <= 140 * MIB, "{} MiB", after / MIB);
    assert!(each <= 14 * 1024, "{each} bytes for each entity");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn activations_and_passivations_leave_memory_where_it_was() {
    let plan = plan().await.with("CLOUDSTATE_PROXY_PASSIVATION_TIMEOUT", "20ms");
    let (proxy, connection) = start(&plan).await;
    open(&connection, "first", 2_000).await;
    let before = memory(&proxy);
    open(&connection, "then", 24_000).await;
    let end = Instant::now() + PATIENCE;
    let most = before + 4 * MIB;
    while memory(&proxy) > most && Instant::now() < end {
        time::sleep(Duration::from_millis(50)).await;
    }
    let after = memory(&proxy);
    println!("{} KiB before and {} KiB after 24,000 activations", before >> 10, after >> 10);
    assert!(after <= most, "{} KiB before, {} KiB after", before >> 10, after >> 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_holds_a_small_part_of_the_history() {
    const REPLIES: u32 = 100;
    const EVENTS: u32 = 1_000;
    let folder = testbed::scratch::folder("cloudstate-proxy-").unwrap();
    let plan = on_file(plan().await, folder.path());
    let (mut proxy, connection) = start(&plan).await;
    let data = Bytes::from(vec![7; 100]);
    let id = "long".to_owned();
    let add = Request { id: id.clone(), amount: 1, events: EVENTS, data, ..Request::default() };
    for _ in 0..REPLIES {
        call(&connection, "Add", &add).await;
    }
    proxy.kill().await.unwrap();

    let (proxy, connection) = start(&plan).await;
    let other = Request { id: "other".to_owned(), ..Request::default() };
    call(&connection, "Get", &other).await;
    let before = memory(&proxy);
    let total = call(&connection, "Get", &Request { id, ..Request::default() }).await;
    assert_eq!(total.value, i64::from(REPLIES * EVENTS));
    let peak = proxy.usage().unwrap().memory_peak;
    println!("{} KiB before, at most {} KiB while 100,000 events replay", before >> 10, peak >> 10);
    assert!(peak <= before + 32 * MIB, "{} KiB before, {} KiB at most", before >> 10, peak >> 10);
}

fn on_file(plan: Plan, folder: &File) -> Plan {
    plan.with(env::STORE, "sqlite").with("CLOUDSTATE_SQLITE_PATH", folder.join("journal.db"))
}
