//! A user function that describes itself as its environment says, for the end-to-end scenarios.
//!
//! | variable | meaning | unless set |
//! |---|---|---|
//! | `PORT` | where it listens | mandatory |
//! | `SCRIPT_PROTOCOL` | the version of the protocol that it claims to speak | `0.2` |
//! | `SCRIPT_ENTITY_TYPE` | the type of its one entity | event sourced |
//! | `SCRIPT_LISTEN` | `never`: it runs, and nothing listens | it listens |
//! | `SCRIPT_ANSWER_AFTER_MS` | how long an action takes to answer | 0 |
//!
//! It serves discovery and one action: what is refused there never gets a command.

#![allow(clippy::disallowed_methods, reason = "the environment is this program's only input")]
#![allow(clippy::print_stderr, reason = "a container's log is its standard error")]

use std::{env, error::Error, net::Ipv4Addr, time::Duration};

use prost::bytes::Bytes;
use protocol::{
    Any,
    cloudstate::{
        Entity, EntitySpec, ProxyInfo, Reply, ServiceInfo, UserFunctionError,
        action::{
            ActionCommand, ActionResponse,
            action_protocol_server::{ActionProtocol, ActionProtocolServer},
            action_response::Response as Answer,
        },
        entity_discovery_server::{EntityDiscovery, EntityDiscoveryServer},
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time,
};
use tonic::{
    Request, Response, Status, Streaming, codegen::tokio_stream::Empty, transport::Server,
};

/// `proto/scripted.proto` with its imports, as a `FileDescriptorSet`; `tests/fresh.rs` writes it.
const DESCRIPTORS: &[u8] = include_bytes!("descriptors.bin");

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let stopped = async move {
        terminate.recv().await;
    };
    if env::var("SCRIPT_LISTEN").is_ok_and(|listen| listen == "never") {
        stopped.await;
        return Ok(());
    }
    let port: u16 = env::var("PORT")?.parse()?;
    let after = env::var("SCRIPT_ANSWER_AFTER_MS").map_or(Ok(0), |millis| millis.parse())?;
    let scripted = Scripted { answer: answer()?, after: Duration::from_millis(after) };
    Server::builder()
        .add_service(EntityDiscoveryServer::new(scripted.clone()))
        .add_service(ActionProtocolServer::new(scripted))
        .serve_with_shutdown((Ipv4Addr::UNSPECIFIED, port).into(), stopped)
        .await?;
    Ok(())
}

#[derive(Clone)]
struct Scripted {
    answer: EntitySpec,
    after: Duration,
}

#[tonic::async_trait]
impl EntityDiscovery for Scripted {
    async fn discover(&self, _: Request<ProxyInfo>) -> Result<Response<EntitySpec>, Status> {
        Ok(Response::new(self.answer.clone()))
    }

    async fn report_error(
        &self,
        error: Request<UserFunctionError>,
    ) -> Result<Response<()>, Status> {
        eprintln!("the proxy reports: {}", error.into_inner().message);
        Ok(Response::new(()))
    }
}

type Nothing = Empty<Result<ActionResponse, Status>>;

#[tonic::async_trait]
impl ActionProtocol for Scripted {
    type handleStreamedOutStream = Nothing;
    type handleStreamedStream = Nothing;

    async fn handle_unary(
        &self,
        _: Request<ActionCommand>,
    ) -> Result<Response<ActionResponse>, Status> {
        time::sleep(self.after).await;
        let type_url = "type.googleapis.com/google.protobuf.Empty".to_owned();
        let payload = Some(Any { type_url, value: Bytes::new() });
        let response = Some(Answer::Reply(Reply { payload, metadata: None }));
        Ok(Response::new(ActionResponse { response, side_effects: Vec::new() }))
    }

    async fn handle_streamed_in(
        &self,
        _: Request<Streaming<ActionCommand>>,
    ) -> Result<Response<ActionResponse>, Status> {
        Err(not_scripted())
    }

    async fn handle_streamed_out(
        &self,
        _: Request<ActionCommand>,
    ) -> Result<Response<Nothing>, Status> {
        Err(not_scripted())
    }

    async fn handle_streamed(
        &self,
        _: Request<Streaming<ActionCommand>>,
    ) -> Result<Response<Nothing>, Status> {
        Err(not_scripted())
    }
}

/// The one method of `proto/scripted.proto` takes one message and gives one.
fn not_scripted() -> Status {
    Status::unimplemented("there is no such method")
}

fn answer() -> Result<EntitySpec, Box<dyn Error>> {
    let version = env::var("SCRIPT_PROTOCOL").unwrap_or_else(|_| "0.2".to_owned());
    let (major, minor) = version.split_once('.').ok_or("SCRIPT_PROTOCOL is not like 0.2")?;
    Ok(EntitySpec {
        proto: Bytes::from_static(DESCRIPTORS),
        entities: vec![Entity {
            entity_type: env::var("SCRIPT_ENTITY_TYPE")
                .unwrap_or_else(|_| protocol::EVENT_SOURCED.to_owned()),
            service_name: "scripted.Scripted".to_owned(),
            persistence_id: "scripted".to_owned(),
            passivation_strategy: None,
        }],
        service_info: Some(ServiceInfo {
            service_name: "scripted".to_owned(),
            service_version: "1".to_owned(),
            protocol_major_version: major.parse()?,
            protocol_minor_version: minor.parse()?,
            ..ServiceInfo::default()
        }),
    })
}
