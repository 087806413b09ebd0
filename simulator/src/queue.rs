//! Work that waits: a queue of jobs with the promises of a broker. A job is claimed by one worker, and waits again when that worker
//! is gone; done is what was said to be done.
//!
//! A queue that is asked to ([`SimQueue::record`]) keeps the time of everything: when each job came, was first begun and was done, when
//! workers came and went, and whose end interrupted a job. Workers come with their first claim and go when they give back what they have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epu_core::id::PoolName;
use epu_core::time::{Clock, Timestamp};
use tokio::sync::Notify;
use tokio::sync::watch::error::RecvError;

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

/// The times of one job; [`Timestamp::NEVER`] for what has not happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobTimes {
    /// When it came.
    pub submitted: Timestamp,
    /// When a worker first began it.
    pub started: Timestamp,
    /// When it was first done.
    pub done: Timestamp,
    /// How often it was begun.
    pub begun: u32,
}

/// A job that lost its worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interruption {
    /// When.
    pub at: Timestamp,
    /// The worker, by its machine.
    pub worker: String,
    /// The job.
    pub job: JobId,
    /// For how long it had been worked on, for nothing.
    pub wasted: Duration,
}

/// What a queue kept the time of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Every job, by its number less one.
    pub jobs: Vec<JobTimes>,
    /// How many workers there were, from when on.
    pub workers: Vec<(Timestamp, u32)>,
    /// Jobs that lost their workers, in order.
    pub interrupted: Vec<Interruption>,
    /// For how long workers worked on jobs that they finished.
    pub worked: Duration,
    /// For how long those have worked that are at it now.
    pub at_work: Duration,
}

/// Jobs that wait, are being done, and are done.
#[derive(Debug, Default)]
pub struct SimQueue {
    inner: Mutex<Inner>,
    bell: Arc<Bell>,
}

/// Wakes everybody who waits, who came first first. A `watch` channel wakes in an order of its own chance, by which the same seed would give
/// another run.
#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<u64>,
    waiting: Notify,
}

/// Tells when there may be something new to claim.
#[derive(Debug)]
pub struct News {
    bell: Arc<Bell>,
    seen: u64,
}

impl News {
    /// What there is now is known.
    pub fn mark_unchanged(&mut self) {
        self.seen = *lock(&self.bell.rung);
    }

    /// Waits for something that is not known yet.
    ///
    /// # Errors
    /// Never: a queue does not end.
    pub async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            let mut woken = std::pin::pin!(self.bell.waiting.notified());
            woken.as_mut().enable();
            let rung = *lock(&self.bell.rung);
            if rung != self.seen {
                self.seen = rung;
                return Ok(());
            }
            woken.await;
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    submitted: u64,
    waiting: VecDeque<Job>,
    claimed: BTreeMap<JobId, (String, Job)>,
    /// The jobs of each worker that has any.
    of_worker: BTreeMap<String, BTreeSet<JobId>>,
    done: BTreeMap<JobId, u32>,
    record: Option<Record>,
}

#[derive(Debug)]
struct Record {
    clock: Arc<dyn Clock>,
    kept: Recorded,
    there: BTreeSet<String>,
    since: BTreeMap<JobId, Timestamp>,
}

impl Record {
    fn job(&mut self, id: JobId) -> Option<&mut JobTimes> {
        let at = usize::try_from(id.checked_sub(1)?).ok()?;
        self.kept.jobs.get_mut(at)
    }

    fn there_are(&mut self) {
        let workers = u32::try_from(self.there.len()).unwrap_or(u32::MAX);
        self.kept.workers.push((self.clock.now(), workers));
    }

    fn asks(&mut self, worker: &str) {
        if !self.there.contains(worker) {
            self.there.insert(worker.to_owned());
            self.there_are();
        }
    }

    fn begins(&mut self, id: JobId) {
        let now = self.clock.now();
        self.since.insert(id, now);
        if let Some(times) = self.job(id) {
            times.started = times.started.min(now);
            times.begun += 1;
        }
    }

    fn ends(&mut self, id: JobId) {
        let now = self.clock.now();
        if let Some(since) = self.since.remove(&id) {
            self.kept.worked += now.since(since);
        }
        if let Some(times) = self.job(id) {
            times.done = times.done.min(now);
        }
    }

    fn goes(&mut self, worker: &str, ids: &[JobId]) {
        let at = self.clock.now();
        for job in ids {
            let wasted = self.since.remove(job).map(|since| at.since(since)).unwrap_or_default();
            let worker = worker.to_owned();
            let job = *job;
            self.kept.interrupted.push(Interruption { at, worker, job, wasted });
        }
        if self.there.remove(worker) {
            self.there_are();
        }
    }
}

impl SimQueue {
    /// Keeps the time of everything from now on. To be asked before the first job comes: those before are not known to it.
    pub fn record(&self, clock: Arc<dyn Clock>) {
        let mut inner = lock(&self.inner);
        let never = JobTimes {
            submitted: Timestamp::NEVER,
            started: Timestamp::NEVER,
            done: Timestamp::NEVER,
            begun: 0,
        };
        let before = usize::try_from(inner.submitted).unwrap_or(0);
        let kept = Recorded {
            jobs: vec![never; before],
            workers: vec![(clock.now(), 0)],
            ..Recorded::default()
        };
        inner.record = Some(Record {
            clock,
            kept,
            there: BTreeSet::new(),
            since: BTreeMap::new(),
        });
    }

    /// What was kept since [`SimQueue::record`]; none when it was not asked to.
    #[must_use]
    pub fn recorded(&self) -> Option<Recorded> {
        let inner = lock(&self.inner);
        let record = inner.record.as_ref()?;
        let now = record.clock.now();
        Some(Recorded {
            at_work: record.since.values().map(|since| now.since(*since)).sum(),
            ..record.kept.clone()
        })
    }

