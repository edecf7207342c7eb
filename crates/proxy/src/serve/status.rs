//! How a call ended, in the words of gRPC.

use http::{HeaderMap, HeaderValue, Response, header};
use tonic::{Code, Status, body::Body};

use crate::entity::{Failure, FailureKind};

/// What every answer is.
pub(super) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const OK: HeaderValue = HeaderValue::from_static("0");
/// Bytes that a text may take on its way. Callers of many languages take 8 KiB of headers and trailers in all, and
/// lose the whole status to a longer one.
const TEXT_MAX: usize = 4 * 1024;

/// The gRPC status for a failure.
pub(super) fn of(failure: Failure) -> Status {
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
    Status::new(code, cut(failure.message))
}

/// As much of a text as may go on its way, where whatever is not plain takes three bytes for each of its own.
fn cut(text: String) -> String {
    let mut length = 0;
    for (at, char) in text.char_indices() {
        let is_plain = char.is_ascii_graphic() && char != '%';
        length += if is_plain { 1 } else { 3 * char.len_utf8() };
        if length > TEXT_MAX {
            return format!("{}…", &text[..at]);
        }
    }
    text
}

/// What stands behind the last message.
pub(super) fn trailers(end: Result<(), Failure>) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    match end {
        Ok(()) => drop(trailers.insert(Status::GRPC_STATUS, OK)),
        Err(failure) => put(&of(failure), &mut trailers),
    }
    trailers
}

/// An answer that is a status and nothing else.
pub(super) fn only(status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    put(status, response.headers_mut());
    response
}

/// The text is percent-encoded on the way.
fn put(status: &Status, headers: &mut HeaderMap) {
    if status.add_header(headers).is_err() {
        // Percent-encoded text always is a header.
        headers.insert(Status::GRPC_STATUS, HeaderValue::from(status.code() as i32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_percent_encoded() {
        let trailers = trailers(Err(Failure::new(FailureKind::Failed, "nein: «ä»\n100 %")));
        assert_eq!(trailers.get("grpc-status").unwrap(), "2");
        let text = "nein:%20%C2%AB%C3%A4%C2%BB%0A100%20%25";
        assert_eq!(trailers.get("grpc-message").unwrap(), text);
    }

    #[test]
    fn a_text_as_long_as_a_message_is_cut() {
        for letter in ["a", "%", " ", "ä", "€"] {
            let text = letter.repeat(4 << 20);
            let trailers = trailers(Err(Failure::new(FailureKind::Failed, text)));
            let told = trailers.get("grpc-message").unwrap();
            assert!((4_000..=4_200).contains(&told.len()), "{letter:?}: {}", told.len());
            assert!(told.to_str().unwrap().ends_with("%E2%80%A6"), "{letter:?}");
        }
    }

    #[test]
    fn a_status_of_the_user_function_keeps_its_code() {
        let told = Failure::new(FailureKind::Told(Code::NotFound), "gone");
        assert_eq!(trailers(Err(told)).get("grpc-status").unwrap(), "5");
    }
}
