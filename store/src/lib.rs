//! What survives a restart.
//!
//! A [`Store`] keeps pools, decisions and outbox (written by the controller), launches and instances (written by the provisioner)
//! and the journal (appended to by each). Every method is one transaction: it happens whole or not at all, and what it wrote
//! survives a power cut once it returns. One contract suite, [`contract`], runs against every implementation.
//!
//! [`SqliteStore`] is the one for a single machine; [`MemoryStore`] is for simulation, where real I/O would let virtual time run
//! away; [`Metered`] measures either.

mod any;
pub mod contract;
mod directory;
mod memory;
mod metrics;
mod migrate;
pub mod portable;
mod postgres;
mod row;
mod sql;
mod sqlite;
mod stop;
mod tables;
mod trouble;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::instance::Instance;
use epu_core::journal::Entry;
use epu_core::launch::Launch;
use epu_core::lease::{Domain, LeaseAsk, Standing, Term};
use epu_core::pool::Pool;
use epu_core::request::Request;
use epu_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub use any::{AnyStore, Place};
pub use memory::MemoryStore;
pub use metrics::{Metered, Metrics};
pub use migrate::Migrated;
pub use postgres::{PgSettings, PgStore};
pub use sqlite::SqliteStore;

/// What went wrong in the store. The text says what was being done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It exists already with another content.
    #[error("{0} exists already")]
    Exists(String),
    /// It was changed by somebody else meanwhile.
    #[error("{0} was changed meanwhile")]
    Conflict(String),
    /// Somebody else leads meanwhile: what was asked for under this term is not done.
    #[error("the term of {0} is over")]
    Deposed(Term),
    /// The installation is closed: no launch is recorded.
    #[error("the installation is closed by teardown")]
    Closed,
    /// Somebody else uses this store.
    #[error("{what} is in use by {holder}; end it first, or choose another data-dir")]
    InUse {
        /// What.
        what: String,
        /// By whom, as far as known.
        holder: String,
    },
    /// The database did not do it.
    #[error("{doing}")]
    Database {
        /// What was being done.
        doing: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record cannot be read.
    #[error("read {what}: {why}")]
    Corrupt {
        /// Which.
        what: String,
        /// Why not.
        why: String,
    },
}

/// What a controller remembers of a pool between decisions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PoolMemory {
    /// The size aimed at.
    pub target: Option<u32>,
    /// Which engine the memory is of, such as `keep/1`.
    pub engine: String,
    /// What the engine remembers.
    pub memory: Value,
    /// What the guardrails remember: cooldowns, breakers, the stabilization window.
    pub guards: Value,
}

/// A command that is to reach the provisioner, kept until it is accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Which; a UUID version 7, so that they sort by time.
    pub id: Uuid,
    /// Which pool's.
    pub pool: PoolName,
    /// The command.
    pub request: Request,
    /// When it was decided on.
    pub since: Timestamp,
}

/// What one decision changes, all at once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DecisionCommit {
    /// Under which term; when it is over, nothing is written. None: whoever writes has the store to itself.
    pub term: Option<Term>,
    /// What is remembered from now on; none leaves it.
    pub memory: Option<PoolMemory>,
    /// Commands to send.
    pub outbox: Vec<Outgoing>,
    /// What to remember of it.
    pub journal: Vec<Entry>,
}

/// What the provisioner changes, all at once.
#[derive(Debug, Clone, Default)]
pub struct ProvisionCommit {
    /// Under which term; when it is over, nothing is written. None: whoever writes has the store to itself.
    pub term: Option<Term>,
    /// Terms of others on whose orders something in it was done; when one is over, nothing is written either.
    pub also: Vec<Term>,
    /// Instances as they are from now on. Each must be one version above what is stored, or new.
    pub instances: Vec<Arc<Instance>>,
    /// Launches as they are from now on.
    pub launches: Vec<Launch>,
    /// What to remember of it.
    pub journal: Vec<Entry>,
}

