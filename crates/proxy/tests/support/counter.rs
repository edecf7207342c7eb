//! A user function that counts, and does everything wrong that a command asks it to.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use protocol::{
    Any,
    cloudstate::{
        ClientAction, Command, Entity, EntitySpec, Failure, Metadata, ProxyInfo, Reply,
        ServiceInfo, UserFunctionError,
        action::action_protocol_server::ActionProtocolServer,
        client_action,
        entity_discovery_server::{EntityDiscovery, EntityDiscoveryServer},
        eventsourced::{
            EventSourcedReply, EventSourcedStreamIn, EventSourcedStreamOut,
            event_sourced_server::{EventSourced, EventSourcedServer},
            event_sourced_stream_in::Message as In,
            event_sourced_stream_out::Message as Out,
        },
    },
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    sync::mpsc,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::{
    PATIENCE,
    desk::{self, Step},
};

const PROTO: &str = r#"
    syntax = "proto3";
    package counter;
    import "entity_key.proto";
    message Item {
        string id = 1 [(cloudstate.entity_key) = true];
        int64 amount = 2;
        string text = 3;
        repeated Step steps = 4;
    }
    message Total { int64 value = 1; }
    // What an answer asks for.
    message Step {
        string what = 1;
        string service = 2;
        string command = 3;
        Item item = 4;
        string text = 5;
        Order order = 6;
    }
    message Order { repeated Step steps = 1; }
    service Counter {
        rpc Add(Item) returns (Total);
        rpc Get(Item) returns (Total);
        // Says no, by way of an answer.
        rpc Refuse(Item) returns (Total);
        // Emits an event, then says no and asks to be built again.
        rpc Regret(Item) returns (Total);
        // Ends with a failure of the whole stream.
        rpc Fail(Item) returns (Total);
        // Answers a command that nobody sent.
        rpc Confuse(Item) returns (Total);
        // Says something that is neither reply nor failure.
        rpc Mumble(Item) returns (Total);
        // Ends the stream without an answer.
        rpc Leave(Item) returns (Total);
        // Never answers.
        rpc Hang(Item) returns (Total);
        // Answers once the test says so, and does the steps.
        rpc Wait(Item) returns (Total);
        // Sends the caller's metadata back.
        rpc Echo(Item) returns (Total);
        // Adds, and does the steps.
        rpc Do(Item) returns (Total);
    }
    service Desk {
        rpc Ask(Order) returns (Total);
        rpc Gather(stream Order) returns (Total);
        rpc Spread(Order) returns (stream Total);
        rpc Chat(stream Order) returns (stream Total);
    }"#;

const ENTITY_KEY: &str = r#"
    syntax = "proto3";
    package cloudstate;
    import "google/protobuf/descriptor.proto";
    extend google.protobuf.FieldOptions { bool entity_key = 1080; }"#;

/// A command's message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Item {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(int64, tag = "2")]
    pub amount: i64,
    #[prost(string, tag = "3")]
    pub text: String,
    #[prost(message, repeated, tag = "4")]
    pub steps: Vec<Step>,
}

/// A reply's message.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Total {
    #[prost(int64, tag = "1")]
    pub value: i64,
}

/// A command for the counter of that name.
pub fn item(id: &str, amount: i64) -> Item {
    Item { id: id.to_owned(), amount, ..Item::default() }
}

/// The user function; clones are the same one.
#[derive(Clone, Default)]
pub struct Counter {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Everything that came in on any stream, in words.
    seen: Mutex<Vec<String>>,
    /// What `reportError` was told.
    reports: Mutex<Vec<String>>,
    /// Lets `Wait` go on.
    go: tokio::sync::Notify,
    /// A snapshot comes with every event whose number divides by this, unless it is zero.
    snapshot_every: i64,
    /// Replaces the discovery answer.
    spec: Mutex<Option<EntitySpec>>,
    /// How often `discover` was called.
    discoveries: AtomicUsize,
    /// Streams that one connection may carry.
    streams_max: Option<u32>,
    runtime: Mutex<Option<Runtime>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.get_mut().unwrap().take() {
            runtime.shutdown_background();
        }
    }
}

impl Counter {
    pub fn with_snapshots(every: i64) -> Self {
        let mut shared = Shared::default();
        shared.snapshot_every = every;
        Self { shared: Arc::new(shared) }
    }

    pub fn with_spec(spec: EntitySpec) -> Self {
        let counter = Self::default();
        counter.describe(spec);
        counter
    }

