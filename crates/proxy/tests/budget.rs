//! The memory budget, from outside.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use protocol::Any;
use proxy::journal::{
    Append, EntityId, Epochs as _, Guard, Journal as _, Lease, Memory, Owner, Sequence, Shard,
    Written,
};
use support::{
    Stand, call,
    counter::{Counter, item},
    eventually,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, transport::Channel};

/// A budget of 4 MiB has 3 MiB for entities of 15 KiB.
const BUDGET: u64 = 4 << 20;
const FIT: usize = 3 * 1024 / 15;

/// The most entities that were open at once, as the user function saw it.
fn open_at_once(seen: &[String]) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for what in seen {
        if what.starts_with("init") {
            open += 1;
        } else if what == "end" {
            open -= 1;
        }
        most = most.max(open);
    }
    most
}

#[tokio::test]
async fn more_entities_than_fit_are_served_and_those_that_idle_make_room() {
    const ENTITIES: usize = 1_000;
    let stand = Stand::start_with(|config| config.memory = BUDGET).await;
    let channel = stand.channel().await;
    for round in 1..=2 {
        let totals = stream::iter(0..ENTITIES)
            .map(|key| {
                call(channel.clone(), "Add", Request::new(item(&format!("entity {key}"), 1)))
            })
            .buffer_unordered(64)
            .map(|reply| reply.unwrap().into_inner().value);
        assert!(totals.all(async |total| total == round).await);
    }
    let seen = stand.counter.seen();
    let most = open_at_once(&seen);
    assert!(most <= FIT, "{most} entities were open at once, and {FIT} fit");
    assert!(most > FIT * 3 / 4, "{most} entities were open at once although {FIT} fit");
}

#[tokio::test]
async fn an_activation_waits_for_room_and_is_refused_when_none_comes() {
    let stand = Stand::start_with(|config| {
        config.memory = BUDGET;
        // Time for those that fit, too.
        config.entities.activation = Duration::from_secs(2);
    })
    .await;
    let channel = stand.channel().await;
    let busy = (0..FIT).map(|key| {
        tokio::spawn(call(channel.clone(), "Wait", Request::new(item(&format!("busy {key}"), 0))))
    });
    let busy: Vec<_> = busy.collect();
    eventually("all are with the user function", async || {
        stand.counter.seen().iter().filter(|what| *what == "command 1 Wait").count() == FIT
    })
    .await;
    let status = stand.call("Add", item("another", 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("bytes of memory for entities are in use"), "{status:?}");

    let another = tokio::spawn(call(channel, "Add", Request::new(item("another", 1))));
    for _caller in &busy {
        stand.counter.go();
    }
    for caller in busy {
        caller.await.unwrap().unwrap();
    }
    another.await.unwrap().unwrap();
}

/// A store in which an owner before this one has left entities with a state of so many bytes.
async fn with_states(entities: usize, bytes: usize) -> Memory {
    let store = Memory::default();
    let (shard, owner) = (Shard::WHOLE, Owner(uuid::Uuid::from_u128(1)));
    let epoch = store.claim(shard, owner, &Lease::default()).await.unwrap().unwrap();
    let guard = Guard { shard, epoch };
    let mut value = 1_i64.to_be_bytes().to_vec();
    value.resize(bytes, 0);
    let state = Any { type_url: "json.cloudstate.io/number".to_owned(), value: value.into() };
    let append = |key: usize| Append {
        entity: EntityId { persistence_id: "counter".to_owned(), key: key.to_string() },
        guard,
        expected: Sequence(0),
        events: vec![state.clone()],
        snapshot: Some(state.clone()),
    };
    let written = store.append((0..entities).map(append).collect()).await;
    assert!(written.iter().all(|written| *written == Written::Committed));
    store.release(guard).await.unwrap();
    store
}

#[tokio::test]
async fn states_that_were_read_count_until_they_are_with_the_user_function() {
    const ENTITIES: usize = 7;
    const STATE: usize = 3 << 20;
    /// Three quarters of the budget are for entities, and so many states go into that beside them.
    const BUDGET: u64 = 16 << 20;
    const FIT: usize = 3;
    let store = with_states(ENTITIES, STATE).await;
    let (address, counter) = (support::address(), Counter::default());
    counter.listen((address, 8080).into());
    let mut config = support::config(address);
    config.memory = BUDGET;
    // Whoever does not fit waits for as long as the test takes.
    config.entities.activation = support::PATIENCE;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(proxy::run_on(config, Some(Arc::new(store)), stop));
    eventually("the proxy is ready", async || {
        support::get(address, "/ready").await.starts_with("HTTP/1.1 200")
    })
    .await;
    let endpoint = Channel::from_shared(format!("http://{address}:8013")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let calls = (0..ENTITIES).map(|key| {
        tokio::spawn(call(channel.clone(), "Wait", Request::new(item(&key.to_string(), 0))))
    });
    let calls: Vec<_> = calls.collect();
    let seen = |what: &str| counter.seen().iter().filter(|seen| seen.starts_with(what)).count();
    for answered in 0..ENTITIES {
        let may = (answered + FIT).min(ENTITIES);
        eventually("as many as fit are with the user function", async || {
            let begun = seen("init");
            assert!(begun <= may, "{begun} states were sent when {answered} were answered");
            seen("command 1 Wait") == may
        })
        .await;
        counter.go();
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
}
