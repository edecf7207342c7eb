//! Callers that mean harm: the proxy's memory stays bounded, and an honest caller is served beside them.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::{StreamExt as _, future, stream::FuturesUnordered};
use http::Response;
use prost::Message as _;
use support::{
    Stand, call,
    counter::{Item, item},
    desk::{order, say},
    eventually,
    raw::{Raw, answer, framed, head},
};
use tokio::sync::{Mutex, MutexGuard};
use tonic::{Request, transport::Channel};

const ADD: &str = "/counter.Counter/Add";
/// Of the memory budget a quarter is for calls: room for 1,024 of them.
const BUDGET: u64 = 16 << 20;
const ROOM_FOR_CALLS: usize = 1_024;
/// Below it a call is fast, whatever it is compared with.
const FAST: Duration = Duration::from_millis(3);
/// Calls of each caller in one comparison.
const CALLS: usize = 200;
/// Comparisons that may fail before the attack is to blame.
const ROUNDS: usize = 5;

/// One attack at a time: each is measured.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn stand() -> (Stand, MutexGuard<'static, ()>) {
    let alone = ALONE.lock().await;
    let stand = Stand::start_with(|config| {
        config.memory = BUDGET;
        // A few connections are to attack as many would.
        config.edge.connection_calls = 1_024;
    });
    (stand.await, alone)
}

/// A call of an honest caller, which succeeds.
async fn honest(channel: &Channel, at: usize) -> Duration {
    let request = Request::new(item(&format!("honest {}", at % 10), 1));
    let begin = Instant::now();
    call(channel.clone(), "Add", request).await.unwrap();
    begin.elapsed()
}

/// The 99th percentile of calls to the proxy that is attacked, and of calls to one that is not, made in turn: whatever
/// else goes on on this machine, the attacker's own work included, goes on for both.
async fn compare(attacked: Channel, calm: Channel) -> (Duration, Duration) {
    let (mut harmed, mut unharmed) = (Vec::new(), Vec::new());
    for at in 0..CALLS {
        harmed.push(honest(&attacked, at).await);
        unharmed.push(honest(&calm, at).await);
    }
    let percentile = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[CALLS * 99 / 100 - 1]
    };
    (percentile(harmed), percentile(unharmed))
}

fn bearable((harmed, unharmed): (Duration, Duration)) -> bool {
    harmed <= unharmed.max(FAST) * 3
}

/// An honest caller is served at most three times as slowly as by a proxy that nobody attacks: while the attack is
/// under way, and while what it has begun is held. What an attack does to it, it does every time; what the machine
/// does, only sometimes.
async fn unharmed_by<T>(stand: &Stand, attack: impl AsyncFn() -> T) -> T {
    let control = Stand::start_with(|config| config.memory = BUDGET).await;
    let (attacked, calm) = (stand.channel().await, control.channel().await);
    compare(attacked.clone(), calm.clone()).await;
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        let during = tokio::spawn(compare(attacked.clone(), calm.clone()));
        let held = attack().await;
        let (during, after) =
            (during.await.unwrap(), compare(attacked.clone(), calm.clone()).await);
        if bearable(during) && bearable(after) {
            return held;
        }
        seen.extend([during, after]);
    }
    panic!("attacked and not attacked: {seen:?}")
}