    pub fn with_streams_max(streams: u32) -> Self {
        let mut shared = Shared::default();
        shared.streams_max = Some(streams);
        Self { shared: Arc::new(shared) }
    }

    /// Answers discovery with this from now on.
    pub fn describe(&self, spec: EntitySpec) {
        *self.shared.spec.lock().unwrap() = Some(spec);
    }

    /// How often it was asked to describe itself.
    pub fn discoveries(&self) -> usize {
        self.shared.discoveries.load(Ordering::SeqCst)
    }

    /// Serves until [`Self::kill`], on threads of its own like another process.
    pub fn listen(&self, address: SocketAddr) {
        let started = Instant::now();
        // The port is free once the threads of one that was killed have seen to it.
        let listener = loop {
            match std::net::TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(error) => assert!(started.elapsed() < PATIENCE, "{address}: {error}"),
            }
            std::thread::yield_now();
        };
        listener.set_nonblocking(true).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let services = Server::builder()
            .max_concurrent_streams(self.shared.streams_max)
            .add_service(EntityDiscoveryServer::new(self.clone()))
            .add_service(EventSourcedServer::new(self.clone()))
            .add_service(ActionProtocolServer::new(self.clone()));
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let connections = TcpListenerStream::new(listener)
                .inspect_ok(|connection| connection.set_nodelay(true).unwrap());
            services.serve_with_incoming(connections).await.unwrap();
        });
        *self.shared.runtime.lock().unwrap() = Some(runtime);
    }

    /// Ends the process that this would be, with every connection.
    pub fn kill(&self) {
        let runtime = self.shared.runtime.lock().unwrap().take().expect("it runs");
        runtime.shutdown_background();
    }

    /// Lets one `Wait` go on.
    pub fn go(&self) {
        self.shared.go.notify_one();
    }

    pub fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub fn reports(&self) -> Vec<String> {
        self.shared.reports.lock().unwrap().clone()
    }

    pub fn saw(&self, what: String) {
        self.shared.seen.lock().unwrap().push(what);
    }
}

/// The counter's description of itself.
pub fn spec() -> EntitySpec {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entity_key.proto"), ENTITY_KEY).unwrap();
    std::fs::write(dir.path().join("counter.proto"), PROTO).unwrap();
    let mut compiler = protox::Compiler::new([dir.path()]).unwrap();
    compiler.include_imports(true).open_file("counter.proto").unwrap();
    EntitySpec {
        proto: compiler.encode_file_descriptor_set().into(),
        entities: vec![
            Entity {
                entity_type: protocol::EVENT_SOURCED.to_owned(),
                service_name: "counter.Counter".to_owned(),
                persistence_id: "counter".to_owned(),
                passivation_strategy: None,
            },
            Entity {
                entity_type: protocol::ACTION.to_owned(),
                service_name: "counter.Desk".to_owned(),
                ..Entity::default()
            },
        ],
        service_info: Some(ServiceInfo { protocol_minor_version: 2, ..ServiceInfo::default() }),
    }
}

#[tonic::async_trait]
impl EntityDiscovery for Counter {
    async fn discover(&self, _: Request<ProxyInfo>) -> Result<Response<EntitySpec>, Status> {
        self.shared.discoveries.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(self.shared.spec.lock().unwrap().clone().unwrap_or_else(spec)))
    }

    async fn report_error(
        &self,
        error: Request<UserFunctionError>,
    ) -> Result<Response<()>, Status> {
        self.shared.reports.lock().unwrap().push(error.into_inner().message);
        Ok(Response::new(()))
    }
}

#[tonic::async_trait]
impl EventSourced for Counter {
    type handleStream = Pin<Box<dyn Stream<Item = Result<EventSourcedStreamOut, Status>> + Send>>;

    async fn handle(
        &self,
        request: Request<Streaming<EventSourcedStreamIn>>,
    ) -> Result<Response<Self::handleStream>, Status> {
        let mut incoming = request.into_inner();
        let (answers, answered) = mpsc::channel(1);
        // Headers go out behind the first message, as some libraries do it.
        let first = incoming.message().await?.and_then(|first| first.message);
        let mut instance = Instance::new(self.clone(), first);
        tokio::spawn(async move {
            while let Ok(Some(EventSourcedStreamIn { message: Some(message) })) =
                incoming.message().await
            {
                let answer = match message {
                    In::Init(_) => panic!("a second init"),
                    In::Event(event) => {
                        instance.counter.saw(format!("event {}", event.sequence));
                        instance.apply(&event.payload.unwrap());
                        continue;
                    }
                    In::Command(command) => instance.command(command).await,
                };
                match answer {
                    Some(answer) => drop(answers.send(Ok(answer)).await),
                    None => return,
                }
            }
            instance.counter.saw("end".to_owned());
        });
        Ok(Response::new(ReceiverStream::new(answered).boxed()))
    }
}

