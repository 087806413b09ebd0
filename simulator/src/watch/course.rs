//! I6: pools come to where they aim, by what is truly so: which records say that an instance runs, and whether a worker lives on its machine.
//!
//! A pool is not judged while anything is known to be broken, while its last decision says what holds it up, or while a member is in the
//! hands of somebody who has a deadline; and the time begins anew whenever something goes wrong in it or its aim moves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use epu_core::id::{InstanceId, PoolName};
use epu_core::instance::{Cause, Instance};
use epu_core::invariant::{self, Course};
use epu_core::journal::{Entry, Event};
use epu_core::life::State;
use epu_core::request::Service;
use epu_core::time::Timestamp;

use super::{Known, Seen, Watch};
use crate::lock;

/// Between two looks at every pool; each is a walk over everything that lives.
const EVERY: Duration = Duration::from_secs(10);

/// How a pool comes to where it aims.
#[derive(Debug, Default)]
pub(super) struct Steered {
    /// Whether its last decision says that something holds it up.
    pub(super) held: bool,
    /// Since when nothing explains that it is not there.
    since: Timestamp,
}

impl Steered {
    /// Something went wrong, or the aim moved.
    pub(super) fn disturbed(&mut self, now: Timestamp) {
        self.since = self.since.max(now);
    }
}

/// A pool's live instances.
#[derive(Debug, Default)]
struct Crew {
    serving: u32,
    others: u32,
    /// Whether one is in the hands of a site, or of a worker that may finish first.
    in_hand: bool,
}

impl Crew {
    fn add(&mut self, record: &Instance, lives: bool, now: Timestamp) {
        if record.state == State::Running && !record.is_leaving() && lives {
            self.serving += 1;
        } else {
            self.others += 1;
        }
        let waits = matches!(record.state, State::Requested | State::ErrorRetrying | State::Terminating);
        let drains = record.drain.as_ref().is_some_and(|drain| drain.deadline > now);
        self.in_hand |= waits || drains;
    }
}

impl Seen {
    /// An instance was written: whether that says that something went wrong in its pool.
    pub(super) fn note_trouble(&mut self, before: Option<&Instance>, after: &Instance) {
        let failed = matches!(after.state, State::RunningFailed | State::Failed | State::Rejected);
        let is_news = before.is_none_or(|before| before.state != after.state || before.ending != after.ending);
        let ended = after.ending.as_ref().is_some_and(|ending| {
            !ending.why.is_choice() && !matches!(ending.why, Cause::Drained | Cause::DrainDeadline | Cause::PoolRemoved)
        });
        if is_news && (failed || ended) {
            let now = self.now;
            if let Some(known) = self.pools.get_mut(&after.pool) {
                known.steered.disturbed(now);
            }
        }
    }
}

impl Watch {
    /// What was written to the journal: whether somebody fell ill.
    pub fn journal(&self, journal: &[Entry]) {
        let mut seen = lock(&self.seen);
        for entry in journal {
            let Event::HealthChanged { to, .. } = &entry.event else { continue };
            let known = entry.pool.as_ref().and_then(|pool| seen.pools.get_mut(pool));
            if let (Some(known), false) = (known, to.is_good()) {
                known.steered.disturbed(entry.at);
            }
        }
    }

    /// A service can be reached with requests, or cannot.
    pub fn reached(&self, service: Service, is_reached: bool, now: Timestamp) {
        let what = match service {
            Service::Provisioner => "the way to provisioners",
            Service::Controller => "the way to controllers",
            Service::Aggregator => "the way to aggregators",
        };
        self.works(what, is_reached, now);
    }

    pub(super) fn check_courses(&self, seen: &mut Seen, now: Timestamp, works: bool) {
        if now.0.rem_euclid(i64::try_from(EVERY.as_millis()).unwrap_or(1)) >= 1_000 {
            return;
        }
        let alive: BTreeSet<InstanceId> = self.machines.look(|all| {
            let works = all
                .values()
                .filter(|m| m.is_there() && m.body().is_some_and(|body| body.worker_lives()));
            works.filter_map(|machine| machine.instance).collect()
        });
        let mut crews: BTreeMap<PoolName, Crew> = BTreeMap::new();
        for record in seen.live.iter().filter_map(|id| seen.records.get(id)) {
            if !crews.contains_key(&record.pool) {
                crews.insert(record.pool.clone(), Crew::default());
            }
            if let Some(crew) = crews.get_mut(&record.pool) {
                crew.add(record, alive.contains(&record.id), now);
            }
        }
        let is_closed = seen.closed_since.is_some();
        let mut found = Vec::new();
        for (name, known) in &mut seen.pools {
            let crew = crews.remove(name).unwrap_or_default();
            let course = Course {
                target: known.target.unwrap_or(0),
                serving: crew.serving,
                others: crew.others,
                unhindered_since: Some(known.steered.since),
            };
            if !works || is_closed || crew.in_hand || course.is_there() || is_held(known) {
                known.steered.disturbed(now);
                continue;
            }
            let violation = invariant::converged(name, &course, now, invariant::converge_within(&known.pool));
            if violation.is_some() {
                known.steered.disturbed(now);
            }
            found.extend(violation);
        }
        for violation in found {
            seen.found(Some(violation));
        }
    }
}

fn is_held(known: &Known) -> bool {
    let pool = &known.pool;
    known.target.is_none() || known.engine.is_none() || known.steered.held || pool.removed || pool.paused.any() || pool.refresh.is_some()
}
