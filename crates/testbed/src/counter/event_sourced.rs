//! The counter as an event sourced entity.

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use protocol::{
    Any,
    cloudstate::{
        Command,
        eventsourced::{
            EventSourcedReply, EventSourcedStreamIn, EventSourcedStreamOut,
            event_sourced_server::EventSourced, event_sourced_stream_in::Message as In,
            event_sourced_stream_out::Message as Out,
        },
    },
};
use tonic::{Response, Status, Streaming};

use super::{ADDED, Added, Counter, Request, TOTAL, Total, any};

#[tonic::async_trait]
impl EventSourced for Counter {
    type handleStream = BoxStream<'static, Result<EventSourcedStreamOut, Status>>;

    async fn handle(
        &self,
        request: tonic::Request<Streaming<EventSourcedStreamIn>>,
    ) -> Result<Response<Self::handleStream>, Status> {
        let mut incoming = request.into_inner();
        // Headers go out behind the first message, as some libraries do it.
        let first = incoming.message().await?.and_then(|first| first.message);
        let instance = Instance::begin(first, self.snapshot_every)?;
        Ok(Response::new(stream::try_unfold((incoming, instance), next).boxed()))
    }
}

/// Reads on until there is something to say.
async fn next(
    (mut incoming, mut instance): (Streaming<EventSourcedStreamIn>, Instance),
) -> Result<Option<(EventSourcedStreamOut, (Streaming<EventSourcedStreamIn>, Instance))>, Status> {
    while let Some(message) = incoming.message().await? {
        match message.message {
            Some(In::Event(event)) => instance.replay(event.payload)?,
            Some(In::Command(command)) => {
                let reply = instance.command(command).await?;
                let out = EventSourcedStreamOut { message: Some(Out::Reply(reply)) };
                return Ok(Some((out, (incoming, instance))));
            }
            Some(In::Init(_)) | None => return Err(Status::invalid_argument("init, or nothing")),
        }
    }
    Ok(None)
}

/// One activation.
struct Instance {
    total: Total,
    snapshot_every: i64,
}

impl Instance {
    fn begin(first: Option<In>, snapshot_every: u32) -> Result<Self, Status> {
        let Some(In::Init(init)) = first else {
            return Err(Status::invalid_argument("init must come first"));
        };
        let total = match init.snapshot.and_then(|snapshot| snapshot.snapshot) {
            Some(snapshot) => decode::<Total>(snapshot)?,
            None => Total::default(),
        };
        Ok(Self { total, snapshot_every: snapshot_every.into() })
    }

    fn replay(&mut self, event: Option<Any>) -> Result<(), Status> {
        let event = event.ok_or_else(|| Status::invalid_argument("an event without a payload"))?;
        self.apply(&decode(event)?);
        Ok(())
    }

    fn apply(&mut self, event: &Added) {
        self.total.value += event.amount;
        self.total.sequence += 1;
    }

    async fn command(&mut self, command: Command) -> Result<EventSourcedReply, Status> {
        let mut request = Request::of(command.payload)?;
        request.delay().await;
        let mut reply =
            EventSourcedReply { command_id: command.id, ..EventSourcedReply::default() };
        if command.name == "Add" && request.failure.is_empty() {
            for _ in 0..request.events.max(1) {
                let event = Added {
                    amount: request.amount,
                    value: self.total.value + request.amount,
                    caller: request.caller,
                    number: request.number,
                    data: request.data.clone(),
                };
                self.apply(&event);
                reply.events.push(any(ADDED, &event));
            }
            if self.snapshot_every > 0 && self.total.sequence % self.snapshot_every == 0 {
                reply.snapshot = Some(any(TOTAL, &self.total));
            }
        }
        reply.side_effects = request.take_effects();
        reply.client_action = Some(request.answer(self.total));
        Ok(reply)
    }
}

fn decode<M: prost::Message + Default>(any: Any) -> Result<M, Status> {
    M::decode(any.value).map_err(|error| Status::invalid_argument(error.to_string()))
}
