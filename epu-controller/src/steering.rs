//! Whether a pool comes to where it aims (I6), and whether what was refused changed nothing (I11).
//!
//! A pool is judged only while nothing explains why it is not where it aims to be. The time begins anew when
//!
//! - the size aimed at, or the pool's settings, change;
//! - something goes wrong: an instance falls ill or ends of itself, a launch comes to nothing;
//! - something holds it up that is shown: a breaker, a gate, a pause, a refresh, the budget, teardown, a command that the provisioner has
//!   not accepted, a store that fails;
//! - this controller begins to lead it, or has not heard everything yet;
//! - members are in the hands of others: a site that has not accepted a launch or not confirmed an end, a worker whose drain has time left.
//!   Each of those has a deadline of its own (I5).
//!
//! What is left is a pool that is off its aim and that nobody is doing anything about.

use std::collections::BTreeMap;
use std::time::Duration;

use epu_core::id::PoolName;
use epu_core::instance::Cause;
use epu_core::invariant::{self, Course};
use epu_core::life::State;
use epu_core::time::Timestamp;

use crate::managing::Managed;
use crate::service::Controller;
use crate::view::Member;

/// A command that the provisioner has not accepted for so long is a reason. Too low: one that is always just on its way hides a pool
/// that is stuck.
const UNACCEPTED: Duration = Duration::from_secs(30);

/// How a pool comes to where it aims.
#[derive(Debug, Default)]
pub(crate) struct Steering {
    /// The size aimed at, and under which settings.
    to: Option<(u32, u64)>,
    /// Since when nothing explains that it is not there.
    unhindered_since: Option<Timestamp>,
}

/// Whether an instance is ended for this because a plan, or an operator's wish, led to it, and not because something went wrong.
pub(crate) fn is_by_plan(why: Cause) -> bool {
    match why {
        Cause::ScaleIn
        | Cause::SlotRemoved
        | Cause::PlacementLeft
        | Cause::Refresh
        | Cause::PoolRemoved
        | Cause::Teardown
        | Cause::Drained
        | Cause::DrainDeadline => true,
        Cause::Unhealthy
        | Cause::Interrupted
        | Cause::Operator
        | Cause::Finished
        | Cause::Vanished
        | Cause::NotReady
        | Cause::StartFailed
        | Cause::Stray => false,
    }
}

/// Whether somebody else has a member in hand, with a deadline of its own.
fn is_in_others_hands(member: &Member, now: Timestamp) -> bool {
    let instance = &member.instance;
    let drains = || instance.drain.as_ref().is_some_and(|drain| drain.deadline > now);
    match instance.state {
        State::Requested | State::ErrorRetrying | State::Terminating => true,
        State::Requesting => false,
        State::Pending | State::Started | State::Running | State::RunningFailed => drains(),
        State::Terminated | State::Failed | State::Rejected => false,
    }
}

/// The settings of all pools, as far as they differ when any was changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings(BTreeMap<PoolName, (u64, u64, bool)>);

impl Controller {
    /// Something went wrong in a pool.
    pub(crate) fn disturb(&mut self, name: &PoolName, now: Timestamp) {
        if let Some(managed) = self.pools.get_mut(name) {
            managed.steering.unhindered_since = Some(now);
        }
    }

    /// I6: looks whether a pool has come to where it aims.
    pub(crate) fn steer(&mut self, name: &PoolName, now: Timestamp) {
        let is_held = self.closed || self.store_fault.is_some();
        let Some(managed) = self.pools.get_mut(name) else { return };
        let to = managed.target.map(|target| (target, managed.view.pool.revision));
        if is_held || is_hindered(managed, now) || to != managed.steering.to {
            managed.steering = Steering {
                to,
                unhindered_since: Some(now),
            };
            return;
        }
        let Some(target) = managed.target else { return };
        let (view, counts) = (&managed.view, managed.view.pool_counts());
        let course = Course {
            target,
            serving: counts.running,
            others: counts.booting + counts.draining + counts.ending + counts.unhealthy,
            unhindered_since: managed.steering.unhindered_since,
        };
        if course.is_there() {
            managed.steering.unhindered_since = Some(now);
            return;
        }
        let within = invariant::converge_within(&view.pool);
        let Some(violation) = invariant::converged(name, &course, now, within) else {
            return;
        };
        // Only now, since it looks at everybody.
        let is_explained = view.members().any(|member| is_in_others_hands(member, now));
        managed.steering.unhindered_since = Some(now);
        if !is_explained {
            self.violated(&violation);
        }
    }

    /// The settings of all pools that are managed here.
    pub(crate) fn settings_now(&self) -> Settings {
        let one = |(name, managed): (&PoolName, &Managed)| {
            let pool = &managed.view.pool;
            (name.clone(), (pool.revision, managed.view.settings(), pool.paused.any()))
        };
        Settings(self.pools.iter().map(one).collect())
    }

    /// I11: a command was refused, and settings were so before. Nothing else changes them while a command is being carried out, but that it
    /// may be found out on the way that another leads some of the pools, which are gone here then.
    pub(crate) fn check_unchanged(&self, op: &str, mut before: Settings) {
        let after = self.settings_now();
        before.0.retain(|name, _| after.0.contains_key(name));
        if let Some(violation) = invariant::unchanged(op, &before, &after) {
            self.violated(&violation);
        }
    }
}

/// Whether something explains that a pool is not where it aims to be.
fn is_hindered(managed: &Managed, now: Timestamp) -> bool {
    let (view, pool) = (&managed.view, &managed.view.pool);
    let is_held_back = || {
        let held = managed.last.iter().flat_map(|last| &last.suppressed);
        held.into_iter().any(|reason| invariant::holds_up(&reason.code))
    };
    let is_unaccepted = || managed.outbox.oldest().is_some_and(|since| now.since(since) > UNACCEPTED);
    managed.trouble.is_some()
        || managed.engine.is_none()
        || pool.removed
        || pool.paused.any()
        || pool.refresh.is_some()
        || managed.guards.storm.is_some()
        || !view.has_heard_all()
        || is_unaccepted()
        || is_held_back()
}
