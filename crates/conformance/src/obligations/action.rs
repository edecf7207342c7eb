//! Actions.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context as _, Result, bail, ensure};
use protocol::cloudstate::metadata_entry::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming, transport::Channel};

use crate::{
    caller::{Call as _, answers, fails, is, outcome},
    models::action::{self as model, action_tck_model_client::ActionTckModelClient},
    obligations,
    say::{
        self,
        action::{
            call, command, command_with, effect, fail, failed, following, forward, forwarded,
            leading, nothing, replied, replied_with, reply, request,
        },
    },
    suite::{Obligation, Test},
    wire::{
        Item::{self, FunctionDone, ProxyDone, ProxyGone},
        PATIENCE, Rpc, Taken,
    },
};

pub const ALL: &[Obligation] = obligations![
    "action":
    a_unary_call_is_answered,
    a_unary_call_may_fail,
    a_unary_call_may_be_forwarded,
    a_unary_call_has_its_synchronous_effects_done,
    a_unary_call_has_its_asynchronous_effects,
    a_failed_call_has_its_effects,
    a_call_without_a_response_is_an_error,
    metadata_comes_with_the_command_and_goes_back_with_the_reply,
    a_streamed_in_call_begins_at_once,
    a_streamed_in_call_gets_every_message,
    a_streamed_in_call_may_fail,
    a_streamed_in_call_may_be_forwarded,
    a_streamed_in_call_has_its_effects,
    a_streamed_out_call_has_every_response,
    a_streamed_out_call_may_be_empty,
    a_streamed_out_call_may_fail_after_responses,
    a_streamed_out_call_has_forwards_in_place,
    a_streamed_out_call_has_effects_between_responses,
    a_streamed_call_answers_while_messages_come,
    a_streamed_call_ends_when_the_caller_ends,
    a_failure_ends_a_streamed_call,
    a_caller_that_leaves_ends_a_streamed_call,
    a_streamed_call_has_forwards_and_effects,
];

const UNARY: &str = "ProcessUnary";
const IN: &str = "ProcessStreamedIn";
const OUT: &str = "ProcessStreamedOut";
const BOTH: &str = "ProcessStreamed";

/// A call of the second service, from beginning to end.
fn second(id: &str) -> [Item; 2] {
    [call(id), replied("").into()]
}

async fn a_unary_call_is_answered(t: Test) -> Result<()> {
    let request = request([vec![reply("one")]]);
    answers(&t.channel, request.clone(), "one").await?;
    let call = t.wire.take(Rpc::ActionUnary).await?;
    call.expect([command(UNARY, &request), replied("one").into()]).await?;
    Ok(())
}

async fn a_unary_call_may_fail(t: Test) -> Result<()> {
    let text = "no: 100 % wrong, \u{00e4}\u{00f6}\u{00fc}";
    let request = request([vec![fail(text)]]);
    fails(&t.channel, request.clone(), text).await?;
    let call = t.wire.take(Rpc::ActionUnary).await?;
    call.expect([command(UNARY, &request), failed(text).into()]).await?;
    Ok(())
}

async fn a_unary_call_may_be_forwarded(t: Test) -> Result<()> {
    let request = request([vec![forward(&t.id)]]);
    answers(&t.channel, request.clone(), "").await?;
    let call = t.wire.take(Rpc::ActionUnary).await?;
    call.expect([command(UNARY, &request), forwarded(&t.id).into()]).await?;
    t.wire.take(Rpc::ActionUnary).await?.expect(second(&t.id)).await?;
    Ok(())
}

