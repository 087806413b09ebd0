//! The store of several processes: a PostgreSQL database.
//!
//! A method is one transaction at READ COMMITTED, and what must not change meanwhile is locked by name: a term's lease and the flag
//! `closed` are read `FOR SHARE`, so that a takeover or a teardown comes before or after a write and never in the middle; whoever adds
//! to the journal takes turns (see `batch`).
//!
//! **When the server goes.** Nothing half done can stay: it takes a transaction back whose connection is gone. A method whose
//! connection broke before the commit, or that lost to another transaction (a deadlock, a failed serialization), is tried again a few
//! times; one whose commit was not answered is an error that says that it is not known. Every wait has a limit, on this side, since a
//! server that hangs keeps its connections; and the server ends transactions of ours that go silent, so that a frozen process keeps
//! nobody out. Connections are made anew by themselves.

mod batch;
mod settings;
mod trouble;

#[expect(clippy::duplicate_mod, reason = "one text, compiled once for each database")]
#[path = "leases.rs"]
mod leases;
#[expect(clippy::duplicate_mod, reason = "one text, compiled once for each database")]
#[path = "records.rs"]
mod records;
#[expect(clippy::duplicate_mod, reason = "one text, compiled once for each database")]
#[path = "transfer.rs"]
mod transfer;

use std::time::Duration;

use epu_core::instance::Instance;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection as _, PgConnection, Row as _, Transaction, query};

use crate::migrate::{self, Migrated, Step};
use crate::stop::Stop;
use crate::{Error, sql};
pub use settings::PgSettings;
use trouble::Trouble;

type Own = PgStore;
type Db = sqlx::Postgres;
type Arguments = sqlx::postgres::PgArguments;
type Connection = PgConnection;
type Row = sqlx::postgres::PgRow;

const MIGRATIONS: &[Step] = &[
    (1, "first", include_str!("../migrations/postgres/0001_first.sql")),
    (2, "leases", include_str!("../migrations/postgres/0002_leases.sql")),
];
/// How long one try of a method may take. Too short: a busy server looks broken. Too long: a broken one looks busy.
const WITHIN: Duration = Duration::from_secs(8);
/// The same for reading everything there is; each row has to come within [`WITHIN`] of the one before.
const ALL_WITHIN: Duration = Duration::from_secs(120);
/// How long to wait for a connection. With [`WITHIN`] it makes up what a caller waits.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);
/// How long another process may take to migrate.
const MIGRATED_WITHIN: Duration = Duration::from_secs(60);
/// A connection that was not used for so long is tried before it is used. Too short: a round trip more. Too long: an error more after
/// a server was restarted.
const TRIED_AFTER: Duration = Duration::from_secs(1);
/// How long that may take.
const TRIED_WITHIN: Duration = Duration::from_secs(2);
/// How often a method is tried. Each failure has its own reason, so that a few are enough.
const TRIES: u32 = 4;
/// How long to wait before the next try, at first; twice as long each time.
const NEXT_TRY: Duration = Duration::from_millis(10);

/// The database's own time, in milliseconds: leases run out by it alone.
const NOW: &str = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
/// As [`sql::LEASE`]; whoever wants to change the lease waits until this transaction ends.
const STAND: &str = "SELECT holder, epoch FROM leases WHERE name = $1 FOR SHARE";
/// Waits until every transaction that has read the lease by [`STAND`] ends, also one whose client is gone: its commit may be on its way.
const SETTLE: &str = "SELECT name FROM leases WHERE name = $1 FOR UPDATE";
/// As [`sql::CLOSED`]; whoever wants to change it waits until this transaction ends.
const CLOSED_MEANWHILE: &str = "SELECT closed FROM installation WHERE id = 1 FOR SHARE";
/// How long one step of moving everything may take.
const TRANSFERRED_WITHIN: Duration = Duration::from_secs(120);
/// For moving everything: our limits on a statement and between two are for records, not for tables and files.
const PATIENTLY: &str = "SET LOCAL statement_timeout = 120000; SET LOCAL idle_in_transaction_session_timeout = 120000";
/// Whoever else looks or writes waits until all is there; and nobody cuts it short.
const LOCK_ALL: Option<&str> = Some(
    "SET LOCAL statement_timeout = 120000; SET LOCAL idle_in_transaction_session_timeout = 120000; \
     LOCK TABLE installation, kept, pools, memories, outbox, launches, instances, documents, leases, journal IN EXCLUSIVE MODE",
);
/// The one row that an empty store has.
const CLEAR: &str = "DELETE FROM installation";
const HAS_MIGRATIONS: &str = "SELECT to_regclass('_sqlx_migrations')::text";
const BYTES: &str = "SELECT pg_database_size(current_database())";

/// Keeps records in a PostgreSQL database that several processes share.
#[derive(Debug)]
pub struct PgStore {
    pool: PgPool,
    server: String,
}

impl PgStore {
    /// Connects, making or migrating what is there. Several processes may do so at once.
    ///
    /// # Errors
    /// [`Error::Database`] says what is wrong with the server or the address, and what to do; never with a password.
    pub async fn connect(settings: &PgSettings) -> Result<Self, Error> {
        let store = Self::connect_as_it_is(settings).await?;
        store.migrate().await?;
        Ok(store)
    }

