//! `spec.autoscaling` of a StatefulService: how the number of pods is to follow the load.
//!
//! Taken in and kept, so that manifests which have it work, and so that it can be turned on later. Until
//! then the condition `AutoscalingActive` says that nothing follows from it.

use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerBehavior, MetricSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// How the number of pods follows the load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
        "message": "minReplicas is more than maxReplicas: lower the one, or raise the other",
    },
    {
        "rule": "!has(self.mode) || self.mode != 'HPA' || !has(self.enabled) || !self.enabled",
        "message": "enabled is true, and mode is HPA: two would scale the same pods, so leave one of them out",
    },
]))]
pub struct Autoscaling {
    /// Whether the number of pods follows the load at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,

    /// Who decides: `Proxy`, `HPA` or `None`; `Proxy` when enabled, else `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,

    /// Calls to a user function at a time that a pod should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub user_function_target_concurrency: Option<i32>,

    /// Calls from outside at a time that a pod should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub request_target_concurrency: Option<i32>,

    /// Time over which calls at a time are averaged, such as `1m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub target_concurrency_window: Option<String>,

    /// Time after more pods were asked for in which no more are, such as `3m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub scale_up_stable_deadline: Option<String>,

    /// Time after fewer pods were asked for in which no fewer are, such as `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub scale_down_stable_deadline: Option<String>,

    /// How much more calls must come than before to make more pods at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub request_rate_threshold_factor: Option<f64>,

    /// Time over which the rate of calls is averaged, such as `6s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub request_rate_window: Option<String>,

    /// Least pods; read in mode `HPA`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_replicas: Option<i32>,

    /// Most pods; read in mode `HPA`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_replicas: Option<i32>,

    /// Use of the requested processor time that pods should have, in percent; read in mode `HPA`.
    #[serde(default, rename = "targetCPUUtilization", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub target_cpu_utilization: Option<i32>,

    /// What the number of pods follows besides, as in a HorizontalPodAutoscaler; read in mode `HPA`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::list::<MetricSpec>")]
    pub metrics: Vec<MetricSpec>,

    /// How fast the number of pods changes, as in a HorizontalPodAutoscaler; read in mode `HPA`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional::<HorizontalPodAutoscalerBehavior>")]
    pub behavior: Option<HorizontalPodAutoscalerBehavior>,
}

/// Who decides on the number of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// The load that proxies see.
    Proxy,
    /// A HorizontalPodAutoscaler.
    #[serde(rename = "HPA")]
    Hpa,
    /// Nobody but `spec.replicas`.
    None,
}
