//! How a service with either kind of proxy is deployed, called and looked at.

use std::{
    net::SocketAddr,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{CALL, SIDECAR};
use crate::e2e::{
    calls::Caller,
    cluster::Cluster,
    crowd::{Crowd, Plan},
    http,
    namespace::Namespace,
    processes::{self, Process},
    scenarios::manifests::SERVICE,
};

/// The kind of a sidecar's proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Our own. What is called is an action of the scripted user function.
    Native,
    /// One made of jars. What is called is the program that stands for it, by plain HTTP.
    Jvm,
}

/// Calls that were begun.
pub(super) enum Calls {
    /// To our own proxy.
    Crowd(Crowd),
    /// To one made of jars.
    Threads(Vec<JoinHandle<anyhow::Result<()>>>),
}

impl Kind {
    /// A service whose calls take [`CALL`]. More of its spec is given as YAML lines that are indented by two. The last
    /// line is one of its container's.
    pub(super) fn service(self, cluster: &Cluster, more: &str) -> String {
        let (kind, image, millis) = (self.name(), &cluster.scripted, CALL.as_millis());
        format!(
            "
apiVersion: cloudstate.io/v1alpha1
kind: StatefulService
metadata:
  name: {SERVICE}
  annotations: {{cloudstate.io/proxy-kind: {kind}}}
spec:
{more}
  containers:
  - image: {image}
    env:
    - {{name: SCRIPT_ENTITY_TYPE, value: cloudstate.action.ActionProtocol}}
    - {{name: SCRIPT_ANSWER_AFTER_MS, value: \"{millis}\"}}
"
        )
    }

    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Jvm => "jvm",
        }
    }

    /// The proxy's process in that pod.
    pub(super) fn proxy(self, pod: &Value) -> anyhow::Result<Process> {
        match self {
            Self::Native => processes::find(pod, SIDECAR, "/proxy"),
            Self::Jvm => processes::find(pod, SIDECAR, "java"),
        }
    }

    /// One call through the Service, once.
    pub(super) fn call(self, namespace: &Namespace<'_>) -> anyhow::Result<()> {
        let address = Caller::of(namespace, SERVICE)?.address;
        match self {
            Self::Native => poke(namespace, &address, 1, 1)?.end().map(drop),
            Self::Jvm => sleep(address.parse()?, Duration::ZERO),
        }
    }

    /// Begins so many calls through the Service, each followed by another one to the same pod.
    pub(super) fn calls(
        self,
        namespace: &Namespace<'_>,
        pod: &Value,
        count: u64,
    ) -> anyhow::Result<Calls> {
        let address = Caller::of(namespace, SERVICE)?.address;
        match self {
            // Whoever has a connection keeps it, and with it the pod.
            Self::Native => poke(namespace, &address, count, 2).map(Calls::Crowd),
            Self::Jvm => {
                let (service, pod): (SocketAddr, _) = (address.parse()?, self::address(pod, 8013)?);
                let one = move || sleep(service, CALL).and_then(|()| sleep(pod, CALL));
                let threads = (0..count).map(|_| thread::spawn(one)).collect();
                Ok(Calls::Threads(threads))
            }
        }
    }

    /// How many calls the pod's proxy says are under way.
    pub(super) fn under_way(self, pod: &Value) -> anyhow::Result<u64> {
        match self {
            Self::Native => metric(pod, "cloudstate_requests_in_flight"),
            Self::Jvm => {
                let count = http::get(address(pod, 8558)?, "/under-way", Duration::from_secs(5))?;
                count.parse().with_context(|| format!("a count, not {count:?}"))
            }
        }
    }
}

impl Calls {
    /// Waits until every call has ended.
    ///
    /// # Errors
    /// That one was not answered well.
    pub(super) fn end(self) -> anyhow::Result<()> {
        match self {
            Self::Crowd(crowd) => crowd.end().map(drop),
            Self::Threads(threads) => {
                let all = threads.len();
                let ended = threads.into_iter().map(|thread| match thread.join() {
                    Ok(ended) => ended.err().map(|error| format!("{error:#}")),
                    Err(_) => Some("a caller panicked".to_owned()),
                });
                let broken: Vec<_> = ended.flatten().collect();
                let some: Vec<_> = broken.iter().take(5).collect();
                ensure!(broken.is_empty(), "{} of {all} callers failed: {some:#?}", broken.len());
                Ok(())
            }
        }
    }
}

/// The value of a metric that has one series, as the pod's proxy tells it.
pub(super) fn metric(pod: &Value, name: &str) -> anyhow::Result<u64> {
    let page = http::get(address(pod, 9090)?, "/metrics", Duration::from_secs(5))?;
    let line = page
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    let value = line.and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
    value.parse().with_context(|| format!("{name} is {value:?} in\n{page}"))
}

/// A port of the pod itself.
pub(super) fn address(pod: &Value, port: u16) -> anyhow::Result<SocketAddr> {
    let ip = pod["status"]["podIP"].as_str().context("the pod has no address")?;
    Ok(SocketAddr::new(ip.parse().with_context(|| format!("address {ip}"))?, port))
}

/// One call to the program that stands for a proxy made of jars, which answers after that time.
fn sleep(to: SocketAddr, time: Duration) -> anyhow::Result<()> {
    let limit = time + Duration::from_secs(17);
    let answer = http::get(to, &format!("/sleep?{}", time.as_millis()), limit)?;
    ensure!(answer == "slept", "{to} answered {answer:?}");
    Ok(())
}

/// Calls of the scripted user function.
fn poke(
    namespace: &Namespace<'_>,
    address: &str,
    callers: u64,
    calls: u64,
) -> anyhow::Result<Crowd> {
    let plan = Plan { service: "scripted.Scripted", method: "DoPoke", callers, calls };
    Crowd::start(&namespace.cluster.crowd, address, plan)
}
