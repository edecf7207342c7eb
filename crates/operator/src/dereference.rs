//! Everything that is read for one service. The caches are complete, so nothing is asked for.

use std::sync::Arc;

use api::{StatefulService, StatefulStore};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use translate::{Inputs, Observed};

use crate::context::Caches;

pub(crate) fn inputs(caches: &Caches, service: &StatefulService) -> Inputs {
    let namespace = service.namespace().unwrap_or_default();
    let store = service.spec.datastore.as_ref().and_then(|datastore| {
        let reference = ObjectRef::<StatefulStore>::new(&datastore.name).within(&namespace);
        caches.stores.get(&reference).map(Arc::unwrap_or_clone)
    });
    let deployment = deployment(caches, service).map(|found| Observed::of(&found));
    Inputs { store, deployment, native_sidecars: false }
}

/// The service's Deployment as last seen, if it belongs to the service.
pub(crate) fn deployment(caches: &Caches, service: &StatefulService) -> Option<Arc<Deployment>> {
    let name = translate::deployment_name(&service.name_any());
    let namespace = service.namespace().unwrap_or_default();
    let found = caches.deployments.get(&ObjectRef::new(&name).within(&namespace))?;
    let uid = service.uid()?;
    crate::apply::is_owned_by(&found.metadata, &uid).then_some(found)
}

/// The service's pods as last seen.
pub(crate) fn pods(caches: &Caches, service: &StatefulService) -> Vec<Arc<Pod>> {
    let namespace = service.namespace();
    let wanted = translate::selector(&service.uid().unwrap_or_default());
    caches.pods.state_filter(|pod| {
        pod.metadata.namespace == namespace
            && wanted.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
    })
}
