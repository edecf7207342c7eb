//! The edge, frame by frame: encodings, limits, metadata, formats, health, reflection, drain.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use std::io::{Read as _, Write as _};

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use futures::future;
use prost::Message as _;
use support::{
    PATIENCE, Stand, call,
    counter::{Item, item},
    desk::{Step, order, say},
    eventually,
    raw::{Answer, Raw, framed},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};
use tonic::{Code, Request};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

const ADD: &str = "/counter.Counter/Add";
const ASK: &str = "/counter.Desk/Ask";

async fn ask(raw: &Raw, headers: &[(&str, &str)], step: Step) -> Answer {
    raw.call(ASK, headers, framed(&order([step]).encode_to_vec())).await
}

fn gzipped(message: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(message).unwrap();
    let compressed = encoder.finish().unwrap();
    let mut framed = BytesMut::new();
    framed.put_u8(1);
    framed.put_u32(u32::try_from(compressed.len()).unwrap());
    framed.put_slice(&compressed);
    framed.freeze()
}

#[tokio::test]
async fn callers_may_compress_and_get_large_replies_compressed_when_they_offer_it() {
    let stand = Stand::start().await;
    let raw = Raw::connect(&stand).await;
    let body = gzipped(&item("a", 7).encode_to_vec());
    let answer = raw.call(ADD, &[("grpc-encoding", "gzip")], body).await;
    assert_eq!(answer.grpc("grpc-status"), "0", "{answer:?}");
    assert_eq!(stand.value("Get", item("a", 0)).await, 7);

    let offer = [("grpc-accept-encoding", "identity, gzip")];
    let small = ask(&raw, &offer, say("large", "1023")).await;
    assert_eq!((small.body[0], small.body.len()), (0, 5 + 1023));
    let large = ask(&raw, &offer, say("large", "100000")).await;
    assert_eq!(large.grpc("grpc-encoding"), "gzip");
    assert!(large.body[0] == 1 && large.body.len() < 1000, "{} bytes", large.body.len());
    let mut inflated = Vec::new();
    GzDecoder::new(&large.body[5..]).read_to_end(&mut inflated).unwrap();
    assert_eq!(inflated, vec![0; 100_000]);
    let plain = ask(&raw, &[], say("large", "100000")).await;
    assert_eq!((plain.body[0], plain.body.len()), (0, 5 + 100_000));
    assert_eq!(plain.grpc("grpc-encoding"), "");
}

#[tokio::test]
async fn an_unknown_encoding_is_refused_with_those_that_are_known() {
    let stand = Stand::start().await;
    let raw = Raw::connect(&stand).await;
    let answer = raw.call(ADD, &[("grpc-encoding", "br")], framed(b"")).await;
    assert_eq!(answer.grpc("grpc-status"), "12", "{answer:?}");
    assert_eq!(answer.grpc("grpc-accept-encoding"), "identity,gzip");
    assert!(stand.counter.seen().is_empty());
}

#[tokio::test]
async fn sizes_are_limited_both_ways_and_named() {
    let stand = Stand::start_with(|config| {
        config.edge.request_size = 100;
        config.edge.response_size = 2_000;
    })
    .await;
    let raw = Raw::connect(&stand).await;
    let large = Item { text: "x".repeat(200), ..item("a", 1) }.encode_to_vec();
    let size = large.len();
    let named = format!("the message has {size} bytes, and the limit is 100");
    for body in [framed(&large), framed(&large).slice(..5)] {
        let answer = raw.call(ADD, &[], body).await;
        assert_eq!(answer.grpc_status(), ("8", named.replace(' ', "%20").as_str()), "{answer:?}");
    }
    let answer = raw.call(ADD, &[("grpc-encoding", "gzip")], gzipped(&large)).await;
    assert_eq!(answer.grpc("grpc-status"), "8", "{answer:?}");
    assert!(stand.counter.seen().is_empty());
    let answer = ask(&raw, &[], say("large", "2001")).await;
    let named = "the reply has 2001 bytes, and the limit is 2000";
    assert_eq!(answer.grpc_status(), ("8", named.replace(' ', "%20").as_str()));
    assert_eq!(ask(&raw, &[], say("large", "2000")).await.body.len(), 2_005);
    assert_eq!(
        raw.call(
            "/counter.Desk/Spread",
            &[],
            framed(&order([say("large", "2001")]).encode_to_vec())
        )
        .await
        .grpc("grpc-status"),
        "8"
    );
}

