//! The NetworkPolicy: calls from everywhere, and to every other port only from those who need it.

use std::collections::BTreeMap;

use api::contract::port;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::owned;
use crate::Plan;
use crate::settings::Settings;

/// Kubernetes puts it on every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

pub(super) fn render(settings: &Settings, plan: &Plan) -> Option<NetworkPolicy> {
    let peers = NetworkPolicyPeer {
        pod_selector: Some(labelled(plan.selector.clone())),
        ..NetworkPolicyPeer::default()
    };
    let monitoring = from_namespaces(settings.monitoring_namespaces.clone());
    let operator = from_namespaces(BTreeMap::from([(
        NAMESPACE_NAME.to_owned(),
        settings.operator_namespace.clone(),
    )]));
    plan.is_guarded.then(|| NetworkPolicy {
        metadata: owned(plan, plan.name.clone()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(labelled(plan.selector.clone())),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                allow(None, &[port::PROXY]),
                allow(Some(peers), &[port::REMOTING, port::MANAGEMENT]),
                allow(Some(monitoring), &[port::METRICS]),
                // It asks sidecars why they are not ready.
                allow(Some(operator), &[port::ADMIN]),
            ]),
            ..NetworkPolicySpec::default()
        }),
    })
}

fn allow(from: Option<NetworkPolicyPeer>, ports: &[u16]) -> NetworkPolicyIngressRule {
    let port = |number: &u16| NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(*number))),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    };
    NetworkPolicyIngressRule {
        from: from.map(|peer| vec![peer]),
        ports: Some(ports.iter().map(port).collect()),
    }
}

fn from_namespaces(labels: BTreeMap<String, String>) -> NetworkPolicyPeer {
    NetworkPolicyPeer { namespace_selector: Some(labelled(labels)), ..NetworkPolicyPeer::default() }
}

fn labelled(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}
