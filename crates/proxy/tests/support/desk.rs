//! Actions in all four shapes. What they answer is in the messages that they get.

use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use protocol::{
    Any,
    cloudstate::{
        ClientAction, Failure, Forward, Metadata, MetadataEntry, Reply, SideEffect,
        action::{
            ActionCommand, ActionResponse, action_protocol_server::ActionProtocol, action_response,
        },
        client_action, metadata_entry,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::counter::{Counter, Item, Total};

/// What an answer asks for, or how it ends.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Step {
    #[prost(string, tag = "1")]
    pub what: String,
    #[prost(string, tag = "2")]
    pub service: String,
    #[prost(string, tag = "3")]
    pub command: String,
    #[prost(message, optional, tag = "4")]
    pub item: Option<Item>,
    #[prost(string, tag = "5")]
    pub text: String,
    /// In place of an item.
    #[prost(message, optional, tag = "6")]
    pub order: Option<Order>,
}

/// An action's message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Order {
    #[prost(message, repeated, tag = "1")]
    pub steps: Vec<Step>,
}

pub fn order(steps: impl IntoIterator<Item = Step>) -> Order {
    Order { steps: steps.into_iter().collect() }
}

/// `what` is `effect` (synchronous), `send` (not synchronous) or `forward`.
pub fn to(what: &str, method: &str, item: Item) -> Step {
    let (service, command) = method.split_once('/').unwrap();
    Step {
        what: what.to_owned(),
        service: service.to_owned(),
        command: command.to_owned(),
        item: Some(item),
        ..Step::default()
    }
}

/// `what` is `reply` (with a number), `large` (with a size), `headers`, `fail`, `status`, `nothing`, `mistype`, `loop`, or `hang`.
pub fn say(what: &str, text: &str) -> Step {
    Step { what: what.to_owned(), text: text.to_owned(), ..Step::default() }
}

/// Answers: each takes the effects before it.
pub fn responses(steps: Vec<Step>) -> Vec<ActionResponse> {
    let (mut responses, mut side_effects) = (Vec::new(), Vec::new());
    for step in steps {
        let value = match (&step.item, &step.order) {
            (_, Some(order)) => order.encode_to_vec(),
            (item, None) => item.clone().unwrap_or_default().encode_to_vec(),
        };
        // Nobody may care for the type.
        let type_url = "type.googleapis.com/odd.Type".to_owned();
        let payload = Some(Any { type_url, value: value.into() });
        let (service_name, command_name) = (step.service, step.command);
        let metadata = (!step.text.is_empty()).then(|| named("x-step", &step.text));
        let response = match step.what.as_str() {
            "effect" | "send" => {
                let synchronous = step.what == "effect";
                side_effects.push(SideEffect {
                    service_name,
                    command_name,
                    payload,
                    synchronous,
                    metadata,
                });
                continue;
            }
            "forward" => {
                let forward = Forward { service_name, command_name, payload, metadata };
                Some(action_response::Response::Forward(forward))
            }
            "reply" => Some(reply("counter.Total", &step.text)),
            "large" => {
                let value = Bytes::from(vec![0; step.text.parse().unwrap()]);
                let type_url = "type.googleapis.com/counter.Total".to_owned();
                let reply = Reply { payload: Some(Any { type_url, value }), metadata: None };
                Some(action_response::Response::Reply(reply))
            }
            // Entries that a reply may have and that it may not.
            "headers" => {
                let mut headers = named("x-good", "yes");
                headers.entries.extend(named("grpc-status", "9").entries);
                let value = metadata_entry::Value::BytesValue(Bytes::from_static(&[1, 2, 3]));
                for _ in 0..2 {
                    let (key, value) = ("raw".to_owned(), Some(value.clone()));
                    headers.entries.push(MetadataEntry { key, value });
                }
                let mut reply = reply("counter.Total", "1");
                if let action_response::Response::Reply(reply) = &mut reply {
                    reply.metadata = Some(headers);
                }
                Some(reply)
            }
            "mistype" => Some(reply("odd.Type", &step.text)),
            "fail" => {
                let failure = Failure { description: step.text, ..Failure::default() };
                Some(action_response::Response::Failure(failure))
            }
            // With which the desk forwards to itself for ever.
            "loop" => {
                let value = order([say("loop", "")]).encode_to_vec().into();
                let forward = Forward {
                    service_name: "counter.Desk".to_owned(),
                    command_name: "Ask".to_owned(),
                    payload: Some(Any { value, ..Any::default() }),
                    metadata: None,
                };
                Some(action_response::Response::Forward(forward))
            }
            "nothing" => None,
            other => panic!("{other}"),
        };
        let side_effects = std::mem::take(&mut side_effects);
        responses.push(ActionResponse { side_effects, response });
    }
    if !side_effects.is_empty() {
        responses.push(ActionResponse { side_effects, response: None });
    }
    responses
}

fn reply(output: &str, number: &str) -> action_response::Response {
    let value = Bytes::from(Total { value: number.parse().unwrap() }.encode_to_vec());
    let payload = Some(Any { type_url: format!("type.googleapis.com/{output}"), value });
    action_response::Response::Reply(Reply { payload, metadata: Some(named("x-desk", number)) })
}

