//! What happens to one instance, as a function: its record and a happening in, its new record and what is to be done out.
//!
//! The table of moves is core's [`State::next`]; here are the fields that go with each move, the deadline of every passing state,
//! and the effects. A happening that changes nothing gives the same record with the same version, so that repeating a report or a
//! command costs no write.
//!
//! **Invariant**: no state but `600-RUNNING` and the ends is without a deadline, and a deadline that passes always does something:
//! it moves the instance on or asks again.

use std::time::Duration;

use epu_core::Fault;
use epu_core::code::READY_UNHEARD;
use epu_core::id::InstanceId;
use epu_core::instance::{Cause, Drain, Ending, Exit, Instance, Work};
use epu_core::life::{Event, Illegal, State};
use epu_core::time::Timestamp;

/// How long each passing state may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From acceptance to an answer of the site.
    pub launch_window: Duration,
    /// From the site's answer to the agent's `ready`: the template's.
    pub ready_within: Duration,
    /// How long a failed instance is left for its pool to replace it in its own order.
    pub failed_grace: Duration,
    /// How long ending may take before it is asked for again.
    pub terminate_within: Duration,
}

/// What happened to an instance.
#[derive(Debug, Clone, PartialEq)]
pub enum Happening {
    /// The site had a passing difficulty with its launch.
    Retrying(Fault),
    /// The site launched it.
    Launched {
        /// The site's name for the machine.
        machine: String,
        /// Where it can be reached, once known.
        address: Option<String>,
    },
    /// The site will not launch it, or has nothing of it.
    LaunchFailed(Fault),
    /// The site lists its machine as running.
    Up,
    /// Its agent claimed its context.
    Claimed {
        /// A digest of the agent's nonce.
        digest: String,
    },
    /// Its agent is ready.
    Ready {
        /// Where it can be reached, if it can.
        address: Option<String>,
    },
    /// Its agent, or we, found that it cannot become ready.
    NotReady(Fault),
    /// Told to drain, its worker finished.
    Drained(Exit),
    /// Its worker ended unasked.
    Exited(Exit),
    /// It is to drain, for as long as lies between the order and its deadline, counted from now. The same order again changes nothing.
    Drain(Drain),
    /// It is to go on.
    WithdrawDrain,
    /// It is protected from scale-in, or no longer.
    Protect(bool),
    /// It is to be ended.
    Terminate {
        /// Why.
        why: Cause,
        /// What its worker is doing, as far as the asker knows.
        work: Work,
    },
    /// The site halted its machine and keeps it: no work is done there, and none will be.
    Halted,
    /// Fewer of its launch became ready than make that worth having.
    Undone(Fault),
    /// The site confirmed that nothing of it is left.
    Gone,
    /// Its deadline passed.
    Overdue,
}

/// What is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask the site to end this machine.
    EndMachine(String),
    /// The deadline of this state passed and was acted upon.
    DeadlinePassed(State),
    /// Its worker is ended although it did not finish draining.
    DrainCutShort,
}

