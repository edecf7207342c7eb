//! Every way in which a description is refused, one row each: what is wrong, and what the refusal must
//! name. A real proxy tells its user function the same (`tests/discovery.rs`).

use prost::Message as _;
use prost_reflect::prost_types::{FileDescriptorProto, FileDescriptorSet};
use protocol::cloudstate::ServiceInfo;

use super::{
    tests::{CART, annotated, entity, spec, terms},
    *,
};

const KEY: &str = "[(cloudstate.entity_key) = true]";

/// The good description with another `service_info`.
fn info(service_info: Option<ServiceInfo>) -> EntitySpec {
    EntitySpec { service_info, ..spec(CART, vec![entity("shop.Cart")]) }
}

fn version(major: i32, minor: i32) -> ServiceInfo {
    ServiceInfo {
        protocol_major_version: major,
        protocol_minor_version: minor,
        ..ServiceInfo::default()
    }
}

/// The good description with one field of its entity changed.
fn declared(change: impl FnOnce(&mut Entity)) -> EntitySpec {
    let mut changed = entity("shop.Cart");
    change(&mut changed);
    spec(CART, vec![changed])
}

/// The good description with other descriptors.
fn described(change: impl FnOnce(&mut FileDescriptorSet)) -> EntitySpec {
    let good = spec(CART, vec![entity("shop.Cart")]);
    let mut set = FileDescriptorSet::decode(good.proto.clone()).unwrap();
    change(&mut set);
    EntitySpec { proto: set.encode_to_vec().into(), ..good }
}

fn shop(set: &mut FileDescriptorSet) -> &mut FileDescriptorProto {
    set.file.iter_mut().find(|file| file.name() == "shop.proto").unwrap()
}

/// A cart whose only method has this signature, and whose message has this field.
fn method(signature: &str, field: &str) -> EntitySpec {
    let text = format!("message Item {{ {field} }} service Cart {{ rpc Add{signature}; }}");
    spec(&text, vec![entity("shop.Cart")])
}

/// A cart whose key is of this type.
fn key(field: &str) -> EntitySpec {
    method("(Item) returns (Item)", field)
}

/// Two services with these storage names.
fn two(first: &str, second: &str) -> EntitySpec {
    let text = format!("{CART} service Basket {{ rpc Add(Item) returns (Item); }}");
    let named = |service, id: &str| Entity { persistence_id: id.to_owned(), ..entity(service) };
    spec(&text, vec![named("shop.Cart", first), named("shop.Basket", second)])
}

