//! Answers the kubelet's probes from what is known already: no question is passed on while it waits.

use std::{collections::VecDeque, convert::Infallible, net::SocketAddr, time::Duration};

use api::contract::{NotReady, probe};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time,
};
use tracing::{debug, warn};

use crate::health::Health;

/// The oldest connection gives way to the newest beyond this, so that clients who connect and say nothing
/// cannot keep the kubelet out.
const CONNECTIONS_MAX: usize = 64;
/// One question, one answer, no keep-alive: a slow client costs this long and no more.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(5);
const HEADERS_MAX: usize = 8 * 1024;
/// An immediate retry would spin.
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(1);

/// Serves the probes until it is dropped.
///
/// # Cancel safety
/// Dropping it closes every connection.
pub async fn serve(listener: TcpListener, health: watch::Receiver<Health>) {
    let mut connections = JoinSet::new();
    let mut oldest_first = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                while connections.try_join_next().is_some() {}
                oldest_first.retain(|connection: &AbortHandle| !connection.is_finished());
                if oldest_first.len() == CONNECTIONS_MAX
                    && let Some(oldest) = oldest_first.pop_front()
                {
                    oldest.abort();
                }
                let connection = connections.spawn(answer_one(stream, peer, health.clone()));
                oldest_first.push_back(connection);
            }
            Err(error) => {
                warn!(%error, "failed to accept a probe's connection");
                // Out of file descriptors: the oldest connection has had its time.
                if let Some(oldest) = oldest_first.pop_front() {
                    oldest.abort();
                }
                time::sleep(PAUSE_AFTER_ACCEPT_ERROR).await;
            }
        }
    }
}

async fn answer_one(stream: TcpStream, peer: SocketAddr, health: watch::Receiver<Health>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &health.borrow());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match time::timeout(CONNECTION_TIME_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%peer, %error, "a probe's connection broke"),
        Err(_) => debug!(%peer, "a probe's connection took too long"),
    }
}

fn answer(method: &Method, path: &str, health: &Health) -> Response<Full<Bytes>> {
    let known = [probe::STARTUP, probe::ALIVE, probe::READY].contains(&path);
    if !known {
        return text(StatusCode::NOT_FOUND, "not found");
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match (path, &health.ready) {
        // Never the user function's business: Kubernetes may hold its container back until this is 200.
        (probe::STARTUP, _) => text(StatusCode::OK, "started"),
        (probe::READY, Ok(())) => text(StatusCode::OK, "ready"),
        (probe::READY, Err(why)) => json(StatusCode::SERVICE_UNAVAILABLE, why),
        _ if health.alive => text(StatusCode::OK, "alive"),
        _ => text(StatusCode::SERVICE_UNAVAILABLE, "failed"),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}

fn json(status: StatusCode, body: &NotReady) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).expect("two strings always make JSON");
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_ready() -> NotReady {
        NotReady { reason: "Draining".to_owned(), message: "the pod is being stopped".to_owned() }
    }

    #[track_caller]
    fn check(method: &Method, path: &str, alive: bool, ready: bool, status: u16) {
        let ready = if ready { Ok(()) } else { Err(not_ready()) };
        let response = answer(method, path, &Health { alive, ready });
        assert_eq!(response.status().as_u16(), status, "{method} {path}");
    }

    #[test]
    fn each_probe_looks_at_its_own_fact() {
        check(&Method::GET, "/startup", true, false, 200);
        check(&Method::GET, "/alive", true, false, 200);
        check(&Method::GET, "/alive", false, false, 503);
        check(&Method::GET, "/ready", true, true, 200);
        check(&Method::GET, "/ready", true, false, 503);
        check(&Method::HEAD, "/ready", true, true, 200);
    }

    #[test]
    fn anything_else_is_refused() {
        check(&Method::GET, "/", true, true, 404);
        check(&Method::GET, "/ready/", true, true, 404);
        check(&Method::POST, "/nothing", true, true, 404);
        check(&Method::POST, "/ready", true, true, 405);
        check(&Method::DELETE, "/alive", true, true, 405);
    }
}
