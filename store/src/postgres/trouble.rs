//! What the server or the way to it said, put into words that say what to do; the original words follow as the cause.

use std::error::Error as Source;
use std::fmt;

use epu_core::secret::SecretUrl;
use sqlx::migrate::MigrateError;

use crate::Error;
use crate::stop::Stop;

/// A refusal, and whose.
#[derive(Debug)]
pub(super) struct Trouble {
    kind: Kind,
    server: String,
    /// What was sent last may have been done.
    unsure: bool,
    source: Option<Box<dyn Source + Send + Sync>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Address,
    Unreachable,
    Lost,
    Silent,
    NoConnection,
    Untrusted,
    Garbled,
    Denied,
    NoDatabase,
    NotAllowed,
    ReadOnly,
    NoRoom,
    Disk,
    TooMany,
    Slow,
    Contended,
    Empty,
    Damaged,
    Newer,
    Closed,
    Other,
}

impl Trouble {
    pub(super) fn of(server: &str, stop: Stop) -> Self {
        let unsure = matches!(stop, Stop::Unsure(_) | Stop::Silent);
        let (kind, source): (Kind, Option<Box<dyn Source + Send + Sync>>) = match stop {
            Stop::Database(error) | Stop::Unsure(error) => (kind_of(&error), Some(own_words(error))),
            Stop::Silent => (Kind::Silent, None),
            Stop::Disk(error) => (Kind::Other, Some(Box::new(error))),
            Stop::Said(error) => (Kind::Other, Some(Box::new(error))),
        };
        Self {
            kind,
            server: server.to_owned(),
            unsure,
            source,
        }
    }

    pub(super) fn of_migration(server: &str, error: MigrateError) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that is marked non-exhaustive")]
        let kind = match error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => return Self::of(server, Stop::Database(cause)),
            MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) | MigrateError::VersionMismatch(_) => Kind::Newer,
            _ => Kind::Other,
        };
        Self {
            kind,
            server: server.to_owned(),
            unsure: false,
            source: Some(Box::new(error)),
        }
    }

    pub(super) fn of_address(url: &SecretUrl) -> Self {
        Self {
            kind: Kind::Address,
            server: url.to_string(),
            unsure: false,
            source: None,
        }
    }

    /// As the crate's error.
    pub(super) fn while_doing(self, doing: impl Into<String>) -> Error {
        Error::Database {
            doing: doing.into(),
            source: Box::new(self),
        }
    }
}

/// The driver's own words repeat the cause's, which would then be read twice.
#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that is marked non-exhaustive")]
fn own_words(error: sqlx::Error) -> Box<dyn Source + Send + Sync> {
    match error {
        sqlx::Error::Database(said) => said.into_error(),
        sqlx::Error::Io(said) => Box::new(said),
        other => Box::new(other),
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unsure {
            out.write_str("whether it was done is not known: ")?;
        }
        let server = &self.server;
        match self.kind {
            Kind::Address => write!(
                out,
                "its address cannot be used; write it like postgres://user:password@host:5432/database"
            ),
            Kind::Unreachable => write!(
                out,
                "nobody answers at {server}; start the database or correct its address, and it is connected to again by itself"
            ),
            Kind::Lost => write!(
                out,
                "the connection to the database {server} was lost, or it is stopping or starting; it is connected to again by itself"
            ),
            Kind::Silent => write!(
                out,
                "the database {server} did not answer in time; see its load, its log and the network; it is asked again by itself"
            ),
            Kind::NoConnection => write!(
                out,
                "no connection to the database {server} came free or could be made in time; see whether it runs, its load, and \
                 the setting `connections`; it is tried again by itself"
            ),
            Kind::Untrusted => write!(
                out,
                "no trusted connection to the database {server} could be made; see `sslmode` and `sslrootcert` in its address"
            ),
            Kind::Garbled => write!(
                out,
                "what answers at {server} hung up or does not speak as PostgreSQL does; see whether address and port are the database's, \
                 and its log; it is connected to again by itself"
            ),
            Kind::Denied => write!(
                out,
                "the database {server} does not let us in; correct user and password in its address"
            ),
            Kind::NoDatabase => write!(
                out,
                "there is no database {server}; make it with `createdb`, or correct the address"
            ),
            Kind::NotAllowed => write!(
                out,
                "our user may not do that in the database {server}; make it the owner of the database and of what is in it"
            ),
            Kind::ReadOnly => write!(
                out,
                "the database {server} may only be read, as a stand-by server's; correct the address, or wait until it takes over"
            ),
            Kind::NoRoom => write!(
                out,
                "no room is left on the server of the database {server}; free some there, and it goes on by itself"
            ),
            Kind::Disk => write!(out, "the disk of the database {server} failed; see its log"),
            Kind::TooMany => write!(
                out,
                "the database {server} has no connection or memory left for us; raise its `max_connections`, or lower `connections` here"
            ),
            Kind::Slow => write!(
                out,
                "the database {server} gave up on it, since it took too long or something held a lock; see its load and its log"
            ),
            Kind::Contended => write!(
                out,
                "others changed the same in the database {server} again and again; it is tried again by itself"
            ),
            Kind::Empty => write!(
                out,
                "the database {server} has no tables of ours, or not those of this release; run `epumgmt store migrate`"
            ),
            Kind::Damaged => write!(out, "the database {server} is damaged; see its log, and put a backup there"),
            Kind::Newer => write!(
                out,
                "the database {server} was made by another release; use that release or a newer one, or put a backup of this one's there"
            ),
            Kind::Closed => out.write_str("the store was closed; this process is ending"),
            Kind::Other => write!(
                out,
                "the database {server} said what was not expected; see the log, and please report it"
            ),
        }
    }
}

