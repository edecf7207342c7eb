//! Server reflection, so that `grpcurl` and its like need no `.proto` file. It answers from the user
//! function's own descriptors.

use std::convert::Infallible;

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic_reflection::server::Builder;
use tower::{ServiceExt as _, util::BoxCloneSyncService};
use tracing::warn;

use crate::route::Routes;

const V1: &str = "/grpc.reflection.v1.ServerReflection/";
const V1ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/";

type Version = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

/// Both versions of the service.
#[derive(Clone)]
pub(super) struct Reflection {
    v1: Version,
    v1alpha: Version,
}

impl Reflection {
    /// Reflection over these routes; none when their descriptors do not suit it, which hurts no call.
    pub(super) fn new(routes: &Routes) -> Option<Self> {
        let built = Self::builder(routes)
            .build_v1()
            .and_then(|v1| Ok((v1, Self::builder(routes).build_v1alpha()?)));
        match built {
            Ok((v1, v1alpha)) => {
                Some(Self { v1: Version::new(v1), v1alpha: Version::new(v1alpha) })
            }
            Err(error) => {
                warn!(%error, "the user function's descriptors do not suit reflection");
                None
            }
        }
    }

    fn builder(routes: &Routes) -> Builder<'_> {
        let builder = Builder::configure()
            .include_reflection_service(false)
            .register_encoded_file_descriptor_set(routes.descriptors());
        routes.services().iter().fold(builder, Builder::with_service_name)
    }

    pub(super) fn serves(path: &str) -> bool {
        path.starts_with(V1) || path.starts_with(V1ALPHA)
    }

    pub(super) async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let version = if request.uri().path().starts_with(V1) { self.v1 } else { self.v1alpha };
        let Ok(response) = version.oneshot(request).await;
        response
    }
}
