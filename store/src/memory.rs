//! The store in memory, for simulation and tests. It keeps to every rule of [`Store`] except that nothing survives the process.
//!
//! It waits for nothing, so that it works under a paused clock, and its order of everything is fixed, so that a seeded run repeats
//! byte for byte. It can be told to fail, which is how a scenario makes the disk go away.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::instance::Instance;
use epu_core::journal::Entry;
use epu_core::launch::Launch;
use epu_core::lease::{Domain, Lease, LeaseAsk, Member, Standing, Term};
use epu_core::pool::Pool;
use epu_core::time::{Clock, Timestamp};
use uuid::Uuid;

use crate::{DecisionCommit, Document, Error, JournalQuery, Outgoing, PoolMemory, ProvisionCommit, Size, Store};

/// Keeps records as long as it exists.
#[derive(Default)]
pub struct MemoryStore {
    records: Mutex<Records>,
    /// By which leases run out; without one they never do.
    clock: Option<Arc<dyn Clock>>,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("MemoryStore")
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Records {
    fails: Option<&'static str>,
    kept: BTreeMap<String, String>,
    closed: bool,
    pools: BTreeMap<PoolName, Pool>,
    memories: BTreeMap<PoolName, PoolMemory>,
    /// In the order in which they came.
    outbox: Vec<Outgoing>,
    launches: BTreeMap<LaunchId, Launch>,
    instances: BTreeMap<InstanceId, Arc<Instance>>,
    /// In order of their sequence, each one above the one before but for retired ones.
    journal: VecDeque<Entry>,
    last_sequence: i64,
    /// With the moment until which each counts as alive.
    members: BTreeMap<String, (Member, Timestamp)>,
    /// By name.
    leases: Vec<Held>,
    /// The same as it was last told.
    told: Arc<[Lease]>,
    documents: BTreeMap<(String, String), Document>,
}

#[derive(Debug)]
struct Held {
    domain: Domain,
    holder: Option<Arc<str>>,
    epoch: u64,
    since: Timestamp,
    until: Timestamp,
}

impl Held {
    fn holder_at(&self, now: Timestamp) -> Option<&Arc<str>> {
        self.holder.as_ref().filter(|_| self.until > now)
    }

    fn is_told_by(&self, told: &Lease, now: Timestamp) -> bool {
        // A holder's name is kept once, so that its address says who it is.
        let same = match (self.holder_at(now), &told.holder) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same && self.epoch == told.epoch
    }
}

/// A set of domains as bits.
fn bit(domain: Domain) -> u128 {
    match domain {
        Domain::Provisioner => 1 << 127,
        Domain::Shard(shard) => 1 << u32::from(shard),
    }
}

impl Records {
    /// Refuses when a term is over. One that is only out of time still stands as long as nobody took it.
    fn stand(&self, terms: impl IntoIterator<Item = Term>) -> Result<(), Error> {
        for term in terms {
            let lease = self.leases.iter().find(|held| held.domain == term.domain);
            if lease.is_none_or(|lease| lease.epoch != term.epoch || lease.holder.is_none()) {
                return Err(Error::Deposed(term));
            }
        }
        Ok(())
    }

    fn standing(&mut self, now: Timestamp) -> Standing {
        let lease = |held: &Held| Lease {
            name: Cow::Borrowed(held.domain.name()),
            holder: held.holder_at(now).cloned(),
            epoch: held.epoch,
            since: held.since,
        };
        let mut both = self.leases.iter().zip(&*self.told);
        if self.leases.len() != self.told.len() || !both.all(|(held, told)| held.is_told_by(told, now)) {
            self.told = self.leases.iter().map(lease).collect();
        }
        Standing {
            members: self.alive(now),
            leases: self.told.clone(),
        }
    }

    fn alive(&self, now: Timestamp) -> Vec<Member> {
        let alive = self.members.values().filter(|(_, until)| *until > now);
        alive.map(|(member, _)| member.clone()).collect()
    }

    fn append(&mut self, journal: Vec<Entry>) {
        for mut entry in journal {
            self.last_sequence += 1;
            entry.sequence = self.last_sequence;
            self.journal.push_back(entry);
        }
    }
}

impl MemoryStore {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty one whose leases run out by this clock.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock: Some(clock),
            ..Self::default()
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.as_ref().map_or(Timestamp(0), |clock| clock.now())
    }

