//! A change that reaches many services.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::manifests::{STORE, postgres_store, store};
use crate::e2e::{
    audit::{Audit, Request},
    cluster::OPERATOR,
    namespace::{Namespace, READY, condition},
    operators,
    rights::{self, Mode},
    wait::until,
};

const SERVICES: usize = 30;
/// How many Deployments may be under way at once.
const AT_ONCE: usize = 5;
/// So many that failed in a row halt a wave.
const FAILED: usize = 3;
/// One that fails leaves its place to the next, but for the one that halts the wave.
const BEGUN_MAX: usize = AT_ONCE + FAILED - 1;
/// How long apart they start.
const INTERVAL: Duration = Duration::from_millis(200);
/// The longest pause of the machine that is reckoned with.
const PAUSE: Duration = Duration::from_secs(2);
/// All of them come up at once, on the two processors of the cluster.
const ALL_READY: Duration = Duration::from_mins(2);
/// By which an image is known that nobody can pull.
const NO_IMAGE: &str = "localhost/cloudstate/no-such-sidecar";

/// Thirty services that serve: an image that does not exist stops after a few, and the image of before brings those
/// back. Without pods, which need no time, another image goes through all of them one after the other, and so does
/// another store.
pub(super) fn thirty_services_roll_in_waves_and_halt(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let sidecar = namespace.cluster.product_images()[1].reference();
    let start = Audit::from_now()?;
    operators::make_room(namespace)?;
    namespace.apply(&installed(namespace, &sidecar)?)?;
    operators::ready(namespace)?;
    namespace.apply(&store("InMemory"))?;
    namespace.apply(&services(1, namespace)?)?;
    all_ready(namespace)?;

    let audit = Audit::from_now()?;
    namespace.apply(&installed(namespace, &format!("{NO_IMAGE}:1"))?)?;
    let held = halted(namespace)?;
    let begun = images(namespace, &format!("{NO_IMAGE}:1"))?;
    ensure!(held + begun == SERVICES, "{begun} of {SERVICES} have begun, and {held} are held");
    ensure!((FAILED..=BEGUN_MAX).contains(&begun), "{begun} Deployments have the image that fails");
    let starts = starts(&audit, namespace)?;
    ensure!(starts.len() == begun, "{begun} have begun, and {} were written", starts.len());
    let events =
        namespace.kubectl(&["get", "events", "--field-selector=reason=ThrottledRollout"])?;
    ensure!(events.contains("Warning"), "no event tells of the halt: {events}");
    metrics_tell(namespace, held)?;
    // Who leads next finds the wave halted.
    namespace.kubectl(&["rollout", "restart", &format!("deployment/{OPERATOR}")])?;
    operators::ready(namespace)?;
    metrics_tell(namespace, held)?;
    let now = images(namespace, &format!("{NO_IMAGE}:1"))?;
    ensure!(now == begun, "{begun} had begun, and {now} after the operator was started anew");
    namespace.note(format!(
        "an image that nobody can pull: {begun} of {SERVICES} have begun, {held} are held and serve"
    ));

    namespace.apply(&installed(namespace, &sidecar)?)?;
    let ((), took) = all_ready(namespace)?;
    namespace.note(format!("with the image of before all serve after {took:.1?}"));

    namespace.apply(&services(0, namespace)?)?;
    until("no service has a pod", READY, || {
        let deployments = namespace.list("deployments")?;
        let none = deployments.iter().filter(|each| each["spec"]["replicas"] == 0).count();
        // Beside theirs there is the operator's.
        Ok(if none == SERVICES { Ok(()) } else { Err(format!("{none} of them")) })
    })?;
    let audit = Audit::from_now()?;
    namespace.apply(&installed(namespace, &format!("{NO_IMAGE}:2"))?)?;
    until("every Deployment has the other image", READY, || {
        let found = images(namespace, &format!("{NO_IMAGE}:2"))?;
        Ok(if found == SERVICES { Ok(()) } else { Err(format!("{found} of them")) })
    })?;
    rolled_one_by_one(namespace, &audit, "another image")?;

    let audit = Audit::from_now()?;
    namespace.apply(
        "{apiVersion: v1, kind: Secret, metadata: {name: other},
          stringData: {database: carts, username: carts, password: change-me}}",
    )?;
    namespace.apply(&postgres_store("other"))?;
    until("every Deployment has the other store", READY, || {
        let deployments = namespace.list("deployments")?;
        let found = deployments.iter().filter(|each| each.to_string().contains("POSTGRES_SERVICE"));
        let found = found.count();
        Ok(if found == SERVICES { Ok(()) } else { Err(format!("{found} of them")) })
    })?;
    rolled_one_by_one(namespace, &audit, "another store")?;
    rights::keep(namespace, Mode::OneNamespace, &namespace.name, &start)
}

