//! Storms: worlds in which everything goes wrong for an hour by a seed, and then nothing does.
//!
//! A seed gives a [`Plan`]: pools, processes, and what happens to them when, each kind of fault at a rate of its own. [`play()`] carries it
//! out. While it storms the invariants are checked after every second; then all faults end, operators put back what they changed,
//! and within a stated time every pool has to have what it is to have, every job has to be done, and a teardown has to leave nothing.
//!
//! Which kinds of fault a seed has, and how many of each, is drawn too: a world with three kinds often goes deeper than one with sixty.
//!
//! What is found is [shrunk](shrink): events are left out for as long as the same still goes wrong. A plan can be written down and
//! played again on any machine. [`Coverage`] counts which faults met the system in which situations.

pub mod campaign;
pub mod coverage;
pub mod plan;
pub mod play;
pub mod settle;
pub mod shrink;
pub mod story;

pub use campaign::{Campaign, Failure, Report};
pub use coverage::Coverage;
pub use plan::{Event, Plan, Settings};
pub use play::{Found, Outcome, Trouble, play};

#[cfg(test)]
mod tests;
