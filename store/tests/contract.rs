//! The one contract against every store, and against the decorators that stores are used with.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::instance::Instance;
use epu_core::journal::Entry;
use epu_core::launch::Launch;
use epu_core::lease::{Domain, LeaseAsk, Member, Standing, Term};
use epu_core::pool::Pool;
use epu_core::request::Service;
use epu_core::time::{ManualClock, Span, Timestamp};
use epu_store::{
    DecisionCommit, Document, Error, JournalQuery, MemoryStore, Metered, Metrics, Outgoing, PoolMemory, ProvisionCommit, Size, SqliteStore,
    Store, contract,
};
use tempfile::TempDir;
use uuid::Uuid;

#[tokio::test(start_paused = true)]
async fn memory_holds_under_a_clock_that_stands_still() {
    contract::holds(async || MemoryStore::new()).await;
    let clock = Arc::new(ManualClock::at(Timestamp(1_000)));
    let make = async || MemoryStore::with_clock(clock.clone());
    contract::holds_with_time(make, async |length| clock.advance(length)).await;
}

#[tokio::test]
async fn sqlite_holds() {
    let dirs = RefCell::new(Vec::new());
    let make = async || {
        let dir = TempDir::new().unwrap();
        let store = SqliteStore::open(dir.path()).await.unwrap();
        dirs.borrow_mut().push(dir);
        store
    };
    contract::holds_with_time(make, tokio::time::sleep).await;
}

#[tokio::test]
async fn who_opens_the_directory_finds_leases_free_and_epochs_that_go_on() {
    let dir = TempDir::new().unwrap();
    let ask = |name: &str| LeaseAsk {
        member: Member {
            name: name.to_owned(),
            service: Service::Provisioner,
            url: None,
            since: Timestamp(1),
        },
        want: [Domain::Provisioner].into(),
        lasts: Span::secs(3_600),
    };
    for (n, name) in (1..).zip(["first", "second", "third"]) {
        let store = SqliteStore::open(dir.path()).await.unwrap();
        let standing = store.standing().await.unwrap();
        assert!(
            standing.members.is_empty() && standing.leader(Domain::Provisioner).is_none(),
            "{standing:?}"
        );
        let standing = store.lease(ask(name)).await.unwrap();
        assert_eq!(standing.leader(Domain::Provisioner), Some(name));
        assert_eq!(standing.lease(Domain::Provisioner).unwrap().epoch, n);
        // Dropped, not left: as after a kill.
    }
}

#[tokio::test]
async fn sqlite_holds_when_it_is_closed_and_opened_before_every_single_step() {
    // But for leases, which opening frees.
    let dirs = RefCell::new(Vec::new());
    contract::holds(async || {
        let dir = TempDir::new().unwrap();
        let store = Reopened::new(dir.path().to_owned());
        dirs.borrow_mut().push(dir);
        store
    })
    .await;
}

#[tokio::test]
async fn a_measured_store_holds() {
    let metrics = Metrics::new().unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp(1_000)));
    let make = async || Metered::new(Arc::new(MemoryStore::with_clock(clock.clone())), metrics.clone());
    contract::holds_with_time(make, async |length| clock.advance(length)).await;
    assert!(metrics.writes.with_label_values(&["record_launch"]).get() > 0);
}

/// Opens the store for each method and closes it after: whatever holds here was on the disk.
struct Reopened {
    dir: PathBuf,
    turn: tokio::sync::Mutex<()>,
}

impl Reopened {
    fn new(dir: PathBuf) -> Self {
        let turn = tokio::sync::Mutex::new(());
        Self { dir, turn }
    }
}

macro_rules! reopened {
    ($($name:ident($($arg:ident: $of:ty),*) -> $to:ty;)*) => {
        #[async_trait]
        impl Store for Reopened {
            $(async fn $name(&self, $($arg: $of),*) -> Result<$to, Error> {
                let _turn = self.turn.lock().await;
                let store = SqliteStore::open(&self.dir).await?;
                let done = store.$name($($arg),*).await;
                store.close().await;
                done
            })*
        }
    };
}

reopened! {
    keep(key: &str, value: &str) -> String;
    lease(ask: LeaseAsk) -> Standing;
    leave(member: &str) -> ();
    standing() -> Standing;
    settle(domain: Domain) -> ();
    documents(kind: &str) -> Vec<Document>;
    put_document(document: &Document, journal: Vec<Entry>) -> ();
    forget_document(kind: &str, name: &str, journal: Vec<Entry>) -> ();
    pool_revisions() -> BTreeMap<PoolName, u64>;
    closed() -> bool;
    set_closed(closed: bool, term: Option<Term>, journal: Vec<Entry>) -> ();
    pools() -> Vec<Pool>;
    put_pools(pools: &[Pool], journal: Vec<Entry>) -> ();
    forget_pool(pool: &PoolName, revision: u64, term: Option<Term>, journal: Vec<Entry>) -> ();
    memories() -> Vec<(PoolName, PoolMemory)>;
    commit_decision(pool: &PoolName, commit: DecisionCommit) -> ();
    outbox() -> Vec<Outgoing>;
    accepted(ids: &[Uuid]) -> ();
    record_launch(launch: &Launch, instances: &[Arc<Instance>], journal: Vec<Entry>, terms: &[Term]) -> bool;
    commit_provision(commit: ProvisionCommit) -> ();
    instances(live_only: bool) -> Vec<Instance>;
    instance(id: InstanceId) -> Option<Instance>;
    open_launches() -> Vec<Launch>;
    launch(id: LaunchId) -> Option<Launch>;
    append(journal: Vec<Entry>) -> ();
    journal(query: JournalQuery) -> Vec<Entry>;
    retire(before: Timestamp, limit: u32) -> u64;
    size() -> Size;
    check() -> ();
}
