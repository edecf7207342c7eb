//! The management port: whether the process lives, and whether it serves calls.

use api::contract::{NotReady, probe};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tonic::body::Body;

use crate::readiness::Ready;

/// Answers one request.
pub fn answer(ready: &Ready, request: &Request<Incoming>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, probe::ALIVE) => text(StatusCode::OK, "alive"),
        (&Method::GET | &Method::HEAD, probe::READY) => match ready {
            Ok(()) => text(StatusCode::OK, "ready"),
            Err(why) => json(why),
        },
        (_, probe::ALIVE | probe::READY) => text(StatusCode::METHOD_NOT_ALLOWED, "use GET"),
        _ => text(StatusCode::NOT_FOUND, "there are /alive and /ready"),
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::from(text)));
    *response.status_mut() = status;
    response
}

fn json(why: &NotReady) -> Response<Body> {
    let body = serde_json::to_vec(why).expect("two strings always make JSON");
    let mut response = Response::new(Body::new(Full::from(body)));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
