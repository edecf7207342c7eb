//! Asks the launcher that runs in the same container: for hooks and probes in images without a shell.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{admin::TOKEN_HEADER, config::Contact};

/// Shorter than the kubelet's second.
const TIMEOUT: Duration = Duration::from_millis(900);
/// Between two questions while something is waited for.
const PAUSE: Duration = Duration::from_millis(50);
const ANSWER_MAX: usize = 1 << 20;

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// The proxy answers.
    Proxy,
    /// The user function answers.
    UserFunction,
    /// Calls are served.
    Ready,
}

/// The launcher's admin port.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    token: Option<String>,
}

impl Client {
    /// The admin port of the launcher that runs here.
    ///
    /// # Errors
    /// When the token cannot be read.
    pub fn new(contact: &Contact) -> io::Result<Self> {
        let host = match contact.bind {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            bound => bound,
        };
        let token = contact.token_file.as_deref().map(std::fs::read_to_string).transpose()?;
        Ok(Self { address: SocketAddr::new(host, contact.port.get()), token })
    }

    /// Asks a probe's question; whether the answer was good.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn probe(&self, path: &str) -> io::Result<(bool, String)> {
        let (status, body) = self.ask("GET", path, TIMEOUT)?;
        Ok((status == 200, body))
    }

    /// Has calls sent elsewhere, and waits until none is under way if that is wanted.
    ///
    /// # Errors
    /// When there is no answer, or it is no consent.
    pub fn drain(&self, wait: bool, patience: Duration) -> io::Result<String> {
        let (path, timeout) = if wait { ("/drain?wait=1", patience) } else { ("/drain", TIMEOUT) };
        let (status, body) = self.ask("POST", path, timeout)?;
        if (200..300).contains(&status) { Ok(body) } else { Err(io::Error::other(body)) }
    }

    /// Waits until it is so; whether it came to be in time.
    pub fn wait(&self, what: WaitFor, timeout: Duration) -> bool {
        let started = Instant::now();
        loop {
            if self.is(what).unwrap_or(false) {
                return true;
            }
            if started.elapsed() >= timeout {
                return false;
            }
            thread::sleep(PAUSE);
        }
    }

    fn is(&self, what: WaitFor) -> io::Result<bool> {
        let path = if what == WaitFor::Ready { "/ready" } else { "/status" };
        let (status, body) = self.ask("GET", path, TIMEOUT)?;
        let page: Value = serde_json::from_str(&body).unwrap_or_default();
        Ok(status == 200
            && match what {
                WaitFor::Ready => true,
                WaitFor::Proxy => page["proxy"]["answers"] == true,
                WaitFor::UserFunction => page["user_function"] == "there",
            })
    }

    /// Status and body.
    fn ask(&self, method: &str, path: &str, timeout: Duration) -> io::Result<(u16, String)> {
        let deadline = Instant::now() + timeout;
        let mut stream = TcpStream::connect_timeout(&self.address, TIMEOUT.min(timeout))?;
        let token = self.token.as_deref().unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{TOKEN_HEADER}: {token}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        let answer = read_until(stream, deadline)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("no answer in HTTP"))?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        Ok((status, body.unwrap_or_default()))
    }
}

/// All that comes until the other side closes. The deadline holds for the whole of it: an answer that trickles in is
/// none.
fn read_until(mut stream: TcpStream, deadline: Instant) -> io::Result<String> {
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while answer.len() < ANSWER_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part)? {
            0 => break,
            length => answer.extend_from_slice(part.get(..length).unwrap_or_default()),
        }
    }
    String::from_utf8(answer).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_answer_that_trickles_in_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let trickle = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Ends when nobody listens any more.
            while stream.write_all(b"a").is_ok() {
                thread::sleep(PAUSE);
            }
        });
        let asked = Instant::now();
        Client { address, token: None }.probe("/alive").unwrap_err();
        // Far less than all that it would read.
        assert!(asked.elapsed() < TIMEOUT * 30, "{:?}", asked.elapsed());
        trickle.join().unwrap();
    }
}