type Row = (&'static str, EntitySpec, Store, &'static [&'static str]);

/// What is wrong with the answer as a whole.
fn answers() -> Vec<Row> {
    let memory = Store::InMemory;
    vec![
        ("no service_info", info(None), memory, &["protocol_minor_version say 0.0", "speaks 0.2"]),
        ("an older minor version", info(Some(version(0, 1))), memory, &["say 0.1", "speaks 0.2"]),
        (
            "a newer minor version",
            info(Some(version(0, 3))),
            memory,
            &["say 0.3", "use a support library"],
        ),
        (
            "another major version",
            info(Some(version(1, 2))),
            memory,
            &["protocol_major_version", "1.2"],
        ),
        (
            "torn descriptors",
            EntitySpec { proto: vec![0x0a, 0xff].into(), ..info(Some(version(0, 2))) },
            memory,
            &["EntitySpec.proto (2 bytes) is not a FileDescriptorSet", "--include_imports"],
        ),
        (
            "no descriptors",
            EntitySpec { proto: vec![].into(), ..info(Some(version(0, 2))) },
            memory,
            &["Entity.service_name \"shop.Cart\"", "which has nothing"],
        ),
        (
            "a missing import",
            described(|set| set.file.retain(|file| file.name() != "entity_key.proto")),
            memory,
            &["\"shop.proto\" imports \"entity_key.proto\"", "send every imported file"],
        ),
        (
            "a missing well-known import",
            described(|set| set.file.retain(|file| !file.name().starts_with("google"))),
            memory,
            &["\"entity_key.proto\" imports \"google/protobuf/descriptor.proto\""],
        ),
        (
            "a circle of imports",
            described(|set| {
                let option = set.file.iter_mut().find(|file| file.name() == "entity_key.proto");
                option.unwrap().dependency.push("shop.proto".to_owned());
            }),
            memory,
            &["\"entity_key.proto\", \"shop.proto\" form a circle"],
        ),
        (
            "a file that imports itself",
            described(|set| shop(set).dependency.push("shop.proto".to_owned())),
            memory,
            &["the imports of \"shop.proto\" form a circle"],
        ),
        (
            "a missing input message",
            described(|set| {
                shop(set).service[0].method[0].input_type = Some(".shop.Nothing".to_owned());
            }),
            memory,
            &["method shop.Cart.Add", "input_type \".shop.Nothing\" is not defined"],
        ),
        (
            "a missing output message",
            described(|set| shop(set).service[0].method[1].output_type = None),
            memory,
            &["method shop.Cart.Get", "output_type \"\" is not defined"],
        ),
        (
            "a field of a type that nobody defines",
            described(|set| {
                shop(set).message_type[0].field[0].type_name = Some(".shop.Nothing".to_owned());
                shop(set).message_type[0].field[0].r#type = None;
            }),
            memory,
            &["EntitySpec.proto does not link", "\"shop.proto\"", "shop.Nothing"],
        ),
        (
            "two files of one name that differ",
            described(|set| {
                let mut twin = shop(set).clone();
                twin.package = Some("other".to_owned());
                set.file.push(twin);
            }),
            memory,
            &["EntitySpec.proto does not link", "shop.proto"],
        ),
        (
            "a file in an edition of protobuf",
            described(|set| shop(set).syntax = Some("editions".to_owned())),
            memory,
            &["EntitySpec.proto", "\"shop.proto\"", "the syntax \"editions\"", "proto3"],
        ),
        ("no entities", spec(CART, vec![]), memory, &["EntitySpec.entities is empty"]),
    ]
}

/// What is wrong with an entity.
fn entities() -> Vec<Row> {
    let memory = Store::InMemory;
    let typed = |entity_type: &str| {
        let entity_type = entity_type.to_owned();
        declared(|entity| entity.entity_type = entity_type)
    };
    let named = |name: &str| declared(|entity| entity.service_name = name.to_owned());
    let stored = |id: &str| declared(|entity| entity.persistence_id = id.to_owned());
    vec![
        ("an unknown service", named("shop.Basket"), memory, &["\"shop.Basket\"", "shop.Cart"]),
        (
            "a package for a service",
            named("shop"),
            memory,
            &["service_name \"shop\"", "package included"],
        ),
        (
            "a service without its package",
            named("Cart"),
            memory,
            &["service_name \"Cart\"", "shop.Cart"],
        ),
        ("a message for a service", named("shop.Item"), memory, &["service_name \"shop.Item\""]),
        ("no service name", named(""), memory, &["service_name \"\""]),
        ("another case", named("shop.cart"), memory, &["service_name \"shop.cart\""]),
        (
            "a service without methods",
            spec("service Cart { }", vec![entity("shop.Cart")]),
            memory,
            &["service shop.Cart has no methods"],
        ),
        (
            "an unknown type",
            typed("odd.Odd"),
            memory,
            &["service shop.Cart", "entity_type \"odd.Odd\""],
        ),
        ("no type", typed(""), memory, &["service shop.Cart", "entity_type \"\"", "EventSourced"]),
        (
            "a CRDT",
            typed(protocol::CRDT),
            memory,
            &[
                "service shop.Cart",
                "\"cloudstate.crdt.Crdt\" is a CRDT",
                "does not serve",
                "ValueEntity",
            ],
        ),
        (
            "an event sourced entity without a store",
            typed(protocol::EVENT_SOURCED),
            Store::None,
            &["service shop.Cart", "needs a store", "spec.datastore.name", "shopping-cart"],
        ),
        (
            "a value entity without a store",
            typed(protocol::VALUE_ENTITY),
            Store::None,
            &["service shop.Cart", "cloudstate.valueentity.ValueEntity", "needs a store"],
        ),
        ("no storage name", stored(""), memory, &["service shop.Cart", "persistence_id \"\""]),
        (
            "a pipe in the storage name",
            stored("a|b"),
            memory,
            &["shop.Cart", "persistence_id \"a|b\""],
        ),
        (
            "one storage name for two",
            two("cart", "cart"),
            memory,
            &["persistence_id \"cart\"", "2 entities", "shop.Cart, shop.Basket"],
        ),
        (
            "one service twice",
            spec(CART, vec![entity("shop.Cart"), entity("shop.Cart")]),
            memory,
            &["service_name \"shop.Cart\" stands in 2 entities"],
        ),
    ]
}

/// What is wrong with a method of an entity.
fn methods() -> Vec<Row> {
    let memory = Store::InMemory;
    let id = format!("string id = 1 {KEY};");
    let mut rows: Vec<Row> = vec![
        (
            "a streamed input",
            method("(stream Item) returns (Item)", &id),
            memory,
            &["method shop.Cart.Add", "streams its input"],
        ),
        (
            "a streamed output",
            method("(Item) returns (stream Item)", &id),
            memory,
            &["method shop.Cart.Add", "streams its output"],
        ),
        (
            "no key",
            key("string id = 1;"),
            memory,
            &["method shop.Cart.Add", "message shop.Item", "entity_key"],
        ),
        (
            "a key that is switched off",
            key("string id = 1 [(cloudstate.entity_key) = false];"),
            memory,
            &["method shop.Cart.Add", "message shop.Item"],
        ),
        (
            "a key in a nested message only",
            key(&format!("message Id {{ string id = 1 {KEY}; }} Id id = 1;")),
            memory,
            &["method shop.Cart.Add", "message shop.Item has no field"],
        ),
    ];
    for (name, field) in [
        ("a key that is a float", format!("float id = 1 {KEY};")),
        ("a key that is a double", format!("double id = 1 {KEY};")),
        ("a key that is bytes", format!("bytes id = 1 {KEY};")),
        ("a key that is a message", format!("Item id = 1 {KEY};")),
        ("a key that is repeated", format!("repeated string id = 1 {KEY};")),
        ("a key that is a map", format!("map<string, string> id = 1 {KEY};")),
        (
            "a key of the older option that is bytes",
            "bytes id = 1 [(cloudstate.legacy_entity_key) = true];".to_owned(),
        ),
    ] {
        rows.push((
            name,
            key(&field),
            memory,
            &["method shop.Cart.Add", "field shop.Item.id cannot be"],
        ));
    }
    rows
}

/// What is wrong with an HTTP annotation.
fn annotations() -> Vec<Row> {
    let rule = |rule: &str| annotated(&format!("option (google.api.http) = {{ {rule} }};"), "");
    let twice = |rule: &str| {
        let option = format!("option (google.api.http) = {{ {rule} }};");
        annotated(&option, &option)
    };
    let rows: [(&'static str, EntitySpec, &'static [&'static str]); 12] = [
        ("no path", rule("body: \"*\""), &["names no path"]),
        ("a path without a slash", rule("get: \"carts\""), &["\"carts\"", "begin with /"]),
        ("an open brace", rule("get: \"/carts/{cart\""), &["nothing closes"]),
        (
            "a variable that is no field",
            rule("get: \"/carts/{basket}\""),
            &["variable basket", "is not a field of shop.Item"],
        ),
        (
            "a variable within a text",
            rule("get: \"/carts/{cart.id}\""),
            &["variable cart.id", "goes through cart"],
        ),
        ("a variable that is a message", rule("get: \"/{name}\""), &["variable name", "shop.Name"]),
        ("a variable that is repeated", rule("get: \"/{name.more}\""), &["name.more", "repeated"]),
        (
            "a body that is no field",
            rule("post: \"/carts\" body: \"basket\""),
            &["body \"basket\" is no field of shop.Item"],
        ),
        (
            "a response body that is no field",
            rule("get: \"/carts\" response_body: \"basket\""),
            &["response_body \"basket\" is no field of shop.Item"],
        ),
        (
            "bindings within bindings",
            rule(
                "get: \"/a\" additional_bindings { get: \"/b\" additional_bindings { get: \"/c\" } }",
            ),
            &["additional_bindings stand within additional_bindings"],
        ),
        (
            "a custom verb without a name",
            rule("custom { path: \"/carts\" }"),
            &["custom.kind is empty"],
        ),
        (
            "one path for two methods",
            twice("get: \"/carts/{cart}\""),
            &["methods shop.Cart.Add, shop.Cart.Get are all GET /carts/*"],
        ),
    ];
    let named = rows.into_iter().map(|(name, spec, parts)| (name, spec, Store::InMemory, parts));
    named.collect()
}

#[test]
fn every_wrong_answer_is_refused_with_what_is_wrong_and_what_to_do() {
    let rows: Vec<Row> =
        [answers(), entities(), methods(), annotations()].into_iter().flatten().collect();
    assert!(rows.len() >= 25, "{}", rows.len());
    for (name, spec, store, parts) in rows {
        let problems = judge(&spec, &terms(store)).expect_err(name);
        let told = problems.iter().any(|problem| parts.iter().all(|part| problem.contains(part)));
        assert!(told, "{name}: no problem says all of {parts:?}: {problems:#?}");
        assert!(problems.iter().all(|problem| problem.contains(':')), "{name}: {problems:#?}");
    }
}

#[test]
fn problems_of_different_kinds_are_told_in_one_refusal() {
    let text = "message Item { string id = 1; message Id { bytes id = 1 [(cloudstate.entity_key) = true]; } }
        service Cart { rpc Add(stream Item) returns (Item); rpc Get(Item.Id) returns (Item); }";
    let odd = Entity { persistence_id: String::new(), ..entity("shop.Cart") };
    let crdt = Entity { entity_type: protocol::CRDT.to_owned(), ..entity("shop.Nothing") };
    let spec = EntitySpec { service_info: None, ..spec(text, vec![odd, crdt]) };
    let problems = judge(&spec, &terms(Store::InMemory)).unwrap_err();
    // Version, storage name, streamed input, no key, a key of bytes, a CRDT, and an unknown service.
    assert_eq!(problems.len(), 7, "{problems:#?}");
}
