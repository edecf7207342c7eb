//! What every store must do, run against each of them.

mod faults;
mod published;

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, future::join_all};
use protocol::Any;
use uuid::Uuid;

use super::{
    Append, EntityId, Epoch, Guard, Lease, Loaded, Owner, Put, Renewed, Sequence, Shard, Store,
    Version, Written,
};

/// Makes a test of each of the suite's functions, with a new store for each.
macro_rules! tests {
    ($open:expr) => {
        $crate::journal::suite::tests! { $open =>
            events_come_back_in_order_behind_the_newest_snapshot,
            a_write_after_an_unexpected_sequence_is_a_conflict_and_leaves_nothing,
            a_reply_that_does_not_fit_takes_no_neighbour_with_it,
            an_old_epoch_is_fenced_before_its_sequence_is_looked_at,
            a_released_epoch_is_fenced,
            guards_of_several_shards_may_meet_in_one_batch,
            of_two_writers_of_one_event_one_wins,
            a_value_is_compared_and_set_by_version,
            a_deleted_value_keeps_its_version,
            values_that_do_not_fit_take_no_neighbour_with_them,
            a_lease_is_claimed_once_and_released_on_request,
            a_claim_takes_back_its_own_request_and_the_one_that_it_has_seen,
            what_is_asked_claimed_and_released_is_told,
            no_write_of_an_older_epoch_comes_after_a_claim,
            a_long_history_comes_as_a_stream,
            large_payloads_come_back_whole,
            any_text_is_an_id,
            events_of_a_type_come_in_one_order_from_anywhere_in_it,
            no_event_of_a_type_is_passed_over_while_others_are_written,
            no_acknowledged_event_is_lost_or_doubled_whatever_breaks,
            no_acknowledged_value_is_lost_whatever_breaks,
        }
    };
    ($open:expr => $($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                // What must live as long as the store does comes with it.
                let (store, _kept) = ($open)().await;
                $crate::journal::suite::$name(std::sync::Arc::new(store)).await;
            }
        )*
    };
}
pub(crate) use faults::{
    no_acknowledged_event_is_lost_or_doubled_whatever_breaks,
    no_acknowledged_value_is_lost_whatever_breaks,
};
pub(crate) use published::{
    events_of_a_type_come_in_one_order_from_anywhere_in_it,
    no_event_of_a_type_is_passed_over_while_others_are_written,
};
pub(crate) use tests;

type Opened = Arc<dyn Store>;

fn any(text: &str) -> Any {
    Any { type_url: "p.cloudstate.io/string".to_owned(), value: text.to_owned().into() }
}

fn entity(key: &str) -> EntityId {
    EntityId { persistence_id: "cart".to_owned(), key: key.to_owned() }
}

fn owner(number: u128) -> Owner {
    Owner(Uuid::from_u128(number))
}

async fn claim_shard(store: &Opened, shard: Shard) -> Guard {
    let lease = store.lease(shard).await.unwrap();
    let next = owner(u128::from(lease.epoch.0) + 100);
    let epoch = store.claim(shard, next, &lease).await.unwrap().expect("nobody else claims");
    Guard { shard, epoch }
}

async fn claim(store: &Opened) -> Guard {
    claim_shard(store, Shard::WHOLE).await
}

fn reply(
    key: &str,
    guard: Guard,
    expected: u64,
    events: &[&str],
    snapshot: Option<&str>,
) -> Append {
    Append {
        entity: entity(key),
        guard,
        expected: Sequence(expected),
        events: events.iter().map(|event| any(event)).collect(),
        snapshot: snapshot.map(any),
    }
}

async fn append(store: &Opened, append: Append) -> Written {
    let [written] = &store.append(vec![append]).await[..] else { panic!("one outcome") };
    written.clone()
}

fn value(key: &str, guard: Guard, expected: u64, value: Option<&str>) -> Put {
    let (expected, value) = (Version(expected), value.map(any));
    Put { entity: entity(key), guard, expected, next: expected.next(), value }
}

async fn put(store: &Opened, put: Put) -> Written {
    let [written] = &store.put(vec![put]).await[..] else { panic!("one outcome") };
    written.clone()
}

async fn history(store: &Opened, key: &str) -> Vec<Loaded> {
    store.load(&entity(key)).try_collect().await.unwrap()
}

fn event(sequence: u64, text: &str) -> Loaded {
    Loaded::Event(Sequence(sequence), any(text))
}

fn snapshot(sequence: u64, text: &str) -> Loaded {
    Loaded::Snapshot(Sequence(sequence), any(text))
}