/// One activation.
struct Instance {
    counter: Counter,
    value: i64,
    sequence: i64,
}

impl Instance {
    fn new(counter: Counter, first: Option<In>) -> Self {
        let Some(In::Init(init)) = first else { panic!("{first:?} instead of init") };
        let (mut value, mut sequence) = (0, 0);
        if let Some(snapshot) = init.snapshot {
            value = decode(&snapshot.snapshot.unwrap());
            sequence = snapshot.snapshot_sequence;
        }
        counter.saw(format!("init {} {} at {sequence}", init.service_name, init.entity_id));
        Self { counter, value, sequence }
    }

    fn apply(&mut self, event: &Any) {
        self.value += decode(event);
        self.sequence += 1;
    }

    /// The answer to a command; nothing when the stream is to end.
    async fn command(&mut self, command: Command) -> Option<EventSourcedStreamOut> {
        let item = Item::decode(command.payload.unwrap().value).unwrap();
        self.counter.saw(format!("command {} {}", command.id, command.name));
        let mut reply =
            EventSourcedReply { command_id: command.id, ..EventSourcedReply::default() };
        let mut metadata = None;
        match command.name.as_str() {
            "Add" => {
                let event = any(item.amount);
                self.apply(&event);
                let every = self.counter.shared.snapshot_every;
                if every > 0 && self.sequence % every == 0 {
                    reply.snapshot = Some(any(self.value));
                }
                reply.events = vec![event];
            }
            "Get" => {}
            "Refuse" => reply.client_action = Some(refusal(&item.text, false)),
            "Regret" => {
                reply.events = vec![any(item.amount)];
                reply.client_action = Some(refusal(&item.text, true));
            }
            "Fail" => {
                let description = "secret detail".to_owned();
                let failure = Failure { command_id: command.id, description, restart: false };
                return Some(EventSourcedStreamOut { message: Some(Out::Failure(failure)) });
            }
            "Confuse" => reply.command_id += 1_000,
            "Mumble" => return Some(EventSourcedStreamOut { message: None }),
            "Leave" => return None,
            "Hang" => std::future::pending().await,
            "Wait" => {
                self.counter.shared.go.notified().await;
                let response = desk::responses(item.steps).pop().unwrap_or_default();
                reply.side_effects = response.side_effects;
            }
            "Echo" => metadata = command.metadata,
            "Do" => {
                if item.amount != 0 {
                    let event = any(item.amount);
                    self.apply(&event);
                    reply.events = vec![event];
                }
                let response = desk::responses(item.steps).pop().unwrap_or_default();
                reply.side_effects = response.side_effects;
                reply.client_action = desk::client_action(response.response);
            }
            other => panic!("{other}"),
        }
        reply.client_action.get_or_insert_with(|| self.total(metadata));
        Some(EventSourcedStreamOut { message: Some(Out::Reply(reply)) })
    }

    fn total(&self, metadata: Option<Metadata>) -> ClientAction {
        let value = Bytes::from(Total { value: self.value }.encode_to_vec());
        let payload = Some(Any { type_url: "type.googleapis.com/counter.Total".to_owned(), value });
        ClientAction { action: Some(client_action::Action::Reply(Reply { payload, metadata })) }
    }
}

fn refusal(text: &str, restart: bool) -> ClientAction {
    let failure = Failure { command_id: 0, description: text.to_owned(), restart };
    ClientAction { action: Some(client_action::Action::Failure(failure)) }
}

/// An event or a snapshot: one number; what a test puts behind it does not count.
fn any(value: i64) -> Any {
    let value = Bytes::copy_from_slice(&value.to_be_bytes());
    Any { type_url: "json.cloudstate.io/number".to_owned(), value }
}

fn decode(any: &Any) -> i64 {
    assert_eq!(any.type_url, "json.cloudstate.io/number");
    i64::from_be_bytes(*any.value.first_chunk().unwrap())
}
