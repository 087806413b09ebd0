//! How many workers a pool should have.
//!
//! An [`Engine`] is a pure function from an [`Observation`] to a [`Decision`]: no clock, no store, no randomness, no waiting. It is
//! shown counts, readings and slots, not instances: it says *how many*, and the controller's plan, which knows who is busy, says
//! *which*. So an engine is cheap whatever the size of the pool, what it was shown can be recorded whole and shown to it again,
//! and a bad one cannot pick a busy victim.
//!
//! Engines are found by name in a [`Registry`], with their settings checked against the schema that each one publishes. There are
//! two: [`keep`] holds a number, [`queue_length`] follows a queue between two marks.
//!
//! Changing a pool's settings makes a new engine. Nothing is lost by that: what an engine goes by is in the observation, the size
//! last aimed at included, and what else it must remember is the [`Memory`] it handed back.
//!
//! Behaviour is shown by `traces/`: each is a series of observations, with the table of decisions and reasons beside it.

mod bounds;
mod decision;
pub mod keep;
mod observation;
pub mod queue_length;
pub mod reasons;
pub mod registry;
pub mod settings;

pub use decision::{Decision, Memory};
pub use observation::{Counts, Observation, Seen};
pub use registry::Registry;
pub use settings::Problem;

use epu_core::id::SensorName;

/// Decides how many.
pub trait Engine: Send + Sync + std::fmt::Debug {
    /// Pure: the same observation always gives the same decision.
    fn decide(&self, seen: &Observation) -> Decision;
    /// Name and version, such as `keep/1`; memory of another version is not handed to it.
    fn version(&self) -> &'static str;
    /// The sensors that it needs.
    fn sensors(&self) -> Vec<SensorName> {
        Vec::new()
    }
}
