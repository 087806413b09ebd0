//! The only place that names lapin.
//!
//! [`AmqpBus`] is how processes talk over RabbitMQ, on one kept [`connection`]; [`names`] has what is declared there and `wire`
//! what a message looks like. [`dead`] are messages that cannot be handled. [`dashi`] is the wire of
//! the original's Python clients. [`depth`] tells how long a RabbitMQ queue is, which is a
//! sensor and has nothing to do with how our own processes talk.

mod address;
mod asking;
mod bus;
mod common;
pub mod connection;
mod cut;
pub mod dashi;
pub mod dead;
pub mod depth;
pub mod error;
mod facts;
pub mod management;
pub mod metrics;
pub mod names;
mod serving;
pub mod settings;
mod wire;

pub use bus::AmqpBus;
pub use connection::{Link, Session};
pub use dead::{DeadLetters, Fate, Letter};
pub use depth::QueueProbe;
pub use error::{Error, Why};
pub use facts::FACTS_WAITING;
pub use metrics::Metrics;
pub use settings::Settings;

/// The code of a fault as a label of a metric: one that is not in the list came from elsewhere and must not become one.
fn outcome(code: &str) -> &'static str {
    let known = epu_core::code::CODES.iter().find(|(known, _, _)| *known == code);
    known.map_or("other", |(known, _, _)| known)
}