async fn a_unary_call_has_its_synchronous_effects_done(t: Test) -> Result<()> {
    let ids = ["a", "b"].map(|suffix| t.other(suffix));
    let request = request([vec![reply("one"), effect(&ids[0], true), effect(&ids[1], true)]]);
    answers(&t.channel, request.clone(), "one").await?;
    let first = t.wire.take(Rpc::ActionUnary).await?;
    let answer = replied("one").effect(&ids[0], true).effect(&ids[1], true);
    first.expect([command(UNARY, &request), answer.into()]).await?;
    // The caller has its answer, so all of this is on the wire already, one after the other.
    for id in &ids {
        t.wire.take(Rpc::ActionUnary).await?.expect_now(second(id))?;
    }
    Ok(())
}

async fn a_unary_call_has_its_asynchronous_effects(t: Test) -> Result<()> {
    let request = request([vec![reply("one"), effect(&t.id, false)]]);
    answers(&t.channel, request.clone(), "one").await?;
    let first = t.wire.take(Rpc::ActionUnary).await?;
    let answer = replied("one").effect(&t.id, false);
    first.expect([command(UNARY, &request), answer.into()]).await?;
    t.wire.take(Rpc::ActionUnary).await?.expect(second(&t.id)).await?;
    Ok(())
}

async fn a_failed_call_has_its_effects(t: Test) -> Result<()> {
    let request = request([vec![effect(&t.id, true), fail("no")]]);
    fails(&t.channel, request.clone(), "no").await?;
    let first = t.wire.take(Rpc::ActionUnary).await?;
    first.expect([command(UNARY, &request), failed("no").effect(&t.id, true).into()]).await?;
    t.wire.take(Rpc::ActionUnary).await?.expect_now(second(&t.id))?;
    Ok(())
}

async fn a_call_without_a_response_is_an_error(t: Test) -> Result<()> {
    let request = request([vec![effect(&t.id, true)]]);
    match outcome(request.clone().call(t.channel.clone())).await? {
        Ok(response) => bail!("the caller got {response:?} from nothing"),
        Err(status) => is(&status, Code::Internal, status.message())?,
    }
    let first = t.wire.take(Rpc::ActionUnary).await?;
    first.expect([command(UNARY, &request), nothing().effect(&t.id, true).into()]).await?;
    t.wire.take(Rpc::ActionUnary).await?.expect_now(second(&t.id))?;
    Ok(())
}

async fn metadata_comes_with_the_command_and_goes_back_with_the_reply(t: Test) -> Result<()> {
    // The models send back what they get.
    let request = request([vec![reply("one")]]);
    let mut call = Request::new(request.clone());
    call.metadata_mut().insert("x-conformance", "yes".parse()?);
    let response = outcome(call.call(t.channel.clone())).await??;
    let header = response.metadata().get("x-conformance").map(|value| value.to_str());
    ensure!(header.transpose()? == Some("yes"), "headers: {:?}", response.metadata());
    let metadata = Some(say::metadata("x-conformance", Value::StringValue("yes".to_owned())));
    let call = t.wire.take(Rpc::ActionUnary).await?;
    call.expect([command_with(UNARY, &request, metadata.clone())]).await?;
    call.expect([replied_with("one", metadata).into()]).await?;
    Ok(())
}

fn client(t: &Test) -> ActionTckModelClient<Channel> {
    ActionTckModelClient::new(t.channel.clone())
}

/// Calls with these messages.
async fn streamed_in<const N: usize>(
    t: &Test,
    requests: [model::Request; N],
) -> Result<Result<Response<model::Response>, Status>> {
    let mut client = client(t);
    outcome(client.process_streamed_in(tokio_stream::iter(requests))).await
}

async fn a_streamed_in_call_begins_at_once(t: Test) -> Result<()> {
    let (sender, receiver) = mpsc::channel(1);
    let mut client = client(&t);
    let calling = outcome(client.process_streamed_in(ReceiverStream::new(receiver)));
    let message = request([vec![reply("one")]]);
    let looking = async {
        let call = t.wire.take(Rpc::ActionStreamedIn).await?;
        call.expect([leading(IN)]).await?;
        // Only now does the caller say something.
        sender.send(message.clone()).await?;
        drop(sender);
        call.expect([following(&message), ProxyDone, replied("one").into()]).await
    };
    let (answer, seen) = tokio::join!(calling, looking);
    seen?;
    let response = answer??.into_inner();
    ensure!(response.message == "one", "the caller got {response:?}");
    Ok(())
}

