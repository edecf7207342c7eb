//! Our tables: created once under a lock, versioned, and looked at before they are used.

use std::fmt::Write as _;

use super::{connect::Link, failure::Failure, pool::Taken};
use crate::journal::Error;

/// Counts up with each change of the tables.
const VERSION: i32 = 1;
/// Number of the advisory lock under which tables are created: "cloudsta" in ASCII.
const LOCK: i64 = 0x636c_6f75_6473_7461;

/// A table's name, its columns (name, type, constraint), and its key.
type Table = (&'static str, &'static [(&'static str, &'static str, &'static str)], &'static str);

/// Every table.
///
/// Ids are compared byte by byte, whatever the database's language. `epochs` has a row for each of our
/// writing connections, so that two writes at once never share a row lock; its `epoch` is the one under
/// which may be written, and null when nobody may. What is renewed all the time lies apart, in `leases`.
/// `transaction` orders events for whoever reads all of them (`docs/stores.md`).
const TABLES: &[Table] = &[
    ("cloudstate_schema", &[("version", "integer", "NOT NULL")], ""),
    (
        "cloudstate_events",
        &[
            ("persistence_id", "text", "COLLATE \"C\" NOT NULL"),
            ("key", "text", "COLLATE \"C\" NOT NULL"),
            ("sequence", "bigint", "NOT NULL"),
            ("type_url", "text", "NOT NULL"),
            ("payload", "bytea", "NOT NULL"),
            ("transaction", "xid8", "NOT NULL DEFAULT pg_current_xact_id()"),
        ],
        "PRIMARY KEY (persistence_id, key, sequence)",
    ),
    (
        "cloudstate_snapshots",
        &[
            ("persistence_id", "text", "COLLATE \"C\" NOT NULL"),
            ("key", "text", "COLLATE \"C\" NOT NULL"),
            ("sequence", "bigint", "NOT NULL"),
            ("type_url", "text", "NOT NULL"),
            ("payload", "bytea", "NOT NULL"),
        ],
        "PRIMARY KEY (persistence_id, key)",
    ),
    (
        "cloudstate_values",
        &[
            ("persistence_id", "text", "COLLATE \"C\" NOT NULL"),
            ("key", "text", "COLLATE \"C\" NOT NULL"),
            ("version", "bigint", "NOT NULL"),
            ("type_url", "text", ""),
            ("payload", "bytea", ""),
        ],
        "PRIMARY KEY (persistence_id, key)",
    ),
    (
        "cloudstate_names",
        &[("short", "text", "COLLATE \"C\" NOT NULL"), ("long", "text", "COLLATE \"C\" NOT NULL")],
        "PRIMARY KEY (short)",
    ),
    (
        "cloudstate_leases",
        &[
            ("service", "text", "COLLATE \"C\" NOT NULL"),
            ("shard", "bigint", "NOT NULL"),
            ("epoch", "bigint", "NOT NULL"),
            ("owner", "text", ""),
            ("beat", "bigint", "NOT NULL"),
            ("asked_by", "text", ""),
        ],
        "PRIMARY KEY (service, shard)",
    ),
    (
        "cloudstate_epochs",
        &[
            ("service", "text", "COLLATE \"C\" NOT NULL"),
            ("shard", "bigint", "NOT NULL"),
            ("writer", "bigint", "NOT NULL"),
            ("epoch", "bigint", ""),
        ],
        "PRIMARY KEY (service, shard, writer)",
    ),
];

/// The tables' schema as it stands before their names.
#[derive(Clone, Debug)]
pub(super) struct Prefix(String);

impl Prefix {
    pub(super) fn new(schema: Option<&str>) -> Self {
        Self(schema.map_or_else(String::new, |schema| format!("{}.", quoted(schema))))
    }

    /// The statement with every `{name}` made the table `cloudstate_name`.
    pub(super) fn fill(&self, sql: &str) -> String {
        let table = format!("{}cloudstate_", self.0);
        sql.replace('{', &table).replace('}', "")
    }
}

/// Creates what is missing, when allowed, and looks at what is there.
pub(super) async fn ensure(taken: &Taken, schema: Option<&str>, create: bool) -> Result<(), Error> {
    let link = taken.link();
    let failed = |failure: Failure| Error::new("look at the tables", failure);
    let missing = missing(link, schema).await?;
    if missing.is_empty() {
        return Ok(());
    }
    if !create {
        return Err(Error::new(
            "use the database",
            format!(
                "tables are missing, and CLOUDSTATE_PROXY_AUTO_CREATE_TABLES is false; have an administrator run:\n{missing}"
            ),
        ));
    }
    link.execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK})")).await.map_err(failed)?;
    // Somebody else may have been quicker.
    let missing = self::missing(link, schema).await?;
    link.execute(&format!("{missing}\nCOMMIT"))
        .await
        .map_err(|failure| Error::new("create the tables", failure))?;
    let left = self::missing(link, schema).await?;
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::new("create the tables", format!("still missing are:\n{left}")))
}

