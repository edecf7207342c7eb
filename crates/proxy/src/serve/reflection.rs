//! Server reflection, so that `grpcurl` and its like need no `.proto` file. It answers from the user
//! function's own descriptors, with custom options as they are.
//!
//! Version `v1alpha` answers a symbol that there is not with no file at all, as old tools expect; `v1`
//! with NOT_FOUND, as its description says.

use std::{collections::HashSet, convert::Infallible, sync::Arc};

use futures::{StreamExt as _, stream::BoxStream};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use prost_reflect::{DescriptorPool, FileDescriptor};
use tonic::{Code, Status, Streaming, body::Body};
use tonic_reflection::pb::{
    v1::{
        self, ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
        ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
        server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
        server_reflection_server::{ServerReflection, ServerReflectionServer},
    },
    v1alpha,
};
use tower::ServiceExt as _;
use tracing::warn;

/// Most bytes of a question: a name or two.
const QUESTION_MAX: usize = 4 << 10;

const SERVICE_V1: &str = "grpc.reflection.v1.ServerReflection";

/// What can be asked.
struct Questions {
    /// The user function's files, and those of the reflection service itself.
    pools: [DescriptorPool; 2],
    /// This version of the reflection service, then those of the user function, sorted.
    services: Vec<String>,
}

/// The versions have the same messages under different names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V1Alpha,
}

/// Both versions of the service.
#[derive(Clone)]
pub(super) struct Reflection {
    v1: Service,
    v1alpha: Service,
}

impl Reflection {
    /// Reflection over these descriptors, of which these services are served.
    pub(super) fn new(descriptors: &[u8], services: &[String]) -> Self {
        let user_function = DescriptorPool::decode(descriptors)
            .inspect_err(|error| warn!(%error, "the descriptors do not suit reflection"))
            .unwrap_or_default();
        let service = |version, own: &[u8], name: &str| {
            let own = DescriptorPool::decode(own).expect("the library's own descriptors are whole");
            let services = [name.to_owned()].into_iter().chain(services.iter().cloned()).collect();
            let pools = [user_function.clone(), own];
            Service { questions: Arc::new(Questions { pools, services }), version }
        };
        let name = "grpc.reflection.v1alpha.ServerReflection";
        Self {
            v1: service(Version::V1, v1::FILE_DESCRIPTOR_SET, SERVICE_V1),
            v1alpha: service(Version::V1Alpha, v1alpha::FILE_DESCRIPTOR_SET, name),
        }
    }

    pub(super) async fn answer(
        &self,
        version: Version,
        mut request: Request<Incoming>,
    ) -> Response<Body> {
        let service = match version {
            Version::V1 => &self.v1,
            Version::V1Alpha => {
                let method = request.uri().path().rsplit('/').next().unwrap_or_default();
                if let Ok(path) = format!("/{SERVICE_V1}/{method}").parse::<Uri>() {
                    *request.uri_mut() = path;
                }
                &self.v1alpha
            }
        };
        let answered: Result<_, Infallible> = ServerReflectionServer::new(service.clone())
            .max_decoding_message_size(QUESTION_MAX)
            .oneshot(request)
            .await;
        let Ok(response) = answered;
        response
    }
}

/// A symbol, file or extension that there is not.
struct Missing(String);

impl Missing {
    fn into_response(self, version: Version) -> MessageResponse {
        match version {
            Version::V1 => MessageResponse::ErrorResponse(ErrorResponse {
                error_code: Code::NotFound as i32,
                error_message: self.0,
            }),
            Version::V1Alpha => {
                MessageResponse::FileDescriptorResponse(FileDescriptorResponse::default())
            }
        }
    }
}

impl Questions {
    fn answer(
        &self,
        question: MessageRequest,
        sent: &mut Sent,
    ) -> Result<MessageResponse, Missing> {
        let file = match question {
            MessageRequest::FileByFilename(name) => self.file(&name)?,
            MessageRequest::FileContainingSymbol(symbol) => self.file_of_symbol(&symbol)?,
            MessageRequest::FileContainingExtension(asked) => {
                self.file_of_extension(&asked.containing_type, asked.extension_number)?
            }
            MessageRequest::AllExtensionNumbersOfType(name) => {
                let extension_number = self.extension_numbers(&name)?;
                let numbers = ExtensionNumberResponse { base_type_name: name, extension_number };
                return Ok(MessageResponse::AllExtensionNumbersResponse(numbers));
            }
            MessageRequest::ListServices(_) => {
                let names = self.services.iter().cloned();
                let service = names.map(|name| ServiceResponse { name }).collect();
                return Ok(MessageResponse::ListServicesResponse(ListServiceResponse { service }));
            }
        };
        let file_descriptor_proto = sent.files(file);
        let files = FileDescriptorResponse { file_descriptor_proto };
        Ok(MessageResponse::FileDescriptorResponse(files))
    }

    fn find<T>(&self, what: impl FnMut(&DescriptorPool) -> Option<T>) -> Option<T> {
        self.pools.iter().find_map(what)
    }

