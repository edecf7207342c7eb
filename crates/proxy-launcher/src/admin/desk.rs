//! What is answered on the admin port. Probes come from what is known already: no question is passed on while
//! the kubelet waits. Whoever wants something done must be in the pod.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::{
    contract::{NotReady, WAIT_FOR_DRAIN, probe},
    environment::value,
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header, header::HeaderValue};
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tracing::info;

use crate::{
    board::Board,
    health::{Drain, Health},
    log::Log,
    metrics::{self, Form},
    supervise::DUMP_INTERVAL,
};

/// Carries the token, when there is one.
pub const TOKEN_HEADER: &str = "x-launcher-token";
const DRAIN: &str = "/drain";
const QUIT: &str = "/quit";
const STATUS: &str = "/status";
const CONFIG: &str = "/config";
const LOG_LEVEL: &str = "/loglevel";
/// The same, as the proxy's port calls it: at night nobody remembers which port has which.
const LOG_LEVEL_THERE: &str = "/log-level";
const DUMP: &str = "/dump";
const METRICS: &str = "/metrics";
/// Behind the question mark of a probe.
const VERBOSE: &str = "verbose";
/// Containers of a pod are told to stop at about the same time: one that waits for the drain may ask before it
/// has begun.
const DRAIN_BEGINS_WITHIN: Duration = Duration::from_secs(2);
/// Larger bodies are refused; smaller ones are ignored.
const BODY_MAX: u64 = 1024;

/// What the supervisor is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Have calls sent elsewhere, and stay.
    Drain,
    /// Take that back.
    CancelDrain,
    /// Leave.
    Quit,
    /// Write down what the proxy is doing.
    Dump,
}

/// What the answers are made of; clones share it.
#[derive(Clone, Debug)]
pub struct Desk {
    health: watch::Receiver<Health>,
    board: Arc<Board>,
    orders: mpsc::Sender<Order>,
    log: Log,
    /// Without it nothing but telling is done, when there is one.
    token: Option<Arc<str>>,
    /// The settings as they are shown.
    settings: Arc<Mutex<Value>>,
    /// Port of the proxy's metrics, when they follow on ours.
    merged: Option<u16>,
    /// Only counted.
    copies: Arc<()>,
}

type Answer = Response<Full<Bytes>>;

impl Desk {
    /// A desk that passes orders on.
    pub fn new(
        health: watch::Receiver<Health>,
        board: Arc<Board>,
        orders: mpsc::Sender<Order>,
        log: Log,
        token: Option<String>,
        settings: Arc<Mutex<Value>>,
    ) -> Self {
        let token = token.map(Into::into);
        Self { health, board, orders, log, token, settings, merged: None, copies: Arc::default() }
    }

    /// The same, which lets the metrics on that port follow on ours.
    #[must_use]
    pub fn merging(self, merged: Option<u16>) -> Self {
        Self { merged, ..self }
    }

    /// Whether somebody else has this desk, too: a connection, besides server and supervisor.
    pub(crate) fn is_busy(&self) -> bool {
        const SERVER_AND_SUPERVISOR: usize = 2;
        Arc::strong_count(&self.copies) > SERVER_AND_SUPERVISOR
    }

