//! What must always be true.
//!
//! Each invariant is a pure function of what was seen. The simulator checks them after every step; the running system checks
//! them where it acts and exports what it found as `epu_invariant_violations_total{invariant}`.
//!
//! A check looks at one thing that happened and says nothing when all is well. Those that speak of a span of time (I6, I8, I10) are
//! checked over a whole run by the simulator, with the functions here for one step of it.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::instance::{Cause, Instance, Work};
use crate::life::State;
use crate::time::Timestamp;

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

/// I1, second half: so many machines carry one instance's tags at once.
#[must_use]
pub fn one_machine(instance: crate::id::InstanceId, machines: usize) -> Option<Violation> {
    if machines > 1 {
        broken(Invariant::I1, format!("{machines} machines for instance {instance}"))
    } else {
        None
    }
}

/// I2: a launch of `more` is recorded in a pool with `staying` live instances that are not leaving.
#[must_use]
pub fn within_max(staying: u32, more: u32, max: u32) -> Option<Violation> {
    if more > 0 && staying + more > max {
        broken(
            Invariant::I2,
            format!("{staying} stay, {more} more are launched, the maximum is {max}"),
        )
    } else {
        None
    }
}

/// I3: an instance is being ended, its worker doing `work` as far as known.
#[must_use]
pub fn no_busy_ended(instance: &Instance) -> Option<Violation> {
    let ending = instance.ending.as_ref()?;
    let ran = instance.ready_at.is_some();
    if ending.why.is_choice() && ran && ending.work != Work::Idle {
        return broken(
            Invariant::I3,
            format!(
                "instance {} was ended for {:?} while {}",
                instance.id,
                ending.why,
                ending.work.word()
            ),
        );
    }
    let early = ending.why == Cause::DrainDeadline && instance.drain.as_ref().is_some_and(|drain| ending.since < drain.deadline);
    if early {
        broken(
            Invariant::I3,
            format!("instance {} was ended before its drain deadline", instance.id),
        )
    } else {
        None
    }
}

/// I4: these replacements were made, the pool's limit being `most` within `window`.
#[must_use]
pub fn within_replacement_limit(replaced: &[Timestamp], most: u32, window: Duration) -> Option<Violation> {
    for (n, first) in replaced.iter().enumerate() {
        let within = replaced.iter().skip(n).take_while(|at| at.since(*first) < window).count();
        if within > usize::try_from(most).unwrap_or(usize::MAX) {
            return broken(
                Invariant::I4,
                format!("{within} replacements within {window:?} of {first}, the limit is {most}"),
            );
        }
    }
    None
}

/// I5: an instance is seen at `now`, actions on deadlines taking `grace` at the longest.
#[must_use]
pub fn deadline_kept(instance: &Instance, now: Timestamp, grace: Duration) -> Option<Violation> {
    if instance.state.is_end() {
        return None;
    }
    let late = |at: Timestamp| now > at + grace;
    if let Some(at) = instance.deadline.filter(|at| late(*at)) {
        return broken(
            Invariant::I5,
            format!("instance {} is still in {} after its deadline {at}", instance.id, instance.state),
        );
    }
    match instance.drain.as_ref() {
        Some(drain) if instance.state < State::Terminating && late(drain.deadline) => broken(
            Invariant::I5,
            format!("instance {} still drains after its deadline {}", instance.id, drain.deadline),
        ),
        Some(_) | None => None,
    }
}

/// I9: a pool's target goes from one size to another by its engine's wish, and its engine's sensors could be read or not.
#[must_use]
pub fn no_blind_shrink(from: u32, to: u32, max: u32, readable: bool) -> Option<Violation> {
    if to < from.min(max) && !readable {
        broken(
            Invariant::I9,
            format!("the size aimed at went from {from} to {to} on a sensor that cannot be read"),
        )
    } else {
        None
    }
}

/// I12 and the rule that no state goes back: one record follows another.
#[must_use]
pub fn moved_legally(before: &Instance, after: &Instance) -> Option<Violation> {
    if after.version > before.version && after.state < before.state {
        return broken(
            Invariant::I12,
            format!("instance {} went back from {} to {}", before.id, before.state, after.state),
        );
    }
    let confirmed = before.state == State::Terminated || after.state != State::Terminated || after.machine.is_some();
    if confirmed {
        None
    } else {
        broken(
            Invariant::I12,
            format!("instance {} is TERMINATED without ever having had a machine", after.id),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::InstanceId;
    use crate::instance::{Drain, Ending};
    use uuid::Uuid;

    fn instance(state: State) -> Instance {
        let id = InstanceId(Uuid::from_u128(1));
        let text = format!(
            r#"{{"id": "{id}", "pool": "web", "launch": "{id}", "index": 0, "site": "here", "state": "{state}", "version": 1,
                "created_at": 0, "state_since": 0, "ready_at": 0, "machine": "m"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn each_can_be_broken_and_is_silent_when_kept() {
        assert!(one_machine(InstanceId(Uuid::nil()), 2).is_some() && one_machine(InstanceId(Uuid::nil()), 1).is_none());
        assert!(within_max(9, 2, 10).is_some() && within_max(8, 2, 10).is_none() && within_max(12, 0, 10).is_none());

        let mut busy = instance(State::Terminating);
        busy.ending = Some(Ending {
            since: Timestamp(5),
            why: Cause::ScaleIn,
            work: Work::Unknown,
            drained_for: None,
        });
        assert!(no_busy_ended(&busy).is_some());
        busy.ending = Some(Ending {
            since: Timestamp(5),
            why: Cause::DrainDeadline,
            work: Work::Busy,
            drained_for: None,
        });
        busy.drain = Some(Drain {
            since: Timestamp(0),
            deadline: Timestamp(6),
            why: Cause::ScaleIn,
        });
        assert!(no_busy_ended(&busy).is_some());
        busy.drain = Some(Drain {
            since: Timestamp(0),
            deadline: Timestamp(5),
            why: Cause::ScaleIn,
        });
        assert!(no_busy_ended(&busy).is_none());

        let times = [0, 10, 20, 70].map(|s| Timestamp(s * 1_000));
        assert!(within_replacement_limit(&times, 2, Duration::from_secs(60)).is_some());
        assert!(within_replacement_limit(&times, 3, Duration::from_secs(60)).is_none());

        let mut stuck = instance(State::Pending);
        stuck.deadline = Some(Timestamp(1_000));
        assert!(deadline_kept(&stuck, Timestamp(2_001), Duration::from_secs(1)).is_some());
        assert!(deadline_kept(&stuck, Timestamp(2_000), Duration::from_secs(1)).is_none());

        assert!(no_blind_shrink(5, 4, 10, false).is_some());
        assert!(
            no_blind_shrink(5, 4, 10, true).is_none()
                && no_blind_shrink(5, 4, 4, false).is_none()
                && no_blind_shrink(5, 6, 10, false).is_none()
        );

        let mut back = instance(State::Pending);
        back.version = 2;
        assert!(moved_legally(&instance(State::Running), &back).is_some());
        let mut unconfirmed = instance(State::Terminated);
        unconfirmed.version = 2;
        unconfirmed.machine = None;
        assert!(moved_legally(&instance(State::Terminating), &unconfirmed).is_some());
    }
}
