//! What ends an aggregator, and the codes of the faults that its readings carry.

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

/// The codes that a reading's fault can carry beside those of `core`: code, what it means, what to do.
pub const CODES: &[(&str, &str, &str)] = &[
    (
        "directory-missing",
        "the directory that a sensor counts does not exist",
        "make it, or mend the sensor's `path` or `in-progress`",
    ),
    (
        "directory-unreadable",
        "the directory that a sensor counts cannot be read",
        "let the user that runs the aggregator read and enter it",
    ),
    (
        "invalid-reading",
        "what a sensor gave is not a number",
        "look at what the source says; nothing is decided on it",
    ),
    (
        "no-reports",
        "no running worker of the pool reports the reading",
        "let the workers write it to `$EPU_DIR/readings`; it is never taken as zero",
    ),
];