    /// Connects and leaves everything as it is, for commands that only look.
    ///
    /// # Errors
    /// As [`PgStore::connect`].
    pub async fn connect_as_it_is(settings: &PgSettings) -> Result<Self, Error> {
        let options = settings.options()?;
        let server = settings::shown(&options);
        let pool = PgPoolOptions::new()
            .max_connections(settings.connections)
            .acquire_timeout(CONNECTED_WITHIN)
            .test_before_acquire(false)
            .before_acquire(|connection, known| {
                let unused = known.idle_for > TRIED_AFTER;
                Box::pin(async move { if unused { answers(connection).await } else { Ok(true) } })
            })
            .after_release(|connection, _| Box::pin(answers(connection)))
            .connect_lazy_with(options);
        let store = Self { pool, server };
        match store.pool.acquire().await {
            Ok(_) => Ok(store),
            Err(error) => Err(store.failed(Stop::Database(error), format!("connect to the database {}", store.server))),
        }
    }

    /// Brings the database to the form that this release uses, and says from which.
    ///
    /// # Errors
    /// [`Error::Database`] when it was made by a release that this one does not understand, or fails.
    pub async fn migrate(&self) -> Result<Migrated, Error> {
        let options = PgConnectOptions::clone(&self.pool.connect_options());
        let doing = || format!("migrate the database {}", self.server);
        let done = async {
            // On a connection of its own, since it waits long: for another process that migrates, and for large tables.
            let mut connection = options.connect().await?;
            let long = MIGRATED_WITHIN.as_millis();
            let patient =
                format!("SET statement_timeout = {long}; SET lock_timeout = {long}; SET idle_in_transaction_session_timeout = {long}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(patient)).execute(&mut connection).await?;
            let done = migrate::migrate(&mut connection, MIGRATIONS).await?;
            connection.close().await?;
            Ok(done)
        };
        match tokio::time::timeout(MIGRATED_WITHIN, done).await {
            Ok(done) => done.map_err(|error| Trouble::of_migration(&self.server, error).while_doing(doing())),
            Err(_) => Err(self.failed(Stop::Silent, doing())),
        }
    }

    /// Waits until what runs is done and closes every connection; from then on every method fails.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// The server and its database, for people: `host:port/database`.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The newest migration that the database has; 0 when it is empty.
    pub(crate) async fn version(&self) -> Result<i64, Stop> {
        let there: Option<String> = query(HAS_MIGRATIONS).fetch_one(&self.pool).await?.try_get(0)?;
        if there.is_none() {
            return Ok(0);
        }
        Ok(query(sql::VERSION).fetch_one(&self.pool).await?.try_get(0)?)
    }

    /// Everything as of one moment.
    async fn snapshot(&self) -> Result<Transaction<'static, sqlx::Postgres>, sqlx::Error> {
        let mut tx = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        sqlx::raw_sql(PATIENTLY).execute(&mut *tx).await?;
        Ok(tx)
    }

    fn shown_place(&self) -> String {
        format!("the PostgreSQL database {}", self.server)
    }

    async fn may_write(&self) -> Result<(), Error> {
        crate::Store::check(self).await
    }

    fn readers(&self) -> &PgPool {
        &self.pool
    }

    async fn begin(&self) -> Result<Transaction<'static, sqlx::Postgres>, sqlx::Error> {
        // Said, since a database may have been given another default.
        self.pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await
    }

    async fn commit(&self, tx: Transaction<'static, sqlx::Postgres>) -> Result<(), Stop> {
        tx.commit().await.map_err(|error| match trouble::refused(&error) {
            // The server said no: it took everything back.
            true => Stop::Database(error),
            false => Stop::Unsure(error),
        })
    }

    async fn bounded<T>(&self, within: Duration, once: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
        tokio::time::timeout(within, once).await.unwrap_or(Err(Stop::Silent))
    }

    /// Whether nothing was done and doing it again may help; after a while, if so.
    async fn is_worth_another_try(&self, stop: &Stop, tried: u32) -> bool {
        let Stop::Database(error) = stop else { return false };
        let again = tried + 1 < TRIES && trouble::may_pass(error);
        if again {
            tokio::time::sleep(NEXT_TRY * (1 << tried)).await;
        }
        again
    }

    /// There is no page for this database: rows cost little.
    #[expect(clippy::unused_async, reason = "the other database waits here")]
    async fn paged_instances(&self, _live_only: bool) -> Result<Option<Vec<Instance>>, Stop> {
        Ok(None)
    }

    async fn bytes(&self) -> Result<u64, Stop> {
        let bytes: i64 = query(BYTES).fetch_one(&self.pool).await?.try_get(0)?;
        Ok(u64::try_from(bytes).unwrap_or(0))
    }

    /// Says what was being done.
    fn failed(&self, stop: Stop, doing: impl Into<String>) -> Error {
        match stop {
            Stop::Said(error) => error,
            stop @ (Stop::Database(_) | Stop::Unsure(_) | Stop::Silent | Stop::Disk(_)) => {
                Trouble::of(&self.server, stop).while_doing(doing)
            }
        }
    }
}

/// Whether a connection answers at once; whatever a dropped transaction left to be done is done then. One that does not is closed,
/// or a network that swallows everything would keep it, and its place, for a quarter of an hour.
async fn answers(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let tried = tokio::time::timeout(TRIED_WITHIN, connection.ping()).await;
    tried.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut)).map(|()| true)
}
