//! The suite and what is special about Postgres, against a real server.

mod addresses;
mod far;
mod schema;
mod tls;

use std::sync::atomic::{AtomicU32, Ordering};

use testbed::postgres::{NAME, Postgres as Server};

use super::*;
use crate::journal::{Sequence, suite};

/// Settings for a schema that nobody used before.
fn settings(server: &Server) -> Settings {
    static SCHEMAS: AtomicU32 = AtomicU32::new(0);
    let number = SCHEMAS.fetch_add(1, Ordering::Relaxed);
    Settings {
        host: server.host(),
        port: server.port(),
        database: NAME.to_owned(),
        user: NAME.to_owned(),
        password: Secret(NAME.to_owned()),
        schema: Some(format!("test \"{number}\"")),
        tls: Tls { mode: TlsMode::Disable, ..Tls::default() },
        create_tables: true,
    }
}

async fn open() -> (Postgres, ()) {
    (Postgres::open(settings(Server::shared().await), "cart").await.unwrap(), ())
}

/// What keeps the store from being opened.
async fn refusal(settings: Settings) -> String {
    let error = Postgres::open(settings, "cart").await.unwrap_err();
    api::Chain(&error).to_string()
}

suite::tests!(open);

#[tokio::test]
async fn a_wrong_password_is_told_and_never_shown() {
    let mut settings = settings(Server::shared().await);
    settings.password = Secret("s3cret".to_owned());
    let host = settings.host.clone();
    let said = refusal(settings).await;
    assert!(said.contains("password authentication failed") && said.contains(&host), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
}

#[tokio::test]
async fn services_in_one_database_have_leases_of_their_own() {
    let settings = settings(Server::shared().await);
    let one = Postgres::open(settings.clone(), "one").await.unwrap();
    let other = Postgres::open(settings, "other").await.unwrap();
    let owner = Owner(uuid::Uuid::from_u128(1));
    assert!(one.claim(Shard::WHOLE, owner, &Lease::default()).await.unwrap().is_some());
    assert_eq!(other.lease(Shard::WHOLE).await.unwrap(), Lease::default());
}

#[tokio::test]
async fn a_request_is_told_to_another_process() {
    let settings = settings(Server::shared().await);
    let owner = Postgres::open(settings.clone(), "cart").await.unwrap();
    let asker = Postgres::open(settings, "cart").await.unwrap();
    let mine = Owner(uuid::Uuid::from_u128(1));
    owner.claim(Shard::WHOLE, mine, &Lease::default()).await.unwrap();
    let mut changes = owner.changes();
    changes.mark_unchanged();
    asker.ask(Shard::WHOLE, Owner(uuid::Uuid::from_u128(2))).await.unwrap();
    let limit = std::time::Duration::from_mins(1);
    tokio::time::timeout(limit, changes.changed()).await.expect("told in time").unwrap();
}

/// A server of its own, a store on it, and an epoch.
async fn stand() -> (Server, Postgres, Guard) {
    let server = Server::start().await.unwrap();
    let store = Postgres::open(settings(&server), "cart").await.unwrap();
    let owner = Owner(uuid::Uuid::from_u128(1));
    let epoch = store.claim(Shard::WHOLE, owner, &Lease::default()).await.unwrap().unwrap();
    (server, store, Guard { shard: Shard::WHOLE, epoch })
}

fn reply(key: &str, guard: Guard, expected: u64) -> Append {
    Append {
        entity: EntityId { persistence_id: "cart".to_owned(), key: key.to_owned() },
        guard,
        expected: Sequence(expected),
        events: vec![Any::default()],
        snapshot: None,
    }
}

#[tokio::test]
async fn a_server_that_is_away_costs_an_error_and_no_wait_and_is_found_again() {
    let (server, store, guard) = stand().await;
    assert_eq!(store.append(vec![reply("1", guard, 0)]).await, [Written::Committed]);
    server.kill_postmaster().unwrap();
    let begun = std::time::Instant::now();
    // A backend may outlive its postmaster by a statement. Whatever became of what it was sent, the next one
    // finds the connection ended and nobody who opens another, and what is not sent is refused.
    let refused = async {
        let last_words = || store.append(vec![reply("last words", guard, 0)]);
        while !matches!(last_words().await[..], [Written::Refused(_)]) {}
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), refused)
        .await
        .expect("refused in time");
    for _ in 0..100 {
        let outcome = store.append(vec![reply("2", guard, 0)]).await.remove(0);
        assert!(matches!(outcome, Written::Refused(_)), "{outcome:?}");
    }
    assert!(store.lease(Shard::WHOLE).await.is_err());
    // Were each to wait, this would take minutes.
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
    server.restart().await.unwrap();
    let begun = std::time::Instant::now();
    while store.append(vec![reply("2", guard, 0)]).await != [Written::Committed] {
        assert!(begun.elapsed() < std::time::Duration::from_mins(1), "not found again");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(store.append(vec![reply("1", guard, 1)]).await, [Written::Committed]);
}

#[tokio::test]
async fn what_breaks_while_it_is_written_is_unknown() {
    let (server, store, guard) = stand().await;
    // The table is locked, so the statement waits, surely sent and surely not done.
    let lock = server.client().await.unwrap();
    let schema = store.connector.schema().to_owned();
    let table = Prefix::new(Some(&schema)).fill("BEGIN; LOCK TABLE {events} IN EXCLUSIVE MODE");
    lock.batch_execute(&table).await.unwrap();
    let store = Arc::new(store);
    let writer = Arc::clone(&store);
    let write = tokio::spawn(async move { writer.append(vec![reply("1", guard, 0)]).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cloudstate' AND wait_event_type = 'Lock'";
    let watch = server.client().await.unwrap();
    let waiting = async {
        while watch.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), waiting).await.expect("it waits");
    assert!(server.kill_backends("cloudstate").await.unwrap() > 0);
    let outcome = write.await.unwrap().remove(0);
    assert!(matches!(outcome, Written::Unknown(_)), "{outcome:?}");
}

#[tokio::test]
async fn what_a_snapshot_contains_may_be_deleted_by_hand() {
    let server = Server::shared().await;
    let store = Postgres::open(settings(server), "cart").await.unwrap();
    let prefix = Prefix::new(Some(store.connector.schema()));
    let delete = prefix.fill("DELETE FROM {events} WHERE sequence <= 2");
    let delete = async || server.execute(&delete).await.unwrap();
    suite::goes_on_behind_a_snapshot(Arc::new(store), delete).await;
}

#[tokio::test]
async fn a_row_that_is_refused_takes_no_neighbour_with_it() {
    let (server, store, guard) = stand().await;
    let rule = Prefix::new(Some(store.connector.schema()))
        .fill("ALTER TABLE {events} ADD CHECK (key <> 'bad')");
    server.execute(&rule).await.unwrap();
    let batch = ["1", "bad", "2"].map(|key| reply(key, guard, 0)).to_vec();
    let outcomes = store.append(batch).await;
    let [Written::Committed, Written::Refused(said), Written::Committed] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert!(said.contains("check constraint"), "{said}");
}
