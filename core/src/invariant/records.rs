//! What must be true of what is written.

use std::fmt;

use super::{Invariant, Violation, broken};
use crate::id::{InstanceId, LaunchId, PoolName};
use crate::reason::Reason;

/// A launch as it is recorded, or as it is called: which instances, and under which leadership term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intention<'a> {
    /// Its instances, in the order of their index.
    pub instances: &'a [InstanceId],
    /// The term that it was recorded under.
    pub epoch: u64,
}

/// I7: a launch is called so, and is recorded so before.
#[must_use]
pub fn intended(launch: LaunchId, called: Intention<'_>, recorded: Option<Intention<'_>>) -> Option<Violation> {
    match recorded {
        Some(recorded) if recorded == called => None,
        Some(_) => broken(Invariant::I7, format!("launch {launch} is called and was recorded otherwise")),
        None => broken(Invariant::I7, format!("launch {launch} is called and was not recorded")),
    }
}

/// I7: a launch is recorded under a term, the newest under which its pool's launches were recorded before being `newest`. Operators have
/// no terms: theirs are 0.
#[must_use]
pub fn newest_term(launch: LaunchId, epoch: u64, newest: u64) -> Option<Violation> {
    if epoch != 0 && epoch < newest {
        broken(
            Invariant::I7,
            format!("launch {launch} is recorded under term {epoch}, after others under {newest}"),
        )
    } else {
        None
    }
}

/// I8: a decision is recorded, and its engine, shown what was recorded with it, says so `again`; none when that cannot be read.
#[must_use]
pub fn reproduces(pool: &PoolName, recorded: (u32, &[Reason]), again: Option<(u32, &[Reason])>) -> Option<Violation> {
    match again {
        Some(again) if again == recorded => None,
        Some((desired, _)) => broken(
            Invariant::I8,
            format!(
                "pool {pool}: shown the same again, {} became {desired}, or its reasons others",
                recorded.0
            ),
        ),
        None => broken(
            Invariant::I8,
            format!("pool {pool}: what a decision was made on cannot be read again"),
        ),
    }
}

/// I11: something was `refused`; what it could have changed was so `before` and is so `after`.
#[must_use]
pub fn unchanged<T: PartialEq>(refused: impl fmt::Display, before: &T, after: &T) -> Option<Violation> {
    if before == after {
        None
    } else {
        broken(Invariant::I11, format!("{refused} was refused and changed something"))
    }
}
