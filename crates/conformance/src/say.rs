//! What is expected on the wire, in few words.

pub mod action;
pub mod cart;
pub mod event_sourced;
pub mod value;

use protocol::{
    Any,
    cloudstate::{
        ClientAction, Command, Failure, Forward, Metadata, MetadataEntry, Reply, SideEffect,
        client_action::Action, metadata_entry::Value,
    },
};

/// A message of this type, as callers and libraries put it on the wire.
pub fn any(name: &str, message: &impl prost::Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec().into() }
}

/// A command as the proxy builds it for an ordinary client: nothing but these is set.
fn command(entity: &str, id: i64, name: &str, payload: Any) -> Command {
    Command {
        entity_id: entity.to_owned(),
        id,
        name: name.to_owned(),
        payload: Some(payload),
        streamed: false,
        metadata: None,
    }
}

fn reply(payload: Any) -> ClientAction {
    ClientAction { action: Some(Action::Reply(Reply { payload: Some(payload), metadata: None })) }
}

fn failure(command_id: i64, description: &str, restart: bool) -> ClientAction {
    let description = description.to_owned();
    ClientAction { action: Some(Action::Failure(Failure { command_id, description, restart })) }
}

fn forward(service: &str, payload: Any) -> Forward {
    Forward {
        service_name: service.to_owned(),
        command_name: "Call".to_owned(),
        payload: Some(payload),
        metadata: None,
    }
}

fn effect(service: &str, payload: Any, synchronous: bool) -> SideEffect {
    SideEffect {
        service_name: service.to_owned(),
        command_name: "Call".to_owned(),
        payload: Some(payload),
        synchronous,
        metadata: None,
    }
}

/// Metadata with one entry.
pub fn metadata(key: &str, value: Value) -> Metadata {
    Metadata { entries: vec![MetadataEntry { key: key.to_owned(), value: Some(value) }] }
}
