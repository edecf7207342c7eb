//! How long an operator takes for many services that it has never seen.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, ensure};

use super::manifests::{STORE, store};
use crate::e2e::{
    audit::{Audit, Request},
    cluster::OPERATOR,
    namespace::{Namespace, condition},
    operators, processes,
    wait::until,
};

const SERVICES: usize = 300;
/// Deployments are rolled out by a controller of the cluster, which allows itself twenty calls a second.
const SETTLED: Duration = Duration::from_mins(5);
/// What the kernel counts processor time in: `USER_HZ`, which is the same on all machines.
const TICKS_PER_SECOND: f64 = 100.0;

/// Services of no pods are there before their operator. Told are its calls, from the first to the last report, and
/// what it took for them.
pub(super) fn three_hundred_services_from_cold(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    operators::make_room(namespace)?;
    namespace.apply(&services(namespace)?)?;
    let audit = Audit::from_now()?;
    namespace.apply(&operators::kustomized(namespace, "")?)?;
    operators::ready(namespace)?;
    until("every service is as it should be", SETTLED, || {
        let objects = namespace.list("statefulservices")?;
        let settled = objects.iter().filter(|object| {
            let (ready, progressing) =
                (condition(object, "Ready"), condition(object, "Progressing"));
            ready["reason"] == "NoReadyReplicas" && progressing["status"] == "False"
        });
        let settled = settled.count();
        Ok(if settled == SERVICES { Ok(()) } else { Err(format!("{settled} of {SERVICES}")) })
    })?;

    let requests = audit.of_account(&namespace.name, OPERATOR)?;
    let written = |resource: &str| {
        let is_it = |request: &&Request| {
            request.is_write() && request.is_accepted() && request.resource == resource
        };
        requests.iter().filter(is_it).filter_map(Request::seconds_of_day).collect::<Vec<_>>()
    };
    let deployments = written("deployments.apps");
    let reports = written("statefulservices/status.cloudstate.io");
    ensure!(
        deployments.len() == SERVICES && reports.len() >= SERVICES,
        "{} Deployments were written and {} reports",
        deployments.len(),
        reports.len()
    );
    let first = requests.first().and_then(Request::seconds_of_day);
    let first = first.context("the operator has asked for nothing")?;
    let since =
        |times: &[f64]| times.last().map_or(0.0, |last| (last - first).rem_euclid(86_400.0));

    let pods = namespace.list("pods")?;
    let pod = pods.first().context("the operator has no pod")?;
    let operator = processes::find(pod, "operator", "operator")?;
    let (memory, processor) = (operator.peak_mb()?, processor_seconds(&operator.file("stat")?));
    let processor = processor.context("the operator's processor time cannot be read")?;
    namespace.note(format!(
        "{SERVICES} services: the last Deployment after {:.1} s, the last report after {:.1} s, {} calls, {processor:.1} s of processor time, {memory:.1} MB at most",
        since(&deployments),
        since(&reports),
        requests.len(),
    ));
    Ok(())
}

/// User and system time of a process. Its name stands in parentheses and may hold anything.
fn processor_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11).map(str::parse::<f64>);
    let (user, system) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn services(namespace: &Namespace<'_>) -> anyhow::Result<String> {
    let image = namespace.cluster.cart();
    let mut text = store("InMemory");
    for number in 0..SERVICES {
        write!(
            text,
            "---
apiVersion: cloudstate.io/v1alpha1
kind: StatefulService
metadata: {{name: cold-{number}}}
spec:
  replicas: 0
  datastore: {{name: {STORE}}}
  containers:
  - image: {image}
"
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_that_of_user_and_system() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 150 5 6 20 0 9 0";
        assert_eq!(processor_seconds(stat), Some(4.0));
        assert_eq!(processor_seconds("7 (operator) S 1"), None);
    }
}
