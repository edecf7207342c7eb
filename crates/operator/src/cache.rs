//! What is known of a kind of objects, kept as text.
//!
//! A Deployment as a value takes several times the memory of its text: each field has its place whether it is
//! there or not, and each map of labels has room for eleven. With thousands of services that is most of
//! what the operator needs, so an object is read from its text when somebody looks at it, and let go.

mod mark;
mod text;

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::error;

pub(crate) use self::mark::{Cached, Mark};
use self::text::Text;

/// Everything that is known of a kind. Clones are the same.
pub(crate) struct Cache<K> {
    objects: Arc<RwLock<Objects>>,
    is_complete: watch::Receiver<bool>,
    kind: PhantomData<fn() -> K>,
}

type Objects = HashMap<Key, Kept>;

/// Namespace and name, with a slash between.
type Key = Box<str>;

struct Kept {
    text: Text,
    marks: Box<[Mark]>,
    uid: Mark,
    /// Versions are numbers that grow (KEP-5504); of what is none, nothing is known.
    version: Option<u64>,
}

/// An object as it was until now.
pub(crate) struct Former<K>(Text, PhantomData<fn() -> K>);

impl<K: Cached> Former<K> {
    /// The object.
    pub(crate) fn read(&self) -> Option<K> {
        read(&self.0)
    }

    /// Only its metadata.
    pub(crate) fn metadata(&self) -> ObjectMeta {
        read::<PartialObjectMeta<K>>(&self.0).map(|found| found.metadata).unwrap_or_default()
    }
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        let Self { objects, is_complete, kind } = self;
        Self { objects: Arc::clone(objects), is_complete: is_complete.clone(), kind: *kind }
    }
}

impl<K: Cached> Cache<K> {
    /// The object, if it is there.
    pub(crate) fn get(&self, reference: &ObjectRef<K>) -> Option<Arc<K>> {
        let key = key(reference.namespace.as_deref(), &reference.name);
        let found = self.lock();
        read(&found.get(&key)?.text).map(Arc::new)
    }

    /// Whether the object is there.
    pub(crate) fn has(&self, reference: &ObjectRef<K>) -> bool {
        self.lock().contains_key(&key(reference.namespace.as_deref(), &reference.name))
    }

    /// What [`identity_of`] says of the object, if it is there.
    pub(crate) fn identity(&self, reference: &ObjectRef<K>) -> Option<Mark> {
        let key = key(reference.namespace.as_deref(), &reference.name);
        self.lock().get(&key).map(|kept| kept.uid)
    }

    /// Whether a later version of that very object is known already.
    pub(crate) fn has_later(&self, object: &K) -> bool {
        let found = self.lock();
        let Some(kept) = found.get(&key_of(object)) else { return false };
        kept.uid == identity_of(object)
            && version_of(object).zip(kept.version).is_some_and(|(this, known)| this < known)
    }

    /// Every object that has all of the marks.
    pub(crate) fn find(&self, marks: &[Mark]) -> Vec<Arc<K>> {
        let found = self.lock();
        let marked = found.values().filter(|kept| kept.has(marks));
        marked.filter_map(|kept| read(&kept.text).map(Arc::new)).collect()
    }

    /// Of every object that has all of the marks, where it is found.
    pub(crate) fn references(&self, marks: &[Mark]) -> Vec<ObjectRef<K>> {
        let found = self.lock();
        found
            .iter()
            .filter(|(_, kept)| kept.has(marks))
            .map(|(key, _)| {
                let (namespace, name) = key.split_once('/').unwrap_or_default();
                let reference = ObjectRef::new(name);
                if namespace.is_empty() { reference } else { reference.within(namespace) }
            })
            .collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Returns once everything is known.
    ///
    /// # Errors
    /// When nobody will ever say so.
    pub(crate) async fn is_complete(&self) -> anyhow::Result<()> {
        self.is_complete.clone().wait_for(|is_complete| *is_complete).await?;
        Ok(())
    }

    fn lock(&self) -> RwLockReadGuard<'_, Objects> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn of<K: Cached>(object: &K) -> Option<Self> {
        let text = match Text::of(object) {
            Ok(text) => text,
            Err(error) => {
                error!(kind = %K::kind(&()), name = object.name_any(), %error, "object cannot be kept");
                return None;
            }
        };
        let marks = object.marks().into_boxed_slice();
        Some(Self { text, marks, uid: identity_of(object), version: version_of(object) })
    }

    fn has(&self, marks: &[Mark]) -> bool {
        marks.iter().all(|mark| self.marks.contains(mark))
    }
}

/// The other end of a cache: what its watch says goes in here.
pub(crate) struct Filler<K> {
    objects: Arc<RwLock<Objects>>,
    is_complete: watch::Sender<bool>,
    /// Of a list that is not complete yet.
    listed: Objects,
    kind: PhantomData<fn() -> K>,
}

/// A cache that nothing is known in yet.
pub(crate) fn cache<K: Cached>() -> (Cache<K>, Filler<K>) {
    let filler = Filler {
        objects: Arc::default(),
        is_complete: watch::Sender::new(false),
        listed: HashMap::new(),
        kind: PhantomData,
    };
    (filler.cache(), filler)
}

