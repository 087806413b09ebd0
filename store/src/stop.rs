//! Why a method of a store in SQL does not go on.

use crate::Error;

/// Why not.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A rule of the store says no.
    Said(Error),
    /// The database does not do it. Nothing was written.
    Database(sqlx::Error),
    /// The database did not say that it was written, nor that it was not.
    Unsure(sqlx::Error),
    /// No answer came in time; what was sent last may have been done.
    Silent,
    /// The disk does not do it.
    Disk(std::io::Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Said(error)
    }
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error)
    }
}

/// Does something until it is done, refused, or not worth another try, within a limit for each try.
///
/// A function would do, were it not that a closure that can be called again cannot promise that what it gives can be sent.
macro_rules! attempt {
    ($store:ident, $within:expr, $doing:expr, $body:block) => {{
        let mut tried = 0;
        loop {
            let once = $store.bounded($within, async { $body }).await;
            match once {
                Err(stop) if $store.is_worth_another_try(&stop, tried).await => tried += 1,
                done => break done.map_err(|stop| $store.failed(stop, $doing)),
            }
        }
    }};
}
pub(crate) use attempt;
