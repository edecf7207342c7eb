//! Asks the proxy: whether it serves calls, how many are under way, what it is doing.

use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};

use api::contract::{HOLD, NotReady, probe, reason};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time::{self, Instant},
};
use tracing::{info, warn};

use crate::{board::Board, health::Answer};

/// Shorter than the kubelet's second, so that our own answer is never older than that.
const TIMEOUT: Duration = Duration::from_millis(900);
const PAUSE_WHILE_UNREADY: Duration = Duration::from_millis(200);
const PAUSE_WHILE_READY: Duration = Duration::from_secs(1);
const BODY_MAX: usize = 16 * 1024;
/// Metrics of a user function with very many methods.
const PAGE_MAX: usize = 4 * 1024 * 1024;
/// While somebody waits for the last call.
const PAUSE_WHILE_DRAINING: Duration = Duration::from_millis(100);
/// The gauge of the native proxy (`docs/metrics.md`).
const IN_FLIGHT: &str = "cloudstate_requests_in_flight ";

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Asks again and again, for as long as somebody listens. `generation` comes back with each answer.
///
/// # Cancel safety
/// May be dropped at any point: a question in flight is then forgotten.
pub async fn watch(
    management_port: u16,
    generation: u64,
    answers: mpsc::Sender<(u64, Answer)>,
    board: Arc<Board>,
) {
    loop {
        let asked = Instant::now();
        let answer = ask(management_port).await;
        board.note(|facts| facts.proxy_probes.observe(asked.elapsed()));
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
    match time::timeout(TIMEOUT, exchange(Method::GET, management_port, probe::READY, BODY_MAX))
        .await
    {
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

/// Asks again and again how many calls are under way, for as long as somebody listens.
///
/// # Cancel safety
/// May be dropped at any point: a question in flight is then forgotten.
pub async fn count_calls(metrics_port: u16, counts: mpsc::Sender<u64>) {
    loop {
        if let Some(page) = page(metrics_port, "/metrics").await
            && let Some(count) = calls_under_way(&page)
            && counts.send(count).await.is_err()
        {
            return;
        }
        time::sleep(PAUSE_WHILE_DRAINING).await;
    }
}

/// Has the proxy take no new calls while that is wanted, and serve again when it is wanted no more. One that cannot be
/// reached is told again; what it answers is taken as it is.
///
/// # Cancel safety
/// May be dropped at any point: what is on its way to the proxy then may or may not arrive.
pub async fn hold(management_port: u16, mut wanted: watch::Receiver<bool>) {
    let mut holds = false;
    // An error means that nobody is left to want anything.
    while let Ok(wants) = wanted.wait_for(|wants| *wants != holds).await.map(|wants| *wants) {
        let method = if wants { Method::POST } else { Method::DELETE };
        let told = exchange(method.clone(), management_port, HOLD, BODY_MAX);
        match time::timeout(TIMEOUT, told).await {
            Ok(Ok((status, body))) => {
                let answer = String::from_utf8_lossy(&body);
                info!(%method, path = HOLD, %status, %answer, "the proxy was told");
                holds = wants;
            }
            Ok(Err(error)) => {
                warn!(%method, path = HOLD, %error, "the proxy cannot be told, and is told again");
                time::sleep(PAUSE_WHILE_UNREADY).await;
            }
            Err(_elapsed) => {
                warn!(%method, path = HOLD, "the proxy does not answer, and is told again");
            }
        }
    }
}

fn calls_under_way(metrics: &str) -> Option<u64> {
    metrics.lines().find_map(|line| line.strip_prefix(IN_FLIGHT))?.trim().parse().ok()
}

/// A page of the proxy's; nothing when there is none.
pub async fn page(port: u16, path: &'static str) -> Option<String> {
    let answer = time::timeout(TIMEOUT, exchange(Method::GET, port, path, PAGE_MAX)).await;
    let (status, body) = answer.ok()?.ok()?;
    (status == StatusCode::OK).then(|| String::from_utf8_lossy(&body).into_owned())
}

async fn exchange(
    method: Method,
    port: u16,
    path: &'static str,
    body_max: usize,
) -> Result<(StatusCode, Bytes), Cause> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(BODY_MAX).handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let question = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), body_max).collect().await?;
        Ok::<_, Cause>((status, body.to_bytes()))
    };
    // The connection does the work that the question waits for; it ends when the sender is dropped.
    let (answer, end) = tokio::join!(question, connection);
    let answer = answer?;
    end.map_err(io::Error::other)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_calls_is_found_among_the_proxys_metrics() {
        let page = "# TYPE cloudstate_requests_in_flight gauge\ncloudstate_requests_in_flight 17\n";
        assert_eq!(calls_under_way(page), Some(17));
        assert_eq!(calls_under_way("cloudstate_requests_in_flight_total 1\n"), None);
    }
}
