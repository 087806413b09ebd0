//! Time as the simulation has it: tokio's paused clock, counted from a fixed day.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
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
    /// What it said last, while nobody says that time moved; it is asked far more often than that.
    said: AtomicI64,
    moved: Option<Moved>,
}

/// Said whenever time may have moved: after each wait of the runtime, since it does at no other time.
#[derive(Debug, Clone)]
pub struct Moved(Arc<AtomicBool>);

impl Default for Moved {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Moved {
    /// It may have.
    pub fn say(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
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
        Self {
            runtime,
            started,
            said: AtomicI64::new(0),
            moved: None,
        }
    }

    /// The same, on a runtime that says after each wait that time may have moved.
    #[must_use]
    pub fn moved_by(mut self, moved: Moved) -> Self {
        self.moved = Some(moved);
        self
    }

    fn read(&self) -> Timestamp {
        // Also asked from outside the runtime, where tokio would give the real time.
        let _inside = self.runtime.enter();
        BEGIN + self.started.elapsed()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let Some(Moved(moved)) = &self.moved else { return self.read() };
        if !moved.swap(false, Ordering::Relaxed) {
            return Timestamp(self.said.load(Ordering::Relaxed));
        }
        let now = self.read();
        self.said.store(now.0, Ordering::Relaxed);
        now
    }
}
