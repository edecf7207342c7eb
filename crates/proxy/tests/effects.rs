//! Side effects and forwards, from entities and from actions.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use support::{
    Stand, call, call_desk,
    counter::{Item, item},
    desk::{Step, order, say, to},
    eventually,
};
use tonic::{Code, Request, Status};

const ADD: &str = "counter.Counter/Add";
const GET: &str = "counter.Counter/Get";
const DO: &str = "counter.Counter/Do";

fn doing(id: &str, amount: i64, steps: impl IntoIterator<Item = Step>) -> Item {
    Item { steps: steps.into_iter().collect(), ..item(id, amount) }
}

async fn ask(stand: &Stand, steps: impl IntoIterator<Item = Step>) -> Result<i64, Status> {
    let reply = call_desk(stand.channel().await, "Ask", Request::new(order(steps))).await?;
    Ok(reply.into_inner().value)
}

#[tokio::test]
async fn synchronous_effects_are_over_in_their_order_before_the_reply() {
    let stand = Stand::start().await;
    let steps = [
        to("effect", ADD, item("a", 1)),
        // An effect of an effect is waited for too.
        to("effect", DO, doing("b", 1, [to("effect", ADD, item("c", 1))])),
        to("effect", ADD, item("a", 1)),
        say("reply", "7"),
    ];
    assert_eq!(ask(&stand, steps).await.unwrap(), 7);
    let seen = stand.counter.seen();
    let commands: Vec<_> = seen.iter().filter(|what| what.starts_with("command")).collect();
    assert_eq!(commands, ["command 1 Add", "command 1 Do", "command 1 Add", "command 2 Add"]);
    assert_eq!(stand.value("Get", item("a", 0)).await, 2);
    assert_eq!(stand.value("Get", item("c", 0)).await, 1);
}

#[tokio::test]
async fn an_effect_that_is_not_synchronous_is_not_waited_for() {
    let stand = Stand::start().await;
    let steps = [to("send", "counter.Counter/Wait", item("a", 0)), say("reply", "7")];
    assert_eq!(ask(&stand, steps).await.unwrap(), 7);
    let seen = || stand.counter.seen().iter().any(|what| what == "command 1 Wait");
    eventually("the effect is at its target", async || seen()).await;
    stand.counter.go();
}

#[tokio::test]
async fn a_failed_effect_does_not_fail_the_command() {
    let stand = Stand::start().await;
    let refuse = Item { text: "no".to_owned(), ..item("a", 0) };
    let steps = [
        to("effect", "counter.Counter/Refuse", refuse),
        to("effect", "counter.Counter/Fail", item("a", 0)),
        to("effect", ADD, item("", 1)),
        to("effect", "counter.Nobody/Add", item("a", 1)),
        to("effect", ADD, item("a", 3)),
        say("reply", "7"),
    ];
    assert_eq!(ask(&stand, steps).await.unwrap(), 7);
    assert_eq!(stand.value("Get", item("a", 0)).await, 3);
    eventually("it is reported", async || {
        let reports = stand.counter.reports();
        let told = |parts: [&str; 2]| {
            reports.iter().any(|report| parts.iter().all(|part| report.contains(part)))
        };
        told(["counter.Nobody.Add is not a method", "side-effect of counter.Desk.Ask"])
            && told(["counter.Counter.Add", "the entity key is empty"])
    })
    .await;
}

#[tokio::test]
async fn effects_of_a_failure_are_carried_out() {
    let stand = Stand::start().await;
    let steps = [to("effect", ADD, item("a", 2)), say("fail", "no")];
    let status = ask(&stand, steps).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "no"));
    assert_eq!(stand.value("Get", item("a", 0)).await, 2);
}

#[tokio::test]
async fn an_entity_may_command_itself() {
    let stand = Stand::start().await;
    let steps = [to("effect", ADD, item("a", 1)), to("forward", ADD, item("a", 10))];
    assert_eq!(stand.value("Do", doing("a", 100, steps)).await, 111);
}

#[tokio::test]
async fn a_forward_answers_with_what_the_target_says_and_its_metadata_only() {
    let stand = Stand::start().await;
    stand.value("Add", item("a", 5)).await;
    let forward =
        Step { text: "own".to_owned(), ..to("forward", "counter.Counter/Echo", item("a", 0)) };
    let mut request = Request::new(order([forward]));
    request.metadata_mut().insert("x-caller", "me".parse().unwrap());
    let reply = call_desk(stand.channel().await, "Ask", request).await.unwrap();
    let metadata = reply.metadata();
    assert_eq!(metadata.get_all("x-step").iter().collect::<Vec<_>>(), ["own"]);
    assert!(metadata.get("x-caller").is_none(), "{metadata:?}");
    assert_eq!(reply.into_inner().value, 5);

    // The same into an action: once, too.
    let forward = Step { text: "own".to_owned(), ..to("forward", "counter.Desk/Ask", item("", 0)) };
    let status = ask(&stand, [forward]).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Internal, "the user function sent no reply")
    );
    let seen = stand.counter.seen();
    assert!(seen.last().unwrap().ends_with("[\"x-step\"]"), "{seen:?}");
}

