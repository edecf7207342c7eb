//! What a service becomes, and how it looks.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;

use super::manifests::{DEPLOYMENT, SERVICE, STORE, minimal, sample, service, store};
use crate::e2e::{
    calls::Caller,
    namespace::{Namespace, container, variable},
    wait::until,
};

/// The first example that users read, with the image that we have.
pub(super) fn minimal_example_becomes_one_deployment_and_one_service(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    namespace.apply(&minimal(&namespace.cluster.cart()))?;
    until("Deployment and Service exist", Duration::from_secs(10), || {
        let count = namespace.list("deployments,services")?.len();
        Ok(if count >= 2 { Ok(()) } else { Err(format!("{count} objects")) })
    })?;
    // The pod is the last thing to come of it; when it is there, nothing else is on its way.
    until("its pod exists", Duration::from_secs(10), || {
        Ok(namespace.pod(SERVICE).map(drop).map_err(|error| error.to_string()))
    })?;
    let names = |kind: &str| -> anyhow::Result<Vec<String>> {
        let text =
            namespace.kubectl(&["get", kind, "--output=jsonpath={.items[*].metadata.name}"])?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    ensure!(names("deployments")? == [DEPLOYMENT], "Deployments: {:?}", names("deployments")?);
    ensure!(names("services")? == [SERVICE], "Services: {:?}", names("services")?);
    for kind in ["statefulsets", "daemonsets", "jobs", "roles", "rolebindings"] {
        ensure!(names(kind)?.is_empty(), "unasked {kind}: {:?}", names(kind)?);
    }
    let deployment = namespace.get("deployment", DEPLOYMENT)?;
    let template = &deployment["spec"]["template"];
    let containers = template["spec"]["containers"].as_array().map_or(0, Vec::len);
    ensure!(containers == 2, "{containers} containers");
    container(template, "cloudstate-sidecar")?;
    let user = container(template, "user-container")?;
    ensure!(user["image"] == namespace.cluster.cart(), "image {}", user["image"]);
    expect_port(user, 8080)
}

pub(super) fn declared_port_is_used(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    let spec = format!(
        "  datastore:
    name: {STORE}
  containers:
  - image: {}
    ports:
    - containerPort: 9000",
        namespace.cluster.cart()
    );
    namespace.apply(&store("InMemory"))?;
    namespace.apply(&service(&spec))?;
    namespace.ready(SERVICE)?;
    let deployment = namespace.get("deployment", DEPLOYMENT)?;
    expect_port(container(&deployment["spec"]["template"], "user-container")?, 9000)?;
    Caller::of(namespace, SERVICE)?.fill_and_read("anna")
}

fn expect_port(user: &Value, port: u16) -> anyhow::Result<()> {
    let told = variable(user, "PORT");
    ensure!(told.as_str() == Some(port.to_string().as_str()), "PORT is {told}, not {port}");
    let declared = &user["ports"][0]["containerPort"];
    ensure!(*declared == port, "the declared port is {declared}, not {port}");
    Ok(())
}

/// What `kubectl get statefulservices` shows of a service that works.
pub(super) fn columns_of_kubectl_get(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&sample(namespace.cluster)?)?;
    namespace.ready(SERVICE)?;
    let table = namespace.kubectl(&["get", "statefulservices"])?;
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    let [header, row] = &lines[..] else { anyhow::bail!("not one service:\n{table}") };
    ensure!(
        header[..] == ["NAME", "READY", "STORE", "REPLICAS", "SUMMARY", "AGE"],
        "other columns:\n{table}"
    );
    ensure!(row[..5] == [SERVICE, "True", STORE, "1", "Ready"], "other values:\n{table}");
    let stores = namespace.kubectl(&["get", "statefulstores", "--no-headers"])?;
    let row: Vec<_> = stores.split_whitespace().collect();
    ensure!(row[..3] == [STORE, "InMemory", "True"], "other values:\n{stores}");
    Ok(())
}
