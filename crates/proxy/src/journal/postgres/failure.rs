//! What an error of the driver says about a statement: that it surely did nothing, or that nobody knows.

use std::time::Duration;

use api::Chain;
use tokio_postgres::error::{Severity, SqlState};

/// Why a statement has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server said no, and rolled back.
    Definite {
        /// What kind of no.
        code: SqlState,
        /// In the server's words.
        text: String,
    },
    /// It may have been carried out.
    Unclear(String),
}

impl Failure {
    /// A statement that took too long for anybody to wait.
    pub(super) fn silent(limit: Duration) -> Self {
        Self::Unclear(format!("Postgres did not answer within {limit:?}"))
    }

    /// In words.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Definite { text, .. } | Self::Unclear(text) => text,
        }
    }

    /// Whether the fault may lie in one row of many: its value, its size, or that it exists already.
    pub(super) fn may_be_of_one_row(&self) -> bool {
        match self {
            Self::Definite { code, .. } => {
                ["22", "23", "54"].iter().any(|class| code.code().starts_with(class))
            }
            Self::Unclear(_) => false,
        }
    }

    /// Whether a row with the same key was there already.
    pub(super) fn is_duplicate(&self) -> bool {
        matches!(self, Self::Definite { code, .. } if *code == SqlState::UNIQUE_VIOLATION)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let text = Chain(&error).to_string();
        match error.as_db_error() {
            // A FATAL ends the session, and may come after the commit and before its confirmation.
            Some(said) if said.parsed_severity() == Some(Severity::Error) => {
                Self::Definite { code: said.code().clone(), text }
            }
            _ => Self::Unclear(text),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Failure {}
