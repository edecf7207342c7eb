//! What holds for callers of a store whatever breaks on the way to it: here every fault in turn, through the batcher
//! that entities write through.

use futures::{TryStreamExt as _, future::join_all};

use super::*;
use crate::journal::{Batcher, faulty::Faulty};

const WRITERS: usize = 6;
const ROUNDS: usize = 30;
/// For one batch; no fault takes long.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// What a writer was told, in order.
type Ledger = Vec<(String, Written)>;

/// Every fault was met, or the test shows nothing.
fn met(ledgers: &[Ledger]) {
    let outcomes = || ledgers.iter().flatten().map(|(_, written)| written);
    assert!(outcomes().any(|written| *written == Written::Committed));
    assert!(outcomes().any(|written| matches!(written, Written::Refused(_))));
    assert!(outcomes().any(|written| matches!(written, Written::Unknown(_))));
}

pub(crate) async fn no_acknowledged_event_is_lost_or_doubled_whatever_breaks(store: Opened) {
    let guard = claim(&store).await;
    let faulty: Opened = Arc::new(Faulty::new(Arc::clone(&store)));
    let batcher = Batcher::new(&faulty, LIMIT);
    let ledgers = join_all((0..WRITERS).map(async |writer| {
        let (key, mut ledger) = (writer.to_string(), Ledger::new());
        for round in 0..ROUNDS {
            // As an activation does: reads until that does not break, and writes behind what is there.
            let last = loop {
                let read: Result<Vec<_>, _> = faulty.load(&entity(&key)).try_collect().await;
                if let Ok(events) = read {
                    break events.len() as u64;
                }
            };
            let text = format!("{writer}/{round}");
            let written = batcher.append(reply(&key, guard, last, &[&text, "+"], None)).await;
            ledger.push((text, written));
        }
        ledger
    }))
    .await;
    for (writer, ledger) in ledgers.iter().enumerate() {
        let history = history(&store, &writer.to_string()).await;
        let mut kept = Vec::new();
        for (at, event) in (1..).zip(history) {
            let Loaded::Event(sequence, Any { value, .. }) = event else { panic!("{event:?}") };
            assert_eq!(sequence, Sequence(at), "a gap");
            kept.push(String::from_utf8(value.to_vec()).unwrap());
        }
        // Each reply is there with both of its events, or with none.
        let (kept, rest): (Vec<_>, Vec<_>) =
            kept.chunks(2).map(|reply| (&reply[0], &reply[1..])).unzip();
        assert!(rest.iter().all(|rest| *rest == ["+"]), "torn: {rest:?}");
        let mut left = kept.iter();
        for (text, written) in ledger {
            match written {
                Written::Committed => {
                    assert!(left.any(|kept| *kept == text), "{text} is lost: {kept:?}");
                }
                Written::Unknown(_) => {}
                _ => assert!(!kept.contains(&text), "{text} was not written: {kept:?}"),
            }
            assert!(
                kept.iter().filter(|kept| **kept == text).count() <= 1,
                "{text} twice: {kept:?}"
            );
        }
    }
    met(&ledgers);
}

pub(crate) async fn no_acknowledged_value_is_lost_whatever_breaks(store: Opened) {
    let guard = claim(&store).await;
    let faulty: Opened = Arc::new(Faulty::new(Arc::clone(&store)));
    let batcher = Batcher::new(&faulty, LIMIT);
    let ledgers = join_all((0..WRITERS).map(async |writer| {
        let (key, mut ledger) = (writer.to_string(), Ledger::new());
        // What the value may be: what was acknowledged last, or what nobody knows of since.
        let mut possible = vec![None];
        for round in 0..=ROUNDS {
            let (version, found) = loop {
                if let Ok(found) = faulty.value(&entity(&key)).await {
                    break found;
                }
            };
            assert!(possible.contains(&found), "{found:?} is none of {possible:?}");
            let text = format!("{writer}/{round}");
            let written = batcher.put(value(&key, guard, version.0, Some(&text))).await;
            match written {
                Written::Committed => possible = vec![Some(any(&text))],
                Written::Unknown(_) => possible.push(Some(any(&text))),
                _ => {}
            }
            ledger.push((text, written));
        }
        ledger
    }))
    .await;
    met(&ledgers);
}