impl Source for Trouble {
    fn source(&self) -> Option<&(dyn Source + 'static)> {
        self.source.as_deref().map(|source| -> &(dyn Source + 'static) { source })
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that is marked non-exhaustive")]
fn kind_of(error: &sqlx::Error) -> Kind {
    match error {
        sqlx::Error::Database(said) => said.code().map_or(Kind::Other, |code| kind_of_code(&code)),
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Kind::Unreachable,
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::NotFound => Kind::Unreachable,
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => Kind::Lost,
        sqlx::Error::Tls(_) => Kind::Untrusted,
        sqlx::Error::Protocol(_) => Kind::Garbled,
        sqlx::Error::PoolTimedOut => Kind::NoConnection,
        sqlx::Error::PoolClosed => Kind::Closed,
        sqlx::Error::Configuration(_) => Kind::Address,
        _ => Kind::Other,
    }
}

/// PostgreSQL's error codes, <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn kind_of_code(code: &str) -> Kind {
    match code {
        "53100" => Kind::NoRoom,
        "53200" | "53300" | "53400" => Kind::TooMany,
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => Kind::Lost,
        "57014" | "55P03" => Kind::Slow,
        "40001" | "40P01" => Kind::Contended,
        "25006" => Kind::ReadOnly,
        "28000" | "28P01" => Kind::Denied,
        "3D000" | "57P04" => Kind::NoDatabase,
        "42501" => Kind::NotAllowed,
        "42P01" | "42703" | "3F000" => Kind::Empty,
        "XX001" | "XX002" => Kind::Damaged,
        other if other.starts_with("08") => Kind::Lost,
        other if other.starts_with("58") => Kind::Disk,
        _ => Kind::Other,
    }
}

/// Whether the server itself said no, with the connection as it was: then nothing was done. What it says as it ends a connection
/// comes with no promise about what it was just doing.
pub(super) fn refused(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some() && kind_of(error) != Kind::Lost
}

/// Whether the same may well work when it is tried again at once.
pub(super) fn may_pass(error: &sqlx::Error) -> bool {
    match kind_of(error) {
        Kind::Contended | Kind::Lost => true,
        Kind::Address
        | Kind::Unreachable
        | Kind::Silent
        | Kind::NoConnection
        | Kind::Untrusted
        | Kind::Garbled
        | Kind::Denied
        | Kind::NoDatabase
        | Kind::NotAllowed
        | Kind::ReadOnly
        | Kind::NoRoom
        | Kind::Disk
        | Kind::TooMany
        | Kind::Slow
        | Kind::Empty
        | Kind::Damaged
        | Kind::Newer
        | Kind::Closed
        | Kind::Other => false,
    }
}
