//! Time as the simulation has it: tokio's paused clock, counted from a fixed day.

use std::time::Duration;

use epu_core::time::{Clock, Timestamp};
use tokio::runtime::Handle;
use tokio::time::Instant;

/// When every simulated world begins: 2026-01-01 00:00 UTC.
pub const BEGIN: Timestamp = Timestamp(1_767_225_600_000);

/// So many milliseconds.
#[must_use]
pub const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// So many seconds.
#[must_use]
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// So many minutes.
#[must_use]
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

/// So many hours.
#[must_use]
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3_600)
}

/// The clock that everything in a world asks.
#[derive(Debug)]
pub struct SimClock {
    runtime: Handle,
    started: Instant,
}

impl SimClock {
    /// A clock that begins now on the paused clock of this runtime.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that the rest is told to ask, on tokio's paused time"
    )]
    pub fn start(runtime: Handle) -> Self {
        let started = {
            let _inside = runtime.enter();
            Instant::now()
        };
        Self { runtime, started }
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        // Also asked from outside the runtime, where tokio would give the real time.
        let _inside = self.runtime.enter();
        BEGIN + self.started.elapsed()
    }
}
