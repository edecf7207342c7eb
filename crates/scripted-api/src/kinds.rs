//! The kinds of objects that the server knows.

/// A kind of objects. Kinds are ordered by their plural.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// As it is in paths; no two kinds have the same.
    pub plural: &'static str,
    /// Empty for the core group.
    pub group: &'static str,
    /// The one version that is served.
    pub version: &'static str,
    /// As it is in objects.
    pub name: &'static str,
    /// Whether its objects live in namespaces.
    pub is_namespaced: bool,
    /// Whether its spec counts generations.
    pub has_generation: bool,
    /// Whether its status is a resource of its own.
    pub has_status: bool,
}

impl Kind {
    /// The kind of that name, such as `Deployment`.
    pub fn named(name: &str) -> Option<Self> {
        KINDS.iter().copied().find(|kind| kind.name == name)
    }

    /// Group and version, as they are in objects.
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Whether the spec of its objects has lists that are merged by a key.
    pub(crate) fn has_merged_lists(&self) -> bool {
        self.group != "cloudstate.io"
    }
}

const fn kind(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    name: &'static str,
) -> Kind {
    Kind {
        plural,
        group,
        version,
        name,
        is_namespaced: true,
        has_generation: false,
        has_status: false,
    }
}

const fn with_status(kind: Kind) -> Kind {
    Kind { has_generation: true, has_status: true, ..kind }
}

/// Asks whether the client may do something. There are no objects of it.
pub(crate) const REVIEW: Kind = Kind {
    is_namespaced: false,
    ..kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview")
};

/// Every kind there is.
pub const KINDS: [Kind; 16] = [
    with_status(kind("apps", "v1", "deployments", "Deployment")),
    REVIEW,
    with_status(kind("cloudstate.io", "v1alpha1", "statefulservices", "StatefulService")),
    with_status(kind("cloudstate.io", "v1alpha1", "statefulstores", "StatefulStore")),
    kind("", "v1", "configmaps", "ConfigMap"),
    Kind { is_namespaced: false, ..kind("", "v1", "namespaces", "Namespace") },
    Kind { has_status: true, ..kind("", "v1", "pods", "Pod") },
    kind("", "v1", "secrets", "Secret"),
    kind("", "v1", "serviceaccounts", "ServiceAccount"),
    Kind { has_status: true, ..kind("", "v1", "services", "Service") },
    kind("coordination.k8s.io", "v1", "leases", "Lease"),
    kind("events.k8s.io", "v1", "events", "Event"),
    Kind {
        has_generation: true,
        ..kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
    },
    with_status(kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")),
    kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    kind("rbac.authorization.k8s.io", "v1", "roles", "Role"),
];