async fn a_streamed_in_call_gets_every_message(t: Test) -> Result<()> {
    let requests = ["one", "two", "three"].map(|text| request([vec![reply(text)]]));
    let response = streamed_in(&t, requests.clone()).await??.into_inner();
    ensure!(response.message == "three", "the caller got {response:?}");
    let call = t.wire.take(Rpc::ActionStreamedIn).await?;
    call.expect([leading(IN)]).await?;
    call.expect(requests.iter().map(following)).await?;
    call.expect([ProxyDone, replied("three").into()]).await?;
    Ok(())
}

async fn a_streamed_in_call_may_fail(t: Test) -> Result<()> {
    let requests = [request([vec![reply("one")]]), request([vec![fail("no")]])];
    match streamed_in(&t, requests.clone()).await? {
        Ok(response) => bail!("the caller got {response:?} instead of a failure"),
        Err(status) => is(&status, Code::Unknown, "no")?,
    }
    let call = t.wire.take(Rpc::ActionStreamedIn).await?;
    call.expect([leading(IN)]).await?;
    call.expect(requests.iter().map(following)).await?;
    call.expect([ProxyDone, failed("no").into()]).await?;
    Ok(())
}

async fn a_streamed_in_call_may_be_forwarded(t: Test) -> Result<()> {
    let requests = [request([vec![reply("one")]]), request([vec![forward(&t.id)]])];
    let response = streamed_in(&t, requests.clone()).await??.into_inner();
    ensure!(response.message.is_empty(), "the caller got {response:?}");
    let call = t.wire.take(Rpc::ActionStreamedIn).await?;
    call.expect([leading(IN)]).await?;
    call.expect(requests.iter().map(following)).await?;
    call.expect([ProxyDone, forwarded(&t.id).into()]).await?;
    t.wire.take(Rpc::ActionUnary).await?.expect(second(&t.id)).await?;
    Ok(())
}

async fn a_streamed_in_call_has_its_effects(t: Test) -> Result<()> {
    let (a, b) = (t.other("a"), t.other("b"));
    let requests =
        [request([vec![effect(&a, true)]]), request([vec![effect(&b, true), reply("one")]])];
    let response = streamed_in(&t, requests.clone()).await??.into_inner();
    ensure!(response.message == "one", "the caller got {response:?}");
    let call = t.wire.take(Rpc::ActionStreamedIn).await?;
    call.expect([leading(IN)]).await?;
    call.expect(requests.iter().map(following)).await?;
    call.expect([ProxyDone, replied("one").effect(&a, true).effect(&b, true).into()]).await?;
    for id in [&a, &b] {
        t.wire.take(Rpc::ActionUnary).await?.expect_now(second(id))?;
    }
    Ok(())
}

/// Calls and reads all responses, and how it ended.
async fn streamed_out(t: &Test, request: &model::Request) -> Result<(Vec<String>, Option<Status>)> {
    let mut client = client(t);
    match outcome(client.process_streamed_out(request.clone())).await? {
        Ok(responses) => read(&mut responses.into_inner()).await,
        Err(status) => Ok((Vec::new(), Some(status))),
    }
}

/// Reads to the end.
async fn read(responses: &mut Streaming<model::Response>) -> Result<(Vec<String>, Option<Status>)> {
    let mut texts = Vec::new();
    loop {
        match outcome(responses.message()).await? {
            Ok(Some(response)) => texts.push(response.message),
            Ok(None) => return Ok((texts, None)),
            Err(status) => return Ok((texts, Some(status))),
        }
    }
}

