//! From a request to what it asks for, and from there to an answer.

use std::collections::{BTreeMap, HashMap};

use http::{Method, request::Parts};
use serde_json::{Value, json};

use crate::fault::{Call, Verb};
use crate::kinds::{KINDS, Kind, REVIEW};
use crate::store::{Key, Refusal};

/// What a request asks for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) call: Call,
    query: HashMap<String, String>,
    content_type: String,
    /// Whether only metadata is wanted.
    pub(crate) is_metadata: bool,
}

impl Request {
    /// Reads path, query and headers. `index` is the call's number.
    pub(crate) fn read(parts: &Parts, index: usize) -> Result<Self, Refusal> {
        let query: HashMap<_, _> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (decoded(key), decoded(value)))
            .collect();
        let header = |name| {
            let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let content_type = header(http::header::CONTENT_TYPE);
        let path = parts.uri.path();
        let unknown = || Refusal {
            code: 404,
            reason: "NotFound",
            message: format!("the server could not find the requested resource {path}"),
        };
        let steps: Vec<&str> = path.split('/').filter(|step| !step.is_empty()).collect();
        let (group, version, rest) = match steps[..] {
            ["api", version, ref rest @ ..] => ("", version, rest),
            ["apis", group, version, ref rest @ ..] => (group, version, rest),
            _ => return Err(unknown()),
        };
        let (namespace, rest) = match *rest {
            ["namespaces", namespace, plural, ref rest @ ..] => (namespace, (plural, rest)),
            [plural, ref rest @ ..] => ("", (plural, rest)),
            _ => return Err(unknown()),
        };
        let (plural, rest) = rest;
        let is_it =
            |kind: &&Kind| kind.group == group && kind.version == version && kind.plural == plural;
        let kind = KINDS.iter().find(is_it).copied().ok_or_else(unknown)?;
        let (name, is_status) = match rest {
            [] => ("", false),
            [name] => (*name, false),
            [name, "status"] if kind.has_status => (*name, true),
            _ => return Err(unknown()),
        };
        let watches = query.get("watch").is_some_and(|value| value == "true" || value == "1");
        let verb = match (&parts.method, name.is_empty()) {
            (&Method::POST, true) if kind == REVIEW => Verb::Review,
            _ if kind == REVIEW => return Err(unknown()),
            (&Method::GET, true) if watches => Verb::Watch,
            (&Method::GET, true) => Verb::List,
            (&Method::GET, false) => Verb::Get,
            (&Method::POST, true) => Verb::Create,
            (&Method::PUT, false) => Verb::Replace,
            (&Method::PATCH, false) if content_type.starts_with("application/apply-patch") => {
                Verb::Apply
            }
            (&Method::PATCH, false) => Verb::Patch,
            (&Method::DELETE, false) => Verb::Delete,
            _ => return Err(Refusal::bad(format!("{} {path} is not served", parts.method))),
        };
        if query.contains_key("dryRun") {
            return Err(Refusal::bad("dry run is not served"));
        }
        Ok(Self {
            call: Call {
                index,
                verb,
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                is_status,
            },
            query,
            content_type,
            is_metadata: header(http::header::ACCEPT).contains("as=PartialObjectMetadata"),
        })
    }

    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn is_strategic(&self) -> bool {
        self.content_type.starts_with("application/strategic-merge-patch")
    }

    /// The call that a review asks about.
    pub(crate) fn reviewed(&self, body: &Value) -> Result<Call, Refusal> {
        let asked = &body["spec"]["resourceAttributes"];
        let text = |field: &str| asked[field].as_str().unwrap_or_default();
        let is_it = |kind: &&Kind| kind.group == text("group") && kind.plural == text("resource");
        let kind = KINDS.iter().find(is_it).copied();
        let kind =
            kind.ok_or_else(|| Refusal::bad(format!("a review of {asked} is not served")))?;
        let verb = match text("verb") {
            "get" => Verb::Get,
            "list" => Verb::List,
            "watch" => Verb::Watch,
            "create" => Verb::Create,
            "patch" => Verb::Patch,
            "update" => Verb::Replace,
            "delete" => Verb::Delete,
            other => return Err(Refusal::bad(format!("a review of {other:?} is not served"))),
        };
        let [namespace, name] = ["namespace", "name"].map(|field| text(field).to_owned());
        Ok(Call { index: self.call.index, verb, kind, namespace, name, is_status: false })
    }

