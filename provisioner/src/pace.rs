//! The pace of calls: token buckets for each account and region, as the site counts them, shared by all pools and all sites of the
//! account, so that calls wait here instead of being refused there.
//!
//! **What is counted.** EC2 counts each kind of request by itself, and besides the machines asked for by RunInstances and named in
//! TerminateInstances. The defaults ([`Action`]) are its published ones, as of
//! <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html> (tables *request token bucket sizes* and *resource token
//! bucket sizes*); a site's `pace` changes them by the names of [`NAMES`].
//!
//! **Who goes first.** Those that wait for one kind of request stand in line by the moment they came plus a handicap for what they
//! are for: none to replace what failed, ten minutes to grow, thirty to refresh. So a replacement overtakes whatever grows, and nobody
//! waits for ever: a refresh is overtaken only by growth that came up to twenty minutes after it, and growth only by replacements that
//! came up to ten minutes after it. The first in line alone takes tokens, so that many small calls do not keep a large one from its
//! turn. Whoever gives up waiting is dropped and frees its place.
//!
//! **Refused all the same**, the bucket is emptied and refills more slowly for a while ([`Pace::throttled`]).
//!
//! What was taken is known only here: after a restart the buckets are full, and the first refusals set that right.

mod bucket;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epu_core::launch::Purpose;
use epu_core::request::BucketView;
use epu_core::time::{Clock, Timestamp};
use tokio::sync::Notify;

use self::bucket::Bucket;
use crate::iaas::ec2::settings::BucketSpec;
use crate::metrics::Metrics;

/// Later in line by this to grow. Too low: a replacement waits behind growth that came before it. Too high: growth never comes while
/// replacing goes on.
const GROW_AFTER: Duration = Duration::from_secs(600);
/// Later in line by this to refresh.
const REFRESH_AFTER: Duration = Duration::from_secs(1_800);
/// When it is not known which of two limits refused a call for machines, this share of the machines is believed to be left.
const MACHINES_LEFT: f64 = 0.5;

/// The names by which a site's `pace` changes a bucket.
pub const NAMES: [&str; 10] = [
    "change",
    "create-tags",
    "describe-instance-status",
    "describe-instances",
    "describe-instances-by-id",
    "question",
    "run-instances",
    "run-instances-machines",
    "terminate-instances",
    "terminate-instances-machines",
];

/// A kind of request that the site counts by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// RunInstances: 5 requests and 2 more each second; 1,000 machines and 2 more each second.
    RunInstances,
    /// TerminateInstances: 100 requests and 5 more each second; 1,000 machines and 20 more each second.
    TerminateInstances,
    /// DescribeInstances in pages or with a filter: 100 and 20 more each second.
    DescribeInstances,
    /// DescribeInstances of named machines, which has no pages: 50 and 10 more each second.
    DescribeInstancesById,
    /// DescribeInstanceStatus in pages or with a filter: 100 and 20 more each second.
    DescribeInstanceStatus,
    /// CreateTags: 100 and 10 more each second.
    CreateTags,
    /// Any other request that only reads. The site counts each kind apart; together they keep to what each may: 100 and 20 more each
    /// second.
    Question,
    /// Any other request that changes something, likewise: 50 and 5 more each second.
    Change,
}