async fn a_streamed_out_call_has_every_response(t: Test) -> Result<()> {
    let request = request(["one", "two", "three"].map(|text| vec![reply(text)]));
    let (texts, status) = streamed_out(&t, &request).await?;
    ensure!(texts == ["one", "two", "three"] && status.is_none(), "{texts:?} {status:?}");
    let call = t.wire.take(Rpc::ActionStreamedOut).await?;
    call.expect([command(OUT, &request)]).await?;
    call.expect(["one", "two", "three"].map(|text| replied(text).into())).await?;
    call.expect([FunctionDone(Code::Ok)]).await?;
    Ok(())
}

async fn a_streamed_out_call_may_be_empty(t: Test) -> Result<()> {
    let request = request([]);
    let (texts, status) = streamed_out(&t, &request).await?;
    ensure!(texts.is_empty() && status.is_none(), "{texts:?} {status:?}");
    let call = t.wire.take(Rpc::ActionStreamedOut).await?;
    call.expect([command(OUT, &request), FunctionDone(Code::Ok)]).await?;
    Ok(())
}

async fn a_streamed_out_call_may_fail_after_responses(t: Test) -> Result<()> {
    let request = request([vec![reply("one")], vec![fail("no")]]);
    let (texts, status) = streamed_out(&t, &request).await?;
    ensure!(texts == ["one"], "the caller got {texts:?}");
    is(&status.context("the call did not fail")?, Code::Unknown, "no")?;
    let call = t.wire.take(Rpc::ActionStreamedOut).await?;
    call.expect([command(OUT, &request), replied("one").into(), failed("no").into()]).await?;
    over(&call).await
}

/// The proxy breaks a call off after a failure, unless the user function ended it before.
async fn over(call: &Taken) -> Result<()> {
    let end = call.next_item().await?;
    ensure!(matches!(end, ProxyGone | FunctionDone(Code::Ok)), "the call went on: {end:?}\n{call}");
    Ok(())
}

async fn a_streamed_out_call_has_forwards_in_place(t: Test) -> Result<()> {
    let request = request([vec![reply("one")], vec![forward(&t.id)], vec![reply("three")]]);
    let (texts, status) = streamed_out(&t, &request).await?;
    ensure!(texts == ["one", "", "three"] && status.is_none(), "{texts:?} {status:?}");
    let call = t.wire.take(Rpc::ActionStreamedOut).await?;
    call.expect([command(OUT, &request), replied("one").into()]).await?;
    call.expect([forwarded(&t.id).into(), replied("three").into()]).await?;
    call.expect([FunctionDone(Code::Ok)]).await?;
    t.wire.take(Rpc::ActionUnary).await?.expect_now(second(&t.id))?;
    Ok(())
}

async fn a_streamed_out_call_has_effects_between_responses(t: Test) -> Result<()> {
    let (a, b) = (t.other("a"), t.other("b"));
    // The second response is nothing but an effect: the caller gets no message for it.
    let groups = [vec![reply("one"), effect(&a, true)], vec![effect(&b, true)], vec![reply("two")]];
    let request = request(groups);
    let (texts, status) = streamed_out(&t, &request).await?;
    ensure!(texts == ["one", "two"] && status.is_none(), "{texts:?} {status:?}");
    let call = t.wire.take(Rpc::ActionStreamedOut).await?;
    call.expect([command(OUT, &request), replied("one").effect(&a, true).into()]).await?;
    call.expect([nothing().effect(&b, true).into(), replied("two").into()]).await?;
    call.expect([FunctionDone(Code::Ok)]).await?;
    for id in [&a, &b] {
        t.wire.take(Rpc::ActionUnary).await?.expect_now(second(id))?;
    }
    Ok(())
}

/// A call that streams both ways.
struct Both {
    sender: mpsc::Sender<model::Request>,
    responses: Streaming<model::Response>,
    call: Taken,
}

