//! Actions: methods of the user function that keep no state, in all four shapes
//! (`docs/protocol.md`, "Actions"). Calls are independent of each other; nothing is queued here.

use std::{error::Error as _, time::Duration};

use bytes::Bytes;
use futures::{
    FutureExt as _, Stream, StreamExt as _,
    future::{BoxFuture, Either},
    stream::{self, BoxStream},
};
use http::uri::PathAndQuery;
use protocol::{
    Any,
    cloudstate::{
        Metadata,
        action::{
            ActionCommand, ActionResponse, action_protocol_client::ActionProtocolClient,
            action_response::Response,
        },
    },
};
use tokio::sync::oneshot;
use tonic::{Code, Request, Status, Streaming, client::Grpc};
use tracing::{debug, info};

use crate::{
    entity::{Answer, Failure, FailureKind, Reply, Then},
    route::{Method, Shape},
    user_function::{self, UserFunction},
};

mod codec;

use codec::{Commands, Said};

/// What a caller says.
#[allow(missing_debug_implementations, reason = "a stream has nothing to show")]
pub enum Input {
    /// One message.
    One(Bytes),
    /// Messages one after the other; after a failure there are none.
    Many(BoxStream<'static, Result<Bytes, Failure>>),
}

/// Calls the user function's actions; clones share the connection.
#[derive(Clone, Debug)]
pub struct Actions {
    user_function: UserFunction,
}

impl Actions {
    /// Actions of this user function.
    pub fn new(user_function: UserFunction) -> Self {
        Self { user_function }
    }

    /// Calls a unary method. `timeout` is what the caller's deadline leaves.
    ///
    /// # Cancel safety
    /// A dropped call is cancelled at the user function.
    pub async fn unary(
        &self,
        method: &Method,
        payload: Bytes,
        metadata: Option<Metadata>,
        timeout: Option<Duration>,
    ) -> Answer {
        let mut client = ActionProtocolClient::new(self.user_function.channel())
            .max_decoding_message_size(self.user_function.message_size_max());
        let request = request(full(method, payload, metadata), timeout);
        match client.handle_unary(request).await {
            Ok(response) => answer(response.into_inner()),
            Err(status) => failure(&status).into(),
        }
    }

    /// Calls a method of any shape and gives what the user function answers, one by one. Dropping
    /// the answers cancels the call at the user function.
    pub fn call(
        &self,
        method: &Method,
        shape: Shape,
        input: Input,
        metadata: Option<Metadata>,
        timeout: Option<Duration>,
    ) -> Answers {
        let (cancel, cancelled) = oneshot::channel();
        let (break_off, broken) = oneshot::channel();
        let said = match (shape, input) {
            (Shape::Unary | Shape::ServerStreaming, Input::One(payload)) => {
                let command = full(method, payload, metadata);
                stream::iter([Said::Command(command)]).boxed()
            }
            (_, input) => {
                let messages = match input {
                    Input::One(payload) => stream::iter([Ok(payload)]).boxed(),
                    Input::Many(messages) => messages,
                };
                let leading = stream::iter([Said::Command(leading(method, metadata))]);
                let type_url = method.input_type_url.clone();
                let following = following(messages, type_url, break_off, cancelled);
                leading.chain(following).boxed()
            }
        };
        let path = PathAndQuery::from_static(match shape {
            Shape::Unary => "/cloudstate.action.ActionProtocol/handleUnary",
            Shape::ClientStreaming => "/cloudstate.action.ActionProtocol/handleStreamedIn",
            Shape::ServerStreaming => "/cloudstate.action.ActionProtocol/handleStreamedOut",
            Shape::Streaming => "/cloudstate.action.ActionProtocol/handleStreamed",
        });
        let mut client = Grpc::new(self.user_function.channel())
            .max_decoding_message_size(self.user_function.message_size_max());
        let request = request(said, timeout);
        let opening = async move {
            client.ready().await?;
            Ok(client.streaming(request, path, Commands).await?.into_inner())
        };
        Answers { state: State::Opening(opening.boxed()), broken: Some(broken), _cancel: cancel }
    }
}

/// What the user function answers to one call.
#[allow(missing_debug_implementations, reason = "a stream has nothing to show")]
pub struct Answers {
    state: State,
    /// Tells that the caller's messages broke off.
    broken: Option<oneshot::Receiver<Failure>>,
    /// Ends our side of the stream when it is dropped.
    _cancel: oneshot::Sender<()>,
}

enum State {
    Opening(BoxFuture<'static, Result<Streaming<ActionResponse>, Status>>),
    Open(Box<Streaming<ActionResponse>>),
    Ended,
}

impl Answers {
    /// The next answer; none when the user function has ended the call well.
    ///
    /// # Errors
    /// Says how the call ended otherwise; there is nothing after it.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Answer>, Failure> {
        loop {
            let ended = tokio::select! {
                biased;
                failure = broken(&mut self.broken) => Err(failure),
                next = self.state.next() => match next {
                    Ok(Next::Opened(stream)) => {
                        self.state = State::Open(stream);
                        continue;
                    }
                    Ok(Next::Answer(answer)) => return Ok(Some(answer)),
                    Ok(Next::End) => Ok(None),
                    Err(status) => Err(failure(&status)),
                },
            };
            self.state = State::Ended;
            return ended;
        }
    }

