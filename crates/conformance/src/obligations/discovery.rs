//! Discovery, and what callers see of the services without knowing them.

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};
use tonic::{Code, Request};
use tonic_reflection::pb::v1alpha::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{
    caller::{is, outcome},
    obligations, say,
    suite::{Obligation, Test},
    wire::PATIENCE,
};

/// These come first: discovery is over when the first test begins.
pub const ALL: &[Obligation] = obligations![
    "discovery":
    is_asked_once_with_version_and_types,
    http_1_is_answered,
    reflection_lists_itself_and_then_the_services,
    reflection_echoes_what_it_was_asked,
    reflection_knows_the_messages,
    reflection_answers_an_unknown_symbol_with_no_file,
    an_unknown_method_is_unimplemented,
];

async fn is_asked_once_with_version_and_types(t: Test) -> Result<()> {
    // That it was asked once is what the end of the suite finds: no test reads another call.
    let info = t.info;
    let version = (info.protocol_major_version, info.protocol_minor_version);
    ensure!(version == protocol::VERSION, "the proxy speaks {version:?}");
    ensure!(!info.proxy_name.is_empty() && !info.proxy_version.is_empty(), "{info:?}");
    let mut types = info.supported_entity_types;
    types.sort_unstable();
    let expected = [protocol::ACTION, protocol::EVENT_SOURCED, protocol::VALUE_ENTITY];
    ensure!(types == expected, "the proxy supports {types:?}");
    Ok(())
}

async fn http_1_is_answered(t: Test) -> Result<()> {
    let asking = async {
        let mut stream = TcpStream::connect(t.proxy).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = time::timeout(PATIENCE, asking).await.context("no answer in time")??;
    ensure!(answer.starts_with("HTTP/1.1 "), "the answer is {answer:?}");
    Ok(())
}

fn asked(question: MessageRequest) -> ServerReflectionRequest {
    ServerReflectionRequest { host: "somebody".to_owned(), message_request: Some(question) }
}

async fn ask(
    t: &Test,
    question: MessageRequest,
) -> Result<(Option<ServerReflectionRequest>, String, MessageResponse)> {
    let mut client = ServerReflectionClient::new(t.channel.clone());
    let questions = tokio_stream::iter([asked(question)]);
    let call =
        async { client.server_reflection_info(questions).await?.into_inner().message().await };
    let answer = outcome(call).await??.context("the stream ended without an answer")?;
    let response = answer.message_response.context("the answer is empty")?;
    Ok((answer.original_request, answer.valid_host, response))
}

async fn reflection_lists_itself_and_then_the_services(t: Test) -> Result<()> {
    let expected = [
        "grpc.reflection.v1alpha.ServerReflection",
        say::cart::CART,
        say::event_sourced::CONFIGURED,
        say::event_sourced::MODEL,
        say::event_sourced::TWO,
        say::action::MODEL,
        say::action::TWO,
        say::value::CONFIGURED,
        say::value::MODEL,
        say::value::TWO,
    ];
    for argument in ["", "*"] {
        let (_, _, answer) = ask(&t, MessageRequest::ListServices(argument.to_owned())).await?;
        let MessageResponse::ListServicesResponse(list) = answer else {
            bail!("the answer is {answer:?}");
        };
        let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
        ensure!(names.len() == expected.len() && names[0] == expected[0], "services: {names:?}");
        ensure!(names[1..].is_sorted(), "not sorted: {names:?}");
        names[1..].sort_unstable();
        let mut rest = expected[1..].to_vec();
        rest.sort_unstable();
        ensure!(names[1..] == rest, "services: {names:?}");
    }
    Ok(())
}

async fn reflection_echoes_what_it_was_asked(t: Test) -> Result<()> {
    let question = MessageRequest::FileContainingSymbol(say::event_sourced::MODEL.to_owned());
    let (request, host, _) = ask(&t, question.clone()).await?;
    ensure!(request == Some(asked(question)), "original_request is {request:?}");
    ensure!(host == "somebody", "valid_host is {host:?}");
    Ok(())
}

async fn reflection_knows_the_messages(t: Test) -> Result<()> {
    for (symbol, file) in [
        (say::event_sourced::MODEL, "eventsourced.proto"),
        ("cloudstate.tck.model.valueentity.Persisted", "tck_valueentity.proto"),
    ] {
        let question = MessageRequest::FileContainingSymbol(symbol.to_owned());
        let (_, _, answer) = ask(&t, question).await?;
        let MessageResponse::FileDescriptorResponse(files) = answer else {
            bail!("the answer for {symbol} is {answer:?}");
        };
        let known =
            |bytes: &Vec<u8>| bytes.windows(file.len()).any(|window| window == file.as_bytes());
        ensure!(files.file_descriptor_proto.iter().any(known), "{symbol}: no {file}");
    }
    Ok(())
}

async fn reflection_answers_an_unknown_symbol_with_no_file(t: Test) -> Result<()> {
    let question = MessageRequest::FileContainingSymbol("nobody.Knows".to_owned());
    let (_, _, answer) = ask(&t, question).await?;
    let MessageResponse::FileDescriptorResponse(files) = answer else {
        bail!("the answer is {answer:?}");
    };
    ensure!(files.file_descriptor_proto.is_empty(), "a file for a symbol that is not there");
    Ok(())
}

async fn an_unknown_method_is_unimplemented(t: Test) -> Result<()> {
    let mut grpc = tonic::client::Grpc::new(t.channel.clone());
    grpc.ready().await?;
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = "/cloudstate.tck.model.EventSourcedTckModel/Nothing".parse()?;
    match outcome(grpc.unary(Request::new(()), path, codec)).await? {
        Ok(_) => bail!("a method that is not there was answered"),
        Err(status) => is(&status, Code::Unimplemented, status.message()),
    }
}
