//! Asks the sidecar of a pod why it is not ready.
//!
//! The answer comes from a pod that the user controls: it is bounded in time and size, and checked
//! before it gets into a condition.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use api::contract::{NotReady, port, probe};
use bytes::Bytes;
use futures::future::join_all;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

const ASK_TIMEOUT: Duration = Duration::from_secs(1);
const BODY_BYTES_MAX: usize = 16 * 1024;
/// So many services wait for answers at once, which is a quarter of what is worked on by default.
const ASKING_MAX: usize = 4;

/// What the sidecar says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Ready,
    NotReady(NotReady),
    /// Nothing that we understand.
    Nothing,
}

/// Answers by the name of the pod.
pub(crate) type Answers = BTreeMap<String, Answer>;

/// Asks for all services, few at a time: a pod that says nothing is waited for, and whoever waits holds a
/// place among the reconciles that run at once.
#[derive(Debug)]
pub(crate) struct Asks {
    places: Semaphore,
    /// What was said last, by the uid of the service, while it is not ready.
    known: Mutex<HashMap<String, Answers>>,
}

impl Default for Asks {
    fn default() -> Self {
        Self { places: Semaphore::new(ASKING_MAX), known: Mutex::default() }
    }
}

impl Asks {
    /// What these pods of the service say. While too many others wait for theirs it is what they said last,
    /// and nothing of those that were not asked yet; a service that is not ready is looked at again soon.
    pub(crate) async fn ask(&self, service: &str, pods: BTreeMap<String, IpAddr>) -> Answers {
        if pods.is_empty() {
            return Answers::new();
        }
        let Ok(_place) = self.places.try_acquire() else {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            return known.get(service).cloned().unwrap_or_default();
        };
        let asked = pods.into_iter().map(|(pod, address)| async move { (pod, ask(address).await) });
        let answers: Answers = join_all(asked).await.into_iter().collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(service.to_owned(), answers.clone());
        answers
    }

    /// The service is ready, or gone.
    pub(crate) fn forget(&self, service: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(service);
    }
}

/// Asks the launcher of the pod at that address.
async fn ask(address: IpAddr) -> Answer {
    let address = SocketAddr::new(address, port::ADMIN);
    let answer = tokio::time::timeout(ASK_TIMEOUT, get(address)).await;
    answer.ok().and_then(Result::ok).unwrap_or(Answer::Nothing)
}

type Unanswered = Box<dyn std::error::Error + Send + Sync>;

async fn get(address: SocketAddr) -> Result<Answer, Unanswered> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(probe::READY)
        .header(http::header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        if response.status() == StatusCode::OK {
            return Ok(Answer::Ready);
        }
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await?.to_bytes();
        Ok(Answer::NotReady(serde_json::from_slice(&body)?))
    };
    tokio::pin!(exchange);
    // The connection is driven here, so it ends with us and needs no owner.
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = &mut connection => {
            ended?;
            exchange.await
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn answered(response: &'static str) -> Result<Answer, Unanswered> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            // The client may hang up before it has heard everything.
            let _ = stream.write_all(response.as_bytes()).await;
        });
        let answer = get(address).await;
        server.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn who_finds_all_places_taken_gets_what_was_said_last_at_once() {
        let asks = Asks::default();
        let pods = || BTreeMap::from([("cart-1".to_owned(), IpAddr::from([127, 0, 0, 1]))]);
        // Nobody listens at the port of launchers here, and that is soon known.
        assert_eq!(asks.ask("cart", pods()).await["cart-1"], Answer::Nothing);
        let taken = asks.places.try_acquire_many(u32::try_from(ASKING_MAX).unwrap()).unwrap();
        let silent = BTreeMap::from([("cart-1".to_owned(), IpAddr::from([192, 0, 2, 1]))]);
        let asked = tokio::time::timeout(ASK_TIMEOUT / 2, asks.ask("cart", silent.clone()));
        assert_eq!(asked.await.unwrap()["cart-1"], Answer::Nothing);
        let asked = tokio::time::timeout(ASK_TIMEOUT / 2, asks.ask("stock", silent));
        assert!(asked.await.unwrap().is_empty());
        asks.forget("cart");
        assert!(asks.ask("cart", pods()).await.is_empty());
        drop(taken);
        assert_eq!(asks.ask("cart", pods()).await.len(), 1);
    }

    #[tokio::test]
    async fn a_reason_comes_through() {
        let answer = answered(
            "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\n{\"reason\":\"ProxyStarting\",\"message\":\"wait\"}",
        )
        .await
        .unwrap();
        let expected = NotReady { reason: "ProxyStarting".to_owned(), message: "wait".to_owned() };
        assert_eq!(answer, Answer::NotReady(expected));
    }

    #[tokio::test]
    async fn ready_needs_no_body() {
        assert_eq!(answered("HTTP/1.1 200 OK\r\n\r\n").await.unwrap(), Answer::Ready);
    }

    #[tokio::test]
    async fn nonsense_and_too_much_are_no_answer() {
        assert!(answered("HTTP/1.1 503 Not\r\ncontent-length: 3\r\n\r\nnot").await.is_err());
        let endless: &'static str = Box::leak(
            format!("HTTP/1.1 503 Not\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(100_000))
                .into_boxed_str(),
        );
        assert!(answered(endless).await.is_err());
    }
}