    fn file(&self, name: &str) -> Result<FileDescriptor, Missing> {
        let file = self.find(|pool| pool.get_file_by_name(name));
        file.ok_or_else(|| Missing(format!("no file {name:?}")))
    }

    /// The file in which a message, enum, service, extension, method, field, oneof or enum value is.
    fn file_of_symbol(&self, symbol: &str) -> Result<FileDescriptor, Missing> {
        let symbol = symbol.strip_prefix('.').unwrap_or(symbol);
        let file = self.find(|pool| file_of(pool, symbol));
        file.ok_or_else(|| Missing(format!("no symbol {symbol:?}")))
    }

    fn file_of_extension(&self, message: &str, number: i32) -> Result<FileDescriptor, Missing> {
        let number_there = u32::try_from(number).unwrap_or_default();
        let extension =
            self.find(|pool| pool.get_message_by_name(message)?.get_extension(number_there));
        let file = extension.map(|extension| extension.parent_file());
        file.ok_or_else(|| Missing(format!("no extension {number} of {message:?}")))
    }

    fn extension_numbers(&self, message: &str) -> Result<Vec<i32>, Missing> {
        let message = self
            .find(|pool| pool.get_message_by_name(message))
            .ok_or_else(|| Missing(format!("no message {message:?}")))?;
        let numbers = message.extensions().map(|extension| extension.number());
        Ok(numbers.filter_map(|number| i32::try_from(number).ok()).collect())
    }
}

fn file_of(pool: &DescriptorPool, symbol: &str) -> Option<FileDescriptor> {
    if let Some(message) = pool.get_message_by_name(symbol) {
        return Some(message.parent_file());
    }
    if let Some(of_enum) = pool.get_enum_by_name(symbol) {
        return Some(of_enum.parent_file());
    }
    if let Some(service) = pool.get_service_by_name(symbol) {
        return Some(service.parent_file());
    }
    if let Some(extension) = pool.get_extension_by_name(symbol) {
        return Some(extension.parent_file());
    }
    let (parent, name) = symbol.rsplit_once('.')?;
    if let Some(service) = pool.get_service_by_name(parent) {
        return service.methods().find(|m| m.name() == name).map(|_| service.parent_file());
    }
    if let Some(message) = pool.get_message_by_name(parent)
        && (message.get_field_by_name(name).is_some()
            || message.oneofs().any(|oneof| oneof.name() == name))
    {
        return Some(message.parent_file());
    }
    // Values of an enum are its siblings by name; tools name them as its children, too.
    let is_value = |of: &prost_reflect::EnumDescriptor| of.get_value_by_name(name).is_some();
    if let Some(of_enum) = pool.get_enum_by_name(parent) {
        return is_value(&of_enum).then(|| of_enum.parent_file());
    }
    let mut enums = pool.all_enums().filter(|of| scope(of.full_name()) == parent);
    enums.find(is_value).map(|of| of.parent_file())
}

fn scope(full_name: &str) -> &str {
    full_name.rsplit_once('.').map_or("", |(scope, _name)| scope)
}

/// What one stream was sent already: each file goes out once.
#[derive(Default)]
struct Sent(HashSet<String>);

impl Sent {
    /// A file with all that it needs, itself first.
    fn files(&mut self, file: FileDescriptor) -> Vec<Vec<u8>> {
        let (mut files, mut queue) = (Vec::new(), vec![file]);
        while let Some(file) = queue.pop() {
            // The file that was asked for is sent again, or the answer would be empty.
            if self.0.insert(file.name().to_owned()) || files.is_empty() {
                queue.extend(file.dependencies());
                files.push(file.encode_to_vec());
            }
        }
        files
    }
}

/// One version of the service.
#[derive(Clone)]
struct Service {
    questions: Arc<Questions>,
    version: Version,
}

#[tonic::async_trait]
impl ServerReflection for Service {
    type ServerReflectionInfoStream = BoxStream<'static, Result<ServerReflectionResponse, Status>>;

    async fn server_reflection_info(
        &self,
        request: tonic::Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<tonic::Response<Self::ServerReflectionInfoStream>, Status> {
        let (service, mut sent) = (self.clone(), Sent::default());
        let answers = request.into_inner().map(move |request| service.answer(request?, &mut sent));
        Ok(tonic::Response::new(answers.boxed()))
    }
}

impl Service {
    fn answer(
        &self,
        request: ServerReflectionRequest,
        sent: &mut Sent,
    ) -> Result<ServerReflectionResponse, Status> {
        let question = request.message_request.clone();
        let question = question.ok_or_else(|| Status::invalid_argument("no question"))?;
        let answer = self.questions.answer(question, sent);
        let answer = answer.unwrap_or_else(|missing| missing.into_response(self.version));
        Ok(ServerReflectionResponse {
            valid_host: request.host.clone(),
            original_request: Some(request),
            message_response: Some(answer),
        })
    }
}