    /// From now on every method fails for this reason and changes nothing; none ends that.
    pub fn fail_with(&self, why: Option<&'static str>) {
        self.lock().fails = why;
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        // Every method checks first and then changes, so that a panic in between leaves nothing half done.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn records(&self, doing: &str) -> Result<MutexGuard<'_, Records>, Error> {
        let records = self.lock();
        match records.fails {
            None => Ok(records),
            Some(why) => Err(Error::Database {
                doing: doing.to_owned(),
                source: why.into(),
            }),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn keep(&self, key: &str, value: &str) -> Result<String, Error> {
        let mut records = self.records("keep a value")?;
        Ok(records.kept.entry(key.to_owned()).or_insert_with(|| value.to_owned()).clone())
    }

    async fn closed(&self) -> Result<bool, Error> {
        Ok(self.records("read whether the installation is closed")?.closed)
    }

    async fn set_closed(&self, closed: bool, term: Option<Term>, journal: Vec<Entry>) -> Result<(), Error> {
        let mut records = self.records("close or open the installation")?;
        records.stand(term)?;
        records.closed = closed;
        records.append(journal);
        Ok(())
    }

    async fn lease(&self, ask: LeaseAsk) -> Result<Standing, Error> {
        let now = self.now();
        let until = now + *ask.lasts;
        let mut records = self.records("renew leases")?;
        records.members.retain(|_, (_, until)| *until > now);
        records.members.insert(ask.member.name.clone(), (ask.member.clone(), until));
        if !ask.member.leads() {
            return Ok(Standing {
                members: records.alive(now),
                ..Standing::default()
            });
        }
        // A holder's name is kept once, so that its address says whose a lease is.
        let mut holders = records.leases.iter().filter_map(|held| held.holder.as_ref());
        let known = holders.find(|holder| ***holder == *ask.member.name).cloned();
        let me: Arc<str> = known.unwrap_or_else(|| ask.member.name.into());
        let want = ask.want.iter().fold(0, |bits, domain| bits | bit(*domain));
        let mut known = 0;
        for held in &mut records.leases {
            let is_mine = held.holder.as_ref().is_some_and(|holder| Arc::ptr_eq(holder, &me));
            if want & bit(held.domain) == 0 {
                if is_mine {
                    held.holder = None;
                    held.until = now;
                }
                continue;
            }
            known += 1;
            if is_mine {
                held.until = until;
            } else if held.holder.is_none() || held.until <= now {
                *held = Held {
                    domain: held.domain,
                    holder: Some(me.clone()),
                    epoch: held.epoch + 1,
                    since: now,
                    until,
                };
            }
        }
        if known < ask.want.len() {
            let there: BTreeSet<Domain> = records.leases.iter().map(|held| held.domain).collect();
            let new = ask.want.iter().filter(|domain| !there.contains(domain)).map(|domain| Held {
                domain: *domain,
                holder: Some(me.clone()),
                epoch: 1,
                since: now,
                until,
            });
            records.leases.extend(new);
            records.leases.sort_by_key(|held| held.domain.name());
        }
        Ok(records.standing(now))
    }

    async fn leave(&self, member: &str) -> Result<(), Error> {
        let now = self.now();
        let mut records = self.records("give leases back")?;
        records.members.remove(member);
        for held in records.leases.iter_mut().filter(|held| held.holder.as_deref() == Some(member)) {
            held.holder = None;
            held.until = now;
        }
        Ok(())
    }

    async fn standing(&self) -> Result<Standing, Error> {
        let now = self.now();
        Ok(self.records("read who leads what")?.standing(now))
    }

    async fn settle(&self, _domain: Domain) -> Result<(), Error> {
        // Nothing is ever under way here.
        self.records("wait for what is being written").map(drop)
    }

    async fn documents(&self, kind: &str) -> Result<Vec<Document>, Error> {
        let records = self.records("read documents")?;
        let of_kind = records.documents.values().filter(|document| document.kind == kind);
        Ok(of_kind.cloned().collect())
    }

    async fn put_document(&self, document: &Document, journal: Vec<Entry>) -> Result<(), Error> {
        let mut records = self.records("write a document")?;
        let key = (document.kind.clone(), document.name.clone());
        let before = records.documents.get(&key).map_or(0, |stored| stored.revision);
        if before.checked_add(1) != Some(document.revision) {
            return Err(Error::Conflict(format!("{} {}", document.kind, document.name)));
        }
        records.documents.insert(key, document.clone());
        records.append(journal);
        Ok(())
    }

    async fn forget_document(&self, kind: &str, name: &str, journal: Vec<Entry>) -> Result<(), Error> {
        let mut records = self.records("forget a document")?;
        records.documents.remove(&(kind.to_owned(), name.to_owned()));
        records.append(journal);
        Ok(())
    }

    async fn pool_revisions(&self) -> Result<BTreeMap<PoolName, u64>, Error> {
        let records = self.records("read pools' revisions")?;
        Ok(records.pools.iter().map(|(name, pool)| (name.clone(), pool.revision)).collect())
    }

    async fn pools(&self) -> Result<Vec<Pool>, Error> {
        Ok(self.records("read pools")?.pools.values().cloned().collect())
    }

    async fn put_pools(&self, pools: &[Pool], journal: Vec<Entry>) -> Result<(), Error> {
        let mut records = self.records("write pools")?;
        let mut revisions: BTreeMap<&PoolName, u64> = BTreeMap::new();
        for pool in pools {
            let stored = records.pools.get(&pool.name).map_or(0, |stored| stored.revision);
            let before = revisions.insert(&pool.name, pool.revision).unwrap_or(stored);
            if before.checked_add(1) != Some(pool.revision) {
                return Err(Error::Conflict(format!("pool {}", pool.name)));
            }
        }
        for pool in pools {
            records.pools.insert(pool.name.clone(), pool.clone());
        }
        records.append(journal);
        Ok(())
    }

    async fn forget_pool(&self, pool: &PoolName, revision: u64, term: Option<Term>, journal: Vec<Entry>) -> Result<(), Error> {
        let mut records = self.records("forget a pool")?;
        records.stand(term)?;
        match records.pools.get(pool) {
            None => return Ok(()),
            Some(stored) if stored.revision != revision => return Err(Error::Conflict(format!("pool {pool}"))),
            Some(_) => {}
        }
        records.pools.remove(pool);
        records.memories.remove(pool);
        records.outbox.retain(|outgoing| outgoing.pool != *pool);
        records.append(journal);
        Ok(())
    }

    async fn memories(&self) -> Result<Vec<(PoolName, PoolMemory)>, Error> {
        let records = self.records("read what pools remember")?;
        Ok(records
            .memories
            .iter()
            .map(|(name, memory)| (name.clone(), memory.clone()))
            .collect())
    }

    async fn commit_decision(&self, pool: &PoolName, commit: DecisionCommit) -> Result<(), Error> {
        let mut records = self.records("write a decision")?;
        records.stand(commit.term)?;
        if let Some(memory) = commit.memory {
            records.memories.insert(pool.clone(), memory);
        }
        for outgoing in commit.outbox {
            if records.outbox.iter().all(|stored| stored.id != outgoing.id) {
                records.outbox.push(outgoing);
            }
        }
        records.append(commit.journal);
        Ok(())
    }

    async fn outbox(&self) -> Result<Vec<Outgoing>, Error> {
        let mut outbox = self.records("read commands not yet accepted")?.outbox.clone();
        // Stable: those of one moment stay in the order in which they came.
        outbox.sort_by_key(|outgoing| outgoing.since);
        Ok(outbox)
    }

    async fn accepted(&self, ids: &[Uuid]) -> Result<(), Error> {
        let ids: BTreeSet<&Uuid> = ids.iter().collect();
        let mut records = self.records("forget accepted commands")?;
        records.outbox.retain(|outgoing| !ids.contains(&outgoing.id));
        Ok(())
    }

    async fn record_launch(
        &self,
        launch: &Launch,
        instances: &[Arc<Instance>],
        journal: Vec<Entry>,
        terms: &[Term],
    ) -> Result<bool, Error> {
        let mut records = self.records("record a launch")?;
        records.stand(terms.iter().copied())?;
        if records.launches.contains_key(&launch.id) {
            return Ok(false);
        }
        if records.closed {
            return Err(Error::Closed);
        }
        let mut seen = BTreeSet::new();
        for instance in instances {
            if records.instances.contains_key(&instance.id) || !seen.insert(instance.id) {
                return Err(Error::Exists(format!("instance {}", instance.id)));
            }
        }
        records.launches.insert(launch.id, launch.clone());
        for instance in instances {
            records.instances.insert(instance.id, Arc::clone(instance));
        }
        records.append(journal);
        Ok(true)
    }

    async fn commit_provision(&self, commit: ProvisionCommit) -> Result<(), Error> {
        let mut records = self.records("write changes of instances")?;
        records.stand(commit.term.iter().chain(&commit.also).copied())?;
        let mut versions: BTreeMap<InstanceId, u64> = BTreeMap::new();
        for instance in &commit.instances {
            let stored = records.instances.get(&instance.id).map(|stored| stored.version);
            let before = versions.insert(instance.id, instance.version).or(stored);
            if before.is_some_and(|before| before.checked_add(1) != Some(instance.version)) {
                return Err(Error::Conflict(format!("instance {}", instance.id)));
            }
        }
        for instance in commit.instances {
            records.instances.insert(instance.id, instance);
        }
        for launch in commit.launches {
            records.launches.insert(launch.id, launch);
        }
        records.append(commit.journal);
        Ok(())
    }

    async fn instances(&self, live_only: bool) -> Result<Vec<Instance>, Error> {
        let records = self.records("read instances")?;
        let wanted = records.instances.values().filter(|instance| !live_only || instance.is_live());
        Ok(wanted.map(|instance| Instance::clone(instance)).collect())
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, Error> {
        let records = self.records("read an instance")?;
        Ok(records.instances.get(&id).map(|instance| Instance::clone(instance)))
    }

    async fn open_launches(&self) -> Result<Vec<Launch>, Error> {
        let records = self.records("read open launches")?;
        let live = records.instances.values().filter(|instance| instance.is_live());
        let with_live: BTreeSet<LaunchId> = live.map(|instance| instance.launch).collect();
        let open = records
            .launches
            .values()
            .filter(|launch| launch.outcome.is_none() || with_live.contains(&launch.id));
        Ok(open.cloned().collect())
    }

    async fn launch(&self, id: LaunchId) -> Result<Option<Launch>, Error> {
        Ok(self.records("read a launch")?.launches.get(&id).cloned())
    }

    async fn append(&self, journal: Vec<Entry>) -> Result<(), Error> {
        self.records("write to the journal")?.append(journal);
        Ok(())
    }

    async fn journal(&self, query: JournalQuery) -> Result<Vec<Entry>, Error> {
        let records = self.records("read the journal")?;
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let asked_for = |entry: &&Entry| {
            query.pool.as_ref().is_none_or(|pool| entry.pool.as_ref() == Some(pool))
                && query.instance.is_none_or(|instance| entry.instance == Some(instance))
        };
        let Some(after) = query.after else {
            let mut newest: Vec<Entry> = records.journal.iter().rev().filter(asked_for).take(limit).cloned().collect();
            newest.reverse();
            return Ok(newest);
        };
        let start = records.journal.partition_point(|entry| entry.sequence <= after);
        Ok(records.journal.range(start..).filter(asked_for).take(limit).cloned().collect())
    }

    async fn retire(&self, before: Timestamp, limit: u32) -> Result<u64, Error> {
        let mut records = self.records("retire old records")?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut gone = 0;

        let ended = records.instances.values().filter(|i| !i.is_live() && i.state_since < before);
        for (_, id) in oldest(ended.map(|instance| (instance.state_since, instance.id)), limit) {
            records.instances.remove(&id);
            gone += 1;
        }

        let in_use: BTreeSet<LaunchId> = records.instances.values().map(|instance| instance.launch).collect();
        let done = records.launches.values().filter(|launch| launch.accepted_at < before);
        let done = done.filter(|launch| launch.outcome.is_some() && !in_use.contains(&launch.id));
        for (_, id) in oldest(done.map(|launch| (launch.accepted_at, launch.id)), limit) {
            records.launches.remove(&id);
            gone += 1;
        }

        let old = records.journal.iter().filter(|entry| entry.at < before);
        let old = oldest(old.map(|entry| (entry.at, entry.sequence)), limit);
        let old: BTreeSet<i64> = old.into_iter().map(|(_, sequence)| sequence).collect();
        gone += old.len() as u64;
        records.journal.retain(|entry| !old.contains(&entry.sequence));
        Ok(gone)
    }

    async fn size(&self) -> Result<Size, Error> {
        let records = self.records("measure the store")?;
        Ok(Size {
            instances: records.instances.len() as u64,
            journal: records.journal.len() as u64,
            bytes: 0,
        })
    }

    async fn check(&self) -> Result<(), Error> {
        self.records("write to the store").map(drop)
    }
}

/// The first ones in order, at most `limit`.
fn oldest<T: Ord>(all: impl Iterator<Item = T>, limit: usize) -> Vec<T> {
    let mut all: Vec<T> = all.collect();
    all.sort_unstable();
    all.truncate(limit);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use epu_core::code::Chain;
    use epu_core::journal::Event;

    #[tokio::test]
    async fn told_to_fail_it_fails_and_changes_nothing_until_told_to_work() {
        let store = MemoryStore::new();
        store.append(vec![Entry::new(Timestamp(1), "test", Event::Opened)]).await.unwrap();
        store.fail_with(Some("the disk is gone"));
        let error = store
            .append(vec![Entry::new(Timestamp(2), "test", Event::Stopped)])
            .await
            .unwrap_err();
        assert_eq!(Chain(&error).to_string(), "write to the journal: the disk is gone");
        assert!(store.check().await.is_err());
        assert!(store.instances(true).await.is_err());
        store.fail_with(None);
        store.check().await.unwrap();
        assert_eq!(store.size().await.unwrap().journal, 1);
    }
}