/// The statements that create what is missing.
///
/// # Errors
/// When a newer proxy created the tables, or a table is not as it should be.
async fn missing(link: &Link, schema: Option<&str>) -> Result<String, Error> {
    let failed = |failure: Failure| Error::new("look at the tables", failure);
    let found = link
        .query(
            "SELECT c.relname::text, a.attname::text, a.atttypid::regtype::text \
             FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
             WHERE c.relnamespace = coalesce(to_regnamespace($1::text), to_regnamespace(quote_ident(current_schema()))) \
               AND ($1::text IS NULL OR to_regnamespace($1::text) IS NOT NULL) \
               AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped",
            &[&schema.map(quoted)],
        )
        .await
        .map_err(failed)?;
    let columns: Vec<(String, String, String)> =
        found.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let prefix = Prefix::new(schema);
    let is_there = |table: &str| columns.iter().any(|(found, _, _)| found == table);

    if is_there(TABLES[0].0) {
        let versions = link.query(&prefix.fill("SELECT version FROM {schema}"), &[]).await;
        for row in versions.map_err(failed)? {
            let version: i32 = row.get(0);
            if version != VERSION {
                return Err(Error::new(
                    "use the database",
                    format!(
                        "its tables are of version {version}, and this proxy knows version {VERSION}: use a proxy that fits"
                    ),
                ));
            }
        }
    }
    let mut statements = String::new();
    let mut wrong = Vec::new();
    for (table, wanted, key) in TABLES {
        if !is_there(table) {
            statements += &create_table(&prefix, table, wanted, key);
            continue;
        }
        for (column, kind, _) in *wanted {
            let found = columns.iter().find(|(t, c, _)| t == table && c == column);
            match found {
                Some((_, _, found)) if found == kind => {}
                Some((_, _, found)) => {
                    wrong.push(format!("{table}.{column} is of type {found}, not {kind}"));
                }
                None => wrong.push(format!("{table} has no column {column} of type {kind}")),
            }
        }
    }
    if !wrong.is_empty() {
        let advice = "choose another schema (POSTGRES_SCHEMA) or repair the tables";
        return Err(Error::new("use the database", format!("{}: {advice}", wrong.join("; "))));
    }
    if let (false, Some(schema)) = (statements.is_empty(), schema) {
        let quoted = quoted(schema);
        let there = link.query("SELECT to_regnamespace($1::text) IS NOT NULL", &[&quoted]).await;
        if !there.map_err(failed)?.iter().any(|row| row.get(0)) {
            statements.insert_str(0, &create_schema(schema));
        }
    }
    Ok(statements)
}

/// The statements that an empty database needs, for whoever runs them by hand.
pub fn statements(schema: Option<&str>) -> String {
    let prefix = Prefix::new(schema);
    let tables =
        TABLES.iter().map(|(table, columns, key)| create_table(&prefix, table, columns, key));
    schema.map(create_schema).into_iter().chain(tables).collect()
}

fn create_schema(schema: &str) -> String {
    format!("CREATE SCHEMA {};\n", quoted(schema))
}

/// Creates one table, and says in the first one which version they all are of.
fn create_table(prefix: &Prefix, table: &str, columns: &[(&str, &str, &str)], key: &str) -> String {
    let mut lines: Vec<_> = columns
        .iter()
        .map(|(name, kind, constraint)| {
            format!("    {name} {kind} {constraint}").trim_end().to_owned()
        })
        .collect();
    if !key.is_empty() {
        lines.push(format!("    {key}"));
    }
    let mut statement = String::new();
    let _ = writeln!(statement, "CREATE TABLE {}{table} (\n{}\n);", prefix.0, lines.join(",\n"));
    if table == TABLES[0].0 {
        statement += &prefix.fill(&format!("INSERT INTO {{schema}} VALUES ({VERSION});\n"));
    }
    statement
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_quoted_before_every_table() {
        let filled = Prefix::new(Some("my \"own\"")).fill("SELECT 1 FROM {events} e, {leases}");
        let wanted = "SELECT 1 FROM \"my \"\"own\"\"\".cloudstate_events e, \"my \"\"own\"\"\".cloudstate_leases";
        assert_eq!(filled, wanted);
        assert_eq!(Prefix::new(None).fill("FROM {events}"), "FROM cloudstate_events");
    }

    #[test]
    fn what_is_created_is_what_a_person_can_run() {
        let statement = create_table(
            &Prefix::new(None),
            "t",
            &[("a", "text", "NOT NULL"), ("b", "bigint", "")],
            "PRIMARY KEY (a)",
        );
        assert_eq!(
            statement,
            "CREATE TABLE t (\n    a text NOT NULL,\n    b bigint,\n    PRIMARY KEY (a)\n);\n"
        );
    }
}
