//! What is kept of a pool's members as they change, so that nothing has to be counted or searched.
//!
//! Victims are kept in the order in which they are given up, whatever for:
//!
//! 1. generic ones before those that fill a slot;
//! 2. those that do not run yet, those that run and are heard, those that are out of contact (an order does not reach them);
//! 3. the last ranked placement first, placements that the pool has no more before all;
//! 4. idle ones, those that say nothing about their work, busy ones;
//! 5. those of another version than would be launched in their place;
//! 6. the longest idle or busy, or else the newest.
//!
//! So a busy worker on a later placement goes before an idle one on an earlier placement. That interrupts nothing, since all are
//! drained, and it is what keeps a pool on its best placements. The unhealthy go before anybody here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use epu_core::health::Health;
use epu_core::id::{InstanceId, SlotLabel};
use epu_core::instance::Work;
use epu_core::time::Timestamp;
use epu_decision_engines::Counts;

use super::deadlines::Deadlines;
use super::{Class, Member};

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) counts: Counts,
    pub(super) ending: u32,
    /// Running, staying and out of contact.
    pub(super) silent: u32,
    /// Live ones of older versions.
    pub(super) outdated: u32,
    /// Of those, on their way out.
    pub(super) outdated_going: u32,
    pub(super) victims: BTreeSet<VictimKey>,
    pub(super) unhealthy: BTreeSet<InstanceId>,
    pub(super) draining: BTreeSet<InstanceId>,
    /// Those for which a time is set: few, since one that runs has none.
    pub(super) dated: BTreeSet<InstanceId>,
    pub(super) slots: BTreeMap<SlotLabel, BTreeSet<InstanceId>>,
    /// By placement; none where nobody stays.
    pub(super) placed: BTreeMap<String, Placed>,
    pub(super) due: Deadlines,
}

/// Live members that are not leaving, by one placement.
#[derive(Debug, Default)]
pub(super) struct Placed {
    pub(super) staying: u32,
    /// Of those.
    pub(super) pending: u32,
}

/// Where a victim stands: the fields in order, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct VictimKey {
    has_slot: bool,
    stage: u8,
    rank: Reverse<u32>,
    work: u8,
    is_current: bool,
    age: i64,
    pub(super) id: InstanceId,
}

impl VictimKey {
    /// Where a member stands; nowhere when it is no capacity, or protected.
    fn of(member: &Member) -> Option<Self> {
        if !matches!(member.class, Class::Pending | Class::Running) || member.instance.protected {
            return None;
        }
        let newest = -member.instance.created_at.0;
        let (stage, work, age) = match (member.class, member.health, member.work) {
            (Class::Pending, _, _) => (0, 0, newest),
            (_, Health::OutOfContact, _) => (2, 0, newest),
            (_, _, Work::Idle) => (1, 0, member.work_since.0),
            (_, _, Work::Unknown) => (1, 1, newest),
            (_, _, Work::Busy) => (1, 2, member.work_since.0),
        };
        Some(Self {
            has_slot: member.instance.slot.is_some(),
            stage,
            rank: Reverse(member.standing.rank),
            work,
            is_current: !member.standing.outdated,
            age,
            id: member.instance.id,
        })
    }
}

fn is_dated(member: &Member) -> bool {
    let instance = &member.instance;
    !instance.state.is_end() && (instance.deadline.is_some() || instance.drain.is_some())
}

impl Index {
    /// Changes a member and everything that follows from what it is; its deadline stays.
    pub(super) fn change(&mut self, member: &mut Member, change: impl FnOnce(&mut Member)) {
        self.count(member, false);
        let (class, key) = (member.class, member.key);
        // Which slot an instance fills never changes, but nothing here depends on that.
        let slot = member.instance.slot.clone();
        let was_dated = is_dated(member);
        change(member);
        if was_dated != is_dated(member) {
            self.date(member);
        }
        member.class = member.classify();
        member.key = VictimKey::of(member);
        self.count(member, true);
        if key != member.key {
            key.map(|key| self.victims.remove(&key));
            member.key.map(|key| self.victims.insert(key));
        }
        if class != member.class || slot != member.instance.slot {
            self.leave(class, slot.as_ref(), member.instance.id);
            self.enter(member);
        }
    }

