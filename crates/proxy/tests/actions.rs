//! Actions in all four shapes, from outside.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use std::time::Duration;

use futures::{Stream, stream};
use prost::Message as _;
use support::{
    PATIENCE, Stand, call_desk,
    counter::{Total, item},
    desk::{Order, Step, order, say, to},
    eventually,
    raw::{Raw, framed},
    stream_desk,
};
use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

/// Replies with a number.
fn reply(number: &str) -> Step {
    say("reply", number)
}

async fn ask(stand: &Stand, steps: impl IntoIterator<Item = Step>) -> Result<i64, Status> {
    let reply = call_desk(stand.channel().await, "Ask", Request::new(order(steps))).await?;
    Ok(reply.into_inner().value)
}

async fn gather(
    channel: Channel,
    orders: impl Stream<Item = Order> + Send + 'static,
) -> Result<Response<Total>, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = "/counter.Desk/Gather".parse().unwrap();
    let codec = ProstCodec::<Order, Total>::default();
    let call = grpc.client_streaming(Request::new(orders), path, codec);
    time::timeout(PATIENCE, call).await.expect("no answer at all")
}

async fn spread(stand: &Stand, steps: impl IntoIterator<Item = Step>) -> Result<Replies, Status> {
    let request = Request::new(stream::iter([order(steps)]));
    Ok(Replies(stream_desk(stand.channel().await, "Spread", request).await?.into_inner()))
}

/// A chat, and the way to say something.
async fn chat(stand: &Stand) -> (mpsc::Sender<Order>, Replies) {
    let (talk, said) = mpsc::channel(4);
    // Headers wait for the first reply.
    talk.send(order([reply("0")])).await.unwrap();
    let request = Request::new(ReceiverStream::new(said));
    let replies = stream_desk(stand.channel().await, "Chat", request).await.unwrap();
    let mut replies = Replies(replies.into_inner());
    assert_eq!(replies.next().await, Ok(Some(0)));
    (talk, replies)
}

struct Replies(Streaming<Total>);

impl Replies {
    /// The next one, or how it ended.
    async fn next(&mut self) -> Result<Option<i64>, (Code, String)> {
        let next = time::timeout(PATIENCE, self.0.message()).await.expect("no reply at all");
        let status = |status: Status| (status.code(), status.message().to_owned());
        Ok(next.map_err(status)?.map(|total| total.value))
    }

    async fn all(mut self) -> (Vec<i64>, Result<(), (Code, String)>) {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Ok(Some(value)) => all.push(value),
                Ok(None) => return (all, Ok(())),
                Err(end) => return (all, Err(end)),
            }
        }
    }
}

async fn until_seen(stand: &Stand, what: &str) {
    let seen = || stand.counter.seen().iter().any(|seen| seen == what);
    eventually(what, async || seen()).await;
}

const ORDER: &str = "type.googleapis.com/counter.Order";

#[tokio::test]
async fn a_unary_call_is_one_command_with_metadata_and_the_time_that_is_left() {
    let stand = Stand::start().await;
    let mut request = Request::new(order([reply("5")]));
    request.metadata_mut().insert("x-caller", "me".parse().unwrap());
    let answer = call_desk(stand.channel().await, "Ask", request).await.unwrap();
    assert_eq!(answer.metadata().get("x-desk").unwrap(), "5");
    assert_eq!(answer.into_inner().value, 5);
    let seen = format!("unary (timeout true) \"Ask\" {ORDER} [\"x-caller\"]");
    assert_eq!(stand.counter.seen(), [seen]);
}

#[tokio::test]
async fn a_call_without_a_reply_is_internal_and_effects_are_carried_out() {
    let stand = Stand::start().await;
    let add = to("effect", "counter.Counter/Add", item("a", 1));
    for steps in [vec![], vec![say("nothing", "")], vec![add]] {
        let status = ask(&stand, steps).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{status:?}");
    }
    assert_eq!(stand.value("Get", item("a", 0)).await, 1);
}

#[tokio::test]
async fn streamed_messages_follow_a_leading_one_that_goes_out_at_once() {
    let stand = Stand::start().await;
    let (talk, said) = mpsc::channel(4);
    let call = tokio::spawn(gather(stand.channel().await, ReceiverStream::new(said)));
    until_seen(&stand, "leading \"Gather\" none []").await;
    talk.send(order([reply("1")])).await.unwrap();
    talk.send(order([reply("2")])).await.unwrap();
    drop(talk);
    assert_eq!(call.await.unwrap().unwrap().into_inner().value, 2);
    let message = format!("message \"\" {ORDER} []");
    assert_eq!(stand.counter.seen()[1..], [message.clone(), message, "no more".to_owned()]);
}

