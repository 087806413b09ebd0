//! What must be true of an instance and its machine.

use std::time::Duration;

use super::{Invariant, Violation, broken};
use crate::id::InstanceId;
use crate::instance::{Cause, Instance, Work};
use crate::life::State;
use crate::time::Timestamp;

/// I1: a machine with our tags has been there `since`, and no record explains it; it is to be gone `within` so long.
///
/// Does not apply while its site does not answer, or refuses to end machines: `since` begins anew after that.
#[must_use]
pub fn swept(machine: &str, since: Timestamp, now: Timestamp, within: Duration) -> Option<Violation> {
    if now.since(since) > within {
        broken(
            Invariant::I1,
            format!("machine {machine} has been there without a record since {since}"),
        )
    } else {
        None
    }
}

/// I1, second half: so many machines carry one instance's tags at once.
#[must_use]
pub fn one_machine(instance: InstanceId, machines: usize) -> Option<Violation> {
    if machines > 1 {
        broken(Invariant::I1, format!("{machines} machines for instance {instance}"))
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

/// I7, for a call that ends a machine: the record whose machine it is, if one lives, says that it is being ended.
#[must_use]
pub fn ended_as_recorded(machine: &str, of: Option<&Instance>) -> Option<Violation> {
    let instance = of.filter(|instance| instance.state < State::Terminating)?;
    let (id, state) = (instance.id, instance.state);
    broken(
        Invariant::I7,
        format!("machine {machine} is to be ended, and its instance {id} is recorded as {state}"),
    )
}

/// I12 and the rule that no state goes back: one record follows another.
#[must_use]
pub fn moved_legally(before: &Instance, after: &Instance) -> Option<Violation> {
    // That it was refused is a word and no record: another copy of the request may have been carried out all the same.
    if before.state == State::Rejected {
        return None;
    }
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

/// I12: a record becomes `TERMINATED`; whether its site has said by then that the machine is gone.
#[must_use]
pub fn confirmed_gone(instance: &Instance, confirmed: bool) -> Option<Violation> {
    if confirmed || instance.state != State::Terminated {
        return None;
    }
    broken(
        Invariant::I12,
        format!(
            "instance {} is TERMINATED and its site has not said that its machine is gone",
            instance.id
        ),
    )
}

/// I12: an installation that was closed by teardown has so many live instances that nobody told to go. What was told has a deadline
/// (I5), so that in the end none is left.
#[must_use]
pub fn nobody_stays(staying: usize) -> Option<Violation> {
    if staying > 0 {
        broken(
            Invariant::I12,
            format!("the installation is closed, and {staying} live instances were not told to go"),
        )
    } else {
        None
    }
}
