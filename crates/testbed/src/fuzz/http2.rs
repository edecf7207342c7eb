//! Changes to what a client of HTTP/2 says: frames are dropped, doubled, moved, or changed in one of their parts, and
//! lengths stay right.

use super::{Random, mutate};

/// What every client begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
/// One more than there are types of frames.
const TYPES: u64 = 11;

/// One frame: its type, its flags, its stream, what it carries.
#[derive(Clone, Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// Changes one frame, or their order.
pub(super) fn change(input: &[u8], random: &mut Random) -> Vec<u8> {
    let Some(mut frames) = parse(input).filter(|frames| !frames.is_empty()) else {
        return mutate::bytes(input.to_vec(), &[], random);
    };
    let at = random.below(frames.len());
    match random.below(9) {
        0 => drop(frames.remove(at)),
        1 => {
            let (from, to) = (frames[at].clone(), random.below(frames.len() + 1));
            frames.insert(to, from);
        }
        2 => {
            let other = random.below(frames.len());
            frames.swap(at, other);
        }
        3 => frames[at].kind = u8::try_from(random.number() % TYPES).unwrap_or_default(),
        4 => frames[at].flags ^= 1 << random.below(8),
        5 => frames[at].stream = u32::try_from(random.number() % 8).unwrap_or_default(),
        6 => {
            let kind = u8::try_from(random.number() % TYPES).unwrap_or_default();
            let payload = (0..random.below(24)).map(|_| random.byte()).collect();
            frames.insert(
                at,
                Frame { kind, flags: random.byte(), stream: frames[at].stream, payload },
            );
        }
        _ => {
            let payload = std::mem::take(&mut frames[at].payload);
            frames[at].payload = mutate::bytes(payload, &[], random);
        }
    }
    encode(&frames)
}

fn parse(input: &[u8]) -> Option<Vec<Frame>> {
    let mut rest = input.strip_prefix(PREFACE)?;
    let mut frames = Vec::new();
    while let Some((head, after)) = rest.split_at_checked(HEAD) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (payload, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
        frames.push(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload: payload.to_vec(),
        });
        rest = after;
    }
    rest.is_empty().then_some(frames)
}

fn encode(frames: &[Frame]) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    for Frame { kind, flags, stream, payload } in frames {
        let length = u32::try_from(payload.len()).unwrap_or_default();
        out.extend(&length.to_be_bytes()[1..]);
        out.extend([*kind, *flags]);
        out.extend(stream.to_be_bytes());
        out.extend(payload);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parsed_is_encoded_again() {
        let said =
            [PREFACE, &[0, 0, 2, 4, 0, 0, 0, 0, 1, 7, 8], &[0, 0, 0, 4, 1, 0, 0, 0, 0]].concat();
        let frames = parse(&said).unwrap();
        assert_eq!((frames.len(), frames[0].payload.as_slice()), (2, &[7, 8][..]));
        assert_eq!(encode(&frames), said);
        assert!(parse(&said[..said.len() - 1]).is_none());
    }
}
