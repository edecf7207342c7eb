//! The PodDisruptionBudget: emptying a node takes pods one by one.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::owned;
use crate::Plan;

pub(super) fn render(plan: &Plan) -> Option<PodDisruptionBudget> {
    let given = plan.spec.pod_disruption_budget.clone().unwrap_or_default();
    // Of one pod alone, a budget would keep every node from being emptied or say nothing.
    (plan.replicas >= 2 && given.enabled != Some(false)).then(|| PodDisruptionBudget {
        metadata: owned(plan, plan.name.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(given.max_unavailable.unwrap_or(IntOrString::Int(1))),
            selector: Some(LabelSelector {
                match_labels: Some(plan.selector.clone()),
                ..LabelSelector::default()
            }),
            // A pod that does not serve calls must not keep its node from being emptied.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}
