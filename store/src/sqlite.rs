//! The store of a single machine: one SQLite file in the data directory.
//!
//! One connection writes, since SQLite has one writer anyway and a queue in front of it is fairer and faster than retries; a few
//! others read, each from a consistent snapshot that no write waits for (WAL). `synchronous=FULL` makes a commit wait for the disk,
//! which is what "survives a power cut once it returns" costs. A method that is dropped half way takes its transaction back.
//!
//! Whoever has the directory has it alone, so that leases and members that are there when it is opened are of a process that is gone:
//! they are freed at once, and a restart waits for nothing to run out.

mod batch;
mod paged;

#[expect(clippy::duplicate_mod, reason = "one text, compiled once for each database")]
#[path = "leases.rs"]
mod leases;
#[expect(clippy::duplicate_mod, reason = "one text, compiled once for each database")]
#[path = "records.rs"]
mod records;
#[expect(clippy::duplicate_mod, reason = "one text, compiled once for each database")]
#[path = "transfer.rs"]
mod transfer;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection as _, Row as _, Sqlite, SqliteConnection, Transaction, query};

use crate::directory::{self, Lock};
use crate::migrate::{self, Migrated, Step};
use crate::stop::Stop;
use crate::trouble::Trouble;
use crate::{Error, sql};

type Own = SqliteStore;
type Db = Sqlite;
type Arguments = sqlx::sqlite::SqliteArguments;
type Connection = SqliteConnection;
type Row = sqlx::sqlite::SqliteRow;

const MIGRATIONS: &[Step] = &[
    (1, "first", include_str!("../migrations/sqlite/0001_first.sql")),
    (2, "leases", include_str!("../migrations/sqlite/0002_leases.sql")),
];
/// The database is in this process: what takes long is the disk, and that is waited for.
const WITHIN: Duration = Duration::MAX;
/// The same for reading everything there is.
const ALL_WITHIN: Duration = Duration::MAX;
/// The database's own time, in milliseconds: leases run out by it alone.
const NOW: &str = "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)";
/// There is one writer, so that nothing changes between looking and writing.
const STAND: &str = sql::LEASE;
/// The turn to write is what waits here.
const SETTLE: &str = sql::LEASE;
/// As [`STAND`].
const CLOSED_MEANWHILE: &str = sql::CLOSED;
/// How long one step of moving everything may take.
const TRANSFERRED_WITHIN: Duration = Duration::MAX;
/// Whoever writes has the file to itself.
const LOCK_ALL: Option<&str> = None;
/// The one row that an empty store has.
const CLEAR: &str = "DELETE FROM installation";
const HAS_MIGRATIONS: &str = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations'";

/// Connections that read. Too many: memory. Too few: a long read holds up others.
const READERS: u32 = 3;
/// How long another program, such as a backup, may hold the file locked. Too long: a stuck one stops us without a word.
const BUSY_FOR: Duration = Duration::from_secs(5);
/// How long a method waits for its turn. Too short: a slow disk looks broken. Too long: callers pile up.
const TURN_WITHIN: Duration = Duration::from_secs(15);
/// The write-ahead log is cut to this many bytes after a checkpoint; it is longer only during a very large transaction.
const LOG_BYTES: &str = "67108864";
/// Rows that are fetched ahead of the decoder. Too few: the two wait for each other. Too many: memory.
const ROWS_AHEAD: usize = 512;

/// Keeps records in `epu.db` of a directory that it has to itself.
#[derive(Debug)]
pub struct SqliteStore {
    dir: PathBuf,
    writer: SqlitePool,
    readers: SqlitePool,
    migrated: Migrated,
    // The last field, so that the directory is free only when the connections are gone. None once it is closed.
    lock: Mutex<Option<Lock>>,
}

