//! Keys out of messages whose types are written here as `.proto` text.

use prost_reflect::{DescriptorPool, DynamicMessage};

use super::*;

/// The message `M` with these fields, as a user function would describe it.
fn message(fields: &str) -> MessageDescriptor {
    let dir = tempfile::tempdir().unwrap();
    let option = "syntax = \"proto3\"; package cloudstate; import \"google/protobuf/descriptor.proto\";
        extend google.protobuf.FieldOptions { bool entity_key = 1080; bool legacy_entity_key = 50002; }";
    let proto = format!(
        "syntax = \"proto3\"; import \"entity_key.proto\";
         enum Color {{ RED = 0; BLUE = 3; }} message M {{ {fields} }}"
    );
    std::fs::write(dir.path().join("entity_key.proto"), option).unwrap();
    std::fs::write(dir.path().join("m.proto"), proto).unwrap();
    let mut compiler = protox::Compiler::new([dir.path()]).unwrap();
    compiler.include_imports(true).open_file("m.proto").unwrap();
    let pool = DescriptorPool::decode(&*compiler.encode_file_descriptor_set()).unwrap();
    pool.get_message_by_name("M").unwrap()
}

const KEY: &str = "[(cloudstate.entity_key) = true]";

/// The key of a message that is given as JSON-like pairs of field and value.
fn key(fields: &str, values: &[(&str, Value)]) -> Result<String, KeyError> {
    let descriptor = message(fields);
    let mut dynamic = DynamicMessage::new(descriptor.clone());
    for (name, value) in values {
        dynamic.set_field_by_name(name, value.clone());
    }
    KeyReader::of(&descriptor).unwrap().read(&prost::Message::encode_to_vec(&dynamic))
}

#[test]
fn one_field_is_the_key_as_it_is() {
    let cart = [("other", Value::I32(9)), ("id", Value::String("a b/c".to_owned()))];
    assert_eq!(key(&format!("int32 other = 1; string id = 2 {KEY};"), &cart).unwrap(), "a b/c");
}

#[test]
fn several_fields_are_joined_in_the_order_of_their_declaration() {
    let fields = format!("string b = 2 {KEY}; string a = 1 {KEY};");
    let values = [("a", Value::String("x".to_owned())), ("b", Value::String("y".to_owned()))];
    assert_eq!(key(&fields, &values).unwrap(), "y-x");
}

#[test]
fn the_older_option_marks_a_key_too() {
    let fields = "string id = 1 [(cloudstate.legacy_entity_key) = true];";
    assert_eq!(key(fields, &[("id", Value::String("k".to_owned()))]).unwrap(), "k");
}

#[test]
fn every_scalar_renders_as_its_value() {
    for (kind, value, expected) in [
        ("int32", Value::I32(-5), "-5"),
        ("sint64", Value::I64(-5), "-5"),
        ("uint64", Value::U64(u64::MAX), "18446744073709551615"),
        ("fixed32", Value::U32(u32::MAX), "4294967295"),
        ("bool", Value::Bool(true), "true"),
        ("Color", Value::EnumNumber(3), "BLUE"),
        ("Color", Value::EnumNumber(77), "77"),
    ] {
        assert_eq!(key(&format!("{kind} id = 1 {KEY};"), &[("id", value)]).unwrap(), expected);
    }
}

#[test]
fn a_field_that_is_not_set_counts_with_its_default() {
    assert_eq!(key(&format!("int64 id = 1 {KEY};"), &[]).unwrap(), "0");
    assert_eq!(key(&format!("bool id = 1 {KEY};"), &[]).unwrap(), "false");
    assert_eq!(key(&format!("Color id = 1 {KEY};"), &[]).unwrap(), "RED");
}

#[test]
fn an_empty_key_is_refused_unless_another_part_is_set() {
    let fields = format!("string a = 1 {KEY}; string b = 2 {KEY};");
    assert_eq!(key(&fields, &[]), Err(KeyError::Empty("a or b".to_owned())));
    assert_eq!(key(&fields, &[("b", Value::String("y".to_owned()))]).unwrap(), "-y");
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    let reader = KeyReader::of(&message(&format!("string id = 1 {KEY};"))).unwrap();
    for garbage in [&[0xff_u8][..], &[0x0a, 0x05, b'a'], &[0x08, 0x01], &[0x0a, 0x01, 0xff]] {
        assert!(matches!(reader.read(garbage), Err(KeyError::Malformed(_))), "{garbage:?}");
    }
}

#[test]
fn types_that_cannot_be_a_key_are_all_named() {
    let fields = format!("double d = 1 {KEY}; bytes b = 2 {KEY}; repeated string r = 3 {KEY};");
    let problems = KeyReader::of(&message(&fields)).unwrap_err();
    assert_eq!(problems.len(), 3);
    for (problem, field) in problems.iter().zip(["M.d", "M.b", "M.r"]) {
        assert!(
            problem.starts_with(&format!("field {field} cannot be an entity key")),
            "{problem}"
        );
    }
}

#[test]
fn a_message_without_a_key_is_named() {
    let problems = KeyReader::of(&message("string id = 1;")).unwrap_err();
    assert!(problems[0].starts_with("message M has no field with the option"), "{problems:?}");
}
