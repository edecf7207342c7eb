//! Carts on a real Postgres: what must outlive pods, rollouts and crashes, and how mistakes are told.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, ensure};

use super::manifests::{
    DEPLOYMENT, SERVICE, STORE, on_postgres, postgres_store, store, with_store,
};
use crate::e2e::{
    calls::Caller,
    load::{self, Load},
    namespace::{Namespace, READY, condition},
    processes,
    wait::until,
};

/// Stateful set, Service and Secret of the database in `samples/shopping-cart/postgres.yaml`.
pub(super) const DATABASE: &str = "carts-db";
/// Callers at a time. They leave the machine to what they call.
pub(super) const CALLERS: u32 = 8;

/// The pod goes, the cart stays; without the database it does not.
pub(super) fn cart_on_postgres_survives_its_pod(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    // Whether the database's pod is as restricted as the strictest clusters ask for.
    let warn = "pod-security.kubernetes.io/warn=restricted";
    namespace.kubectl(&["label", "namespace", &namespace.name, warn])?;
    let told = namespace.apply_aloud(&on_postgres(namespace.cluster)?)?;
    ensure!(!told.contains("violate PodSecurity"), "the database's pod is not restricted: {told}");
    let took = namespace.ready(SERVICE)?;
    namespace.note(format!("database, store and service ready after {took:.1?}"));
    let caller = Caller::of(namespace, SERVICE)?;
    caller.fill_and_read("anna")?;

    let old = namespace.pod(SERVICE)?;
    namespace.kubectl(&["delete", "pod", old["metadata"]["name"].as_str().unwrap_or_default()])?;
    ensure!(namespace.pod(SERVICE)?["metadata"]["uid"] != old["metadata"]["uid"], "the same pod");
    namespace.ready(SERVICE)?;
    let cart = Caller::of(namespace, SERVICE)?.cart("anna")?;
    ensure!(cart == [("apples".to_owned(), 2), ("pears".to_owned(), 3)], "the cart holds {cart:?}");

    // Another store is another Deployment strategy, and another cart.
    namespace.apply(&store("InMemory"))?;
    until("the Deployment is made anew", Duration::from_secs(20), || {
        let strategy = &namespace.get("deployment", DEPLOYMENT)?["spec"]["strategy"]["type"];
        Ok(if *strategy == "Recreate" { Ok(()) } else { Err(strategy.to_string()) })
    })?;
    // Until the pod of the new Deployment serves, the one before may still answer, or refuse.
    let caller = Caller::of(namespace, SERVICE)?;
    until("the cart in memory is empty", Duration::from_mins(1), || {
        Ok(match caller.cart("anna") {
            Ok(cart) if cart.is_empty() => Ok(()),
            Ok(cart) => Err(format!("it holds {cart:?}")),
            Err(error) => Err(format!("{error:#}")),
        })
    })?;
    Ok(())
}

/// `kill -9` of the postmaster while carts are filled: Kubernetes starts it again on the same data.
pub(super) fn postgres_restarted_under_load(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    let load = loaded(namespace)?;
    let pod = namespace.get("pod", &format!("{DATABASE}-0"))?;
    let ip = pod["status"]["podIP"].as_str().context("the database's pod has no address")?;
    let address: SocketAddr = format!("{ip}:5432").parse()?;

    processes::find(&pod, "postgres", "postgres")?.kill()?;
    let gone = load::now();
    until("Postgres is gone", Duration::from_secs(5), || {
        Ok(if takes_connections(address) { Err("it is not".to_owned()) } else { Ok(()) })
    })?;
    until("Postgres is back", Duration::from_mins(1), || {
        Ok(if takes_connections(address) { Ok(()) } else { Err("it is not".to_owned()) })
    })?;
    let back = load::now();
    let last = load.served_since(back, Duration::from_secs(10))?;
    namespace.note(format!(
        "Postgres was away for {:.1?}; {last:.1?} after it was back, each of {CALLERS} callers had been served",
        back.saturating_sub(gone)
    ));
    ensure!(
        last <= Duration::from_secs(3),
        "the last caller was served {last:.1?} after it was back"
    );

    let summary = load.end()?;
    namespace.note(summary.to_string());
    let pod = namespace.get("pod", &format!("{DATABASE}-0"))?;
    ensure!(processes::restarts(&pod, "postgres")? == 1, "Postgres was not started again once");
    Ok(())
}

/// Another template of the user function, while carts are filled: the old pod hands over to the new one.
pub(super) fn rolling_update_under_load(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    let load = loaded(namespace)?;
    let before = namespace.pod(SERVICE)?;
    let patch = r#"[{"op": "add", "path": "/spec/containers/0/env", "value": [{"name": "RELEASE", "value": "2"}]}]"#;
    namespace.kubectl(&["patch", "statefulservice", SERVICE, "--type=json", "--patch", patch])?;
    let begun = load::now();
    let deployment = format!("deployment/{DEPLOYMENT}");
    until("the new template is rolled out", READY, || {
        let rolled = namespace.kubectl(&["rollout", "status", &deployment, "--timeout=1s"]);
        let pod = namespace.pod(SERVICE);
        Ok(match (rolled, pod) {
            (Ok(_), Ok(pod)) if pod["metadata"]["uid"] != before["metadata"]["uid"] => Ok(()),
            (Ok(_), Ok(_)) => Err("the old pod is still there".to_owned()),
            (Err(error), _) | (_, Err(error)) => Err(format!("{error:#}")),
        })
    })?;
    let rolled = load::now();
    load.served_since(rolled, Duration::from_secs(10))?;
    let summary = load.end()?;
    namespace.note(format!("rolled out after {:.1?}; {summary}", rolled.saturating_sub(begun)));
    Ok(())
}