fn named(key: &str, value: &str) -> Metadata {
    let value = Some(metadata_entry::Value::StringValue(value.to_owned()));
    Metadata { entries: vec![MetadataEntry { key: key.to_owned(), value }] }
}

/// The same for an entity; nothing stands for its usual reply.
pub fn client_action(response: Option<action_response::Response>) -> Option<ClientAction> {
    let action = match response? {
        action_response::Response::Reply(reply) => client_action::Action::Reply(reply),
        action_response::Response::Forward(forward) => client_action::Action::Forward(forward),
        action_response::Response::Failure(failure) => client_action::Action::Failure(failure),
    };
    Some(ClientAction { action: Some(action) })
}

type Responses = Pin<Box<dyn Stream<Item = Result<ActionResponse, Status>> + Send>>;

impl Counter {
    /// Logs what came, and gives the steps that are in it.
    fn order(&self, what: &str, command: ActionCommand) -> Vec<Step> {
        let entries = command.metadata.unwrap_or_default().entries;
        let keys: Vec<_> = entries.into_iter().map(|entry| entry.key).collect();
        let payload = command.payload.as_ref().map_or("none", |payload| payload.type_url.as_str());
        self.saw(format!("{what} {:?} {payload} {keys:?}", command.name));
        Order::decode(command.payload.unwrap_or_default().value).unwrap().steps
    }

    /// Answers by these steps; gives how the stream goes on.
    async fn perform(
        &self,
        steps: Vec<Step>,
        answers: &mpsc::Sender<Result<ActionResponse, Status>>,
    ) -> Result<(), ()> {
        for part in steps.split_inclusive(|step| step.what != "effect" && step.what != "send") {
            let last = part.last().unwrap();
            match last.what.as_str() {
                "hang" => {
                    answers.closed().await;
                    self.saw("cancelled".to_owned());
                    return Err(());
                }
                "status" => {
                    let status = Status::failed_precondition(last.text.clone());
                    drop(answers.send(Err(status)).await);
                    return Err(());
                }
                "end" => return Err(()),
                _ => {
                    for response in responses(part.to_vec()) {
                        if answers.send(Ok(response)).await.is_err() {
                            self.saw("cancelled".to_owned());
                            return Err(());
                        }
                        self.saw("answered".to_owned());
                    }
                }
            }
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl ActionProtocol for Counter {
    async fn handle_unary(
        &self,
        request: Request<ActionCommand>,
    ) -> Result<Response<ActionResponse>, Status> {
        let timeout = request.metadata().contains_key("grpc-timeout");
        let steps = self.order(&format!("unary (timeout {timeout})"), request.into_inner());
        match steps.last() {
            Some(step) if step.what == "status" => {
                return Err(Status::failed_precondition(step.text.clone()));
            }
            Some(step) if step.what == "hang" => {
                let _seen = Cancelled(self.clone());
                std::future::pending::<()>().await;
            }
            _ => {}
        }
        Ok(Response::new(responses(steps).pop().unwrap_or_default()))
    }

    async fn handle_streamed_in(
        &self,
        request: Request<Streaming<ActionCommand>>,
    ) -> Result<Response<ActionResponse>, Status> {
        let _seen = Cancelled(self.clone());
        let mut incoming = request.into_inner();
        let leading = incoming.message().await?.unwrap();
        self.order("leading", leading);
        let mut all = Vec::new();
        while let Some(command) = incoming.message().await? {
            all.extend(self.order("message", command));
            if all.last().is_some_and(|step| step.what == "early") {
                all.pop();
                break;
            }
        }
        std::mem::forget(_seen);
        self.saw("no more".to_owned());
        Ok(Response::new(responses(all).pop().unwrap_or_default()))
    }

    type handleStreamedOutStream = Responses;

    async fn handle_streamed_out(
        &self,
        request: Request<ActionCommand>,
    ) -> Result<Response<Responses>, Status> {
        let steps = self.order("streamed out", request.into_inner());
        let (answers, answered) = mpsc::channel(1);
        let desk = self.clone();
        tokio::spawn(async move { desk.perform(steps, &answers).await });
        Ok(Response::new(ReceiverStream::new(answered).boxed()))
    }

    type handleStreamedStream = Responses;

    async fn handle_streamed(
        &self,
        request: Request<Streaming<ActionCommand>>,
    ) -> Result<Response<Responses>, Status> {
        let (answers, answered) = mpsc::channel(1);
        let (desk, mut incoming) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            loop {
                match incoming.message().await {
                    Ok(Some(command)) if command.payload.is_none() => {
                        desk.order("leading", command);
                    }
                    Ok(Some(command)) => {
                        let steps = desk.order("message", command);
                        if desk.perform(steps, &answers).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => return desk.saw("no more".to_owned()),
                    Err(_) => return desk.saw("cancelled".to_owned()),
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answered).boxed()))
    }
}

/// Says so when a call goes away.
struct Cancelled(Counter);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.saw("cancelled".to_owned());
    }
}