/// Something else that is kept under a name, such as what old clients call a domain definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// What kind of thing.
    pub kind: String,
    /// Which one.
    pub name: String,
    /// Grows by one with every change, from 1.
    pub revision: u64,
    /// What it says.
    pub body: Value,
}

/// Which journal entries to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalQuery {
    /// After this sequence number; none: the newest ones.
    pub after: Option<i64>,
    /// Of this pool only.
    pub pool: Option<PoolName>,
    /// About this instance only.
    pub instance: Option<InstanceId>,
    /// How many at the most.
    pub limit: u32,
}

/// How much there is, for status and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Instance records.
    pub instances: u64,
    /// Journal entries.
    pub journal: u64,
    /// Bytes, as far as the store can tell.
    pub bytes: u64,
}

/// Keeps records.
#[async_trait]
pub trait Store: Send + Sync {
    // ---- installation
    /// The value kept under `key`, after keeping `value` there if there was none: the installation's id and keys are made once.
    ///
    /// # Errors
    /// When the database fails.
    async fn keep(&self, key: &str, value: &str) -> Result<String, Error>;
    /// Whether the installation is closed.
    ///
    /// # Errors
    /// When the database fails.
    async fn closed(&self) -> Result<bool, Error>;
    /// Closes or opens it, as long as the term stands.
    ///
    /// # Errors
    /// [`Error::Deposed`], or when the database fails.
    async fn set_closed(&self, closed: bool, term: Option<Term>, journal: Vec<Entry>) -> Result<(), Error>;

    // ---- who leads what
    /// Renews, takes and gives back leases, all in one transaction, and says how things stand then. Time is the store's own. A member that
    /// leads nothing is told of the members alone.
    ///
    /// # Errors
    /// When the database fails; then nothing is known of what became of it.
    async fn lease(&self, ask: LeaseAsk) -> Result<Standing, Error>;
    /// A member goes: what it has is free from now on.
    ///
    /// # Errors
    /// When the database fails.
    async fn leave(&self, member: &str) -> Result<(), Error>;
    /// How things stand.
    ///
    /// # Errors
    /// When the database fails.
    async fn standing(&self) -> Result<Standing, Error>;
    /// Waits until no write under a term of this domain is under way any more, also one whose writer gave up waiting for its reply:
    /// what is read afterwards is what came of it.
    ///
    /// # Errors
    /// When the database fails, or such a write does not end in time; then nothing is known yet.
    async fn settle(&self, domain: Domain) -> Result<(), Error>;

    // ---- documents
    /// Every document of a kind, by name.
    ///
    /// # Errors
    /// When the database fails or a record cannot be read.
    async fn documents(&self, kind: &str) -> Result<Vec<Document>, Error>;
    /// Keeps a document: new with revision 1, or one revision above what is stored.
    ///
    /// # Errors
    /// [`Error::Conflict`] (nothing is kept) when it is not.
    async fn put_document(&self, document: &Document, journal: Vec<Entry>) -> Result<(), Error>;
    /// Forgets a document. Forgetting one that is not there is fine.
    ///
    /// # Errors
    /// When the database fails.
    async fn forget_document(&self, kind: &str, name: &str, journal: Vec<Entry>) -> Result<(), Error>;

