//! Every key of a store's `spec.config`, and of a service's `spec.datastore.config`, in the sidecars of the cluster.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use super::{
    fields::{SIDECAR, holds},
    manifests::{DEPLOYMENT, SERVICE, STORE, edited, on_postgres},
    postgres::DATABASE,
};
use crate::e2e::{
    calls::Caller,
    namespace::{Namespace, condition, container},
    wait::until,
};

/// By then a change has its turn among those of other services, and is in the Deployment.
const RENDERED: Duration = Duration::from_mins(1);

/// In plain text, and from a Secret whose keys have names of their own: the database lets the proxy in, and the cart stays.
/// Where certificates are is told as well.
pub(super) fn every_key_of_a_postgres_store_is_used(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let plain = json!({
        "service": DATABASE, "port": 5432,
        "credentials": {
            "database": "carts", "username": "carts", "password": "change-me", "schema": "public",
        },
    });
    let before =
        format!("    service: {DATABASE}\n    credentialsFromSecret:\n      name: {DATABASE}\n");
    let manifest = on_postgres(namespace.cluster)?;
    let manifest =
        edited(&manifest, &format!("  config:\n{before}"), &format!("  config: {plain}\n"))?;
    namespace.apply(&manifest)?;
    namespace.ready(SERVICE)?;
    let told = json!([
        {"name": "POSTGRES_SERVICE", "value": DATABASE}, {"name": "POSTGRES_PORT", "value": "5432"},
        {"name": "POSTGRES_DATABASE", "value": "carts"},
        {"name": "POSTGRES_USERNAME", "value": "carts"},
        {"name": "POSTGRES_PASSWORD", "value": "change-me"},
        {"name": "POSTGRES_SCHEMA", "value": "public"},
    ]);
    holds(&container(&namespace.pod(SERVICE)?, SIDECAR)?["env"], &told, "env")?;
    Caller::of(namespace, SERVICE)?.fill_and_read("anna")?;
    let deprecated = condition(&namespace.get("statefulstore", STORE)?, "ConfigurationDeprecated")
        ["message"]
        .to_string();
    for key in ["database", "username", "password", "schema"] {
        let field = format!("spec.config.credentials.{key}");
        ensure!(deprecated.contains(&field), "{field} is not called deprecated: {deprecated}");
    }

    let data = json!({"db": "carts", "user": "carts", "pass": "change-me", "area": "public"});
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "named"}, "stringData": data,
    });
    namespace.apply(&secret.to_string())?;
    let keys = json!({
        "name": "named", "databaseKey": "db", "usernameKey": "user", "passwordKey": "pass",
        "schemaKey": "area",
    });
    let config = json!({"service": DATABASE, "credentialsFromSecret": keys});
    namespace.apply(&store("Postgres", &config))?;
    let from = |name: &str, key: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": "named", "key": key}}});
    rendered(
        namespace,
        &json!([
            from("POSTGRES_DATABASE", "db"),
            from("POSTGRES_USERNAME", "user"),
            from("POSTGRES_PASSWORD", "pass"),
            from("POSTGRES_SCHEMA", "area"),
        ]),
    )?;
    rolled_out(namespace)?;

    let datastore = json!({"spec": {"datastore": {"config": {"schema": "public"}}}});
    patch_service(namespace, &datastore)?;
    rendered(namespace, &json!([{"name": "POSTGRES_SCHEMA", "value": "public"}]))?;
    rolled_out(namespace)?;

    // Nobody has these files, so the pod of before goes on.
    let files = json!({
        "mode": "verify-full", "secret": "files", "rootCert": "root", "cert": "leaf", "key": "own",
    });
    let config = json!({"service": DATABASE, "credentialsFromSecret": keys, "ssl": files});
    namespace.apply(&store("Postgres", &config))?;
    rendered(
        namespace,
        &json!([
            {"name": "POSTGRES_SSL_MODE", "value": "verify-full"},
            {"name": "POSTGRES_SSL_ROOT_CERT", "value": "/var/run/secrets/postgres/root"},
            {"name": "POSTGRES_SSL_CERT", "value": "/var/run/secrets/postgres/leaf"},
            {"name": "POSTGRES_SSL_KEY", "value": "/var/run/secrets/postgres/own"},
        ]),
    )?;
    let pod = &namespace.get("deployment", DEPLOYMENT)?["spec"]["template"]["spec"];
    holds(&pod["volumes"], &json!([{"secret": {"secretName": "files"}}]), "volumes")
}

