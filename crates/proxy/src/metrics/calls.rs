//! What is counted of calls at the edge. A call ends with its status, wherever that stands: in the headers, in
//! the trailers, or nowhere when the caller left.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use hyper::body::{Frame, SizeHint};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tonic::{Code, Status, body::Body};
use tracing::debug;

use super::{Histograms, add, short_times};
use crate::route::{Kind, Routes};

/// The numbers of gRPC's codes.
const CODES: usize = 17;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodName {
    service: String,
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    protocol: &'static str,
    service: String,
    method: String,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceName {
    entity_name: String,
}

/// The handle of one method.
#[derive(Debug)]
pub struct CallMetrics {
    name: MethodName,
    requests: Family<Ended, Counter>,
    /// Filled as codes occur.
    ended: [OnceLock<Counter>; CODES],
    duration: Histogram,
    in_flight: Gauge,
    /// Only for an action.
    action: Option<ActionMetrics>,
}

/// What is counted of an action as of entities.
#[derive(Clone, Debug)]
struct ActionMetrics {
    received: Counter,
    failed: Counter,
    completed: Counter,
    total_time: Histogram,
}

/// Registers the families, and makes the handle of every method, by its path.
pub(super) fn register(
    registry: &mut Registry,
    routes: &Routes,
) -> HashMap<String, Arc<CallMetrics>> {
    let requests: Family<Ended, Counter> =
        add(registry, "cloudstate_requests", "Calls that have ended, by status", Family::default());
    let duration: Histograms<MethodName> = add(
        registry,
        "cloudstate_request_duration_seconds",
        "From a call's headers to its status",
        short_times(),
    );
    let in_flight: Gauge =
        add(registry, "cloudstate_requests_in_flight", "Calls under way", Gauge::default());
    let mut actions = None;
    let mut calls = HashMap::new();
    for (path, method) in routes.methods() {
        let name = MethodName { service: method.service.name.clone(), method: method.name.clone() };
        let action = (method.service.kind == Kind::Action).then(|| {
            let families = actions.get_or_insert_with(|| ActionFamilies::register(registry));
            families.of(&method.service.name)
        });
        let metrics = CallMetrics {
            duration: duration.get_or_create_owned(&name),
            requests: requests.clone(),
            ended: [const { OnceLock::new() }; CODES],
            in_flight: in_flight.clone(),
            action,
            name,
        };
        calls.insert(path.to_owned(), Arc::new(metrics));
    }
    calls
}

struct ActionFamilies {
    received: Family<ServiceName, Counter>,
    failed: Family<ServiceName, Counter>,
    completed: Family<ServiceName, Counter>,
    total_time: Histograms<ServiceName>,
}

impl ActionFamilies {
    fn register(registry: &mut Registry) -> Self {
        let mut counter = |name: &str, help: &str| {
            add(registry, &format!("cloudstate_action_{name}"), help, Family::default())
        };
        let received = counter("received_commands", "Calls of actions that came in");
        let failed = counter("failed_commands", "Calls of actions that did not end with OK");
        let completed = counter("completed_commands", "Calls of actions that have ended");
        let name = "cloudstate_action_command_total_time_seconds";
        let total_time = add(registry, name, "From a call's arrival to its end", super::times());
        Self { received, failed, completed, total_time }
    }

    fn of(&self, service: &str) -> ActionMetrics {
        let name = ServiceName { entity_name: service.to_owned() };
        ActionMetrics {
            received: self.received.get_or_create_owned(&name),
            failed: self.failed.get_or_create_owned(&name),
            completed: self.completed.get_or_create_owned(&name),
            total_time: self.total_time.get_or_create_owned(&name),
        }
    }
}

impl CallMetrics {
    /// A call begins; it counts as cancelled unless it is told of another end. `trace` is what the caller calls
    /// it in the log, where that tells of calls.
    pub fn begin(self: &Arc<Self>, trace: Option<String>) -> Measured {
        self.in_flight.inc();
        if let Some(action) = &self.action {
            action.received.inc();
        }
        Measured { metrics: Arc::clone(self), began: Instant::now(), code: Code::Cancelled, trace }
    }

    fn counter(&self, code: Code) -> &Counter {
        let at = usize::try_from(i32::from(code)).unwrap_or_default().min(CODES - 1);
        self.ended[at].get_or_init(|| {
            let MethodName { service, method } = self.name.clone();
            self.requests.get_or_create_owned(&Ended {
                protocol: "grpc",
                service,
                method,
                code: name(code),
            })
        })
    }
}

/// A call under way.
#[derive(Debug)]
pub struct Measured {
    metrics: Arc<CallMetrics>,
    began: Instant,
    code: Code,
    trace: Option<String>,
}

impl Measured {
    /// Follows a response to its end.
    pub fn follow(mut self, response: Response<Body>) -> Response<Body> {
        if let Some(code) = told(response.headers()) {
            self.code = code;
            return response;
        }
        response.map(|body| Body::new(Followed { body, call: self }))
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let metrics = &self.metrics;
        let time = self.began.elapsed().as_secs_f64();
        let MethodName { service, method } = &metrics.name;
        let (code, trace) = (name(self.code), self.trace.as_deref());
        debug!(service, method, code, seconds = time, trace, "call ended");
        metrics.in_flight.dec();
        metrics.counter(self.code).inc();
        metrics.duration.observe(time);
        if let Some(action) = &metrics.action {
            action.completed.inc();
            action.total_time.observe(time);
            if self.code != Code::Ok {
                action.failed.inc();
            }
        }
    }
}

fn told(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// A response's body, up to the trailers that tell the status.
struct Followed {
    body: Body,
    call: Measured,
}

impl hyper::body::Body for Followed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(code) = frame.trailers_ref().and_then(told)
        {
            self.call.code = code;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A code as the gRPC documents write it.
const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
