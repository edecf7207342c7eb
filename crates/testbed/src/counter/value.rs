//! The counter as a value entity: the value is the total.

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use prost::Message as _;
use protocol::cloudstate::{
    Command,
    valueentity::{
        ValueEntityAction, ValueEntityDelete, ValueEntityReply, ValueEntityStreamIn,
        ValueEntityStreamOut, ValueEntityUpdate, value_entity_action::Action,
        value_entity_server::ValueEntity, value_entity_stream_in::Message as In,
        value_entity_stream_out::Message as Out,
    },
};
use tonic::{Response, Status, Streaming};

use super::{Counter, Request, TOTAL, Total, any};

#[tonic::async_trait]
impl ValueEntity for Counter {
    type handleStream = BoxStream<'static, Result<ValueEntityStreamOut, Status>>;

    async fn handle(
        &self,
        request: tonic::Request<Streaming<ValueEntityStreamIn>>,
    ) -> Result<Response<Self::handleStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.and_then(|first| first.message);
        let Some(In::Init(init)) = first else {
            return Err(Status::invalid_argument("init must come first"));
        };
        let total = match init.state.and_then(|state| state.value) {
            Some(value) => Total::decode(value.value)
                .map_err(|error| Status::invalid_argument(error.to_string()))?,
            None => Total::default(),
        };
        Ok(Response::new(stream::try_unfold((incoming, total), next).boxed()))
    }
}

/// Reads on until there is something to say.
async fn next(
    (mut incoming, mut total): (Streaming<ValueEntityStreamIn>, Total),
) -> Result<Option<(ValueEntityStreamOut, (Streaming<ValueEntityStreamIn>, Total))>, Status> {
    let message = incoming.message().await?.map(|message| message.message);
    let command = match message {
        Some(Some(In::Command(command))) => command,
        Some(_) => return Err(Status::invalid_argument("init, or nothing")),
        None => return Ok(None),
    };
    let reply = self::command(&mut total, command).await?;
    let out = ValueEntityStreamOut { message: Some(Out::Reply(reply)) };
    Ok(Some((out, (incoming, total))))
}

async fn command(total: &mut Total, command: Command) -> Result<ValueEntityReply, Status> {
    let mut request = Request::of(command.payload)?;
    request.delay().await;
    let action = match command.name.as_str() {
        "Add" if request.failure.is_empty() => {
            total.value += request.amount;
            total.sequence += 1;
            Some(Action::Update(ValueEntityUpdate { value: Some(any(TOTAL, total)) }))
        }
        "Delete" if request.failure.is_empty() => {
            *total = Total::default();
            Some(Action::Delete(ValueEntityDelete {}))
        }
        _ => None,
    };
    Ok(ValueEntityReply {
        command_id: command.id,
        side_effects: request.take_effects(),
        client_action: Some(request.answer(*total)),
        state_action: action.map(|action| ValueEntityAction { action: Some(action) }),
    })
}
