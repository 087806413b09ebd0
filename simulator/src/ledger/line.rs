//! The store as one process has it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::instance::Instance;
use epu_core::journal::Entry;
use epu_core::launch::Launch;
use epu_core::lease::{Domain, LeaseAsk, Standing, Term};
use epu_core::pool::Pool;
use epu_core::time::Timestamp;
use epu_store::{DecisionCommit, Document, Error, JournalQuery, Outgoing, PoolMemory, ProvisionCommit, Size, Store};
use uuid::Uuid;

use super::Ledger;
use super::trouble::{Ask, Fate};
use crate::pausable::{Edge, Gate, Side};
use crate::process::Process;

/// One process's way to the store.
#[derive(Debug)]
pub struct Line {
    ledger: Arc<Ledger>,
    process: Process,
    gate: Gate,
}

impl Ledger {
    /// The way of one process to it, behind the process's gate.
    #[must_use]
    pub fn line(self: &Arc<Self>, process: Process, gate: Gate) -> Line {
        let ledger = self.clone();
        Line { ledger, process, gate }
    }
}

impl Line {
    /// A read, or a write that is no record.
    async fn asks<T>(&self, doing: &str, ask: Ask, does: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
        self.gate.wait().await;
        let answer = self.meets(doing, ask, does).await;
        self.gate.wait().await;
        answer
    }

    /// A record is written.
    async fn commits<T>(&self, doing: &str, ask: Ask, does: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
        self.gate.pass(Edge::Commit, Side::Before).await;
        let answer = self.meets(doing, ask, does).await;
        self.gate.pass(Edge::Commit, Side::After).await;
        answer
    }

    async fn meets<T>(&self, doing: &str, ask: Ask, does: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
        let Some(fate) = self.ledger.troubles.fate(self.process, doing, ask) else {
            return does.await;
        };
        let Fate {
            before,
            refused,
            after,
            lost,
        } = fate;
        if !before.is_zero() {
            tokio::time::sleep(before).await;
        }
        if let Some(error) = refused {
            return Err(error);
        }
        let answer = does.await?;
        if !after.is_zero() {
            tokio::time::sleep(after).await;
        }
        match lost {
            None => Ok(answer),
            Some(error) => {
                let transcript = &self.ledger.transcript;
                transcript.note(format_args!("the store's reply to {}, {doing}, is lost", self.process));
                Err(error)
            }
        }
    }
}

#[async_trait]
impl Store for Line {
    async fn keep(&self, key: &str, value: &str) -> Result<String, Error> {
        let does = self.ledger.keep(key, value);
        self.asks("keep a setting", Ask::Write, does).await
    }

    async fn closed(&self) -> Result<bool, Error> {
        let does = self.ledger.closed();
        self.asks("read whether it is closed", Ask::Read, does).await
    }

    async fn set_closed(&self, closed: bool, term: Option<Term>, journal: Vec<Entry>) -> Result<(), Error> {
        let does = self.ledger.set_closed(closed, term, journal);
        self.commits("write whether it is closed", Ask::Write, does).await
    }

    async fn pools(&self) -> Result<Vec<Pool>, Error> {
        let does = self.ledger.pools();
        self.asks("read pools", Ask::Read, does).await
    }

    async fn put_pools(&self, pools: &[Pool], journal: Vec<Entry>) -> Result<(), Error> {
        let does = self.ledger.put_pools(pools, journal);
        self.commits("write pools", Ask::Change, does).await
    }

    async fn forget_pool(&self, pool: &PoolName, revision: u64, term: Option<Term>, journal: Vec<Entry>) -> Result<(), Error> {
        let does = self.ledger.forget_pool(pool, revision, term, journal);
        self.commits("forget a pool", Ask::Change, does).await
    }

    async fn memories(&self) -> Result<Vec<(PoolName, PoolMemory)>, Error> {
        let does = self.ledger.memories();
        self.asks("read what engines remember", Ask::Read, does).await
    }

    async fn commit_decision(&self, pool: &PoolName, commit: DecisionCommit) -> Result<(), Error> {
        let does = self.ledger.commit_decision(pool, commit);
        self.commits("write a decision", Ask::Change, does).await
    }