pub(crate) async fn events_come_back_in_order_behind_the_newest_snapshot(store: Opened) {
    let guard = claim(&store).await;
    assert_eq!(history(&store, "7").await, []);
    assert_eq!(append(&store, reply("7", guard, 0, &["a", "b"], None)).await, Written::Committed);
    assert_eq!(history(&store, "7").await, [event(1, "a"), event(2, "b")]);
    assert_eq!(append(&store, reply("7", guard, 2, &["c"], Some("abc"))).await, Written::Committed);
    assert_eq!(append(&store, reply("7", guard, 3, &["d"], None)).await, Written::Committed);
    assert_eq!(history(&store, "7").await, [snapshot(3, "abc"), event(4, "d")]);
    assert_eq!(
        append(&store, reply("7", guard, 4, &["e"], Some("abcde"))).await,
        Written::Committed
    );
    assert_eq!(history(&store, "7").await, [snapshot(5, "abcde")]);
    assert_eq!(history(&store, "8").await, []);
    assert_eq!(store.append(vec![]).await, []);
}

pub(crate) async fn a_write_after_an_unexpected_sequence_is_a_conflict_and_leaves_nothing(
    store: Opened,
) {
    let guard = claim(&store).await;
    assert_eq!(append(&store, reply("7", guard, 0, &["a"], None)).await, Written::Committed);
    for expected in [0, 2, 7] {
        let stale = append(&store, reply("7", guard, expected, &["x", "y"], Some("xy"))).await;
        assert_eq!(stale, Written::Conflict, "after {expected}");
    }
    let beyond = append(&store, reply("8", guard, 1, &["x"], Some("x"))).await;
    assert_eq!(beyond, Written::Conflict);
    assert_eq!(history(&store, "7").await, [event(1, "a")]);
    assert_eq!(history(&store, "8").await, []);
}

pub(crate) async fn a_reply_that_does_not_fit_takes_no_neighbour_with_it(store: Opened) {
    let guard = claim(&store).await;
    assert_eq!(append(&store, reply("2", guard, 0, &["old"], None)).await, Written::Committed);
    let batch = vec![
        reply("1", guard, 0, &["a", "b"], Some("ab")),
        reply("2", guard, 0, &["x", "y"], Some("xy")),
        reply("3", guard, 5, &["x"], None),
        reply("4", guard, 0, &["c"], None),
        reply("2b", Guard { epoch: Epoch(guard.epoch.0 + 1), ..guard }, 0, &["x"], None),
        reply("5", guard, 0, &["d"], Some("d")),
    ];
    assert_eq!(
        store.append(batch).await,
        [
            Written::Committed,
            Written::Conflict,
            Written::Conflict,
            Written::Committed,
            Written::Fenced,
            Written::Committed
        ]
    );
    assert_eq!(history(&store, "1").await, [snapshot(2, "ab")]);
    assert_eq!(history(&store, "2").await, [event(1, "old")]);
    assert_eq!(history(&store, "3").await, []);
    assert_eq!(history(&store, "4").await, [event(1, "c")]);
    assert_eq!(history(&store, "5").await, [snapshot(1, "d")]);
}

pub(crate) async fn an_old_epoch_is_fenced_before_its_sequence_is_looked_at(store: Opened) {
    let old = claim(&store).await;
    let new = claim(&store).await;
    assert!(old.epoch < new.epoch);
    assert_eq!(append(&store, reply("7", old, 5, &["a"], None)).await, Written::Fenced);
    assert_eq!(put(&store, value("7", old, 5, Some("a"))).await, Written::Fenced);
    assert_eq!(store.renew(old).await.unwrap(), Renewed::Fenced);
    assert_eq!(append(&store, reply("7", new, 0, &["b"], None)).await, Written::Committed);
    assert_eq!(history(&store, "7").await, [event(1, "b")]);
}

pub(crate) async fn a_released_epoch_is_fenced(store: Opened) {
    let guard = claim(&store).await;
    let early = Guard { epoch: Epoch(guard.epoch.0 + 1), ..guard };
    assert_eq!(append(&store, reply("7", early, 0, &["a"], None)).await, Written::Fenced);
    store.release(guard).await.unwrap();
    assert_eq!(append(&store, reply("7", guard, 0, &["a"], None)).await, Written::Fenced);
    assert_eq!(put(&store, value("7", guard, 0, Some("a"))).await, Written::Fenced);
    assert_eq!(history(&store, "7").await, []);
}

