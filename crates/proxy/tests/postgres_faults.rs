//! The whole proxy on a real Postgres to which everything happens that happens to databases. Each time:
//! what callers get, what `/ready` says, that it goes on by itself, and that nothing acknowledged is lost.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use api::contract;
use proxy::{
    config::Config,
    journal::{
        Settings,
        postgres::{self, Secret, Tls},
    },
};
use support::{
    Stand,
    counter::{Counter, Item, Total, item},
    eventually,
};
use testbed::postgres::{NAME, Postgres};
use tokio::task::JoinSet;
use tonic::{Code, Request, Status, transport::Channel};

const UNREACHABLE: &str = "StoreUnreachable";
const PENDING: &str = "OwnershipPending";

/// Settings of a proxy on that server.
fn on(server: &Postgres, password: &str) -> impl FnOnce(&mut Config) + use<> {
    let settings = postgres::Settings {
        host: server.host(),
        port: server.port(),
        database: NAME.to_owned(),
        user: NAME.to_owned(),
        password: Secret(password.to_owned()),
        schema: None,
        tls: Tls::default(),
        create_tables: true,
    };
    move |config| {
        config.terms.store = contract::Store::Postgres;
        config.store = Settings::Postgres(Box::new(settings));
    }
}

async fn start() -> (Postgres, Stand) {
    let server = Postgres::start().await.unwrap();
    let stand = Stand::start_with(on(&server, NAME)).await;
    (server, stand)
}

/// Starts a proxy that cannot be ready yet.
fn start_unready(server: &Postgres, password: &str) -> Stand {
    let stand = Stand::start_without_waiting(Counter::default(), on(server, password));
    stand.counter.listen(stand.user_function());
    stand
}

async fn until_told(stand: &Stand, parts: &[&str]) {
    eventually(&format!("/ready tells {parts:?}"), async || {
        let told = stand.get("/ready").await;
        told.starts_with("HTTP/1.1 503") && parts.iter().all(|part| told.contains(part))
    })
    .await;
}

async fn call(channel: &Channel, method: &str, item: Item) -> Result<Total, Status> {
    let called = support::call(channel.clone(), method, Request::new(item)).await;
    called.map(tonic::Response::into_inner)
}

fn lazily(stand: &Stand) -> Channel {
    Channel::from_shared(format!("http://{}:8013", stand.address)).unwrap().connect_lazy()
}

/// Calls until the answer is a reply; everything else on the way must be UNAVAILABLE.
async fn value_at_last(stand: &Stand, method: &str, item: Item) -> i64 {
    let channel = lazily(stand);
    let mut value = None;
    eventually("a reply", async || match call(&channel, method, item.clone()).await {
        Ok(total) => {
            value = Some(total.value);
            true
        }
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            false
        }
    })
    .await;
    value.unwrap()
}

/// Callers that add one to an entity of their own, and note what they were told.
struct Load {
    callers: JoinSet<Ledger>,
    stop: Arc<AtomicBool>,
    /// Calls that were acknowledged to any of the callers.
    acknowledged: Arc<AtomicI64>,
}

/// What one caller knows.
struct Ledger {
    id: String,
    sent: i64,
    acknowledged: i64,
    /// The newest value it was told.
    told: i64,
}

