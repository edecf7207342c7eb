//! A user function that breaks the protocol in the way that the method's name says, as an event sourced
//! and as a value entity.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use protocol::{
    Any,
    cloudstate::{
        ClientAction, Entity, EntitySpec, Failure, ProxyInfo, Reply, ServiceInfo,
        UserFunctionError, client_action,
        entity_discovery_server::{EntityDiscovery, EntityDiscoveryServer},
        eventsourced::{
            EventSourcedReply, EventSourcedStreamIn, EventSourcedStreamOut,
            event_sourced_server::{EventSourced, EventSourcedServer},
            event_sourced_stream_in::Message as EventsIn,
            event_sourced_stream_out::Message as EventsOut,
        },
        valueentity::{
            ValueEntityAction, ValueEntityReply, ValueEntityStreamIn, ValueEntityStreamOut,
            ValueEntityUpdate, value_entity_action,
            value_entity_server::{ValueEntity, ValueEntityServer},
            value_entity_stream_in::Message as ValuesIn,
            value_entity_stream_out::Message as ValuesOut,
        },
    },
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::support::counter::Total;

/// Methods of both services.
const METHODS: [&str; 18] = [
    "Add",
    "Get",
    "WrongId",
    "Twice",
    "Nobody",
    "Fail",
    "FailOther",
    "Mumble",
    "Snapshot",
    "Aimless",
    "Void",
    "Large",
    "Huge",
    "Never",
    "Leave",
    "Break",
    "Flood",
    "Regret",
];

const ENTITY_KEY: &str = r#"
    syntax = "proto3";
    package cloudstate;
    import "google/protobuf/descriptor.proto";
    extend google.protobuf.FieldOptions { bool entity_key = 1080; }"#;

/// The user function; clones are the same one.
#[derive(Clone, Default)]
pub struct Rogue {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Every stream that began: service and entity.
    begun: Mutex<Vec<String>>,
    reports: Mutex<Vec<String>>,
}

/// What it says to a command.
#[derive(Clone, Copy)]
enum Say {
    Reply(i64, Change),
    Failure(i64),
    /// A message without anything in it that the protocol knows.
    Nothing,
}

#[derive(Clone, Copy)]
enum Change {
    None,
    /// An event or a new value of so many bytes.
    Kept(usize),
    /// A snapshot without events.
    Snapshot,
    /// A state action that says nothing.
    Aimless,
    /// An update without a value.
    Void,
    /// A failure that asks for a restart.
    Restart,
}

/// What it does after that.
enum After {
    Goes,
    Ends,
    Breaks,
    Floods,
}

const MIB: usize = 1 << 20;

fn script(method: &str, id: i64) -> (Vec<Say>, After) {
    let reply = |change| Say::Reply(id, change);
    match method {
        "Add" => (vec![reply(Change::Kept(8))], After::Goes),
        "WrongId" => (vec![Say::Reply(id + 7, Change::Kept(8))], After::Goes),
        "Twice" => (vec![reply(Change::None), reply(Change::None)], After::Goes),
        "Nobody" => (vec![reply(Change::None), Say::Reply(0, Change::Kept(8))], After::Goes),
        "Fail" => (vec![Say::Failure(id)], After::Goes),
        "FailOther" => (vec![Say::Failure(0)], After::Goes),
        "Mumble" => (vec![Say::Nothing], After::Goes),
        "Snapshot" => (vec![reply(Change::Snapshot)], After::Goes),
        "Aimless" => (vec![reply(Change::Aimless)], After::Goes),
        "Void" => (vec![reply(Change::Void)], After::Goes),
        "Regret" => (vec![reply(Change::Restart)], After::Goes),
        "Large" => (vec![reply(Change::Kept(10 * MIB))], After::Goes),
        "Huge" => (vec![reply(Change::Kept(13 * MIB))], After::Goes),
        "Never" => (vec![], After::Goes),
        "Leave" => (vec![], After::Ends),
        "Break" => (vec![], After::Breaks),
        "Flood" => (vec![], After::Floods),
        _ => (vec![reply(Change::None)], After::Goes),
    }
}

/// One stream, whatever kind of entity it is of.
struct Talk<O> {
    out: mpsc::Sender<Result<O, Status>>,
    /// How many changes this activation knows of.
    count: i64,
    wire: fn(Say, i64) -> O,
}

impl<O> Talk<O> {
    /// Answers a command; gives whether the stream goes on.
    async fn answer(&mut self, method: &str, id: i64) -> bool {
        let (says, after) = script(method, id);
        for say in says {
            if matches!(say, Say::Reply(_, Change::Kept(_))) {
                self.count += 1;
            }
            if self.out.send(Ok((self.wire)(say, self.count))).await.is_err() {
                return false;
            }
        }
        match after {
            After::Goes => true,
            After::Ends => false,
            After::Breaks => {
                let secret = "a secret of the user function";
                drop(self.out.send(Err(Status::internal(secret))).await);
                false
            }
            After::Floods => {
                // Until the proxy has had enough.
                while self.out.send(Ok((self.wire)(Say::Reply(-1, Change::None), 0))).await.is_ok()
                {
                }
                false
            }
        }
    }
}

