//! The Kubernetes Service: the address that other workloads call.

use api::contract::port;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::owned;
use crate::Plan;
use crate::settings::Settings;

pub(super) fn render(settings: &Settings, plan: &Plan) -> Service {
    let calls = ServicePort {
        name: Some(port::SERVICE_NAME.to_owned()),
        port: i32::from(port::SERVICE),
        protocol: Some("TCP".to_owned()),
        app_protocol: Some("kubernetes.io/h2c".to_owned()),
        target_port: Some(IntOrString::Int(i32::from(port::PROXY))),
        ..ServicePort::default()
    };
    // An address picks one pod at each call, so metrics are better read from the pods themselves.
    let metrics = settings.service.expose_metrics.then(|| ServicePort {
        name: Some(port::METRICS_NAME.to_owned()),
        port: i32::from(port::METRICS),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(i32::from(port::METRICS))),
        ..ServicePort::default()
    });
    Service {
        metadata: owned(plan, plan.name.clone()),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(plan.selector.clone()),
            ports: Some(std::iter::once(calls).chain(metrics).collect()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