pub(crate) async fn guards_of_several_shards_may_meet_in_one_batch(store: Opened) {
    let (one, other) =
        (claim_shard(&store, Shard(1)).await, claim_shard(&store, Shard(4_000_000_000)).await);
    let never = Guard { shard: Shard(3), epoch: Epoch(1) };
    let batch = vec![
        reply("1", one, 0, &["a"], None),
        reply("2", other, 0, &["b"], None),
        reply("3", never, 0, &["x"], None),
        reply("4", one, 0, &["c"], None),
    ];
    assert_eq!(
        store.append(batch).await,
        [Written::Committed, Written::Committed, Written::Fenced, Written::Committed]
    );
    assert_eq!(history(&store, "4").await, [event(1, "c")]);
}

pub(crate) async fn of_two_writers_of_one_event_one_wins(store: Opened) {
    let guard = claim(&store).await;
    for expected in 0..20 {
        let racers =
            ["a", "b", "c"].map(|text| append(&store, reply("7", guard, expected, &[text], None)));
        let outcomes = join_all(racers).await;
        let won = outcomes.iter().filter(|written| **written == Written::Committed).count();
        let lost = outcomes.iter().filter(|written| **written == Written::Conflict).count();
        assert_eq!((won, lost), (1, 2), "{outcomes:?}");
    }
    assert_eq!(history(&store, "7").await.len(), 20);
}

pub(crate) async fn a_value_is_compared_and_set_by_version(store: Opened) {
    let guard = claim(&store).await;
    assert_eq!(store.value(&entity("7")).await.unwrap(), (Version(0), None));
    assert_eq!(put(&store, value("7", guard, 1, Some("x"))).await, Written::Conflict);
    assert_eq!(put(&store, value("7", guard, 0, Some("a"))).await, Written::Committed);
    for stale in [0, 2] {
        assert_eq!(put(&store, value("7", guard, stale, Some("x"))).await, Written::Conflict);
    }
    assert_eq!(store.value(&entity("7")).await.unwrap(), (Version(1), Some(any("a"))));
    let merged = Put { next: Version(4), ..value("7", guard, 1, Some("d")) };
    assert_eq!(put(&store, merged).await, Written::Committed);
    assert_eq!(store.value(&entity("7")).await.unwrap(), (Version(4), Some(any("d"))));
}

pub(crate) async fn a_deleted_value_keeps_its_version(store: Opened) {
    let guard = claim(&store).await;
    assert_eq!(put(&store, value("7", guard, 0, Some("a"))).await, Written::Committed);
    assert_eq!(put(&store, value("7", guard, 1, None)).await, Written::Committed);
    assert_eq!(store.value(&entity("7")).await.unwrap(), (Version(2), None));
    assert_eq!(put(&store, value("7", guard, 0, Some("a"))).await, Written::Conflict);
    assert_eq!(put(&store, value("7", guard, 2, Some("b"))).await, Written::Committed);
    assert_eq!(store.value(&entity("7")).await.unwrap(), (Version(3), Some(any("b"))));
    assert_eq!(put(&store, value("8", guard, 0, None)).await, Written::Committed);
    assert_eq!(store.value(&entity("8")).await.unwrap(), (Version(1), None));
    let empty = Any { type_url: String::new(), value: bytes::Bytes::new() };
    let emptied = Put { value: Some(empty.clone()), ..value("8", guard, 1, None) };
    assert_eq!(put(&store, emptied).await, Written::Committed);
    assert_eq!(store.value(&entity("8")).await.unwrap(), (Version(2), Some(empty)));
}

pub(crate) async fn values_that_do_not_fit_take_no_neighbour_with_them(store: Opened) {
    let guard = claim(&store).await;
    assert_eq!(put(&store, value("2", guard, 0, Some("old"))).await, Written::Committed);
    let batch = vec![
        value("1", guard, 0, Some("a")),
        value("2", guard, 0, Some("x")),
        value("3", guard, 3, Some("x")),
        value("4", guard, 0, None),
    ];
    assert_eq!(
        store.put(batch).await,
        [Written::Committed, Written::Conflict, Written::Conflict, Written::Committed]
    );
    assert_eq!(store.value(&entity("1")).await.unwrap(), (Version(1), Some(any("a"))));
    assert_eq!(store.value(&entity("2")).await.unwrap(), (Version(1), Some(any("old"))));
    assert_eq!(store.value(&entity("3")).await.unwrap(), (Version(0), None));
}

