//! What must always be true.
//!
//! Each invariant is a pure function of what was seen, or several. The simulator calls them after every step, by what is truly so; the
//! running system calls the same where it acts, by what it knows, and exports what it found as
//! `epu_invariant_violations_total{invariant}` ([`Violations`]).
//!
//! A check looks at one thing that happened and says nothing when all is well. What a check cannot know, its caller does: whether a site
//! answered, whether the right to act is held, whether it has only just begun. Callers in the running system leave a check out rather
//! than guess, since an alarm that is often false is one that nobody hears.
//!
//! `instances` is about one instance or machine, `pools` about a pool's size, `records` about what is written.

mod instances;
mod pools;
mod records;
mod violations;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use instances::{confirmed_gone, deadline_kept, ended_as_recorded, moved_legally, no_busy_ended, nobody_stays, one_machine, swept};
pub use pools::{
    Course, converge_within, converged, holds_up, no_blind_shrink, spend, within_budget, within_max, within_replacement_limit,
};
pub use records::{Intention, intended, newest_term, reproduces, unchanged};
pub use violations::Violations;

/// The invariants, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Invariant {
    /// A machine with our tags and no record is gone within the sweep grace; none is launched twice for one instance id.
    I1,
    /// No launch is recorded that takes a pool's live, not leaving instances above the maximum then in force.
    I2,
    /// No worker chosen for scale-in, a move or refresh is ended while busy or unknown before its drain deadline.
    I3,
    /// Replacements in any window stay within the pool's limit.
    I4,
    /// No deadline passes without its action being taken and shown.
    I5,
    /// Once faults stop and sites answer, every pool reaches its target within a stated time.
    I6,
    /// Every IaaS call belongs to an intention recorded before it.
    I7,
    /// Replaying the decision log reproduces it exactly.
    I8,
    /// No pool shrinks because a sensor is stale, missing or invalid.
    I9,
    /// Spend stays within budget, plus what was in flight, plus what keeping the minimum costs.
    I10,
    /// Rejected input changes nothing.
    I11,
    /// `TERMINATED` only after the site confirms; teardown ends with zero live instances.
    I12,
}

/// All of them, in order.
pub const ALL: [Invariant; 12] = [
    Invariant::I1,
    Invariant::I2,
    Invariant::I3,
    Invariant::I4,
    Invariant::I5,
    Invariant::I6,
    Invariant::I7,
    Invariant::I8,
    Invariant::I9,
    Invariant::I10,
    Invariant::I11,
    Invariant::I12,
];

impl Invariant {
    /// `I1` to `I12`: the metric's label.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::I1 => "I1",
            Self::I2 => "I2",
            Self::I3 => "I3",
            Self::I4 => "I4",
            Self::I5 => "I5",
            Self::I6 => "I6",
            Self::I7 => "I7",
            Self::I8 => "I8",
            Self::I9 => "I9",
            Self::I10 => "I10",
            Self::I11 => "I11",
            Self::I12 => "I12",
        }
    }
}

/// Something that must always be true was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.invariant.id(), self.what)
    }
}

fn broken(invariant: Invariant, what: String) -> Option<Violation> {
    Some(Violation { invariant, what })
}

#[cfg(test)]
mod tests;
