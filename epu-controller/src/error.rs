//! What stops the controller.

/// What stops the controller. Everything else is logged, shown and tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Without its records it cannot begin.
    #[error("load {what}")]
    Load {
        /// What.
        what: &'static str,
        /// Why not.
        source: epu_store::Error,
    },
}
