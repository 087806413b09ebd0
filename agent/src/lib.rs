//! Runs on each instance: fetches what the instance is to be, sets it up, starts the worker and watches it, says how it is, and
//! obeys orders. Local instances run it as `epumgmt agent`, machines as the small `epu-agent`; both call [`start`].
//!
//! [`life`] decides and never waits, reads a clock or touches anything: events in, actions out. [`mod@run`] performs the actions
//! through two traits, so that the simulator runs the very same agent: [`link::Link`] to the services and [`host::Host`] to the
//! machine. [`process::ProcessHost`] is a real machine, [`link::HttpLink`] a real network. On a machine that is rented,
//! [`metadata`] says which one of its launch it is, and when its site takes it away.
//!
//! **How worker and agent talk**, from any language: the worker writes `busy` or `idle` to `$EPU_DIR/status`, and if it likes
//! `name value` lines to `$EPU_DIR/readings`. When it is to finish, the file `$EPU_DIR/drain` appears (it holds the deadline, in
//! milliseconds since 1970), and then it gets the template's drain signal.
//!
//! **What survives the agent**: `agent.json` holds the nonce it claimed its instance with, what it was told to be, and which
//! process its worker is; `exit.json` how the worker ended. A restarted agent never runs set-up again and never starts a second
//! worker: it watches the one that lives, or reports that it ended. A second agent beside a living one finds the directory locked
//! and exits.
//!
//! **What the agent never does**: it ends no healthy worker because a service is silent. Reports are repeated until accepted,
//! heartbeats are not; both go on by themselves when the services are back.

pub mod config;
pub mod error;
pub mod events;
pub mod files;
pub mod host;
pub mod life;
pub mod link;
mod main_loop;
pub mod metadata;
pub mod process;
mod procfs;
pub mod run;
pub mod status;

pub use config::Config;
pub use error::Error;
pub use life::Ended;
pub use main_loop::{serve, start};
pub use run::{Parts, run};