#[tokio::test]
async fn bodies_that_make_no_sense_have_a_status_and_leave_the_connection_alone() {
    let stand = Stand::start().await;
    let raw = Raw::connect(&stand).await;
    let cases: [(&[u8], &str, &str); 6] = [
        (b"", "3", "the call has no message"),
        (b"\0\0", "3", "the call ended within a message"),
        (b"\0\0\0\0\x09abc", "3", "the call ended within a message"),
        (b"\x02\0\0\0\0", "13", "a message begins with neither 0 nor 1"),
        (b"\x01\0\0\0\0", "13", "a message is compressed, and no grpc-encoding says how"),
        (b"\0\0\0\0\x02\x0a\xff", "3", ""),
    ];
    for (body, code, text) in cases {
        let answer = raw.call(ADD, &[], Bytes::from_static(body)).await;
        assert_eq!(answer.grpc("grpc-status"), code, "{body:?}: {answer:?}");
        assert!(
            answer.grpc("grpc-message").replace("%20", " ").contains(text),
            "{body:?}: {answer:?}"
        );
    }
    assert!(stand.counter.seen().is_empty(), "{:?}", stand.counter.seen());
    let answer = raw.call(ADD, &[], framed(&item("a", 1).encode_to_vec())).await;
    assert_eq!(answer.grpc("grpc-status"), "0");
}

#[tokio::test]
async fn a_message_may_come_in_pieces() {
    let stand = Stand::start().await;
    let raw = Raw::connect(&stand).await;
    let text = "x".repeat(100_000);
    let body = framed(&Item { text, ..item("a", 7) }.encode_to_vec());
    let (response, mut send) = raw.begin(ADD, &[]).await.unwrap();
    for piece in body.chunks(9_999) {
        send.send_data(Bytes::copy_from_slice(piece), false).unwrap();
    }
    // The reply does not wait for the end of the call.
    let answer = support::raw::answer(response).await;
    assert_eq!(answer.grpc("grpc-status"), "0", "{answer:?}");
    assert_eq!(stand.value("Get", item("a", 0)).await, 7);
}

#[tokio::test]
async fn a_deadline_that_is_over_touches_no_entity() {
    let stand = Stand::start().await;
    let raw = Raw::connect(&stand).await;
    for timeout in ["0S", "0n"] {
        let body = framed(&item("a", 1).encode_to_vec());
        let answer = raw.call(ADD, &[("grpc-timeout", timeout)], body).await;
        assert_eq!(answer.grpc("grpc-status"), "4", "{answer:?}");
    }
    let (response, _send) = raw.begin(ADD, &[("grpc-timeout", "50m")]).await.unwrap();
    // The message never comes.
    assert_eq!(support::raw::answer(response).await.grpc("grpc-status"), "4");
    assert!(stand.counter.seen().is_empty());
}

