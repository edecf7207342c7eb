//! User functions that break the protocol, one way after the other: each has its status and its report,
//! tells callers no secrets, leaves other entities alone, and does not keep its own entity from working
//! afterwards.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

#[path = "support/rogue.rs"]
mod rogue;
mod support;

use std::time::Duration;

use proxy::config::Config;
use rogue::Rogue;
use support::{
    PATIENCE, Stand,
    counter::{Counter, Item, Total, item},
    eventually,
};
use tokio::time;
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

const EVENTS: &str = "rogue.Events";
const VALUES: &str = "rogue.Values";

/// How long the proxy waits for an answer; long enough for those that answer, on a machine with other work.
const COMMAND: Duration = Duration::from_secs(2);

struct Scene {
    /// Ends the proxy with the test.
    _stand: Stand,
    rogue: Rogue,
    channel: Channel,
}

impl Scene {
    async fn start() -> Self {
        Self::start_with(|config| config.entities.command = COMMAND).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let stand = Stand::start_without_waiting(Counter::default(), change);
        let rogue = Rogue::default();
        rogue.listen(stand.user_function()).await;
        stand.until_ready().await;
        let channel = stand.channel().await;
        Self { _stand: stand, rogue, channel }
    }

    async fn call(&self, service: &str, method: &str, entity: &str) -> Result<i64, Status> {
        call(self.channel.clone(), service, method, entity).await
    }

    async fn told(&self, part: &str) {
        eventually(part, async || self.rogue.was_told(part)).await;
    }

    /// A call that goes wrong, between others that must not notice.
    async fn check(&self, service: &str, method: &str, expected: (Code, &str), report: &str) {
        let entity = format!("for {method}");
        assert_eq!(self.call(service, "Add", &entity).await.unwrap(), 1);
        let bystander = self.call(service, "Add", "bystander").await.unwrap();

        let status = self.call(service, method, &entity).await.unwrap_err();
        assert_eq!((status.code(), status.message()), expected, "{service}.{method}");
        self.told(&format!("{service} {entity:?}: {report}")).await;

        let now = self.call(service, "Get", "bystander").await.unwrap();
        assert_eq!(now, bystander, "after {method}");
        assert_eq!(self.rogue.activations(service, "bystander"), 1, "after {method}");
        assert_eq!(self.call(service, "Get", &entity).await.unwrap(), 1, "after {method}");
        assert_eq!(self.rogue.activations(service, &entity), 2, "after {method}");
    }
}

async fn call(channel: Channel, service: &str, method: &str, entity: &str) -> Result<i64, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = format!("/{service}/{method}").parse().unwrap();
    let codec = ProstCodec::<Item, Total>::default();
    let call = grpc.unary(Request::new(item(entity, 0)), path, codec);
    let reply = time::timeout(PATIENCE, call).await.expect("no answer at all")?;
    Ok(reply.into_inner().value)
}

#[tokio::test]
async fn event_sourced_entities_that_break_the_protocol() {
    let scene = Scene::start().await;
    let failure = (Code::Unknown, "Unexpected entity failure");
    let reply = (Code::Unknown, "Unexpected entity reply");
    let message = (Code::Unknown, "Unexpected entity message");
    let termination = (Code::Unknown, "Unexpected entity termination");
    let late = (Code::DeadlineExceeded, "the entity did not answer in time");
    for (method, status, report) in [
        ("WrongId", reply, "Unexpected entity reply: reply to command 9"),
        ("Fail", failure, "Unexpected entity failure: command 2: a secret"),
        ("FailOther", failure, "Unexpected entity failure: command 0: a secret"),
        ("Mumble", message, "Unexpected entity message: neither reply nor failure"),
        ("Leave", termination, "Unexpected entity termination: the user function ended"),
        ("Break", termination, "Unexpected entity termination: "),
        ("Huge", termination, "Unexpected entity termination: "),
        ("Flood", reply, "Unexpected entity reply: reply to command -1"),
        ("Never", late, "the user function did not answer a command in time"),
    ] {
        scene.check(EVENTS, method, status, report).await;
    }
}

#[tokio::test]
async fn value_entities_that_break_the_protocol() {
    let scene = Scene::start().await;
    let failure = (Code::Unknown, "Unexpected Value entity failure");
    let reply = (Code::Unknown, "Unexpected Value entity reply");
    let termination = (Code::Unknown, "Unexpected Value entity termination");
    let late = (Code::DeadlineExceeded, "the entity did not answer in time");
    for (method, status, report) in [
        ("WrongId", reply, "Unexpected Value entity reply: reply to command 9"),
        ("Fail", failure, "Unexpected Value entity failure: command 2: a secret"),
        ("FailOther", failure, "Unexpected Value entity failure: command 0: a secret"),
        ("Mumble", failure, "Unexpected Value entity failure: neither reply nor failure"),
        ("Aimless", failure, "Unexpected Value entity failure: a state action that neither"),
        ("Void", failure, "Unexpected Value entity failure: an update without a value"),
        ("Leave", termination, "Unexpected Value entity termination: the user function ended"),
        ("Break", termination, "Unexpected Value entity termination: "),
        ("Huge", termination, "Unexpected Value entity termination: "),
        ("Flood", reply, "Unexpected Value entity reply: reply to command -1"),
        ("Never", late, "the user function did not answer a command in time"),
    ] {
        scene.check(VALUES, method, status, report).await;
    }
}