impl Load {
    fn start(stand: &Stand) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicI64::new(0));
        let mut callers = JoinSet::new();
        for caller in 0..8 {
            let (channel, stop) = (lazily(stand), Arc::clone(&stop));
            let all = Arc::clone(&acknowledged);
            callers.spawn(async move {
                let id = format!("caller {caller}");
                let mut ledger = Ledger { id, sent: 0, acknowledged: 0, told: 0 };
                while !stop.load(Ordering::Relaxed) {
                    ledger.sent += 1;
                    match call(&channel, "Add", item(&ledger.id, 1)).await {
                        Ok(Total { value }) => {
                            assert!(value > ledger.told, "{value} after {}", ledger.told);
                            ledger.acknowledged += 1;
                            all.fetch_add(1, Ordering::Relaxed);
                            ledger.told = value;
                        }
                        Err(status) => {
                            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
                ledger
            });
        }
        Self { callers, stop, acknowledged }
    }

    /// Waits until so many calls were acknowledged.
    async fn until_acknowledged(&self, count: i64) {
        let enough = async || self.acknowledged.load(Ordering::Relaxed) >= count;
        eventually("calls are acknowledged", enough).await;
    }

    /// Compares every ledger with what is there; gives the number of acknowledged calls.
    async fn settle(self, stand: &Stand) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = 0;
        for ledger in self.callers.join_all().await {
            let value = value_at_last(stand, "Get", item(&ledger.id, 0)).await;
            assert!(value >= ledger.told, "{}: {value} after {}", ledger.id, ledger.told);
            assert!(value >= ledger.acknowledged && value <= ledger.sent, "{}: {value}", ledger.id);
            acknowledged += ledger.acknowledged;
        }
        acknowledged
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_until_it_is_right() {
    let server = Postgres::start().await.unwrap();
    let stand = start_unready(&server, "s3cret");
    until_told(&stand, &[UNREACHABLE, "password authentication failed", &server.host()]).await;
    assert!(!stand.get("/ready").await.contains("s3cret"));
    server.execute("ALTER ROLE cloudstate PASSWORD 's3cret'").await.unwrap();
    stand.until_ready().await;
    assert_eq!(stand.value("Add", item("a", 2)).await, 2);
}

#[tokio::test]
async fn without_a_right_what_needs_it_is_unavailable() {
    let (server, stand) = start().await;
    assert_eq!(stand.value("Add", item("a", 2)).await, 2);
    server
        .execute("ALTER TABLE cloudstate_events OWNER TO postgres; GRANT SELECT ON cloudstate_events TO cloudstate")
        .await
        .unwrap();
    let status = stand.call("Add", item("a", 3)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(stand.value("Get", item("a", 0)).await, 2, "reading needs no such right");
    assert!(stand.get("/ready").await.starts_with("HTTP/1.1 200"));
    server.execute("GRANT INSERT ON cloudstate_events TO cloudstate").await.unwrap();
    assert_eq!(stand.value("Add", item("a", 3)).await, 5);
}

#[tokio::test]
async fn a_database_that_turns_read_only_is_told_and_waited_for() {
    let (server, stand) = start().await;
    assert_eq!(stand.value("Add", item("a", 2)).await, 2);
    let read_only = async |value: &str| {
        server
            .execute(&format!("ALTER SYSTEM SET default_transaction_read_only = {value}"))
            .await
            .unwrap();
        server.execute("SELECT pg_reload_conf()").await.unwrap();
    };
    read_only("on").await;
    until_told(&stand, &[UNREACHABLE, "read-only transaction"]).await;
    let status = stand.call("Add", item("a", 3)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    // A session of the administrator's is read-only as well, unless it says otherwise.
    server
        .execute("SET default_transaction_read_only = off; ALTER SYSTEM RESET default_transaction_read_only")
        .await
        .unwrap_err();
    let client = server.client().await.unwrap();
    client.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    client.batch_execute("ALTER SYSTEM RESET default_transaction_read_only").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    stand.until_ready().await;
    assert_eq!(stand.value("Add", item("a", 3)).await, 5);
}

/// A disk of a few megabytes, mounted for as long as this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(server: &Postgres) -> Self {
        let path = server.folder("small").unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(mounted.success(), "a small disk can be mounted only by root");
        let disk = Self(path);
        server.hand_over(&disk.0).unwrap();
        disk
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Leaves no room on it.
    fn fill(&self) {
        let error = fs::write(self.ballast(), vec![0; 8 << 20]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_nothing_acknowledged_is_lost() {
    let server = Postgres::start().await.unwrap();
    let disk = SmallDisk::mount(&server);
    let stand = Stand::start_with(on(&server, NAME)).await;
    let small = disk.0.display();
    server.execute(&format!("CREATE TABLESPACE small LOCATION '{small}'")).await.unwrap();
    server.execute("ALTER TABLE cloudstate_events SET TABLESPACE small").await.unwrap();
    disk.fill();
    let mut acknowledged = 0;
    let refused = loop {
        match stand.call("Add", item("a", 1)).await {
            Ok(total) => acknowledged = total.into_inner().value,
            Err(status) => break status,
        }
        assert!(acknowledged < 2_000, "the disk is not full");
    };
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(server.log().contains("No space left on device"), "{}", server.log());
    let value = value_at_last(&stand, "Get", item("a", 0)).await;
    assert_eq!(value, acknowledged, "what was refused is not there");
    fs::remove_file(disk.ballast()).unwrap();
    assert_eq!(value_at_last(&stand, "Add", item("a", 1)).await, acknowledged + 1);
}

#[tokio::test]
async fn too_few_connections_are_told_and_what_there_is_is_used() {
    let server = Postgres::start().await.unwrap();
    server.execute("ALTER ROLE cloudstate CONNECTION LIMIT 0").await.unwrap();
    let stand = start_unready(&server, NAME);
    until_told(&stand, &[UNREACHABLE, "too many connections"]).await;
    // One for the lease, one that writes, one that reads.
    server.execute("ALTER ROLE cloudstate CONNECTION LIMIT 3").await.unwrap();
    stand.until_ready().await;
    let load = Load::start(&stand);
    load.until_acknowledged(100).await;
    server.execute("ALTER ROLE cloudstate CONNECTION LIMIT -1").await.unwrap();
    load.settle(&stand).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_sessions_lose_nothing_that_was_acknowledged() {
    let (server, stand) = start().await;
    let load = Load::start(&stand);
    for _ in 0..3 {
        // The server ends every session when one was killed, and recovers.
        assert!(server.kill_backends("cloudstate").await.unwrap() > 0);
        eventually("the server recovers", async || server.client().await.is_ok()).await;
        let probe = value_at_last(&stand, "Add", item("probe", 1)).await;
        assert!(probe > 0);
    }
    assert!(load.settle(&stand).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_told_and_what_it_acknowledged_is_there_when_it_is_back() {
    let (server, stand) = start().await;
    let load = Load::start(&stand);
    assert!(value_at_last(&stand, "Add", item("probe", 1)).await > 0);
    server.kill_postmaster().unwrap();
    until_told(&stand, &[UNREACHABLE]).await;
    let status = call(&lazily(&stand), "Add", item("probe", 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(stand.get("/alive").await.starts_with("HTTP/1.1 200"));
    server.restart().await.unwrap();
    stand.until_ready().await;
    assert!(value_at_last(&stand, "Add", item("probe", 1)).await > 1);
    assert!(load.settle(&stand).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_proxies_on_the_same_tables_one_serves() {
    let (server, first) = start().await;
    assert_eq!(first.value("Add", item("a", 2)).await, 2);
    let second = start_unready(&server, NAME);
    // The one that starts is handed the entities; it does not fight for them.
    second.until_ready().await;
    until_told(&first, &[PENDING]).await;
    assert_eq!(second.value("Add", item("a", 3)).await, 5);
    let status = call(&lazily(&first), "Add", item("a", 100)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    second.stop.cancel();
    first.until_ready().await;
    assert_eq!(first.value("Get", item("a", 0)).await, 5);
}
