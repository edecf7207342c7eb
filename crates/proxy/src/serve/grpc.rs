//! One unary call: message bytes in, message bytes out, statuses with the texts of
//! `docs/protocol.md`.

use std::{sync::Arc, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes};
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tokio::time;
use tonic::{
    Code, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, UnaryService},
};

use super::{Limits, metadata};
use crate::{
    entity::{Failure, FailureKind},
    route::Method,
    router::Router,
};

/// Answers a call of `method`.
pub(super) async fn unary(
    method: Arc<Method>,
    router: Router,
    limits: Limits,
    request: Request<Incoming>,
) -> Response<Body> {
    let limit = deadline(request.headers()).map_or(limits.call, |caller| caller.min(limits.call));
    let call = Call { method, router, limit };
    let mut response = Grpc::new(Raw)
        .max_decoding_message_size(limits.request_size)
        .max_encoding_message_size(limits.response_size)
        .unary(call, request)
        .await;
    // The library has another opinion on what a message that is too large is.
    let status = response.headers().get(Status::GRPC_STATUS);
    if status.is_some_and(|status| status == OUT_OF_RANGE) {
        response.headers_mut().insert(Status::GRPC_STATUS, RESOURCE_EXHAUSTED);
    }
    response
}

const OUT_OF_RANGE: &str = "11";
const RESOURCE_EXHAUSTED: http::HeaderValue = http::HeaderValue::from_static("8");

struct Call {
    method: Arc<Method>,
    router: Router,
    limit: Duration,
}

impl UnaryService<Bytes> for Call {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let Self { method, router, limit } = self;
        let (method, router, limit) = (Arc::clone(method), router.clone(), *limit);
        async move {
            let (headers, _extensions, payload) = request.into_parts();
            let metadata = metadata::of(&headers.into_headers());
            let call = router.unary(&method, payload, metadata, Some(limit));
            let Ok(outcome) = time::timeout(limit, call).await else {
                return Err(Status::deadline_exceeded("no reply in time"));
            };
            let reply = outcome.map_err(status)?;
            let mut response = tonic::Response::new(reply.payload);
            *response.metadata_mut() = metadata::into(reply.metadata.unwrap_or_default());
            Ok(response)
        }
        .boxed()
    }
}

/// The gRPC status for a failure.
fn status(failure: Failure) -> Status {
    let code = match failure.kind {
        FailureKind::Failed => Code::Unknown,
        FailureKind::InvalidArgument => Code::InvalidArgument,
        FailureKind::DeadlineExceeded => Code::DeadlineExceeded,
        FailureKind::ResourceExhausted => Code::ResourceExhausted,
        FailureKind::Unavailable => Code::Unavailable,
        FailureKind::Unimplemented => Code::Unimplemented,
        FailureKind::Internal => Code::Internal,
        FailureKind::Told(code) => code,
    };
    Status::new(code, failure.message)
}

/// The caller's `grpc-timeout`: up to eight digits and a unit. Anything else is no deadline.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3_600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Passes messages through as they are.
#[derive(Clone, Copy, Debug)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, expected: Option<Duration>) {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", value.parse().unwrap());
        assert_eq!(deadline(&headers), expected, "{value}");
    }

    #[test]
    fn a_deadline_is_digits_and_a_unit() {
        check("1H", Some(Duration::from_hours(1)));
        check("2M", Some(Duration::from_mins(2)));
        check("3S", Some(Duration::from_secs(3)));
        check("250m", Some(Duration::from_millis(250)));
        check("99999999u", Some(Duration::from_micros(99_999_999)));
        check("0n", Some(Duration::ZERO));
    }

    #[test]
    fn what_is_no_deadline_is_ignored() {
        for value in ["", "S", "5", "-1S", "5s", "999999999S", "1.5S"] {
            check(value, None);
        }
    }
}
