//! How long writing takes and how often the store fails, measured around any store so that no implementation has to.
//!
//! A refusal (a conflict, a closed installation) is an answer, not a failure, and is not counted as one.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::instance::Instance;
use epu_core::journal::Entry;
use epu_core::launch::Launch;
use epu_core::lease::{Domain, LeaseAsk, Standing, Term};
use epu_core::pool::Pool;
use epu_core::time::Timestamp;
use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};
use uuid::Uuid;

use crate::{DecisionCommit, Document, Error, JournalQuery, Outgoing, PoolMemory, ProvisionCommit, Size, Store};

const WRITES: [&str; 15] = [
    "accepted",
    "append",
    "check",
    "commit_decision",
    "commit_provision",
    "forget_document",
    "forget_pool",
    "keep",
    "lease",
    "leave",
    "put_document",
    "put_pools",
    "record_launch",
    "retire",
    "set_closed",
];
const READS: [&str; 14] = [
    "closed",
    "documents",
    "instance",
    "instances",
    "journal",
    "launch",
    "memories",
    "open_launches",
    "outbox",
    "pool_revisions",
    "pools",
    "settle",
    "size",
    "standing",
];
/// From a tenth of a millisecond, below any disk's commit, to what a caller waits at most.
const SECONDS: [f64; 14] = [
    0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0,
];

/// What a store's metrics are.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// `epu_store_write_seconds{op}`
    pub write_seconds: HistogramVec,
    /// `epu_store_writes_total{op}`
    pub writes: IntCounterVec,
    /// `epu_store_failures_total{op}`
    pub failures: IntCounterVec,
}

impl Metrics {
    /// All at zero, and all there, so that the first failure is seen as an increase.
    ///
    /// # Errors
    /// Only when a name is not a metric's name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let metrics = Self {
            write_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "epu_store_write_seconds",
                    "How long a write took, done or not, waiting for its turn included.",
                )
                .buckets(SECONDS.to_vec()),
                &["op"],
            )?,
            writes: IntCounterVec::new(Opts::new("epu_store_writes_total", "Writes that were done."), &["op"])?,
            failures: IntCounterVec::new(
                Opts::new(
                    "epu_store_failures_total",
                    "Reads and writes that the store failed to do; refusals do not count.",
                ),
                &["op"],
            )?,
        };
        for op in WRITES {
            metrics.write_seconds.get_metric_with_label_values(&[op])?;
            metrics.writes.get_metric_with_label_values(&[op])?;
        }
        for op in WRITES.into_iter().chain(READS) {
            metrics.failures.get_metric_with_label_values(&[op])?;
        }
        Ok(metrics)
    }

    /// Each of them, to register.
    #[must_use]
    pub fn all(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.write_seconds.clone()),
            Box::new(self.writes.clone()),
            Box::new(self.failures.clone()),
        ]
    }
}

/// A store that is measured.
#[derive(Debug)]
pub struct Metered<S: Store + ?Sized> {
    inner: Arc<S>,
    metrics: Metrics,
}

impl<S: Store + ?Sized> Metered<S> {
    /// Measures `inner`.
    #[must_use]
    pub fn new(inner: Arc<S>, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }

    /// The store that is measured.
    #[must_use]
    pub fn inner(&self) -> &Arc<S> {
        &self.inner
    }

    async fn write<T>(&self, op: &'static str, doing: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        // Measures the machine and steers nothing, so that it need not follow the injected clock; a write that is given up counts too.
        let timer = self.metrics.write_seconds.with_label_values(&[op]).start_timer();
        let done = self.read(op, doing).await;
        drop(timer);
        if done.is_ok() {
            self.metrics.writes.with_label_values(&[op]).inc();
        }
        done
    }

    async fn read<T>(&self, op: &'static str, doing: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let done = doing.await;
        if let Err(Error::Database { .. } | Error::Corrupt { .. } | Error::InUse { .. }) = &done {
            self.metrics.failures.with_label_values(&[op]).inc();
        }
        done
    }
}

