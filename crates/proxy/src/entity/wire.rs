//! Encodes and decodes the messages of an entity's stream: one codec for both kinds of entity, with
//! buffers that suit thousands of streams.

use std::sync::Arc;

use prost::Message as _;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use super::{
    event_sourced,
    message::{Incoming, Outgoing},
    value,
};
use crate::{
    journal::EntityId,
    route::{Kind, Service},
};

/// Every stream keeps buffers of its own, and most messages are small. They grow for one that is not.
const BUFFER: usize = 512;
/// As much as is put into one frame when many messages wait.
const FRAME: usize = 16 * 1024;

/// Who speaks on a stream: one entity of one service.
#[derive(Clone, Debug)]
pub(super) struct Address {
    service: Arc<Service>,
    entity: Arc<EntityId>,
}

impl Address {
    pub(super) fn new(service: Arc<Service>, entity: Arc<EntityId>) -> Self {
        Self { service, entity }
    }

    pub(super) fn service_name(&self) -> &str {
        &self.service.name
    }

    pub(super) fn entity_id(&self) -> &str {
        &self.entity.key
    }

    /// The method that its stream is opened with.
    pub(super) fn path(&self) -> &'static str {
        match self.service.kind {
            Kind::Value => value::PATH,
            // An action has no entities.
            Kind::EventSourced | Kind::Action => event_sourced::PATH,
        }
    }

    #[cfg(test)]
    pub(super) fn of(service: &str, key: &str) -> Self {
        let service = Service {
            name: service.to_owned(),
            kind: Kind::EventSourced,
            persistence_id: String::new(),
            passivation_timeout: None,
        };
        let entity = EntityId { persistence_id: String::new(), key: key.to_owned() };
        Self::new(Arc::new(service), Arc::new(entity))
    }
}

/// Speaks for one entity.
#[derive(Clone, Debug)]
pub(super) struct Wire(pub(super) Address);

impl Codec for Wire {
    type Encode = Outgoing;
    type Decode = Incoming;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Wire {
    type Item = Outgoing;
    type Error = Status;

    fn encode(&mut self, message: Outgoing, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let encoded = match self.0.service.kind {
            Kind::Value => value::outgoing(&self.0, message).encode(buffer),
            Kind::EventSourced | Kind::Action => {
                event_sourced::outgoing(&self.0, message).encode(buffer)
            }
        };
        encoded.map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, FRAME)
    }
}

impl Decoder for Wire {
    type Item = Incoming;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Incoming>, Status> {
        use protocol::cloudstate::{
            eventsourced::EventSourcedStreamOut, valueentity::ValueEntityStreamOut,
        };
        let decoded = match self.0.service.kind {
            Kind::Value => ValueEntityStreamOut::decode(buffer).map(value::incoming),
            Kind::EventSourced | Kind::Action => {
                EventSourcedStreamOut::decode(buffer).map(event_sourced::incoming)
            }
        };
        // What cannot be decoded is known to nobody.
        Ok(Some(decoded.unwrap_or(Incoming::Nonsense("a message that cannot be decoded"))))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, FRAME)
    }
}
