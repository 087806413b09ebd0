//! A store that does not give back what was written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::instance::Instance;
use epu_core::journal::Entry;
use epu_core::launch::Launch;
use epu_core::lease::{Domain, LeaseAsk, Standing, Term};
use epu_core::pool::Pool;
use epu_core::time::Timestamp;
use epu_store::{DecisionCommit, Document, Error, JournalQuery, MemoryStore, Outgoing, PoolMemory, ProvisionCommit, Size, Store};
use uuid::Uuid;

/// Passes everything on, but forgets launches while it is told to.
#[derive(Debug)]
pub(crate) struct Forgetful {
    pub(crate) inner: Arc<MemoryStore>,
    pub(crate) forgets: AtomicBool,
}

#[async_trait]
impl Store for Forgetful {
    async fn keep(&self, key: &str, value: &str) -> Result<String, Error> {
        self.inner.keep(key, value).await
    }

    async fn closed(&self) -> Result<bool, Error> {
        self.inner.closed().await
    }

    async fn set_closed(&self, closed: bool, term: Option<Term>, journal: Vec<Entry>) -> Result<(), Error> {
        self.inner.set_closed(closed, term, journal).await
    }

    async fn lease(&self, ask: LeaseAsk) -> Result<Standing, Error> {
        self.inner.lease(ask).await
    }

    async fn leave(&self, member: &str) -> Result<(), Error> {
        self.inner.leave(member).await
    }

    async fn standing(&self) -> Result<Standing, Error> {
        self.inner.standing().await
    }

    async fn settle(&self, domain: Domain) -> Result<(), Error> {
        self.inner.settle(domain).await
    }

    async fn documents(&self, kind: &str) -> Result<Vec<Document>, Error> {
        self.inner.documents(kind).await
    }

    async fn put_document(&self, document: &Document, journal: Vec<Entry>) -> Result<(), Error> {
        self.inner.put_document(document, journal).await
    }

    async fn forget_document(&self, kind: &str, name: &str, journal: Vec<Entry>) -> Result<(), Error> {
        self.inner.forget_document(kind, name, journal).await
    }

    async fn pools(&self) -> Result<Vec<Pool>, Error> {
        self.inner.pools().await
    }

    async fn pool_revisions(&self) -> Result<BTreeMap<PoolName, u64>, Error> {
        self.inner.pool_revisions().await
    }

    async fn put_pools(&self, pools: &[Pool], journal: Vec<Entry>) -> Result<(), Error> {
        self.inner.put_pools(pools, journal).await
    }

    async fn forget_pool(&self, pool: &PoolName, revision: u64, term: Option<Term>, journal: Vec<Entry>) -> Result<(), Error> {
        self.inner.forget_pool(pool, revision, term, journal).await
    }

    async fn memories(&self) -> Result<Vec<(PoolName, PoolMemory)>, Error> {
        self.inner.memories().await
    }

    async fn commit_decision(&self, pool: &PoolName, commit: DecisionCommit) -> Result<(), Error> {
        self.inner.commit_decision(pool, commit).await
    }

    async fn outbox(&self) -> Result<Vec<Outgoing>, Error> {
        self.inner.outbox().await
    }

    async fn accepted(&self, ids: &[Uuid]) -> Result<(), Error> {
        self.inner.accepted(ids).await
    }

    async fn record_launch(
        &self,
        launch: &Launch,
        instances: &[Arc<Instance>],
        journal: Vec<Entry>,
        terms: &[Term],
    ) -> Result<bool, Error> {
        self.inner.record_launch(launch, instances, journal, terms).await
    }

    async fn commit_provision(&self, commit: ProvisionCommit) -> Result<(), Error> {
        self.inner.commit_provision(commit).await
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
        let kept = self.inner.launch(id).await?;
        Ok(kept.filter(|_| !self.forgets.load(Ordering::Relaxed)))
    }

    async fn append(&self, journal: Vec<Entry>) -> Result<(), Error> {
        self.inner.append(journal).await
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
