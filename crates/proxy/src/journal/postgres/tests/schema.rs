//! Tables: made once, looked at, never guessed.

use futures::future::join_all;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_proxies_create_the_tables_once() {
    let settings = settings(Server::shared().await);
    let all = join_all((0..6).map(|_| Postgres::open(settings.clone(), "cart"))).await;
    for opened in all {
        opened.unwrap();
    }
}

#[tokio::test]
async fn without_a_schema_the_tables_lie_where_the_role_looks() {
    let server = Server::start().await.unwrap();
    let settings = Settings { schema: None, ..settings(&server) };
    let store = Postgres::open(settings.clone(), "cart").await.unwrap();
    assert_eq!(store.lease(Shard::WHOLE).await.unwrap(), Lease::default());
    server.execute("SELECT * FROM public.cloudstate_events").await.unwrap();
    Postgres::open(Settings { create_tables: false, ..settings }, "cart").await.unwrap();
}

#[tokio::test]
async fn what_an_administrator_must_run_is_told_and_suffices() {
    let server = Server::shared().await;
    let settings = Settings { create_tables: false, ..settings(server) };
    let said = refusal(settings.clone()).await;
    let (_, statements) = said.split_once(":\n").expect("statements");
    assert!(said.contains("CLOUDSTATE_PROXY_AUTO_CREATE_TABLES"), "{said}");
    assert_eq!(statements, super::super::statements(settings.schema.as_deref()), "as printed");
    let (client, connection) = tokio_postgres::Config::new()
        .host(server.host())
        .port(server.port())
        .user(NAME)
        .password(NAME)
        .dbname(NAME)
        .connect(tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client.batch_execute(statements).await.unwrap();
    Postgres::open(settings, "cart").await.unwrap();
}

#[tokio::test]
async fn tables_of_another_version_or_shape_are_refused_with_the_reason() {
    let server = Server::shared().await;
    for (change, parts) in [
        ("UPDATE {schema} SET version = 99", &["version 99", "version 1"][..]),
        ("ALTER TABLE {events} DROP COLUMN payload", &["cloudstate_events", "payload", "bytea"]),
        (
            "ALTER TABLE {values} ALTER COLUMN version TYPE integer",
            &["cloudstate_values.version", "integer", "bigint"],
        ),
    ] {
        let settings = settings(server);
        Postgres::open(settings.clone(), "cart").await.unwrap();
        server.execute(&Prefix::new(settings.schema.as_deref()).fill(change)).await.unwrap();
        let said = refusal(settings).await;
        for part in parts {
            assert!(said.contains(part), "{part} is missing in {said}");
        }
    }
}

#[tokio::test]
async fn missing_rights_are_told_in_the_servers_words() {
    let server = Server::shared().await;
    let settings = settings(server);
    Postgres::open(settings.clone(), "cart").await.unwrap();
    let prefix = Prefix::new(settings.schema.as_deref());
    server
        .execute(&prefix.fill(
            "CREATE ROLE reader LOGIN PASSWORD 'cloudstate'; GRANT SELECT ON {schema} TO reader",
        ))
        .await
        .unwrap();
    let settings = Settings { user: "reader".to_owned(), ..settings };
    let said = refusal(settings).await;
    assert!(said.contains("permission denied"), "{said}");
}