    /// The only answer of a call that has one. The user function may give it before the caller has
    /// said everything.
    ///
    /// # Errors
    /// Says how the call ended without one.
    pub async fn single(mut self) -> Result<Answer, Failure> {
        let nothing = Answer { effects: Vec::new(), then: Then::Nothing };
        let Some(answer) = self.next().await? else { return Ok(nothing) };
        match self.next().await? {
            None => Ok(answer),
            Some(_) => Err(Failure::new(
                FailureKind::Internal,
                "the user function sent several replies where one is expected",
            )),
        }
    }
}

enum Next {
    Opened(Box<Streaming<ActionResponse>>),
    Answer(Answer),
    End,
}

impl State {
    async fn next(&mut self) -> Result<Next, Status> {
        match self {
            Self::Opening(opening) => Ok(Next::Opened(Box::new(opening.await?))),
            Self::Open(stream) => {
                Ok(stream.message().await?.map_or(Next::End, |said| Next::Answer(answer(said))))
            }
            Self::Ended => Ok(Next::End),
        }
    }
}

/// For ever silent when nothing can break any more.
async fn broken(broken: &mut Option<oneshot::Receiver<Failure>>) -> Failure {
    if let Some(receiver) = broken {
        let said = receiver.await;
        *broken = None;
        if let Ok(failure) = said {
            return failure;
        }
    }
    std::future::pending().await
}

/// The caller's messages as commands. They end when the caller ends; when it breaks off, or nobody
/// waits for answers any more, the call is cancelled instead, which the user function can tell from
/// an end.
fn following(
    messages: BoxStream<'static, Result<Bytes, Failure>>,
    type_url: String,
    break_off: oneshot::Sender<Failure>,
    cancelled: oneshot::Receiver<()>,
) -> impl Stream<Item = Said> + Send {
    let state = (messages, Some((break_off, cancelled)));
    stream::unfold(state, move |(mut messages, both)| {
        let type_url = type_url.clone();
        async move {
            let (break_off, cancelled) = both?;
            match futures::future::select(cancelled, messages.next()).await {
                Either::Left(_) => Some((Said::Cancel, (messages, None))),
                Either::Right((None, _)) => None,
                Either::Right((Some(Ok(value)), cancelled)) => {
                    let command = ActionCommand {
                        payload: Some(Any { type_url, value }),
                        metadata: Some(Metadata::default()),
                        ..ActionCommand::default()
                    };
                    Some((Said::Command(command), (messages, Some((break_off, cancelled)))))
                }
                Either::Right((Some(Err(failure)), _)) => {
                    debug!(failure.message, "the caller's messages broke off");
                    // Nobody who could hear it is the same as nobody who wants to.
                    drop(break_off.send(failure));
                    Some((Said::Cancel, (messages, None)))
                }
            }
        }
    })
}

fn full(method: &Method, value: Bytes, metadata: Option<Metadata>) -> ActionCommand {
    let payload = Some(Any { type_url: method.input_type_url.clone(), value });
    ActionCommand { payload, ..leading(method, metadata) }
}

fn leading(method: &Method, metadata: Option<Metadata>) -> ActionCommand {
    ActionCommand {
        service_name: method.service.name.clone(),
        name: method.name.clone(),
        payload: None,
        metadata,
    }
}

fn request<T>(message: T, timeout: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    request
}

fn answer(response: ActionResponse) -> Answer {
    let then = match response.response {
        Some(Response::Reply(reply)) => match reply.payload {
            Some(Any { type_url, value }) => {
                Then::Reply(Reply { type_url, payload: value, metadata: reply.metadata })
            }
            None => Then::Nothing,
        },
        Some(Response::Forward(forward)) => Then::Forward(forward),
        Some(Response::Failure(failure)) => {
            Then::Fail(Failure::new(FailureKind::Failed, failure.description))
        }
        None => Then::Nothing,
    };
    Answer { effects: response.side_effects, then }
}

/// What a caller is told of a status that ended a call: that of the user function as it is, and of
/// our own trouble with the connection no more than that there was some.
fn failure(status: &Status) -> Failure {
    if status.source().is_none() {
        return Failure::new(FailureKind::Told(status.code()), status.message());
    }
    info!(error = user_function::explain(status), "call of the user function ended");
    if user_function::caused_by::<tonic::ConnectError>(status) {
        let text = "the user function cannot be reached";
        return Failure::new(FailureKind::Unavailable, text);
    }
    if user_function::caused_by::<tonic::TimeoutExpired>(status) {
        return Failure::new(FailureKind::DeadlineExceeded, "no reply in time");
    }
    if status.code() == Code::Cancelled {
        let text = "the user function cancelled the call";
        return Failure::new(FailureKind::Told(Code::Cancelled), text);
    }
    Failure::new(FailureKind::Unavailable, "the connection to the user function broke")
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use protocol::cloudstate;
    use testbed::fuzz::{Shape, fuzz};

    use super::*;

    /// Whatever can be decoded is an answer, and an answer without content is none.
    #[test]
    fn fuzz_action_responses() {
        let payload = Some(Any { type_url: "type.googleapis.com/A".to_owned(), value: "a".into() });
        let reply = cloudstate::Reply { payload: payload.clone(), ..cloudstate::Reply::default() };
        let forward = cloudstate::Forward { payload, ..cloudstate::Forward::default() };
        let failure = cloudstate::Failure::default();
        let effect = cloudstate::SideEffect { service_name: "S".to_owned(), ..Default::default() };
        let corpus =
            [Response::Reply(reply), Response::Forward(forward), Response::Failure(failure)].map(
                |response| {
                    let side_effects = vec![effect.clone()];
                    ActionResponse { response: Some(response), side_effects }.encode_to_vec()
                },
            );
        fuzz("action responses", Shape::Protobuf, corpus.to_vec(), |input| {
            let Ok(response) = ActionResponse::decode(input) else { return };
            let (effects, silent) = (response.side_effects.len(), response.response.is_none());
            let answer = answer(response);
            assert_eq!(answer.effects.len(), effects);
            assert!(!silent || answer.then == Then::Nothing);
        });
    }
}