fn any(count: i64, size: usize) -> Any {
    let mut value = vec![0; size.max(8)];
    value[..8].copy_from_slice(&count.to_be_bytes());
    Any { type_url: "rogue".to_owned(), value: value.into() }
}

fn count(any: &Any) -> i64 {
    i64::from_be_bytes(any.value[..8].try_into().unwrap())
}

#[expect(clippy::unnecessary_wraps, reason = "reads as the field that it is")]
fn client_action(count: i64, change: Change) -> Option<ClientAction> {
    let action = if matches!(change, Change::Restart) {
        let (command_id, description, restart) = (0, "regret".to_owned(), true);
        client_action::Action::Failure(Failure { command_id, description, restart })
    } else {
        let value = Bytes::from(Total { value: count }.encode_to_vec());
        let payload = Some(Any { type_url: "type.googleapis.com/rogue.Total".to_owned(), value });
        client_action::Action::Reply(Reply { payload, metadata: None })
    };
    Some(ClientAction { action: Some(action) })
}

fn failure(command_id: i64) -> Failure {
    let description = "a secret of the user function".to_owned();
    Failure { command_id, description, restart: false }
}

fn events_out(say: Say, count: i64) -> EventSourcedStreamOut {
    let message = match say {
        Say::Reply(command_id, change) => {
            let mut reply = EventSourcedReply {
                command_id,
                client_action: client_action(count, change),
                ..EventSourcedReply::default()
            };
            match change {
                Change::Kept(size) => reply.events = vec![any(count, size)],
                // Dropped, since it asks for a restart.
                Change::Restart => reply.events = vec![any(count + 1, 8)],
                Change::Snapshot => reply.snapshot = Some(any(1_000, 8)),
                _ => {}
            }
            Some(EventsOut::Reply(reply))
        }
        Say::Failure(id) => Some(EventsOut::Failure(failure(id))),
        Say::Nothing => None,
    };
    EventSourcedStreamOut { message }
}

fn values_out(say: Say, count: i64) -> ValueEntityStreamOut {
    let message = match say {
        Say::Reply(command_id, change) => {
            let update = |value| value_entity_action::Action::Update(ValueEntityUpdate { value });
            let action = match change {
                Change::Kept(size) => Some(Some(update(Some(any(count, size))))),
                Change::Aimless => Some(None),
                Change::Void => Some(Some(update(None))),
                _ => None,
            };
            let state_action = action.map(|action| ValueEntityAction { action });
            let client_action = client_action(count, change);
            let side_effects = Vec::new();
            let reply = ValueEntityReply { command_id, client_action, side_effects, state_action };
            Some(ValuesOut::Reply(reply))
        }
        Say::Failure(id) => Some(ValuesOut::Failure(failure(id))),
        Say::Nothing => None,
    };
    ValueEntityStreamOut { message }
}

/// How a stream begins, which depends on its entity.
#[derive(PartialEq, Eq)]
enum Start {
    AtOnce,
    /// The headers come with the first answer.
    Late,
    /// The first answer comes without a command.
    Eager,
}

impl Rogue {
    pub async fn listen(&self, address: SocketAddr) {
        let listener = TcpListener::bind(address).await.unwrap();
        let services = Server::builder()
            .max_concurrent_streams(u32::MAX)
            .add_service(EntityDiscoveryServer::new(self.clone()))
            .add_service(
                EventSourcedServer::new(self.clone()).max_decoding_message_size(usize::MAX),
            )
            .add_service(
                ValueEntityServer::new(self.clone()).max_decoding_message_size(usize::MAX),
            );
        tokio::spawn(services.serve_with_incoming(TcpListenerStream::new(listener)));
    }

    /// How often an entity was activated.
    pub fn activations(&self, service: &str, entity: &str) -> usize {
        let name = format!("{service} {entity}");
        self.shared.begun.lock().unwrap().iter().filter(|begun| **begun == name).count()
    }

    /// Whether the developer was told of something.
    pub fn was_told(&self, part: &str) -> bool {
        self.shared.reports.lock().unwrap().iter().any(|report| report.contains(part))
    }

    fn begin(&self, service: &str, entity: &str) -> Result<Start, Status> {
        self.shared.begun.lock().unwrap().push(format!("{service} {entity}"));
        match entity {
            "refused" => Err(Status::unavailable("a secret of the user function")),
            "late" => Ok(Start::Late),
            "eager" => Ok(Start::Eager),
            _ => Ok(Start::AtOnce),
        }
    }
}

