//! How Postgres is reached: where, as whom, and how much TLS is insisted on.

use std::{fmt, path::PathBuf};

/// Where Postgres is and how it is used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Host name, address, or folder of a Unix socket.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// That role's password.
    pub password: Secret,
    /// Schema of our tables; the first of the role's search path unless set.
    pub schema: Option<String>,
    /// Whether and how far TLS is insisted on.
    pub tls: Tls,
    /// Whether missing tables are created.
    pub create_tables: bool,
}

impl Settings {
    /// What to call the server in messages.
    pub(super) fn place(&self) -> String {
        let Self { host, port, database, user, .. } = self;
        format!("{host}:{port}, database {database:?}, as {user:?}")
    }
}

/// Text that never shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// TLS to the server.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// How much is insisted on.
    pub mode: TlsMode,
    /// PEM file with the certificates that the server's must lead to.
    pub roots: Option<PathBuf>,
    /// PEM files with our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The six modes of libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never TLS.
    Disable,
    /// TLS when the server refuses to go without.
    Allow,
    /// TLS when the server can.
    #[default]
    Prefer,
    /// TLS or nothing; with root certificates as [`VerifyCa`](Self::VerifyCa), as libpq does it.
    Require,
    /// And the server's certificate leads to one of ours.
    VerifyCa,
    /// And names the host that we asked for.
    VerifyFull,
}

impl TlsMode {
    /// Every mode, for messages.
    pub const ALL: [Self; 6] =
        [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// The name that libpq gives it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// The mode of that name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }

    /// Whether a connection without TLS is out of the question.
    pub fn is_strict(self) -> bool {
        matches!(self, Self::Require | Self::VerifyCa | Self::VerifyFull)
    }

    /// Whether the server's certificate is looked at, so that root certificates are needed.
    pub fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}
