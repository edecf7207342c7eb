//! The suite and what is special about a file.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::journal::suite;

async fn open() -> (Sqlite, TempDir) {
    let folder = testbed::scratch::folder("cloudstate-sqlite-").unwrap();
    (Sqlite::open(folder.path().join("events.db"), "cart").await.unwrap(), folder)
}

mod all {
    crate::journal::suite::tests!(super::open);
}

async fn refusal(path: PathBuf) -> String {
    let error = Sqlite::open(path, "cart").await.unwrap_err();
    api::Chain(&error).to_string()
}

#[tokio::test]
async fn what_was_written_is_there_when_the_file_is_opened_again() {
    let (store, folder) = open().await;
    let owner = Owner(uuid::Uuid::from_u128(1));
    store.claim(Shard::WHOLE, owner, &Lease::default()).await.unwrap();
    drop(store);
    let store = Sqlite::open(folder.path().join("events.db"), "cart").await.unwrap();
    let lease = store.lease(Shard::WHOLE).await.unwrap();
    assert_eq!((lease.epoch, lease.owner), (Epoch(1), Some(owner)));
}

#[tokio::test]
async fn services_in_one_file_have_leases_of_their_own() {
    let (store, folder) = open().await;
    let other = Sqlite::open(folder.path().join("events.db"), "other").await.unwrap();
    let owner = Owner(uuid::Uuid::from_u128(1));
    store.claim(Shard::WHOLE, owner, &Lease::default()).await.unwrap();
    assert_eq!(other.lease(Shard::WHOLE).await.unwrap(), Lease::default());
}

#[tokio::test]
async fn what_a_snapshot_contains_may_be_deleted_by_hand() {
    let (store, folder) = open().await;
    let file = folder.path().join("events.db");
    suite::goes_on_behind_a_snapshot(Arc::new(store), async || {
        let connection = Connection::open(&file).unwrap();
        connection.execute("DELETE FROM events WHERE sequence <= 2", []).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_with_the_reason() {
    let (store, folder) = open().await;
    drop(store);
    let newer = folder.path().join("newer.db");
    let connection = Connection::open(&newer).unwrap();
    let text =
        "PRAGMA application_id = 1668047987; PRAGMA user_version = 99; CREATE TABLE events (x)";
    connection.execute_batch(text).unwrap();
    let said = refusal(newer).await;
    assert!(said.contains("newer.db") && said.contains("version 99"), "{said}");

    let others = folder.path().join("others.db");
    Connection::open(&others).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    assert!(refusal(others).await.contains("another program's"));

    let text = folder.path().join("text.db");
    fs::write(&text, "no database at all, but long enough to look at".repeat(30)).unwrap();
    assert!(refusal(text).await.contains("not a database"));

    let nowhere = refusal(folder.path().join("missing/events.db")).await;
    assert!(nowhere.contains("missing/events.db"), "{nowhere}");
}
