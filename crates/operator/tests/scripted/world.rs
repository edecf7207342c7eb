//! A store, and operators that live and die on it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use operator::Environment;
use scripted_api::{Call, Connection, Key, Kind, Server, Store};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

/// After so long without a write, nothing is left to be done: longer than what is looked at again.
const QUIET: Duration = Duration::from_secs(20);
/// Whoever still writes then will never come to rest.
const RESTLESS: Duration = Duration::from_mins(30);

/// Settings of an operator, over its defaults.
pub(crate) type Settings = &'static [(&'static str, &'static str)];

pub(crate) const PLAIN: Settings = &[];
pub(crate) const SECRETS: Settings = &[("validate-secrets", "on")];
pub(crate) const ACCOUNTS: Settings = &[("rbac.dedicated-service-account", "true")];
pub(crate) const JARS: Settings =
    &[("proxy.image.jvm", "registry.example/jvm:1"), ("proxy.kind", "jvm")];
pub(crate) const LED: Settings = &[("leader-election", "true")];

/// The operator of that connection, as if it were a process: dropped, it is dead.
fn operator(
    connection: &Connection,
    settings: Settings,
) -> impl Future<Output = Result<(), operator::Error>> + use<> {
    operator_of(kube::Client::new(connection.clone(), "default"), settings)
}

/// The operator of that client.
pub(crate) fn operator_of(
    client: kube::Client,
    settings: Settings,
) -> impl Future<Output = Result<(), operator::Error>> + use<> {
    static STARTED: AtomicU64 = AtomicU64::new(0);
    let mut all = BTreeMap::from(
        [("admin.listen", "127.0.0.1:0"), ("leader-election", "false")]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    all.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    let environment = Environment {
        namespace: "cloudstate".to_owned(),
        config_map: "cloudstate-operator-config".to_owned(),
        identity: format!("operator-{}", STARTED.fetch_add(1, Ordering::Relaxed)),
        settings: all,
    };
    operator::run_with(client, environment, CancellationToken::new())
}

/// Runs an operator until the other future is done, and kills it then.
pub(crate) async fn run_during<T>(
    connection: &Connection,
    settings: Settings,
    until: impl Future<Output = T>,
) -> T {
    let mut operator = Box::pin(operator(connection, settings));
    let mut until = pin!(until);
    tokio::select! {
        biased;
        done = &mut until => done,
        ended = &mut operator => panic!("the operator ended: {ended:?}"),
    }
}

/// Does the work for each number below `count`, in turn on as many threads as there are processors. Each
/// thread has a clock of its own, which jumps to where something is due.
pub(crate) fn on_all_processors(count: usize, work: impl AsyncFn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .start_paused(true)
                    .build()
                    .unwrap();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    runtime.block_on(work(number));
                }
            });
        }
    });
}

/// Writes so far, but for the Lease, which never rests.
pub(crate) fn writes(connection: &Connection) -> Vec<Call> {
    let mut calls = connection.calls();
    calls.retain(|call| call.verb.is_write() && call.kind.name != "Lease");
    calls
}

/// Returns once nothing has been written for a while.
pub(crate) async fn rest(connection: &Connection) {
    let resting = async {
        loop {
            let before = writes(connection).len();
            tokio::time::sleep(QUIET).await;
            if writes(connection).len() == before {
                return;
            }
        }
    };
    if tokio::time::timeout(RESTLESS, resting).await.is_err() {
        let last: Vec<_> = writes(connection).into_iter().rev().take(5).collect();
        panic!("no rest after {RESTLESS:?}: {last:?}");
    }
}

/// Lets an operator do all there is to do.
pub(crate) async fn settle(server: &Server, settings: Settings) {
    let connection = server.connect();
    run_during(&connection, settings, rest(&connection)).await;
}

