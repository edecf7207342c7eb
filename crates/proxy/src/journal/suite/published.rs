//! Events by type, for whoever reads all of them.

use std::{collections::HashMap, time::Duration};

use futures::TryStreamExt as _;
use tokio::time;

use super::*;
use crate::journal::{Position, Published};

/// A store may hold back what was committed a moment ago while others still write to the database.
const PATIENCE: Duration = Duration::from_secs(30);

async fn read(store: &Opened, persistence_id: &str, after: &Position) -> Vec<Published> {
    store.events(persistence_id, after).try_collect().await.unwrap()
}

/// Reads until there are so many.
async fn read_all(store: &Opened, persistence_id: &str, count: usize) -> Vec<Published> {
    let reading = async {
        loop {
            let found = read(store, persistence_id, &Position::default()).await;
            if found.len() >= count {
                return found;
            }
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, reading).await.expect("all events in time")
}

pub(crate) async fn events_of_a_type_come_in_one_order_from_anywhere_in_it(store: Opened) {
    let guard = claim(&store).await;
    let long = "k".repeat(5_000);
    let other = |append: Append| Append {
        entity: EntityId { persistence_id: "basket".to_owned(), ..append.entity },
        ..append
    };
    assert_eq!(read(&store, "cart", &Position::default()).await, []);
    for write in [
        reply("b", guard, 0, &["b1", "b2"], None),
        other(reply("b", guard, 0, &["x1"], None)),
        reply(&long, guard, 0, &["l1"], None),
        reply("a", guard, 0, &["a1"], Some("a1")),
        reply("b", guard, 2, &["b3"], Some("b123")),
        reply("a\0", guard, 0, &["0"], None),
    ] {
        assert_eq!(append(&store, write).await, Written::Committed);
    }
    let expected = [
        ("b", 1, "b1"),
        ("b", 2, "b2"),
        (&long, 1, "l1"),
        ("a", 1, "a1"),
        ("b", 3, "b3"),
        ("a\0", 1, "0"),
    ];
    let found = read_all(&store, "cart", expected.len()).await;
    let told: Vec<_> =
        found.iter().map(|one| (one.key.clone(), one.sequence, one.event.clone())).collect();
    let expected = expected.map(|(key, at, text)| (key.to_owned(), Sequence(at), any(text)));
    assert_eq!(told, expected);
    for (at, one) in found.iter().enumerate() {
        let rest = read(&store, "cart", &one.position).await;
        assert_eq!(rest, found[at + 1..], "behind {:?}", one.position);
    }
    assert_eq!(read_all(&store, "basket", 1).await.len(), 1);
    assert_eq!(read(&store, "nothing", &Position::default()).await, []);
}

pub(crate) async fn no_event_of_a_type_is_passed_over_while_others_are_written(store: Opened) {
    const WRITERS: usize = 4;
    const EACH: u64 = 300;
    let guard = claim(&store).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let key = writer.to_string();
                for expected in (0..EACH).step_by(3) {
                    let write = reply(&key, guard, expected, &["x", "y", "z"], None);
                    assert_eq!(append(&store, write).await, Written::Committed);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let mut last: HashMap<String, u64> = HashMap::new();
    let mut position = Position::default();
    let following = async {
        while last.values().sum::<u64>() < WRITERS as u64 * EACH {
            for Published { position: at, key, sequence, .. } in
                read(&store, "cart", &position.clone()).await
            {
                assert!(position < at, "{position:?} goes on with {at:?}");
                position = at;
                let last = last.entry(key).or_default();
                assert_eq!(sequence.0, *last + 1, "passed over or out of order");
                *last = sequence.0;
            }
            tokio::task::yield_now().await;
        }
    };
    time::timeout(PATIENCE, following).await.expect("all events in time");
    for writer in writers {
        writer.await.unwrap();
    }
}
