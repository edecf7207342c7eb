//! Asks the proxy whether it serves calls.

use std::{io, net::Ipv4Addr, time::Duration};

use api::contract::{NotReady, probe, reason};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::mpsc, time};

use crate::health::Answer;

/// Shorter than the kubelet's second, so that our own answer is never older than that.
const TIMEOUT: Duration = Duration::from_millis(900);
const PAUSE_WHILE_UNREADY: Duration = Duration::from_millis(200);
const PAUSE_WHILE_READY: Duration = Duration::from_secs(1);
const BODY_MAX: usize = 16 * 1024;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Asks again and again, for as long as somebody listens. `generation` comes back with each answer.
///
/// # Cancel safety
/// May be dropped at any point: a question in flight is then forgotten.
pub async fn watch(management_port: u16, generation: u64, answers: mpsc::Sender<(u64, Answer)>) {
    loop {
        let answer = ask(management_port).await;
        let pause = if answer == Answer::Ready { PAUSE_WHILE_READY } else { PAUSE_WHILE_UNREADY };
        if answers.send((generation, answer)).await.is_err() {
            return;
        }
        time::sleep(pause).await;
    }
}

/// Asks once.
pub async fn ask(management_port: u16) -> Answer {
    let silent = |why: &dyn std::fmt::Display| {
        Answer::Silent(format!(
            "the proxy does not answer on http://127.0.0.1:{management_port}{}: {why}",
            probe::READY
        ))
    };
    match time::timeout(TIMEOUT, exchange(management_port)).await {
        Ok(Ok((StatusCode::OK, _))) => Answer::Ready,
        Ok(Ok((status, body))) => {
            Answer::NotReady(serde_json::from_slice(&body).unwrap_or_else(|_| NotReady {
                reason: reason::PROXY_STARTING.to_owned(),
                message: format!("the proxy answers {status} without saying why"),
            }))
        }
        Ok(Err(error)) => silent(&error),
        Err(elapsed) => silent(&format_args!("{elapsed} after {TIMEOUT:?}")),
    }
}

async fn exchange(port: u16) -> Result<(StatusCode, Bytes), Cause> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(BODY_MAX).handshake(TokioIo::new(stream)).await?;
    let request = Request::get(probe::READY)
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let question = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await?;
        Ok::<_, Cause>((status, body.to_bytes()))
    };
    // The connection does the work that the question waits for; it ends when the sender is dropped.
    let (answer, end) = tokio::join!(question, connection);
    let answer = answer?;
    end.map_err(io::Error::other)?;
    Ok(answer)
}
