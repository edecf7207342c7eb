//! Wrong descriptions, end to end: a real proxy asks a scripted user function, refuses the answer, says so to
//! the user function, and leaves.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use api::contract::{Store, exit, reason};
use protocol::cloudstate::EntitySpec;
use support::{
    PATIENCE, Stand,
    counter::{Counter, spec},
};
use tokio::time;

#[tokio::test]
async fn every_refusal_reaches_the_user_function_and_ends_the_proxy() {
    let entity = spec().entities.remove(0);
    let mut shared = entity.clone();
    shared.service_name = "counter.Other".to_owned();
    let mut crdt = entity.clone();
    crdt.entity_type = protocol::CRDT.to_owned();
    let mut piped = entity.clone();
    piped.persistence_id = "a|b".to_owned();
    let rows: [(EntitySpec, Store, &[&str]); 7] = [
        (EntitySpec { service_info: None, ..spec() }, Store::InMemory, &["say 0.0"]),
        (
            EntitySpec { proto: vec![0xff].into(), ..spec() },
            Store::InMemory,
            &["FileDescriptorSet"],
        ),
        (EntitySpec { entities: vec![], ..spec() }, Store::InMemory, &["EntitySpec.entities"]),
        (
            EntitySpec { entities: vec![crdt], ..spec() },
            Store::InMemory,
            &["counter.Counter", "CRDT"],
        ),
        (EntitySpec { entities: vec![piped], ..spec() }, Store::InMemory, &["\"a|b\""]),
        (spec(), Store::None, &["counter.Counter", "spec.datastore.name"]),
        (
            EntitySpec { entities: vec![entity, shared], service_info: None, ..spec() },
            Store::InMemory,
            &["say 0.0", "persistence_id \"counter\"", "service_name \"counter.Other\""],
        ),
    ];
    for (spec, store, parts) in rows {
        let counter = Counter::with_spec(spec);
        let mut stand = Stand::start_without_waiting(counter, |config| config.terms.store = store);
        stand.counter.listen(stand.user_function());
        let left = time::timeout(PATIENCE, &mut stand.proxy).await.unwrap().unwrap();
        let error = left.unwrap_err();
        assert_eq!(error.exit_code(), exit::CONFIG);
        let refusal = error.refusal().unwrap();
        assert_eq!(refusal.reason, reason::USER_FUNCTION_REFUSED);
        let reports = stand.counter.reports();
        assert_eq!((reports.len(), stand.counter.discoveries()), (1, 1), "{reports:?}");
        for part in parts {
            assert!(refusal.message.contains(part), "{part} is missing in {}", refusal.message);
            assert!(reports[0].contains(part), "{part} is missing in {}", reports[0]);
        }
    }
}

#[tokio::test]
async fn what_is_odd_but_served_is_reported_and_no_reason_to_leave() {
    let mut odd = spec();
    let strategy = protocol::cloudstate::entity_passivation_strategy::Strategy::Timeout(
        protocol::cloudstate::TimeoutPassivationStrategy { timeout: -5 },
    );
    odd.entities[0].passivation_strategy =
        Some(protocol::cloudstate::EntityPassivationStrategy { strategy: Some(strategy) });
    let stand = Stand::start_without_waiting(Counter::with_spec(odd), |_config| {});
    stand.counter.listen(stand.user_function());
    stand.until_ready().await;
    let reports = stand.counter.reports();
    assert!(reports[0].contains("counter.Counter") && reports[0].contains("-5"), "{reports:?}");
}