impl Action {
    /// As the site names it, for people.
    fn word(self) -> &'static str {
        match self {
            Self::RunInstances => "RunInstances",
            Self::TerminateInstances => "TerminateInstances",
            Self::DescribeInstances => "DescribeInstances",
            Self::DescribeInstancesById => "DescribeInstances by id",
            Self::DescribeInstanceStatus => "DescribeInstanceStatus",
            Self::CreateTags => "CreateTags",
            Self::Question => "other questions",
            Self::Change => "other changes",
        }
    }

    /// Its bucket of requests.
    fn requests(self) -> (&'static str, BucketSpec) {
        let (name, capacity, refill) = match self {
            Self::RunInstances => ("run-instances", 5.0, 2.0),
            Self::TerminateInstances => ("terminate-instances", 100.0, 5.0),
            Self::DescribeInstances => ("describe-instances", 100.0, 20.0),
            Self::DescribeInstancesById => ("describe-instances-by-id", 50.0, 10.0),
            Self::DescribeInstanceStatus => ("describe-instance-status", 100.0, 20.0),
            Self::CreateTags => ("create-tags", 100.0, 10.0),
            Self::Question => ("question", 100.0, 20.0),
            Self::Change => ("change", 50.0, 5.0),
        };
        (name, BucketSpec { capacity, refill })
    }

    /// Its bucket of machines, where those are counted too.
    fn machines(self) -> Option<(&'static str, BucketSpec)> {
        let (name, capacity, refill) = match self {
            Self::RunInstances => ("run-instances-machines", 1_000.0, 2.0),
            Self::TerminateInstances => ("terminate-instances-machines", 1_000.0, 20.0),
            Self::DescribeInstances
            | Self::DescribeInstancesById
            | Self::DescribeInstanceStatus
            | Self::CreateTags
            | Self::Question
            | Self::Change => return None,
        };
        Some((name, BucketSpec { capacity, refill }))
    }
}

/// Which of its limits a call went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// That of requests.
    Requests,
    /// That of machines asked for or named.
    Machines,
}

/// The buckets of all accounts and regions: one of these in a process.
pub struct Pacers {
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    known: Mutex<BTreeMap<(String, String), Arc<Pace>>>,
}

impl std::fmt::Debug for Pacers {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Pacers")
            .field("known", &held(&self.known).keys())
            .finish_non_exhaustive()
    }
}

impl Pacers {
    /// No account yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            metrics,
            known: Mutex::default(),
        })
    }

    /// The buckets of an account, by whatever tells it from others, in a region. The same for whoever asks.
    #[must_use]
    pub fn account(&self, account: &str, region: &str) -> Arc<Pace> {
        let mut known = held(&self.known);
        let pace = known.entry((account.to_owned(), region.to_owned())).or_insert_with(|| {
            Arc::new(Pace {
                account: account.to_owned(),
                region: region.to_owned(),
                clock: self.clock.clone(),
                metrics: self.metrics.clone(),
                inner: Mutex::default(),
            })
        });
        pace.clone()
    }
}

/// The buckets of one account in one region.
pub struct Pace {
    account: String,
    region: String,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    inner: Mutex<Inner>,
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Pace")
            .field("account", &self.account)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// What sites set, by site and name.
    set: BTreeMap<String, BTreeMap<String, BucketSpec>>,
    /// Those that were ever asked for.
    lines: BTreeMap<Action, Line>,
    came: u64,
}

/// Those that wait for one kind of request, and what they wait for.
#[derive(Debug)]
struct Line {
    requests: Bucket,
    machines: Option<Bucket>,
    /// How many machines each asks for, first in line first.
    waiting: BTreeMap<Ticket, f64>,
    moved: Arc<Notify>,
}

/// A place in line: the moment it counts from, and a number that makes it the only one.
type Ticket = (Timestamp, u64);

impl Line {
    fn wait(&self, machines: f64, now: Timestamp) -> Duration {
        let for_machines = self.machines.as_ref().map_or(Duration::ZERO, |bucket| bucket.wait(machines, now));
        self.requests.wait(1.0, now).max(for_machines)
    }