/// Those of Cassandra, which no proxy of ours keeps anything in yet.
pub(super) fn every_key_of_a_cassandra_store_reaches_the_sidecar(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    let credentials = json!({"username": "carts", "password": "change-me"});
    let config = json!({"service": "ring", "port": 9142, "credentials": credentials});
    namespace.apply(&store("Cassandra", &config))?;
    let service = json!({
        "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulService",
        "metadata": {"name": SERVICE},
        "spec": {
            "replicas": 0, "datastore": {"name": STORE, "config": {"keyspace": "baskets"}},
            "containers": [{"image": namespace.cluster.scripted}],
        },
    });
    namespace.apply(&service.to_string())?;
    rendered(
        namespace,
        &json!([
            {"name": "CASSANDRA_CONTACT_POINTS", "value": "ring"},
            {"name": "CASSANDRA_PORT", "value": "9142"},
            {"name": "CASSANDRA_KEYSPACE", "value": "baskets"},
            {"name": "CASSANDRA_USERNAME", "value": "carts"},
            {"name": "CASSANDRA_PASSWORD", "value": "change-me"},
        ]),
    )?;
    let keys = json!({"name": "named", "usernameKey": "user", "passwordKey": "pass"});
    namespace
        .apply(&store("Cassandra", &json!({"service": "ring", "credentialsFromSecret": keys})))?;
    let from = |key: &str| json!({"secretKeyRef": {"name": "named", "key": key}});
    rendered(
        namespace,
        &json!([
            {"name": "CASSANDRA_USERNAME", "valueFrom": from("user")},
            {"name": "CASSANDRA_PASSWORD", "valueFrom": from("pass")},
        ]),
    )
}

fn store(kind: &str, config: &Value) -> String {
    json!({
        "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulStore", "metadata": {"name": STORE},
        "spec": {"type": kind, "deployment": "Unmanaged", "config": config},
    })
    .to_string()
}

fn patch_service(namespace: &Namespace<'_>, patch: &Value) -> anyhow::Result<()> {
    let patch = patch.to_string();
    namespace
        .kubectl(&["patch", "statefulservice", SERVICE, "--type=merge", "--patch", &patch])
        .map(drop)
}

/// Waits until the Deployment's sidecar is told all of that.
fn rendered(namespace: &Namespace<'_>, variables: &Value) -> anyhow::Result<()> {
    until(&format!("the sidecar is told {variables}"), RENDERED, || {
        // It may not be there yet.
        let deployments = namespace.list("deployments")?;
        let Some(deployment) =
            deployments.iter().find(|each| each["metadata"]["name"] == DEPLOYMENT)
        else {
            return Ok(Err("there is no Deployment".to_owned()));
        };
        let sidecar = container(&deployment["spec"]["template"], SIDECAR)?;
        Ok(holds(&sidecar["env"], variables, "env").map_err(|error| error.to_string()))
    })
    .map(drop)
}

/// Waits until the newest pod serves, with the cart of before.
fn rolled_out(namespace: &Namespace<'_>) -> anyhow::Result<()> {
    let deployment = format!("deployment/{DEPLOYMENT}");
    namespace.kubectl(&["rollout", "status", &deployment, "--timeout=60s"])?;
    let cart = Caller::of(namespace, SERVICE)?.cart("anna")?;
    ensure!(cart.len() == 2, "the cart holds {cart:?}");
    Ok(())
}
