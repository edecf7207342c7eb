//! From any valid service to any other: the end is where a service ends that was always like this.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use scripted_api::{Key, Server, Store};
use serde_json::{Value, json};
use translate::generated::{Case, pair};

use crate::world::{Settings, assert_same, empty, objects, rest, run_during, settle};

/// How many edits are looked at.
const PAIRS: u64 = 50;

/// Changes of a store are not held back.
const AT_ONCE: Settings = &[
    ("proxy.image.jvm", "registry.example/jvm:1"),
    ("rollout.max-concurrent", "1000"),
    ("rollout.interval", "1ms"),
];
/// So many are edited under one operator, each in a namespace of its own.
const TOGETHER: u64 = 25;

/// Writes a generated service into the namespace of its pair, and its store or none.
fn put(store: &mut Store, seed: u64, case: &Case) {
    let placed = |mut object: Value| {
        object["metadata"]["namespace"] = json!(format!("pair-{seed}"));
        object
    };
    if let Some(found) = &case.store {
        store.put(&placed(serde_json::to_value(found).unwrap()));
    } else {
        let name = translate::generated::STORE;
        let named = json!({ "kind": "StatefulStore", "metadata": { "name": name } });
        // There may have been none.
        let _ = store.delete(&Key::of(&placed(named)).unwrap(), &Value::Null);
    }
    store.put(&placed(serde_json::to_value(&case.service).unwrap()));
}

/// What is left of the objects when what tells of the way is left out: how often the spec was changed,
/// and what they were made from, down to the uids.
fn ends(server: &Server) -> std::collections::BTreeMap<Key, Value> {
    let mut objects = objects(server);
    for object in objects.values_mut() {
        forget(object);
    }
    objects
}

const OF_THE_WAY: [&str; 5] = [
    "generation",
    "observedGeneration",
    "cloudstate.io/applied-from",
    "cloudstate.io/applied-hash",
    "configHash",
];

fn forget(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|field, _| !OF_THE_WAY.contains(&field.as_str()));
            map.values_mut().for_each(forget);
        }
        Value::Array(items) => items.iter_mut().for_each(forget),
        _ => {}
    }
}

async fn edit(seeds: Range<u64>) {
    let fresh = Server::new(empty());
    let server = Server::new(empty());
    for seed in seeds.clone() {
        let (before, after) = pair(seed);
        fresh.with(|store| put(store, seed, &after));
        server.with(|store| put(store, seed, &before));
    }
    settle(&fresh, AT_ONCE).await;
    let connection = server.connect();
    run_during(&connection, AT_ONCE, async {
        rest(&connection).await;
        for seed in seeds.clone() {
            server.with(|store| put(store, seed, &pair(seed).1));
        }
        rest(&connection).await;
    })
    .await;
    assert_same(&ends(&server), &ends(&fresh), || format!("pairs {seeds:?}"));
}

#[test]
fn an_edit_ends_where_a_fresh_start_ends() {
    let begin = Instant::now();
    let next = AtomicU64::new(0);
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
                    let first = next.fetch_add(TOGETHER, Ordering::Relaxed);
                    if first >= PAIRS {
                        return;
                    }
                    runtime.block_on(edit(first..first + TOGETHER));
                }
            });
        }
    });
    println!("{PAIRS} edits, {:?}", begin.elapsed());
}
