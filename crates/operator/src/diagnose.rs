//! From pods and what their sidecars say to the one thing that is wrong. Pure.
//!
//! Everything here was written by kubelets, sidecars and user functions, so it is tidied before it
//! goes into a condition. A diagnosis stays the same while a container is started over and over.

mod container;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::condition::reason;
use api::contract::{self, NotReady};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use self::container::{Containers, parse_last_words};
use crate::ask::Answer;
use crate::text::tidy;

/// So many pods are asked for one service; more would not say more.
pub(crate) const ASK_MAX: usize = 3;
const MESSAGE_BYTES_MAX: usize = 1024;

/// Why calls are not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Whether it stays until somebody changes something.
    pub(crate) is_stuck: bool,
}

/// How sure we are. More than one pod may be unready, and the surest finding is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Certainty {
    /// It may be nothing but a slow start.
    Waiting,
    /// It may go away by itself.
    Failing,
    /// It stays until somebody changes something.
    Stuck,
}

type Finding = (Certainty, Diagnosis);

/// The sidecars to ask, by the name of the pod.
pub(crate) fn whom_to_ask(pods: &[Arc<Pod>]) -> BTreeMap<String, IpAddr> {
    suspects(pods)
        .into_iter()
        .filter(|pod| Containers::of(pod).sidecar_is_running())
        .filter_map(|pod| {
            let address = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
            Some((pod.name_any(), address))
        })
        .take(ASK_MAX)
        .collect()
}

/// What is wrong with the newest pods that are not ready, if it can be told.
pub(crate) fn diagnose(pods: &[Arc<Pod>], answers: &BTreeMap<String, Answer>) -> Option<Diagnosis> {
    let mut findings: Vec<Finding> = suspects(pods)
        .into_iter()
        .filter_map(|pod| examine(pod, answers.get(&pod.name_any()).unwrap_or(&Answer::Nothing)))
        .collect();
    // Stable, and pods are sorted by name: the same pod is shown every time.
    findings.sort_by_key(|(certainty, _)| std::cmp::Reverse(*certainty));
    let (certainty, diagnosis) = findings.into_iter().next()?;
    Some(Diagnosis { is_stuck: certainty == Certainty::Stuck, ..diagnosis })
}

/// Pods of the newest template that are not ready and not about to go, sorted by name.
fn suspects(pods: &[Arc<Pod>]) -> Vec<&Pod> {
    const TEMPLATE: &str = "pod-template-hash";
    let mut pods: Vec<&Pod> = pods
        .iter()
        .map(|pod| &**pod)
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .collect();
    pods.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone(), pod.name_any()));
    let newest = pods.last().and_then(|pod| pod.labels().get(TEMPLATE).cloned());
    pods.retain(|pod| pod.labels().get(TEMPLATE) == newest.as_ref() && !is_ready(pod));
    pods.sort_by_key(|pod| pod.name_any());
    pods
}

fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|(status, ..)| status == "True")
}

/// Status, reason and message.
fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((
        &found.status,
        found.reason.as_deref().unwrap_or_default(),
        found.message.as_deref().unwrap_or_default(),
    ))
}

/// The first of these that applies, from what hides everything else to what is hidden by all.
fn examine(pod: &Pod, answer: &Answer) -> Option<Finding> {
    let name = pod.name_any();
    let containers = Containers::of(pod);
    unschedulable(pod, &name)
        .or_else(|| containers.cannot_start(&name))
        .or_else(|| refused(&containers, answer, &name))
        .or_else(|| containers.user_crash(&name).filter(|_| !answer_is_final(answer)))
        .or_else(|| containers.sidecar_crash(&name).filter(|_| is_prelude(answer)))
        .or_else(|| not_ready(answer, &name))
        .or_else(|| containers.user_not_ready(&name).filter(|_| *answer == Answer::Ready))
}

fn unschedulable(pod: &Pod, name: &str) -> Option<Finding> {
    let (status, why, message) = condition(pod, "PodScheduled")?;
    (status == "False" && why == "Unschedulable").then(|| {
        let message = format!("no node takes pod {name:?}: {message}");
        (Certainty::Stuck, diagnosis(reason::UNSCHEDULABLE, &message))
    })
}

/// The proxy will not serve this user function or configuration, whether it says so now or said so
/// before its container was started again.
fn refused(containers: &Containers<'_>, answer: &Answer, pod: &str) -> Option<Finding> {
    let said = match answer {
        Answer::NotReady(said) if is_refusal(said) => Some(said.clone()),
        _ if answer_is_final(answer) => None,
        _ => containers.sidecar_last_words().and_then(parse_last_words).filter(is_refusal),
    }?;
    Some((Certainty::Stuck, from_sidecar(&said, pod)))
}

fn not_ready(answer: &Answer, pod: &str) -> Option<Finding> {
    let Answer::NotReady(said) = answer else { return None };
    let certainty = match said.reason.as_str() {
        contract::reason::PROXY_STARTING | contract::reason::DRAINING => Certainty::Waiting,
        _ => Certainty::Failing,
    };
    Some((certainty, from_sidecar(said, pod)))
}

fn is_refusal(said: &NotReady) -> bool {
    [contract::reason::USER_FUNCTION_REFUSED, contract::reason::CONFIGURATION_REFUSED]
        .contains(&said.reason.as_str())
}

/// Whether the answer, or its absence, is what every start of a sidecar begins with.
fn is_prelude(answer: &Answer) -> bool {
    match answer {
        Answer::Ready => false,
        Answer::Nothing => true,
        Answer::NotReady(said) => said.reason == contract::reason::PROXY_STARTING,
    }
}

/// Whether the answer stands. A start passes through "unreachable" as well, while the user function
/// is not there yet.
fn answer_is_final(answer: &Answer) -> bool {
    let unreachable = |said: &NotReady| said.reason == contract::reason::USER_FUNCTION_UNREACHABLE;
    !is_prelude(answer) && !matches!(answer, Answer::NotReady(said) if unreachable(said))
}

fn from_sidecar(said: &NotReady, pod: &str) -> Diagnosis {
    let reason =
        if is_reason(&said.reason) { said.reason.as_str() } else { reason::SIDECAR_NOT_READY };
    diagnosis(reason, &format!("pod {pod:?}: {}", said.message))
}

/// What the API server takes for the reason of a condition, and a person for a word.
fn is_reason(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_uppercase())
        && text.chars().all(|char| char.is_ascii_alphanumeric())
}

fn diagnosis(reason: &str, message: &str) -> Diagnosis {
    let message = tidy(message, MESSAGE_BYTES_MAX);
    Diagnosis { reason: reason.to_owned(), message, is_stuck: false }
}

#[cfg(test)]
mod tests;