/// The objects, without what differs between two ways to the same end: versions, uids, times. What
/// tells of the way itself (events, the Lease) is left out.
pub(crate) fn objects(server: &Server) -> BTreeMap<Key, Value> {
    server.with(|store| {
        let uids: BTreeMap<String, String> = store
            .all()
            .filter_map(|(key, object)| {
                let uid = object["metadata"]["uid"].as_str()?.to_owned();
                Some((uid, format!("uid of {} {}/{}", key.kind.name, key.namespace, key.name)))
            })
            .collect();
        store
            .all()
            .filter(|(key, _)| !["Event", "Lease"].contains(&key.kind.name))
            .map(|(key, object)| {
                let mut object = (**object).clone();
                normalize(&mut object, &uids);
                (key.clone(), object)
            })
            .collect()
    })
}

fn normalize(value: &mut Value, uids: &BTreeMap<String, String>) {
    match value {
        Value::String(text) => {
            if let Some(name) = uids.get(text) {
                name.clone_into(text);
            } else if text.contains("-4000-8000-") {
                for (uid, name) in uids {
                    *text = text.replace(uid, name);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| normalize(item, uids)),
        Value::Object(map) => {
            map.remove("resourceVersion");
            map.remove("lastTransitionTime");
            map.values_mut().for_each(|value| normalize(value, uids));
        }
        _ => {}
    }
}

/// Fails with the first field of every object that differs.
#[track_caller]
pub(crate) fn assert_same(
    found: &BTreeMap<Key, Value>,
    expected: &BTreeMap<Key, Value>,
    what: impl FnOnce() -> String,
) {
    if found == expected {
        return;
    }
    let keys: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let of = |objects: &BTreeMap<Key, Value>, key| objects.get(key).cloned().unwrap_or_default();
    let differ = keys.into_iter().filter_map(|key| {
        let first = first_difference(&of(found, key), &of(expected, key))?;
        Some(format!("{} {}/{}{first}", key.kind.name, key.namespace, key.name))
    });
    panic!("{}: {}", what(), differ.collect::<Vec<_>>().join("\n"));
}

fn first_difference(found: &Value, expected: &Value) -> Option<String> {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            let fields: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
            let of = |map: &Map<String, Value>, field| map.get(field).cloned().unwrap_or_default();
            fields.into_iter().find_map(|field| {
                let below = first_difference(&of(found, field), &of(expected, field))?;
                Some(format!(".{field}{below}"))
            })
        }
        (Value::Array(found), Value::Array(expected)) if found.len() == expected.len() => {
            let pairs = found.iter().zip(expected).enumerate();
            pairs.into_iter().find_map(|(index, (found, expected))| {
                Some(format!("[{index}]{}", first_difference(found, expected)?))
            })
        }
        _ => (found != expected).then(|| format!(" is {found} and should be {expected}")),
    }
}

/// The key of an object in the namespace of all tests.
pub(crate) fn key(kind: &str, name: &str) -> Key {
    Key { kind: Kind::named(kind).unwrap(), namespace: "shop".to_owned(), name: name.to_owned() }
}

/// A service of one container; `spec` is laid over that.
pub(crate) fn service(name: &str, spec: &Value) -> Value {
    let mut whole = json!({ "containers": [{ "image": "registry.example/cart:1" }] });
    for (field, value) in spec.as_object().unwrap() {
        whole[field.as_str()] = value.clone();
    }
    json!({
        "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulService",
        "metadata": { "name": name, "namespace": "shop" }, "spec": whole,
    })
}

/// A store in memory.
pub(crate) fn memory() -> Value {
    json!({
        "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulStore",
        "metadata": { "name": "memory", "namespace": "shop" }, "spec": { "type": "InMemory" },
    })
}

/// A store of Postgres whose credentials are in the Secret `db`.
pub(crate) fn postgres(host: &str) -> Value {
    json!({
        "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulStore",
        "metadata": { "name": "carts", "namespace": "shop" },
        "spec": { "type": "Postgres", "deployment": "Unmanaged", "config": {
            "service": host,
            "credentialsFromSecret": { "name": "db" },
        }},
    })
}

/// That Secret.
pub(crate) fn secret(password: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": "db", "namespace": "shop", "labels": { "cloudstate.io/reload": "true" },
        },
        "data": { "database": "ZGI=", "username": "dQ==", "password": password },
    })
}

/// A store with a namespace to work in.
pub(crate) fn empty() -> Store {
    let mut store = Store::new();
    for name in ["shop", "cloudstate"] {
        store.put(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name },
        }));
    }
    store
}
