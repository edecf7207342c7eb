//! What the proxy does when its user function goes away and comes back as the same or as another
//! program, and how it deals with one that bounds its streams.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use api::contract::exit;
use futures::future::join_all;
use protocol::cloudstate::{
    EntityPassivationStrategy, EntitySpec, TimeoutPassivationStrategy,
    entity_passivation_strategy::Strategy,
};
use support::{
    PATIENCE, Stand, call,
    counter::{Counter, item, spec},
    eventually,
};
use tokio::time;
use tonic::Request;

/// The counter's description with another passivation timeout.
fn changed() -> EntitySpec {
    let mut changed = spec();
    let strategy = Strategy::Timeout(TimeoutPassivationStrategy { timeout: 60_000 });
    changed.entities[0].passivation_strategy =
        Some(EntityPassivationStrategy { strategy: Some(strategy) });
    changed
}

async fn until_discovered(stand: &Stand, times: usize) {
    eventually("discovery", async || stand.counter.discoveries() == times).await;
}

#[tokio::test]
async fn discovery_is_asked_once_for_each_time_that_the_user_function_comes_back() {
    let stand = Stand::start().await;
    assert_eq!(stand.value("Add", item("a", 4)).await, 4);
    for times in 2..5 {
        stand.counter.kill();
        stand.counter.listen(stand.user_function());
        until_discovered(&stand, times).await;
        eventually("calls work", async || stand.call("Get", item("a", 0)).await.is_ok()).await;
        assert_eq!(stand.value("Get", item("a", 0)).await, 4);
    }
    assert_eq!(stand.counter.discoveries(), 4);
    assert!(!stand.proxy.is_finished());
}

#[tokio::test]
async fn readiness_ends_when_the_user_function_stays_away_and_comes_back_with_it() {
    let stand = Stand::start().await;
    stand.counter.kill();
    eventually("readiness is gone", async || {
        stand.get("/ready").await.contains("UserFunctionUnreachable")
    })
    .await;
    stand.counter.listen(stand.user_function());
    stand.until_ready().await;
    assert_eq!(stand.counter.discoveries(), 2);
}

#[tokio::test]
async fn another_description_makes_the_proxy_start_afresh() {
    let mut stand = Stand::start().await;
    stand.counter.kill();
    stand.counter.describe(changed());
    stand.counter.listen(stand.user_function());
    let error = time::timeout(PATIENCE, &mut stand.proxy).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.exit_code(), exit::RESTART);
    assert!(error.refusal().is_none());
    assert_eq!(stand.counter.reports(), Vec::<String>::new());
}

#[tokio::test]
async fn another_description_that_cannot_be_served_is_refused_as_at_the_start() {
    let mut stand = Stand::start().await;
    stand.counter.kill();
    stand.counter.describe(EntitySpec { entities: vec![], ..spec() });
    stand.counter.listen(stand.user_function());
    let error = time::timeout(PATIENCE, &mut stand.proxy).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.exit_code(), exit::CONFIG);
    assert!(error.refusal().unwrap().message.contains("EntitySpec.entities is empty"));
    assert!(stand.counter.reports()[0].contains("EntitySpec.entities is empty"));
}

#[tokio::test]
async fn a_program_that_was_not_asked_yet_gets_no_commands() {
    let mut stand = Stand::start().await;
    stand.counter.kill();
    let other = Counter::with_spec(changed());
    other.listen(stand.user_function());
    let channel = stand.channel().await;
    let calling = tokio::spawn(async move {
        loop {
            drop(call(channel.clone(), "Add", Request::new(item("a", 1))).await);
        }
    });
    let error = time::timeout(PATIENCE, &mut stand.proxy).await.unwrap().unwrap().unwrap_err();
    calling.abort();
    assert_eq!(error.exit_code(), exit::RESTART);
    assert_eq!(other.discoveries(), 1);
    assert_eq!(other.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn entities_beyond_the_streams_of_one_connection_get_more_connections() {
    let stand = Stand::start_without_waiting(Counter::with_streams_max(3), |_config| {});
    stand.counter.listen(stand.user_function());
    stand.until_ready().await;
    let channel = stand.channel().await;
    let names: Vec<_> = (0..60).map(|number| format!("entity-{number}")).collect();
    let calls = names.iter().map(|name| call(channel.clone(), "Add", Request::new(item(name, 1))));
    let all = time::timeout(PATIENCE, join_all(calls)).await.unwrap();
    for reply in all {
        assert_eq!(reply.unwrap().into_inner().value, 1);
    }
    assert_eq!(stand.counter.discoveries(), 1);
}
