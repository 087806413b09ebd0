//! Time as data. A [`Timestamp`] is a point, a [`Span`] a length written as people write it (`30s`, `5m`), a [`Clock`] the one
//! place that knows what time it is.
//!
//! A running process must not see time jump when somebody sets the machine's clock, or a cooldown would end early and a healthy
//! worker look silent. So [`SystemClock`] reads the wall clock once, when it is made, and from then on only adds what the
//! monotonic clock measured.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Add, Deref, Sub};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::secret::strike_password;

/// A point in time: milliseconds since 1970-01-01 UTC, which is also its stored and wire form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Later than everything.
    pub const NEVER: Self = Self(i64::MAX);
    /// Earlier than everything a clock says.
    pub const START: Self = Self(0);

    /// How long ago `earlier` was; zero when it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// What was written as in RFC 3339, such as `2026-11-22T19:37:16Z`; none when it is not.
    #[must_use]
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let time: jiff::Timestamp = text.trim().parse().ok()?;
        Some(Self(time.as_millisecond()))
    }

    /// `2026-11-22T19:37:16Z`, for people.
    #[must_use]
    pub fn rfc3339(self) -> String {
        jiff::Timestamp::from_millisecond(self.0).map_or_else(|_| self.0.to_string(), |t| format!("{t:.0}"))
    }
}

/// Milliseconds in `length`, as wire and store count them; saturates after 292 million years.
#[must_use]
pub fn millis(length: Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX)
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, length: Duration) -> Self {
        Self(self.0.saturating_add(millis(length)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, length: Duration) -> Self {
        Self(self.0.saturating_sub(millis(length)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.rfc3339())
    }
}

/// A length of time, written `500ms`, `30s`, `5m`, `1h 30m` wherever people or programs write one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// So many seconds.
    #[must_use]
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    #[must_use]
    pub const fn millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }
}

impl Deref for Span {
    type Target = Duration;
    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Months and years have no fixed length and are not read back; days are.
        let days = self.0.as_secs() / 86_400;
        let rest = self.0.saturating_sub(Duration::from_secs(days * 86_400));
        match (days, rest.is_zero()) {
            (0, _) => humantime::format_duration(rest).fmt(out),
            (1, true) => out.write_str("1day"),
            (_, true) => write!(out, "{days}days"),
            (1, false) => write!(out, "1day {}", humantime::format_duration(rest)),
            (_, false) => write!(out, "{days}days {}", humantime::format_duration(rest)),
        }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl std::str::FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        // What stands where a length of time is wanted may be anything, also an address with a password.
        let shown = || short(&strike_password(text), SHOWN_MAX);
        let length = humantime::parse_duration(text).map_err(|error| {
            let why = short(&error.to_string(), WHY_MAX);
            format!("{:?} is not a length of time ({why}): write 500ms, 30s, 5m or 1h 30m", shown())
        })?;
        if length > Duration::from_secs(366 * 86_400) {
            return Err(format!("{:?} is longer than a year", shown()));
        }
        Ok(Self(length))
    }
}

/// How much is repeated of a text that is no length of time, and of the reason, in characters.
const SHOWN_MAX: usize = 60;
const WHY_MAX: usize = 200;

fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What a [`Span`] looks like to a schema: a number and a unit, once or more.
pub const SPAN_PATTERN: &str =
    r"^\s*([0-9]+\s*(ns|us|ms|s|sec|secs|second|seconds|m|min|mins|minute|minutes|h|hr|hrs|hour|hours|d|day|days|w|week|weeks)\s*)+$";

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": SPAN_PATTERN, "description": "a length of time with its unit: 500ms, 30s, 5m, 1h 30m" })
    }
}

/// What time it is. Handed to everything that needs to know; nothing asks the operating system itself.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now. Never goes backwards within one process.
    fn now(&self) -> Timestamp;
}

/// The real clock: the wall clock as it was at start, plus what passed since. Time that a machine slept counts: whoever held a lease
/// when it fell asleep must not believe to have it still when it wakes.
#[derive(Debug)]
pub struct SystemClock {
    wall_at_start: Timestamp,
    started: Duration,
}

impl SystemClock {
    /// Reads the wall clock, for the only time.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock that the rest is told to ask")]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            wall_at_start: Timestamp(millis(wall)),
            started: since_boot(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.wall_at_start + since_boot().saturating_sub(self.started)
    }
}

/// Since the machine was started, sleep included; nobody sets this clock.
fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}

/// A clock that stands still until told; for tests of code that does not wait.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// Stands at `at`.
    #[must_use]
    pub fn at(at: Timestamp) -> Self {
        Self(AtomicI64::new(at.0))
    }

    /// Moves forward.
    pub fn advance(&self, length: Duration) {
        self.0.fetch_add(millis(length), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written_as_people_write_them() {
        for text in ["500ms", "30s", "5m", "1h 30m"] {
            assert_eq!(text.parse::<Span>().expect(text).to_string(), text);
        }
        for wrong in ["30", "", "-5s", "5 parsecs", "400d"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong} was taken");
        }
    }

    /// Settings are stored as they are written, and read again by a check that knows no months.
    #[test]
    fn what_is_written_is_always_read_back() {
        let pattern = ["day", "days", "h", "m", "s", "ms", "us", "ns"];
        for seconds in [0, 59, 86_400, 86_401, 2 * 86_400, 31 * 86_400 + 61, 364 * 86_400] {
            let span = Span::secs(seconds);
            let text = span.to_string();
            assert_eq!(text.parse::<Span>().expect(&text), span);
            let mut units = text.split(' ').map(|word| word.trim_start_matches(|c: char| c.is_ascii_digit()));
            assert!(units.all(|unit| pattern.contains(&unit)), "{text}");
        }
    }

    #[test]
    fn time_arithmetic_saturates() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Timestamp::NEVER + Duration::from_secs(1), Timestamp::NEVER);
        assert_eq!(Timestamp(1_763_840_236_000).rfc3339(), "2025-11-22T19:37:16Z");
    }
}