#[tokio::test]
async fn a_reply_too_many_ends_the_activation_and_not_the_call() {
    let scene = Scene::start().await;
    for (service, text) in
        [(EVENTS, "Unexpected entity reply"), (VALUES, "Unexpected Value entity reply")]
    {
        for (method, told) in [("Twice", "reply to command 2"), ("Nobody", "reply to command 0")] {
            assert_eq!(scene.call(service, "Add", method).await.unwrap(), 1);
            assert_eq!(scene.call(service, method, method).await.unwrap(), 1, "{method}");
            scene.told(&format!("{service} {method:?}: {text}: {told}")).await;
            assert_eq!(scene.call(service, "Get", method).await.unwrap(), 1, "after {method}");
            assert_eq!(scene.rogue.activations(service, method), 2, "after {method}");
        }
    }
}

#[tokio::test]
async fn a_snapshot_without_events_is_ignored() {
    let scene = Scene::start().await;
    assert_eq!(scene.call(EVENTS, "Add", "a").await.unwrap(), 1);
    assert_eq!(scene.call(EVENTS, "Snapshot", "a").await.unwrap(), 1);
    scene.told("a snapshot came without events and was ignored").await;
    // Another activation begins without it.
    scene.call(EVENTS, "Leave", "a").await.unwrap_err();
    assert_eq!(scene.call(EVENTS, "Get", "a").await.unwrap(), 1);
}

#[tokio::test]
async fn a_large_state_is_kept_and_comes_back() {
    let scene = Scene::start_with(|_config| {}).await;
    for service in [EVENTS, VALUES] {
        assert_eq!(scene.call(service, "Large", "a").await.unwrap(), 1);
        scene.call(service, "Leave", "a").await.unwrap_err();
        assert_eq!(scene.call(service, "Add", "a").await.unwrap(), 2, "{service}");
    }
}

#[tokio::test]
async fn a_restart_begins_with_what_is_stored() {
    let scene = Scene::start().await;
    for service in [EVENTS, VALUES] {
        assert_eq!(scene.call(service, "Add", "a").await.unwrap(), 1);
        let status = scene.call(service, "Regret", "a").await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unknown, "regret"));
        // Without another command.
        eventually("it is activated again", async || scene.rogue.activations(service, "a") == 2)
            .await;
        assert_eq!(scene.call(service, "Add", "a").await.unwrap(), 2, "{service}");
    }
}

#[tokio::test]
async fn headers_may_come_with_the_first_answer() {
    let scene = Scene::start().await;
    for service in [EVENTS, VALUES] {
        assert_eq!(scene.call(service, "Add", "late").await.unwrap(), 1);
        assert_eq!(scene.call(service, "Add", "late").await.unwrap(), 2);
        assert_eq!(scene.rogue.activations(service, "late"), 1);
    }
}

#[tokio::test]
async fn who_answers_before_being_asked_is_not_trusted() {
    let scene = Scene::start().await;
    for (service, texts) in [
        (EVENTS, ["Unexpected entity reply", "Entity terminated"]),
        (VALUES, ["Unexpected Value entity reply", "Value entity terminated"]),
    ] {
        let status = scene.call(service, "Add", "eager").await;
        // Its answer and the command may cross.
        if let Err(status) = status {
            assert_eq!(status.code(), Code::Unknown, "{status:?}");
            assert!(texts.contains(&status.message()), "{status:?}");
        }
        scene.told(&format!("{service} \"eager\": {}", texts[0])).await;
        assert_eq!(scene.call(service, "Add", "another").await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_stream_that_is_refused_is_told_to_the_caller_without_its_reason() {
    let scene = Scene::start().await;
    for (service, text) in
        [(EVENTS, "Unexpected entity termination"), (VALUES, "Unexpected Value entity termination")]
    {
        let status = scene.call(service, "Add", "refused").await.unwrap_err();
        // Unavailable when the command was not on its way yet, at either of two attempts.
        assert!(matches!(status.code(), Code::Unavailable | Code::Unknown), "{status:?}");
        assert_eq!(status.message(), text);
        assert!(scene.rogue.activations(service, "refused") <= 2);
        assert_eq!(scene.call(service, "Add", "another").await.unwrap(), 1);
    }
}

#[tokio::test]
async fn commands_behind_one_that_is_never_answered_go_to_the_next_activation() {
    let scene = Scene::start().await;
    for service in [EVENTS, VALUES] {
        let stuck = tokio::spawn(call(scene.channel.clone(), service, "Never", "a"));
        eventually("the entity is active", async || scene.rogue.activations(service, "a") == 1)
            .await;
        let behind = ["Add", "Add", "Get"]
            .map(|method| tokio::spawn(call(scene.channel.clone(), service, method, "a")));
        let status = stuck.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        for waiting in behind {
            assert!(waiting.await.unwrap().is_ok());
        }
        assert_eq!(scene.call(service, "Get", "a").await.unwrap(), 2);
        assert_eq!(scene.rogue.activations(service, "a"), 2);
    }
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_a_caller_that_leaves_makes_room() {
    const QUEUE: usize = 4;
    let scene = Scene::start_with(|config| config.entities.queue = QUEUE).await;
    let mut waiting: Vec<_> = (0..=QUEUE)
        .map(|_| tokio::spawn(call(scene.channel.clone(), EVENTS, "Never", "a")))
        .collect();
    eventually("one is refused", async || waiting.iter().any(tokio::task::JoinHandle::is_finished))
        .await;
    let refused = waiting.iter().position(tokio::task::JoinHandle::is_finished).unwrap();
    let status = waiting.swap_remove(refused).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("4 commands wait for this entity"), "{status:?}");

    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    eventually("there is room again", async || {
        let call = call(scene.channel.clone(), EVENTS, "Never", "a");
        time::timeout(Duration::from_millis(200), call).await.is_err()
    })
    .await;
    assert_eq!(scene.call(EVENTS, "Add", "another").await.unwrap(), 1);
}
