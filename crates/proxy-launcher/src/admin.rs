//! The admin port: who may connect, and for how long. What is answered stands in [`desk`].

mod desk;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::{self, AbortHandle, JoinSet},
    time,
};
use tracing::{debug, warn};

pub use self::desk::{Desk, Order, TOKEN_HEADER};

/// The oldest connection gives way to the newest beyond this, and first of all one that has asked nothing, so
/// that clients who connect and say nothing keep out neither the kubelet nor who waits for an answer.
const CONNECTIONS_MAX: usize = 64;
/// One question, one answer, no keep-alive: a slow client costs this long and no more, apart from the time that
/// it was made to wait.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(5);
const HEADERS_MAX: usize = 8 * 1024;
/// An immediate retry would spin.
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(1);

/// Serves the port until it is dropped.
///
/// # Cancel safety
/// Dropping it closes every connection.
pub async fn serve(listener: TcpListener, desk: Desk) {
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<Visit> = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                while connections.try_join_next().is_some() {}
                oldest_first.retain(|visit| !visit.task.is_finished());
                if oldest_first.len() == CONNECTIONS_MAX {
                    let silent = |visit: &Visit| !visit.has_asked.load(Ordering::Relaxed);
                    let given_up = oldest_first.iter().position(silent).unwrap_or(0);
                    if let Some(visit) = oldest_first.remove(given_up) {
                        visit.task.abort();
                    }
                }
                let has_asked = Arc::new(AtomicBool::new(false));
                let answer = answer_one(stream, peer.ip(), desk.clone(), Arc::clone(&has_asked));
                oldest_first.push_back(Visit { task: connections.spawn(answer), has_asked });
                // Those that were taken have their turn before more are.
                task::yield_now().await;
            }
            Err(error) => {
                warn!(%error, "failed to accept an admin connection");
                // Out of file descriptors: the oldest connection has had its time.
                if let Some(oldest) = oldest_first.pop_front() {
                    oldest.task.abort();
                }
                time::sleep(PAUSE_AFTER_ACCEPT_ERROR).await;
            }
        }
    }
}

/// A connection.
struct Visit {
    task: AbortHandle,
    has_asked: Arc<AtomicBool>,
}

async fn answer_one<S>(stream: S, peer: IpAddr, desk: Desk, has_asked: Arc<AtomicBool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let waits = Arc::new(AtomicBool::new(false));
    let made_to_wait = Arc::clone(&waits);
    let service = service_fn(move |request: Request<Incoming>| {
        has_asked.store(true, Ordering::Relaxed);
        let (desk, waits) = (desk.clone(), Arc::clone(&made_to_wait));
        async move {
            waits.store(true, Ordering::Relaxed);
            let answer = desk.answer(&request, peer).await;
            waits.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .max_buf_size(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    loop {
        match time::timeout(CONNECTION_TIME_MAX, &mut connection).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => return debug!(%peer, %error, "an admin connection broke"),
            Err(_) if waits.load(Ordering::Relaxed) => {}
            Err(_) => return debug!(%peer, "an admin connection took too long"),
        }
    }
}
