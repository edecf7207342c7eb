//! What nobody would send: descriptions of user functions, messages with keys, and calls, changed from real ones.
//! `cargo xtask fuzz` tries each for longer. Messages on an entity's stream are tried beside its machine.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

#[path = "fuzz/front.rs"]
mod front;
mod support;

use api::contract::Store;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _, Value,
};
use protocol::cloudstate::EntitySpec;
use proxy::{
    key::{KeyError, KeyReader},
    route::Target,
    spec::{Terms, judge},
};
use testbed::{
    counter,
    fuzz::{Shape, fuzz},
};

/// A description is refused with words, or served; and what is served can read keys out of anything.
#[test]
fn fuzz_discovery() {
    let real = counter::spec();
    let terms = |store, protocol_check| Terms {
        store,
        stateful_service: Some("counter".to_owned()),
        protocol_check,
    };
    let corpus = vec![real.encode_to_vec()];
    let command = counter::Request { id: "a".to_owned(), amount: 1, ..counter::Request::default() };
    let command = command.encode_to_vec();
    let terms = [terms(Store::Postgres, false), terms(Store::None, true)];
    let mut turn = terms.iter().cycle();
    fuzz("discovery", Shape::Protobuf, corpus, |input| {
        let Ok(spec) = EntitySpec::decode(input) else { return };
        match judge(&spec, turn.next().unwrap()) {
            Err(problems) => {
                assert!(!problems.is_empty(), "refused without a word");
                assert!(problems.iter().all(|problem| !problem.is_empty()), "{problems:?}");
            }
            Ok(accepted) => {
                for name in accepted.routes.services() {
                    assert!(!name.is_empty(), "a service without a name is served");
                }
                for method in
                    [counter::COUNTER, counter::REGISTER].map(|name| format!("/{name}/Add"))
                {
                    let found = accepted.routes.find(&method);
                    if let Some(Target::Entity(keys)) = found.map(|found| &found.target) {
                        drop(keys.read(&command));
                    }
                }
            }
        }
    });
}

/// Keys are read by hand; for whatever a library can decode, both must agree.
#[test]
fn fuzz_keys() {
    let message = keyed_message();
    let keys = KeyReader::of(&message).unwrap();
    let mut real = DynamicMessage::new(message.clone());
    for (name, value) in [
        ("text", Value::String("cart".to_owned())),
        ("color", Value::EnumNumber(3)),
        ("whole", Value::I32(-7)),
        ("zigzag", Value::I64(-8)),
        ("fixed", Value::U32(9)),
        ("yes", Value::Bool(true)),
        ("more", Value::Message(DynamicMessage::new(message.clone()))),
    ] {
        real.set_field_by_name(name, value);
    }
    fuzz("keys", Shape::Protobuf, vec![real.encode_to_vec(), vec![]], |input| {
        let found = keys.read(input);
        let Ok(decoded) = DynamicMessage::decode(message.clone(), input) else { return };
        let parts: Vec<String> = ["text", "color", "whole", "zigzag", "fixed", "yes"]
            .map(|name| shown(&decoded, name))
            .to_vec();
        assert_eq!(found, Ok(parts.join("-")), "of {decoded:?}");
    });
}

/// A key of one text may be empty, and then it is refused.
#[test]
fn fuzz_single_key() {
    let message = keyed_message().parent_pool().get_message_by_name("Single").unwrap();
    let keys = KeyReader::of(&message).unwrap();
    let mut real = DynamicMessage::new(message.clone());
    real.set_field_by_name("id", Value::String("cart".to_owned()));
    fuzz("single key", Shape::Protobuf, vec![real.encode_to_vec()], |input| {
        let found = keys.read(input);
        let Ok(decoded) = DynamicMessage::decode(message.clone(), input) else { return };
        match shown(&decoded, "id") {
            empty if empty.is_empty() => assert_eq!(found, Err(KeyError::Empty("id".to_owned()))),
            id => assert_eq!(found, Ok(id)),
        }
    });
}

fn shown(message: &DynamicMessage, name: &str) -> String {
    let field = message.descriptor().get_field_by_name(name).unwrap();
    match (message.get_field(&field).into_owned(), field.kind()) {
        (Value::String(text), _) => text,
        (Value::EnumNumber(number), Kind::Enum(values)) => {
            let value = values.get_value(number);
            value.map_or_else(|| number.to_string(), |value| value.name().to_owned())
        }
        (Value::I32(number), _) => number.to_string(),
        (Value::I64(number), _) => number.to_string(),
        (Value::U32(number), _) => number.to_string(),
        (Value::Bool(yes), _) => yes.to_string(),
        (other, _) => panic!("no part of a key: {other:?}"),
    }
}

fn keyed_message() -> MessageDescriptor {
    const OPTION: &str =
        "syntax = \"proto3\"; package cloudstate; import \"google/protobuf/descriptor.proto\";
        extend google.protobuf.FieldOptions { bool entity_key = 1080; }";
    const KEYED: &str = "syntax = \"proto3\"; import \"entity_key.proto\";
        enum Color { RED = 0; BLUE = 3; }
        message Keyed {
            string text = 1 [(cloudstate.entity_key) = true];
            Color color = 2 [(cloudstate.entity_key) = true];
            int32 whole = 3 [(cloudstate.entity_key) = true];
            sint64 zigzag = 4 [(cloudstate.entity_key) = true];
            fixed32 fixed = 5 [(cloudstate.entity_key) = true];
            bool yes = 6 [(cloudstate.entity_key) = true];
            Keyed more = 7;
        }
        message Single { string id = 1 [(cloudstate.entity_key) = true]; bytes data = 2; }";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("entity_key.proto"), OPTION).unwrap();
    std::fs::write(folder.path().join("keyed.proto"), KEYED).unwrap();
    let mut compiler = protox::Compiler::new([folder.path()]).unwrap();
    compiler.include_imports(true).open_file("keyed.proto").unwrap();
    let pool = DescriptorPool::decode(&*compiler.encode_file_descriptor_set()).unwrap();
    pool.get_message_by_name("Keyed").unwrap()
}
