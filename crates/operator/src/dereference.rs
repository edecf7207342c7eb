//! Everything that is read for one service. The caches are complete, so nothing is asked for.

use std::sync::Arc;

use api::contract::container;
use api::{StatefulService, StatefulStore};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use translate::{Inputs, Observed, Plan};

use crate::apply::child::is_owned_by;
use crate::cache::Mark;
use crate::context::{Caches, Context};
use crate::origin::fingerprint;

pub(crate) fn inputs(ctx: &Context, service: &StatefulService) -> Inputs {
    let caches = &ctx.caches;
    let namespace = service.namespace().unwrap_or_default();
    let store = service.spec.datastore.as_ref().and_then(|datastore| {
        let reference = ObjectRef::<StatefulStore>::new(&datastore.name).within(&namespace);
        caches.stores.get(&reference).map(Arc::unwrap_or_clone)
    });
    let deployment = deployment(caches, service).map(|found| {
        let observed = Observed::of(&found);
        Observed { is_stripped: observed.is_stripped || is_stripped(caches, &found), ..observed }
    });
    Inputs { store, deployment, native_sidecars: ctx.server.has_native_sidecars() }
}

/// The service's Deployment as last seen, if it belongs to the service.
pub(crate) fn deployment(caches: &Caches, service: &StatefulService) -> Option<Arc<Deployment>> {
    let name = translate::deployment_name(&service.name_any());
    let namespace = service.namespace().unwrap_or_default();
    let found = caches.deployments.get(&ObjectRef::new(&name).within(&namespace))?;
    let uid = service.uid()?;
    is_owned_by(&found.metadata, &uid).then_some(found)
}

/// Whether a sidecar was to be an init container that stays, and is one in some pod that has to end before
/// the user function starts.
fn is_stripped(caches: &Caches, deployment: &Deployment) -> bool {
    let template = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    // Pods are many, and mostly not worth a look.
    let is_wanted = template.and_then(init_sidecar).is_some();
    is_wanted
        && pods(caches, deployment).iter().any(|pod| {
            let sidecar = pod.spec.as_ref().and_then(init_sidecar);
            sidecar.is_some_and(|sidecar| sidecar.restart_policy.is_none())
        })
}

fn init_sidecar(pod: &PodSpec) -> Option<&Container> {
    pod.init_containers.iter().flatten().find(|each| each.name == container::SIDECAR)
}

/// The Deployment's pods as last seen. Its selector stays when it is adopted, and so tells them by the uid of
/// a service that is gone.
pub(crate) fn pods(caches: &Caches, deployment: &Deployment) -> Vec<Arc<Pod>> {
    let wanted = Observed::of(deployment).selector;
    if wanted.is_empty() {
        return Vec::new();
    }
    let namespace = deployment.namespace().unwrap_or_default();
    let mut marks = vec![Mark::namespace(&namespace)];
    marks.extend(wanted.iter().map(|(key, value)| Mark::label(key, value)));
    caches.pods.find(&marks)
}

/// Tells the Secrets of the service's store from what they were before, as far as they are watched.
pub(crate) fn secret_hash(
    caches: &Caches,
    service: &StatefulService,
    plan: &Plan,
) -> Option<String> {
    let namespace = service.namespace().unwrap_or_default();
    let names = plan.store()?.store.secrets();
    let watched = names.keys().filter_map(|name| {
        let found = caches.secrets.get(&ObjectRef::new(name).within(&namespace))?;
        Some((name.to_string(), found.uid(), found.resource_version()))
    });
    let watched: Vec<_> = watched.collect();
    (!watched.is_empty()).then(|| fingerprint(&watched))
}