    /// The jobs that lost their workers, after the first `seen` of them.
    #[must_use]
    pub fn interrupted_after(&self, seen: usize) -> Vec<Interruption> {
        let inner = lock(&self.inner);
        let all = inner.record.as_ref().map(|record| record.kept.interrupted.as_slice());
        all.and_then(|all| all.get(seen..)).map(<[_]>::to_vec).unwrap_or_default()
    }

    /// Adds jobs that take so long each.
    pub fn submit(&self, jobs: u64, takes: Duration) {
        {
            let mut inner = lock(&self.inner);
            for _ in 0..jobs {
                inner.submitted += 1;
                let id = inner.submitted;
                inner.waiting.push_back(Job { id, takes });
            }
            if let Some(record) = &mut inner.record {
                let times = JobTimes {
                    submitted: record.clock.now(),
                    started: Timestamp::NEVER,
                    done: Timestamp::NEVER,
                    begun: 0,
                };
                record.kept.jobs.extend((0..jobs).map(|_| times));
            }
        }
        self.tell();
    }

    fn tell(&self) {
        *lock(&self.bell.rung) += 1;
        self.bell.waiting.notify_waiters();
    }

    /// Tells when there may be something new to claim.
    #[must_use]
    pub fn news(&self) -> News {
        let seen = *lock(&self.bell.rung);
        News {
            bell: self.bell.clone(),
            seen,
        }
    }

    /// The next job, for this worker; the one it has when it has one.
    pub fn claim(&self, worker: &str) -> Option<Job> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        if let Some(record) = &mut inner.record {
            record.asks(worker);
        }
        let has = inner.of_worker.get(worker).and_then(BTreeSet::first);
        if let Some((_, job)) = has.and_then(|id| inner.claimed.get(id)) {
            return Some(job.clone());
        }
        let job = inner.waiting.pop_front()?;
        inner.claimed.insert(job.id, (worker.to_owned(), job.clone()));
        inner.of_worker.entry(worker.to_owned()).or_default().insert(job.id);
        if let Some(record) = &mut inner.record {
            record.begins(job.id);
        }
        Some(job)
    }

    /// A worker did a job. One whose claim was given to another meanwhile has done it all the same: it counts as done once more.
    pub fn done(&self, worker: &str, job: JobId) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        if inner.claimed.get(&job).is_some_and(|(who, _)| who == worker) {
            inner.claimed.remove(&job);
            if let Some(jobs) = inner.of_worker.get_mut(worker) {
                jobs.remove(&job);
                if jobs.is_empty() {
                    inner.of_worker.remove(worker);
                }
            }
        }
        *inner.done.entry(job).or_default() += 1;
        if let Some(record) = &mut inner.record {
            record.ends(job);
        }
    }

    /// A worker is gone: what it had waits again, first in line.
    pub fn give_back(&self, worker: &str) {
        let gave = {
            let mut inner = lock(&self.inner);
            let inner = &mut *inner;
            let ids: Vec<JobId> = inner.of_worker.remove(worker).unwrap_or_default().into_iter().collect();
            for id in ids.iter().rev() {
                if let Some((_, job)) = inner.claimed.remove(id) {
                    inner.waiting.push_front(job);
                }
            }
            if let Some(record) = &mut inner.record {
                record.goes(worker, &ids);
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
        lock(&self.inner).of_worker.contains_key(worker)
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
        let waiting: BTreeSet<JobId> = inner.waiting.iter().map(|job| job.id).collect();
        let known = |id: &JobId| inner.done.contains_key(id) || inner.claimed.contains_key(id) || waiting.contains(id);
        let lost = (1..=inner.submitted).filter(|id| !known(id)).count();
        u64::try_from(lost).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use epu_core::time::ManualClock;

    use super::*;

    #[test]
    fn a_queue_that_is_asked_to_keeps_the_time_of_everything() {
        let clock = Arc::new(ManualClock::at(Timestamp(1_000)));
        let queue = SimQueue::default();
        assert_eq!(queue.recorded(), None);
        queue.record(clock.clone());
        let pass = |seconds: u64| clock.advance(Duration::from_secs(seconds));
        queue.submit(2, Duration::from_secs(10));
        pass(1);
        let first = queue.claim("a").unwrap();
        assert_eq!(queue.claim("a").unwrap(), first);
        pass(2);
        assert_eq!(queue.claim("b").unwrap().id, 2);
        queue.give_back("a");
        pass(3);
        queue.done("b", 2);
        assert_eq!(queue.claim("b").unwrap(), first);
        pass(4);
        let kept = queue.recorded().unwrap();
        let at = |seconds: i64| Timestamp(1_000 + seconds * 1_000);
        let one = JobTimes {
            submitted: at(0),
            started: at(1),
            done: Timestamp::NEVER,
            begun: 2,
        };
        let two = JobTimes {
            submitted: at(0),
            started: at(3),
            done: at(6),
            begun: 1,
        };
        assert_eq!(kept.jobs, [one, two]);
        assert_eq!(kept.workers, [(at(0), 0), (at(1), 1), (at(3), 2), (at(3), 1)]);
        let lost = Interruption {
            at: at(3),
            worker: "a".to_owned(),
            job: 1,
            wasted: Duration::from_secs(2),
        };
        assert_eq!(kept.interrupted, [lost]);
        assert_eq!((kept.worked, kept.at_work), (Duration::from_secs(3), Duration::from_secs(4)));
        assert_eq!(
            (queue.interrupted_after(0).len(), queue.interrupted_after(1).len(), queue.lost()),
            (1, 0, 0)
        );
    }
}
