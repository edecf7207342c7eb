//! `StatefulService`: a user function, and what it needs to be served.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printer column has a type of its own, which the lint takes for one attribute"
)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, LocalObjectReference, PodSecurityContext, ResourceRequirements,
    Toleration, TopologySpreadConstraint, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::autoscaling::Autoscaling;
use crate::schema;
use crate::surroundings::{DisruptionBudget, NetworkAccess};

/// A stateful service: the user function's container, and how it is to be run beside its proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[kube(
    group = "cloudstate.io",
    version = "v1alpha1",
    kind = "StatefulService",
    plural = "statefulservices",
    shortname = "ess",
    shortname = "csvc",
    category = "cloudstate",
    namespaced,
    status = "StatefulServiceStatus",
    derive = "PartialEq",
    doc = "A stateful service: a user function, and how it is to be run beside its proxy.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Store", type_ = "string", json_path = ".status.store.name"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Summary", type_ = "string", json_path = ".status.summary"),
    printcolumn(
        name = "Image",
        type_ = "string",
        json_path = ".spec.containers[0].image",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$')"
    )
    .message(
        "metadata.name becomes the name of a Service: use at most 63 lower-case letters, digits and '-', with a letter first and no '-' at the end"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct StatefulServiceSpec {
    /// The user function's container comes first; its name is ignored. The port it is called on is
    /// the first one it declares, or 8080, and is told to it in the environment variable `PORT`.
    /// Further containers are run beside it.
    #[schemars(schema_with = "schema::containers")]
    pub containers: Vec<Container>,

    /// The store for entities that need one. Without it there is no store, and a user function with
    /// such entities is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<Datastore>,

    /// How many pods to run. With a datastore there is no more than one, except where a proxy made of
    /// jars shares the store among its pods.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0))]
    pub replicas: i32,

    /// How the number of pods follows the load. Taken in and kept, and not acted upon yet: the
    /// condition `AutoscalingActive` says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,

    /// Holds everything as it is: while `true`, the operator changes no object of this service.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,

    /// Resources of the sidecar, in place of the default as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional::<ResourceRequirements>")]
    pub sidecar_resources: Option<ResourceRequirements>,

    /// Memory for the entities that a sidecar keeps open and the calls under way, e.g. `64m`; half of the
    /// sidecar's memory limit if not set. For a proxy made of jars it is the heap, and 256m if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar_jvm_memory: Option<String>,

    /// The service account of the pods; the namespace's default one if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,

    /// Volumes of the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::list::<Volume>")]
    pub volumes: Vec<Volume>,

    /// Labels that a node must have to run the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints of nodes that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::list::<Toleration>")]
    pub tolerations: Vec<Toleration>,

    /// Which nodes, and which other pods as neighbours, the pods prefer or need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional::<Affinity>")]
    pub affinity: Option<Affinity>,

    /// How the pods are spread over the cluster; over nodes, as well as can be, if not set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::list::<TopologySpreadConstraint>")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,

    /// Which pods go first when there is not enough room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,

    /// Secrets with credentials for the registries of the images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::list::<LocalObjectReference>")]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Security settings that hold for every container of a pod which does not say otherwise. The
    /// sidecar does: it runs as a user of its own, without any privilege.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional::<PodSecurityContext>")]
    pub pod_security_context: Option<PodSecurityContext>,

    /// Seconds that a pod gets for a clean end; Kubernetes gives 30 if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub termination_grace_period_seconds: Option<i64>,

    /// Further labels of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_labels: BTreeMap<String, String>,

    /// Further annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_annotations: BTreeMap<String, String>,

    /// How many pods may be taken away at once, e.g. to empty a node. With two or more replicas it is
    /// one unless this says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_disruption_budget: Option<DisruptionBudget>,

    /// Who may connect to the pods; as the operator's setting `network-policy` says if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkAccess>,
}

/// The store that a service uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Datastore {
    /// Name of a StatefulStore in the same namespace.
    #[schemars(length(min = 1))]
    pub name: String,

    /// What this service asks of the store: for `Postgres`, a `schema` in place of the store's; for
    /// `Cassandra`, the `keyspace`, which has to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_object")]
    pub config: Option<Map<String, Value>>,
}

/// What the operator knows about a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatefulServiceStatus {
    /// `Ready`, `StatefulStoreValid`, `ResourcesAvailable` and `Progressing`, and others while they hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Pods that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// Pods that serve calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,

    /// Pods of the newest template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_replicas: Option<i32>,

    /// Selector of the pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// `Ready`, or the reason why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,

    /// The store in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<BoundStore>,

    /// Image of the sidecar in the present template of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_image: Option<String>,

    /// Tells what was applied last from what was applied before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_hash: Option<String>,
}

/// The store that a service was bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BoundStore {
    /// Name of the StatefulStore.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The generation of the StatefulStore's spec that is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The schema's default, so that the scale subresource always finds a number.
fn default_replicas() -> i32 {
    1
}

impl Default for StatefulServiceSpec {
    /// As the API server would fill in an empty spec.
    fn default() -> Self {
        Self {
            containers: Vec::new(),
            datastore: None,
            replicas: default_replicas(),
            autoscaling: None,
            paused: false,
            sidecar_resources: None,
            sidecar_jvm_memory: None,
            service_account_name: None,
            volumes: Vec::new(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            affinity: None,
            topology_spread_constraints: Vec::new(),
            priority_class_name: None,
            image_pull_secrets: Vec::new(),
            pod_security_context: None,
            termination_grace_period_seconds: None,
            pod_labels: BTreeMap::new(),
            pod_annotations: BTreeMap::new(),
            pod_disruption_budget: None,
            network_policy: None,
        }
    }
}