/// Resident memory of this process, in bytes.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_half_open_calls_take_no_more_than_their_room() {
    let (stand, _alone) = stand().await;
    let before = memory();
    let held = unharmed_by(&stand, async || {
        let mut calls = Vec::new();
        for _ in 0..10 {
            let raw = Raw::connect(&stand).await;
            for _ in 0..1_000 {
                calls.push(raw.begin(ADD, &[]).await.unwrap());
            }
        }
        // The oldest are told so; the youngest are still waited for.
        let (responses, sending): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
        let mut answers: FuturesUnordered<_> = responses.into_iter().map(answer).collect();
        for _ in 0..10_000 - ROOM_FOR_CALLS {
            let answer = answers.next().await.unwrap();
            assert_eq!(answer.grpc("grpc-status"), "8", "{answer:?}");
        }
        (answers, sending)
    })
    .await;
    let grown = memory().saturating_sub(before);
    // Half of it is what this test holds as their caller.
    assert!(grown < 128 << 20, "{} MiB", grown >> 20);
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_streams_leave_room_for_calls() {
    let (stand, _alone) = stand().await;
    let held = unharmed_by(&stand, async || {
        let raw = Raw::connect(&stand).await;
        let mut calls = Vec::new();
        for _ in 0..1_000 {
            calls.push(raw.begin("/counter.Desk/Chat", &[]).await.unwrap());
        }
        let (responses, sending): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
        // Streams have headers although nothing was said yet.
        let heads = future::join_all(responses.into_iter().map(head)).await;
        (heads, sending)
    })
    .await;
    // A quarter of the room is for streams.
    let refused = |head: &&Response<_>| head.headers().get("grpc-status").is_some_and(|s| s == "8");
    assert_eq!(held.0.iter().filter(refused).count(), 1_000 - ROOM_FOR_CALLS / 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_never_end_give_way_to_those_that_do() {
    let (stand, _alone) = stand().await;
    let before = memory();
    let held = unharmed_by(&stand, async || {
        let raw = Raw::connect(&stand).await;
        let mut calls = Vec::new();
        for _ in 0..500 {
            let (response, mut send) = raw.begin(ADD, &[]).await.unwrap();
            // Four mebibytes are announced, of which little comes.
            let body = [&[0, 0, 0x3f, 0xff, 0xff][..], &[0; 8_000]].concat();
            send.send_data(body.into(), false).unwrap();
            calls.push((response, send));
        }
        calls
    })
    .await;
    let text = "x".repeat(1 << 20);
    stand.call("Add", Item { text, ..item("large", 1) }).await.unwrap();
    let grown = memory().saturating_sub(before);
    assert!(grown < 128 << 20, "{} MiB", grown >> 20);
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_resets_costs_its_connection() {
    let (stand, _alone) = stand().await;
    unharmed_by(&stand, async || {
        for _ in 0..5 {
            let raw = Raw::connect(&stand).await;
            for _ in 0..20_000 {
                let Ok((_response, mut send)) = raw.begin(ADD, &[]).await else { break };
                send.send_reset(h2::Reason::CANCEL);
            }
            let closed = async || raw.connection.is_finished();
            eventually("the connection is closed", closed).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_no_replies_gets_no_more_of_them() {
    let (stand, _alone) = stand().await;
    let before = memory();
    let held = unharmed_by(&stand, async || {
        let mut builder = h2::client::Builder::new();
        let raw = Raw::connect_with(&stand, builder.initial_window_size(0)).await;
        let body = framed(&order([say("large", "100000")]).encode_to_vec());
        let mut refused = 0;
        let mut unread = Vec::new();
        for _ in 0..500 {
            // Once it has read nothing for 2 s it may be cut.
            let Ok((response, mut send)) = raw.begin("/counter.Desk/Ask", &[]).await else { break };
            drop(send.send_data(body.clone(), true));
            let Ok(response) = response.await else { break };
            if response.headers().get("grpc-status").is_some_and(|status| status == "8") {
                refused += 1;
            } else {
                unread.push(response);
            }
        }
        // As many as go into the room for calls, and no more.
        let room = ROOM_FOR_CALLS * 4096 / 100_000;
        assert!((room..room + 2).contains(&unread.len()), "{} of {refused}", unread.len());
        (raw, unread)
    })
    .await;
    let grown = memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB", grown >> 20);
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_services_take_their_room_as_others_do() {
    let (stand, _alone) = stand().await;
    let before = memory();
    let held = unharmed_by(&stand, async || {
        let raw = Raw::connect(&stand).await;
        let mut calls = Vec::new();
        for path in [
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
        ] {
            for _ in 0..250 {
                let (response, mut send) = raw.begin(path, &[]).await.unwrap();
                // Four mebibytes are announced, of which little comes.
                let body = [&[0, 0, 0x3f, 0xff, 0xff][..], &[0; 3_000]].concat();
                drop(send.send_data(body.into(), false));
                calls.push((response, send));
            }
        }
        calls
    })
    .await;
    let (responses, sending): (Vec<_>, Vec<_>) = held.into_iter().unzip();
    let grown = memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB", grown >> 20);
    // Each is told that a question is shorter, or that too many ask.
    for response in responses {
        let answer = answer(response).await;
        assert!(["8", "11"].contains(&answer.grpc("grpc-status")), "{answer:?}");
    }
    drop(sending);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_messages_take_the_room_of_what_they_were() {
    let (stand, _alone) = stand().await;
    let before = memory();
    let message = Item { text: "x".repeat(1 << 20), ..item("busy", 1) }.encode_to_vec();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&message).unwrap();
    let mut body = framed(&encoder.finish().unwrap()).to_vec();
    body[0] = 1;
    let raw = Raw::connect(&stand).await;
    let mut calls = vec![raw.begin("/counter.Counter/Hang", &[]).await.unwrap()];
    calls[0].1.send_data(framed(&item("busy", 0).encode_to_vec()), true).unwrap();
    let hangs = || stand.counter.seen().iter().any(|what| what == "command 1 Hang");
    eventually("it is with the user function", async || hangs()).await;
    // All others wait in line behind it, as far as there is room for a mebibyte.
    for _ in 0..200 {
        let (response, mut send) = raw.begin(ADD, &[("grpc-encoding", "gzip")]).await.unwrap();
        drop(send.send_data(body.clone().into(), true));
        calls.push((response, send));
    }
    let (responses, sending): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
    let mut answers: FuturesUnordered<_> = responses.into_iter().map(answer).collect();
    for _ in 0..200 - ROOM_FOR_CALLS * 4 / 1024 {
        let answer = answers.next().await.unwrap();
        assert_eq!(answer.grpc("grpc-status"), "8", "{answer:?}");
    }
    let grown = memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB", grown >> 20);
    drop((answers, sending));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_calls_in_any_number_are_refused_one_by_one() {
    let (stand, _alone) = stand().await;
    let long = "k".repeat(64 << 10);
    unharmed_by(&stand, async || {
        let raw = Raw::connect(&stand).await;
        let good = framed(&item("a", 1).encode_to_vec());
        let cases: [(&str, Bytes, &str); 6] = [
            ("/counter.Counter/Nothing", good.clone(), "12"),
            ("/", good, "12"),
            (ADD, framed(b""), "3"),
            (ADD, framed(&item("", 1).encode_to_vec()), "3"),
            (ADD, framed(&[0xff; 100]), "3"),
            (ADD, framed(&vec![0; 5 << 20]).slice(..5), "8"),
        ];
        for _ in 0..100 {
            let calls = cases.iter().map(async |(path, body, code)| {
                let answer = raw.call(path, &[], body.clone()).await;
                assert_eq!(answer.grpc("grpc-status"), *code, "{path}: {answer:?}");
            });
            future::join_all(calls).await;
        }
    })
    .await;
    assert!(stand.counter.seen().iter().all(|seen| !seen.contains("init counter.Counter a ")));
    // A long key is a key.
    assert_eq!(stand.value("Add", item(&long, 2)).await, 2);
    assert_eq!(stand.value("Get", item(&long, 0)).await, 2);
}
