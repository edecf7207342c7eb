use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Instant,
};

use api::contract::NotReady;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    runtime,
    sync::{mpsc, watch},
};

use super::*;
use crate::{
    board::{Board, Facts},
    health::{Drain, Health},
    log::{Format, Log},
};

const POD: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Office {
    desk: Desk,
    health: watch::Sender<Health>,
    orders: mpsc::Receiver<Order>,
}

fn office(token: Option<&str>) -> Office {
    let health = watch::Sender::new(Health {
        started: true,
        alive: true,
        reasons: Vec::new(),
        drain: Drain::No,
    });
    let board = Arc::new(Board::new(Facts::default(), Instant::now()));
    let (sender, orders) = mpsc::channel(1);
    let (log, _) = Log::prepare("info", Format::Json);
    let settings = Arc::new(std::sync::Mutex::new(json!({})));
    let token = token.map(str::to_owned);
    let desk = Desk::new(health.subscribe(), board, sender, log, token, settings);
    Office { desk, health, orders }
}

async fn ask(desk: &Desk, peer: &str, method: &str, path: &str) -> (u16, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("x-forwarded-for", "127.0.0.1")
        .body(())
        .unwrap();
    let response = desk.answer(&request, peer.parse().unwrap()).await;
    let status = response.status().as_u16();
    let body: Full<Bytes> = response.into_body();
    let body = body.collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn each_probe_looks_at_its_own_fact() {
    let office = office(None);
    let ask = async |path| ask(&office.desk, "10.0.0.7", "GET", path).await.0;
    assert_eq!([ask("/startup").await, ask("/alive").await, ask("/ready").await], [200; 3]);
    office.health.send_modify(|health| health.alive = false);
    assert_eq!([ask("/startup").await, ask("/alive").await, ask("/ready").await], [200, 503, 200]);
}

#[tokio::test]
async fn a_probe_tells_all_that_it_goes_by_when_asked_from_within_the_pod() {
    let office = office(None);
    let reasons = ["Draining", "UserFunctionUnreachable"];
    office.health.send_modify(|health| {
        let why = |reason: &str| NotReady { reason: reason.to_owned(), message: "why".to_owned() };
        health.reasons = reasons.map(why).to_vec();
    });
    for (path, status) in [("/startup", 200), ("/alive", 200), ("/ready", 503)] {
        let told = ask(&office.desk, "::1", "GET", &format!("{path}?verbose")).await;
        let page: Value = serde_json::from_str(&told.1).unwrap();
        assert_eq!(told.0, status, "{path}");
        assert_eq!([&page["started"], &page["alive"], &page["ready"]], [true, true, false]);
        for (index, reason) in reasons.into_iter().enumerate() {
            assert_eq!(page["reasons"][index], json!({ "reason": reason, "message": "why" }));
        }
        // Elsewhere the word means nothing.
        let plain = ask(&office.desk, "10.0.0.7", "GET", path).await;
        let outside = ask(&office.desk, "10.0.0.7", "GET", &format!("{path}?verbose")).await;
        assert_eq!(plain, outside);
        assert_eq!(plain.0, status, "{path}");
        assert_ne!(plain.1, told.1);
    }
}

#[tokio::test]
async fn from_outside_the_pod_one_may_look_at_what_is_no_secret_and_do_nothing() {
    let office = office(None);
    for (peer, is_inside) in [
        ("10.0.0.7", false),
        ("::ffff:10.0.0.7", false),
        ("127.0.0.1", true),
        ("::ffff:127.0.0.1", true),
        ("::1", true),
    ] {
        for path in ["/ready", "/metrics", "/alive"] {
            assert_eq!(ask(&office.desk, peer, "GET", path).await.0, 200, "{peer} {path}");
        }
        for path in ["/status", "/config", "/loglevel", "/log-level"] {
            let wanted = if is_inside { 200 } else { 403 };
            assert_eq!(ask(&office.desk, peer, "GET", path).await.0, wanted, "{peer} {path}");
        }
    }
    let (status, why) = ask(&office.desk, "10.0.0.7", "POST", "/quit").await;
    assert_eq!((status, why.as_str()), (403, "only from within the pod: use kubectl port-forward"));
}

#[tokio::test]
async fn an_order_that_nobody_takes_up_is_refused_and_not_kept() {
    let mut office = office(None);
    assert_eq!(ask(&office.desk, "::1", "POST", "/quit").await.0, 202);
    assert_eq!(ask(&office.desk, "::1", "POST", "/drain").await.0, 503);
    assert_eq!(office.orders.recv().await, Some(Order::Quit));
}

#[tokio::test]
async fn anything_else_is_refused() {
    let office = office(None);
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/ready/", 404),
        ("POST", "/nothing", 404),
        ("GET", "/env", 404),
        ("POST", "/ready", 405),
        ("DELETE", "/alive", 405),
        ("GET", "/drain", 405),
        ("GET", "/quit", 405),
        ("PUT", "/config", 405),
    ] {
        assert_eq!(ask(&office.desk, "::1", method, path).await.0, status, "{method} {path}");
    }
    let request = Request::put("/loglevel?level=debug").header("content-length", "1025").body(());
    assert_eq!(office.desk.answer(&request.unwrap(), POD).await.status(), 413);
}

/// So many, unless the build was told another number.
fn requests() -> usize {
    const REQUESTS: usize = 10_000;
    option_env!("LAUNCHER_FUZZ_REQUESTS").map_or(REQUESTS, |told| told.parse().unwrap())
}

#[test]
fn f27_whatever_bytes_come_the_answer_is_one_or_none() {
    const SEEDS: [&[u8]; 4] = [
        b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n",
        b"PUT /loglevel?level=debug HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
        b"POST /dump HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"HEAD /metrics HTTP/1.0\r\naccept: application/openmetrics-text\r\n\r\n",
    ];
    let office = office(None);
    let mut dice = 1_u64;
    let mut roll = |below: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(dice >> 33).unwrap() % below
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for number in 0..requests() {
        let mut request = SEEDS[number % SEEDS.len()].to_vec();
        for _ in 0..roll(6) {
            let at = roll(request.len());
            match roll(4) {
                0 => request.truncate(at + 1),
                1 => request.insert(at, u8::try_from(roll(256)).unwrap()),
                2 => request[at] ^= 1 << roll(8),
                _ => request.extend_from_within(at..),
            }
        }
        let answer = runtime.block_on(async {
            let (mut client, server) = duplex(64 * 1024);
            client.write_all(&request).await.unwrap();
            client.shutdown().await.unwrap();
            answer_one(server, POD, office.desk.clone(), Arc::default()).await;
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        });
        let is_answer = answer.is_empty() || answer.starts_with(b"HTTP/1.");
        assert!(is_answer, "{:?} gives {answer:?}", String::from_utf8_lossy(&request));
    }
    assert!(!office.desk.is_busy());
}