impl<K: Cached> Filler<K> {
    /// Takes up an event, and says what was known of its object.
    pub(crate) fn apply(&mut self, event: &Event<K>) -> Option<Former<K>> {
        let mut former = None;
        match event {
            Event::Apply(object) => {
                if let Some(kept) = Kept::of(object) {
                    former = self.lock().insert(key_of(object), kept);
                }
            }
            Event::Delete(object) => former = self.lock().remove(&key_of(object)),
            Event::Init => self.listed = HashMap::new(),
            Event::InitApply(object) => {
                if let Some(kept) = Kept::of(object) {
                    self.listed.insert(key_of(object), kept);
                }
            }
            Event::InitDone => {
                let mut listed = std::mem::take(&mut self.listed);
                listed.shrink_to_fit();
                *self.lock() = listed;
                self.is_complete.send_replace(true);
            }
        }
        former.map(|kept| Former(kept.text, PhantomData))
    }

    /// What is read from it.
    pub(crate) fn cache(&self) -> Cache<K> {
        let objects = Arc::clone(&self.objects);
        Cache { objects, is_complete: self.is_complete.subscribe(), kind: PhantomData }
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Objects> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read<T: DeserializeOwned>(text: &Text) -> Option<T> {
    // It was written by ourselves.
    text.read().inspect_err(|error| error!(%error, "object in a cache cannot be read")).ok()
}

fn key_of<K: Resource>(object: &K) -> Key {
    key(object.meta().namespace.as_deref(), object.meta().name.as_deref().unwrap_or_default())
}

fn key(namespace: Option<&str>, name: &str) -> Key {
    format!("{}/{name}", namespace.unwrap_or_default()).into_boxed_str()
}

/// Tells the object from others of its name.
pub(crate) fn identity_of<K: Resource>(object: &K) -> Mark {
    Mark::of(&object.meta().uid)
}

fn version_of<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use api::StatefulService;
    use serde_json::{Value, json};

    use super::*;

    fn service(name: &str, uid: &str, version: &str, spec: &Value) -> StatefulService {
        let mut spec = spec.clone();
        spec["containers"] = json!([{ "image": "a" }]);
        let object = json!({
            "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulService",
            "metadata": {
                "name": name, "namespace": "shop", "uid": uid, "resourceVersion": version,
            },
            "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    }

    fn names(found: &[Arc<StatefulService>]) -> Vec<String> {
        let mut names: Vec<_> = found.iter().map(|service| service.name_any()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_list_is_known_when_it_is_complete_and_takes_the_place_of_what_was_known() {
        let (cache, mut filler) = cache::<StatefulService>();
        let none = json!({});
        filler.apply(&Event::Apply(service("former", "u0", "1", &none)));
        filler.apply(&Event::Init);
        filler.apply(&Event::InitApply(service("cart", "u1", "2", &none)));
        assert_eq!(names(&cache.find(&[])), ["former"]);
        assert!(!*cache.is_complete.borrow());
        filler.apply(&Event::InitDone);
        cache.is_complete().await.unwrap();
        assert_eq!(names(&cache.find(&[])), ["cart"]);
        assert_eq!(cache.len(), 1);
    }

    #[tokio::test]
    async fn who_waits_for_a_list_hears_when_nobody_reads_it() {
        let (cache, filler) = cache::<StatefulService>();
        drop(filler);
        assert!(cache.is_complete().await.is_err());
    }

    #[test]
    fn an_object_is_found_by_its_name_and_by_its_marks() {
        let (cache, mut filler) = cache::<StatefulService>();
        let bound = json!({ "datastore": { "name": "carts" } });
        filler.apply(&Event::Apply(service("cart", "u1", "1", &bound)));
        filler.apply(&Event::Apply(service("stock", "u2", "2", &json!({}))));
        let reference = ObjectRef::new("cart").within("shop");
        let found = cache.get(&reference).unwrap();
        assert_eq!(serde_json::to_value(&*found).unwrap()["spec"]["datastore"]["name"], "carts");
        assert!(cache.has(&reference));
        assert!(cache.get(&ObjectRef::new("cart").within("stock")).is_none());
        let (shop, carts) = (Mark::namespace("shop"), Mark::store("carts"));
        assert_eq!(names(&cache.find(&[shop])), ["cart", "stock"]);
        assert_eq!(names(&cache.find(&[shop, carts])), ["cart"]);
        assert!(cache.find(&[Mark::namespace("stock"), carts]).is_empty());
        assert_eq!(cache.references(&[carts]), [reference]);
    }

    #[test]
    fn what_an_object_was_before_is_told_when_it_changes_and_when_it_goes() {
        let (cache, mut filler) = cache::<StatefulService>();
        let bound = json!({ "datastore": { "name": "carts" } });
        assert!(filler.apply(&Event::Apply(service("cart", "u1", "1", &bound))).is_none());
        let now = service("cart", "u1", "2", &json!({}));
        let before = filler.apply(&Event::Apply(now.clone())).unwrap();
        assert!(before.read().unwrap().spec.datastore.is_some());
        assert_eq!(before.metadata().resource_version.as_deref(), Some("1"));
        let before = filler.apply(&Event::Delete(now)).unwrap();
        assert!(before.read().unwrap().spec.datastore.is_none());
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn only_a_version_of_the_same_object_is_later() {
        let (cache, mut filler) = cache::<StatefulService>();
        let none = json!({});
        filler.apply(&Event::Apply(service("cart", "u1", "10", &none)));
        assert!(cache.has_later(&service("cart", "u1", "9", &none)));
        for (name, uid, version) in
            [("cart", "u1", "10"), ("cart", "u1", "11"), ("cart", "u2", "9"), ("stock", "u1", "9")]
        {
            assert!(!cache.has_later(&service(name, uid, version, &none)));
        }
        assert!(!cache.has_later(&service("cart", "u1", "x", &none)));
    }
}
