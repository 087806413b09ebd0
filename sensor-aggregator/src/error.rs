//! What ends an aggregator. What is wrong with a reading travels in it as a fault.

/// Why the aggregator ended without being told to.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Somebody else now serves heartbeats on this bus.
    #[error("another aggregator took over the heartbeats of this bus")]
    Replaced,
    /// The bus gives no more facts.
    #[error("the bus is gone")]
    BusGone,
}