    // ---- controller
    /// Every pool.
    ///
    /// # Errors
    /// When the database fails or a record cannot be read.
    async fn pools(&self) -> Result<Vec<Pool>, Error>;
    /// The revision of every pool: little to read, to find out which changed.
    ///
    /// # Errors
    /// When the database fails or a record cannot be read.
    async fn pool_revisions(&self) -> Result<BTreeMap<PoolName, u64>, Error>;
    /// Keeps pools as they are from now on. Each must be new with revision 1, or one revision above what is stored.
    ///
    /// # Errors
    /// [`Error::Conflict`] (nothing is kept) when one is not.
    async fn put_pools(&self, pools: &[Pool], journal: Vec<Entry>) -> Result<(), Error>;
    /// Forgets a pool that is at this revision, with its memory and outbox. Forgetting one that is not there is fine, and nothing is
    /// journalled.
    ///
    /// # Errors
    /// [`Error::Deposed`]; [`Error::Conflict`] when it is at another revision: it was changed meanwhile, or is another of the same
    /// name. Then nothing is forgotten.
    async fn forget_pool(&self, pool: &PoolName, revision: u64, term: Option<Term>, journal: Vec<Entry>) -> Result<(), Error>;
    /// What is remembered of each pool.
    ///
    /// # Errors
    /// When the database fails or a record cannot be read.
    async fn memories(&self) -> Result<Vec<(PoolName, PoolMemory)>, Error>;
    /// Writes a decision: memory, commands, journal.
    ///
    /// # Errors
    /// [`Error::Deposed`], or when the database fails; then nothing was written.
    async fn commit_decision(&self, pool: &PoolName, commit: DecisionCommit) -> Result<(), Error>;
    /// Commands not yet accepted, oldest first; those of one moment in the order in which they were given.
    ///
    /// # Errors
    /// When the database fails or a record cannot be read.
    async fn outbox(&self) -> Result<Vec<Outgoing>, Error>;
    /// Commands that were accepted; forgetting one twice is fine.
    ///
    /// # Errors
    /// When the database fails.
    async fn accepted(&self, ids: &[Uuid]) -> Result<(), Error>;

    // ---- provisioner
    /// Records a launch with its instances, reading in the same transaction whether the installation is closed and whether each of
    /// the terms (that of whoever records, and that of whoever asked) still stands. False when the launch was already recorded, which
    /// then stays as it is, also when the installation was closed since; nothing is journalled.
    ///
    /// # Errors
    /// [`Error::Deposed`]; [`Error::Closed`]; [`Error::Exists`] when one of the instance ids belongs to another launch.
    async fn record_launch(&self, launch: &Launch, instances: &[Arc<Instance>], journal: Vec<Entry>, terms: &[Term])
    -> Result<bool, Error>;
    /// Writes changes of instances and launches.
    ///
    /// # Errors
    /// [`Error::Deposed`]; [`Error::Conflict`] when an instance is not one version above what is stored. Then nothing is written.
    async fn commit_provision(&self, commit: ProvisionCommit) -> Result<(), Error>;
    /// Every instance, or only the live ones, by id.
    ///
    /// # Errors
    /// When the database fails or a record cannot be read.
    async fn instances(&self, live_only: bool) -> Result<Vec<Instance>, Error>;
    /// One instance.
    ///
    /// # Errors
    /// When the database fails or the record cannot be read.
    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, Error>;
    /// Launches with a live instance or without an outcome.
    ///
    /// # Errors
    /// When the database fails or a record cannot be read.
    async fn open_launches(&self) -> Result<Vec<Launch>, Error>;
    /// One launch.
    ///
    /// # Errors
    /// When the database fails or the record cannot be read.
    async fn launch(&self, id: LaunchId) -> Result<Option<Launch>, Error>;

    // ---- journal and retention
    /// Adds entries.
    ///
    /// # Errors
    /// When the database fails.
    async fn append(&self, journal: Vec<Entry>) -> Result<(), Error>;
    /// Entries in order of their sequence.
    ///
    /// # Errors
    /// When the database fails or a record cannot be read.
    async fn journal(&self, query: JournalQuery) -> Result<Vec<Entry>, Error>;
    /// Forgets ended instances, their launches and journal entries from before `before`, the oldest first and at most `limit` of each,
    /// and says how many records went. A launch goes when it has an outcome and no instance of it is left.
    ///
    /// # Errors
    /// When the database fails.
    async fn retire(&self, before: Timestamp, limit: u32) -> Result<u64, Error>;
    /// How much there is.
    ///
    /// # Errors
    /// When the database fails.
    async fn size(&self) -> Result<Size, Error>;
    /// Whether it can be written to right now.
    ///
    /// # Errors
    /// When it cannot, with why.
    async fn check(&self) -> Result<(), Error>;
}