type Out<O> = Pin<Box<dyn Stream<Item = Result<O, Status>> + Send>>;

#[tonic::async_trait]
impl EventSourced for Rogue {
    type handleStream = Out<EventSourcedStreamOut>;

    async fn handle(
        &self,
        request: Request<Streaming<EventSourcedStreamIn>>,
    ) -> Result<Response<Self::handleStream>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|message| message.message);
        let Some(EventsIn::Init(init)) = first else { panic!("{first:?}") };
        let start = self.begin(&init.service_name, &init.entity_id)?;
        let (out, answers) = mpsc::channel(4);
        let state = init.snapshot.and_then(|snapshot| snapshot.snapshot);
        let count = state.as_ref().map_or(0, count);
        let mut talk = Talk { out, count, wire: events_out };
        let (begun, begins) = tokio::sync::oneshot::channel();
        let mut begun = Some(begun);
        if start == Start::Eager {
            talk.out.send(Ok(events_out(Say::Reply(1, Change::None), 0))).await.unwrap();
        }
        if start != Start::Late {
            begun.take();
        }
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                match message.message {
                    Some(EventsIn::Event(event)) => {
                        talk.count = self::count(&event.payload.unwrap());
                    }
                    Some(EventsIn::Command(command)) => {
                        let goes = talk.answer(&command.name, command.id).await;
                        begun.take();
                        if !goes {
                            return;
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        drop::<Result<(), _>>(begins.await);
        Ok(Response::new(ReceiverStream::new(answers).boxed()))
    }
}

#[tonic::async_trait]
impl ValueEntity for Rogue {
    type handleStream = Out<ValueEntityStreamOut>;

    async fn handle(
        &self,
        request: Request<Streaming<ValueEntityStreamIn>>,
    ) -> Result<Response<Self::handleStream>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|message| message.message);
        let Some(ValuesIn::Init(init)) = first else { panic!("{first:?}") };
        let start = self.begin(&init.service_name, &init.entity_id)?;
        let (out, answers) = mpsc::channel(4);
        let state = init.state.expect("init always has a state").value;
        let count = state.as_ref().map_or(0, count);
        let mut talk = Talk { out, count, wire: values_out };
        let (begun, begins) = tokio::sync::oneshot::channel();
        let mut begun = Some(begun);
        if start == Start::Eager {
            talk.out.send(Ok(values_out(Say::Reply(1, Change::None), 0))).await.unwrap();
        }
        if start != Start::Late {
            begun.take();
        }
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let Some(ValuesIn::Command(command)) = message.message else {
                    panic!("{message:?}")
                };
                let goes = talk.answer(&command.name, command.id).await;
                begun.take();
                if !goes {
                    return;
                }
            }
        });
        drop::<Result<(), _>>(begins.await);
        Ok(Response::new(ReceiverStream::new(answers).boxed()))
    }
}

#[tonic::async_trait]
impl EntityDiscovery for Rogue {
    async fn discover(&self, _: Request<ProxyInfo>) -> Result<Response<EntitySpec>, Status> {
        Ok(Response::new(spec()))
    }

    async fn report_error(
        &self,
        report: Request<UserFunctionError>,
    ) -> Result<Response<()>, Status> {
        self.shared.reports.lock().unwrap().push(report.into_inner().message);
        Ok(Response::new(()))
    }
}

fn spec() -> EntitySpec {
    let methods: Vec<_> =
        METHODS.iter().map(|method| format!("rpc {method}(Item) returns (Total);")).collect();
    let methods = methods.join(" ");
    let proto = format!(
        r#"
        syntax = "proto3";
        package rogue;
        import "entity_key.proto";
        message Item {{ string id = 1 [(cloudstate.entity_key) = true]; }}
        message Total {{ int64 value = 1; }}
        service Events {{ {methods} }}
        service Values {{ {methods} }}"#
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entity_key.proto"), ENTITY_KEY).unwrap();
    std::fs::write(dir.path().join("rogue.proto"), proto).unwrap();
    let mut compiler = protox::Compiler::new([dir.path()]).unwrap();
    compiler.include_imports(true).open_file("rogue.proto").unwrap();
    let entity = |entity_type: &str, service_name: &str, persistence_id: &str| Entity {
        entity_type: entity_type.to_owned(),
        service_name: service_name.to_owned(),
        persistence_id: persistence_id.to_owned(),
        passivation_strategy: None,
    };
    EntitySpec {
        proto: compiler.encode_file_descriptor_set().into(),
        entities: vec![
            entity(protocol::EVENT_SOURCED, "rogue.Events", "events"),
            entity(protocol::VALUE_ENTITY, "rogue.Values", "values"),
        ],
        service_info: Some(ServiceInfo {
            service_name: "rogue".to_owned(),
            protocol_major_version: 0,
            protocol_minor_version: 2,
            ..ServiceInfo::default()
        }),
    }
}
