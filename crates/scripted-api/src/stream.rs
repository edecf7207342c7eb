//! What a watch sends.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fault::{Call, Delivery};
use crate::request::{Filter, Request};
use crate::server::Inner;
use crate::store::{Change, Refusal};

/// A watch without a time-out ends after so long.
const TIMEOUT_DEFAULT: Duration = Duration::from_mins(30);

/// One watch.
pub(crate) struct Watching {
    inner: Arc<Inner>,
    request: Request,
    filter: Filter,
    /// Up to where it has read.
    version: u64,
    changed: watch::Receiver<u64>,
    deadline: Instant,
    ready: VecDeque<io::Result<Bytes>>,
    is_over: bool,
}

impl Watching {
    pub(crate) fn new(inner: Arc<Inner>, request: Request) -> Result<Self, Refusal> {
        let seconds = request.query("timeoutSeconds").and_then(|text| text.parse().ok());
        let timeout = seconds.map_or(TIMEOUT_DEFAULT, Duration::from_secs);
        let filter = request.filter()?;
        let changed = inner.server.changed.subscribe();
        let store = inner.server.lock();
        let mut ready = VecDeque::new();
        let version = match request.query("resourceVersion") {
            None | Some("0") => {
                let found = store.list(request.call.kind, request.namespace());
                let found = found.iter().filter(|object| filter.takes(object));
                ready.extend(found.map(|object| Ok(event("ADDED", &request.shown(object)))));
                store.version()
            }
            Some(version) => {
                let Ok(number) = version.parse() else {
                    return Err(Refusal::bad(format!("invalid resource version {version:?}")));
                };
                number
            }
        };
        drop(store);
        let deadline = Instant::now() + timeout;
        Ok(Self { inner, request, filter, version, changed, deadline, ready, is_over: false })
    }

    /// The next bytes; nothing at its end.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            if self.is_over {
                return None;
            }
            self.changed.borrow_and_update();
            self.read();
            if !self.ready.is_empty() {
                continue;
            }
            tokio::select! {
                biased;
                changed = self.changed.changed() => self.is_over |= changed.is_err(),
                () = tokio::time::sleep_until(self.deadline) => {
                    self.is_over = true;
                    if self.request.query("allowWatchBookmarks") == Some("true") {
                        self.ready.push_back(Ok(self.bookmark()));
                    }
                }
            }
        }
    }

    /// Takes up what has happened meanwhile.
    fn read(&mut self) {
        let server = Arc::clone(&self.inner.server);
        let store = server.lock();
        let changes: Vec<Change> = match store.changes(self.version) {
            Ok(changes) => changes
                .filter(|change| {
                    let Call { kind, .. } = &self.request.call;
                    let namespace = self.request.namespace();
                    change.key.kind == *kind
                        && namespace.is_none_or(|namespace| change.key.namespace == namespace)
                })
                .cloned()
                .collect(),
            Err(refusal) => {
                self.ready.push_back(Ok(event("ERROR", &refusal.to_json())));
                self.is_over = true;
                return;
            }
        };
        self.version = store.version();
        drop(store);
        for change in changes {
            let Some((kind, object)) = self.event(&change) else { continue };
            let arrives = Ok(event(kind, &self.request.shown(&object)));
            match self.inner.delivery(&self.request.call, &change) {
                Delivery::Once => self.ready.push_back(arrives),
                Delivery::Twice => {
                    let again = Ok(event(kind, &self.request.shown(&object)));
                    self.ready.extend([arrives, again]);
                }
                Delivery::ThenStale => {
                    self.ready.push_back(arrives);
                    if let Some(before) = &change.before {
                        let stale = self.request.shown(before);
                        self.ready.push_back(Ok(event("MODIFIED", &stale)));
                    }
                }
                Delivery::Missed => {
                    let gone = Refusal::expired("too old resource version");
                    self.ready.push_back(Ok(event("ERROR", &gone.to_json())));
                    self.is_over = true;
                    return;
                }
                Delivery::Cut => {
                    let broken = "the connection breaks, as the script says";
                    self.ready
                        .push_back(Err(io::Error::new(io::ErrorKind::ConnectionReset, broken)));
                    self.is_over = true;
                    return;
                }
            }
        }
    }

    /// What the change is for who sees only what the filter takes.
    fn event(&self, change: &Change) -> Option<(&'static str, Arc<Value>)> {
        let taken = |object: &Option<Arc<Value>>| {
            object.as_ref().filter(|object| self.filter.takes(object)).map(Arc::clone)
        };
        match (taken(&change.before), taken(&change.after)) {
            (None, Some(after)) => Some(("ADDED", after)),
            (Some(_), Some(after)) => Some(("MODIFIED", after)),
            (Some(mut before), None) => {
                // Its last state, with the version at which it went.
                Arc::make_mut(&mut before)["metadata"]["resourceVersion"] =
                    json!(change.version.to_string());
                Some(("DELETED", before))
            }
            (None, None) => None,
        }
    }

    fn bookmark(&self) -> Bytes {
        let kind = self.request.call.kind;
        let object = json!({
            "apiVersion": kind.api_version(), "kind": kind.name,
            "metadata": {
                "resourceVersion": self.version.to_string(),
                "creationTimestamp": null,
            },
        });
        event("BOOKMARK", &self.request.shown(&object))
    }
}

fn event(kind: &str, object: &Value) -> Bytes {
    let mut line = json!({ "type": kind, "object": object }).to_string();
    line.push('\n');
    Bytes::from(line)
}
