//! The store as the services of a world have it: what they write is shown to the watch and put into the transcript, and it fails when
//! it is told to. Each process has a [`Line`] of its own to it, which can be cut, slow or unreliable while the others' are not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::instance::Instance;
use epu_core::journal::{Entry, Event};
use epu_core::launch::Launch;
use epu_core::lease::{Domain, LeaseAsk, Standing, Term};
use epu_core::pool::Pool;
use epu_core::time::Timestamp;
use epu_store::{DecisionCommit, Document, Error, JournalQuery, MemoryStore, Outgoing, PoolMemory, ProvisionCommit, Size, Store};
use uuid::Uuid;

use crate::lock;
use crate::process::Process;
use crate::transcript::Transcript;
use crate::watch::Watch;

mod line;
mod trouble;

pub use line::Line;
pub use trouble::Trouble;
use trouble::Troubles;

/// A store that is watched.
#[derive(Debug)]
pub struct Ledger {
    inner: Arc<MemoryStore>,
    watch: Arc<Watch>,
    transcript: Arc<Transcript>,
    /// So many of the next writes succeed and are said to have failed.
    replies_lost: Mutex<u32>,
    /// How long each write takes.
    commits_take: Mutex<Duration>,
    troubles: Troubles,
}

impl Ledger {
    /// Watches what is written to this store. What goes wrong with it by chance does so by this seed.
    #[must_use]
    pub fn new(inner: Arc<MemoryStore>, watch: Arc<Watch>, transcript: Arc<Transcript>, seed: u64) -> Self {
        Self {
            inner,
            watch,
            transcript,
            replies_lost: Mutex::default(),
            commits_take: Mutex::default(),
            troubles: Troubles::seeded(seed),
        }
    }

    /// Something goes wrong from now on, between the store and one process or all of them. Gives the number to end it by.
    pub fn begin(&self, whose: Option<Process>, trouble: Trouble) -> u64 {
        self.troubles.begin(whose, trouble)
    }

    /// That is over; whatever else goes wrong goes on to.
    pub fn end(&self, number: u64) {
        self.troubles.end(number);
    }

    /// Whether anything goes wrong with it for anybody.
    #[must_use]
    pub fn is_troubled(&self) -> bool {
        self.troubles.are_there()
    }

    /// Whether nothing at all that a process asks of it is done.
    #[must_use]
    pub fn is_barred(&self, process: Process) -> bool {
        self.troubles.bar(process)
    }

    /// So many of the next writes of launches, instances and decisions succeed and are said to have failed.
    pub fn lose_replies(&self, writes: u32) {
        *lock(&self.replies_lost) = writes;
    }

    /// Each write of the controllers' and each lease takes so long from now on.
    pub fn take_for_each(&self, commit: Duration) {
        *lock(&self.commits_take) = commit;
    }

    async fn commit(&self) {
        let takes = *lock(&self.commits_take);
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
    }

    fn reply<T>(&self, doing: &str, answer: T) -> Result<T, Error> {
        let mut lost = lock(&self.replies_lost);
        if *lost == 0 {
            return Ok(answer);
        }
        *lost -= 1;
        drop(lost);
        self.transcript.note(format_args!("the store's reply to {doing} is lost"));
        Err(Error::Database {
            doing: doing.to_owned(),
            source: "the connection was lost before the reply".into(),
        })
    }

    fn note(&self, journal: &[Entry]) {
        for entry in journal {
            self.transcript.note(line(entry));
        }
    }
}

/// A journal entry in one line.
#[must_use]
pub fn line(entry: &Entry) -> String {
    let pool = entry.pool.as_ref().map(|pool| format!(" {pool}")).unwrap_or_default();
    let instance = entry.instance.map(|id| format!(" {}", short(id))).unwrap_or_default();
    let what = if let Event::Decided(decided) = &entry.event {
        let why: Vec<&str> = decided
            .reasons
            .iter()
            .chain(&decided.suppressed)
            .map(|reason| reason.text.as_str())
            .collect();
        let actions = serde_json::to_string(&decided.actions).unwrap_or_default();
        format!("{} of {}: {} {actions}", decided.target, decided.desired, why.join("; "))
    } else {
        serde_json::to_string(&entry.event).unwrap_or_default()
    };
    format!("{}{pool}{instance} {} {what}", entry.who, entry.event.kind())
}

/// The end of an id, enough to tell instances apart.
#[must_use]
pub fn short(id: InstanceId) -> String {
    let text = id.to_string();
    text[text.len().saturating_sub(6)..].to_owned()
}

#[async_trait]
impl Store for Ledger {
    async fn keep(&self, key: &str, value: &str) -> Result<String, Error> {
        self.inner.keep(key, value).await
    }

    async fn closed(&self) -> Result<bool, Error> {
        self.inner.closed().await
    }

