//! The standard health service, `grpc.health.v1.Health`: it says of the proxy and of every service what
//! readiness says. It is not listed by reflection.

use std::convert::Infallible;

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{ServiceExt as _, util::BoxCloneSyncService};

use crate::readiness::Readiness;

/// Most bytes of a question: a name.
const QUESTION_MAX: usize = 4 << 10;

/// Health of the proxy and its services; clones share it.
#[derive(Clone)]
pub(super) struct Health {
    readiness: Readiness,
    reporter: HealthReporter,
    /// Full names, and the empty one for all.
    services: Vec<String>,
    service: BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>,
}

impl Health {
    pub(super) fn new(readiness: Readiness, services: &[String]) -> Self {
        let (reporter, server) = tonic_health::server::health_reporter();
        let server = server.max_decoding_message_size(QUESTION_MAX);
        let services = [String::new()].into_iter().chain(services.iter().cloned()).collect();
        Self { readiness, reporter, services, service: BoxCloneSyncService::new(server) }
    }

    /// Tells the health service of every change, for as long as the future is polled.
    pub(super) async fn follow(self) {
        let mut ready = self.readiness.now();
        loop {
            let status = match &ready {
                Ok(()) => ServingStatus::Serving,
                Err(_) => ServingStatus::NotServing,
            };
            for service in &self.services {
                self.reporter.set_service_status(service, status).await;
            }
            ready = self.readiness.changed(&ready).await;
        }
    }

    pub(super) async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let Ok(response) = self.service.oneshot(request).await;
        response
    }
}
