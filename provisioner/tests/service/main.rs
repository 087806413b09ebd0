//! The provisioner as a whole: requests in, calls and records out.
#![expect(clippy::unwrap_used, reason = "tests")]

mod agents;
mod launches;
mod orders;
mod several;
mod unpooled;
mod watching;
mod world;
