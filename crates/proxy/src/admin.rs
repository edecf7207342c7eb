//! The management port: whether the process lives, whether it serves calls, and for whoever is called at
//! night, what it is doing (`docs/operator/on-call.md`). Nothing here shows a payload or a secret.

mod pages;

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use api::contract::{HOLD, probe};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tonic::body::Body;
use tracing::info;

use crate::{
    config::Config,
    ending::Ending,
    log,
    metrics::Sources,
    readiness::{Part, Readiness, Ready},
};

const LIVE: &str = "/live";
const HEALTHZ: &str = "/healthz";
const INFO: &str = "/info";
const STATUS: &str = "/status";
const ENTITIES: &str = "/entities";
const LOG_LEVEL: &str = "/log-level";
/// The same, as the launcher's port calls it: at night nobody remembers which port has which.
const LOG_LEVEL_THERE: &str = "/loglevel";
const DRAIN: &str = "/drain";
/// What can be read.
const PAGES: [&str; 8] =
    [probe::ALIVE, probe::READY, probe::STARTUP, LIVE, HEALTHZ, INFO, STATUS, ENTITIES];

/// What is known of the proxy; clones share it.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "entities have nothing to show")]
pub struct Desk {
    facts: Arc<Facts>,
    readiness: Readiness,
    /// From the moment that the user function is known.
    sources: Arc<OnceLock<Sources>>,
    /// Tells the proxy to leave, or to do no more than stay.
    ending: Ending,
}

/// What does not change.
struct Facts {
    store: &'static str,
    user_function: String,
    memory: u64,
    commands: usize,
    hash: String,
    started: std::time::SystemTime,
}

impl Desk {
    /// A desk for a proxy with these settings, which ends as `ending` is told.
    pub fn new(
        config: &Config,
        readiness: Readiness,
        sources: Arc<OnceLock<Sources>>,
        ending: Ending,
    ) -> Self {
        let facts = Facts {
            store: config.terms.store.as_str(),
            user_function: config.user_function.clone(),
            memory: config.memory,
            commands: config.entities.queue,
            hash: config.hash.clone(),
            started: std::time::SystemTime::now(),
        };
        Self { facts: Arc::new(facts), readiness, sources, ending }
    }

    /// Answers one request from `caller`.
    pub async fn answer(self, request: Request<Incoming>, caller: IpAddr) -> Response<Body> {
        let method = request.method();
        let path = match request.uri().path() {
            LOG_LEVEL_THERE => LOG_LEVEL,
            path => path,
        };
        let query = request.uri().query().unwrap_or_default();
        let read = matches!(*method, Method::GET | Method::HEAD);
        if is_of_this_pod(path, read) && !caller.to_canonical().is_loopback() {
            let why = "only from within the pod, or through `kubectl port-forward`";
            return text(StatusCode::FORBIDDEN, why);
        }
        match path {
            LOG_LEVEL if read => {
                text(StatusCode::OK, log::level().unwrap_or("kept by somebody else"))
            }
            LOG_LEVEL if *method == Method::PUT => log_level(query),
            LOG_LEVEL => text(StatusCode::METHOD_NOT_ALLOWED, "use GET, or PUT with ?level="),
            DRAIN if *method == Method::POST => {
                info!("told to stop at the management port");
                self.ending.leave();
                text(StatusCode::OK, "the proxy finishes what is under way and leaves")
            }
            DRAIN => text(StatusCode::METHOD_NOT_ALLOWED, "use POST"),
            HOLD => self.hold(method),
            _ if PAGES.contains(&path) && !read => text(StatusCode::METHOD_NOT_ALLOWED, "use GET"),
            probe::ALIVE | LIVE | HEALTHZ => self.probed(query, Ok(()), "alive"),
            probe::STARTUP => match self.readiness.of(Part::UserFunction) {
                // Known once is known for good.
                Err(why) if self.sources.get().is_none() => self.probed(query, Err(why), ""),
                _ => self.probed(query, Ok(()), "started"),
            },
            probe::READY => self.probed(query, self.readiness.now(), "ready"),
            INFO => json(StatusCode::OK, &pages::info(&self)),
            STATUS => page(query, &pages::status(&self)),
            ENTITIES => page(query, &pages::entities(&self, query).await),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /alive, /startup and /ready, each also with ?verbose; /info; /status and \
                 /entities?service=&key=, both also with format=json; /log-level, which PUT with ?level= changes; POST /drain; \
                 POST and DELETE /hold",
            ),
        }
    }

    /// The answer of a probe: one word, or why not; with `?verbose` what every part says.
    fn probed(&self, query: &str, outcome: Ready, word: &'static str) -> Response<Body> {
        let status = match &outcome {
            Ok(()) => StatusCode::OK,
            Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        if pages::is_flag(query, "verbose") {
            return json(status, &pages::verbose(self, &outcome));
        }
        match outcome {
            Ok(()) => text(status, word),
            Err(why) => json(status, &pages::why(&why)),
        }
    }

    fn hold(&self, method: &Method) -> Response<Body> {
        match *method {
            Method::POST => {
                info!("told to take no more calls at the management port");
                self.ending.hold();
                text(StatusCode::OK, "the proxy finishes what is under way and stays")
            }
            Method::DELETE if self.ending.resume() => {
                info!("told to serve again at the management port");
                text(StatusCode::OK, "the proxy starts afresh")
            }
            Method::DELETE => text(StatusCode::CONFLICT, "the proxy is not held"),
            _ => text(StatusCode::METHOD_NOT_ALLOWED, "use POST, or DELETE to serve again"),
        }
    }
}

/// What changes the proxy, or tells more of it than whether it serves, keys of entities among it, which may be
/// anybody's names, is not for the whole network.
fn is_of_this_pod(path: &str, read: bool) -> bool {
    matches!(path, DRAIN | HOLD | INFO | STATUS | ENTITIES) || (path == LOG_LEVEL && !read)
}

fn log_level(query: &str) -> Response<Body> {
    match log::set(&pages::parameter(query, "level").unwrap_or_default()) {
        Ok(level) => {
            info!(level, "the level of the log was changed");
            text(StatusCode::OK, level)
        }
        Err(why) => text(StatusCode::BAD_REQUEST, why),
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

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    let mut response = text(status, body.to_string());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_the_proxy_or_tells_keys_is_for_callers_in_the_pod() {
        let kept = [INFO, STATUS, ENTITIES];
        for (path, read) in
            [(DRAIN, false), (LOG_LEVEL, false)].into_iter().chain(kept.map(|path| (path, true)))
        {
            assert!(is_of_this_pod(path, read), "{path}");
        }
        for path in PAGES.into_iter().chain([LOG_LEVEL]) {
            assert_eq!(is_of_this_pod(path, true), kept.contains(&path), "{path}");
        }
    }
}
