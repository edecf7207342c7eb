//! Server reflection in both versions, as tools ask for it.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use futures::stream;
use prost::Message as _;
use prost_reflect::DescriptorPool;
use support::Stand;
use tonic::{Code, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::{
    ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse,
    server_reflection_request::MessageRequest as Ask,
    server_reflection_response::MessageResponse as Answer,
};

const V1: &str = "grpc.reflection.v1.ServerReflection";
const V1ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// Both versions have the same messages.
async fn ask(
    channel: Channel,
    version: &str,
    questions: Vec<Ask>,
) -> Vec<ServerReflectionResponse> {
    let questions = questions.into_iter().map(|question| ServerReflectionRequest {
        host: "here".to_owned(),
        message_request: Some(question),
    });
    let questions: Vec<_> = questions.collect();
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = format!("/{version}/ServerReflectionInfo").parse().unwrap();
    let codec = ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
    let request = tonic::Request::new(stream::iter(questions.clone()));
    let mut answers = grpc.streaming(request, path, codec).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        assert_eq!(answer.valid_host, "here");
        assert_eq!(answer.original_request.as_ref(), Some(&questions[all.len()]));
        all.push(answer);
    }
    assert_eq!(all.len(), questions.len(), "each question has one answer, then the stream ends");
    all
}

async fn ask_one(stand: &Stand, version: &str, question: Ask) -> Answer {
    let mut answers = ask(stand.channel().await, version, vec![question]).await;
    answers.remove(0).message_response.unwrap()
}

fn symbol(name: &str) -> Ask {
    Ask::FileContainingSymbol(name.to_owned())
}

/// Names of the files in an answer.
fn files(answer: &Answer) -> Vec<String> {
    let Answer::FileDescriptorResponse(files) = answer else { panic!("{answer:?}") };
    let names = files.file_descriptor_proto.iter().map(|file| {
        prost_reflect::prost_types::FileDescriptorProto::decode(file.as_slice())
            .unwrap()
            .name()
            .to_owned()
    });
    names.collect()
}

#[tokio::test]
async fn each_version_lists_itself_and_the_user_functions_services() {
    let stand = Stand::start().await;
    for version in [V1, V1ALPHA] {
        for argument in ["", "*", "counter"] {
            let list = Ask::ListServices(argument.to_owned());
            let answer = ask_one(&stand, version, list).await;
            let Answer::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
            let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
            assert_eq!(names, [version, "counter.Counter", "counter.Desk"]);
        }
    }
}

#[tokio::test]
async fn every_kind_of_symbol_is_found() {
    let stand = Stand::start().await;
    for name in [
        "counter.Counter",
        "counter.Counter.Add",
        "counter.Item",
        ".counter.Item",
        "counter.Item.amount",
        "cloudstate.entity_key",
        "google.protobuf.FieldDescriptorProto.Type",
        "google.protobuf.FieldDescriptorProto.TYPE_INT64",
        "google.protobuf.FieldDescriptorProto.Type.TYPE_INT64",
        "google.protobuf.DescriptorProto.ReservedRange",
        V1,
    ] {
        let files = files(&ask_one(&stand, V1, symbol(name)).await);
        assert!(!files.is_empty(), "{name}");
    }
    let files = files(&ask_one(&stand, V1ALPHA, symbol(V1ALPHA)).await);
    assert_eq!(files.len(), 1);
}

#[tokio::test]
async fn a_file_comes_with_all_that_it_needs_once_for_each_stream() {
    let stand = Stand::start().await;
    let questions = vec![
        symbol("counter.Item"),
        symbol("cloudstate.entity_key"),
        Ask::FileByFilename("counter.proto".to_owned()),
    ];
    for version in [V1, V1ALPHA] {
        let answers = ask(stand.channel().await, version, questions.clone()).await;
        let answers: Vec<_> =
            answers.into_iter().map(|answer| answer.message_response.unwrap()).collect();
        let needed = ["counter.proto", "entity_key.proto", "google/protobuf/descriptor.proto"];
        assert_eq!(files(&answers[0]), needed);
        assert_eq!(files(&answers[1]), ["entity_key.proto"]);
        assert_eq!(files(&answers[2]), ["counter.proto"]);

        // What was sent is whole, and options are in it.
        let Answer::FileDescriptorResponse(sent) = &answers[0] else { panic!() };
        let mut pool = DescriptorPool::new();
        for file in sent.file_descriptor_proto.iter().rev() {
            pool.decode_file_descriptor_proto(file.as_slice()).unwrap();
        }
        let item = pool.get_message_by_name("counter.Item").unwrap();
        let key = pool.get_extension_by_name("cloudstate.entity_key").unwrap();
        let options = item.get_field_by_name("id").unwrap().options();
        assert_eq!(options.get_extension(&key).as_bool(), Some(true));
    }
}

#[tokio::test]
async fn extensions_are_found_by_type_and_number() {
    let stand = Stand::start().await;
    let of = "google.protobuf.FieldOptions".to_owned();
    let extension = |number| {
        let request = ExtensionRequest { containing_type: of.clone(), extension_number: number };
        Ask::FileContainingExtension(request)
    };
    let answer = ask_one(&stand, V1, extension(1080)).await;
    assert_eq!(files(&answer)[0], "entity_key.proto");
    let answer = ask_one(&stand, V1, extension(1)).await;
    assert!(matches!(answer, Answer::ErrorResponse(_)), "{answer:?}");
    let answer = ask_one(&stand, V1, Ask::AllExtensionNumbersOfType(of.clone())).await;
    let Answer::AllExtensionNumbersResponse(numbers) = answer else { panic!("{answer:?}") };
    assert_eq!((numbers.base_type_name, numbers.extension_number), (of, vec![1080]));
}

#[tokio::test]
async fn what_there_is_not_is_an_error_in_v1_and_no_file_in_v1alpha() {
    let stand = Stand::start().await;
    for question in [
        symbol("counter.Nothing"),
        symbol("counter.Counter.Nothing"),
        symbol("counter.Item.nothing"),
        symbol("grpc.health.v1.Health"),
        symbol(""),
        Ask::FileByFilename("nothing.proto".to_owned()),
    ] {
        let answer = ask_one(&stand, V1, question.clone()).await;
        let Answer::ErrorResponse(error) = answer else { panic!("{question:?}: {answer:?}") };
        assert_eq!(error.error_code, Code::NotFound as i32);
        let answer = ask_one(&stand, V1ALPHA, question.clone()).await;
        assert_eq!(files(&answer), Vec::<String>::new(), "{question:?}");
    }
}

#[tokio::test]
async fn reflection_can_be_turned_off() {
    let stand = Stand::start_with(|config| config.edge.reflection = false).await;
    for version in [V1, V1ALPHA] {
        let mut grpc = Grpc::new(stand.channel().await);
        grpc.ready().await.unwrap();
        let path = format!("/{version}/ServerReflectionInfo").parse().unwrap();
        let codec = ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
        let request = tonic::Request::new(stream::iter([ServerReflectionRequest::default()]));
        let status = grpc.streaming(request, path, codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    }
}
