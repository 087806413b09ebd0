//! The only place that names lapin.
//!
//! [`depth`] tells how long a RabbitMQ queue is, which is a sensor and has nothing to do with how our own processes talk.

mod address;
pub mod connection;
pub mod dashi;
mod cut;
pub mod depth;
pub mod error;
pub mod management;
pub mod metrics;
pub mod names;
pub mod settings;
mod wire;

pub use connection::{Link, Session};
pub use depth::QueueProbe;
pub use error::{Error, Why};
pub use metrics::Metrics;
pub use settings::Settings;
