//! Descriptions that are served; `refusals.rs` has those that are not.

use std::{sync::Arc, time::Duration};

use protocol::cloudstate::{
    EntityPassivationStrategy, ServiceInfo, TimeoutPassivationStrategy,
    entity_passivation_strategy::Strategy,
};

use super::*;
use crate::route::{Shape, Target};

pub(super) const CART: &str = "
    message Item { string cart = 1 [(cloudstate.entity_key) = true]; }
    service Cart { rpc Add(Item) returns (Item); rpc Get(Item) returns (Item); }";

/// As much of Google's file as matters, with its numbers.
const ANNOTATIONS: &str = "syntax = \"proto3\"; package google.api; import \"google/protobuf/descriptor.proto\";
    extend google.protobuf.MethodOptions { HttpRule http = 72295728; }
    message HttpRule {
        oneof pattern { string get = 2; string put = 3; string post = 4; string delete = 5; string patch = 6;
            CustomHttpPattern custom = 8; }
        string body = 7; string response_body = 12; repeated HttpRule additional_bindings = 11; }
    message CustomHttpPattern { string kind = 1; string path = 2; }";

fn descriptors(text: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let option =
        "syntax = \"proto3\"; package cloudstate; import \"google/protobuf/descriptor.proto\";
        extend google.protobuf.FieldOptions { bool entity_key = 1080; bool legacy_entity_key = 50002; }";
    std::fs::write(dir.path().join("entity_key.proto"), option).unwrap();
    std::fs::create_dir_all(dir.path().join("google/api")).unwrap();
    std::fs::write(dir.path().join("google/api/annotations.proto"), ANNOTATIONS).unwrap();
    let file = format!("syntax = \"proto3\"; package shop; import \"entity_key.proto\"; {text}");
    std::fs::write(dir.path().join("shop.proto"), file).unwrap();
    let mut compiler = protox::Compiler::new([dir.path()]).unwrap();
    compiler.include_imports(true).open_file("shop.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

pub(super) fn entity(service: &str) -> Entity {
    Entity {
        entity_type: protocol::EVENT_SOURCED.to_owned(),
        service_name: service.to_owned(),
        persistence_id: "cart".to_owned(),
        passivation_strategy: None,
    }
}

pub(super) fn spec(text: &str, entities: Vec<Entity>) -> EntitySpec {
    let service_info = ServiceInfo { protocol_minor_version: 2, ..ServiceInfo::default() };
    EntitySpec { proto: descriptors(text).into(), entities, service_info: Some(service_info) }
}

pub(super) fn terms(store: Store) -> Terms {
    Terms { store, stateful_service: Some("shopping-cart".to_owned()), protocol_check: true }
}

/// The description is refused, and among the problems is one that says all of `parts`.
#[track_caller]
fn check(spec: &EntitySpec, terms: &Terms, parts: &[&str]) {
    let problems = judge(spec, terms).unwrap_err();
    assert!(
        problems.iter().any(|problem| parts.iter().all(|part| problem.contains(part))),
        "no problem says all of {parts:?}: {problems:?}"
    );
}

#[test]
fn every_method_of_a_described_service_gets_a_route() {
    let routes =
        judge(&spec(CART, vec![entity("shop.Cart")]), &terms(Store::InMemory)).unwrap().routes;
    let add = routes.find("/shop.Cart/Add").unwrap();
    assert_eq!(add.name, "Add");
    assert_eq!(add.input_type_url, "type.googleapis.com/shop.Item");
    assert_eq!(add.service.persistence_id, "cart");
    assert_eq!(add.service.passivation_timeout, None);
    assert!(routes.find("/shop.Cart/Remove").is_none());
    assert_eq!(routes.services(), ["shop.Cart"]);
}

#[test]
fn every_entity_type_gets_its_kind_and_target() {
    let text = format!(
        "{CART} service Stock {{ rpc Set(Item) returns (Item); }}
         message Order {{ string text = 1; }}
         service Orders {{ rpc Place(Order) returns (Order); rpc Up(stream Order) returns (Order);
            rpc Down(Order) returns (stream Order); rpc Both(stream Order) returns (stream Order); }}"
    );
    let entities = vec![
        entity("shop.Cart"),
        Entity {
            entity_type: protocol::VALUE_ENTITY.to_owned(),
            persistence_id: "stock".to_owned(),
            ..entity("shop.Stock")
        },
        // An action keeps nothing, so that its name in a store does not matter.
        Entity { entity_type: protocol::ACTION.to_owned(), ..entity("shop.Orders") },
    ];
    let routes = judge(&spec(&text, entities), &terms(Store::InMemory)).unwrap().routes;
    let find = |path: &str| Arc::clone(routes.find(path).unwrap());
    assert_eq!(find("/shop.Cart/Add").service.kind, Kind::EventSourced);
    assert_eq!(find("/shop.Stock/Set").service.kind, Kind::Value);
    assert!(matches!(find("/shop.Stock/Set").target, Target::Entity(_)));
    for (name, shape) in [
        ("Place", Shape::Unary),
        ("Up", Shape::ClientStreaming),
        ("Down", Shape::ServerStreaming),
        ("Both", Shape::Streaming),
    ] {
        let method = find(&format!("/shop.Orders/{name}"));
        assert_eq!(method.service.kind, Kind::Action);
        assert!(matches!(method.target, Target::Action(found) if found == shape), "{method:?}");
    }
}

#[test]
fn without_a_store_only_actions_are_offered() {
    assert_eq!(terms(Store::None).supported_entity_types(), [protocol::ACTION]);
    assert_eq!(
        terms(Store::InMemory).supported_entity_types(),
        [protocol::ACTION, protocol::EVENT_SOURCED, protocol::VALUE_ENTITY]
    );
}

#[test]
fn a_library_that_names_no_version_and_marks_keys_the_older_way_is_served_without_the_check() {
    let text = "message Item { string cart = 1 [(cloudstate.legacy_entity_key) = true]; }
        service Cart { rpc Add(Item) returns (Item); }";
    let old = EntitySpec { service_info: None, ..spec(text, vec![entity("shop.Cart")]) };
    check(&old, &terms(Store::InMemory), &["protocol_minor_version", "0.0"]);
    let lenient = Terms { protocol_check: false, ..terms(Store::InMemory) };
    let accepted = judge(&old, &lenient).unwrap();
    assert!(accepted.routes.find("/shop.Cart/Add").is_some());
    assert!(accepted.remarks[0].contains("0.0"), "{:?}", accepted.remarks);
}

#[test]
fn a_passivation_timeout_counts_when_it_is_above_zero() {
    for (millis, expected) in [(100, Some(Duration::from_millis(100))), (0, None), (-1, None)] {
        let strategy = Strategy::Timeout(TimeoutPassivationStrategy { timeout: millis });
        let passivation_strategy = Some(EntityPassivationStrategy { strategy: Some(strategy) });
        let entity = Entity { passivation_strategy, ..entity("shop.Cart") };
        let routes = judge(&spec(CART, vec![entity]), &terms(Store::InMemory)).unwrap().routes;
        assert_eq!(routes.find("/shop.Cart/Add").unwrap().service.passivation_timeout, expected);
    }
}

#[test]
fn another_protocol_version_is_refused_unless_the_check_is_off() {
    let info = ServiceInfo {
        protocol_major_version: 9,
        protocol_minor_version: 9,
        support_library_name: "lib".to_owned(),
        ..ServiceInfo::default()
    };
    let future = EntitySpec { service_info: Some(info), ..spec(CART, vec![entity("shop.Cart")]) };
    check(&future, &terms(Store::InMemory), &["protocol_major_version", "9.9", "0.2", "\"lib\""]);
    let silent = EntitySpec { service_info: None, ..future.clone() };
    check(&silent, &terms(Store::InMemory), &["0.0"]);
    let lenient = Terms { protocol_check: false, ..terms(Store::InMemory) };
    judge(&future, &lenient).unwrap();
}

/// A cart whose methods have these HTTP annotations.
pub(super) fn annotated(add: &str, get: &str) -> EntitySpec {
    let text = format!(
        "import \"google/api/annotations.proto\";
         message Name {{ string text = 1; repeated string more = 2; }}
         message Item {{ string cart = 1 [(cloudstate.entity_key) = true]; Name name = 2; int32 count = 3; }}
         service Cart {{ rpc Add(Item) returns (Item) {{ {add} }} rpc Get(Item) returns (Item) {{ {get} }} }}"
    );
    spec(&text, vec![entity("shop.Cart")])
}

#[test]
fn http_annotations_that_make_sense_are_served_over_grpc() {
    let spec = annotated(
        "option (google.api.http) = { post: \"/carts/{cart}/items/{name.text}\" body: \"*\"
            additional_bindings { put: \"/v2/{cart=carts/*}:add\" body: \"name\" response_body: \"count\" } };",
        "option (google.api.http) = { get: \"/carts/{cart}/items/{name.text}\" };",
    );
    let accepted = judge(&spec, &terms(Store::InMemory)).unwrap();
    assert!(accepted.remarks.is_empty(), "{:?}", accepted.remarks);
}
