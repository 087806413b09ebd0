//! Launches, contextualizes and terminates instances.
//!
//! Whatever is to be done is recorded before it is done, and what came of it after: a process that dies in between finds in the
//! store what it was about to do, and does it again, which every call allows. [`lifecycle`] says what may happen to an instance and
//! what follows; the loop around it gathers, writes and acts; drivers ([`iaas`]) make calls and know nothing else.
//!
//! Several processes may do this for one installation: one acts, the others stand by (`leadership`).
//!
//! Reading order: [`lifecycle`], [`iaas`], then `leadership`, `service`, `turn`, `launching`, `judging`, `watching`, `sweeping`, [`sites`],
//! `preview`, `agents`, `orders`, `checking`; [`pace`] for what calls wait for.

mod agents;
mod book;
mod checking;
pub mod config;
mod doors;
mod error;
pub mod iaas;
mod judging;
mod keeping;
mod launching;
mod leadership;
pub mod lifecycle;
pub mod metrics;
mod orders;
pub mod pace;
mod preview;
mod service;
mod site;
pub mod sites;
mod sweeping;
mod telling;
pub mod templates;
mod turn;
pub mod variables;
mod vouching;
mod watching;

pub use config::{Addresses, Config};
pub use error::Error;
pub use metrics::Metrics;
pub use service::{Parts, run};
