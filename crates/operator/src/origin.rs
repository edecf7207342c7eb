//! What a Deployment was made from, and so why its pods are started anew. Pure.
//!
//! It is kept on the Deployment itself, so that the next process knows it too.

use std::fmt;

use api::contract::annotation;
use api::{StatefulService, StatefulStore};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use translate::Plan;

/// On the template of pods: tells Secrets of the store from what they were before.
pub(crate) const SECRET_HASH: &str = "cloudstate.io/secret-hash";

/// Stands between the two fingerprints of a service.
const METADATA: char = '+';

/// Fields of a service that reach no pod: changed, they start none anew.
const APART_FROM_PODS: [&str; 5] =
    ["replicas", "paused", "autoscaling", "podDisruptionBudget", "networkPolicy"];

/// Fingerprints of all that went into a Deployment, and of what came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    service: String,
    /// What the service says beside its spec and is passed on. Settings have a say in that.
    metadata: String,
    store: String,
    settings: String,
    template: String,
    /// The wave that last started the pods anew, if it was one.
    pub(crate) wave: Option<String>,
}

/// Why the pods of a service are started anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The service says other than before.
    Service,
    Store,
    Secret,
    Image,
    Settings,
    /// Nothing that we know of: the operator is a newer one, or the cluster can do more.
    Operator,
}

impl Cause {
    /// Whether the user of this one service asked for it.
    pub(crate) fn is_the_users(self) -> bool {
        self == Self::Service
    }

    pub(crate) fn is_the_store(self) -> bool {
        matches!(self, Self::Store | Self::Secret)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "the StatefulService has changed",
            Self::Store => "the StatefulStore has changed",
            Self::Secret => "a Secret of the StatefulStore has changed",
            Self::Image => "the operator's settings name another image of the sidecar",
            Self::Settings => "the operator's settings have changed",
            Self::Operator => "the operator or the cluster is another version",
        })
    }
}

impl Origin {
    /// Where that Deployment comes from.
    pub(crate) fn of(
        service: &StatefulService,
        plan: &Plan,
        store: Option<&StatefulStore>,
        settings: &translate::Settings,
        deployment: &Deployment,
    ) -> Self {
        let mut spec = to_json(&service.spec);
        if let Some(spec) = spec.as_object_mut() {
            spec.retain(|field, _| !APART_FROM_PODS.contains(&field.as_str()));
        }
        let meant_for_us = [annotation::PROXY_KIND, annotation::RESTARTED_AT];
        Self {
            service: fingerprint(&(spec, meant_for_us.map(|key| service.annotations().get(key)))),
            metadata: fingerprint(&plan.passed_on()),
            store: fingerprint(&store.map(|store| (store.uid(), &store.spec))),
            settings: fingerprint(&format!("{settings:?}")),
            template: fingerprint(&template(deployment)),
            wave: None,
        }
    }

    /// As it stands in an annotation.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ').map(str::to_owned);
        let mut part = || parts.next();
        let first = part()?;
        // Before there were two, what was noted can be compared with nothing.
        let (service, metadata) = first.split_once(METADATA).unwrap_or_default();
        Some(Self {
            service: service.to_owned(),
            metadata: metadata.to_owned(),
            store: part()?,
            settings: part()?,
            template: part()?,
            wave: part(),
        })
    }

    /// Whether pods made from both are the same.
    pub(crate) fn has_same_pods(&self, other: &Self) -> bool {
        self.template == other.template
    }

    /// Whether that would make the next change of something else look like one of the service or its store,
    /// though what it tells of has led to nothing.
    pub(crate) fn is_outdated_by(&self, now: &Self) -> bool {
        (&self.service, &self.metadata, &self.store) != (&now.service, &now.metadata, &now.store)
    }

    /// Why pods are to be made like this that were made like that before.
    pub(crate) fn cause(
        &self,
        before: Option<&Self>,
        wanted: &Deployment,
        live: &Deployment,
    ) -> Cause {
        let Some(before) = before else { return Cause::Operator };
        // Settings say which keys are passed on, and are no user's.
        let has_other_metadata =
            self.metadata != before.metadata && self.settings == before.settings;
        let is_known = !before.service.is_empty();
        if is_known && (self.service != before.service || has_other_metadata) {
            return Cause::Service;
        }
        if self.store != before.store {
            return Cause::Store;
        }
        if annotation_of(wanted, SECRET_HASH) != annotation_of(live, SECRET_HASH) {
            return Cause::Secret;
        }
        if self.settings == before.settings {
            return Cause::Operator;
        }
        if sidecar_image(wanted) == sidecar_image(live) { Cause::Settings } else { Cause::Image }
    }

    /// Names the change that reaches many services.
    pub(crate) fn wave(&self, cause: Cause) -> String {
        match cause {
            Cause::Store | Cause::Secret => format!("store-{}", self.store),
            Cause::Operator => format!("operator-{}", env!("CARGO_PKG_VERSION")),
            Cause::Service | Cause::Image | Cause::Settings => {
                format!("settings-{}", self.settings)
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, metadata, store, settings, template, wave } = self;
        write!(f, "{service}{METADATA}{metadata} {store} {settings} {template}")?;
        wave.iter().try_for_each(|wave| write!(f, " {wave}"))
    }
}

