//! The journal, read past the proxy out of its tables.

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use testbed::{
    counter::{ADDED, Added},
    ledger::{Event, Journal},
    postgres::Postgres,
};

/// Everything that any counter ever did.
pub(crate) async fn read(postgres: &Postgres) -> Result<Journal> {
    let rows = postgres
        .client()
        .await?
        .query(
            "SELECT key, sequence, transaction::text, type_url, payload FROM cloudstate_events \
             WHERE persistence_id = 'counter' ORDER BY key, sequence",
            &[],
        )
        .await
        .context("failed to read the journal")?;
    let mut journal = Journal::new();
    for row in rows {
        let (key, type_url): (String, String) = (row.get(0), row.get(3));
        ensure!(type_url == ADDED, "an event of {key} is a {type_url}");
        let added = Added::decode(row.get::<_, &[u8]>(4))?;
        let transaction: String = row.get(2);
        journal.entry(key).or_default().push(Event {
            sequence: row.get(1),
            transaction: transaction.parse()?,
            id: (added.caller, added.number),
            amount: added.amount,
            value: added.value,
        });
    }
    Ok(journal)
}

/// The number of the next transaction: whatever is written later has this one or a higher one.
pub(crate) async fn next_transaction(postgres: &Postgres) -> Result<u64> {
    let row = postgres.client().await?.query_one("SELECT pg_current_xact_id()::text", &[]).await?;
    Ok(row.get::<_, String>(0).parse()?)
}
