//! Names people choose and ids we mint.
//!
//! A name is 1 to 63 characters of `a-z A-Z 0-9 . _ -`, starting with a letter or digit, so that it is safe as a file name, a
//! routing key, a metric label and a tag. The original checked only the first character, which let `/` into storage paths.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// The longest name.
pub const NAME_MAX: usize = 63;
/// What a name looks like to a schema.
pub const NAME_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$";

/// The pool of instances that were asked for without one. No pool has this name: nobody decides for them, and none is replaced.
pub const UNPOOLED: &str = "unpooled";

/// Why a text is not a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a name: use 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit")]
pub struct BadName(String);

fn check_name(text: &str) -> Result<(), BadName> {
    let first_is_good = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    let all_are_good = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if first_is_good && all_are_good && text.len() <= NAME_MAX {
        Ok(())
    } else {
        Err(BadName(text.chars().take(80).collect()))
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name, when `text` is one.
            ///
            /// # Errors
            /// [`BadName`] says what a name may be.
            pub fn new(text: &str) -> Result<Self, BadName> {
                check_name(text).map(|()| Self(text.into()))
            }
            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.pad(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "{}", self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::new(text)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(&Cow::<'de, str>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                "Name".into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": NAME_PATTERN })
            }
        }
    };
}

name!(
    /// Names a pool; unique in an installation.
    PoolName
);
impl PoolName {
    /// Whether this stands for having no pool.
    #[must_use]
    pub fn is_unpooled(&self) -> bool {
        self.as_str() == UNPOOLED
    }
}

name!(
    /// Names a site: one place to launch on.
    SiteName
);
name!(
    /// Names a placement among those of its pool: one ranked use of a site.
    PlacementName
);
name!(
    /// Names a template: what to launch.
    TemplateName
);
name!(
    /// Names a sensor within its pool.
    SensorName
);
name!(
    /// Names a slot of a pool with unique instances.
    SlotLabel
);

macro_rules! minted {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(out)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(out)
            }
        }
        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
    };
}

minted!(
    /// One machine incarnation, from the decision to launch it until it is confirmed gone; never reused. A UUID version 7.
    InstanceId
);
minted!(
    /// One request for n instances on one placement: one IaaS call, one token. A UUID version 7.
    LaunchId
);

impl InstanceId {
    /// The last twelve characters: unlike the first ones they differ between ids minted together. For tables.
    #[must_use]
    pub fn short(&self) -> String {
        let text = self.0.simple().to_string();
        text[20..].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_everywhere_a_name_goes() {
        for good in ["a", "web-1", "A.b_c", &"x".repeat(63)] {
            assert!(PoolName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a/b", "a b", "é", "a\n", &"x".repeat(64)] {
            assert!(PoolName::new(bad).is_err(), "{bad:?} was taken");
        }
    }
}
