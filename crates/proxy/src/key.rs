//! Entity keys: which fields of a command's message name the entity, and reading just those out of
//! the encoded message.
//!
//! A field takes part when it carries the option `cloudstate.entity_key` (or its older number).
//! Several fields are joined with `-` in the order of their declaration (`docs/protocol.md`).

use bytes::Buf;
use prost::encoding::{self, DecodeContext, WireType};
use prost_reflect::{
    EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, UnknownField, Value,
};

/// Number of the field option `cloudstate.entity_key`.
const ENTITY_KEY: u32 = 1080;
/// Number of the option that older libraries use in its place.
const LEGACY_ENTITY_KEY: u32 = 50002;
/// Stands between the parts of a key that has several.
const SEPARATOR: &str = "-";

/// Reads the key out of one type of message.
#[derive(Clone, Debug)]
pub struct KeyReader {
    /// In the order of their declaration.
    fields: Vec<KeyField>,
}

#[derive(Clone, Debug)]
struct KeyField {
    name: String,
    number: u32,
    kind: Kind,
}

/// Why a message does not name an entity.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The message is not of the method's input type.
    #[error("the message cannot be decoded: {0}")]
    Malformed(String),
    /// Every field of the key is empty.
    #[error("the entity key is empty: set {0}")]
    Empty(String),
}

impl KeyReader {
    /// Finds the key fields of a message.
    ///
    /// # Errors
    /// One text for each field that cannot be part of a key; one text when there is no key at all.
    pub fn of(message: &MessageDescriptor) -> Result<Self, Vec<String>> {
        let mut keys: Vec<FieldDescriptor> = message.fields().filter(is_key).collect();
        // `fields()` goes by number; the key goes by declaration, which is the order in the file.
        keys.sort_by_key(|field| declared_at(message, field));
        if keys.is_empty() {
            return Err(vec![format!(
                "message {} has no field with the option (cloudstate.entity_key) = true: mark the field \
                 that names the entity",
                message.full_name()
            )]);
        }
        let problems: Vec<String> =
            keys.iter().filter(|field| !can_be_key(field)).map(not_a_key).collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let fields = keys.iter().map(|f| KeyField {
            name: f.name().to_owned(),
            number: f.number(),
            kind: f.kind(),
        });
        Ok(Self { fields: fields.collect() })
    }

    /// Reads the key out of an encoded message; all other fields are skipped unread.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the bytes are not a message, [`KeyError::Empty`] when no part
    /// of the key is set.
    pub fn read(&self, message: &[u8]) -> Result<String, KeyError> {
        let mut parts: Vec<String> = self.fields.iter().map(|f| unset(&f.kind)).collect();
        self.scan(message, &mut parts).map_err(|error| KeyError::Malformed(error.to_string()))?;
        if parts.iter().all(String::is_empty) {
            let names: Vec<_> = self.fields.iter().map(|f| f.name.as_str()).collect();
            return Err(KeyError::Empty(names.join(" or ")));
        }
        Ok(parts.join(SEPARATOR))
    }

    fn scan(&self, mut buf: &[u8], parts: &mut [String]) -> Result<(), prost::DecodeError> {
        while buf.has_remaining() {
            let (number, wire_type) = encoding::decode_key(&mut buf)?;
            match self.fields.iter().position(|field| field.number == number) {
                Some(at) => parts[at] = decode(&self.fields[at].kind, wire_type, &mut buf)?,
                None => {
                    encoding::skip_field(wire_type, number, &mut buf, DecodeContext::default())?;
                }
            }
        }
        Ok(())
    }
}

fn is_key(field: &FieldDescriptor) -> bool {
    let options = field.options();
    let marked = |number| number == ENTITY_KEY || number == LEGACY_ENTITY_KEY;
    // A set that lacks the file which defines the option leaves it among the unknown fields.
    options.extensions().any(|(ext, value)| marked(ext.number()) && *value == Value::Bool(true))
        || options.unknown_fields().any(|unknown| marked(unknown.number()) && is_true(unknown))
}

/// The library shows an unknown field only as its encoding: tag, then value.
fn is_true(field: &UnknownField) -> bool {
    let mut encoded = Vec::new();
    field.encode(&mut encoded);
    field.wire_type() == WireType::Varint && encoded.last() == Some(&1)
}

fn declared_at(message: &MessageDescriptor, field: &FieldDescriptor) -> usize {
    let declared = &message.descriptor_proto().field;
    declared.iter().position(|f| f.name() == field.name()).unwrap_or(usize::MAX)
}

fn can_be_key(field: &FieldDescriptor) -> bool {
    !field.is_list()
        && !field.is_map()
        && !matches!(field.kind(), Kind::Float | Kind::Double | Kind::Bytes | Kind::Message(_))
}

fn not_a_key(field: &FieldDescriptor) -> String {
    let cardinality = if field.is_list() || field.is_map() { "repeated " } else { "" };
    format!(
        "field {} cannot be an entity key, since it is {cardinality}{:?}: use a string, an integer, a \
         bool or an enum",
        field.full_name(),
        field.kind()
    )
}

/// What a key field says when it is not in the message: the default of its type.
fn unset(kind: &Kind) -> String {
    match kind {
        Kind::String => String::new(),
        Kind::Bool => "false".to_owned(),
        Kind::Enum(values) => enum_name(values, 0),
        _ => "0".to_owned(),
    }
}

fn enum_name(values: &EnumDescriptor, number: i32) -> String {
    values.get_value(number).map_or_else(|| number.to_string(), |value| value.name().to_owned())
}

/// Decodes one scalar and renders it as part of a key.
fn decode(kind: &Kind, wire_type: WireType, buf: &mut &[u8]) -> Result<String, prost::DecodeError> {
    macro_rules! scalar {
        ($module:ident, $type:ty) => {{
            let mut value = <$type>::default();
            encoding::$module::merge(wire_type, &mut value, buf, DecodeContext::default())?;
            value
        }};
    }
    Ok(match kind {
        Kind::String => scalar!(string, String),
        Kind::Bool => scalar!(bool, bool).to_string(),
        Kind::Int32 => scalar!(int32, i32).to_string(),
        Kind::Int64 => scalar!(int64, i64).to_string(),
        Kind::Uint32 => scalar!(uint32, u32).to_string(),
        Kind::Uint64 => scalar!(uint64, u64).to_string(),
        Kind::Sint32 => scalar!(sint32, i32).to_string(),
        Kind::Sint64 => scalar!(sint64, i64).to_string(),
        Kind::Fixed32 => scalar!(fixed32, u32).to_string(),
        Kind::Fixed64 => scalar!(fixed64, u64).to_string(),
        Kind::Sfixed32 => scalar!(sfixed32, i32).to_string(),
        Kind::Sfixed64 => scalar!(sfixed64, i64).to_string(),
        Kind::Enum(values) => enum_name(values, scalar!(int32, i32)),
        Kind::Float | Kind::Double | Kind::Bytes | Kind::Message(_) => {
            unreachable!("refused by can_be_key")
        }
    })
}

#[cfg(test)]
mod tests;