/// `kubectl scale` is taken, one pod stays, and the service says why.
pub(super) fn replicas_are_pinned_with_a_store(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    namespace.apply(&on_postgres(namespace.cluster)?)?;
    namespace.ready(SERVICE)?;
    let service = format!("statefulservice/{SERVICE}");
    namespace.kubectl(&["scale", &service, "--replicas=3"])?;
    let told = ["ReplicasPinned", "OneOwner", "spec.replicas is 3, and 1 is used", STORE];
    until("the service says that one pod runs", Duration::from_secs(10), || {
        let description = namespace.describe(SERVICE)?;
        let missing: Vec<_> = told.iter().filter(|word| !description.contains(**word)).collect();
        Ok(if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("no {missing:?} in {description}"))
        })
    })?;
    ensure!(namespace.get("deployment", DEPLOYMENT)?["spec"]["replicas"] == 1, "not one replica");
    namespace.pod(SERVICE)?;
    let object = namespace.get("statefulservice", SERVICE)?;
    ensure!(condition(&object, "Ready")["status"] == "True", "{}", object["status"]);
    let message = &condition(&object, "ReplicasPinned")["message"];
    namespace.note(format!("ReplicasPinned=True: {message}"));
    Ok(())
}

/// Without the Secret, without a key of it, and with the wrong password: each has its reason, and nothing
/// but the cause has to be put right.
pub(super) fn credentials_that_do_not_work(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    namespace.apply(&on_postgres(namespace.cluster)?)?;
    namespace.ready(SERVICE)?;
    namespace.kubectl(&["delete", "statefulservice", SERVICE])?;

    namespace.apply(&postgres_store("other"))?;
    namespace.apply(&with_store(&namespace.cluster.cart()))?;
    tells(namespace, &["SecretNotFound", "secret \"other\" not found", STORE])?;

    namespace.apply(&secret("{database: carts, username: carts}"))?;
    tells(namespace, &["SecretKeyNotFound", "couldn't find key password", "other"])?;

    namespace.apply(&secret("{database: carts, username: carts, password: swordfish}"))?;
    let message = tells(namespace, &["StoreUnreachable", "password authentication failed"])?;
    let objects = namespace.kubectl(&[
        "get",
        "statefulservices,statefulstores,deployments,pods,events",
        "--output=yaml",
    ])?;
    let logs =
        namespace.kubectl(&["logs", &format!("deployment/{DEPLOYMENT}"), "--all-containers"])?;
    for shown in [&message, &objects, &logs] {
        ensure!(!shown.contains("swordfish"), "the password is shown: {shown}");
    }

    namespace.apply(&secret("{database: carts, username: carts, password: change-me}"))?;
    namespace.kubectl(&["rollout", "restart", &format!("deployment/{DEPLOYMENT}")])?;
    let took = namespace.ready(SERVICE)?;
    Caller::of(namespace, SERVICE)?.fill_and_read("anna")?;
    namespace.note(format!("serves calls {took:.1?} after the cause was repaired"));
    Ok(())
}

/// The database and the service, with callers that were all served once.
fn loaded(namespace: &Namespace<'_>) -> anyhow::Result<Load> {
    loaded_on(namespace, &on_postgres(namespace.cluster)?)
}

/// The same with another manifest.
pub(super) fn loaded_on(namespace: &Namespace<'_>, manifest: &str) -> anyhow::Result<Load> {
    namespace.apply(manifest)?;
    namespace.ready(SERVICE)?;
    let caller = Caller::of(namespace, SERVICE)?;
    Load::start(&namespace.cluster.carts, &caller.address, CALLERS)
}

fn secret(data: &str) -> String {
    format!("{{apiVersion: v1, kind: Secret, metadata: {{name: other}}, stringData: {data}}}")
}

/// Waits until plain `kubectl describe` shows all of it, and keeps the message for the reader.
pub(super) fn tells(namespace: &mut Namespace<'_>, words: &[&str]) -> anyhow::Result<String> {
    let message = namespace.described(SERVICE, words)?;
    namespace.note(format!("Ready=False: {message}"));
    Ok(message)
}

/// Whether Postgres asks us to log in: while it starts, it says that it starts.
pub(super) fn takes_connections(address: SocketAddr) -> bool {
    const PROTOCOL: u32 = 196_608;
    const LIMIT: Duration = Duration::from_millis(500);
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let parameters = b"user\0carts\0\0";
        let length = u32::try_from(8 + parameters.len()).unwrap_or_default();
        stream.write_all(
            &[&length.to_be_bytes(), &PROTOCOL.to_be_bytes(), &parameters[..]].concat(),
        )?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        std::io::Result::Ok(answer[0])
    };
    ask().is_ok_and(|answer| answer == b'R')
}