    async fn outbox(&self) -> Result<Vec<Outgoing>, Error> {
        let does = self.ledger.outbox();
        self.asks("read the outbox", Ask::Read, does).await
    }

    async fn accepted(&self, ids: &[Uuid]) -> Result<(), Error> {
        let does = self.ledger.accepted(ids);
        self.commits("write what was accepted", Ask::Write, does).await
    }

    async fn settle(&self, domain: Domain) -> Result<(), Error> {
        let does = self.ledger.settle(domain);
        self.commits("settle a term", Ask::Write, does).await
    }

    async fn lease(&self, ask: LeaseAsk) -> Result<Standing, Error> {
        let does = self.ledger.lease(ask);
        self.asks("renew leases", Ask::Write, does).await
    }

    async fn leave(&self, member: &str) -> Result<(), Error> {
        let does = self.ledger.leave(member);
        self.asks("give leases back", Ask::Write, does).await
    }

    async fn standing(&self) -> Result<Standing, Error> {
        let does = self.ledger.standing();
        self.asks("read who leads", Ask::Read, does).await
    }

    async fn documents(&self, kind: &str) -> Result<Vec<Document>, Error> {
        let does = self.ledger.documents(kind);
        self.asks("read documents", Ask::Read, does).await
    }

    async fn put_document(&self, document: &Document, journal: Vec<Entry>) -> Result<(), Error> {
        let does = self.ledger.put_document(document, journal);
        self.commits("write a document", Ask::Change, does).await
    }

    async fn forget_document(&self, kind: &str, name: &str, journal: Vec<Entry>) -> Result<(), Error> {
        let does = self.ledger.forget_document(kind, name, journal);
        self.commits("forget a document", Ask::Write, does).await
    }

    async fn pool_revisions(&self) -> Result<BTreeMap<PoolName, u64>, Error> {
        let does = self.ledger.pool_revisions();
        self.asks("read revisions of pools", Ask::Read, does).await
    }

    async fn record_launch(
        &self,
        launch: &Launch,
        instances: &[Arc<Instance>],
        journal: Vec<Entry>,
        terms: &[Term],
    ) -> Result<bool, Error> {
        let does = self.ledger.record_launch(launch, instances, journal, terms);
        self.commits("record a launch", Ask::Write, does).await
    }

    async fn commit_provision(&self, commit: ProvisionCommit) -> Result<(), Error> {
        let does = self.ledger.commit_provision(commit);
        self.commits("write changes of instances", Ask::Change, does).await
    }

    async fn instances(&self, live_only: bool) -> Result<Vec<Instance>, Error> {
        let does = self.ledger.instances(live_only);
        self.asks("read instances", Ask::Read, does).await
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, Error> {
        let does = self.ledger.instance(id);
        self.asks("read an instance", Ask::Read, does).await
    }

    async fn open_launches(&self) -> Result<Vec<Launch>, Error> {
        let does = self.ledger.open_launches();
        self.asks("read open launches", Ask::Read, does).await
    }

    async fn launch(&self, id: LaunchId) -> Result<Option<Launch>, Error> {
        let does = self.ledger.launch(id);
        self.asks("read a launch", Ask::Read, does).await
    }

    async fn append(&self, journal: Vec<Entry>) -> Result<(), Error> {
        let does = self.ledger.append(journal);
        self.commits("append to the journal", Ask::Write, does).await
    }

    async fn journal(&self, query: JournalQuery) -> Result<Vec<Entry>, Error> {
        let does = self.ledger.journal(query);
        self.asks("read the journal", Ask::Read, does).await
    }

    async fn retire(&self, before: Timestamp, limit: u32) -> Result<u64, Error> {
        let does = self.ledger.retire(before, limit);
        self.asks("retire old records", Ask::Write, does).await
    }

    async fn size(&self) -> Result<Size, Error> {
        let does = self.ledger.size();
        self.asks("read the size", Ask::Read, does).await
    }

    async fn check(&self) -> Result<(), Error> {
        let does = self.ledger.check();
        self.asks("check the store", Ask::Read, does).await
    }
}