    /// Takes in one that has no deadline yet.
    pub(super) fn add(&mut self, member: &mut Member) {
        self.add_but_victim(member);
        member.key.map(|key| self.victims.insert(key));
    }

    pub(super) fn add_but_victim(&mut self, member: &mut Member) {
        member.class = member.classify();
        member.key = VictimKey::of(member);
        self.count(member, true);
        self.enter(member);
        self.date(member);
    }

    pub(super) fn remove(&mut self, member: &Member) {
        self.count(member, false);
        member.key.map(|key| self.victims.remove(&key));
        self.leave(member.class, member.instance.slot.as_ref(), member.instance.id);
        self.dated.remove(&member.instance.id);
    }

    fn date(&mut self, member: &Member) {
        if is_dated(member) {
            self.dated.insert(member.instance.id);
        } else {
            self.dated.remove(&member.instance.id);
        }
    }

    fn enter(&mut self, member: &Member) {
        let id = member.instance.id;
        match member.class {
            Class::Unhealthy => {
                self.unhealthy.insert(id);
            }
            Class::Draining => {
                self.draining.insert(id);
            }
            Class::Pending | Class::Running => {
                if let Some(label) = member.instance.slot.clone() {
                    self.slots.entry(label).or_default().insert(id);
                }
            }
            Class::Ending | Class::Ended => {}
        }
    }

    fn leave(&mut self, class: Class, slot: Option<&SlotLabel>, id: InstanceId) {
        match class {
            Class::Unhealthy => {
                self.unhealthy.remove(&id);
            }
            Class::Draining => {
                self.draining.remove(&id);
            }
            Class::Pending | Class::Running => {
                if let Some((label, holders)) = slot.and_then(|label| Some((label, self.slots.get_mut(label)?))) {
                    holders.remove(&id);
                    if holders.is_empty() {
                        self.slots.remove(label);
                    }
                }
            }
            Class::Ending | Class::Ended => {}
        }
    }

    pub(super) fn set_due(&mut self, member: &mut Member, at: Option<Timestamp>) {
        // One that moves later is found out when the earlier one passes, which is far less often than it moves.
        if member.due == at || member.due.is_some_and(|due| at.is_some_and(|at| due < at)) {
            return;
        }
        member.due = at;
        if let Some(at) = at {
            self.due.add(at, member.place);
        }
    }

    fn count(&mut self, member: &Member, there: bool) {
        let change = |n: &mut u32| *n = if there { *n + 1 } else { n.saturating_sub(1) };
        let counts = &mut self.counts;
        match member.class {
            Class::Pending => {
                change(&mut counts.capacity);
                change(&mut counts.pending);
            }
            Class::Running => {
                change(&mut counts.capacity);
                if member.health == Health::OutOfContact {
                    change(&mut self.silent);
                }
                change(match member.work {
                    Work::Busy => &mut counts.busy,
                    Work::Idle => &mut counts.idle,
                    Work::Unknown => &mut counts.unknown,
                });
            }
            Class::Unhealthy => change(&mut counts.unhealthy),
            Class::Draining => change(&mut counts.draining),
            Class::Ending => change(&mut self.ending),
            Class::Ended => {}
        }
        if member.class != Class::Ended && member.is_outdated() {
            change(&mut self.outdated);
            if member.is_leaving() || matches!(member.class, Class::Draining | Class::Ending) {
                change(&mut self.outdated_going);
            }
        }
        if member.is_placed() {
            let name = member.placed_by();
            if there && !self.placed.contains_key(name) {
                self.placed.insert(name.to_owned(), Placed::default());
            }
            if let Some(placed) = self.placed.get_mut(name) {
                change(&mut placed.staying);
                if member.class == Class::Pending {
                    change(&mut placed.pending);
                }
                if placed.staying == 0 {
                    self.placed.remove(name);
                }
            }
        }
    }
}