/// An operator whose sidecars are of that image.
fn installed(namespace: &Namespace<'_>, image: &str) -> anyhow::Result<String> {
    let settings =
        format!("rollout:\n  max-concurrent: {AT_ONCE}\n  interval: {}ms", INTERVAL.as_millis());
    let made = operators::kustomized(namespace, &settings)?;
    let sidecar = namespace.cluster.product_images()[1].reference();
    Ok(made.replace(&sidecar, image))
}

/// Waits until every service serves, and none is on its way.
fn all_ready(namespace: &Namespace<'_>) -> anyhow::Result<((), Duration)> {
    until("all services serve", ALL_READY, || {
        let objects = namespace.list("statefulservices")?;
        let is_settled = |object: &&Value| {
            let progressing = condition(object, "Progressing");
            is_ready(object) && progressing["reason"] == "Complete"
        };
        let settled = objects.iter().filter(is_settled).count();
        Ok(if settled == SERVICES { Ok(()) } else { Err(format!("{settled} of them")) })
    })
}

/// Waits until all services that have not begun say that the wave is halted, while they serve. Says how many.
fn halted(namespace: &Namespace<'_>) -> anyhow::Result<usize> {
    let (held, _) = until("services say that the wave is halted", READY, || {
        let objects = namespace.list("statefulservices")?;
        let (held, others): (Vec<_>, Vec<_>) = objects.iter().partition(|object| {
            let progressing = condition(object, "Progressing");
            let message = progressing["message"].as_str().unwrap_or_default();
            progressing["reason"] == "ThrottledRollout"
                && message.contains("three services in a row")
        });
        // The kubelet alternates between ErrImagePull and ImagePullBackOff.
        let has_failed = |object: &&Value| {
            let reason = condition(object, "Ready")["reason"].as_str().unwrap_or_default();
            reason.contains("ImagePull")
        };
        let all_failed = others.iter().all(has_failed);
        Ok(if held.len() >= SERVICES - BEGUN_MAX && all_failed {
            Ok(held.into_iter().cloned().collect::<Vec<_>>())
        } else {
            let ready = others.iter().map(|object| condition(object, "Ready").to_string());
            Err(format!("{} are held; the others: {:?}", held.len(), ready.collect::<Vec<_>>()))
        })
    })?;
    for object in &held {
        let name = &object["metadata"]["name"];
        ensure!(is_ready(object), "{name} is held and does not serve: {}", object["status"]);
        let stalled = condition(object, "Stalled");
        ensure!(stalled["status"] == "True", "{name} is held and not Stalled: {stalled}");
    }
    Ok(held.len())
}

fn is_ready(object: &Value) -> bool {
    condition(object, "Ready")["status"] == "True"
}

