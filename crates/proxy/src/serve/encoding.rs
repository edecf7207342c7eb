//! Compression of messages: gzip or none, as the headers of a call say.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use http::{HeaderMap, HeaderValue};

use crate::entity::{Failure, FailureKind};

/// How the sender compresses.
pub(super) const ENCODING: &str = "grpc-encoding";
/// What the receiver understands.
pub(super) const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// What we understand.
pub(super) const OURS: HeaderValue = HeaderValue::from_static("identity,gzip");
pub(super) const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// Below this, compression costs more than it saves.
const DEFLATED_MIN: usize = 1024;
/// Inflating begins with room for this.
const INFLATED_MIN: usize = 1024;

/// Whether a caller's messages may be compressed.
///
/// # Errors
/// The name of an encoding that is not known here.
pub(super) fn of_request(headers: &HeaderMap) -> Result<bool, String> {
    match headers.get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(other) => Err(String::from_utf8_lossy(other).into_owned()),
    }
}

/// Whether the caller understands compressed messages.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    offers.flat_map(|offer| offer.split(',')).any(|name| name.trim() == "gzip")
}

/// A compressed message on its way to what it was, in steps, since nothing but the attempt tells how large
/// that is: whoever takes them finds room for each.
#[derive(Debug)]
pub(super) struct Inflating<'a> {
    decoder: MultiGzDecoder<&'a [u8]>,
    inflated: Vec<u8>,
    /// Bytes that fit after the next step.
    next: usize,
    limit: usize,
}

impl<'a> Inflating<'a> {
    /// Of at most `limit` bytes in the end.
    pub(super) fn new(message: &'a [u8], limit: usize) -> Self {
        let next = (message.len() * 2).clamp(INFLATED_MIN, limit.max(INFLATED_MIN));
        Self { decoder: MultiGzDecoder::new(message), inflated: Vec::new(), next, limit }
    }

    /// How many bytes the next step may hold in all.
    pub(super) fn next(&self) -> usize {
        self.next
    }

    /// Takes one step; gives the message once all of it is there.
    pub(super) fn step(&mut self) -> Result<Option<Bytes>, Failure> {
        let room = self.next - self.inflated.len();
        self.inflated.reserve_exact(room);
        let most = u64::try_from(room).unwrap_or(u64::MAX);
        let read = self.decoder.by_ref().take(most).read_to_end(&mut self.inflated);
        let read = read.map_err(|error| {
            Failure::new(FailureKind::Internal, format!("the message is not gzip: {error}"))
        })?;
        if self.inflated.len() > self.limit {
            let limit = self.limit;
            let text = format!("the message has more than {limit} bytes, which is the limit");
            return Err(Failure::new(FailureKind::ResourceExhausted, text));
        }
        if read < room {
            return Ok(Some(std::mem::take(&mut self.inflated).into()));
        }
        // One more than may be there shows that there are more.
        self.next = (self.next * 2).min(self.limit + 1);
        Ok(None)
    }
}

/// A compressed message, if that makes it smaller.
pub(super) fn deflate(message: &[u8]) -> Option<Bytes> {
    if message.len() < DEFLATED_MIN {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(message.len() / 2), Compression::fast());
    encoder.write_all(message).ok()?;
    let deflated = encoder.finish().ok()?;
    (deflated.len() < message.len()).then(|| deflated.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inflate(message: &[u8], limit: usize) -> Result<Bytes, Failure> {
        let mut inflating = Inflating::new(message, limit);
        loop {
            if let Some(message) = inflating.step()? {
                return Ok(message);
            }
        }
    }

    #[track_caller]
    fn check(offer: &'static str, expected: bool) {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static(ACCEPT_ENCODING),
            HeaderValue::from_static(offer),
        )]);
        assert_eq!(accepts_gzip(&headers), expected, "{offer}");
    }

    #[test]
    fn gzip_counts_wherever_it_stands() {
        check("gzip", true);
        check("identity, gzip", true);
        check("deflate,gzip ,zstd", true);
        check("identity", false);
        check("gzipped", false);
    }

    #[test]
    fn small_or_dense_messages_stay_as_they_are() {
        assert_eq!(deflate(&[0; DEFLATED_MIN - 1]), None);
        assert!(deflate(&[0; DEFLATED_MIN]).is_some());
        let mut dense = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            dense = dense.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            dense.to_be_bytes()[0]
        })
        .take(2_000)
        .collect();
        assert_eq!(deflate(&noise), None);
    }

    #[test]
    fn a_small_message_that_grows_beyond_the_limit_is_refused() {
        let bomb = deflate(&vec![0; 1 << 20]).unwrap();
        let failure = inflate(&bomb, 1 << 19).unwrap_err();
        assert_eq!(failure.kind, FailureKind::ResourceExhausted);
        assert_eq!(inflate(&bomb, (1 << 20) - 1).unwrap_err().kind, FailureKind::ResourceExhausted);
        assert_eq!(inflate(&bomb, 1 << 20).unwrap().len(), 1 << 20);
        assert_eq!(inflate(b"no gzip", 100).unwrap_err().kind, FailureKind::Internal);
    }

    #[test]
    fn a_message_in_several_gzip_members_is_whole() {
        let parts = [deflate(&[1; 2_000]).unwrap(), deflate(&[2; 3_000]).unwrap()];
        let inflated = inflate(&parts.concat(), 1 << 20).unwrap();
        assert_eq!(inflated, [vec![1; 2_000], vec![2; 3_000]].concat());
    }

    #[test]
    fn no_step_holds_more_than_was_said_before_it() {
        let bomb = deflate(&vec![0; 1 << 20]).unwrap();
        let mut inflating = Inflating::new(&bomb, 1 << 20);
        while inflating.step().unwrap().is_none() {
            assert!(inflating.inflated.capacity() <= inflating.next());
        }
    }
}