    /// The one object that it is about.
    pub(crate) fn key(&self, body: &Value) -> Result<Key, Refusal> {
        let Call { kind, namespace, name, .. } = &self.call;
        let named = body["metadata"]["name"].as_str().unwrap_or_default();
        let name = if name.is_empty() { named } else { name };
        if name.is_empty() {
            return Err(Refusal::bad("metadata.name: Required value"));
        }
        Ok(Key { kind: *kind, namespace: namespace.clone(), name: name.to_owned() })
    }

    /// The namespace, unless it is about all of them.
    pub(crate) fn namespace(&self) -> Option<&str> {
        (!self.call.namespace.is_empty()).then_some(self.call.namespace.as_str())
    }

    pub(crate) fn filter(&self) -> Result<Filter, Refusal> {
        Ok(Filter {
            labels: requirements(self.query("labelSelector").unwrap_or_default())?,
            fields: requirements(self.query("fieldSelector").unwrap_or_default())?,
        })
    }

    /// The object as it is sent.
    pub(crate) fn shown(&self, object: &Value) -> Value {
        if !self.is_metadata {
            return object.clone();
        }
        json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": object["metadata"],
        })
    }
}

/// Which objects a list or a watch is about.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    labels: BTreeMap<String, Option<String>>,
    fields: BTreeMap<String, Option<String>>,
}

impl Filter {
    pub(crate) fn takes(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let has = |(key, value): (&String, &Option<String>)| match value {
            Some(value) => labels[key.as_str()] == value.as_str(),
            None => !labels[key.as_str()].is_null(),
        };
        let is = |(path, value): (&String, &Option<String>)| {
            let found = path.split('.').fold(object, |object, step| &object[step]);
            found.as_str() == value.as_deref()
        };
        self.labels.iter().all(has) && self.fields.iter().all(is)
    }
}

/// `a=b,c`: what has to be equal, and what has to be there.
fn requirements(selector: &str) -> Result<BTreeMap<String, Option<String>>, Refusal> {
    let parts = selector.split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            if part.contains(['!', '(']) {
                return Err(Refusal::bad(format!("selector {selector:?} is not served")));
            }
            Ok(match part.split_once('=') {
                Some((key, value)) => {
                    (key.to_owned(), Some(value.trim_start_matches('=').to_owned()))
                }
                None => (part.to_owned(), None),
            })
        })
        .collect()
}

/// Without percent signs.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| (byte as char).to_digit(16));
                match (digit(rest.next()), digit(rest.next())) {
                    (Some(high), Some(low)) => u8::try_from(high * 16 + low).unwrap_or(b'?'),
                    _ => b'?',
                }
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, uri: &str) -> Result<Request, Refusal> {
        let request = http::Request::builder().method(method).uri(uri).body(()).unwrap();
        Request::read(&request.into_parts().0, 0)
    }

    #[test]
    fn paths_name_kind_namespace_object_and_status() {
        let uri = "/apis/cloudstate.io/v1alpha1/namespaces/shop/statefulservices/cart/status";
        let call = read("GET", uri).unwrap().call;
        assert_eq!((call.verb, call.kind.name), (Verb::Get, "StatefulService"));
        assert_eq!((call.namespace.as_str(), call.name.as_str()), ("shop", "cart"));
        assert!(call.is_status);
        let call = read("GET", "/api/v1/namespaces?watch=true").unwrap().call;
        assert_eq!((call.verb, call.kind.name), (Verb::Watch, "Namespace"));
        assert_eq!(read("GET", "/api/v1/nodes").unwrap_err().code, 404);
    }

    #[test]
    fn selectors_ask_for_labels_and_fields() {
        let uri = "/api/v1/pods?labelSelector=a%3Db,c&fieldSelector=metadata.name%3Dx";
        let filter = read("GET", uri).unwrap().filter().unwrap();
        let object =
            |name: &str, labels: Value| json!({ "metadata": { "name": name, "labels": labels } });
        assert!(filter.takes(&object("x", json!({ "a": "b", "c": "" }))));
        assert!(!filter.takes(&object("x", json!({ "a": "b" }))));
        assert!(!filter.takes(&object("y", json!({ "a": "b", "c": "" }))));
    }
}
