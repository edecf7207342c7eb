//! The proxy as a program: what it logs, how much, and how it is told to leave.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use std::net::SocketAddr;

use api::contract::{INTERRUPT_STOP, env, exit};
use support::{
    PATIENCE, address, call,
    counter::{Counter, item},
    eventually,
};
use testbed::proxy::{Plan, Proxy};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, Request, transport::Channel};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A proxy that is ready, before a user function in this process.
async fn start() -> (Counter, Proxy, Channel) {
    start_with(|plan| plan).await
}

/// The same, with further settings.
async fn start_with(more: impl FnOnce(Plan) -> Plan) -> (Counter, Proxy, Channel) {
    let (counter, function) = (Counter::default(), SocketAddr::from((address(), 8080)));
    counter.listen(function);
    let plan = Plan::new(env!("CARGO_BIN_EXE_proxy"), function).with(env::STORE, "in-memory");
    let plan = more(plan);
    let proxy = plan.start_ready(PATIENCE).await.unwrap();
    let endpoint = Channel::from_shared(format!("http://{}", proxy.calls())).unwrap();
    (counter, proxy, endpoint.connect().await.unwrap())
}

/// Status line, head and body.
async fn ask(proxy: &Proxy, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(proxy.management()).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A line of the log that holds all of it.
async fn logged(proxy: &Proxy, parts: &[&str]) {
    eventually(&format!("the log says {parts:?}"), async || {
        proxy.log().lines().any(|line| parts.iter().all(|part| line.contains(part)))
    })
    .await;
}

fn traced(key: &str) -> Request<support::counter::Item> {
    let mut request = Request::new(item(key, 1));
    request.metadata_mut().insert("traceparent", TRACE.parse().unwrap());
    request
}

#[tokio::test]
async fn the_log_names_entity_command_and_trace_as_soon_as_that_is_asked_for() {
    let (_counter, proxy, channel) = start().await;
    call(channel.clone(), "Add", traced("quiet")).await.unwrap();
    assert!(ask(&proxy, "GET", "/log-level").await.ends_with("info"));
    assert!(ask(&proxy, "PUT", "/log-level?level=loud").await.contains("HTTP/1.1 400"));
    assert!(ask(&proxy, "PUT", "/log-level?level=debug").await.ends_with("debug"));
    assert!(ask(&proxy, "GET", "/log-level").await.ends_with("debug"));
    assert!(ask(&proxy, "GET", "/loglevel").await.ends_with("debug"), "as the launcher calls it");
    assert!(ask(&proxy, "POST", "/log-level").await.contains("HTTP/1.1 405"));
    call(channel.clone(), "Add", traced("loud")).await.unwrap();
    let entity = "\"entity.kind\":\"counter\",\"entity.key\":\"loud\"";
    let trace = &format!("\"trace\":\"{TRACE}\"");
    logged(&proxy, &["command sent", entity, "\"command.id\":1", "\"name\":\"Add\"", trace]).await;
    let ended = ["call ended", "counter.Counter", "\"method\":\"Add\"", "\"code\":\"OK\"", trace];
    logged(&proxy, &ended).await;
    call(channel.clone(), "Refuse", traced("loud")).await.unwrap_err();
    logged(&proxy, &["command failed", entity, "\"name\":\"Refuse\"", trace]).await;
    // What goes wrong is told at any level.
    assert!(ask(&proxy, "PUT", "/log-level?level=warn").await.ends_with("warn"));
    call(channel, "Fail", traced("loud")).await.unwrap_err();
    logged(&proxy, &["\"WARN\"", "Unexpected entity failure", entity, "\"command.id\":3", trace])
        .await;
    assert!(!proxy.log().contains("\"quiet\""), "{}", proxy.log());
}

#[tokio::test]
async fn whoever_may_reach_the_management_port_can_make_the_proxy_leave() {
    let (counter, mut proxy, channel) = start().await;
    assert!(ask(&proxy, "GET", "/startup").await.starts_with("HTTP/1.1 200"));
    let waiting = tokio::spawn(call(channel, "Wait", Request::new(item("a", 0))));
    eventually("the call is under way", async || {
        counter.seen().iter().any(|w| w.ends_with("Wait"))
    })
    .await;
    assert!(ask(&proxy, "GET", "/drain").await.contains("HTTP/1.1 405"));
    assert!(ask(&proxy, "POST", "/drain").await.starts_with("HTTP/1.1 200"));
    eventually("the proxy says so", async || {
        ask(&proxy, "GET", "/ready").await.contains("Draining")
    })
    .await;
    counter.go();
    waiting.await.unwrap().unwrap();
    assert!(proxy.ended(PATIENCE).await.unwrap().success());
}

#[tokio::test]
async fn a_proxy_that_is_held_refuses_calls_at_once_and_stays_until_it_is_told() {
    let (counter, mut proxy, channel) = start().await;
    let waiting = tokio::spawn(call(channel.clone(), "Wait", Request::new(item("a", 0))));
    eventually("the call is under way", async || {
        counter.seen().iter().any(|w| w.ends_with("Wait"))
    })
    .await;
    assert!(ask(&proxy, "DELETE", "/hold").await.starts_with("HTTP/1.1 409"));
    assert!(ask(&proxy, "GET", "/hold").await.starts_with("HTTP/1.1 405"));
    assert!(ask(&proxy, "POST", "/hold").await.starts_with("HTTP/1.1 200"));
    eventually("no connection is taken any more", async || {
        TcpStream::connect(proxy.calls()).await.is_err()
    })
    .await;
    // The connection that was there is told to go away; a client may have taken a call for it before it heard that.
    eventually("calls are refused", async || {
        let refused = call(channel.clone(), "Add", Request::new(item("b", 1))).await.unwrap_err();
        refused.code() == Code::Unavailable
    })
    .await;
    assert!(!counter.seen().iter().any(|what| what.ends_with("Add")), "{:?}", counter.seen());
    assert!(ask(&proxy, "GET", "/ready").await.contains("Draining"));
    counter.go();
    waiting.await.unwrap().unwrap();
    logged(&proxy, &["drained"]).await;
    assert!(ask(&proxy, "GET", "/alive").await.starts_with("HTTP/1.1 200"), "it stays");
    assert!(ask(&proxy, "GET", "/status").await.starts_with("HTTP/1.1 200"));
    proxy.terminate().unwrap();
    assert!(proxy.ended(PATIENCE).await.unwrap().success());
}

#[tokio::test]
async fn a_proxy_that_is_held_asks_for_a_fresh_start_to_serve_again() {
    let (_counter, mut proxy, _channel) = start().await;
    assert!(ask(&proxy, "POST", "/hold").await.starts_with("HTTP/1.1 200"));
    logged(&proxy, &["drained"]).await;
    assert!(ask(&proxy, "DELETE", "/hold").await.starts_with("HTTP/1.1 200"));
    let status = proxy.ended(PATIENCE).await.unwrap();
    assert_eq!(status.code(), Some(exit::RESTART.into()), "{}", proxy.log());
}

#[tokio::test]
async fn an_interrupt_leaves_calls_less_time_and_the_proxy_ends_in_order() {
    let hour = |plan: Plan| plan.with(env::GRACEFUL_TERMINATION_TIMEOUT, "1h");
    let (counter, mut proxy, channel) = start_with(hour).await;
    let waiting = tokio::spawn(call(channel, "Hang", Request::new(item("a", 0))));
    eventually("the call is under way", async || {
        counter.seen().iter().any(|w| w.ends_with("Hang"))
    })
    .await;
    proxy.interrupt().unwrap();
    // Far less than the call would take, and room for a busy machine beside what the launcher gives.
    let ended = proxy.ended(INTERRUPT_STOP * 4).await.unwrap();
    assert!(ended.success(), "{}", proxy.log());
    logged(&proxy, &["drained"]).await;
    waiting.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_second_signal_ends_the_proxy_at_once() {
    let (counter, mut proxy, channel) = start().await;
    let waiting = tokio::spawn(call(channel, "Hang", Request::new(item("a", 0))));
    eventually("the call is under way", async || {
        counter.seen().iter().any(|w| w.ends_with("Hang"))
    })
    .await;
    proxy.terminate().unwrap();
    eventually("the proxy says so", async || {
        ask(&proxy, "GET", "/ready").await.contains("Draining")
    })
    .await;
    proxy.terminate().unwrap();
    let status = proxy.ended(PATIENCE).await.unwrap();
    assert_eq!(status.code(), Some(1), "{}", proxy.log());
    logged(&proxy, &["told to stop twice"]).await;
    waiting.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_proxy_that_waits_for_its_user_function_has_not_started() {
    let function = SocketAddr::from((address(), 8080));
    let proxy = Plan::new(env!("CARGO_BIN_EXE_proxy"), function).start().unwrap();
    eventually("the port is open", async || proxy.get("/alive").await.is_ok()).await;
    let answer = ask(&proxy, "GET", "/startup").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

/// Status line and body as JSON.
async fn told(proxy: &Proxy, path: &str) -> (String, serde_json::Value) {
    let answer = ask(proxy, "GET", path).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn probes_say_what_every_part_says_when_they_are_asked_for_it() {
    let function = SocketAddr::from((address(), 8080));
    let plan = Plan::new(env!("CARGO_BIN_EXE_proxy"), function).with(env::STORE, "in-memory");
    let mut proxy = plan.start().unwrap();
    // Nobody listens there yet.
    eventually("it says who keeps it waiting", async || {
        let answer = proxy.get("/ready?verbose").await.unwrap_or_default();
        answer.starts_with("HTTP/1.1 503") && answer.contains("UserFunctionUnreachable")
    })
    .await;
    for path in ["/ready?verbose", "/startup?verbose=true"] {
        let (status, page) = told(&proxy, path).await;
        assert!(status.contains("503"), "{status}");
        assert_eq!(page["ok"], false, "{page}");
        assert_eq!(page["reason"], "UserFunctionUnreachable", "{page}");
        assert_eq!(page["checks"]["user_function"]["reason"], page["reason"], "{page}");
        assert_eq!(page["checks"]["staying"]["ok"], true, "{page}");
    }
    let (status, page) = told(&proxy, "/alive?verbose").await;
    assert!(status.contains("200") && page["ok"] == true, "{page}");
    let (_, page) = told(&proxy, "/info").await;
    assert!(page["services"].is_null(), "{page}");

    let counter = Counter::default();
    counter.listen(function);
    proxy.until_ready(PATIENCE).await.unwrap();
    let (status, page) = told(&proxy, "/ready?verbose").await;
    assert!(status.contains("200"), "{status}");
    for check in ["staying", "user_function", "ownership", "edge"] {
        assert_eq!(page["checks"][check]["ok"], true, "{page}");
    }
    assert!(page["up_seconds"].is_u64(), "{page}");
}

#[tokio::test]
async fn what_runs_is_told_with_the_hash_of_its_configuration() {
    let (_counter, proxy, _channel) = start().await;
    let (status, page) = told(&proxy, "/info").await;
    assert!(status.contains("200"), "{status}");
    assert_eq!(page["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(page["store"], "in-memory");
    assert_eq!(page["configuration"].as_str().map(str::len), Some(16), "{page}");
    let services = page["services"].as_array().unwrap();
    let entity_type = |name: &str| {
        let found = services.iter().find(|service| service["name"] == name).unwrap();
        found["entity_type"].clone()
    };
    assert_eq!(entity_type("counter.Counter"), protocol::EVENT_SOURCED);
    assert_eq!(entity_type("counter.Desk"), protocol::ACTION);
}