/// Waits until the operator's metrics tell that the wave is halted, and that so many wait.
fn metrics_tell(namespace: &Namespace<'_>, held: usize) -> anyhow::Result<()> {
    until("metrics tell of the halt", READY, || {
        let pods = namespace.list("pods")?;
        let mut operators = pods.iter().filter(|pod| {
            pod["metadata"]["labels"]["app.kubernetes.io/name"] == OPERATOR
                && pod["metadata"]["deletionTimestamp"].is_null()
        });
        let operator = operators.next().and_then(|pod| pod["metadata"]["name"].as_str());
        let operator = operator.context("the operator has no pod")?;
        let path =
            format!("/api/v1/namespaces/{}/pods/{operator}:8080/proxy/metrics", namespace.name);
        let metrics = namespace.kubectl(&["get", "--raw", &path])?;
        let rollouts = |state: &str| {
            let start = format!("cloudstate_operator_rollouts{{state=\"{state}\"}} ");
            let mut lines = metrics.lines();
            lines.find_map(|line| line.strip_prefix(&start)?.parse::<usize>().ok())
        };
        let (failed, waiting) = (rollouts("failed"), rollouts("waiting"));
        Ok(if failed.is_some_and(|failed| failed >= FAILED) && waiting == Some(held) {
            Ok(())
        } else {
            Err(format!("failed: {failed:?}, waiting: {waiting:?}"))
        })
    })
    .map(drop)
}

/// Looks at when each Deployment was written.
fn rolled_one_by_one(
    namespace: &mut Namespace<'_>,
    audit: &Audit,
    what: &str,
) -> anyhow::Result<()> {
    let starts = starts(audit, namespace)?;
    let names: BTreeSet<_> = starts.iter().map(|request| request.name.as_str()).collect();
    ensure!(
        names.len() == SERVICES && starts.len() == SERVICES,
        "{} writes of {} Deployments, not one of each of {SERVICES}",
        starts.len(),
        names.len()
    );
    let times: Vec<f64> = starts.iter().filter_map(Request::seconds_of_day).collect();
    let all = times.last().zip(times.first()).map_or(0.0, |(last, first)| last - first);
    let all = all.rem_euclid(86_400.0);
    // Two answers are closer than what they answer when the first of them took longer, as when the machine paused.
    let apart = INTERVAL.as_secs_f64() * f64::from(u32::try_from(SERVICES - 2)?);
    let least = apart - PAUSE.as_secs_f64();
    ensure!(all >= least, "all of them were started within {all:.1} s, not {INTERVAL:?} apart");
    namespace
        .note(format!("{what}: {SERVICES} services begun within {all:.1} s, {INTERVAL:?} apart"));
    Ok(())
}

/// The accepted writes of Deployments.
fn starts(audit: &Audit, namespace: &Namespace<'_>) -> anyhow::Result<Vec<Request>> {
    let mut requests = audit.of_account(&namespace.name, OPERATOR)?;
    requests.retain(|request| {
        request.is_write() && request.is_accepted() && request.resource == "deployments.apps"
    });
    Ok(requests)
}

/// How many Deployments have that image.
fn images(namespace: &Namespace<'_>, image: &str) -> anyhow::Result<usize> {
    let path = "--output=jsonpath={range .items[*]}{.spec.template.spec.containers[*].image}{\"\\n\"}{end}";
    let found = namespace.kubectl(&["get", "deployments", path])?;
    Ok(found.lines().filter(|line| line.split(' ').any(|each| each == image)).count())
}

/// All of them, each with so many pods that ask for next to nothing.
fn services(replicas: u32, namespace: &Namespace<'_>) -> anyhow::Result<String> {
    let image = namespace.cluster.cart();
    let mut text = String::new();
    for number in 0..SERVICES {
        write!(
            text,
            "---
apiVersion: cloudstate.io/v1alpha1
kind: StatefulService
metadata: {{name: wave-{number}}}
spec:
  replicas: {replicas}
  datastore: {{name: {STORE}}}
  sidecarResources: {{requests: {{cpu: 1m, memory: 16Mi}}, limits: {{memory: 128Mi}}}}
  podSecurityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - image: {image}
    securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"
        )?;
    }
    Ok(text)
}
