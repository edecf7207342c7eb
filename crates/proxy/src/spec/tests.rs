//! Descriptions that are served, and every way in which one is not.

use protocol::cloudstate::{EntityPassivationStrategy, ServiceInfo, TimeoutPassivationStrategy};

use std::{sync::Arc, time::Duration};

use protocol::cloudstate::entity_passivation_strategy::Strategy;

use super::*;
use crate::route::{Shape, Target};

const CART: &str = "
    message Item { string cart = 1 [(cloudstate.entity_key) = true]; }
    service Cart { rpc Add(Item) returns (Item); rpc Get(Item) returns (Item); }";

fn descriptors(text: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let option =
        "syntax = \"proto3\"; package cloudstate; import \"google/protobuf/descriptor.proto\";
        extend google.protobuf.FieldOptions { bool entity_key = 1080; bool legacy_entity_key = 50002; }";
    std::fs::write(dir.path().join("entity_key.proto"), option).unwrap();
    let file = format!("syntax = \"proto3\"; package shop; import \"entity_key.proto\"; {text}");
    std::fs::write(dir.path().join("shop.proto"), file).unwrap();
    let mut compiler = protox::Compiler::new([dir.path()]).unwrap();
    compiler.include_imports(true).open_file("shop.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

fn entity(service: &str) -> Entity {
    Entity {
        entity_type: protocol::EVENT_SOURCED.to_owned(),
        service_name: service.to_owned(),
        persistence_id: "cart".to_owned(),
        passivation_strategy: None,
    }
}

fn spec(text: &str, entities: Vec<Entity>) -> EntitySpec {
    let service_info = ServiceInfo { protocol_minor_version: 2, ..ServiceInfo::default() };
    EntitySpec { proto: descriptors(text).into(), entities, service_info: Some(service_info) }
}

fn terms(store: Store) -> Terms {
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

#[test]
fn an_event_sourced_entity_without_a_store_is_told_which_field_to_set() {
    let spec = spec(CART, vec![entity("shop.Cart")]);
    let parts =
        ["shop.Cart", "EventSourced", "spec.datastore.name", "StatefulService shopping-cart"];
    check(&spec, &terms(Store::None), &parts);
}

#[test]
fn an_unknown_entity_type_is_named_with_those_that_are_known() {
    let odd = Entity { entity_type: "cloudstate.odd.Odd".to_owned(), ..entity("shop.Cart") };
    let parts = ["shop.Cart", "entity_type", "\"cloudstate.odd.Odd\"", "EventSourced"];
    check(&spec(CART, vec![odd]), &terms(Store::InMemory), &parts);
}

#[test]
fn an_unknown_service_is_named_with_those_that_are_described() {
    let spec = spec(CART, vec![entity("shop.Basket")]);
    check(&spec, &terms(Store::InMemory), &["service_name", "\"shop.Basket\"", "shop.Cart"]);
}

#[test]
fn descriptors_that_cannot_be_used_are_refused() {
    let torn = EntitySpec { proto: vec![0xff].into(), ..spec(CART, vec![entity("shop.Cart")]) };
    check(&torn, &terms(Store::InMemory), &["EntitySpec.proto"]);
    let empty = EntitySpec { proto: vec![].into(), ..torn };
    check(&empty, &terms(Store::InMemory), &["service_name", "which has nothing"]);
}

#[test]
fn no_entity_at_all_is_refused() {
    check(&spec(CART, vec![]), &terms(Store::InMemory), &["EntitySpec.entities is empty"]);
}

#[test]
fn streamed_methods_and_missing_keys_are_named() {
    let text = "message Item { string cart = 1; }
        service Cart { rpc Up(stream Item) returns (Item); rpc Down(Item) returns (stream Item); }";
    let spec = spec(text, vec![entity("shop.Cart")]);
    check(&spec, &terms(Store::InMemory), &["shop.Cart.Up", "streams its input"]);
    check(&spec, &terms(Store::InMemory), &["shop.Cart.Down", "streams its output"]);
    check(&spec, &terms(Store::InMemory), &["shop.Cart.Down", "shop.Item", "entity_key"]);
}

#[test]
fn storage_names_must_be_usable_and_unique() {
    for id in ["", "a|b"] {
        let odd = Entity { persistence_id: id.to_owned(), ..entity("shop.Cart") };
        check(&spec(CART, vec![odd]), &terms(Store::InMemory), &["shop.Cart", "persistence_id"]);
    }
    let text = format!("{CART} service Basket {{ rpc Add(Item) returns (Item); }}");
    let twins = spec(&text, vec![entity("shop.Cart"), entity("shop.Basket")]);
    let parts = ["persistence_id", "\"cart\"", "shop.Cart, shop.Basket"];
    check(&twins, &terms(Store::InMemory), &parts);
    let twice = spec(CART, vec![entity("shop.Cart"), entity("shop.Cart")]);
    check(&twice, &terms(Store::InMemory), &["service_name", "\"shop.Cart\"", "2 entities"]);
}

#[test]
fn all_problems_are_told_at_once() {
    let odd = Entity { entity_type: "odd".to_owned(), ..entity("shop.Nothing") };
    let spec = EntitySpec { service_info: None, ..spec(CART, vec![odd]) };
    assert_eq!(judge(&spec, &terms(Store::InMemory)).unwrap_err().len(), 3);
}
