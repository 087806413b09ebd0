//! Records as they stand in a database's rows.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// How an instance is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// It must be new.
    New,
    /// It must be new, or one version above what is stored.
    Next,
}

/// A number as a database counts.
pub(crate) fn number(value: u64, of: &str) -> Result<i64, Error> {
    i64::try_from(value).map_err(|_| Error::Corrupt {
        what: of.to_owned(),
        why: format!("{value} is more than the store can count to"),
    })
}

/// A record as it is stored.
pub(crate) fn body(record: &impl Serialize, what: &str) -> Result<String, Error> {
    serde_json::to_string(record).map_err(|error| Error::Database {
        doing: format!("write {what} as JSON"),
        source: Box::new(error),
    })
}

/// A record as it was stored.
pub(crate) fn record<T: DeserializeOwned>(what: &str, name: impl FnOnce() -> String, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::Corrupt {
        what: format!("{what} {}", name()),
        why: error.to_string(),
    })
}
