//! The proxy from outside: real sockets, a scripted user function, a caller.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use std::{collections::BTreeSet, time::Duration};

use protocol::cloudstate::EntitySpec;
use support::{
    PATIENCE, Stand, call,
    counter::{Counter, Item, item, spec},
    eventually,
};
use tokio::time;
use tonic::{Code, Request};

#[tokio::test]
async fn commands_change_the_entity_that_their_key_names() {
    let stand = Stand::start().await;
    assert_eq!(stand.value("Add", item("a", 2)).await, 2);
    assert_eq!(stand.value("Add", item("b", 5)).await, 5);
    assert_eq!(stand.value("Add", item("a", 3)).await, 5);
    assert_eq!(stand.value("Get", item("a", 0)).await, 5);
    assert_eq!(stand.value("Get", item("new", 0)).await, 0);
}

#[tokio::test]
async fn a_passivated_entity_comes_back_from_its_events() {
    let stand = Stand::start_with(|config| {
        config.entities.passivation = Duration::from_millis(50);
    })
    .await;
    stand.value("Add", item("a", 2)).await;
    stand.value("Add", item("a", 3)).await;
    eventually("the stream has ended", async || stand.counter.seen().last().unwrap() == "end")
        .await;
    assert_eq!(stand.value("Get", item("a", 0)).await, 5);
    let seen = stand.counter.seen();
    let again = seen.iter().rposition(|what| what.starts_with("init")).unwrap();
    let expected = ["init counter.Counter a at 0", "event 1", "event 2", "command 1 Get"];
    assert_eq!(seen[again..again + 4], expected);
}

#[tokio::test]
async fn a_snapshot_takes_the_place_of_the_events_before_it() {
    let counter = Counter::with_snapshots(2);
    let stand = Stand::start_without_waiting(counter, |config| {
        config.entities.passivation = Duration::from_millis(50);
    });
    stand.counter.listen(stand.user_function());
    stand.until_ready().await;
    for _ in 0..5 {
        stand.value("Add", item("a", 1)).await;
    }
    eventually("the stream has ended", async || stand.counter.seen().last().unwrap() == "end")
        .await;
    assert_eq!(stand.value("Get", item("a", 0)).await, 5);
    let seen = stand.counter.seen();
    let again = seen.iter().rposition(|what| what.starts_with("init")).unwrap();
    let expected = ["init counter.Counter a at 4", "event 5", "command 1 Get"];
    assert_eq!(seen[again..again + 3], expected);
}

#[tokio::test]
async fn what_the_user_function_breaks_has_a_text_and_the_next_call_works() {
    let stand = Stand::start().await;
    stand.value("Add", item("a", 7)).await;
    for (method, text) in [
        ("Fail", "Unexpected entity failure"),
        ("Confuse", "Unexpected entity reply"),
        ("Mumble", "Unexpected entity message"),
        ("Leave", "Unexpected entity termination"),
    ] {
        let status = stand.call(method, item("a", 0)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unknown, text), "{method}");
        assert_eq!(stand.value("Get", item("a", 0)).await, 7, "after {method}");
    }
}

#[tokio::test]
async fn a_refusal_reaches_the_caller_as_it_is() {
    let stand = Stand::start().await;
    stand.value("Add", item("a", 1)).await;
    let refused = Item { text: "nein: «ä»".to_owned(), ..item("a", 9) };
    for method in ["Refuse", "Regret"] {
        let status = stand.call(method, refused.clone()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unknown, "nein: «ä»"), "{method}");
        assert_eq!(stand.value("Get", item("a", 0)).await, 1, "after {method}");
    }
}

#[tokio::test]
async fn bad_calls_are_refused_without_the_user_function() {
    let stand = Stand::start().await;
    let cases = [
        ("Nothing", item("a", 0), Code::Unimplemented, "counter.Counter"),
        ("Get", item("", 0), Code::InvalidArgument, "the entity key is empty: set id"),
        (
            "Get",
            Item { text: "x".repeat(5 << 20), ..item("a", 0) },
            Code::ResourceExhausted,
            "4194304",
        ),
    ];
    for (method, item, code, part) in cases {
        let status = stand.call(method, item).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(part), "{status:?}");
    }
    assert!(stand.counter.seen().is_empty(), "{:?}", stand.counter.seen());
}

#[tokio::test]
async fn a_deadline_ends_the_wait_and_leaves_the_entity_to_others() {
    let stand = Stand::start().await;
    let channel = stand.channel().await;
    let mut hurried = Request::new(item("a", 0));
    hurried.set_timeout(Duration::from_millis(200));
    let status = call(channel.clone(), "Wait", hurried).await.unwrap_err();
    // The caller's own clock may be the first to say so.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    stand.counter.go();
    assert_eq!(stand.value("Add", item("a", 4)).await, 4);
}

