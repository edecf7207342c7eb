//! Messages in a gRPC body, in and out: a flag, a length, and as many bytes, which pass through
//! without a copy where they come in one piece.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::encoding;
use crate::entity::{Failure, FailureKind};

/// Flag and length.
const HEAD: usize = 5;
/// Up to here a message is copied behind its head, which costs less than a frame of its own.
const COPIED_MAX: usize = 4 * 1024;

/// Takes messages out of a body that comes in pieces.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The only piece, as long as one is enough.
    piece: Bytes,
    /// Pieces put together.
    pieces: BytesMut,
    gzip: bool,
    limit: usize,
}

/// What is known of the next message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is here.
    Message(Bytes),
    /// It is here, and compressed.
    Compressed(Bytes),
    /// Its head, which says how many bytes follow, or not even that.
    Part(Option<usize>),
}

impl Decoder {
    /// A decoder for messages of up to `limit` bytes, which may be compressed when `gzip` says so.
    pub(super) fn new(gzip: bool, limit: usize) -> Self {
        Self { piece: Bytes::new(), pieces: BytesMut::new(), gzip, limit }
    }

    /// Most bytes of a message.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn add(&mut self, data: Bytes) {
        if self.is_empty() {
            self.piece = data;
            return;
        }
        if self.pieces.is_empty() {
            self.pieces.extend_from_slice(&self.piece);
            self.piece = Bytes::new();
        }
        self.pieces.extend_from_slice(&data);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.piece.is_empty() && self.pieces.is_empty()
    }

    /// The next message, if all of it is there.
    pub(super) fn next(&mut self) -> Result<Next, Failure> {
        let have = if self.pieces.is_empty() { &self.piece[..] } else { &self.pieces[..] };
        let Some((mut head, rest)) = have.split_at_checked(HEAD) else {
            return Ok(Next::Part(None));
        };
        let (flag, length) = (head.get_u8(), head.get_u32());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let compressed = match flag {
            0 => false,
            1 if self.gzip => true,
            1 => return Err(internal("a message is compressed, and no grpc-encoding says how")),
            _ => return Err(internal("a message begins with neither 0 nor 1")),
        };
        if length > self.limit {
            return Err(too_large("message", length, self.limit));
        }
        if rest.len() < length {
            return Ok(Next::Part(Some(length)));
        }
        let message = if self.pieces.is_empty() {
            self.piece.advance(HEAD);
            self.piece.split_to(length)
        } else {
            self.pieces.advance(HEAD);
            self.pieces.split_to(length).freeze()
        };
        Ok(if compressed { Next::Compressed(message) } else { Next::Message(message) })
    }
}

/// A message as it goes out.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// With all of a small message.
    head: Bytes,
    rest: Bytes,
}

impl Encoded {
    /// Compressed when `gzip` says that the caller understands it and it is worth it.
    pub(super) fn new(message: Bytes, gzip: bool, limit: usize) -> Result<Self, Failure> {
        if message.len() > limit {
            return Err(too_large("reply", message.len(), limit));
        }
        let deflated = if gzip { encoding::deflate(&message) } else { None };
        let (flag, message) = deflated.map_or((0, message), |deflated| (1, deflated));
        let length = u32::try_from(message.len())
            .map_err(|_large| too_large("reply", message.len(), u32::MAX as usize))?;
        let copied = if message.len() <= COPIED_MAX { message.len() } else { 0 };
        let mut head = BytesMut::with_capacity(HEAD + copied);
        head.put_u8(flag);
        head.put_u32(length);
        head.put_slice(&message[..copied]);
        Ok(Self { head: head.freeze(), rest: message.slice(copied..) })
    }

    pub(super) fn len(&self) -> usize {
        self.head.len() + self.rest.len()
    }

    /// The next piece of up to `max` bytes.
    pub(super) fn piece(&mut self, max: usize) -> Option<Bytes> {
        let from = if self.head.is_empty() { &mut self.rest } else { &mut self.head };
        (!from.is_empty()).then(|| from.split_to(max.min(from.len())))
    }
}

fn too_large(what: &str, length: usize, limit: usize) -> Failure {
    let text = format!("the {what} has {length} bytes, and the limit is {limit}");
    Failure::new(FailureKind::ResourceExhausted, text)
}

fn internal(text: &str) -> Failure {
    Failure::new(FailureKind::Internal, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(message: &[u8]) -> Vec<u8> {
        let mut encoded = Encoded::new(Bytes::copy_from_slice(message), false, 1 << 20).unwrap();
        std::iter::from_fn(|| encoded.piece(3)).flatten().collect()
    }

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let large = vec![7; COPIED_MAX + 1];
        let messages: [&[u8]; 4] = [b"one", b"", b"three", &large];
        let stream: Vec<u8> = messages.iter().flat_map(|message| encode(message)).collect();
        for cut in [1, 2, 5, 6, 7, 100, stream.len()] {
            let mut decoder = Decoder::new(false, 1 << 20);
            let mut out = Vec::new();
            for piece in stream.chunks(cut) {
                decoder.add(Bytes::copy_from_slice(piece));
                while let Next::Message(message) = decoder.next().unwrap() {
                    out.push(message);
                }
            }
            assert_eq!(out, messages, "cut into pieces of {cut}");
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn a_message_in_one_piece_is_not_copied() {
        let stream = Bytes::from(encode(b"whole"));
        let mut decoder = Decoder::new(false, 10);
        decoder.add(stream.clone());
        let Next::Message(message) = decoder.next().unwrap() else { panic!("it is all there") };
        assert_eq!(message.as_ptr(), stream[HEAD..].as_ptr());
    }

    #[test]
    fn what_is_too_large_is_refused_by_its_head() {
        let mut decoder = Decoder::new(false, 10);
        decoder.add(Bytes::from_static(&[0, 0, 0, 0, 11]));
        let failure = decoder.next().unwrap_err();
        assert_eq!(failure.kind, FailureKind::ResourceExhausted);
        assert_eq!(failure.message, "the message has 11 bytes, and the limit is 10");
        let failure = Encoded::new(Bytes::from_static(&[1; 11]), false, 10).unwrap_err();
        assert_eq!(failure.message, "the reply has 11 bytes, and the limit is 10");
    }

    #[test]
    fn flags_that_make_no_sense_are_refused() {
        for (flag, gzip) in [(1, false), (2, true)] {
            let mut decoder = Decoder::new(gzip, 10);
            decoder.add(Bytes::copy_from_slice(&[flag, 0, 0, 0, 0]));
            assert_eq!(decoder.next().unwrap_err().kind, FailureKind::Internal);
        }
    }

    #[test]
    fn compression_goes_both_ways() {
        let message = Bytes::from(vec![3; 5_000]);
        let mut encoded = Encoded::new(message.clone(), true, 1 << 20).unwrap();
        assert!(encoded.len() < 500);
        let mut decoder = Decoder::new(true, 5_000);
        while let Some(piece) = encoded.piece(100) {
            decoder.add(piece);
        }
        let Next::Compressed(compressed) = decoder.next().unwrap() else { panic!("it is not") };
        let mut inflating = encoding::Inflating::new(&compressed, decoder.limit());
        let inflated = std::iter::from_fn(|| Some(inflating.step().unwrap())).find_map(|step| step);
        assert_eq!(inflated, Some(message));
    }
}
