//! What we think of a running instance: a ladder of its own beside the life states.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Span;

/// What is believed of an instance's health. Names are those of the original EPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Health {
    /// Nothing heard yet.
    #[default]
    Unknown,
    /// Heard, and all well.
    Ok,
    /// Its agent says that it cannot watch the worker.
    MonitorError,
    /// Its worker ended or failed.
    ProcessError,
    /// Silent too long; the site is being asked about it.
    OutOfContact,
    /// Silent, and given up.
    Missing,
    /// Ended, and still heard from.
    Zombie,
}

impl Health {
    /// Whether it counts as a working member: unknown and out of contact still do, until there is a second opinion.
    #[must_use]
    pub fn is_good(self) -> bool {
        matches!(self, Self::Unknown | Self::Ok | Self::OutOfContact)
    }

    /// The name on wire and in tables.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Ok => "OK",
            Self::MonitorError => "MONITOR_ERROR",
            Self::ProcessError => "PROCESS_ERROR",
            Self::OutOfContact => "OUT_OF_CONTACT",
            Self::Missing => "MISSING",
            Self::Zombie => "ZOMBIE",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.code())
    }
}

/// How long silence may last. The defaults are those of the original EPU.
///
/// Silence counts only while an aggregator listened. Too low: healthy workers are replaced when a network hiccups. Too high: a
/// dead worker is carried that much longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
pub struct HealthLimits {
    /// A running instance that was never heard from is out of contact after this.
    pub boot: Span,
    /// One that was heard from before is out of contact after this much silence.
    pub missing: Span,
    /// From out of contact, the site having said "it runs" or nothing, to missing.
    pub really_missing: Span,
    /// An ended instance that is heard from later than this after its end is a zombie.
    pub zombie: Span,
}

impl Default for HealthLimits {
    fn default() -> Self {
        Self {
            boot: Span::secs(300),
            missing: Span::secs(120),
            really_missing: Span::secs(15),
            zombie: Span::secs(120),
        }
    }
}
