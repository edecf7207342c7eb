//! The file: opened in the mode that keeps promises, its tables created once and versioned.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::journal::Error;

/// Marks the file as ours: "clds" in ASCII.
const APPLICATION: i64 = 0x636c_6473;
/// Counts up with each change of the tables.
const VERSION: i64 = 1;
/// Longest wait for another process's transaction.
const BUSY: Duration = Duration::from_secs(4);

/// `position` orders the events of all entities as they were committed.
const TABLES: &str = "
CREATE TABLE events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    persistence_id TEXT NOT NULL,
    key TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    type_url TEXT NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (persistence_id, key, sequence)
);
CREATE TABLE snapshots (
    persistence_id TEXT NOT NULL,
    key TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    type_url TEXT NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (persistence_id, key)
);
CREATE TABLE entity_values (
    persistence_id TEXT NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    type_url TEXT,
    payload BLOB,
    PRIMARY KEY (persistence_id, key)
);
CREATE TABLE leases (
    service TEXT NOT NULL,
    shard INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    owner TEXT,
    beat INTEGER NOT NULL,
    asked_by TEXT,
    PRIMARY KEY (service, shard)
);";

/// Opens the file for writing.
pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    let doing = || format!("open the SQLite file {}", path.display());
    let mut connection = Connection::open(path).map_err(|error| Error::new(doing(), error))?;
    match prepare(&mut connection) {
        Ok(None) => Ok(connection),
        Ok(Some(odd)) => Err(Error::new(doing(), odd)),
        Err(error) => Err(Error::new(doing(), error)),
    }
}

/// Opens the file for reading.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// Sets the mode and makes the tables; says what is odd about a file that cannot be used.
fn prepare(connection: &mut Connection) -> rusqlite::Result<Option<String>> {
    connection.busy_timeout(BUSY)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        let odd =
            format!("its file system allows no write-ahead log (mode {mode}): use a local disk");
        return Ok(Some(odd));
    }
    // With a write-ahead log, only this syncs it at each commit.
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let number = |pragma| transaction.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (number("application_id")?, number("user_version")?) {
        (APPLICATION, VERSION) => {}
        (APPLICATION, version) => {
            return Ok(Some(format!(
                "its tables are of version {version}, and this proxy knows version {VERSION}: use a proxy that fits"
            )));
        }
        (0, 0) if tables == 0 => {
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        _ => return Ok(Some("it is another program's: choose another file".to_owned())),
    }
    transaction.commit()?;
    Ok(None)
}