impl SqliteStore {
    /// Opens the store in `dir`, making or migrating what is there. The directory becomes this process's until the store is closed
    /// or dropped or the process ends, however it ends.
    ///
    /// # Errors
    /// [`Error::InUse`] names who has it. [`Error::Database`] says what is wrong with disk or file, and what to do.
    pub async fn open(dir: &Path) -> Result<Self, Error> {
        let dir = absolute(dir)?;
        directory::prepare(&dir)?;
        let lock = Lock::take(&dir)?;

        let file = dir.join("epu.db");
        let doing = || format!("open {}", file.display());
        // SQLite gives its other files the mode of this one.
        drop(directory::private_file(&file).map_err(|error| Trouble::of_disk(&dir, error).while_doing(doing()))?);
        let failed = |error| Trouble::of_database(&dir, error).while_doing(doing());
        let writing = options(&file)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("journal_size_limit", LOG_BYTES)
            .thread_name(|_| "store-writer".to_owned());
        let writer = pool()
            .max_connections(1)
            .after_release(|connection, _| Box::pin(is_usable(connection)));
        let writer = writer.connect_with(writing).await.map_err(failed)?;
        let migrated = async { migrate::migrate(&mut *writer.acquire().await?, MIGRATIONS).await };
        let migrated = migrated
            .await
            .map_err(|error| Trouble::of_migration(&dir, error).while_doing(doing()))?;
        let readers = pool().max_connections(READERS).connect_lazy_with(reading(&file));
        let store = Self {
            dir,
            writer,
            readers,
            migrated,
            lock: Mutex::new(Some(lock)),
        };
        match store.free_leases().await {
            Ok(()) => Ok(store),
            Err(stop) => Err(store.failed(stop, "free the leases of a process that is gone")),
        }
    }

    /// Opens the store in `dir` only to look at it, also while another process has it; nothing is made, migrated or changed, and writing
    /// fails.
    ///
    /// # Errors
    /// [`Error::Database`] says what is wrong with disk or file, and what to do.
    pub async fn look(dir: &Path) -> Result<Self, Error> {
        let dir = absolute(dir)?;
        let file = dir.join("epu.db");
        let doing = || format!("look at {}", file.display());
        // SQLite would say no more than that it cannot be opened.
        std::fs::metadata(&file).map_err(|error| Trouble::of_disk(&dir, error).while_doing(doing()))?;
        let readers = pool().max_connections(READERS).connect_with(reading(&file)).await;
        let readers = readers.map_err(|error| Trouble::of_database(&dir, error).while_doing(doing()))?;
        let writer = readers.clone();
        let store = Self {
            dir,
            writer,
            readers,
            migrated: Migrated { from: 0, to: 0 },
            lock: Mutex::new(None),
        };
        match store.version().await {
            Ok(version) => Ok(Self {
                migrated: Migrated {
                    from: version,
                    to: version,
                },
                ..store
            }),
            Err(stop) => Err(store.failed(stop, doing())),
        }
    }

    /// From which form the file was brought to that of this release when it was opened.
    #[must_use]
    pub fn migrated(&self) -> Migrated {
        self.migrated
    }

    async fn free_leases(&self) -> Result<(), Stop> {
        let mut tx = self.begin().await?;
        query(sql::FREE_LEASES).execute(&mut *tx).await?;
        query(sql::FORGET_EVERY_MEMBER).execute(&mut *tx).await?;
        self.commit(tx).await
    }

    /// Waits until what runs is done, closes the file tidily, and frees the directory; from then on every method fails. Without it
    /// the next open tidies up.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// The directory it was opened in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes the turn to write. It is taken before anything is read, so that what is read still holds at commit.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    async fn commit(&self, tx: Transaction<'static, Sqlite>) -> Result<(), Stop> {
        Ok(tx.commit().await?)
    }

    /// Everything as of one moment.
    async fn snapshot(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.readers.begin().await
    }

    fn shown_place(&self) -> String {
        format!("the SQLite file {}", self.dir.join("epu.db").display())
    }

    /// By what the operating system says, since it may be in use.
    #[expect(clippy::unused_async, reason = "the other database waits here")]
    async fn may_write(&self) -> Result<(), Error> {
        for path in [self.dir.join("epu.db"), self.dir.clone()] {
            rustix::fs::access(&path, rustix::fs::Access::WRITE_OK)
                .map_err(|error| Trouble::of_disk(&self.dir, error.into()).while_doing(format!("write to {}", path.display())))?;
        }
        Ok(())
    }

    fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    async fn bounded<T>(&self, _within: Duration, once: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
        once.await
    }

    /// Nobody else writes, so that nothing passes by itself but what the driver waits for already.
    #[expect(clippy::unused_async, reason = "the other database waits here")]
    async fn is_worth_another_try(&self, _stop: &Stop, _tried: u32) -> bool {
        false
    }

    async fn bytes(&self) -> Result<u64, Stop> {
        let mut bytes = 0;
        for name in ["epu.db", "epu.db-wal"] {
            match tokio::fs::metadata(self.dir.join(name)).await {
                Ok(found) => bytes += found.len(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Stop::Disk(error)),
            }
        }
        Ok(bytes)
    }

    /// The newest migration that the file has; 0 when it is empty.
    pub(crate) async fn version(&self) -> Result<i64, Stop> {
        if query(HAS_MIGRATIONS).fetch_optional(&self.readers).await?.is_none() {
            return Ok(0);
        }
        Ok(query(sql::VERSION).fetch_one(&self.readers).await?.try_get(0)?)
    }

    /// Says what was being done.
    fn failed(&self, stop: Stop, doing: impl Into<String>) -> Error {
        match stop {
            Stop::Said(error) => error,
            Stop::Database(error) | Stop::Unsure(error) => Trouble::of_database(&self.dir, error).while_doing(doing),
            Stop::Disk(error) => Trouble::of_disk(&self.dir, error).while_doing(doing),
            Stop::Silent => Trouble::of_database(&self.dir, sqlx::Error::PoolTimedOut).while_doing(doing),
        }
    }
}

