//! Callers that speak HTTP/2 wrongly. Whatever they say, nothing panics, and an honest caller is served.

use std::{
    panic,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use futures::future::join_all;
use prost::Message as _;
use testbed::fuzz::{Inputs, Shape};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

use crate::support::{Stand, counter::Item};

/// Callers at a time.
const CALLERS: usize = 64;
/// How long a caller listens to the answer.
const LISTEN: Duration = Duration::from_millis(30);

#[tokio::test]
async fn fuzz_front() {
    let panics = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&panics);
    let print = panic::take_hook();
    // The proxy runs on this test's thread; what other tests of this program do is theirs.
    let us = thread::current().id();
    panic::set_hook(Box::new(move |info| {
        if thread::current().id() == us {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        print(info);
    }));

    let stand = Stand::start().await;
    let item = Item { id: "a".to_owned(), ..Item::default() }.encode_to_vec();
    let corpus = vec![
        client(&[headers(1, "/counter.Counter/Add"), data(1, &item)]),
        client(&[
            headers(1, "/counter.Counter/Get"),
            data(1, &item),
            headers(3, "/counter.Counter/Add"),
            data(3, &item),
            frame(0x3, 0, 3, &[0, 0, 0, 8]),
        ]),
        client(&[headers(1, "/grpc.health.v1.Health/Check"), data(1, b"")]),
        client(&[
            headers(1, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
            data(1, b"\x3a\x00"),
        ]),
        b"GET /counter.Counter/Get HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
    ];
    let mut inputs = Inputs::new("front", Shape::Http2, corpus);
    loop {
        let batch: Vec<_> = inputs.by_ref().take(CALLERS).collect();
        join_all(batch.iter().map(|input| say((stand.address, 8013), input))).await;
        assert!(!stand.proxy.is_finished(), "the proxy has ended");
        if panics.load(Ordering::SeqCst) > 0 {
            let inputs: Vec<_> = batch.iter().map(|input| inputs.describe(input)).collect();
            panic!("the proxy panicked at one of these:\n{}", inputs.join("\n"));
        }
        if batch.len() < CALLERS {
            break;
        }
    }
    let honest = stand.value("Get", Item { id: "honest".to_owned(), ..Item::default() }).await;
    assert_eq!(honest, 0);
}

/// Says that, and listens for a while. That the other side hangs up is in order.
async fn say(to: (std::net::Ipv4Addr, u16), words: &[u8]) {
    let mut stream = TcpStream::connect(to).await.expect("the proxy takes connections");
    if stream.write_all(words).await.is_ok() {
        let mut answer = Vec::new();
        let _hung_up = time::timeout(LISTEN, stream.read_to_end(&mut answer)).await;
    }
}

/// All that a client says with these frames after its settings.
fn client(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    said.extend(frame(0x4, 0, 0, &[0, 4, 0, 1, 0, 0]));
    said.extend(frame(0x8, 0, 0, &[0, 1, 0, 0]));
    said.extend(frames.iter().flatten());
    said
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a call, in HPACK without its table and without Huffman's code.
fn headers(stream: u32, path: &str) -> Vec<u8> {
    const END_OF_HEADERS: u8 = 0x4;
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "1S"),
        ("x-trace-bin", "AAEC"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    frame(0x1, END_OF_HEADERS, stream, &block)
}

/// The one message of a call.
fn data(stream: u32, message: &[u8]) -> Vec<u8> {
    const END_OF_STREAM: u8 = 0x1;
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    frame(0x0, END_OF_STREAM, stream, &[&[0], &length[..], message].concat())
}
