//! Lists, a page at a time.

use std::fmt;

use serde_json::{Value, json};

use crate::request::Request;
use crate::store::{Refusal, Store};

/// A page of a list, all of whose pages have the version of the first. A later one shows objects as they are by
/// then; a real API server shows them as they were. A watch from that version on tells the rest to both.
pub(crate) fn list(store: &Store, request: &Request) -> Result<Value, Refusal> {
    let filter = request.filter()?;
    let kind = request.call.kind;
    let limit = match request.query("limit").map(str::parse) {
        None | Some(Ok(0)) => usize::MAX,
        Some(Ok(limit)) => limit,
        Some(Err(_)) => return Err(Refusal::bad("limit: not a number")),
    };
    let page = request.query("continue").map(Page::read).transpose()?;
    let version = page.as_ref().map_or_else(|| store.version(), |page| page.version);
    if page.is_some() {
        // What has changed since then must still be known.
        store.changes(version).map(drop)?;
    }
    let place =
        |object: &Value| ["namespace", "name"].map(|field| text(&object["metadata"][field]));
    let is_behind = |object: &Value| page.as_ref().is_none_or(|page| place(object) > page.behind);
    let found = store.list(kind, request.namespace());
    let mut found = found.iter().filter(|object| filter.takes(object) && is_behind(object));
    let shown: Vec<_> = found.by_ref().take(limit).collect();
    let last = shown.last().filter(|_| found.next().is_some());
    let next = last.map(|last| Page { version, behind: place(last) }.to_string());
    let items: Vec<Value> = shown.into_iter().map(|object| request.shown(object)).collect();
    let (api_version, name) = if request.is_metadata {
        ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned())
    } else {
        (kind.api_version(), format!("{}List", kind.name))
    };
    Ok(json!({
        "apiVersion": api_version, "kind": name,
        "metadata": {
            "resourceVersion": version.to_string(), "continue": next.unwrap_or_default(),
        },
        "items": items,
    }))
}

/// Where a list goes on.
struct Page {
    version: u64,
    /// Namespace and name of the last object that was shown.
    behind: [String; 2],
}

impl Page {
    fn read(token: &str) -> Result<Self, Refusal> {
        let mut parts = token.split('/');
        let version = parts.next().and_then(|version| version.parse().ok());
        let behind = [parts.next(), parts.next()].map(|part| part.map(str::to_owned));
        match (version, behind) {
            (Some(version), [Some(namespace), Some(name)]) => {
                Ok(Self { version, behind: [namespace, name] })
            }
            _ => Err(Refusal::bad("continue key is not valid")),
        }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, behind: [namespace, name] } = self;
        write!(f, "{version}/{namespace}/{name}")
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