impl Both {
    /// Calls with a first message, and reads the response that lets the call begin for the caller.
    async fn begin(t: &Test) -> Result<Self> {
        let (sender, receiver) = mpsc::channel(1);
        let first = request([vec![reply("first")]]);
        sender.send(first.clone()).await?;
        let mut client = client(t);
        let calling = client.process_streamed(ReceiverStream::new(receiver));
        let responses = outcome(calling).await??.into_inner();
        let call = t.wire.take(Rpc::ActionStreamed).await?;
        call.expect([leading(BOTH), following(&first), replied("first").into()]).await?;
        let mut both = Self { sender, responses, call };
        both.says("first").await?;
        Ok(both)
    }

    async fn says(&mut self, text: &str) -> Result<()> {
        let response = outcome(self.responses.message()).await??;
        let response = response.context("the stream ended")?;
        ensure!(response.message == text, "the caller got {response:?} instead of {text:?}");
        Ok(())
    }

    /// The caller ends its side.
    async fn end(self) -> Result<()> {
        let Self { sender, mut responses, call } = self;
        drop(sender);
        call.expect([ProxyDone, FunctionDone(Code::Ok)]).await?;
        let (texts, status) = read(&mut responses).await?;
        ensure!(texts.is_empty() && status.is_none(), "after the end: {texts:?} {status:?}");
        Ok(())
    }
}

async fn a_streamed_call_answers_while_messages_come(t: Test) -> Result<()> {
    let mut both = Both::begin(&t).await?;
    for text in ["two", "three"] {
        let request = request([vec![reply(text)], vec![reply("more")]]);
        both.sender.send(request.clone()).await?;
        both.says(text).await?;
        both.says("more").await?;
        both.call.expect([following(&request)]).await?;
        both.call.expect([replied(text).into(), replied("more").into()]).await?;
    }
    both.end().await
}

async fn a_streamed_call_ends_when_the_caller_ends(t: Test) -> Result<()> {
    Both::begin(&t).await?.end().await
}

async fn a_failure_ends_a_streamed_call(t: Test) -> Result<()> {
    let mut both = Both::begin(&t).await?;
    let wrong = request([vec![fail("no")]]);
    both.sender.send(wrong.clone()).await?;
    let (texts, status) = read(&mut both.responses).await?;
    ensure!(texts.is_empty(), "the caller got {texts:?}");
    is(&status.context("the call did not fail")?, Code::Unknown, "no")?;
    both.call.expect([following(&wrong), failed("no").into()]).await?;
    over(&both.call).await?;
    // Nobody reads what the caller would still send.
    let closed = time::timeout(PATIENCE, both.sender.closed()).await;
    closed.context("the caller may go on sending")
}

/// A way to the proxy that can be cut, as when a caller dies.
async fn detour(proxy: SocketAddr) -> Result<(Channel, JoinSet<io::Result<()>>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut caller, _) = listener.accept().await?;
        let mut proxy = TcpStream::connect(proxy).await?;
        tokio::io::copy_bidirectional(&mut caller, &mut proxy).await.map(drop)
    });
    Ok((Channel::from_shared(format!("http://{address}"))?.connect().await?, tasks))
}

async fn a_caller_that_leaves_ends_a_streamed_call(t: Test) -> Result<()> {
    let (channel, mut way) = detour(t.proxy).await?;
    let both = Both::begin(&Test { channel, ..t.clone() }).await?;
    way.shutdown().await;
    both.call.expect([ProxyGone]).await?;
    Ok(())
}

async fn a_streamed_call_has_forwards_and_effects(t: Test) -> Result<()> {
    let (a, b) = (t.other("a"), t.other("b"));
    let mut both = Both::begin(&t).await?;
    let act = request([vec![effect(&a, true), forward(&b)]]);
    both.sender.send(act.clone()).await?;
    both.says("").await?;
    both.call.expect([following(&act), forwarded(&b).effect(&a, true).into()]).await?;
    for id in [&a, &b] {
        t.wire.take(Rpc::ActionUnary).await?.expect_now(second(id))?;
    }
    both.end().await
}
