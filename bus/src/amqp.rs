//! The only place that names lapin.
//!
//! [`depth`] tells how long a RabbitMQ queue is, which is a sensor and has nothing to do with how our own processes talk.

mod cut;
pub mod depth;
pub mod management;

pub use depth::QueueProbe;
