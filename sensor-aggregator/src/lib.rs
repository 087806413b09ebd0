//! What workers and queues last said.
//!
//! Agents send heartbeats, sensors are read, and once a second everyone who decides is told what is new: how long ago each
//! instance was heard, how its worker is, and what each sensor said. Nothing here decides anything and nothing is stored: after
//! a restart the next heartbeats and readings say it all again.
//!
//! Several may run at a time: any may take any heartbeat, each tells what it heard and for how long it has been listening, and
//! whoever decides puts that together. What is put together from the readings of a pool's workers is told by the one that hears
//! most of them; agents of one pool prefer the same one. `membership` is how agents come to know of each.
//!
//! [`window`] and [`readings`] are pure: what was heard, given the time as an argument. [`sensors`] are where readings come from.
//! `watch` keeps one task a sensor, and [`service`] is the loop around all of it.
//!
//! **Invariant:** an amount that could not be read is never zero and never another source's amount.
//! **Invariant:** a sender's clock judges nothing; what is old is old on the aggregator's clock.

pub mod config;
pub mod error;
mod membership;
pub mod metrics;
pub mod readings;
pub mod sensors;
pub mod service;
mod watch;
pub mod window;

pub use config::Config;
pub use error::Error;
pub use metrics::Metrics;
pub use service::{Outcome, Parts, run};
