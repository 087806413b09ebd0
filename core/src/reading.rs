//! What a sensor said: a value with its time, its source and how far it can be trusted. Absent is never zero.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::code::Fault;
use crate::id::{PoolName, SensorName};
use crate::time::{Span, Timestamp};

/// A sensor's last word, as the controller holds it. Its [`Status`] follows from its age and is worked out when it is looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reading {
    /// The last value that was read, however old; none when there never was one.
    pub value: Option<f64>,
    /// When it was read, on the clock of whoever holds this.
    pub taken_at: Option<Timestamp>,
    /// Since when the sensor is known here: what an absent reading's age is counted from.
    pub known_since: Timestamp,
    /// Where it came from, such as `rabbitmq queue jobs (ready)`.
    pub source: String,
    /// Why the last attempt gave no value, when it gave none.
    pub fault: Option<Fault>,
    /// Of an aggregate over instances: how many reported.
    pub reported: u32,
    /// Of an aggregate over instances: how many there are to report.
    pub of: u32,
    /// Whether the value also counts work that is being done, not only work that waits.
    pub covers_in_progress: bool,
    /// How old it may be.
    pub limits: Staleness,
}

/// From which age a reading is stale, then missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Staleness {
    /// Older than this it is stale.
    pub stale_after: Span,
    /// Older than this it is missing.
    pub missing_after: Span,
}

/// How far a reading can be trusted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Status {
    /// Recent enough to act on.
    Fresh {
        /// The value.
        value: f64,
    },
    /// Too old to act on.
    Stale {
        /// The value it had.
        value: f64,
        /// Milliseconds since it was read.
        age_ms: i64,
    },
    /// There is none, or it is so old that there might as well be none.
    Missing,
    /// What came is no number one can act on: NaN, infinite or negative.
    Invalid {
        /// What came.
        why: String,
    },
}

impl Status {
    /// The value, when it can be acted on.
    #[must_use]
    pub fn fresh(&self) -> Option<f64> {
        match self {
            Self::Fresh { value } => Some(*value),
            Self::Stale { .. } | Self::Missing | Self::Invalid { .. } => None,
        }
    }

    /// `fresh`, `stale`, `missing` or `invalid`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Fresh { .. } => "fresh",
            Self::Stale { .. } => "stale",
            Self::Missing => "missing",
            Self::Invalid { .. } => "invalid",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fresh { value } => write!(out, "{value}"),
            Self::Stale { value, age_ms } => {
                let whole_seconds = Duration::from_secs(u64::try_from(age_ms / 1_000).unwrap_or(0));
                write!(out, "stale ({value}, {} old)", Span(whole_seconds))
            }
            Self::Missing => out.write_str("missing"),
            Self::Invalid { why } => write!(out, "invalid ({why})"),
        }
    }
}

impl Reading {
    /// A sensor nothing has been heard of yet.
    #[must_use]
    pub fn never(known_since: Timestamp, limits: Staleness) -> Self {
        Self {
            value: None,
            taken_at: None,
            known_since,
            source: String::new(),
            fault: None,
            reported: 0,
            of: 0,
            covers_in_progress: false,
            limits,
        }
    }

    /// How far it can be trusted at `now`.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> Status {
        let (Some(value), Some(taken_at)) = (self.value, self.taken_at) else {
            return Status::Missing;
        };
        let age = now.since(taken_at);
        if age > *self.limits.missing_after {
            return Status::Missing;
        }
        if !value.is_finite() || value < 0.0 {
            return Status::Invalid { why: value.to_string() };
        }
        if age > *self.limits.stale_after {
            return Status::Stale {
                value,
                age_ms: crate::time::millis(age),
            };
        }
        Status::Fresh { value }
    }

    /// When its status changes next if nothing more is heard.
    #[must_use]
    pub fn changes_at(&self, now: Timestamp) -> Option<Timestamp> {
        let one = Duration::from_millis(1);
        let taken_at = self.taken_at?;
        [
            taken_at + *self.limits.stale_after + one,
            taken_at + *self.limits.missing_after + one,
        ]
        .into_iter()
        .find(|at| *at > now)
    }
}

/// A sensor's word on its way from the aggregator to the controller. Times travel as ages, so that no two clocks are compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SensorReport {
    /// Whose sensor.
    pub pool: PoolName,
    /// Which one.
    pub sensor: SensorName,
    /// The last value read. Not a number is sent as null with a fault `invalid-reading`.
    pub value: Option<f64>,
    /// How long ago it was read, in milliseconds.
    pub age_ms: Option<i64>,
    /// Where it came from.
    pub source: String,
    /// Why the last attempt gave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Of an aggregate: how many instances reported.
    #[serde(default)]
    pub reported: u32,
    /// Of an aggregate: how many there are.
    #[serde(default)]
    pub of: u32,
    /// Whether work in progress is counted too.
    #[serde(default)]
    pub covers_in_progress: bool,
}

/// Readings by sensor name.
pub type Readings = BTreeMap<SensorName, Reading>;

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(value: f64) -> Reading {
        let limits = Staleness {
            stale_after: Span::secs(30),
            missing_after: Span::secs(120),
        };
        Reading {
            value: Some(value),
            taken_at: Some(Timestamp(0)),
            ..Reading::never(Timestamp(0), limits)
        }
    }

    #[test]
    fn a_reading_ages_from_fresh_through_stale_to_missing_and_is_never_zero() {
        let seven = reading(7.0);
        assert_eq!(seven.status(Timestamp(30_000)), Status::Fresh { value: 7.0 });
        assert_eq!(
            seven.status(Timestamp(30_001)),
            Status::Stale {
                value: 7.0,
                age_ms: 30_001
            }
        );
        assert_eq!(seven.status(Timestamp(120_001)), Status::Missing);
        assert_eq!(seven.changes_at(Timestamp(0)), Some(Timestamp(30_001)));
        assert_eq!(seven.changes_at(Timestamp(30_001)), Some(Timestamp(120_001)));
        assert_eq!(seven.changes_at(Timestamp(120_001)), None);
    }

    #[test]
    fn what_is_no_amount_is_invalid() {
        for wrong in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(matches!(reading(wrong).status(Timestamp(1)), Status::Invalid { .. }), "{wrong}");
        }
    }
}
