//! What objects are found by, apart from their names.

use std::hash::{DefaultHasher, Hash, Hasher};

use api::{StatefulService, StatefulStore};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::PartialObjectMeta;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::apply::child::controller_of;

/// An object that can be kept in a cache.
pub(crate) trait Cached:
    Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Whether objects of this kind are applied by us, so that it matters who else claims their fields.
    const IS_APPLIED: bool = false;

    /// What it can be found by, apart from its name.
    fn marks(&self) -> Vec<Mark>;
}

/// Something that objects have in common. Two that are the same by chance are as good as impossible; who
/// deletes what is found looks at it first nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mark(u64);

impl Mark {
    /// All that is in that namespace.
    pub(crate) fn namespace(namespace: &str) -> Self {
        Self::of(&("namespace", namespace))
    }

    /// All that is controlled by the object with that uid.
    pub(crate) fn owner(uid: &str) -> Self {
        Self::of(&("owner", uid))
    }

    /// All pods that have that label.
    pub(crate) fn label(key: &str, value: &str) -> Self {
        Self::of(&("label", key, value))
    }

    /// All services whose pods may run as that account.
    pub(crate) fn account(name: &str) -> Self {
        Self::of(&("account", name))
    }

    /// All services that name that store.
    pub(crate) fn store(name: &str) -> Self {
        Self::of(&("store", name))
    }

    pub(super) fn of(what: &impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// What everything can be found by: its namespace and its owner.
fn common(object: &impl Resource) -> Vec<Mark> {
    let namespace = object.meta().namespace.as_deref().map(Mark::namespace);
    let owner = controller_of(object.meta()).map(|owner| Mark::owner(&owner.uid));
    namespace.into_iter().chain(owner).collect()
}

impl Cached for StatefulService {
    fn marks(&self) -> Vec<Mark> {
        let store = self.spec.datastore.as_ref().map(|datastore| Mark::store(&datastore.name));
        // Without a name it is the namespace's default one, or one of the service's own.
        let named = self.spec.service_account_name.as_deref().filter(|name| !name.is_empty());
        let own = self.name_any();
        let accounts = named.map_or_else(|| vec!["default", own.as_str()], |name| vec![name]);
        let accounts = accounts.into_iter().map(Mark::account);
        common(self).into_iter().chain(store).chain(accounts).collect()
    }
}

impl Cached for Pod {
    fn marks(&self) -> Vec<Mark> {
        let labels = self.labels().iter().map(|(key, value)| Mark::label(key, value));
        common(self).into_iter().chain(labels).collect()
    }
}

macro_rules! found_by_what_is_common {
    ($is_applied:literal: $($kind:ty),+ $(,)?) => {
        $(impl Cached for $kind {
            const IS_APPLIED: bool = $is_applied;

            fn marks(&self) -> Vec<Mark> {
                common(self)
            }
        })+
    };
}

found_by_what_is_common!(
    true: Deployment,
    Service,
    ServiceAccount,
    NetworkPolicy,
    PodDisruptionBudget,
    Role,
    RoleBinding,
);

found_by_what_is_common!(
    false: StatefulStore,
    PartialObjectMeta<Namespace>,
    PartialObjectMeta<Secret>,
);
