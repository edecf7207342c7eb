//! The memory budget, from outside.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use std::time::Duration;

use futures::{StreamExt as _, stream};
use support::{Stand, call, counter::item};
use tonic::{Code, Request};

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
    support::eventually("all are with the user function", async || {
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