pub(crate) async fn a_lease_is_claimed_once_and_released_on_request(store: Opened) {
    let (shard, mine, yours) = (Shard::WHOLE, owner(1), owner(2));
    let free = store.lease(shard).await.unwrap();
    assert_eq!(free, Lease::default());
    let claims = [store.claim(shard, mine, &free).await, store.claim(shard, yours, &free).await];
    assert_eq!(claims.map(Result::unwrap), [Some(Epoch(1)), None]);
    let guard = Guard { shard, epoch: Epoch(1) };
    assert_eq!(store.renew(guard).await.unwrap(), Renewed::Kept { asked_by: None });
    let seen = store.ask(shard, yours).await.unwrap();
    let expected =
        Lease { epoch: Epoch(1), owner: Some(mine), beat: seen.beat, asked_by: Some(yours) };
    assert_eq!(seen, expected);
    assert_eq!(store.renew(guard).await.unwrap(), Renewed::Kept { asked_by: Some(yours) });
    // The beat went on, so whoever saw it stand still was wrong.
    assert_eq!(store.claim(shard, yours, &seen).await.unwrap(), None);
    store.release(guard).await.unwrap();
    let released = store.lease(shard).await.unwrap();
    assert_eq!((released.epoch, released.owner), (Epoch(1), None));
    assert_eq!(store.renew(guard).await.unwrap(), Renewed::Fenced);
    assert_eq!(store.claim(shard, yours, &released).await.unwrap(), Some(Epoch(2)));
    // The old owner's late release changes nothing.
    store.release(guard).await.unwrap();
    let lease = store.lease(shard).await.unwrap();
    assert_eq!((lease.epoch, lease.owner, lease.asked_by), (Epoch(2), Some(yours), None));
}

pub(crate) async fn a_claim_takes_back_its_own_request_and_the_one_that_it_has_seen(store: Opened) {
    let (shard, mine, yours, theirs) = (Shard::WHOLE, owner(1), owner(2), owner(3));
    let seen = store.ask(shard, yours).await.unwrap();
    assert_eq!(store.claim(shard, mine, &seen).await.unwrap(), Some(Epoch(1)));
    assert_eq!(store.lease(shard).await.unwrap().asked_by, None, "it has had its turn");
    let seen = store.ask(shard, yours).await.unwrap();
    store.ask(shard, theirs).await.unwrap();
    assert_eq!(store.claim(shard, mine, &seen).await.unwrap(), Some(Epoch(2)));
    let seen = store.lease(shard).await.unwrap();
    assert_eq!(seen.asked_by, Some(theirs), "nobody has seen that one yet");
    let unseen = Lease { asked_by: None, ..seen };
    assert_eq!(store.claim(shard, mine, &unseen).await.unwrap(), Some(Epoch(3)));
    assert_eq!(store.lease(shard).await.unwrap().asked_by, Some(theirs));
}

pub(crate) async fn what_is_asked_claimed_and_released_is_told(store: Opened) {
    let guard = claim(&store).await;
    let mut changes = store.changes();
    changes.mark_unchanged();
    store.ask(Shard::WHOLE, owner(2)).await.unwrap();
    let told = async |changes: &mut tokio::sync::watch::Receiver<u64>| {
        let limit = std::time::Duration::from_secs(10);
        tokio::time::timeout(limit, changes.changed()).await.expect("told in time").unwrap();
    };
    told(&mut changes).await;
    store.release(guard).await.unwrap();
    told(&mut changes).await;
    claim(&store).await;
    told(&mut changes).await;
}

