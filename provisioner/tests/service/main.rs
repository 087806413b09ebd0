//! The provisioner as a whole: requests in, calls and records out.
#![expect(clippy::unwrap_used, reason = "tests")]

mod agents;
mod asking;
mod crashes;
mod forgetful;
mod halting;
mod invariants;
mod judging;
mod launches;
mod orders;
mod pacing;
mod preview;
mod several;
mod sites;
mod unpooled;
mod watching;
mod world;
