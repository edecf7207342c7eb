//! Everything that changes the store.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Key, NOW, Patch, Refusal, Store, Stored, WriteOptions};
use crate::checks::check;
use crate::claims;
use crate::defaults::{fill_in, rolled_out};
use crate::fields::{self, Duplicate, Fields, Owners, Shape, leaves};
use crate::patch;

impl Store {
    /// Creates an object.
    ///
    /// # Errors
    /// 409 if it is there, and what the API server says against it.
    pub fn create(
        &mut self,
        key: &Key,
        body: &Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, Refusal> {
        if self.objects.contains_key(key) {
            let message = format!("{} {:?} already exists", key.kind.plural, key.name);
            return Err(Refusal { code: 409, reason: "AlreadyExists", message });
        }
        let mut wanted = body.clone();
        if key.kind.has_status {
            remove(&mut wanted, "status");
        }
        self.write(key, None, wanted, updated(options), options)
    }

    /// Writes an object as a whole.
    ///
    /// # Errors
    /// 404 if it is not there, 409 if it has another version or uid than the body says.
    pub fn replace(
        &mut self,
        key: &Key,
        body: &Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, Refusal> {
        let live = self.live(key, body)?;
        let wanted = if options.to_status {
            let mut wanted = (*live.value).clone();
            wanted["status"] = body["status"].clone();
            wanted
        } else {
            body.clone()
        };
        self.write(key, Some(&live), wanted, updated(options), options)
    }

    /// Changes an object. Apply creates it if it is not there.
    ///
    /// # Errors
    /// 404 if it is not there, 409 if it has another version or uid than the patch says, or if fields
    /// are another's, and what the API server says against what comes out.
    pub fn patch(
        &mut self,
        key: &Key,
        patch: &Patch,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, Refusal> {
        match patch {
            Patch::Apply(body) => self.apply(key, body, options),
            Patch::Merge(body) | Patch::Strategic(body) => {
                let live = self.live(key, body)?;
                let mut wanted = (*live.value).clone();
                if matches!(patch, Patch::Merge(_)) {
                    patch::merge(&mut wanted, body);
                } else {
                    patch::strategic(&mut wanted, body);
                }
                self.write(key, Some(&live), wanted, updated(options), options)
            }
        }
    }

    /// Deletes an object, and what is left without an owner. What has finalizers is marked only.
    ///
    /// # Errors
    /// 404 if it is not there, 409 if it is another than the preconditions say.
    pub fn delete(&mut self, key: &Key, preconditions: &Value) -> Result<Arc<Value>, Refusal> {
        let live = self.live(key, &json!({ "metadata": preconditions }));
        let mut live = live.map_err(|refusal| match refusal.code {
            422 => Refusal::conflict(key, "Precondition failed: UID in precondition"),
            _ => refusal,
        })?;
        let finalizers = live.value["metadata"]["finalizers"].as_array();
        if finalizers.is_some_and(|finalizers| !finalizers.is_empty()) {
            if live.value["metadata"]["deletionTimestamp"].is_null() {
                Arc::make_mut(&mut live.value)["metadata"]["deletionTimestamp"] = json!(NOW);
                let marked = self.commit(key, Some(live));
                return marked.ok_or_else(|| Refusal::not_found(key));
            }
            return Ok(live.value);
        }
        self.commit(key, None);
        self.collect_garbage();
        Ok(live.value)
    }

    /// Writes what a user would apply with `kubectl`: creates it or replaces it.
    ///
    /// # Panics
    /// If the store refuses it; a test that wants to know why asks for [`Store::replace`].
    #[expect(clippy::panic, reason = "for tests, which have said something impossible then")]
    pub fn put(&mut self, object: &Value) -> Arc<Value> {
        let key = Key::of(object).unwrap_or_else(|| panic!("of no known kind: {object}"));
        let options = WriteOptions { manager: "test".to_owned(), ..WriteOptions::default() };
        let mut body = object.clone();
        remove(&mut body["metadata"], "resourceVersion");
        remove(&mut body["metadata"], "uid");
        let written = match self.get(&key) {
            None => self.create(&key, &body, &options),
            Some(live) => {
                if key.kind.has_status {
                    body["status"] = live["status"].clone();
                }
                self.replace(&key, &body, &options)
            }
        };
        written.unwrap_or_else(|refusal| panic!("{refusal:?}: {object}"))
    }

    fn apply(
        &mut self,
        key: &Key,
        body: &Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, Refusal> {
        let live = match self.live(key, body) {
            Ok(live) => Some(live),
            Err(refusal) if refusal.code == 404 && !options.to_status => {
                if !body["metadata"]["uid"].is_null() {
                    let why = "uid mismatch: the provided object specified a uid, and no existing object was found";
                    return Err(Refusal::conflict(key, why));
                }
                None
            }
            Err(refusal) => return Err(refusal),
        };
        let shape = shape(key);
        let mut body = body.clone();
        part(key, &mut body, options);
        let applied: Fields = leaves(&body, shape).into_keys().collect();
        let mut value = live.as_ref().map_or_else(|| json!({}), |live| (*live.value).clone());
        let before = value.clone();
        fields::merge(&mut value, &body, shape).map_err(|Duplicate(at)| Refusal {
            code: 500,
            reason: "",
            message: format!(
                "failed to create typed patch object: {at}: duplicate entries for key"
            ),
        })?;
        let mut owners = live.as_ref().map(|live| live.owners.clone()).unwrap_or_default();
        let writer = format!("{}/apply{}", options.manager, suffix(options));
        take_over(&before, &value, &applied, &writer, &mut owners, shape)
            .map_or(Ok(()), |other| if options.force { Ok(()) } else { Err(other) })
            .map_err(|other| {
                let message = format!("Apply failed with 1 conflict: conflict with {other:?}");
                Refusal { code: 409, reason: "Conflict", message }
            })?;
        let given_up = match owners.insert(writer, applied.clone()) {
            Some(earlier) => earlier.difference(&applied).cloned().collect(),
            None => Fields::new(),
        };
        fields::remove(&mut value, &given_up, &owners, shape);
        self.write(key, live.as_ref(), value, Ownership::Known(owners), options)
    }

    /// The object, if it is the one that the body is meant for.
    fn live(&self, key: &Key, body: &Value) -> Result<Stored, Refusal> {
        let live = self.objects.get(key).ok_or_else(|| Refusal::not_found(key))?;
        let differs = |field: &str| {
            let meant = &body["metadata"][field];
            !meant.is_null() && *meant != live.value["metadata"][field]
        };
        if differs("resourceVersion") {
            return Err(Refusal::conflict(key, "the object has been modified"));
        }
        if differs("uid") {
            let message = "metadata.uid: Invalid value: field is immutable".to_owned();
            return Err(Refusal { code: 422, reason: "Invalid", message });
        }
        Ok(live.clone())
    }

    /// Stores an object after all that the server does to it.
    fn write(
        &mut self,
        key: &Key,
        live: Option<&Stored>,
        mut wanted: Value,
        ownership: Ownership,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, Refusal> {
        let before = live.map(|live| &*live.value);
        let metadata = before.map(|before| &before["metadata"]);
        wanted["apiVersion"] = json!(key.kind.api_version());
        wanted["kind"] = json!(key.kind.name);
        if options.to_status {
            let mut kept = before.cloned().ok_or_else(|| Refusal::not_found(key))?;
            kept["status"] = wanted["status"].take();
            wanted = kept;
        } else if key.kind.has_status {
            match before.map(|before| &before["status"]) {
                Some(status) if !status.is_null() => wanted["status"] = status.clone(),
                _ => remove(&mut wanted, "status"),
            }
        }
        let own = &mut wanted["metadata"];
        own["name"] = json!(key.name);
        if key.kind.is_namespaced {
            own["namespace"] = json!(key.namespace);
        }
        for field in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
            match metadata.map(|metadata| &metadata[field]) {
                Some(value) if !value.is_null() => own[field] = value.clone(),
                _ => remove(own, field),
            }
        }
        let said = claims::read(&own["managedFields"]);
        remove(own, "managedFields");
        let owners = match ownership {
            Ownership::Known(owners) => owners,
            Ownership::Changed { writer } => changed(live, said, &wanted, writer, shape(key)),
        };
        fill_in(key.kind, &mut wanted);
        check(key.kind, before, &wanted)?;
        // Of custom resources nobody wants to know.
        if let Some(told) = claims::told(&owners).filter(|_| key.kind.has_merged_lists()) {
            wanted["metadata"]["managedFields"] = told;
        }
        if let Some(live) = live
            && *live.value == wanted
            && live.owners == owners
        {
            return Ok(Arc::clone(&live.value));
        }
        let is_new = before.is_none();
        if is_new {
            wanted["metadata"]["uid"] = json!(self.next_uid());
            wanted["metadata"]["creationTimestamp"] = json!(NOW);
        }
        if key.kind.has_generation && (is_new || is_another(before, &wanted)) {
            let generation = wanted["metadata"]["generation"].as_u64().unwrap_or(0);
            wanted["metadata"]["generation"] = json!(generation + 1);
        }
        let is_done = wanted["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
            && !wanted["metadata"]["deletionTimestamp"].is_null();
        let written = self.commit(key, Some(Stored { value: Arc::new(wanted), owners }));
        if is_done {
            self.commit(key, None);
            self.collect_garbage();
        } else if is_new && self.is_garbage(key) {
            self.collect_garbage();
        }
        let written = written.ok_or_else(|| Refusal::not_found(key))?;
        self.roll_out(key, &written);
        Ok(written)
    }

    /// Does what the Deployment's controller does, as if it took no time.
    fn roll_out(&mut self, key: &Key, written: &Value) {
        let Some(status) = rolled_out(key.kind, written, NOW) else { return };
        let Some(mut stored) = self.objects.get(key).cloned() else { return };
        if stored.value["status"] != status {
            Arc::make_mut(&mut stored.value)["status"] = status;
            self.commit(key, Some(stored));
        }
    }
}

impl Key {
    /// Which object that is, by what stands in it.
    pub fn of(object: &Value) -> Option<Self> {
        let kind = crate::Kind::named(object["kind"].as_str()?)?;
        let text = |field: &str| object["metadata"][field].as_str().map(str::to_owned);
        let namespace = if kind.is_namespaced {
            text("namespace").unwrap_or_else(|| "default".to_owned())
        } else {
            String::new()
        };
        Some(Self { kind, namespace, name: text("name")? })
    }
}

/// Who owns what after a write.
enum Ownership {
    Known(Owners),
    /// Whoever writes owns what it changes.
    Changed {
        writer: String,
    },
}

fn updated(options: &WriteOptions) -> Ownership {
    Ownership::Changed { writer: format!("{}/update{}", options.manager, suffix(options)) }
}

fn suffix(options: &WriteOptions) -> &'static str {
    if options.to_status { "/status" } else { "" }
}

fn shape(key: &Key) -> Shape {
    Shape { merges_spec: key.kind.has_merged_lists() }
}

/// Who owns what after a write that is no apply, in which who owned what before may be said.
fn changed(
    live: Option<&Stored>,
    said: Option<Owners>,
    after: &Value,
    writer: String,
    shape: Shape,
) -> Owners {
    let mut owners = said.or_else(|| live.map(|live| live.owners.clone())).unwrap_or_default();
    let old = live.map(|live| leaves(&live.value, shape)).unwrap_or_default();
    let new = leaves(after, shape);
    let changed: Fields = new
        .iter()
        .filter(|(path, value)| old.get(*path) != Some(value))
        .map(|(path, _)| path.clone())
        .collect();
    for fields in owners.values_mut() {
        fields.retain(|path| new.contains_key(path) && !changed.contains(path));
    }
    owners.entry(writer).or_default().extend(changed);
    owners.retain(|_, fields| !fields.is_empty());
    owners
}

/// Takes the fields that an apply changes from whoever else owns them, and names one of those.
fn take_over(
    before: &Value,
    after: &Value,
    applied: &Fields,
    writer: &str,
    owners: &mut Owners,
    shape: Shape,
) -> Option<String> {
    if owners.keys().all(|owner| owner == writer) {
        return None;
    }
    let (old, new) = (leaves(before, shape), leaves(after, shape));
    let mut other = None;
    for (owner, fields) in owners.iter_mut().filter(|(owner, _)| *owner != writer) {
        let count = fields.len();
        fields.retain(|path| !applied.contains(path) || old.get(path) == new.get(path));
        if fields.len() < count {
            other = Some(owner.clone());
        }
    }
    owners.retain(|_, fields| !fields.is_empty());
    other
}

/// Leaves of an applied body only what the call is about.
fn part(key: &Key, body: &mut Value, options: &WriteOptions) {
    if options.to_status {
        let status = body["status"].take();
        *body = json!({ "status": status });
    } else if key.kind.has_status {
        remove(body, "status");
    }
}

/// Whether something but metadata and status differs.
fn is_another(before: Option<&Value>, after: &Value) -> bool {
    let Some(before) = before else { return true };
    let fields = |object: &Value| object.as_object().cloned().unwrap_or_default();
    let is_spec = |field: &str| !["metadata", "status"].contains(&field);
    let (before, after) = (fields(before), fields(after));
    before
        .keys()
        .chain(after.keys())
        .any(|field| is_spec(field) && before.get(field) != after.get(field))
}

fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}
