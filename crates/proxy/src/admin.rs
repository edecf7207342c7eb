//! The management port: whether the process lives, whether it serves calls, and for whoever is called at
//! night, what it is doing (`docs/operator/on-call.md`). Nothing here shows a payload or a secret.

mod pages;

use std::sync::{Arc, OnceLock};

use api::contract::{NotReady, probe};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tonic::body::Body;

use crate::{config::Config, metrics::Sources, readiness::Readiness};

const LIVE: &str = "/live";
const HEALTHZ: &str = "/healthz";
const STATUS: &str = "/status";
const ENTITIES: &str = "/entities";

/// What is known of the proxy; clones share it.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "entities have nothing to show")]
pub struct Desk {
    facts: Arc<Facts>,
    readiness: Readiness,
    /// From the moment that the user function is known.
    sources: Arc<OnceLock<Sources>>,
}

/// What does not change.
struct Facts {
    store: &'static str,
    user_function: String,
    memory: u64,
    commands: usize,
    started: std::time::SystemTime,
}

impl Desk {
    /// A desk for a proxy with these settings.
    pub fn new(config: &Config, readiness: Readiness, sources: Arc<OnceLock<Sources>>) -> Self {
        let facts = Facts {
            store: config.terms.store.as_str(),
            user_function: config.user_function.clone(),
            memory: config.memory,
            commands: config.entities.queue,
            started: std::time::SystemTime::now(),
        };
        Self { facts: Arc::new(facts), readiness, sources }
    }

    /// Answers one request.
    pub async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let known = [probe::ALIVE, probe::READY, LIVE, HEALTHZ, STATUS, ENTITIES].contains(&path);
        if !matches!(*request.method(), Method::GET | Method::HEAD) && known {
            return text(StatusCode::METHOD_NOT_ALLOWED, "use GET");
        }
        let query = request.uri().query().unwrap_or_default();
        match path {
            probe::ALIVE | LIVE | HEALTHZ => text(StatusCode::OK, "alive"),
            probe::READY => match self.readiness.now() {
                Ok(()) => text(StatusCode::OK, "ready"),
                Err(why) => not_ready(&why),
            },
            STATUS => page(query, &pages::status(&self)),
            ENTITIES => page(query, &pages::entities(&self, query).await),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /alive, /ready, /status and /entities?service=&key=, the last two also with \
                 format=json",
            ),
        }
    }
}

fn page(query: &str, page: &serde_json::Value) -> Response<Body> {
    if pages::parameter(query, "format").as_deref() == Some("json") {
        return json(StatusCode::OK, page);
    }
    text(StatusCode::OK, pages::plain(page))
}

fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::from(text.into())));
    *response.status_mut() = status;
    response
}

fn not_ready(why: &NotReady) -> Response<Body> {
    let body = serde_json::json!({ "reason": why.reason, "message": why.message });
    json(StatusCode::SERVICE_UNAVAILABLE, &body)
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    let mut response = text(status, body.to_string());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
