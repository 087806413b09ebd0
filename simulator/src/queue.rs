//! Work that waits: a queue of jobs with the promises of a broker. A job is claimed by one worker, and waits again when that worker
//! is gone; done is what was said to be done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epu_core::id::PoolName;
use tokio::sync::Notify;

use crate::lock;

/// The work of a world: that of each pool waits in a queue of its own.
#[derive(Debug, Default)]
pub struct Queues(Mutex<BTreeMap<PoolName, Arc<SimQueue>>>);

impl Queues {
    /// The queue of a pool.
    #[must_use]
    pub fn of(&self, pool: &PoolName) -> Arc<SimQueue> {
        lock(&self.0).entry(pool.clone()).or_default().clone()
    }
}

/// Which job.
pub type JobId = u64;

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Which.
    pub id: JobId,
    /// How long it takes.
    pub takes: Duration,
}

/// Jobs that wait, are being done, and are done.
#[derive(Debug)]
pub struct SimQueue {
    inner: Mutex<Inner>,
    /// Wakes in the order in which they wait; a watch channel of tokio's wakes many in an order of chance.
    news: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    submitted: u64,
    waiting: VecDeque<Job>,
    claimed: BTreeMap<JobId, (String, Job)>,
    done: BTreeMap<JobId, u32>,
}

impl Default for SimQueue {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            news: Notify::new(),
        }
    }
}

impl SimQueue {
    /// Adds jobs that take so long each.
    pub fn submit(&self, jobs: u64, takes: Duration) {
        {
            let mut inner = lock(&self.inner);
            for _ in 0..jobs {
                inner.submitted += 1;
                let id = inner.submitted;
                inner.waiting.push_back(Job { id, takes });
            }
        }
        self.tell();
    }

    fn tell(&self) {
        self.news.notify_waiters();
    }

    /// Tells when there may be something new to claim.
    #[must_use]
    pub fn news(&self) -> tokio::sync::futures::Notified<'_> {
        self.news.notified()
    }

    /// The next job, for this worker; the one it has when it has one.
    pub fn claim(&self, worker: &str) -> Option<Job> {
        let mut inner = lock(&self.inner);
        if let Some((_, job)) = inner.claimed.values().find(|(who, _)| who == worker) {
            return Some(job.clone());
        }
        let job = inner.waiting.pop_front()?;
        inner.claimed.insert(job.id, (worker.to_owned(), job.clone()));
        Some(job)
    }

    /// A worker did a job. One whose claim was given to another meanwhile has done it all the same: it counts as done once more.
    pub fn done(&self, worker: &str, job: JobId) {
        let mut inner = lock(&self.inner);
        if inner.claimed.get(&job).is_some_and(|(who, _)| who == worker) {
            inner.claimed.remove(&job);
        }
        *inner.done.entry(job).or_default() += 1;
    }

    /// A worker is gone: what it had waits again, first in line.
    pub fn give_back(&self, worker: &str) {
        let gave = {
            let mut inner = lock(&self.inner);
            let ids: Vec<JobId> = inner
                .claimed
                .iter()
                .filter(|(_, (who, _))| who == worker)
                .map(|(id, _)| *id)
                .collect();
            for id in ids.iter().rev() {
                if let Some((_, job)) = inner.claimed.remove(id) {
                    inner.waiting.push_front(job);
                }
            }
            !ids.is_empty()
        };
        if gave {
            self.tell();
        }
    }

    /// Whether this worker has a job.
    #[must_use]
    pub fn has_job(&self, worker: &str) -> bool {
        lock(&self.inner).claimed.values().any(|(who, _)| who == worker)
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.inner).waiting.len()
    }

    /// How many are being done.
    #[must_use]
    pub fn in_progress(&self) -> usize {
        lock(&self.inner).claimed.len()
    }

    /// How many different ones are done.
    #[must_use]
    pub fn done_count(&self) -> usize {
        lock(&self.inner).done.len()
    }

    /// How many were done more than once.
    #[must_use]
    pub fn done_twice(&self) -> usize {
        lock(&self.inner).done.values().filter(|times| **times > 1).count()
    }

    /// How many are neither waiting, nor being done, nor done.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let inner = lock(&self.inner);
        let known =
            |id: &JobId| inner.done.contains_key(id) || inner.claimed.contains_key(id) || inner.waiting.iter().any(|job| job.id == *id);
        let lost = (1..=inner.submitted).filter(|id| !known(id)).count();
        u64::try_from(lost).unwrap_or(u64::MAX)
    }
}