pub(crate) async fn no_write_of_an_older_epoch_comes_after_a_claim(store: Opened) {
    const WRITERS: usize = 6;
    for round in 0..5 {
        let old = claim(&store).await;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    let key = format!("{round}/{writer}");
                    for expected in 0.. {
                        let written =
                            append(&store, reply(&key, old, expected, &["a"], None)).await;
                        match written {
                            Written::Committed => {}
                            Written::Fenced => return,
                            other => panic!("{other:?}"),
                        }
                        assert!(expected < 1_000_000, "never fenced");
                        // A store without I/O would leave others no turn.
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        let begun = async {
            while history(&store, &format!("{round}/0")).await.len() < 3 {
                tokio::task::yield_now().await;
            }
        };
        begun.await;
        claim(&store).await;
        let count = async || {
            let mut all = Vec::new();
            for writer in 0..WRITERS {
                all.push(history(&store, &format!("{round}/{writer}")).await.len());
            }
            all
        };
        let at_claim = count().await;
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(count().await, at_claim);
    }
}

pub(crate) async fn a_long_history_comes_as_a_stream(store: Opened) {
    let guard = claim(&store).await;
    let text = "x".repeat(500);
    for expected in (0..3_000).step_by(500) {
        let events = vec![&text[..]; 500];
        let snapshot = (expected == 500).then_some("thousand");
        let written = append(&store, reply("7", guard, expected, &events, snapshot)).await;
        assert_eq!(written, Written::Committed);
    }
    let mut all = store.load(&entity("7"));
    assert_eq!(all.next().await.unwrap().unwrap(), snapshot(1_000, "thousand"));
    for sequence in 1_001..=3_000 {
        assert_eq!(all.next().await.unwrap().unwrap(), event(sequence, &text));
    }
    assert!(all.next().await.is_none());
    // Slow ones and ones that are given up hold nothing that others need.
    let mut held: Vec<_> = (0..20).map(|_| store.load(&entity("7"))).collect();
    for stream in &mut held {
        assert!(stream.next().await.unwrap().is_ok());
    }
    assert_eq!(history(&store, "7").await.len(), 2_001);
}

pub(crate) async fn large_payloads_come_back_whole(store: Opened) {
    let guard = claim(&store).await;
    let text = "0123456789abcdef".repeat(5 * 65_536);
    let written = append(&store, reply("7", guard, 0, &[&text, "small", &text], None)).await;
    assert_eq!(written, Written::Committed);
    assert_eq!(put(&store, value("7", guard, 0, Some(&text))).await, Written::Committed);
    assert_eq!(history(&store, "7").await, [event(1, &text), event(2, "small"), event(3, &text)]);
    assert_eq!(store.value(&entity("7")).await.unwrap(), (Version(1), Some(any(&text))));
    let written = append(&store, reply("7", guard, 3, &["e"], Some(&text))).await;
    assert_eq!(written, Written::Committed);
    assert_eq!(history(&store, "7").await, [snapshot(4, &text)]);
}

pub(crate) async fn any_text_is_an_id(store: Opened) {
    let guard = claim(&store).await;
    let long = "k".repeat(65_536);
    let longer = format!("{long}k");
    let ids = [
        "",
        " ",
        "a|b",
        "a\0b",
        "a\\0b",
        "\\",
        "'; DROP TABLE x; --",
        "ключ",
        "🛒",
        &long,
        &longer,
    ];
    let named = |persistence_id: &str, key: &str| EntityId {
        persistence_id: persistence_id.to_owned(),
        key: key.to_owned(),
    };
    let pairs: Vec<_> =
        ids.iter().flat_map(|one| ids.iter().map(move |other| (*one, *other))).collect();
    let text = |n: usize| format!("value {n}");
    let odd = |n: usize| Any { type_url: format!("odd\0url\\0{n}"), value: text(n).into() };
    let appends = pairs.iter().enumerate().map(|(n, (one, other))| Append {
        entity: named(one, other),
        events: vec![odd(n)],
        ..reply("", guard, 0, &[], None)
    });
    let puts = pairs.iter().enumerate().map(|(n, (one, other))| Put {
        entity: named(one, other),
        value: Some(odd(n)),
        ..value("", guard, 0, None)
    });
    assert_eq!(store.append(appends.collect()).await, vec![Written::Committed; pairs.len()]);
    assert_eq!(store.put(puts.collect()).await, vec![Written::Committed; pairs.len()]);
    for (n, (one, other)) in pairs.iter().enumerate() {
        let loaded: Vec<_> = store.load(&named(one, other)).try_collect().await.unwrap();
        assert_eq!(loaded, [Loaded::Event(Sequence(1), odd(n))]);
        let found = store.value(&named(one, other)).await.unwrap();
        assert_eq!(found, (Version(1), Some(odd(n))));
    }
}

/// `delete` takes away the first two events, which a snapshot contains: the third one fits all the same, and nothing
/// else does.
pub(crate) async fn goes_on_behind_a_snapshot(store: Opened, delete: impl AsyncFnOnce()) {
    let guard = claim(&store).await;
    let first = reply("pruned", guard, 0, &["a", "b"], Some("ab"));
    assert_eq!(append(&store, first).await, Written::Committed);
    delete().await;
    for expected in [0, 1, 3] {
        let odd = reply("pruned", guard, expected, &["x"], None);
        assert_eq!(append(&store, odd).await, Written::Conflict, "behind {expected}");
    }
    let third = reply("pruned", guard, 2, &["c"], None);
    assert_eq!(append(&store, third.clone()).await, Written::Committed);
    assert_eq!(append(&store, third).await, Written::Conflict);
    assert_eq!(history(&store, "pruned").await, [snapshot(2, "ab"), event(3, "c")]);
}
