//! The suite and what is special about Postgres, against a real server.

use std::sync::atomic::{AtomicU32, Ordering};

use testbed::postgres::{NAME, Postgres as Server};

use super::*;

/// Settings for a schema that nobody used before.
fn settings(server: &Server) -> Settings {
    static SCHEMAS: AtomicU32 = AtomicU32::new(0);
    let number = SCHEMAS.fetch_add(1, Ordering::Relaxed);
    Settings {
        host: "127.0.0.1".to_owned(),
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

mod suite {
    crate::journal::suite::tests!(super::open);
}