#[tokio::test]
async fn a_user_function_that_does_not_answer_is_given_up() {
    let stand = Stand::start_with(|config| {
        config.entities.command = Duration::from_millis(100);
    })
    .await;
    let status = stand.call("Hang", item("a", 0)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    // On a machine with other work even an answer may come too late.
    eventually("the entity serves others", async || stand.call("Get", item("a", 0)).await.is_ok())
        .await;
}

#[tokio::test]
async fn a_user_function_that_is_away_is_unavailable_until_it_is_back() {
    let stand = Stand::start().await;
    assert_eq!(stand.value("Add", item("a", 4)).await, 4);
    stand.counter.kill();
    eventually("calls are refused", async || {
        let outcome = stand.call("Get", item("a", 0)).await;
        outcome.is_err_and(|status| status.code() == Code::Unavailable)
    })
    .await;
    stand.counter.listen(stand.user_function());
    eventually("calls work again", async || stand.call("Get", item("a", 0)).await.is_ok()).await;
    assert_eq!(stand.value("Get", item("a", 0)).await, 4);
}

#[tokio::test]
async fn headers_go_to_the_user_function_and_back() {
    let stand = Stand::start().await;
    let mut request = Request::new(item("a", 0));
    request.metadata_mut().insert("x-tenant", "blue".parse().unwrap());
    let reply = call(stand.channel().await, "Echo", request).await.unwrap();
    assert_eq!(reply.metadata().get("x-tenant").unwrap(), "blue");
    assert!(reply.metadata().get("user-agent").is_none());
}

#[tokio::test]
async fn every_command_on_one_entity_counts_exactly_once() {
    let stand = Stand::start().await;
    let channel = stand.channel().await;
    let calls = (0..200).map(|_| call(channel.clone(), "Add", Request::new(item("a", 1))));
    let mut totals: Vec<i64> = futures::future::join_all(calls)
        .await
        .into_iter()
        .map(|reply| reply.unwrap().into_inner().value)
        .collect();
    totals.sort_unstable();
    assert_eq!(totals, (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_proxy_waits_for_its_user_function_and_says_so() {
    let stand = Stand::start_without_waiting(Counter::default(), |_config| {});
    eventually("it says what it waits for", async || {
        let answer = stand.get("/ready").await;
        answer.starts_with("HTTP/1.1 503")
            && answer.contains("\"reason\":\"UserFunctionUnreachable\"")
            && answer.contains(&stand.user_function().to_string())
            && answer.contains("Connection refused")
            && !answer.contains("Error(")
    })
    .await;
    assert!(stand.get("/alive").await.starts_with("HTTP/1.1 200"));
    stand.counter.listen(stand.user_function());
    stand.until_ready().await;
}

#[tokio::test]
async fn a_description_that_cannot_be_served_ends_the_proxy_with_every_problem() {
    let odd = EntitySpec { service_info: None, entities: vec![], ..spec() };
    let mut stand = Stand::start_without_waiting(Counter::with_spec(odd), |_config| {});
    stand.counter.listen(stand.user_function());
    let error = time::timeout(PATIENCE, &mut stand.proxy).await.unwrap().unwrap().unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.reason, "UserFunctionRefused");
    for part in ["protocol_major_version", "EntitySpec.entities is empty"] {
        assert!(refusal.message.contains(part), "{refusal:?}");
        assert!(stand.counter.reports()[0].contains(part), "{:?}", stand.counter.reports());
    }
}

#[tokio::test]
async fn a_stop_lets_the_call_under_way_finish() {
    let mut stand = Stand::start().await;
    let call = tokio::spawn(call(stand.channel().await, "Wait", Request::new(item("a", 0))));
    let seen = || stand.counter.seen().iter().any(|what| what == "command 1 Wait");
    eventually("the command is at the user function", async || seen()).await;
    stand.stop.cancel();
    eventually("readiness is gone", async || stand.get("/ready").await.contains("Draining")).await;
    stand.counter.go();
    call.await.unwrap().unwrap();
    time::timeout(PATIENCE, &mut stand.proxy).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn metrics_tell_of_calls_entities_store_and_process() {
    let stand = Stand::start().await;
    stand.value("Add", item("a", 2)).await;
    stand.value("Add", item("b", 2)).await;
    stand.call("Refuse", item("a", 0)).await.unwrap_err();
    let text = stand.metrics().await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    for line in [
        "text/plain; version=0.0.4; charset=utf-8",
        "cloudstate_requests_total{protocol=\"grpc\",service=\"counter.Counter\",method=\"Add\",code=\"OK\"} 2",
        "cloudstate_requests_total{protocol=\"grpc\",service=\"counter.Counter\",method=\"Refuse\",code=\"UNKNOWN\"} 1",
        "cloudstate_eventsourced_activated_entities_total{entity_name=\"counter\"} 2",
        "cloudstate_eventsourced_persisted_events_total{entity_name=\"counter\"} 2",
        "cloudstate_eventsourced_completed_commands_total{entity_name=\"counter\"} 3",
        "cloudstate_eventsourced_failed_commands_total{entity_name=\"counter\"} 1",
        "cloudstate_eventsourced_entity_active_time_seconds{entity_name=\"counter\",quantile=\"0.5\"} NaN",
        "cloudstate_store_writes_total{operation=\"append\",outcome=\"committed\"} 2",
        "cloudstate_open_entities 2",
        "cloudstate_memory_budget_entities_bytes 201326592",
        "cloudstate_memory_budget_calls_bytes 67108864",
        "cloudstate_memory_budget_calls_used_bytes 0",
        "cloudstate_user_function_streams 2",
        "cloudstate_ownership_owned 1",
        "cloudstate_ownership_epoch 1",
        "cloudstate_ready 1",
        "cloudstate_proxy_build_info{version=",
        "process_resident_memory_bytes ",
        "process_cpu_seconds_total ",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
}

/// What stands in code in the first column of the page's tables.
fn documented_metrics(section: &str) -> BTreeSet<String> {
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" |"));
    rows.flat_map(|(names, _)| names.split(", ")).map(|name| name.replace('`', "")).collect()
}

#[tokio::test]
async fn the_page_on_metrics_names_all_that_are_exposed_and_no_other() {
    let page = include_str!("../../../docs/metrics.md");
    let (entities, others) = page.split_once("## Actions").unwrap();
    let stand = Stand::start().await;
    stand.value("Get", item("a", 0)).await;
    let text = stand.metrics().await;
    let exposed = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let exposed: Vec<_> = exposed.collect();
    let known = ["counter", "gauge", "histogram", "summary"];
    let odd: Vec<_> = exposed.iter().filter(|(_name, kind)| !known.contains(kind)).collect();
    assert!(odd.is_empty(), "Prometheus' own format has no such types: {odd:?}");
    let (of_entities, exposed): (BTreeSet<_>, BTreeSet<_>) = exposed
        .into_iter()
        .map(|(name, _type)| name.to_owned())
        .partition(|name| name.starts_with("cloudstate_eventsourced_"));
    let of_entities: BTreeSet<_> = of_entities
        .iter()
        .map(|name| name.trim_start_matches("cloudstate_eventsourced_").to_owned())
        .collect();
    assert_eq!(of_entities, documented_metrics(entities));
    assert_eq!(exposed, documented_metrics(others));
}

#[tokio::test]
async fn the_management_port_shows_what_the_proxy_is_doing() {
    let stand = Stand::start().await;
    stand.value("Add", item("a/b", 2)).await;
    stand.value("Add", item("c", 3)).await;
    stand.call("Fail", item("d", 0)).await.unwrap_err();
    let waiting = tokio::spawn(call(stand.channel().await, "Wait", Request::new(item("c", 0))));
    eventually("an entity is seen to wait", async || {
        stand
            .get("/entities?service=counter.Counter&key=c")
            .await
            .contains("awaiting the user function")
    })
    .await;
    let all = stand.get("/entities").await;
    assert!(all.contains("key: a/b, phase: running, queued: 0, sequence: 1"), "{all}");
    let one = stand.get("/entities?key=a%2Fb&format=json").await;
    assert!(one.contains("application/json"), "{one}");
    assert!(one.contains("\"listed\":1") && one.contains("\"sequence\":1"), "{one}");
    let status = stand.get("/status").await;
    for part in [
        "ready: yes",
        "store: in-memory",
        "ownership: yes",
        "epoch: 1",
        "state: connected",
        "counter.Counter",
        "recent problems:",
        "Unexpected entity failure",
    ] {
        assert!(status.contains(part), "{part} is missing in {status}");
    }
    for alias in ["/live", "/healthz"] {
        assert!(stand.get(alias).await.starts_with("HTTP/1.1 200"));
    }
    stand.counter.go();
    waiting.await.unwrap().unwrap();
}
