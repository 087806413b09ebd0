//! What a refresh sees of a pool's members, and whom it would take first.

use std::collections::{BTreeMap, BTreeSet};

use epu_core::health::Health;
use epu_core::id::{InstanceId, LaunchId};
use epu_core::instance::Work;
use epu_core::time::Timestamp;

use super::{Asked, Progress, came_to_nothing, size};
use crate::guards::decided_at;
use crate::view::{Class, Member};

/// One that may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    /// When the first of its version came to be.
    version_at: Timestamp,
    /// Not running yet, idle, silent about it, busy.
    tier: u8,
    slotted: bool,
    since: i64,
    id: InstanceId,
    /// Whether it runs in good health.
    ready: bool,
}

/// What the members come to.
#[derive(Debug, Default)]
pub(super) struct Seen<'a> {
    pub(super) candidates: Vec<Candidate>,
    /// Of older versions, staying and protected.
    pub(super) protected: u32,
    /// Staying, of any version.
    pub(super) staying: u32,
    /// Of those, how many run in good health.
    ready: u32,
    /// Of the new version and not running yet.
    pub(super) coming: u32,
    /// Of the new version, live and in bad health.
    pub(super) sick: u32,
    /// Of the new version and in good health: when the first came up after the last failure.
    pub(super) newcomer: Option<Timestamp>,
    /// Of the new version: what came to nothing since it was last counted.
    pub(super) failures: BTreeSet<(Timestamp, LaunchId)>,
    pub(super) fault: Option<&'a str>,
}

impl<'a> Seen<'a> {
    pub(super) fn of(asked: &Asked<'a>, progress: &Progress) -> Self {
        let mut seen = Self::default();
        let mut first_of: BTreeMap<&str, Timestamp> = BTreeMap::new();
        let mut old: Vec<&Member> = Vec::new();
        for member in asked.view.members() {
            let stays = matches!(member.class(), Class::Pending | Class::Running) && !asked.going.contains(&member.instance.id);
            let ready = stays && is_ready(member);
            seen.staying += u32::from(stays);
            seen.ready += u32::from(ready);
            if member.is_outdated() {
                if member.class() == Class::Ended {
                    continue;
                }
                let first = first_of.entry(&member.instance.template).or_insert(member.instance.created_at);
                *first = (*first).min(member.instance.created_at);
                if stays && member.instance.protected {
                    seen.protected += 1;
                } else if stays && member.health != Health::OutOfContact {
                    old.push(member);
                }
            } else if asked.view.is_placed(&member.instance) {
                seen.take_new(member, stays, ready, progress);
            }
        }
        let candidate = |member: &Member| Candidate {
            version_at: first_of
                .get(member.instance.template.as_str())
                .copied()
                .unwrap_or(member.instance.created_at),
            tier: match (member.class(), member.work) {
                (Class::Pending, _) => 0,
                (_, Work::Idle) => 1,
                (_, Work::Unknown) => 2,
                (_, Work::Busy) => 3,
            },
            slotted: member.instance.slot.is_some(),
            since: match member.class() {
                Class::Running => member.work_since.0,
                Class::Pending | Class::Unhealthy | Class::Draining | Class::Ending | Class::Ended => member.instance.created_at.0,
            },
            id: member.instance.id,
            ready: is_ready(member),
        };
        seen.candidates = old.into_iter().map(candidate).collect();
        seen.candidates.sort_unstable();
        seen
    }

    fn take_new(&mut self, member: &'a Member, stays: bool, ready: bool, progress: &Progress) {
        let counted_until = progress.counted_until;
        self.coming += u32::from(stays && member.class() == Class::Pending);
        self.sick += u32::from(member.class() == Class::Unhealthy && !member.is_leaving());
        if let Some(ready_at) = member.instance.ready_at.filter(|at| ready && *at > counted_until) {
            self.newcomer = Some(self.newcomer.map_or(ready_at, |first| first.min(ready_at)));
        }
        if let Some(at) = came_to_nothing(&member.instance) {
            // Also of one that was counted before: it is what a person wants to know.
            self.fault = member.instance.fault.as_ref().map(|fault| one_line(&fault.text)).or(self.fault);
            let decided = decided_at(member.instance.launch).unwrap_or(member.instance.created_at);
            if at > counted_until && decided >= progress.counts_from {
                self.failures.insert((at, member.instance.launch));
            }
        }
    }

    /// How many are left that fill no slot, so that another can be launched first for each.
    pub(super) fn generic(&self, drained: &[InstanceId]) -> u32 {
        let left = self.candidates.iter().filter(|c| !c.slotted && !drained.contains(&c.id));
        size(left.count())
    }

    /// Whom to drain: `most` of them at the most, and never so many that fewer run in good health than are to; of those that drain before
    /// others are launched, never so many that fewer than `after_drain_first` do.
    pub(super) fn choose(&self, target: u32, after_drain_first: u32, may_surge: bool, most: u32) -> Vec<InstanceId> {
        let mut ready = self.ready;
        let mut chosen = Vec::new();
        for candidate in &self.candidates {
            if size(chosen.len()) >= most {
                break;
            }
            let least = if may_surge && !candidate.slotted {
                target
            } else {
                after_drain_first
            };
            if candidate.ready {
                if ready <= least {
                    continue;
                }
                ready -= 1;
            }
            chosen.push(candidate.id);
        }
        chosen
    }
}

/// Whether it does its work, as far as anybody can tell.
fn is_ready(member: &Member) -> bool {
    member.class() == Class::Running && member.health == Health::Ok
}

/// The beginning of a text, in one line.
fn one_line(text: &str) -> &str {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.char_indices()
        .nth(160)
        .map_or(line, |(end, _)| line.get(..end).unwrap_or(line))
}
