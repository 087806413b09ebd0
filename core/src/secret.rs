//! Secrets as references: where to find one, never the thing itself. What is read from a reference is shown as `***`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// An address that may hold a password, written `env:NAME`, `file:/path`, or in the open when it holds none.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

/// Why a secret could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The variable is not set.
    #[error("environment variable {0} is not set")]
    NoVariable(String),
    /// It is written in the open.
    #[error("it is no reference: write env:NAME or file:/path")]
    NoReference,
    /// The file could not be read.
    #[error("read secret file {path}")]
    File {
        /// Which.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl SecretUrl {
    /// A reference or an open address, as written.
    #[must_use]
    pub fn new(written: impl Into<String>) -> Self {
        Self(written.into())
    }

    /// Whether a password stands in it in the open, which config refuses.
    #[must_use]
    pub fn has_open_password(&self) -> bool {
        if self.0.starts_with("env:") || self.0.starts_with("file:") {
            return false;
        }
        self.0.split_once("://").is_some_and(|(_, rest)| {
            rest.split('/')
                .next()
                .is_some_and(|authority| authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')))
        })
    }

    /// The address itself, read now: a changed file or a new password is seen at the next use.
    ///
    /// # Errors
    /// When the variable is not set or the file cannot be read.
    pub fn resolve(&self) -> Result<String, Error> {
        if let Some(name) = self.0.strip_prefix("env:") {
            return std::env::var(name).map_err(|_| Error::NoVariable(name.to_owned()));
        }
        if let Some(path) = self.0.strip_prefix("file:") {
            return std::fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .map_err(|source| Error::File {
                    path: path.to_owned(),
                    source,
                });
        }
        Ok(self.0.clone())
    }

    /// As written, with an open password struck out: for logs and tables.
    #[must_use]
    pub fn shown(&self) -> Cow<'_, str> {
        strike_password(&self.0)
    }
}

/// The address with its password replaced by `***`.
#[must_use]
pub fn strike_password(url: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Cow::Borrowed(url);
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    match authority.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => {
            let name = user.split(':').next().unwrap_or_default();
            Cow::Owned(format!("{scheme}://{name}:***@{host}{path}"))
        }
        Some(_) | None => Cow::Borrowed(url),
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.shown())
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.shown())
    }
}

/// A secret that is never written in the open: `env:NAME` or `file:/path`. Nothing else is one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretRef(String);

/// What a reference looks like to a schema.
pub const REF_PATTERN: &str = "^(env:[A-Za-z_][A-Za-z0-9_]*|file:/.+)$";

impl SecretRef {
    /// A reference as written.
    #[must_use]
    pub fn new(written: impl Into<String>) -> Self {
        Self(written.into())
    }

    /// The secret itself, read now.
    ///
    /// # Errors
    /// When the variable is not set, the file cannot be read, or this is no reference.
    pub fn resolve(&self) -> Result<String, Error> {
        if self.0.starts_with("env:") || self.0.starts_with("file:") {
            return SecretUrl(self.0.clone()).resolve();
        }
        Err(Error::NoReference)
    }

    /// Where the secret lies: harmless to show.
    #[must_use]
    pub fn shown(&self) -> &str {
        if self.0.starts_with("env:") || self.0.starts_with("file:") {
            &self.0
        } else {
            "***"
        }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.shown())
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.shown())
    }
}

impl JsonSchema for SecretRef {
    fn schema_name() -> Cow<'static, str> {
        "SecretRef".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": REF_PATTERN,
            "description": "env:NAME or file:/path that holds the secret; never the secret itself"
        })
    }
}

impl JsonSchema for SecretUrl {
    fn schema_name() -> Cow<'static, str> {
        "SecretUrl".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "description": "env:NAME or file:/path that holds the address; the address itself only when it has no password in it"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_the_open_is_neither_taken_nor_shown() {
        let open = SecretRef::new("AKIA0SECRET");
        assert!(matches!(open.resolve(), Err(Error::NoReference)));
        assert_eq!((open.to_string().as_str(), format!("{open:?}").as_str()), ("***", "***"));
        assert_eq!(SecretRef::new("env:KEY").to_string(), "env:KEY");
    }

    #[test]
    fn a_password_is_found_and_struck_out() {
        let open = SecretUrl::new("amqp://me:pa@ss@host:5672/v");
        assert!(open.has_open_password());
        assert_eq!(open.to_string(), "amqp://me:***@host:5672/v");
        assert_eq!(format!("{open:?}"), "amqp://me:***@host:5672/v");
        for fine in ["env:AMQP_URL", "file:/run/amqp", "amqp://host:5672/v", "amqp://me@host"] {
            assert!(!SecretUrl::new(fine).has_open_password(), "{fine}");
        }
    }
}