#[tokio::test]
async fn a_forward_to_nowhere_is_internal_and_reported_with_its_way() {
    let stand = Stand::start().await;
    let steps = [to("forward", "counter.Counter/Nothing", item("a", 0))];
    let status = stand.call("Do", doing("a", 1, steps.clone())).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    assert!(!status.message().contains("counter."), "{status:?}");
    let through = [to("effect", DO, doing("b", 0, steps)), say("reply", "1")];
    ask(&stand, through).await.unwrap();
    eventually("both are reported", async || {
        let reports = stand.counter.reports();
        let way = "counter.Counter.Nothing is not a method of this user function, which serves \
                   counter.Counter, counter.Desk: forwarded from counter.Counter.Do";
        reports.iter().any(|report| report == way)
            && reports.contains(&format!("{way}, side-effect of counter.Desk.Ask"))
    })
    .await;
}

#[tokio::test]
async fn a_forward_to_a_stream_is_internal_where_one_reply_is_expected() {
    let stand = Stand::start().await;
    for method in ["counter.Desk/Spread", "counter.Desk/Chat"] {
        let status = ask(&stand, [to("forward", method, item("a", 0))]).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{status:?}");
    }
    eventually("it is reported", async || {
        let told = "counter.Desk.Chat streams its replies where one is expected: forwarded from \
                    counter.Desk.Ask";
        stand.counter.reports().iter().any(|report| report == told)
    })
    .await;
}

#[tokio::test]
async fn a_loop_of_forwards_ends() {
    let stand = Stand::start().await;
    let status = ask(&stand, [say("loop", "")]).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    eventually("it is reported", async || {
        let reports = stand.counter.reports();
        reports.iter().any(|report| report.contains("after 64 steps, which is the limit"))
    })
    .await;
    let asked = stand.counter.seen().iter().filter(|what| what.starts_with("unary")).count();
    assert_eq!(asked, 65);
}

#[tokio::test]
async fn effects_and_forwards_are_carried_out_although_the_caller_has_left() {
    let stand = Stand::start().await;
    let steps = [
        to("effect", "counter.Counter/Wait", item("gate", 0)),
        to("effect", ADD, item("b", 1)),
        to("forward", ADD, item("c", 1)),
    ];
    let channel = stand.channel().await;
    let caller = tokio::spawn(call(channel, "Do", Request::new(doing("a", 1, steps))));
    let seen = || stand.counter.seen().iter().any(|what| what == "command 1 Wait");
    eventually("the first effect is under way", async || seen()).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    stand.counter.go();
    eventually("the others are done", async || {
        stand.value("Get", item("b", 0)).await == 1 && stand.value("Get", item("c", 0)).await == 1
    })
    .await;
}

#[tokio::test]
async fn a_reply_of_another_type_is_delivered_and_reported() {
    let stand = Stand::start().await;
    assert_eq!(ask(&stand, [say("mistype", "3")]).await.unwrap(), 3);
    eventually("it is reported", async || {
        let told = "Warning: counter.Desk.Ask replied with \"type.googleapis.com/odd.Type\" where its \
                    output is \"type.googleapis.com/counter.Total\"";
        stand.counter.reports().iter().any(|report| report == told)
    })
    .await;
}

#[tokio::test]
async fn a_stop_waits_for_effects() {
    let mut stand = Stand::start().await;
    let steps = [to("send", "counter.Counter/Wait", item("a", 0)), say("reply", "7")];
    assert_eq!(ask(&stand, steps).await.unwrap(), 7);
    let seen = || stand.counter.seen().iter().any(|what| what == "command 1 Wait");
    eventually("the effect is at its target", async || seen()).await;
    stand.stop.cancel();
    eventually("readiness is gone", async || stand.get("/ready").await.contains("Draining")).await;
    assert!(!stand.proxy.is_finished());
    stand.counter.go();
    tokio::time::timeout(support::PATIENCE, &mut stand.proxy).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn effects_of_what_an_entity_says_while_the_proxy_leaves_are_over_before_it_is_gone() {
    let mut stand = Stand::start().await;
    let wait = doing("a", 0, [to("send", "counter.Desk/Ask", item("", 0))]);
    let caller = tokio::spawn(call(stand.channel().await, "Wait", Request::new(wait)));
    let seen = |what: &str| stand.counter.seen().iter().any(|seen| seen.starts_with(what));
    eventually("the command is at its target", async || seen("command 1 Wait")).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    stand.stop.cancel();
    eventually("readiness is gone", async || stand.get("/ready").await.contains("Draining")).await;
    stand.counter.go();
    tokio::time::timeout(support::PATIENCE, &mut stand.proxy).await.unwrap().unwrap().unwrap();
    assert!(seen("unary"), "{:?}", stand.counter.seen());
}

#[tokio::test]
async fn a_reply_to_an_effect_may_be_read_at_once() {
    let stand = Stand::start().await;
    let steps = [to("effect", ADD, item("a", 4)), to("forward", GET, item("a", 0))];
    assert_eq!(ask(&stand, steps).await.unwrap(), 4);
}