#[tokio::test]
async fn an_empty_stream_is_a_leading_message_and_an_end() {
    let stand = Stand::start().await;
    let status = gather(stand.channel().await, stream::iter([])).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    assert_eq!(stand.counter.seen(), ["leading \"Gather\" none []", "no more"]);
}

#[tokio::test]
async fn an_early_reply_is_delivered_while_the_caller_still_speaks() {
    let stand = Stand::start().await;
    let (talk, said) = mpsc::channel(4);
    talk.send(order([reply("3"), say("early", "")])).await.unwrap();
    let reply = gather(stand.channel().await, ReceiverStream::new(said)).await.unwrap();
    assert_eq!(reply.into_inner().value, 3);
    eventually("the caller's stream is closed", async || {
        talk.is_closed() || talk.try_send(order([])).is_err()
    })
    .await;
}

#[tokio::test]
async fn replies_stream_in_their_order_each_after_its_effects() {
    let stand = Stand::start().await;
    let wait = to("effect", "counter.Counter/Wait", item("gate", 0));
    let add = to("effect", "counter.Counter/Add", item("a", 1));
    let steps = [reply("1"), say("nothing", ""), wait, reply("2"), add, reply("3")];
    let mut replies = spread(&stand, steps).await.unwrap();
    assert_eq!(replies.next().await, Ok(Some(1)));
    until_seen(&stand, "command 1 Wait").await;
    // The effect of the third answer waits for that of the second.
    assert_eq!(stand.value("Get", item("a", 0)).await, 0);
    stand.counter.go();
    assert_eq!(replies.all().await, (vec![2, 3], Ok(())));
    assert_eq!(stand.value("Get", item("a", 0)).await, 1);
}

#[tokio::test]
async fn both_sides_of_a_chat_go_on_until_the_caller_ends() {
    let stand = Stand::start().await;
    let (talk, mut replies) = chat(&stand).await;
    for number in ["1", "2"] {
        talk.send(order([reply(number)])).await.unwrap();
        assert_eq!(replies.next().await, Ok(Some(number.parse().unwrap())));
    }
    talk.send(order([reply("3"), reply("4")])).await.unwrap();
    drop(talk);
    assert_eq!(replies.all().await, (vec![3, 4], Ok(())));
}

#[tokio::test]
async fn a_failure_in_a_stream_ends_it_and_cancels_the_user_functions_side() {
    let stand = Stand::start().await;
    let steps = [reply("1"), say("fail", "no: «ä»"), say("hang", "")];
    let end = Err((Code::Unknown, "no: «ä»".to_owned()));
    assert_eq!(spread(&stand, steps).await.unwrap().all().await, (vec![1], end.clone()));
    until_seen(&stand, "cancelled").await;

    let stand = Stand::start().await;
    let (talk, replies) = chat(&stand).await;
    talk.send(order([say("fail", "no: «ä»")])).await.unwrap();
    assert_eq!(replies.all().await, (vec![], end));
    // Not ended, which would be another word for "the caller is through".
    until_seen(&stand, "cancelled").await;
    assert!(!stand.counter.seen().contains(&"no more".to_owned()));
}

#[tokio::test]
async fn a_forward_in_a_stream_puts_the_targets_replies_in_place() {
    let stand = Stand::start().await;
    stand.value("Add", item("a", 20)).await;
    let entity = to("forward", "counter.Counter/Get", item("a", 0));
    let stream = Step {
        order: Some(order([reply("30"), reply("31")])),
        ..to("forward", "counter.Desk/Spread", item("", 0))
    };
    let steps = [reply("1"), entity, stream, reply("4")];
    let replies = spread(&stand, steps).await.unwrap().all().await;
    assert_eq!(replies, (vec![1, 20, 30, 31, 4], Ok(())));

    let steps = [reply("1"), to("forward", "counter.Desk/Nothing", item("", 0))];
    let (replies, end) = spread(&stand, steps).await.unwrap().all().await;
    assert_eq!((replies, end.unwrap_err().0), (vec![1], Code::Internal));
}

