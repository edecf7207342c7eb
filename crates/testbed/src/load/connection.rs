//! One connection to a gRPC server, and unary calls on it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{self, SendRequest};
use http::{HeaderMap, Method, Request, Version};
use tokio::{net::TcpStream, sync::Notify, time};

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for a call unless said otherwise. Whatever is measured, waiting for ever is wrong.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// More than any call's answer, so that nobody waits for windows.
const WINDOW: u32 = 16 * 1024 * 1024;

/// A connection; clones share it.
#[derive(Clone, Debug)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    _open: Arc<Open>,
}

/// Ends the connection with its last handle.
#[derive(Debug)]
struct Open(Arc<Notify>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// What is called, with everything that a request repeats.
#[derive(Clone, Debug)]
pub struct Path(Request<()>);

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The gRPC status.
    pub code: u8,
    /// What the status says beside its code, as it is on the wire.
    pub message: String,
    /// The reply's message; empty with any status but zero.
    pub payload: Bytes,
}

/// A call without an answer: nobody knows what became of it.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The connection, or this call on it, broke.
    #[error("the connection broke")]
    Connection(#[from] h2::Error),
    /// What came back is no gRPC.
    #[error("no gRPC came back: {0}")]
    Protocol(&'static str),
    /// Nothing came back.
    #[error("no answer within {0:?}")]
    Late(Duration),
}

impl Path {
    /// `/<service>/<method>` of a server.
    ///
    /// # Panics
    /// When that is no path.
    pub fn new(service: &str, method: &str) -> Self {
        let request = Request::builder()
            .version(Version::HTTP_2)
            .method(Method::POST)
            .uri(format!("http://testbed/{service}/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        Self(request.body(()).expect("names of services and methods make a path"))
    }
}

/// A message as it goes over the wire.
///
/// # Panics
/// When it has gigabytes.
pub fn frame(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("no message here has gigabytes"));
    message.encode(&mut frame).expect("a buffer grows as needed");
    frame.freeze()
}

impl Connection {
    /// Opens a connection.
    ///
    /// # Errors
    /// When nobody listens, or no HTTP/2 comes back.
    pub async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let opening = async {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            let mut builder = client::Builder::new();
            builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
            anyhow::Ok(builder.handshake(stream).await?)
        };
        let (sender, connection) = time::timeout(CONNECT_TIMEOUT, opening).await??;
        let end = Arc::new(Notify::new());
        let ended = Arc::clone(&end);
        tokio::spawn(async move {
            tokio::select! {
                // Why it broke is told to every call on it.
                _ = connection => {}
                () = ended.notified() => {}
            }
        });
        Ok(Self { sender, _open: Arc::new(Open(end)) })
    }

    /// Calls a method with a message in its [`frame`].
    ///
    /// # Errors
    /// [`Broken`] when no status came back.
    pub async fn call(&self, path: &Path, frame: Bytes) -> Result<Answer, Broken> {
        self.call_within(CALL_TIMEOUT, path, frame).await
    }

    /// The same with another bound on how long it may take.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_within(
        &self,
        limit: Duration,
        path: &Path,
        frame: Bytes,
    ) -> Result<Answer, Broken> {
        match time::timeout(limit, self.unbounded(path, frame)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(Broken::Late(limit)),
        }
    }

    async fn unbounded(&self, path: &Path, frame: Bytes) -> Result<Answer, Broken> {
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut body) = sender.send_request(path.0.clone(), false)?;
        body.send_data(frame, true)?;
        let (head, mut body) = response.await?.into_parts();
        if let Some((code, message)) = status(&head.headers) {
            return Ok(Answer { code, message, payload: Bytes::new() });
        }
        let mut received = Bytes::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            received = if received.is_empty() { chunk } else { [received, chunk].concat().into() };
        }
        let trailers = body.trailers().await?.ok_or(Broken::Protocol("no trailers"))?;
        let (code, message) = status(&trailers).ok_or(Broken::Protocol("no status"))?;
        if code != 0 {
            return Ok(Answer { code, message, payload: Bytes::new() });
        }
        Ok(Answer { code, message, payload: unframe(received)? })
    }
}

fn status(headers: &HeaderMap) -> Option<(u8, String)> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").and_then(|text| text.to_str().ok());
    Some((code, message.unwrap_or_default().to_owned()))
}

/// The one message of a unary reply.
fn unframe(mut received: Bytes) -> Result<Bytes, Broken> {
    if received.len() < 5 {
        return Err(Broken::Protocol("a reply without a message"));
    }
    let head = received.split_to(5);
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if head[0] != 0 || received.len() != length as usize {
        return Err(Broken::Protocol("a reply with more or less than one message"));
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Total;

    #[test]
    fn a_framed_message_comes_out_of_its_frame() {
        let framed = frame(&Total { value: 7, sequence: 1 });
        assert_eq!(unframe(framed.clone()).unwrap().len(), framed.len() - 5);
        assert!(unframe(framed.slice(..framed.len() - 1)).is_err());
        assert!(unframe(Bytes::new()).is_err());
    }
}
