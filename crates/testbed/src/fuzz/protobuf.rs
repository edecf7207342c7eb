//! Changes to what is encoded as protobuf: fields are dropped, doubled, moved, renumbered, given another type, or
//! changed inside, and lengths stay right.

use bytes::Buf as _;
use prost::encoding::{WireType, decode_varint, encode_varint};

use super::{Random, mutate};

/// Messages in messages are followed this deep.
const DEPTH_MAX: usize = 12;

/// One field as it stands in a message.
#[derive(Clone, Debug)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
}

/// Changes one thing, here or in a message inside.
pub(super) fn change(input: &[u8], corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    change_at(input, corpus, random, DEPTH_MAX)
}

fn change_at(input: &[u8], corpus: &[Vec<u8>], random: &mut Random, depth: usize) -> Vec<u8> {
    let Some(mut fields) = parse(input).filter(|fields| !fields.is_empty()) else {
        return mutate::bytes(input.to_vec(), corpus, random);
    };
    let at = random.below(fields.len());
    match random.below(9) {
        0 => drop(fields.remove(at)),
        1 => {
            let (from, to) = (fields[at].clone(), random.below(fields.len() + 1));
            fields.insert(to, from);
        }
        2 => {
            let other = random.below(fields.len());
            fields.swap(at, other);
        }
        3 => fields[at].number = number(random),
        4 => fields[at].value = value(random),
        // A field of another message, or of another level of this one.
        5 => {
            let other = random.one_of(corpus).and_then(|other| parse(other)).unwrap_or_default();
            if let Some(field) = random.one_of(&other) {
                fields.insert(at, field.clone());
            }
        }
        _ => match &mut fields[at].value {
            Value::Varint(number) => *number = varint(random),
            Value::Fixed32(bytes) => bytes[random.below(4)] = random.byte(),
            Value::Fixed64(bytes) => bytes[random.below(8)] = random.byte(),
            Value::Bytes(bytes) if depth == 0 => {
                *bytes = mutate::bytes(std::mem::take(bytes), corpus, random);
            }
            Value::Bytes(bytes) => *bytes = change_at(bytes, corpus, random, depth - 1),
        },
    }
    encode(&fields)
}

fn number(random: &mut Random) -> u64 {
    const SPECIAL: [u64; 6] = [0, 1, 19_000, 50_002, 536_870_911, 536_870_912];
    if random.one_in(4) {
        random.one_of(&SPECIAL).copied().unwrap_or_default()
    } else {
        random.number() % 20
    }
}

fn varint(random: &mut Random) -> u64 {
    const SPECIAL: [u64; 7] =
        [0, 1, 0x7f, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff];
    if random.one_in(2) {
        random.one_of(&SPECIAL).copied().unwrap_or_default()
    } else {
        random.number() % 40
    }
}

fn value(random: &mut Random) -> Value {
    match random.below(4) {
        0 => Value::Varint(varint(random)),
        1 => Value::Fixed32([random.byte(); 4]),
        2 => Value::Fixed64([random.byte(); 8]),
        _ => Value::Bytes((0..random.below(12)).map(|_| random.byte()).collect()),
    }
}

/// The fields of a message, if it is one.
fn parse(mut input: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !input.is_empty() {
        let key = decode_varint(&mut input).ok()?;
        let value = match WireType::try_from(key & 7).ok()? {
            WireType::Varint => Value::Varint(decode_varint(&mut input).ok()?),
            WireType::ThirtyTwoBit => Value::Fixed32(take(&mut input, 4)?.try_into().ok()?),
            WireType::SixtyFourBit => Value::Fixed64(take(&mut input, 8)?.try_into().ok()?),
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut input).ok()?).ok()?;
                Value::Bytes(take(&mut input, length)?.to_vec())
            }
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        fields.push(Field { number: key >> 3, value });
    }
    Some(fields)
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let taken = input.get(..length)?;
    input.advance(length);
    Some(taken)
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for Field { number, value } in fields {
        let kind = match value {
            Value::Varint(_) => WireType::Varint,
            Value::Fixed32(_) => WireType::ThirtyTwoBit,
            Value::Fixed64(_) => WireType::SixtyFourBit,
            Value::Bytes(_) => WireType::LengthDelimited,
        };
        encode_varint((number << 3) | kind as u64, &mut out);
        match value {
            Value::Varint(number) => encode_varint(*number, &mut out),
            Value::Fixed32(bytes) => out.extend(bytes),
            Value::Fixed64(bytes) => out.extend(bytes),
            Value::Bytes(bytes) => {
                encode_varint(u64::try_from(bytes.len()).unwrap_or_default(), &mut out);
                out.extend(bytes);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parsed_is_encoded_again() {
        let message =
            b"\x0a\x05hello\x10\x96\x01\x1d\x01\x02\x03\x04\x21\x01\x02\x03\x04\x05\x06\x07\x08";
        assert_eq!(encode(&parse(message).unwrap()), message);
        assert!(parse(b"\x0a\x05hell").is_none());
    }
}
