//! Objects that the API server has and we cannot read. They are left out of the caches, so that one of them
//! stops nothing else, and told of on the object itself.
//!
//! The schema lets none in that we know of; a resource definition that somebody changed, or one of a version
//! to come, may.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::StatefulService;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::error_boundary::InvalidObject;
use kube::{Resource, ResourceExt};
use tokio::sync::Notify;

use crate::context::Context;

/// Reason of the event.
const MALFORMED: &str = "Malformed";

/// What was found by one scope, by kind, namespace and name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Malformed(Arc<Found>);

#[derive(Debug, Default)]
struct Found {
    all: Mutex<BTreeMap<Id, Told>>,
    is_new: Notify,
}

type Id = (String, Option<String>, String);

#[derive(Debug)]
struct Told {
    about: ObjectReference,
    note: String,
    done: bool,
    /// Whether the list that is under way has had it, or none is under way.
    is_listed: bool,
}

impl Malformed {
    /// An object could not be read.
    pub(crate) fn found<K: Resource<DynamicType = ()>>(&self, invalid: &InvalidObject) {
        let metadata = &invalid.metadata;
        let (kind, name) = (K::kind(&()).into_owned(), metadata.name.clone().unwrap_or_default());
        let note = format!(
            "the operator cannot read this {kind}, and leaves it and what belongs to it as they are: {}: put that right",
            invalid.error
        );
        let about = ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(kind.clone()),
            name: Some(name.clone()),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            resource_version: metadata.resource_version.clone(),
            field_path: None,
        };
        let mut all = self.lock();
        let told = all.entry((kind, metadata.namespace.clone(), name)).or_insert_with(|| Told {
            about: about.clone(),
            note: String::new(),
            done: false,
            is_listed: true,
        });
        told.is_listed = true;
        if told.note != note {
            *told = Told { about, note, done: false, is_listed: true };
            self.0.is_new.notify_one();
        }
    }

    /// An object could be read, or is gone.
    pub(crate) fn forget<K: Resource<DynamicType = ()>>(&self, object: &K) {
        let mut all = self.lock();
        if !all.is_empty() {
            all.remove(&(K::kind(&()).into_owned(), object.namespace(), object.name_any()));
        }
    }

    /// One that cannot be read is gone.
    pub(crate) fn gone<K: Resource<DynamicType = ()>>(&self, metadata: &ObjectMeta) {
        let name = metadata.name.clone().unwrap_or_default();
        self.lock().remove(&(K::kind(&()).into_owned(), metadata.namespace.clone(), name));
    }

    /// All of that kind are listed from now on.
    pub(crate) fn list_begins<K: Resource<DynamicType = ()>>(&self) {
        let kind = K::kind(&());
        self.lock()
            .iter_mut()
            .filter(|((of, ..), _)| *of == kind)
            .for_each(|(_, told)| told.is_listed = false);
    }

    /// What the list has not had is gone: no watch has told of that.
    pub(crate) fn list_ends<K: Resource<DynamicType = ()>>(&self) {
        let kind = K::kind(&());
        self.lock().retain(|(of, ..), told| *of != kind || told.is_listed);
    }

    /// The services of the namespace of which nobody knows what they need.
    pub(crate) fn services(&self, namespace: &str) -> Vec<String> {
        let kind = StatefulService::kind(&());
        let all = self.lock();
        let here = all
            .keys()
            .filter(|(of, within, _)| *of == kind && within.as_deref() == Some(namespace));
        here.map(|(_, _, name)| name.clone()).collect()
    }

    /// Whether there are any.
    pub(crate) fn has_services(&self, namespace: &str) -> bool {
        !self.services(namespace).is_empty()
    }

    /// What was not told yet, which it is from now on.
    fn take(&self) -> Vec<(ObjectReference, String)> {
        let mut all = self.lock();
        let untold = all.values_mut().filter(|told| !told.done);
        let told = untold.map(|told| {
            told.done = true;
            (told.about.clone(), told.note.clone())
        });
        told.collect()
    }

    /// Another process may have told before, or nobody.
    fn tell_all_anew(&self) {
        self.lock().values_mut().for_each(|told| told.done = false);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Told>> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells of what is found, as long as this process leads.
pub(crate) async fn tell(ctx: &Context) {
    ctx.malformed.tell_all_anew();
    loop {
        for (about, note) in ctx.malformed.take() {
            ctx.publisher.warn(&about, MALFORMED, &note).await;
        }
        ctx.malformed.0.is_new.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> ObjectMeta {
        let (name, namespace) = (Some("cart".to_owned()), Some("shop".to_owned()));
        ObjectMeta { name, namespace, ..ObjectMeta::default() }
    }

    #[test]
    fn each_fault_of_an_object_is_told_once() {
        let malformed = Malformed::default();
        let find = |error: &str| {
            let invalid = InvalidObject { error: error.to_owned(), metadata: metadata() };
            malformed.found::<StatefulService>(&invalid);
        };
        find("a");
        find("a");
        assert_eq!(malformed.take().len(), 1);
        find("a");
        assert!(malformed.take().is_empty());
        find("b");
        let (about, note) = malformed.take().remove(0);
        assert_eq!(about.name.as_deref(), Some("cart"));
        assert!(note.contains("as they are: b"), "{note}");
        malformed.tell_all_anew();
        assert_eq!(malformed.take().len(), 1);

        assert!(malformed.has_services("shop") && !malformed.has_services("stock"));
        malformed.gone::<StatefulService>(&metadata());
        assert!(!malformed.has_services("shop"));
        find("a");
        malformed.list_begins::<StatefulService>();
        malformed.list_ends::<api::StatefulStore>();
        assert_eq!(malformed.services("shop"), ["cart"]);
        find("a");
        malformed.list_ends::<StatefulService>();
        assert_eq!(malformed.services("shop"), ["cart"]);
        // Deleted while nobody watched.
        malformed.list_begins::<StatefulService>();
        malformed.list_ends::<StatefulService>();
        assert!(malformed.services("shop").is_empty());
        find("a");
        let mut service = StatefulService::new("cart", api::StatefulServiceSpec::default());
        service.metadata = metadata();
        malformed.forget(&service);
        malformed.tell_all_anew();
        assert!(malformed.take().is_empty());
    }
}
