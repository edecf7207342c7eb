//! Wires that are cut, wires that swallow everything, and objects that nobody can read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::ListParams;
use operator::connect;
use scripted_api::{Fault, Relay, Server, Store, Verb};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::world::{PLAIN, empty, key, operator_of, rest, run_during, service};

fn with_image(image: &str) -> Value {
    service("cart", &json!({ "containers": [{ "image": image }] }))
}

/// Returns once the Deployment has that image.
async fn has_image(server: &Server, image: &str) {
    server
        .until(|store| {
            store.get(&key("Deployment", "cart-deployment")).is_some_and(|found| {
                found["spec"]["template"]["spec"]["containers"][0]["image"] == image
            })
        })
        .await;
}

/// An operator over a real connection, and the wire in between.
struct Wired {
    server: Server,
    relay: Relay,
    tasks: JoinSet<()>,
}

impl Wired {
    async fn start() -> Self {
        let server = Server::new(empty());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (relay, wire) = Relay::new(listener.local_addr().unwrap()).await.unwrap();
        let mut tasks = JoinSet::new();
        let serving = server.clone();
        tasks.spawn(async move { serving.serve(listener).await.unwrap() });
        tasks.spawn(async move { wire.await.unwrap() });
        let url = format!("http://{}", relay.address()).parse().unwrap();
        let client = connect(kube::Config::new(url)).unwrap();
        tasks.spawn(
            async move { panic!("the operator ended: {:?}", operator_of(client, PLAIN).await) },
        );
        let this = Self { server, relay, tasks };
        this.change("cart:1", Duration::from_secs(10)).await;
        this
    }

    /// Changes the service, and says how long it takes until its Deployment follows.
    async fn change(&self, image: &str, limit: Duration) -> Duration {
        let begin = Instant::now();
        self.server.with(|store| drop(store.put(&with_image(image))));
        let followed = tokio::time::timeout(limit, has_image(&self.server, image)).await;
        assert!(followed.is_ok(), "{image} is not there after {limit:?}");
        begin.elapsed()
    }
}

#[tokio::test]
async fn after_a_cut_it_goes_on_at_once() {
    let mut wired = Wired::start().await;
    wired.relay.cut();
    tokio::time::sleep(Duration::from_secs(3)).await;
    wired.relay.open();
    let took = wired.change("cart:2", Duration::from_secs(8)).await;
    println!("{took:?} after a cut of 3 s");
    assert!(wired.tasks.try_join_next().is_none());
}

#[tokio::test]
async fn after_silence_it_goes_on_though_nobody_says_that_the_connection_is_dead() {
    let mut wired = Wired::start().await;
    wired.relay.swallow();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Old connections stay dead for ever.
    wired.relay.open();
    let took = wired.change("cart:2", Duration::from_secs(30)).await;
    println!("{took:?} after silence");
    assert!(wired.tasks.try_join_next().is_none());
}

/// A list, which nothing bounds but the connection's own timeout.
pub(crate) async fn what_nobody_answers_is_given_up() {
    // The kernel takes connections and bytes, and nobody ever looks at them.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
    let api = Api::<Namespace>::all(connect(kube::Config::new(url)).unwrap());
    let everything = ListParams::default();
    let ended = tokio::time::timeout(Duration::from_mins(1), api.list(&everything)).await;
    assert!(ended.expect("a call is waited for without end").is_err());
}

pub(crate) async fn a_watch_that_fails_for_ever_delays_no_other() {
    let server = Server::new(empty());
    server.with(|store| drop(store.put(&with_image("cart:1"))));
    let connection = server.connect();
    run_during(&connection, PLAIN, async {
        rest(&connection).await;
        let refused = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&refused);
        connection.on_call(move |call| {
            let is_it = call.kind.name == "Pod" && matches!(call.verb, Verb::List | Verb::Watch);
            seen.fetch_or(is_it, Ordering::Relaxed);
            is_it.then_some(Fault::Refused(403))
        });
        // Until the watches have begun anew.
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(refused.load(Ordering::Relaxed));
        for round in 0..10 {
            let image = format!("cart:1{round}");
            server.with(|store| drop(store.put(&with_image(&image))));
            let second = Duration::from_secs(1);
            let followed = tokio::time::timeout(second, has_image(&server, &image)).await;
            assert!(followed.is_ok(), "{image} is not there after a second");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_nobody_can_read_stops_no_other() {
    let malformed = |name: &str| {
        let spec = json!({ "containers": "none", "replicas": "three" });
        let mut object = service(name, &json!({}));
        object["spec"] = spec;
        object
    };
    let server = Server::new(empty());
    // In the first list, ahead of the good one and behind it.
    server.with(|store| {
        store.put(&malformed("a"));
        store.put(&with_image("cart:1"));
        store.put(&malformed("z"));
    });
    let connection = server.connect();
    let is_told_of = |store: &Store, name: &str| {
        store.all().any(|(_, object)| {
            object["reason"] == "Malformed" && object["regarding"]["name"] == name
        })
    };
    run_during(&connection, PLAIN, async {
        let limit = Duration::from_secs(5);
        let followed = tokio::time::timeout(limit, has_image(&server, "cart:1")).await;
        assert!(followed.is_ok(), "one malformed object stops the list");
        rest(&connection).await;
        for name in ["a", "z"] {
            assert!(server.with(|store| is_told_of(store, name)), "{name} is not told of");
        }
        // And in a watch.
        server.with(|store| {
            store.put(&malformed("b"));
            store.put(&with_image("cart:2"));
        });
        let followed = tokio::time::timeout(limit, has_image(&server, "cart:2")).await;
        assert!(followed.is_ok(), "one malformed object stops the watch");
        let told = server.until(|store| is_told_of(store, "b"));
        assert!(tokio::time::timeout(limit, told).await.is_ok(), "b is not told of");
        // And in the list that follows on a gap.
        server.with(|store| {
            store.put(&with_image("cart:3"));
            store.compact();
            store.put(&with_image("cart:4"));
        });
        let followed = tokio::time::timeout(limit, has_image(&server, "cart:4")).await;
        assert!(followed.is_ok(), "one malformed object stops the next list");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn others_go_on_while_a_watch_fails() {
    a_watch_that_fails_for_ever_delays_no_other().await;
}

#[tokio::test(start_paused = true)]
async fn silence_has_an_end() {
    what_nobody_answers_is_given_up().await;
}
