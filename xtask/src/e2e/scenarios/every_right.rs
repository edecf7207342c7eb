//! What makes the operator use each of its rights.

use anyhow::ensure;

use super::manifests::store;
use crate::e2e::{
    audit::Audit,
    cluster::{OPERATOR, OPERATOR_NAMESPACE},
    namespace::{Namespace, READY},
    rights::{self, Mode},
    wait::until,
};

/// A service that nothing is made of, for the store that it names is not there.
const RESTORED: &str = "restored";
const RESTORED_SERVICE: &str = "
apiVersion: cloudstate.io/v1alpha1
kind: StatefulService
metadata:
  name: restored
spec:
  datastore:
    name: nowhere
  containers:
  - image: localhost/nothing:1
";
/// As a backup brings it back: its owner had the same name and is gone. Kubernetes removes such objects, so the operator
/// has to be there first.
const OF_A_FORMER_SELF: &str = "
apiVersion: v1
kind: Service
metadata:
  name: restored
  labels:
    cloudstate.io/statefulService: restored
    app.kubernetes.io/managed-by: cloudstate.io
  ownerReferences:
  - apiVersion: cloudstate.io/v1alpha1
    kind: StatefulService
    name: restored
    uid: 00000000-0000-0000-0000-000000000000
    controller: true
spec:
  ports:
  - port: 80
";

/// The operator for all namespaces, from its start on.
pub(super) fn rights_of_all_namespaces_are_all_used(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    rights::keep(namespace, Mode::AllNamespaces, OPERATOR_NAMESPACE, &namespace.cluster.begun)?;
    namespace.cluster.forget_jars()?;
    let audit = Audit::from_now()?;
    let operator = format!("deployment/{OPERATOR}");
    let there = ["--namespace", OPERATOR_NAMESPACE];
    namespace.kubectl(&[&["rollout", "restart", &operator], &there[..]].concat())?;
    namespace
        .kubectl(&[&["rollout", "status", &operator, "--timeout=60s"], &there[..]].concat())?;
    use_them(namespace, OPERATOR_NAMESPACE, &audit)?;
    let count = rights::are_used(namespace, Mode::AllNamespaces, OPERATOR_NAMESPACE, &audit)?;
    namespace.note(format!("all {count} rights used, no other asked for"));
    Ok(())
}

/// Does what needs each right that is always there.
pub(super) fn use_them(
    namespace: &Namespace<'_>,
    operator_namespace: &str,
    audit: &Audit,
) -> anyhow::Result<()> {
    // It is made anew by who leads.
    namespace.kubectl(&["delete", "lease", OPERATOR, "--namespace", operator_namespace])?;
    namespace.apply(&store("InMemory"))?;
    namespace.apply(RESTORED_SERVICE)?;
    // The second time the same is told of it, which counts up the event of the first.
    for is_there in [true, false, true, false] {
        let replicas = if is_there { 2 } else { 1 };
        namespace.apply(&format!(
            "
apiVersion: cloudstate.io/v1alpha1
kind: StatefulService
metadata:
  name: guarded
spec:
  replicas: {replicas}
  networkPolicy:
    enabled: {is_there}
  containers:
  - image: localhost/nothing:1
"
        ))?;
        until("budget and policy are as the spec says", READY, || {
            // The operator may have its own.
            let of_the_service = "--selector=cloudstate.io/statefulService=guarded";
            let kinds = "poddisruptionbudgets,networkpolicies";
            let found = namespace.kubectl(&["get", kinds, of_the_service, "--output=name"])?;
            let (found, wanted) = (found.lines().count(), if is_there { 2 } else { 0 });
            Ok(if found == wanted { Ok(()) } else { Err(format!("{found} objects")) })
        })?;
    }
    until("the operator asks who owns what is left of a former self", READY, || {
        namespace.apply(OF_A_FORMER_SELF)?;
        let requests = audit.of_account(operator_namespace, OPERATOR)?;
        let is_asked = requests.iter().any(|request| {
            request.verb == "get"
                && request.resource == "statefulservices.cloudstate.io"
                && request.name == RESTORED
        });
        Ok(if is_asked { Ok(()) } else { Err("it has not".to_owned()) })
    })?;
    ensure!(!audit.of_account(operator_namespace, OPERATOR)?.is_empty(), "an empty audit log");
    Ok(())
}