#[tokio::test]
async fn a_status_of_the_user_function_reaches_the_caller_as_it_is() {
    let stand = Stand::start().await;
    let failed = (Code::FailedPrecondition, "not «now»".to_owned());
    let status = ask(&stand, [say("status", "not «now»")]).await.unwrap_err();
    assert_eq!((status.code(), status.message().to_owned()), failed);
    let status = spread(&stand, [say("status", "not «now»")]).await.map(drop).unwrap_err();
    assert_eq!((status.code(), status.message().to_owned()), failed);
    let replies = spread(&stand, [reply("1"), say("status", "not «now»")]).await.unwrap();
    assert_eq!(replies.all().await, (vec![1], Err(failed)));
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_the_call_at_the_user_function() {
    for method in ["Ask", "Spread", "Chat", "Gather"] {
        let stand = Stand::start().await;
        let raw = Raw::connect(&stand).await;
        let path = format!("/counter.Desk/{method}");
        let (_response, mut send) = raw.begin(&path, &[]).await.unwrap();
        let steps = if method == "Gather" { vec![] } else { vec![say("hang", "")] };
        let one_message = matches!(method, "Ask" | "Spread");
        send.send_data(framed(&order(steps).encode_to_vec()), one_message).unwrap();
        eventually("the message is at the user function", async || {
            stand.counter.seen().iter().any(|seen| seen.contains(ORDER))
        })
        .await;
        send.send_reset(h2::Reason::CANCEL);
        until_seen(&stand, "cancelled").await;
        assert!(!stand.counter.seen().contains(&"no more".to_owned()), "{method}");
    }
}

#[tokio::test]
async fn the_time_for_a_command_binds_unary_calls_only() {
    let stand = Stand::start_with(|config| config.edge.call = Duration::from_millis(100)).await;
    let (talk, mut replies) = chat(&stand).await;
    let status = ask(&stand, [say("hang", "")]).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    until_seen(&stand, "cancelled").await;
    talk.send(order([reply("1")])).await.unwrap();
    assert_eq!(replies.next().await, Ok(Some(1)));
}

#[tokio::test]
async fn a_deadline_ends_a_stream_on_both_sides() {
    let stand = Stand::start().await;
    let mut request = Request::new(stream::iter([order([reply("1"), say("hang", "")])]));
    request.set_timeout(Duration::from_secs(2));
    let replies = stream_desk(stand.channel().await, "Spread", request).await.unwrap();
    let (replies, end) = Replies(replies.into_inner()).all().await;
    assert_eq!((replies, end.unwrap_err().0), (vec![1], Code::DeadlineExceeded));
    until_seen(&stand, "cancelled").await;
}

#[tokio::test]
async fn metadata_of_the_first_reply_are_headers_and_of_later_ones_trailers() {
    let stand = Stand::start().await;
    let request = Request::new(stream::iter([order([reply("1"), reply("2"), reply("3")])]));
    let replies = stream_desk(stand.channel().await, "Spread", request).await.unwrap();
    assert_eq!(replies.metadata().get_all("x-desk").iter().collect::<Vec<_>>(), ["1"]);
    let mut replies = replies.into_inner();
    while replies.message().await.unwrap().is_some() {}
    let trailers = replies.trailers().await.unwrap().unwrap();
    assert_eq!(trailers.get_all("x-desk").iter().collect::<Vec<_>>(), ["2", "3"]);
}

#[tokio::test]
async fn a_stream_without_replies_has_headers_all_the_same() {
    let stand = Stand::start().await;
    // Comes back with headers, though there is no reply.
    let mut replies = spread(&stand, [say("hang", "")]).await.unwrap();
    let next = futures::poll!(std::pin::pin!(replies.next()));
    assert!(next.is_pending(), "{next:?}");
    let (replies, end) = spread(&stand, [say("end", "")]).await.unwrap().all().await;
    assert_eq!((replies, end), (vec![], Ok(())));
}

#[tokio::test]
async fn a_user_function_that_is_away_is_unavailable() {
    let stand = Stand::start().await;
    ask(&stand, [reply("1")]).await.unwrap();
    stand.counter.kill();
    eventually("calls are refused", async || {
        let outcome = ask(&stand, [reply("1")]).await;
        outcome.is_err_and(|status| {
            status.code() == Code::Unavailable
                && status.message() == "the user function cannot be reached"
        })
    })
    .await;
    let status = spread(&stand, [reply("1")]).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test]
async fn a_stop_ends_streams_that_go_on_and_serves_those_that_end() {
    let mut stand = Stand::start_with(|config| config.drain = Duration::from_secs(5).into()).await;
    let (talk, mut replies) = chat(&stand).await;
    let (_talk, other) = chat(&stand).await;
    stand.stop.cancel();
    eventually("readiness is gone", async || stand.get("/ready").await.contains("Draining")).await;
    talk.send(order([reply("1")])).await.unwrap();
    assert_eq!(replies.next().await, Ok(Some(1)));
    drop(talk);
    assert_eq!(replies.next().await, Ok(None));
    let (_, end) = other.all().await;
    assert_eq!(end, Err((Code::Unavailable, "the proxy is about to leave".to_owned())));
    time::timeout(PATIENCE, &mut stand.proxy).await.unwrap().unwrap().unwrap();
}
