//! Judges the HTTP annotations (`google.api.http`) of a user function's methods. They are not served yet; a wrong one
//! is refused all the same, so that it is found by its developer and not by the first caller.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor, MethodDescriptor, ServiceDescriptor};
use protocol::cloudstate::Entity;

mod template;

use template::Template;

/// The part of a method's options that matters here. Whether the set defines the option makes no difference.
#[derive(Clone, PartialEq, prost::Message)]
struct Options {
    #[prost(message, tag = "72295728")]
    http: Option<Rule>,
}

/// `google.api.HttpRule`.
#[derive(Clone, PartialEq, prost::Message)]
struct Rule {
    #[prost(oneof = "Pattern", tags = "2, 3, 4, 5, 6, 8")]
    pattern: Option<Pattern>,
    #[prost(string, tag = "7")]
    body: String,
    #[prost(string, tag = "12")]
    response_body: String,
    #[prost(message, repeated, tag = "11")]
    additional_bindings: Vec<Self>,
}

#[derive(Clone, PartialEq, Eq, prost::Oneof)]
enum Pattern {
    #[prost(string, tag = "2")]
    Get(String),
    #[prost(string, tag = "3")]
    Put(String),
    #[prost(string, tag = "4")]
    Post(String),
    #[prost(string, tag = "5")]
    Delete(String),
    #[prost(string, tag = "6")]
    Patch(String),
    #[prost(message, tag = "8")]
    Custom(Custom),
}

/// `google.api.CustomHttpPattern`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Custom {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    path: String,
}

/// Every problem with the annotations of what the entities serve.
pub(super) fn problems(entities: &[Entity], pool: &DescriptorPool) -> Vec<String> {
    let mut problems = Vec::new();
    // Methods by what a caller would ask for.
    let mut asked: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let services =
        entities.iter().filter_map(|entity| pool.get_service_by_name(&entity.service_name));
    for service in services {
        for method in service.methods() {
            let name = method.full_name().to_owned();
            for (verb, path) in bindings(&service, &method, &mut problems) {
                asked.entry((verb, path)).or_default().push(name.clone());
            }
        }
    }
    for ((verb, path), mut methods) in asked {
        methods.dedup();
        if methods.len() > 1 {
            problems.push(format!(
                "methods {} are all {verb} {path} by their options (google.api.http): give each its own path",
                methods.join(", ")
            ));
        }
    }
    problems
}

/// What the method can be asked for by: verb, and path with `*` for each variable.
fn bindings(
    service: &ServiceDescriptor,
    method: &MethodDescriptor,
    problems: &mut Vec<String>,
) -> Vec<(String, String)> {
    let options = Options::decode(&*method.options().encode_to_vec());
    let rule = match options {
        Ok(Options { http: Some(rule) }) => rule,
        // Without an annotation a method is reached as in gRPC.
        Ok(Options { http: None }) => {
            let path = format!("/{}/{}", service.full_name(), method.name());
            return vec![("POST".to_owned(), path)];
        }
        Err(error) => {
            problems.push(format!(
                "method {}: the option (google.api.http) cannot be read ({error}): send the descriptors as \
                 protoc makes them",
                method.full_name()
            ));
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    let mut tell = |problem: String| {
        problems.push(format!(
            "method {}: the option (google.api.http): {problem}",
            method.full_name()
        ));
    };
    for rule in std::iter::once(&rule).chain(&rule.additional_bindings) {
        found.extend(binding(rule, method, &mut tell));
    }
    for rule in &rule.additional_bindings {
        if !rule.additional_bindings.is_empty() {
            tell(
                "additional_bindings stand within additional_bindings: put them side by side"
                    .to_owned(),
            );
        }
    }
    found
}

fn binding(
    rule: &Rule,
    method: &MethodDescriptor,
    tell: &mut impl FnMut(String),
) -> Option<(String, String)> {
    let Some(pattern) = &rule.pattern else {
        tell("names no path: set one of get, put, post, delete, patch or custom".to_owned());
        return None;
    };
    let (verb, path) = match pattern {
        Pattern::Get(path) => ("GET", path),
        Pattern::Put(path) => ("PUT", path),
        Pattern::Post(path) => ("POST", path),
        Pattern::Delete(path) => ("DELETE", path),
        Pattern::Patch(path) => ("PATCH", path),
        Pattern::Custom(Custom { kind, path }) => (kind.as_str(), path),
    };
    if verb.is_empty() {
        tell("custom.kind is empty: name an HTTP method, or * for all".to_owned());
    }
    let (input, output) = (method.input(), method.output());
    if !matches!(rule.body.as_str(), "" | "*") && input.get_field_by_name(&rule.body).is_none() {
        tell(format!("body {:?} is no field of {}: name one, or *", rule.body, input.full_name()));
    }
    if !rule.response_body.is_empty() && output.get_field_by_name(&rule.response_body).is_none() {
        tell(format!(
            "response_body {:?} is no field of {}: name one, or leave it out",
            rule.response_body,
            output.full_name()
        ));
    }
    let template = match Template::parse(path) {
        Ok(template) => template,
        Err(why) => {
            tell(format!("the path {path:?} {why}"));
            return None;
        }
    };
    for variable in template.variables() {
        if let Err(why) = bindable(variable, &input) {
            tell(format!("the path {path:?} has the variable {variable}, which {why}"));
        }
    }
    Some((verb.to_owned(), template.shape()))
}

/// Whether part of a path can become the value of a field.
fn bindable(variable: &str, input: &MessageDescriptor) -> Result<(), String> {
    let mut message = input.clone();
    let mut names = variable.split('.').peekable();
    while let Some(name) = names.next() {
        let field = message.get_field_by_name(name).ok_or_else(|| {
            format!("is not a field of {}: use the name of one", message.full_name())
        })?;
        let is_last = names.peek().is_none();
        match field.kind() {
            _ if field.is_list() || field.is_map() => {
                return Err(format!("is repeated in {}: use a single field", message.full_name()));
            }
            Kind::Message(inner) if !is_last => message = inner,
            // Such as google.protobuf.StringValue, which are texts in JSON.
            Kind::Message(inner) if inner.package_name() == "google.protobuf" => {}
            Kind::Message(inner) => {
                return Err(format!("is a {}: use one of its fields", inner.full_name()));
            }
            _ if is_last => {}
            _ => {
                return Err(format!(
                    "goes through {name}, which has no fields: leave the rest out"
                ));
            }
        }
    }
    Ok(())
}