#[async_trait]
impl<S: Store + ?Sized> Store for Metered<S> {
    async fn keep(&self, key: &str, value: &str) -> Result<String, Error> {
        self.write("keep", self.inner.keep(key, value)).await
    }
    async fn closed(&self) -> Result<bool, Error> {
        self.read("closed", self.inner.closed()).await
    }
    async fn set_closed(&self, closed: bool, term: Option<Term>, journal: Vec<Entry>) -> Result<(), Error> {
        self.write("set_closed", self.inner.set_closed(closed, term, journal)).await
    }
    async fn pools(&self) -> Result<Vec<Pool>, Error> {
        self.read("pools", self.inner.pools()).await
    }
    async fn put_pools(&self, pools: &[Pool], journal: Vec<Entry>) -> Result<(), Error> {
        self.write("put_pools", self.inner.put_pools(pools, journal)).await
    }
    async fn forget_pool(&self, pool: &PoolName, revision: u64, term: Option<Term>, journal: Vec<Entry>) -> Result<(), Error> {
        let done = self.inner.forget_pool(pool, revision, term, journal);
        self.write("forget_pool", done).await
    }
    async fn settle(&self, domain: Domain) -> Result<(), Error> {
        self.read("settle", self.inner.settle(domain)).await
    }
    async fn memories(&self) -> Result<Vec<(PoolName, PoolMemory)>, Error> {
        self.read("memories", self.inner.memories()).await
    }
    async fn commit_decision(&self, pool: &PoolName, commit: DecisionCommit) -> Result<(), Error> {
        self.write("commit_decision", self.inner.commit_decision(pool, commit)).await
    }
    async fn outbox(&self) -> Result<Vec<Outgoing>, Error> {
        self.read("outbox", self.inner.outbox()).await
    }
    async fn accepted(&self, ids: &[Uuid]) -> Result<(), Error> {
        self.write("accepted", self.inner.accepted(ids)).await
    }
    async fn record_launch(
        &self,
        launch: &Launch,
        instances: &[Arc<Instance>],
        journal: Vec<Entry>,
        terms: &[Term],
    ) -> Result<bool, Error> {
        self.write("record_launch", self.inner.record_launch(launch, instances, journal, terms))
            .await
    }
    async fn lease(&self, ask: LeaseAsk) -> Result<Standing, Error> {
        self.write("lease", self.inner.lease(ask)).await
    }
    async fn leave(&self, member: &str) -> Result<(), Error> {
        self.write("leave", self.inner.leave(member)).await
    }
    async fn standing(&self) -> Result<Standing, Error> {
        self.read("standing", self.inner.standing()).await
    }
    async fn documents(&self, kind: &str) -> Result<Vec<Document>, Error> {
        self.read("documents", self.inner.documents(kind)).await
    }
    async fn put_document(&self, document: &Document, journal: Vec<Entry>) -> Result<(), Error> {
        self.write("put_document", self.inner.put_document(document, journal)).await
    }
    async fn forget_document(&self, kind: &str, name: &str, journal: Vec<Entry>) -> Result<(), Error> {
        self.write("forget_document", self.inner.forget_document(kind, name, journal)).await
    }
    async fn pool_revisions(&self) -> Result<BTreeMap<PoolName, u64>, Error> {
        self.read("pool_revisions", self.inner.pool_revisions()).await
    }
    async fn commit_provision(&self, commit: ProvisionCommit) -> Result<(), Error> {
        self.write("commit_provision", self.inner.commit_provision(commit)).await
    }
    async fn instances(&self, live_only: bool) -> Result<Vec<Instance>, Error> {
        self.read("instances", self.inner.instances(live_only)).await
    }
    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, Error> {
        self.read("instance", self.inner.instance(id)).await
    }
    async fn open_launches(&self) -> Result<Vec<Launch>, Error> {
        self.read("open_launches", self.inner.open_launches()).await
    }
    async fn launch(&self, id: LaunchId) -> Result<Option<Launch>, Error> {
        self.read("launch", self.inner.launch(id)).await
    }
    async fn append(&self, journal: Vec<Entry>) -> Result<(), Error> {
        self.write("append", self.inner.append(journal)).await
    }
    async fn journal(&self, query: JournalQuery) -> Result<Vec<Entry>, Error> {
        self.read("journal", self.inner.journal(query)).await
    }
    async fn retire(&self, before: Timestamp, limit: u32) -> Result<u64, Error> {
        self.write("retire", self.inner.retire(before, limit)).await
    }
    async fn size(&self) -> Result<Size, Error> {
        self.read("size", self.inner.size()).await
    }
    async fn check(&self) -> Result<(), Error> {
        self.write("check", self.inner.check()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;
    use crate::contract::samples::{entry, pool};

    #[test]
    fn every_op_is_there_from_the_start_and_names_are_ours() {
        let metrics = Metrics::new().unwrap();
        let count = |collector: &dyn Collector| collector.collect()[0].get_metric().len();
        assert_eq!(count(&metrics.writes), WRITES.len());
        assert_eq!(count(&metrics.write_seconds), WRITES.len());
        assert_eq!(count(&metrics.failures), WRITES.len() + READS.len());
        let names: Vec<String> = metrics.all().iter().map(|c| c.desc()[0].fq_name.clone()).collect();
        assert_eq!(
            names,
            ["epu_store_write_seconds", "epu_store_writes_total", "epu_store_failures_total"]
        );
    }

    #[tokio::test]
    async fn writes_and_failures_are_counted_and_refusals_are_not_failures() {
        let metrics = Metrics::new().unwrap();
        let memory = Arc::new(MemoryStore::new());
        let store = Metered::new(Arc::clone(&memory), metrics.clone());
        let writes = |op: &str| metrics.writes.with_label_values(&[op]).get();
        let failures = |op: &str| metrics.failures.with_label_values(&[op]).get();

        store.append(vec![entry(1)]).await.unwrap();
        assert_eq!((writes("append"), failures("append")), (1, 0));
        assert!(store.put_pools(&[pool("web", 7)], Vec::new()).await.is_err());
        assert_eq!((writes("put_pools"), failures("put_pools")), (0, 0), "a conflict is an answer");
        assert_eq!(metrics.write_seconds.with_label_values(&["put_pools"]).get_sample_count(), 1);

        memory.fail_with(Some("the disk is gone"));
        assert!(store.append(vec![entry(2)]).await.is_err());
        assert!(store.pools().await.is_err());
        assert_eq!((writes("append"), failures("append"), failures("pools")), (1, 1, 1));
        assert_eq!(metrics.write_seconds.with_label_values(&["append"]).get_sample_count(), 2);
    }
}