/// Tells two values apart; keys are sorted, so the same value has the same one.
pub(crate) fn fingerprint(value: &impl Serialize) -> String {
    let digest = Sha256::digest(to_json(value).to_string());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

pub(crate) fn to_json(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("Kubernetes objects are made of JSON")
}

/// The template of the pods.
fn template(deployment: &Deployment) -> Value {
    deployment.spec.as_ref().map_or(Value::Null, |spec| to_json(&spec.template))
}

fn annotation_of<'a>(deployment: &'a Deployment, key: &str) -> Option<&'a str> {
    let template = &deployment.spec.as_ref()?.template;
    template.metadata.as_ref()?.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The image of the sidecar in the template of the pods.
pub(crate) fn sidecar_image(deployment: &Deployment) -> Option<&str> {
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    let all = pod.containers.iter().chain(pod.init_containers.iter().flatten());
    all.into_iter()
        .find(|container| container.name == api::contract::container::SIDECAR)
        .and_then(|container| container.image.as_deref())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use translate::{Inputs, Settings, render, validate};

    use super::*;

    fn service(image: &str, replicas: i32) -> StatefulService {
        let service = json!({
            "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulService",
            "metadata": { "name": "cart", "namespace": "shop", "uid": "u" },
            "spec": { "containers": [{ "image": image }], "replicas": replicas },
        });
        serde_json::from_value(service).unwrap()
    }

    fn made(service: &StatefulService, settings: &Settings) -> (Deployment, Origin) {
        let plan = validate(settings, service, &Inputs::default()).unwrap();
        let deployment = *render(settings, &plan).deployment;
        let origin = Origin::of(service, &plan, None, settings, &deployment);
        (deployment, origin)
    }

    #[test]
    fn an_origin_survives_its_annotation() {
        let (_, mut origin) = made(&service("a", 1), &Settings::default());
        assert_eq!(Origin::parse(&origin.to_string()), Some(origin.clone()));
        origin.wave = Some("settings-1".to_owned());
        assert_eq!(Origin::parse(&origin.to_string()), Some(origin));
        assert_eq!(Origin::parse("nonsense"), None);
    }

    #[test]
    fn an_origin_of_an_earlier_operator_is_no_change_of_the_service() {
        let settings = Settings::default();
        let (live, now) = made(&service("a", 1), &settings);
        let Origin { store, settings, .. } = &now;
        let before = Origin::parse(&format!("former {store} {settings} template wave")).unwrap();
        assert_eq!(before.wave.as_deref(), Some("wave"));
        assert_eq!(now.cause(Some(&before), &live, &live), Cause::Operator);
        assert!(before.is_outdated_by(&now));
    }

    #[test]
    fn each_cause_is_told_from_the_others() {
        let settings = Settings::default();
        let mut other = settings.clone();
        other.proxy.image.no_store = "sidecar:2".to_owned();
        let mut quiet = settings.clone();
        quiet.passivation_timeout = Some("30s".to_owned());
        let (live, before) = made(&service("a", 1), &settings);

        for (service, settings, cause) in [
            (service("b", 1), &settings, Cause::Service),
            (service("b", 1), &other, Cause::Service),
            (service("a", 1), &other, Cause::Image),
            (service("a", 1), &quiet, Cause::Settings),
        ] {
            let (wanted, now) = made(&service, settings);
            assert!(!now.has_same_pods(&before));
            assert_eq!(now.cause(Some(&before), &wanted, &live), cause);
        }
        assert_eq!(before.cause(None, &live, &live), Cause::Operator);
    }

    #[test]
    fn what_is_kept_on_a_service_and_not_passed_on_is_no_change_of_it() {
        let settings = Settings::default();
        let mut other = settings.clone();
        other.proxy.image.no_store = "sidecar:2".to_owned();
        let mut passes_on_more = other.clone();
        passes_on_more.excluded_annotations.clear();
        let (live, before) = made(&service("a", 1), &settings);
        let with = |key: &str| {
            let mut service = service("a", 1);
            service.metadata.annotations = Some([(key.to_owned(), "1".to_owned())].into());
            service
        };
        let excluded = settings.excluded_annotations[0].clone();
        let excluded = if excluded.ends_with('/') { excluded + "x" } else { excluded };
        for (service, settings, cause) in [
            (with(&excluded), &other, Cause::Image),
            (with("example.com/team"), &other, Cause::Image),
            (with("example.com/team"), &settings, Cause::Service),
            (with(&excluded), &passes_on_more, Cause::Image),
            (with(annotation::PROXY_KIND), &settings, Cause::Service),
            (with(annotation::RESTARTED_AT), &other, Cause::Service),
        ] {
            let mut service = service;
            if let Some(kind) = service.annotations_mut().get_mut(annotation::PROXY_KIND) {
                "native".clone_into(kind);
            }
            let (wanted, now) = made(&service, settings);
            assert_eq!(now.cause(Some(&before), &wanted, &live), cause, "{service:?}");
        }
    }

    #[test]
    fn only_what_would_be_taken_for_another_cause_is_outdated() {
        let settings = Settings::default();
        let mut quiet = settings.clone();
        quiet.passivation_timeout = Some("30s".to_owned());
        let (_, before) = made(&service("a", 1), &settings);
        assert!(before.is_outdated_by(&made(&service("b", 1), &settings).1));
        assert!(!before.is_outdated_by(&made(&service("a", 2), &settings).1));
        assert!(!before.is_outdated_by(&made(&service("a", 1), &quiet).1));
    }

    #[test]
    fn a_number_of_replicas_is_no_reason_to_start_pods_anew() {
        let (_, one) = made(&service("a", 1), &Settings::default());
        let (_, two) = made(&service("a", 0), &Settings::default());
        assert_eq!(one, two);
    }
}
