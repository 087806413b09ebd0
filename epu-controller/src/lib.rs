//! Decides how many workers each pool has, and asks for them.
//!
//! Facts come in ([`view`]), health is judged ([`health`]), an engine says how many, guardrails say what that comes to ([`plan`]), the
//! decision is stored with its commands in one transaction, and only then are the commands sent ([`outbox`]). What decides is pure;
//! [`service`] gathers, calls it, records and acts.
//!
//! Several controllers share the pools by shards ([`epu_core::lease`]): each decides for those it leads (`leadership`) and answers for
//! all (`routing`).
//!
//! Losing this process loses nothing: what it remembers is in the store, what it asked for is in the outbox until it is
//! accepted, and what it knew of instances and sensors is told to it again.

pub mod config;
mod deciding;
pub mod error;
mod gathering;
pub mod guards;
pub mod health;
mod hearing;
mod leadership;
pub mod listening;
mod loading;
mod managing;
pub mod metrics;
pub mod ops;
mod orders;
pub mod outbox;
mod outcomes;
mod placements;
pub mod plan;
mod refreshing;
mod rolling;
pub mod rollout;
mod routing;
mod sending;
pub mod service;
pub mod show;
pub mod spec;
mod steering;
pub mod view;

pub use config::Config;
pub use error::Error;
pub use metrics::Metrics;
pub use service::{Parts, run};