    fn take(&mut self, machines: f64, now: Timestamp) {
        self.requests.take(1.0, now);
        if let Some(bucket) = &mut self.machines {
            bucket.take(machines, now);
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn handicap(purpose: Purpose) -> Duration {
    match purpose {
        Purpose::Replace => Duration::ZERO,
        Purpose::Grow => GROW_AFTER,
        Purpose::Refresh => REFRESH_AFTER,
    }
}

/// What the first in line, and those behind it, do.
enum Now {
    Go,
    Wait(Duration),
    Behind,
}

/// Somebody who waits; dropped, the place is free.
struct Place<'a> {
    pace: &'a Pace,
    action: Action,
    ticket: Ticket,
    machines: f64,
    moved: Arc<Notify>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut inner = held(&self.pace.inner);
        if let Some(line) = inner.lines.get_mut(&self.action) {
            line.waiting.remove(&self.ticket);
        }
        drop(inner);
        self.moved.notify_waiters();
        self.pace.show(self.action);
    }
}

impl Pace {
    /// Waits until a request may be made, and counts it as made. For RunInstances and TerminateInstances `machines` is how many are asked
    /// for or named; otherwise it counts for nothing. Dropped while it waits, nothing is counted.
    pub async fn turn(&self, action: Action, machines: u32, purpose: Purpose) {
        let began = self.clock.now();
        {
            let place = self.stand(action, machines, purpose, began);
            loop {
                let moved = place.moved.notified();
                tokio::pin!(moved);
                // From here on no move is missed.
                moved.as_mut().enable();
                match self.look(&place) {
                    Now::Go => break,
                    Now::Behind => moved.await,
                    Now::Wait(wait) => tokio::select! {
                        biased;
                        () = moved => {}
                        () = tokio::time::sleep(wait) => {}
                    },
                }
            }
        }
        let waited = self.clock.now().since(began).as_secs_f64();
        let (name, _) = action.requests();
        self.metrics.pace_wait_seconds.with_label_values(&[name]).observe(waited);
    }

    fn stand(&self, action: Action, machines: u32, purpose: Purpose, now: Timestamp) -> Place<'_> {
        let machines = f64::from(machines);
        let mut inner = held(&self.inner);
        inner.came += 1;
        let ticket = (now + handicap(purpose), inner.came);
        let line = inner.line(action, now);
        line.waiting.insert(ticket, machines);
        let moved = line.moved.clone();
        drop(inner);
        // Whoever was first may not be any more.
        moved.notify_waiters();
        self.show(action);
        Place {
            pace: self,
            action,
            ticket,
            machines,
            moved,
        }
    }

    fn look(&self, place: &Place<'_>) -> Now {
        let now = self.clock.now();
        let mut inner = held(&self.inner);
        let line = inner.line(place.action, now);
        if line.waiting.first_key_value().is_some_and(|(first, _)| *first != place.ticket) {
            return Now::Behind;
        }
        let wait = line.wait(place.machines, now);
        if wait.is_zero() {
            line.take(place.machines, now);
            Now::Go
        } else {
            Now::Wait(wait)
        }
    }

    /// The site refused such a request, or one too many machines: which of the two is not known.
    pub fn throttled(&self, action: Action) {
        self.refused(action, 0.0, Some(MACHINES_LEFT));
    }

    /// The site refused such a request for going over this limit.
    pub fn throttled_by(&self, action: Action, limit: Limit) {
        match limit {
            Limit::Requests => self.refused(action, 0.0, None),
            Limit::Machines => self.refused(action, 1.0, Some(0.0)),
        }
    }

    fn refused(&self, action: Action, requests_left: f64, machines_left: Option<f64>) {
        let now = self.clock.now();
        let mut inner = held(&self.inner);
        let line = inner.line(action, now);
        if requests_left < 1.0 {
            line.requests.refused(requests_left, now);
        }
        if let (Some(bucket), Some(left)) = (&mut line.machines, machines_left) {
            bucket.refused(left, now);
        }
        drop(inner);
        let (name, _) = action.requests();
        let labels = [self.account.as_str(), self.region.as_str(), name];
        self.metrics.pace_throttled.with_label_values(&labels).inc();
        self.show(action);
    }

    /// Takes a site's own limits, by the names of [`NAMES`], in place of those that it had; others are left aside. Where two sites of one
    /// account differ, the lower limit holds; where none says anything, the published one.
    pub fn limit(&self, site: &str, specs: &BTreeMap<String, BucketSpec>) {
        let now = self.clock.now();
        let mut inner = held(&self.inner);
        if specs.is_empty() {
            inner.set.remove(site);
        } else {
            inner.set.insert(site.to_owned(), specs.clone());
        }
        let Inner { set, lines, .. } = &mut *inner;
        for (action, line) in lines {
            let was = line.requests.spec();
            let is = lowest(set, action.requests());
            if was != is {
                line.requests.limit(is, now);
            }
            if let (Some(bucket), Some(machines)) = (&mut line.machines, action.machines()) {
                let is = lowest(set, machines);
                if bucket.spec() != is {
                    bucket.limit(is, now);
                }
            }
            line.moved.notify_waiters();
        }
    }

