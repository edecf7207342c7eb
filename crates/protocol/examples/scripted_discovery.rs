//! A user function that describes itself as its environment says, for the end-to-end scenarios.
//!
//! | variable | meaning | unless set |
//! |---|---|---|
//! | `PORT` | where it listens | mandatory |
//! | `SCRIPT_PROTOCOL` | the version of the protocol that it claims to speak | `0.2` |
//! | `SCRIPT_ENTITY_TYPE` | the type of its one entity | event sourced |
//! | `SCRIPT_LISTEN` | `never`: it runs, and nothing listens | it listens |
//!
//! It serves discovery and nothing else: what is refused there never gets a command.

#![allow(clippy::disallowed_methods, reason = "the environment is this program's only input")]
#![allow(clippy::print_stderr, reason = "a container's log is its standard error")]

use std::{env, error::Error, net::Ipv4Addr};

use prost::bytes::Bytes;
use protocol::cloudstate::{
    Entity, EntitySpec, ProxyInfo, ServiceInfo, UserFunctionError,
    entity_discovery_server::{EntityDiscovery, EntityDiscoveryServer},
};
use tokio::signal::unix::{SignalKind, signal};
use tonic::{Request, Response, Status, transport::Server};

/// The service that callers would see.
const SERVICE_PROTO: &str = r#"
syntax = "proto3";
package scripted;
import "google/protobuf/empty.proto";
import "cloudstate/entity_key.proto";
message Poke { string id = 1 [(cloudstate.entity_key) = true]; }
service Scripted { rpc DoPoke(Poke) returns (google.protobuf.Empty); }
"#;

/// The option by which a field says that it is the entity's key.
const ENTITY_KEY_PROTO: &str = r#"
syntax = "proto3";
package cloudstate;
import "google/protobuf/descriptor.proto";
extend google.protobuf.FieldOptions { bool entity_key = 1080; }
"#;

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
    Server::builder()
        .add_service(EntityDiscoveryServer::new(Scripted { answer: answer()? }))
        .serve_with_shutdown((Ipv4Addr::UNSPECIFIED, port).into(), stopped)
        .await?;
    Ok(())
}

struct Scripted {
    answer: EntitySpec,
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

fn answer() -> Result<EntitySpec, Box<dyn Error>> {
    let version = env::var("SCRIPT_PROTOCOL").unwrap_or_else(|_| "0.2".to_owned());
    let (major, minor) = version.split_once('.').ok_or("SCRIPT_PROTOCOL is not like 0.2")?;
    Ok(EntitySpec {
        proto: descriptors()?,
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

fn descriptors() -> Result<Bytes, Box<dyn Error>> {
    use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

    struct Inline;
    impl FileResolver for Inline {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            match name {
                "scripted.proto" => File::from_source(name, SERVICE_PROTO),
                "cloudstate/entity_key.proto" => File::from_source(name, ENTITY_KEY_PROTO),
                _ => Err(protox::Error::file_not_found(name)),
            }
        }
    }
    let mut files = ChainFileResolver::new();
    files.add(Inline);
    files.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(files);
    compiler.include_imports(true).open_file("scripted.proto")?;
    Ok(compiler.encode_file_descriptor_set().into())
}