/// One that is absolute is never read as a URI, nor moved by a change of the working directory.
fn absolute(dir: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(dir).map_err(|error| Trouble::of_disk(dir, error).while_doing(format!("find the data directory {}", dir.display())))
}

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .busy_timeout(BUSY_FOR)
        .row_buffer_size(ROWS_AHEAD)
        .disable_statement_logging()
}

fn reading(file: &Path) -> SqliteConnectOptions {
    options(file).read_only(true).thread_name(|_| "store-reader".to_owned())
}

fn pool() -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .acquire_timeout(TURN_WITHIN)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

/// Whether the writing connection can be used again; if not, the next write gets a new one.
///
/// A full or failing disk makes SQLite take the transaction back by itself. The driver does not notice, believes itself in a
/// transaction, and would refuse every write from then on: without this a disk that was full once stays "full" until a restart.
async fn is_usable(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // The answer comes after whatever the transaction left to be done.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;
    use crate::contract::samples::{entry, events};
    use epu_core::code::Chain;
    use sqlx::{Row, query};

    async fn pragma(pool: &SqlitePool, name: &'static str) -> String {
        let row = query(name).fetch_one(pool).await.unwrap();
        row.try_get::<i64, _>(0).map_or_else(|_| row.get::<String, _>(0), |n| n.to_string())
    }

    #[tokio::test]
    async fn a_commit_waits_for_the_disk_and_readers_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).await.unwrap();
        assert_eq!(pragma(&store.writer, "PRAGMA journal_mode").await, "wal");
        assert_eq!(pragma(&store.writer, "PRAGMA synchronous").await, "2", "2 is FULL");
        assert_eq!(pragma(&store.writer, "PRAGMA busy_timeout").await, "5000");
        let written = query(sql::CHECK).execute(&store.readers).await;
        assert!(written.is_err(), "a reader wrote");
    }

    #[tokio::test]
    async fn a_full_disk_is_named_loses_nothing_and_passes() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).await.unwrap();
        let pages: i64 = pragma(&store.writer, "PRAGMA page_count").await.parse().unwrap();
        let limit = |pages: i64| sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
        query(limit(pages + 20)).execute(&store.writer).await.unwrap();
        let mut written = 0;
        let error = loop {
            let page = (written..written + 50).map(entry).collect();
            match store.append(page).await {
                Ok(()) => written += 50,
                Err(error) => break error,
            }
            assert!(written < 100_000, "the limit does not work");
        };
        let said = Chain(&error).to_string();
        let expected = format!(
            "write to the journal: no room is left; free some on the file system of {}, and it goes on by itself: ",
            dir.path().display()
        );
        assert!(said.starts_with(&expected), "{said}");
        let there: Vec<i64> = (0..written).collect();
        assert!(written > 0 && events(&store).await == there, "half of a write is there");
        query(limit(pages + 2_000)).execute(&store.writer).await.unwrap();
        store.append(vec![entry(written)]).await.expect("there is room again");
        assert_eq!(events(&store).await.len(), there.len() + 1);
    }

    #[tokio::test]
    async fn a_disk_that_becomes_read_only_is_named_and_reading_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).await.unwrap();
        store.append(vec![entry(1)]).await.unwrap();
        query("PRAGMA query_only = TRUE").execute(&store.writer).await.unwrap();
        let said = Chain(&store.check().await.unwrap_err()).to_string();
        assert!(said.starts_with("write to the store: it may not be written to; make "), "{said}");
        assert_eq!(events(&store).await, [1]);
        query("PRAGMA query_only = FALSE").execute(&store.writer).await.unwrap();
        store.check().await.expect("it can be written to again");
    }

    #[tokio::test]
    async fn another_program_that_holds_the_file_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).await.unwrap();
        let other = SqlitePool::connect_with(SqliteConnectOptions::new().filename(dir.path().join("epu.db")))
            .await
            .unwrap();
        let held = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let later = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            held.rollback().await.unwrap();
        };
        let (written, ()) = tokio::join!(store.append(vec![entry(1)]), later);
        written.expect("it waits for a short while");
    }

    #[tokio::test]
    async fn what_is_dropped_half_way_is_taken_back_and_others_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).await.unwrap();
        for micros in [0, 50, 200, 500, 1_000, 3_000] {
            let large = (0..2_000).map(entry).collect();
            let dropped = tokio::time::timeout(Duration::from_micros(micros), store.append(large)).await;
            let there = events(&store).await.len();
            assert!(there.is_multiple_of(2_000), "half of a write is there");
            assert!(dropped.is_err() || there > 0, "it was said to be written");
        }
        store.append(vec![entry(1)]).await.expect("the turn to write was given back");
    }

    /// Otherwise one page of a long journal would read all of it.
    #[tokio::test]
    async fn what_is_asked_often_is_found_by_an_index() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).await.unwrap();
        let mut expected = vec![
            (sql::LIVE_INSTANCES, "USING INDEX instances_state"),
            (sql::RETIRE_INSTANCES, "USING INDEX instances_ended (state_since<?)"),
            (sql::RETIRE_JOURNAL, "USING COVERING INDEX journal_at (at<?)"),
            (sql::RETIRE_LAUNCHES, "USING INDEX launches_accepted (accepted_at<?)"),
            (sql::RETIRE_LAUNCHES, "USING COVERING INDEX instances_launch (launch=?)"),
            (sql::OPEN_LAUNCHES, "USING COVERING INDEX instances_launch (launch=? AND state<?)"),
            (sql::FORGET_OUTBOX, "USING INDEX outbox_pool (pool=?)"),
        ];
        for newest in [false, true] {
            expected.extend([
                (sql::journal(newest, false, false), "USING INTEGER PRIMARY KEY (rowid>?)"),
                (
                    sql::journal(newest, true, false),
                    "USING INDEX journal_pool (pool=? AND sequence>?)",
                ),
                (
                    sql::journal(newest, false, true),
                    "USING INDEX journal_instance (instance=? AND sequence>?)",
                ),
                (sql::journal(newest, true, true), "USING INDEX journal_"),
            ]);
        }
        for (statement, way) in expected {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
            let plan = sqlx::raw_sql(explain).fetch_all(&store.readers).await.unwrap();
            let plan: Vec<String> = plan.iter().map(|row| row.get(3)).collect();
            assert!(plan.iter().any(|step| step.contains(way)), "{statement}\n{plan:#?}");
            assert!(
                !statement.contains("FROM journal") || !plan.iter().any(|step| step.contains("TEMP B-TREE")),
                "{statement}\n{plan:#?}"
            );
        }
    }

    /// As a thread does that is just starting another process: until that becomes its own program it has every file open.
    #[tokio::test]
    async fn closed_it_is_free_though_somebody_else_has_the_lock_file_open() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).await.unwrap();
        let other = store.lock.lock().unwrap().as_ref().unwrap().shared();
        store.close().await;
        SqliteStore::open(dir.path()).await.expect("it is free").close().await;
        drop(other);
    }

    #[tokio::test]
    async fn closed_it_says_so_and_the_directory_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).await.unwrap();
        store.close().await;
        let said = Chain(&store.check().await.unwrap_err()).to_string();
        assert!(said.starts_with("write to the store: the store was closed"), "{said}");
        SqliteStore::open(dir.path()).await.expect("it is free");
        store.close().await;
    }
}
