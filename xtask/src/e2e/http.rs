//! One plain request over HTTP, made once: for metrics, for proxies that speak no gRPC, and for the API server behind
//! `kubectl proxy`.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, ensure};

/// How long connecting may take; on one machine it takes none.
const CONNECT: Duration = Duration::from_secs(2);

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// The type of the body.
    pub(super) content: &'a str,
    pub(super) body: &'a str,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// What is answered with status 200.
///
/// # Errors
/// As [`send`], and another status.
pub(super) fn get(address: SocketAddr, path: &str, limit: Duration) -> anyhow::Result<String> {
    let request = Request { method: "GET", path, content: "text/plain", body: "" };
    let Answer { status, body } = send(address, request, limit)?;
    ensure!(status == 200, "GET {path} at {address}: status {status}: {body}");
    Ok(body)
}

/// Sends it and reads the answer to its end.
///
/// # Errors
/// That the connection broke, or that the answer took longer than `limit` to go on.
pub(super) fn send(
    address: SocketAddr,
    request: Request<'_>,
    limit: Duration,
) -> anyhow::Result<Answer> {
    let Request { method, path, content, body } = request;
    let what = || format!("{method} {path} at {address}");
    let mut stream = TcpStream::connect_timeout(&address, CONNECT).with_context(what)?;
    stream.set_read_timeout(Some(limit)).with_context(what)?;
    // Whoever speaks 1.0 closes when the answer is complete.
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: {content}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).with_context(what)?;
    stream.write_all(body.as_bytes()).with_context(what)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(what)?;
    parse(&answer).with_context(what)
}

fn parse(answer: &str) -> anyhow::Result<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP came back")?;
    ensure!(!head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "in chunks: {head}");
    let status = head.split(' ').nth(1).unwrap_or_default();
    let status = status.parse().with_context(|| format!("a status, not {status:?}"))?;
    Ok(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = parse("HTTP/1.0 422 Unprocessable Entity\r\nA: b\r\n\r\n{}").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (422, "{}"));
        assert!(!answer.is_success());
        assert!(parse("HTTP/1.0 200 OK\r\n\r\n").unwrap().is_success());
        assert!(parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0").is_err());
        assert!(parse("HTTP/1.1 200 OK\r\n").is_err());
    }
}
