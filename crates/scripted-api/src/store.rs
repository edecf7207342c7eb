//! The server without a network: a state machine with one version for everything.

mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::fields::Owners;
use crate::kinds::Kind;

/// Changes that a watch may still begin at; older ones are answered with 410.
const LOG_MAX: usize = 50_000;
/// Every time that the server writes: it has no clock.
pub(crate) const NOW: &str = "2026-01-01T00:00:00Z";

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// What it is.
    pub kind: Kind,
    /// Empty if the kind is not namespaced.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Why a call is refused, as the API server says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// One version of one object, and the one before.
#[derive(Clone, Debug)]
pub struct Change {
    /// The store's version since then.
    pub version: u64,
    /// Which object.
    pub key: Key,
    /// As it was; nothing when it was created.
    pub before: Option<Arc<Value>>,
    /// As it is; nothing when it was deleted.
    pub after: Option<Arc<Value>>,
}

/// What is to become of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patch {
    /// Server-side apply.
    Apply(Value),
    /// RFC 7386.
    Merge(Value),
    /// Merge patch that knows keys of lists and `$patch: delete`.
    Strategic(Value),
}

/// Around a write.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// The field manager.
    pub manager: String,
    /// Whether an apply takes fields from other managers.
    pub force: bool,
    /// Whether it goes to the status, and to nothing else.
    pub to_status: bool,
}

#[derive(Clone, Debug)]
struct Stored {
    value: Arc<Value>,
    owners: Owners,
}

/// All objects, and how they came to be.
#[derive(Clone, Debug, Default)]
pub struct Store {
    version: u64,
    uids_made: u64,
    /// Of the objects that are there.
    uids: BTreeSet<String>,
    objects: BTreeMap<Key, Stored>,
    log: VecDeque<Change>,
}

impl Store {
    /// An empty one, in which every Deployment is rolled out at once.
    pub fn new() -> Self {
        // No object ever has a small version, as on a real server.
        Self { version: 100, ..Self::default() }
    }

    /// That of the newest change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The object, if it is there.
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.objects.get(key).map(|stored| Arc::clone(&stored.value))
    }

    /// The objects of a kind, in all namespaces or in one, in the order of their names.
    pub fn list(&self, kind: Kind, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let first =
            Key { kind, namespace: namespace.unwrap_or_default().to_owned(), name: String::new() };
        self.objects
            .range(first..)
            .take_while(|(key, _)| {
                key.kind == kind && namespace.is_none_or(|namespace| key.namespace == namespace)
            })
            .map(|(_, stored)| Arc::clone(&stored.value))
            .collect()
    }

    /// Every object there is.
    pub fn all(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter().map(|(key, stored)| (key, &stored.value))
    }

    /// What has changed behind that version.
    ///
    /// # Errors
    /// 410 when that is not known any more.
    pub fn changes(&self, behind: u64) -> Result<impl Iterator<Item = &Change>, Refusal> {
        let oldest = self.version - self.log.len() as u64;
        if behind < oldest {
            return Err(Refusal::expired(&format!(
                "too old resource version: {behind} ({oldest})"
            )));
        }
        let skipped = usize::try_from(behind - oldest).unwrap_or(usize::MAX);
        Ok(self.log.iter().skip(skipped))
    }

    /// Forgets how objects came to be: a watch that begins before now is answered with 410.
    pub fn compact(&mut self) {
        self.log.clear();
    }

    /// Writes one version of one object; one that is the same as before is none.
    fn commit(&mut self, key: &Key, stored: Option<Stored>) -> Option<Arc<Value>> {
        let before = self.objects.get(key).map(|stored| Arc::clone(&stored.value));
        self.version += 1;
        let version = self.version;
        let after = stored.map(|mut stored| {
            let value = Arc::make_mut(&mut stored.value);
            value["metadata"]["resourceVersion"] = json!(version.to_string());
            let value = Arc::clone(&stored.value);
            self.objects.insert(key.clone(), stored);
            value
        });
        let uid = |value: &Value| value["metadata"]["uid"].as_str().map(str::to_owned);
        if let Some(after) = &after {
            self.uids.extend(uid(after));
        } else {
            self.objects.remove(key);
            if let Some(uid) = before.as_deref().and_then(uid) {
                self.uids.remove(&uid);
            }
        }
        if self.log.len() >= LOG_MAX {
            self.log.pop_front();
        }
        self.log.push_back(Change { version, key: key.clone(), before, after: after.clone() });
        after
    }

    fn next_uid(&mut self) -> String {
        self.uids_made += 1;
        format!("00000000-0000-4000-8000-{:012x}", self.uids_made)
    }

    /// Deletes what has owners and none of them is left.
    fn collect_garbage(&mut self) {
        loop {
            let found: Vec<Key> =
                self.objects.keys().filter(|key| self.is_garbage(key)).cloned().collect();
            if found.is_empty() {
                return;
            }
            for key in found {
                self.commit(&key, None);
            }
        }
    }

    fn is_garbage(&self, key: &Key) -> bool {
        let Some(stored) = self.objects.get(key) else { return false };
        let owners = stored.value["metadata"]["ownerReferences"].as_array();
        let is_there =
            |owner: &Value| owner["uid"].as_str().is_some_and(|uid| self.uids.contains(uid));
        owners.is_some_and(|owners| !owners.is_empty() && !owners.iter().any(is_there))
    }
}

impl Refusal {
    pub(crate) fn not_found(key: &Key) -> Self {
        let message = format!("{} {:?} not found", key.kind.plural, key.name);
        Self { code: 404, reason: "NotFound", message }
    }

    pub(crate) fn conflict(key: &Key, why: &str) -> Self {
        let Key { kind, name, .. } = key;
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.plural);
        Self { code: 409, reason: "Conflict", message }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self { code: 400, reason: "BadRequest", message: message.into() }
    }

    pub(crate) fn expired(message: &str) -> Self {
        Self { code: 410, reason: "Expired", message: message.to_owned() }
    }

    /// One that a test asks for.
    pub(crate) fn scripted(code: u16) -> Self {
        let reason = match code {
            400 => "BadRequest",
            403 => "Forbidden",
            404 => "NotFound",
            409 => "Conflict",
            410 => "Expired",
            422 => "Invalid",
            429 => "TooManyRequests",
            _ => "InternalError",
        };
        // What an authorizer says is told from what others refuse by its words.
        let message = match code {
            403 => "as the script says, it cannot use the resource like that",
            _ => "as the script says",
        };
        Self { code, reason, message: message.to_owned() }
    }

    /// As it is sent.
    pub(crate) fn to_json(&self) -> Value {
        let Self { code, reason, message } = self;
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code,
        })
    }
}
