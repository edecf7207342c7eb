//! The counter: a user function that does as little as possible as fast as possible, so that what is
//! measured is the proxy, and that misbehaves where a call asks for it (`proto/counter.proto`).

mod action;
mod event_sourced;
mod messages;
mod value;

use std::{net::SocketAddr, process::Stdio, sync::LazyLock};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use prost::Message as _;
use protocol::{
    Any,
    cloudstate::{
        ClientAction, Entity, EntitySpec, Failure, Forward, ProxyInfo, Reply, ServiceInfo,
        SideEffect, UserFunctionError,
        action::action_protocol_server::ActionProtocolServer,
        client_action,
        entity_discovery_server::{EntityDiscovery, EntityDiscoveryServer},
        eventsourced::event_sourced_server::EventSourcedServer,
        valueentity::value_entity_server::ValueEntityServer,
    },
};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    process::Command,
};
use tonic::{
    Response, Status,
    transport::{Server, server::TcpIncoming},
};

use crate::process::{Process, program};

pub use messages::{Added, Call, Request, Total};

/// Full name of the event sourced service.
pub const COUNTER: &str = "testbed.Counter";
/// Full name of the value entity's service.
pub const REGISTER: &str = "testbed.Register";
/// Full name of the action's service.
pub const ECHO: &str = "testbed.Echo";

const REQUEST: &str = "type.googleapis.com/testbed.Request";
const TOTAL: &str = "type.googleapis.com/testbed.Total";
/// Type of the events in the journal.
pub const ADDED: &str = "type.googleapis.com/testbed.Added";

/// The user function; holds only how it behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter {
    /// A snapshot comes with every reply whose last event's number divides by this; none when zero.
    pub snapshot_every: u32,
}

impl Counter {
    /// Serves as long as the future is polled.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn serve(self, listener: TcpListener) -> Result<()> {
        Server::builder()
            .initial_connection_window_size(4 * 1024 * 1024)
            .add_service(EntityDiscoveryServer::new(self))
            .add_service(EventSourcedServer::new(self))
            .add_service(ValueEntityServer::new(self))
            .add_service(ActionProtocolServer::new(self))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
            .await
            .context("the counter's server broke")
    }

    /// Starts the program `counter` beside this one, and gives its address.
    ///
    /// # Errors
    /// When it was not built, or does not say where it listens.
    pub async fn start(self, listen: SocketAddr) -> Result<(Process, SocketAddr)> {
        let mut command = Command::new(program("counter")?);
        command.arg(listen.to_string()).arg(self.snapshot_every.to_string());
        command.stdout(Stdio::piped());
        let mut process = Process::start(command)?;
        let stdout = process.stdout().context("the counter has no output")?;
        let line = BufReader::new(stdout).lines().next_line().await?;
        let address = line.with_context(|| format!("the counter is silent: {}", process.log()))?;
        Ok((process, address.parse().with_context(|| format!("{address:?} is no address"))?))
    }
}

/// The counter's description of itself.
pub fn spec() -> EntitySpec {
    let entity = |entity_type: &str, service: &str, persistence_id: &str| Entity {
        entity_type: entity_type.to_owned(),
        service_name: service.to_owned(),
        persistence_id: persistence_id.to_owned(),
        passivation_strategy: None,
    };
    EntitySpec {
        proto: DESCRIPTORS.clone(),
        entities: vec![
            entity(protocol::EVENT_SOURCED, COUNTER, "counter"),
            entity(protocol::VALUE_ENTITY, REGISTER, "register"),
            entity(protocol::ACTION, ECHO, ""),
        ],
        service_info: Some(ServiceInfo {
            service_name: "counter".to_owned(),
            support_library_name: "testbed".to_owned(),
            protocol_major_version: protocol::VERSION.0,
            protocol_minor_version: protocol::VERSION.1,
            ..ServiceInfo::default()
        }),
    }
}

static DESCRIPTORS: LazyLock<Bytes> = LazyLock::new(|| {
    let mut sources = ChainFileResolver::new();
    sources.add(Sources);
    sources.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(sources);
    compiler.include_imports(true).open_file("counter.proto").expect("the file is ours");
    compiler.encode_file_descriptor_set().into()
});

/// The `.proto` files as they were at build time.
struct Sources;

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let source = match name {
            "counter.proto" => include_str!("../proto/counter.proto"),
            "cloudstate/entity_key.proto" => include_str!("../proto/cloudstate/entity_key.proto"),
            _ => return Err(protox::Error::file_not_found(name)),
        };
        File::from_source(name, source)
    }
}

#[tonic::async_trait]
impl EntityDiscovery for Counter {
    async fn discover(&self, _: tonic::Request<ProxyInfo>) -> Result<Response<EntitySpec>, Status> {
        Ok(Response::new(spec()))
    }

    #[expect(clippy::print_stderr, reason = "the log of a small program")]
    async fn report_error(
        &self,
        error: tonic::Request<UserFunctionError>,
    ) -> Result<Response<()>, Status> {
        eprintln!("reported: {}", error.into_inner().message);
        Ok(Response::new(()))
    }
}

impl Request {
    fn of(payload: Option<Any>) -> Result<Self, Status> {
        let payload = payload.ok_or_else(|| Status::invalid_argument("no payload"))?;
        Self::decode(payload.value).map_err(|error| Status::invalid_argument(error.to_string()))
    }

    /// Takes as long as was asked for.
    async fn delay(&self) {
        if self.delay_ms > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(self.delay_ms.into())).await;
        }
    }

    fn take_effects(&mut self) -> Vec<SideEffect> {
        let effect = |call: Call| SideEffect {
            service_name: call.service,
            command_name: call.command,
            payload: call.request.as_ref().map(|request| any(REQUEST, request)),
            synchronous: call.synchronous,
            metadata: None,
        };
        std::mem::take(&mut self.effects).into_iter().map(effect).collect()
    }

    fn take_forward(&mut self) -> Option<Forward> {
        self.forward.take().map(|call| Forward {
            service_name: call.service,
            command_name: call.command,
            payload: call.request.as_ref().map(|request| any(REQUEST, request)),
            metadata: None,
        })
    }

    /// What becomes of the caller: what the request asks for, else this total.
    fn answer(mut self, total: Total) -> ClientAction {
        let action = if !self.failure.is_empty() {
            client_action::Action::Failure(failure(std::mem::take(&mut self.failure)))
        } else if let Some(forward) = self.take_forward() {
            client_action::Action::Forward(forward)
        } else {
            client_action::Action::Reply(Reply {
                payload: Some(any(TOTAL, &total)),
                metadata: None,
            })
        };
        ClientAction { action: Some(action) }
    }
}

fn failure(description: String) -> Failure {
    Failure { command_id: 0, description, restart: false }
}

fn any(type_url: &str, message: &impl prost::Message) -> Any {
    Any { type_url: type_url.to_owned(), value: message.encode_to_vec().into() }
}
