//! The Kubernetes Service: the address that other workloads call.

use api::contract::port;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{labels, owner, selector};
use crate::Plan;

pub(super) fn render(plan: &Plan) -> Service {
    Service {
        metadata: ObjectMeta {
            name: Some(plan.name.clone()),
            namespace: Some(plan.namespace.clone()),
            labels: Some(labels(plan)),
            owner_references: Some(vec![owner(plan)]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(selector(&plan.uid)),
            ports: Some(vec![ServicePort {
                name: Some(port::SERVICE_NAME.to_owned()),
                port: i32::from(port::SERVICE),
                protocol: Some("TCP".to_owned()),
                app_protocol: Some("kubernetes.io/h2c".to_owned()),
                target_port: Some(IntOrString::Int(i32::from(port::PROXY))),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
