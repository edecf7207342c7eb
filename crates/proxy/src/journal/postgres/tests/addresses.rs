//! A host with several addresses, of which not every one is a primary that answers.

use std::{fs::File, net::IpAddr, time::Duration};

use tokio::{net::TcpListener, time::Instant};

use testbed::process::own_address;

use super::*;

/// Opens a connection to the first of these that has what we need.
async fn open_first(settings: Settings, addresses: &[IpAddr]) -> Result<(), String> {
    let addresses: Vec<_> = addresses.iter().copied().map(Some).collect();
    let end = Instant::now() + Duration::from_secs(5);
    Connector::new(settings).open_first(&addresses, end).await.map(drop)
}

fn address(server: &Server) -> IpAddr {
    server.host().parse().unwrap()
}

#[tokio::test]
async fn an_address_that_never_answers_leaves_time_for_the_next() {
    let server = Server::shared().await;
    // Takes connections, and never says a word on them.
    let hole: IpAddr = own_address().into();
    let _silent = TcpListener::bind((hole, server.port())).await.unwrap();
    let begun = Instant::now();
    open_first(settings(server), &[hole, address(server)]).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(2), "it was not tried");
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_passed_over_and_all_are_named_when_none_is_left() {
    let server = Server::shared().await;
    let nobody: IpAddr = own_address().into();
    open_first(settings(server), &[nobody, address(server)]).await.unwrap();
    let said = open_first(settings(server), &[nobody, nobody]).await.unwrap_err();
    assert_eq!(said.matches(&format!("at {nobody}: ")).count(), 2, "{said}");
}

#[tokio::test]
async fn behind_a_replica_the_primary_is_looked_for() {
    let server = Server::shared().await;
    let replica = Server::start().await.unwrap();
    replica.stop().unwrap();
    File::create(replica.socket().join("data/standby.signal")).unwrap();
    replica.restart().await.unwrap();
    let said = open_first(settings(server), &[address(&replica)]).await.unwrap_err();
    assert!(said.contains("this server is a replica"), "{said}");
    open_first(settings(server), &[address(&replica), address(server)]).await.unwrap();
}

#[tokio::test]
async fn a_name_is_found_and_one_that_nobody_has_is_told() {
    let settings = settings(Server::shared().await);
    let named = |host: &str| Connector::new(Settings { host: host.to_owned(), ..settings.clone() });
    let addresses = named("localhost").addresses().await.unwrap();
    assert!(addresses.iter().all(|address| address.is_some_and(|it| it.is_loopback())));
    let said = named("nobody.invalid").addresses().await.unwrap_err();
    assert!(said.contains("the name is not found"), "{said}");
}