/// When something must be done about an instance if nothing happens.
#[must_use]
pub fn due_at(instance: &Instance) -> Option<Timestamp> {
    let drain = instance
        .drain
        .as_ref()
        .filter(|_| instance.state < State::Terminating)
        .map(|drain| drain.deadline);
    match (instance.deadline, drain) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// One happening. See the module's text.
///
/// # Errors
/// [`Illegal`] when it cannot happen to an instance in this state; then nothing changes.
pub fn step(was: &Instance, happening: Happening, now: Timestamp, limits: &Deadlines) -> Result<(Instance, Vec<Effect>), Illegal> {
    let mut next = was.clone();
    let mut effects = Vec::new();
    let mut go = |next: &mut Instance, event: Event| -> Result<(), Illegal> {
        let to = next.state.next(event)?;
        if to != next.state {
            enter(next, to, now, limits);
        }
        Ok(())
    };
    match happening {
        Happening::Retrying(fault) => {
            go(&mut next, Event::Retrying)?;
            next.fault = Some(fault);
        }
        Happening::Launched { machine, address } => {
            go(&mut next, Event::Launched)?;
            let is_news = next.machine.is_none();
            if is_news {
                // A difficulty that has passed is no fault of the instance.
                if next.state == State::Pending {
                    next.fault = None;
                }
                next.machine = Some(machine);
            }
            next.address = next.address.or(address);
            if is_news && next.state == State::Terminating {
                effects.extend(next.machine.clone().map(Effect::EndMachine));
            }
        }
        Happening::LaunchFailed(fault) => {
            go(&mut next, Event::LaunchFailed)?;
            next.fault = Some(fault);
        }
        Happening::Up => go(&mut next, Event::Up)?,
        Happening::Claimed { digest } => {
            if next.state >= State::RunningFailed {
                return Err(Illegal {
                    from: next.state,
                    event: Event::Ready,
                });
            }
            next.claim.get_or_insert(digest);
        }
        Happening::Ready { address } => {
            go(&mut next, Event::Ready)?;
            next.ready_at.get_or_insert(now);
            next.address = address.or(next.address);
            if was.state != State::Running {
                next.fault = None;
            }
        }
        Happening::NotReady(fault) => {
            go(&mut next, Event::NotReady)?;
            if was.state != State::RunningFailed {
                next.fault = Some(fault);
            }
        }
        Happening::Drained(exit) => {
            next.exit.get_or_insert(exit);
            end(&mut next, Cause::Drained, Work::Idle, now, &mut effects, &mut go)?;
        }
        Happening::Exited(exit) => {
            if next.state < State::Terminating {
                let why = match (&next.drain, exit.is_success()) {
                    (Some(_), _) => Some(Cause::Drained),
                    (None, true) => Some(Cause::Finished),
                    (None, false) => None,
                };
                if !exit.is_success() && next.exit.is_none() {
                    next.fault = Some(Fault::new("worker-failed", describe_exit(&exit)));
                }
                next.exit.get_or_insert(exit);
                if let Some(why) = why {
                    end(&mut next, why, Work::Idle, now, &mut effects, &mut go)?;
                }
            } else {
                next.exit.get_or_insert(exit);
            }
        }
        Happening::Drain(ordered) => {
            let drain = accepted(ordered, now);
            let may_work = may_work(&next);
            if next.state < State::Terminating && !may_work {
                // Nothing runs there that could be interrupted.
                end(&mut next, drain.why, Work::Idle, now, &mut effects, &mut go)?;
            } else if next.state < State::Terminating {
                match &mut next.drain {
                    Some(standing) => also(standing, &drain),
                    None => next.drain = Some(drain),
                }
            }
        }
        Happening::WithdrawDrain => {
            // Nobody can withdraw what the site announced.
            let is_announced = next.drain.as_ref().is_some_and(|drain| drain.why == Cause::Interrupted);
            if next.state < State::Terminating && !is_announced {
                next.drain = None;
                if next.state == State::RunningFailed {
                    // Its end was left to the drain.
                    next.deadline = next.deadline.or(Some(now + limits.failed_grace));
                }
            }
        }
        Happening::Protect(on) => next.protected = on,
        Happening::Terminate { why, work } => end(&mut next, why, work, now, &mut effects, &mut go)?,
        Happening::Halted => {
            if next.state < State::Terminating {
                next.fault = Some(halted());
                end(&mut next, Cause::Vanished, Work::Unknown, now, &mut effects, &mut go)?;
            }
        }
        Happening::Undone(fault) => {
            if next.state < State::Terminating {
                // What it failed with by itself says more.
                next.fault.get_or_insert(fault);
                end(&mut next, Cause::NotReady, Work::Unknown, now, &mut effects, &mut go)?;
            }
        }
        Happening::Gone => {
            go(&mut next, Event::Gone)?;
            if next.ending.is_none() && next.state == State::Terminated {
                next.ending = Some(ending(&next, Cause::Vanished, Work::Unknown, now));
            }
            if next.state == State::Failed && was.state != State::Failed {
                next.fault.get_or_insert_with(nothing_there);
            }
        }
        Happening::Overdue => overdue(&mut next, now, limits, &mut effects, &mut go)?,
    }
    if next != *was {
        next.version = was.version + 1;
    }
    Ok((next, effects))
}

/// What a launch that nobody answered and whose machine nobody lists came to.
#[must_use]
pub fn nothing_there() -> Fault {
    Fault::new(
        "launch-timeout",
        "the site did not answer the launch in time and lists nothing for it",
    )
}

fn halted() -> Fault {
    Fault::new(
        "machine-stopped",
        "the site shows its machine as stopped, which nobody here asked for; it is ended",
    )
}

/// Whether a worker may run there. An agent that fetched its context and then could not reach the provisioner may have started one.
fn may_work(instance: &Instance) -> bool {
    let is_unheard = instance.fault.as_ref().is_some_and(|fault| fault.code == READY_UNHEARD);
    match instance.state {
        State::Running => true,
        State::Requesting | State::Requested | State::ErrorRetrying | State::Pending | State::Started => instance.claim.is_some(),
        State::RunningFailed => instance.claim.is_some() && is_unheard,
        State::Terminating | State::Terminated | State::Failed | State::Rejected => false,
    }
}

/// Another order to drain joins one that stands: the earlier deadline holds, and what the site announced stays the reason.
fn also(standing: &mut Drain, another: &Drain) {
    if another.deadline < standing.deadline {
        standing.deadline = another.deadline;
        if standing.why != Cause::Interrupted {
            standing.why = another.why;
        }
    }
    if another.why == Cause::Interrupted {
        standing.why = Cause::Interrupted;
    }
}

fn enter(instance: &mut Instance, to: State, now: Timestamp, limits: &Deadlines) {
    // The time to become ready is counted from the launch: coming up does not begin it anew.
    let deadline = match to {
        State::Requesting | State::Requested | State::ErrorRetrying => instance.deadline.or(Some(now + limits.launch_window)),
        State::Pending => Some(now + limits.ready_within),
        State::Started if instance.state == State::Pending => instance.deadline.or(Some(now + limits.ready_within)),
        State::Started => Some(now + limits.ready_within),
        State::RunningFailed => Some(now + limits.failed_grace),
        State::Terminating => Some(now + limits.terminate_within),
        State::Running | State::Terminated | State::Failed | State::Rejected => None,
    };
    instance.state = to;
    instance.state_since = now;
    instance.deadline = deadline;
}

/// A drain order as it is from its acceptance on. It may have been under way for long, and its time is the worker's: it begins now.
fn accepted(ordered: Drain, now: Timestamp) -> Drain {
    Drain {
        deadline: now + ordered.deadline.since(ordered.since),
        ..ordered
    }
}

fn ending(instance: &Instance, why: Cause, work: Work, now: Timestamp) -> Ending {
    Ending {
        since: now,
        why,
        work,
        drained_for: instance.drain.as_ref().map(|drain| drain.why),
    }
}

fn end(
    next: &mut Instance,
    why: Cause,
    work: Work,
    now: Timestamp,
    effects: &mut Vec<Effect>,
    go: &mut impl FnMut(&mut Instance, Event) -> Result<(), Illegal>,
) -> Result<(), Illegal> {
    if next.state.is_end() {
        return Ok(());
    }
    go(next, Event::Terminate)?;
    if next.ending.is_none() {
        next.ending = Some(ending(next, why, work, now));
    }
    // Asked again it is asked of the site again: that is harmless there, and the first time may have been lost.
    effects.extend(next.machine.clone().map(Effect::EndMachine));
    Ok(())
}

fn overdue(
    next: &mut Instance,
    now: Timestamp,
    limits: &Deadlines,
    effects: &mut Vec<Effect>,
    go: &mut impl FnMut(&mut Instance, Event) -> Result<(), Illegal>,
) -> Result<(), Illegal> {
    if due_at(next).is_none_or(|due| due > now) {
        return Ok(());
    }
    let state = next.state;
    let by_drain = next
        .drain
        .as_ref()
        .is_some_and(|drain| state < State::Terminating && drain.deadline <= now);
    effects.push(Effect::DeadlinePassed(state));
    if by_drain {
        effects.push(Effect::DrainCutShort);
        return end(next, Cause::DrainDeadline, Work::Unknown, now, effects, go);
    }
    match state {
        // It is not repeated any more; a complete list settles it (`watching`). Until then this is shown again and again.
        State::Requesting | State::Requested | State::ErrorRetrying => next.deadline = Some(now + limits.terminate_within),
        State::Pending | State::Started => {
            let waited = epu_core::Span(limits.ready_within);
            go(next, Event::NotReady)?;
            next.fault = Some(Fault::new(
                READY_UNHEARD,
                format!("not ready within {waited}: its agent did not report that set-up succeeded"),
            ));
        }
        // Its worker was given time to finish, and that ends by itself.
        State::RunningFailed if next.drain.is_some() => next.deadline = None,
        State::RunningFailed => end(next, Cause::NotReady, Work::Idle, now, effects, go)?,
        State::Terminating => {
            next.deadline = Some(now + limits.terminate_within);
            effects.extend(next.machine.clone().map(Effect::EndMachine));
        }
        State::Running | State::Terminated | State::Failed | State::Rejected => next.deadline = None,
    }
    Ok(())
}

fn describe_exit(exit: &Exit) -> String {
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!("with code {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "in an unknown way".to_owned(),
    };
    if exit.output.is_empty() {
        format!("the worker ended unasked {how}")
    } else {
        format!("the worker ended unasked {how}: {}", exit.output)
    }
}

/// The order of an instance's machines within its launch decides which is which; see [`crate::iaas::Machine`].
#[must_use]
pub fn instance_at(ids: &[InstanceId], index: u32) -> Option<InstanceId> {
    ids.get(usize::try_from(index).ok()?).copied()
}

#[cfg(test)]
mod tests;