    async fn set_closed(&self, closed: bool, term: Option<Term>, journal: Vec<Entry>) -> Result<(), Error> {
        self.inner.set_closed(closed, term, journal.clone()).await?;
        self.watch.closed(closed);
        self.note(&journal);
        Ok(())
    }

    async fn pools(&self) -> Result<Vec<Pool>, Error> {
        self.inner.pools().await
    }

    async fn put_pools(&self, pools: &[Pool], journal: Vec<Entry>) -> Result<(), Error> {
        self.commit().await;
        self.inner.put_pools(pools, journal.clone()).await?;
        self.watch.pools(pools);
        self.note(&journal);
        Ok(())
    }

    async fn forget_pool(&self, pool: &PoolName, revision: u64, term: Option<Term>, journal: Vec<Entry>) -> Result<(), Error> {
        self.inner.forget_pool(pool, revision, term, journal.clone()).await?;
        self.watch.forgotten(pool);
        self.note(&journal);
        Ok(())
    }

    async fn memories(&self) -> Result<Vec<(PoolName, PoolMemory)>, Error> {
        self.inner.memories().await
    }

    async fn commit_decision(&self, pool: &PoolName, commit: DecisionCommit) -> Result<(), Error> {
        self.commit().await;
        let journal = commit.journal.clone();
        self.inner.commit_decision(pool, commit).await?;
        self.watch.decision(pool, &journal);
        self.note(&journal);
        self.reply("write a decision", ())
    }

    async fn outbox(&self) -> Result<Vec<Outgoing>, Error> {
        self.inner.outbox().await
    }

    async fn accepted(&self, ids: &[Uuid]) -> Result<(), Error> {
        self.commit().await;
        self.inner.accepted(ids).await
    }

    async fn settle(&self, domain: Domain) -> Result<(), Error> {
        self.inner.settle(domain).await
    }

    async fn lease(&self, ask: LeaseAsk) -> Result<Standing, Error> {
        self.commit().await;
        self.inner.lease(ask).await
    }

    async fn leave(&self, member: &str) -> Result<(), Error> {
        self.inner.leave(member).await
    }

    async fn standing(&self) -> Result<Standing, Error> {
        self.inner.standing().await
    }

    async fn documents(&self, kind: &str) -> Result<Vec<Document>, Error> {
        self.inner.documents(kind).await
    }

    async fn put_document(&self, document: &Document, journal: Vec<Entry>) -> Result<(), Error> {
        self.inner.put_document(document, journal.clone()).await?;
        self.note(&journal);
        Ok(())
    }

    async fn forget_document(&self, kind: &str, name: &str, journal: Vec<Entry>) -> Result<(), Error> {
        self.inner.forget_document(kind, name, journal.clone()).await?;
        self.note(&journal);
        Ok(())
    }

    async fn pool_revisions(&self) -> Result<BTreeMap<PoolName, u64>, Error> {
        self.inner.pool_revisions().await
    }

    async fn record_launch(
        &self,
        launch: &Launch,
        instances: &[Arc<Instance>],
        journal: Vec<Entry>,
        terms: &[Term],
    ) -> Result<bool, Error> {
        let new = self.inner.record_launch(launch, instances, journal.clone(), terms).await?;
        if new {
            self.watch.launch(launch, instances);
            self.note(&journal);
        }
        self.reply("record a launch", new)
    }

    async fn commit_provision(&self, commit: ProvisionCommit) -> Result<(), Error> {
        let (instances, journal) = (commit.instances.clone(), commit.journal.clone());
        self.inner.commit_provision(commit).await?;
        self.watch.instances(&instances);
        self.note(&journal);
        self.reply("write changes of instances", ())
    }

    async fn instances(&self, live_only: bool) -> Result<Vec<Instance>, Error> {
        self.inner.instances(live_only).await
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, Error> {
        self.inner.instance(id).await
    }

    async fn open_launches(&self) -> Result<Vec<Launch>, Error> {
        self.inner.open_launches().await
    }

    async fn launch(&self, id: LaunchId) -> Result<Option<Launch>, Error> {
        self.inner.launch(id).await
    }

    async fn append(&self, journal: Vec<Entry>) -> Result<(), Error> {
        self.commit().await;
        self.inner.append(journal.clone()).await?;
        self.watch.journal(&journal);
        self.note(&journal);
        Ok(())
    }

    async fn journal(&self, query: JournalQuery) -> Result<Vec<Entry>, Error> {
        self.inner.journal(query).await
    }

    async fn retire(&self, before: Timestamp, limit: u32) -> Result<u64, Error> {
        self.inner.retire(before, limit).await
    }

    async fn size(&self) -> Result<Size, Error> {
        self.inner.size().await
    }

    async fn check(&self) -> Result<(), Error> {
        self.inner.check().await
    }
}
