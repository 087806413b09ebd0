//! What the disk or the database said, put into words that say what to do. The store cannot mend a disk, but it can name the
//! directory, the user and the next step; the original words follow as the cause.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use sqlx::migrate::MigrateError;

use crate::Error;

/// A refusal, and where.
#[derive(Debug)]
pub(crate) struct Trouble {
    kind: Kind,
    dir: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    NoRoom,
    NotWritable,
    Damaged,
    Newer,
    Disk,
    CannotOpen,
    NotADirectory,
    Busy,
    Closed,
    Other,
}

impl Trouble {
    pub(crate) fn of_database(dir: &Path, error: sqlx::Error) -> Self {
        let kind = kind_of_database(&error);
        // The driver's own words repeat the cause's, which would then be read twice.
        #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that is marked non-exhaustive")]
        let source = match error {
            sqlx::Error::Database(said) => said.into_error(),
            sqlx::Error::Io(said) => Box::new(said),
            other => Box::new(other),
        };
        Self {
            kind,
            dir: dir.to_owned(),
            source,
        }
    }

    pub(crate) fn of_migration(dir: &Path, error: MigrateError) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that is marked non-exhaustive")]
        let kind = match error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => return Self::of_database(dir, cause),
            MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) | MigrateError::VersionMismatch(_) => Kind::Newer,
            _ => Kind::Other,
        };
        Self {
            kind,
            dir: dir.to_owned(),
            source: Box::new(error),
        }
    }

    pub(crate) fn of_disk(dir: &Path, error: io::Error) -> Self {
        Self {
            kind: kind_of_disk(&error),
            dir: dir.to_owned(),
            source: Box::new(error),
        }
    }

    /// As the crate's error.
    pub(crate) fn while_doing(self, doing: impl Into<String>) -> Error {
        Error::Database {
            doing: doing.into(),
            source: Box::new(self),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = self.dir.display();
        let user = rustix::process::geteuid().as_raw();
        match self.kind {
            Kind::NoRoom => write!(
                out,
                "no room is left; free some on the file system of {dir}, and it goes on by itself"
            ),
            Kind::NotWritable => write!(
                out,
                "it may not be written to; make {dir} and the files in it writable for user id {user}, or choose another data-dir"
            ),
            Kind::Damaged => write!(
                out,
                "{dir}/epu.db is damaged, or no database; move it away together with epu.db-wal and epu.db-shm, and put a backup there"
            ),
            Kind::Newer => write!(
                out,
                "{dir}/epu.db was made by another release; use that release or a newer one, or put a backup of this one's there"
            ),
            Kind::Disk => write!(out, "the disk failed; look at the system's log, and at the free space of {dir}"),
            Kind::CannotOpen => write!(
                out,
                "it cannot be opened; {dir} must exist and be readable and writable for user id {user}, with file descriptors to spare"
            ),
            Kind::NotADirectory => write!(
                out,
                "{dir} is, or leads through, something that is no directory; choose another data-dir"
            ),
            Kind::Busy => write!(
                out,
                "another program keeps {dir}/epu.db locked, or the disk is too slow; `fuser {dir}/epu.db` names who uses it"
            ),
            Kind::Closed => out.write_str("the store was closed; this process is ending"),
            Kind::Other => out.write_str("this was not expected; see the log, and please report it"),
        }
    }
}

impl std::error::Error for Trouble {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that is marked non-exhaustive")]
fn kind_of_database(error: &sqlx::Error) -> Kind {
    match error {
        sqlx::Error::Database(said) => said
            .code()
            .and_then(|code| code.parse::<u32>().ok())
            .map_or(Kind::Other, kind_of_code),
        sqlx::Error::Io(error) => kind_of_disk(error),
        sqlx::Error::PoolTimedOut => Kind::Busy,
        sqlx::Error::PoolClosed => Kind::Closed,
        _ => Kind::Other,
    }
}

/// SQLite's result codes, <https://www.sqlite.org/rescode.html>; the low byte is the primary one.
fn kind_of_code(code: u32) -> Kind {
    match code & 0xff {
        5 | 6 => Kind::Busy,
        8 => Kind::NotWritable,
        10 => Kind::Disk,
        11 | 26 => Kind::Damaged,
        13 => Kind::NoRoom,
        14 => Kind::CannotOpen,
        _ => Kind::Other,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that is marked non-exhaustive")]
fn kind_of_disk(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Kind::NotWritable,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::NoRoom,
        io::ErrorKind::NotFound => Kind::CannotOpen,
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => Kind::NotADirectory,
        _ => Kind::Disk,
    }
}
