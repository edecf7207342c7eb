//! From any valid service to any other: the end is where a service ends that was always like this.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use scripted_api::{Key, Server, Store};
use serde_json::{Value, json};
use translate::generated::{Case, STORE, case};

use crate::world::{Settings, assert_same, empty, objects, on_all_processors, rest, run_during};

/// How many edits are looked at, unless the variable `PAIRS` says how many.
const PAIRS: usize = 2_000;

/// Changes of a store are not held back.
const AT_ONCE: Settings = &[
    ("proxy.image.jvm", "registry.example/jvm:1"),
    ("rollout.max-concurrent", "1000"),
    ("rollout.interval", "1ms"),
];
/// So many are edited under one operator, each in a namespace of its own.
const TOGETHER: usize = 50;

/// All names are of one length, so that none is the beginning of another.
fn namespace(number: usize) -> String {
    format!("pair-{number:05}")
}

/// Writes a generated service into a namespace, and its store or none.
fn put(store: &mut Store, namespace: &str, case: &Case) {
    let placed = |mut object: Value| {
        object["metadata"]["namespace"] = json!(namespace);
        object
    };
    if let Some(found) = &case.store {
        store.put(&placed(serde_json::to_value(found).unwrap()));
    } else {
        let named = json!({ "kind": "StatefulStore", "metadata": { "name": STORE } });
        // There may have been none.
        let _ = store.delete(&Key::of(&placed(named)).unwrap(), &Value::Null);
    }
    store.put(&placed(serde_json::to_value(&case.service).unwrap()));
}

/// The objects of each namespace, as if all namespaces had one name, and without what tells of the way:
/// how often the spec was changed, and what they were made from, down to the uids.
fn ends(server: &Server) -> BTreeMap<String, BTreeMap<Key, Value>> {
    let mut ends: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for (mut key, mut object) in objects(server) {
        let namespace = std::mem::replace(&mut key.namespace, "here".to_owned());
        forget(&mut object, &namespace);
        ends.entry(namespace).or_default().insert(key, object);
    }
    ends
}

const OF_THE_WAY: [&str; 5] = [
    "generation",
    "observedGeneration",
    "cloudstate.io/applied-from",
    "cloudstate.io/applied-hash",
    "configHash",
];

fn forget(value: &mut Value, namespace: &str) {
    match value {
        Value::Object(map) => {
            map.retain(|field, _| !OF_THE_WAY.contains(&field.as_str()));
            map.values_mut().for_each(|value| forget(value, namespace));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| forget(item, namespace)),
        Value::String(text) if text.contains(namespace) => *text = text.replace(namespace, "here"),
        _ => {}
    }
}

/// Turns each generated service into the next one, which is to end where that one was before it was
/// turned itself.
async fn edit(numbers: Range<usize>) {
    let server = Server::new(empty());
    let put = |number: usize, seed: usize| {
        server.with(|store| put(store, &namespace(number), &case(seed as u64)));
    };
    for number in numbers.start..=numbers.end {
        put(number, number);
    }
    let connection = server.connect();
    run_during(&connection, AT_ONCE, async {
        rest(&connection).await;
        let fresh = ends(&server);
        for number in numbers.clone() {
            put(number, number + 1);
        }
        rest(&connection).await;
        let edited = ends(&server);
        for number in numbers {
            let (edited, fresh) = (&edited[&namespace(number)], &fresh[&namespace(number + 1)]);
            assert_same(edited, fresh, || format!("service {number} turned into the next one"));
        }
    })
    .await;
}

#[test]
fn an_edit_ends_where_a_fresh_start_ends() {
    #[expect(clippy::disallowed_methods, reason = "a test's switch, not configuration")]
    let asked = std::env::var("PAIRS").ok().map(|pairs| pairs.parse().unwrap());
    let pairs = asked.unwrap_or(PAIRS);
    let begin = Instant::now();
    on_all_processors(pairs.div_ceil(TOGETHER), async |batch| {
        let first = batch * TOGETHER;
        edit(first..pairs.min(first + TOGETHER)).await;
    });
    println!("{pairs} edits, {:?}", begin.elapsed());
}