#[tokio::test]
async fn metadata_goes_both_ways_and_what_a_reply_may_not_say_is_reported() {
    let stand = Stand::start().await;
    let raw = Raw::connect(&stand).await;
    let headers = [("x-many", "1"), ("x-many", "2"), ("x-raw-bin", "AQI,Aw=="), ("grpc-odd", "3")];
    let body = framed(&item("a", 0).encode_to_vec());
    let answer = raw.call("/counter.Counter/Echo", &headers, body).await;
    let all = |answer: &Answer, name| -> Vec<_> {
        answer
            .headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(all(&answer, "x-many"), ["1", "2"]);
    assert_eq!(all(&answer, "x-raw-bin"), ["AQI", "Aw"]);
    assert_eq!(all(&answer, "grpc-odd"), Vec::<String>::new());

    let answer = ask(&raw, &[], say("headers", "")).await;
    assert_eq!(answer.grpc("grpc-status"), "0", "{answer:?}");
    assert_eq!(all(&answer, "x-good"), ["yes"]);
    assert_eq!(all(&answer, "raw-bin"), ["AQID", "AQID"]);
    eventually("it is reported", async || {
        let told =
            "metadata entry \"grpc-status\" was dropped: its key is reserved for the transport";
        stand.counter.reports().iter().any(|report| report == told)
    })
    .await;
}

#[tokio::test]
async fn texts_of_a_status_are_percent_encoded() {
    let stand = Stand::start().await;
    let raw = Raw::connect(&stand).await;
    let answer = ask(&raw, &[], say("fail", "nein: ä\n")).await;
    assert_eq!(answer.grpc_status(), ("2", "nein:%20%C3%A4%0A"));
    assert!(answer.trailers.is_empty() && answer.body.is_empty(), "a status alone: {answer:?}");
}

#[tokio::test]
async fn formats_are_told_apart() {
    let stand = Stand::start().await;
    let raw = Raw::connect(&stand).await;
    let body = framed(&item("a", 1).encode_to_vec());
    for content_type in ["application/grpc", "application/grpc+proto", "application/grpc; a=b"] {
        let answer = raw.call(ADD, &[("content-type", content_type)], body.clone()).await;
        assert_eq!(answer.grpc("grpc-status"), "0", "{content_type}");
        assert_eq!(answer.headers["content-type"], "application/grpc");
    }
    let answer = raw.call(ADD, &[("content-type", "application/grpc+json")], body.clone()).await;
    assert_eq!(answer.status, 415);
    let answer = raw.call(ADD, &[("content-type", "application/json")], body.clone()).await;
    assert_eq!(answer.status, 404);
    for path in ["/counter.Counter/Nothing", "/Nothing/Add", "/counter.Counter", "/"] {
        let answer = raw.call(path, &[], body.clone()).await;
        assert_eq!(answer.grpc("grpc-status"), "12", "{path}");
    }
    let probe = async |value| {
        let headers = [("content-type", "text/plain"), ("k-network-probe", value)];
        raw.call("/", &headers, Bytes::new()).await
    };
    let answer = probe("queue").await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"queue"[..]));
    assert_eq!(probe("other").await.status, 400);

    let mut plain = TcpStream::connect((stand.address, 8013)).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test]
async fn health_says_what_readiness_says() {
    let mut stand = Stand::start().await;
    let mut client = HealthClient::new(stand.channel().await);
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "counter.Counter", "counter.Desk"] {
        let answer = client.check(ask(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let status = client.check(ask("counter.Nobody")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);

    let mut watch = client.watch(ask("counter.Counter")).await.unwrap().into_inner();
    let mut next = async || time::timeout(PATIENCE, watch.message()).await.unwrap().unwrap();
    assert_eq!(next().await.unwrap().status(), ServingStatus::Serving);
    let hanging = tokio::spawn(call(stand.channel().await, "Wait", Request::new(item("a", 0))));
    let seen = || stand.counter.seen().iter().any(|what| what == "command 1 Wait");
    eventually("a call is under way", async || seen()).await;
    stand.stop.cancel();
    assert_eq!(next().await.unwrap().status(), ServingStatus::NotServing);
    stand.counter.go();
    hanging.await.unwrap().unwrap();
    stand.proxy.abort();
    drop((&mut stand.proxy).await);
}

#[tokio::test]
async fn a_stop_breaks_no_call_that_can_finish() {
    const CALLS: usize = 40;
    let mut stand = Stand::start().await;
    let channels = [stand.channel().await, stand.channel().await];
    let calls = (0..CALLS).map(|at| {
        let item = item(&format!("entity {at}"), 0);
        tokio::spawn(call(channels[at % 2].clone(), "Wait", Request::new(item)))
    });
    let calls: Vec<_> = calls.collect();
    let waiting = || stand.counter.seen().iter().filter(|what| what.ends_with("Wait")).count();
    eventually("all are at the user function", async || waiting() == CALLS).await;
    // Its connection is there, and nothing is said on it yet.
    let raw = Raw::connect(&stand).await;
    let answer = raw.call(ADD, &[], framed(&item("early", 1).encode_to_vec())).await;
    assert_eq!(answer.grpc("grpc-status"), "0");
    stand.stop.cancel();
    eventually("no connection is taken any more", async || {
        TcpStream::connect((stand.address, 8013)).await.is_err()
    })
    .await;
    eventually("all are released", async || {
        stand.counter.go();
        calls.iter().all(tokio::task::JoinHandle::is_finished)
    })
    .await;
    for outcome in future::join_all(calls).await {
        outcome.unwrap().unwrap();
    }
    // Whoever had nothing under way was sent away in good order.
    time::timeout(PATIENCE, raw.connection).await.unwrap().unwrap().unwrap();
    time::timeout(PATIENCE, &mut stand.proxy).await.unwrap().unwrap().unwrap();
}