    /// Each bucket that was ever used, as it is now; metrics show the same.
    #[must_use]
    pub fn levels(&self) -> Vec<BucketView> {
        let now = self.clock.now();
        let inner = held(&self.inner);
        let mut views = Vec::new();
        for (action, line) in &inner.lines {
            let waiting = u32::try_from(line.waiting.len()).unwrap_or(u32::MAX);
            let mut view = |name: &str, what: String, bucket: &Bucket| {
                let level = bucket.level(now);
                let labels = [self.account.as_str(), self.region.as_str(), name];
                self.metrics.pace_tokens.with_label_values(&labels).set(level);
                views.push(BucketView {
                    what,
                    level,
                    capacity: bucket.spec().capacity,
                    refill: bucket.speed(now),
                    waiting,
                });
            };
            view(action.requests().0, action.word().to_owned(), &line.requests);
            if let (Some(bucket), Some((name, _))) = (&line.machines, action.machines()) {
                view(name, format!("{} machines", action.word()), bucket);
            }
        }
        views
    }

    /// Puts into the metrics how a line is.
    fn show(&self, action: Action) {
        let now = self.clock.now();
        let inner = held(&self.inner);
        let Some(line) = inner.lines.get(&action) else { return };
        let (name, _) = action.requests();
        let labels = |name| [self.account.as_str(), self.region.as_str(), name];
        let tokens = &self.metrics.pace_tokens;
        tokens.with_label_values(&labels(name)).set(line.requests.level(now));
        if let (Some(bucket), Some((machines, _))) = (&line.machines, action.machines()) {
            tokens.with_label_values(&labels(machines)).set(bucket.level(now));
        }
        let waiting = i64::try_from(line.waiting.len()).unwrap_or(i64::MAX);
        self.metrics.pace_waiting.with_label_values(&labels(name)).set(waiting);
    }
}

impl Inner {
    fn line(&mut self, action: Action, now: Timestamp) -> &mut Line {
        let set = &self.set;
        self.lines.entry(action).or_insert_with(|| {
            let bucket = |published: (&str, BucketSpec)| Bucket::full(lowest(set, published), now);
            Line {
                requests: bucket(action.requests()),
                machines: action.machines().map(bucket),
                waiting: BTreeMap::new(),
                moved: Arc::default(),
            }
        })
    }
}

/// The lowest of what sites set for a bucket, or what is published.
fn lowest(set: &BTreeMap<String, BTreeMap<String, BucketSpec>>, (name, published): (&str, BucketSpec)) -> BucketSpec {
    let theirs = set.values().filter_map(|specs| specs.get(name)).copied();
    theirs
        .reduce(|a, b| BucketSpec {
            capacity: a.capacity.min(b.capacity),
            refill: a.refill.min(b.refill),
        })
        .unwrap_or(published)
}

/// The most machines of one such call: more never fit into the bucket.
#[must_use]
pub fn capacity(specs: &BTreeMap<String, BucketSpec>, action: Action) -> u32 {
    let Some((name, published)) = action.machines() else {
        return u32::MAX;
    };
    let most = specs.get(name).copied().unwrap_or(published).capacity.max(1.0);
    // Settings have at most a million.
    (0..=20).rev().fold(0_u32, |sum, bit| {
        let next = sum | 1 << bit;
        if f64::from(next) <= most { next } else { sum }
    })
}

/// The names in a site's `pace` that are none.
pub fn unknown_names(specs: &BTreeMap<String, BucketSpec>) -> impl Iterator<Item = &str> {
    specs.keys().map(String::as_str).filter(|name| !NAMES.contains(name))
}

#[cfg(test)]
mod tests;
