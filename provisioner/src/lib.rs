//! Launches, contextualizes and terminates instances.

pub mod iaas;
pub mod lifecycle;