    /// Answers one request; its body is never read.
    pub(super) async fn answer<B>(&self, request: &Request<B>, peer: IpAddr) -> Answer {
        let method = request.method();
        let path = match request.uri().path() {
            LOG_LEVEL_THERE => LOG_LEVEL,
            path => path,
        };
        let query = request.uri().query().unwrap_or_default();
        let Some((allowed, is_open)) = rule(path) else {
            return text(StatusCode::NOT_FOUND, "not found");
        };
        if !allowed.split(", ").any(|word| word == method.as_str()) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
            return response;
        }
        if !is_open && let Err(why) = self.may(peer, request.headers()) {
            return text(StatusCode::FORBIDDEN, why);
        }
        let length = request.headers().get(header::CONTENT_LENGTH).and_then(|it| it.to_str().ok());
        if length.is_some_and(|it| it.parse::<u64>().is_ok_and(|length| length > BODY_MAX)) {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "nothing here takes a body");
        }
        let health = self.health.borrow().clone();
        match (path, method) {
            (probe::STARTUP | probe::ALIVE | probe::READY, _)
                if query.split('&').any(|word| word == VERBOSE)
                    && self.may(peer, request.headers()).is_ok() =>
            {
                let is_good = match path {
                    probe::STARTUP => health.started,
                    probe::ALIVE => health.alive,
                    _ => health.ready().is_ok(),
                };
                let bad = StatusCode::SERVICE_UNAVAILABLE;
                json(if is_good { StatusCode::OK } else { bad }, &self.verbose(&health))
            }
            // Never the user function's business: Kubernetes may hold its container back until this is 200.
            (probe::STARTUP, _) if health.started => text(StatusCode::OK, "started"),
            (probe::STARTUP, _) => {
                text(StatusCode::SERVICE_UNAVAILABLE, "the proxy has not answered yet")
            }
            (probe::ALIVE, _) if health.alive => text(StatusCode::OK, "alive"),
            (probe::ALIVE, _) => text(StatusCode::SERVICE_UNAVAILABLE, "failed"),
            (probe::READY, _) => ready(health.ready()),
            (METRICS, _) => self.metrics(request.headers(), &health).await,
            (WAIT_FOR_DRAIN, _) => self.wait_for_drain().await,
            (STATUS, _) => json(StatusCode::OK, &self.board.status(&health)),
            (CONFIG, _) => {
                let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
                json(StatusCode::OK, &settings)
            }
            (LOG_LEVEL, &Method::PUT) => self.set_level(query),
            (LOG_LEVEL, _) => text(StatusCode::OK, self.log.level()),
            (DRAIN, &Method::POST) => {
                self.drain(query.split('&').any(|word| word == "wait=1")).await
            }
            (DRAIN, _) => self.cancel_drain(),
            (QUIT, _) => {
                self.order(Order::Quit, "the proxy finishes what is under way, and all leave")
            }
            (DUMP, _) => self.dump(),
            _ => text(StatusCode::NOT_FOUND, "not found"),
        }
    }

    fn may(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), &'static str> {
        if !peer.to_canonical().is_loopback() {
            return Err("only from within the pod: use kubectl port-forward");
        }
        let given = headers.get(TOKEN_HEADER).map(HeaderValue::as_bytes);
        match &self.token {
            Some(token) if given != Some(token.as_bytes()) => Err(
                "the header x-launcher-token must hold what stands in the file of admin.token_file",
            ),
            _ => Ok(()),
        }
    }

    /// What all probes go by.
    fn verbose(&self, health: &Health) -> Value {
        serde_json::json!({
            "state": self.board.look().state,
            "started": health.started,
            "alive": health.alive,
            "ready": health.ready().is_ok(),
            "reasons": health.reasons.iter().map(why_not).collect::<Vec<_>>(),
        })
    }

    async fn metrics(&self, headers: &HeaderMap, health: &Health) -> Answer {
        let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
        // The proxy is not asked for another form, and two forms make no page.
        let form = match self.merged {
            None => Form::accepted(accept.unwrap_or_default()),
            Some(_) => Form::Plain,
        };
        let mut page = metrics::page(&self.board.look(), health, self.board.now(), form);
        if let Some(port) = self.merged
            && let Some(theirs) = crate::probe::page(port, "/metrics").await
        {
            // All our names have a prefix that theirs have not.
            page.push_str(theirs.trim_end().trim_end_matches("# EOF"));
            page.push('\n');
        }
        let mut response = text(StatusCode::OK, page);
        let kind = HeaderValue::from_static(form.media_type());
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    fn set_level(&self, query: &str) -> Answer {
        let level = query.strip_prefix("level=").unwrap_or_default();
        match value::level(level) {
            Ok(level) => {
                self.log.set_level(level);
                info!(level, "the level of the log was changed");
                text(StatusCode::OK, level)
            }
            Err(_) => text(StatusCode::BAD_REQUEST, "use ?level= with error, warn, info or debug"),
        }
    }

    fn order(&self, order: Order, done: &'static str) -> Answer {
        match self.orders.try_send(order) {
            Ok(()) => text(StatusCode::ACCEPTED, done),
            Err(_) => {
                text(StatusCode::SERVICE_UNAVAILABLE, "others asked for something first: try again")
            }
        }
    }

    async fn drain(&self, wait: bool) -> Answer {
        let accepted =
            self.order(Order::Drain, "calls are sent elsewhere; the proxy stays until TERM");
        if !wait || accepted.status() != StatusCode::ACCEPTED {
            return accepted;
        }
        if self.until(|drain| drain != Drain::No).await == Drain::No {
            return text(StatusCode::CONFLICT, "there is no drain");
        }
        match self.until(|drain| drain != Drain::UnderWay).await {
            Drain::Done => text(StatusCode::OK, "drained"),
            Drain::No => text(StatusCode::CONFLICT, "the drain was cancelled"),
            _ => text(
                StatusCode::GATEWAY_TIMEOUT,
                "there were still calls under way when time was up",
            ),
        }
    }

    fn cancel_drain(&self) -> Answer {
        // The states of a stop; `failed` has no port any more.
        if ["draining", "stopping", "stopped"].contains(&self.board.look().state) {
            return text(StatusCode::CONFLICT, "the pod is being stopped already");
        }
        self.order(Order::CancelDrain, "calls are welcome again")
    }

    /// Starts nothing, so anybody may wait.
    async fn wait_for_drain(&self) -> Answer {
        let begins = self.until(|drain| drain != Drain::No);
        if time::timeout(DRAIN_BEGINS_WITHIN, begins).await.is_err() {
            return text(StatusCode::OK, "there is no drain");
        }
        let drain = self.until(|drain| drain != Drain::UnderWay).await;
        text(StatusCode::OK, drain.as_str())
    }

    /// Waits until the drain is as wanted; every drain ends by itself.
    async fn until(&self, wanted: impl Fn(Drain) -> bool) -> Drain {
        let mut health = self.health.clone();
        let found = health.wait_for(|health| wanted(health.drain)).await.map(|health| health.drain);
        // An error means that the supervisor is gone, and with it whatever was under way.
        found.unwrap_or(Drain::Done)
    }

    fn dump(&self) -> Answer {
        let (now, before) = (self.board.now(), self.board.look().dumped_at);
        if before.is_some_and(|at| now.saturating_sub(at) < DUMP_INTERVAL) {
            return text(StatusCode::TOO_MANY_REQUESTS, "at most once in five seconds");
        }
        self.order(Order::Dump, "what the proxy is doing goes to the log of the container")
    }
}

/// Methods of a path, and whether anybody may use it.
fn rule(path: &str) -> Option<(&'static str, bool)> {
    const READ: &str = "GET, HEAD";
    match path {
        probe::STARTUP | probe::ALIVE | probe::READY | METRICS | WAIT_FOR_DRAIN => {
            Some((READ, true))
        }
        STATUS | CONFIG => Some((READ, false)),
        LOG_LEVEL => Some(("GET, HEAD, PUT", false)),
        DRAIN => Some(("POST, DELETE", false)),
        QUIT | DUMP => Some(("POST", false)),
        _ => None,
    }
}

fn ready(ready: Result<(), &NotReady>) -> Answer {
    match ready {
        Ok(()) => text(StatusCode::OK, "ready"),
        Err(why) => json(StatusCode::SERVICE_UNAVAILABLE, &why_not(why)),
    }
}

fn why_not(why: &NotReady) -> Value {
    serde_json::json!({ "reason": why.reason, "message": why.message })
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::from(body.into()));
    *response.status_mut() = status;
    response
}

fn json(status: StatusCode, body: &Value) -> Answer {
    let mut response = text(status, body.to_string());
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
