//! An operator that has nothing to do does nothing.

use std::{collections::BTreeMap, fmt::Write as _, thread, time::Duration};

use anyhow::ensure;

use super::manifests::{STORE, store};
use crate::e2e::{
    audit::{Audit, Request},
    cluster::{OPERATOR, OPERATOR_NAMESPACE},
    namespace::{Namespace, READY, condition},
    wait::until,
};

const SERVICES: usize = 50;
/// Services with a pod; the others are scaled to nothing, for a node has room for a hundred pods only.
const WITH_POD: usize = 5;

/// How many looks in a row must find no other write.
const QUIET: u32 = 10;

/// Fifty services that are as they should be: not one write by the operator, but for the renewal of its Lease.
pub(super) fn fifty_services_and_not_one_write(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let since_start = Audit::from_now()?;
    let mut services = store("InMemory");
    for number in 0..SERVICES {
        let replicas = usize::from(number < WITH_POD);
        write!(
            services,
            "---
apiVersion: cloudstate.io/v1alpha1
kind: StatefulService
metadata:
  name: quiet-{number}
spec:
  replicas: {replicas}
  datastore:
    name: {STORE}
  containers:
  - image: {}
",
            namespace.cluster.cart()
        )?;
    }
    namespace.apply(&services)?;
    until("every service is as it should be", Duration::from_mins(2), || {
        let objects = namespace.list("statefulservices")?;
        let is_settled = |object: &serde_json::Value| {
            let (ready, progressing) =
                (condition(object, "Ready"), condition(object, "Progressing"));
            let wanted = if object["spec"]["replicas"] == 0 { "False" } else { "True" };
            ready["status"] == wanted && progressing["status"] == "False"
        };
        let settled = objects.iter().filter(|object| is_settled(object)).count();
        Ok(if settled == SERVICES {
            Ok(())
        } else {
            let odd = objects.iter().find(|object| !is_settled(object));
            let status = odd.map(|object| object["status"]["conditions"].to_string());
            Err(format!("{settled} of {SERVICES}; one says {}", status.unwrap_or_default()))
        })
    })?;

    // What the last look at each has led to is written as well: how many services name the store, and events.
    let (mut last, mut looks) = (0, 0);
    until("the operator has written all that is to be told", READY, || {
        let requests = since_start.of_account(OPERATOR_NAMESPACE, OPERATOR)?;
        let here = |request: &&Request| request.is_write() && request.namespace == namespace.name;
        let count = requests.iter().filter(here).count();
        looks = if count == last { looks + 1 } else { 0 };
        last = count;
        Ok(if looks >= QUIET { Ok(()) } else { Err(format!("{count} writes")) })
    })?;

    let audit = Audit::from_now()?;
    // Not a wait for something: that nothing happens takes as long as one looks.
    thread::sleep(namespace.cluster.silence);
    let requests = audit.of_account(OPERATOR_NAMESPACE, OPERATOR)?;
    let here: Vec<_> = requests
        .iter()
        .filter(|request| request.is_write() && request.namespace == namespace.name)
        .map(Request::describe)
        .collect();
    ensure!(here.is_empty(), "{} writes by the operator: {}", here.len(), here.join("; "));
    // It was alive, and the log would have shown it.
    let mut others: BTreeMap<&str, usize> = BTreeMap::new();
    for request in requests.iter().filter(|request| request.is_write()) {
        if request.namespace == OPERATOR_NAMESPACE {
            *others.entry(request.resource.as_str()).or_default() += 1;
        }
    }
    let renewals = others.get("leases.coordination.k8s.io").copied().unwrap_or_default();
    ensure!(renewals > 0, "not even the Lease was renewed: {others:?}");
    namespace.note(format!(
        "{SERVICES} services, {:?}: no write; the Lease was renewed {renewals} times",
        namespace.cluster.silence
    ));
    Ok(())
}
