//! Why the provisioner could not go on.

/// What ends [`run`](crate::run). Everything else is answered to whoever asked, recorded, or tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is recorded could not be understood.
    #[error("read the provisioner's records")]
    Load(#[source] epu_store::Error),
    /// Somebody else answers for the provisioner on this bus now, though this one leads.
    #[error("another provisioner has taken over on this bus")]
    Replaced,
}
