//! Changes to inputs.

use super::{Random, Shape, http2, protobuf};

/// Inputs do not grow beyond this.
const SIZE_MAX: usize = 64 * 1024;
/// Changes to one input.
const CHANGES_MAX: usize = 6;

/// One of the real inputs, changed a few times.
pub(super) fn change(shape: Shape, corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = random.one_of(corpus).cloned().unwrap_or_default();
    for _ in 0..=random.below(CHANGES_MAX) {
        input = match shape {
            // Now and then what is known of the shape is broken.
            Shape::Protobuf if !random.one_in(4) => protobuf::change(&input, corpus, random),
            Shape::Http2 if !random.one_in(4) => http2::change(&input, random),
            _ => bytes(input, corpus, random),
        };
        input.truncate(SIZE_MAX);
    }
    input
}

/// A change that knows nothing of what the bytes mean.
pub(super) fn bytes(mut input: Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let at = random.below(input.len());
    let end = at + random.below((input.len() - at).min(64) + 1);
    match random.below(7) {
        0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
        1 if !input.is_empty() => input[at] = random.byte(),
        2 => drop(input.drain(at..end)),
        3 => {
            let again = input[at..end].to_vec();
            input.splice(at..at, again);
        }
        4 => {
            let new: Vec<u8> = (0..=random.below(16)).map(|_| random.byte()).collect();
            input.splice(at..at, new);
        }
        5 => {
            let other = random.one_of(corpus).cloned().unwrap_or_default();
            let from = random.below(other.len());
            input.splice(at.., other[from..].iter().copied());
        }
        _ => input.truncate(at),
    }
    input
}
