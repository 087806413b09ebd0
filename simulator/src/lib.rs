//! The simulated world: clock, cloud, agents, workers, queues and operators; the production services run in it unchanged.
//!
//! Everything runs in one thread under tokio's paused clock, from one seed. When nobody has anything to do, time jumps to the next
//! thing that is due, so an hour takes as long as what happens in it. The same seed gives the same run: ids, jitter and luck come
//! from seeded sources, order comes from ordered maps and queues, and nothing waits for the real world.
//!
//! What is simulated is only the edge: [`cloud`] stands for a site, [`machines`] for what runs there with its agent (the production
//! agent over a simulated link and host) and its worker ([`ill`] is what can be the matter with them), [`queue`] for the work, [`sensors`] for what is read of it, [`net`] for the
//! way between processes, [`time`] for the clock. Services get them through the same traits as the real ones.
//!
//! [`fault`] is what can go wrong with it, written down; [`storm`] draws hours of it from a seed, plays them, and shrinks what it finds.
//! [`edge`] is where one process meets the rest, and where it can be stopped or die.
//! [`play`] lets somebody's own pools meet a workload, and puts what happens into numbers.
//!
//! [`ledger`] stands between the services and their store: what they write passes [`watch`], which checks the invariants against what
//! is truly so (which machines run, which workers are busy), not against what services claim. [`world`] puts it all together and is
//! what tests speak to.
//!
//! **Invariant:** nothing here is known to the services: no service has a branch, a setting or a type for being simulated.

pub mod cloud;
pub mod edge;
pub mod fault;
pub mod host;
pub mod ill;
pub mod ledger;
pub mod machines;
pub mod net;
pub mod pausable;
pub mod play;
pub mod process;
pub mod queue;
pub mod sensors;
pub mod setup;
pub mod storm;
pub mod time;
pub mod transcript;
pub mod watch;
pub mod world;

pub use epu_core::request::Service;
pub use process::Process;
pub use setup::Setup;
pub use time::{hours, millis, minutes, seconds};
pub use world::World;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The content of a lock. Nothing here panics while it holds one, other than by a fault of the simulator that ends the run anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
