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

/// The clock of one process, as [`epu_core::time::SystemClock`] is one: what the wall clock of its machine said when it began, and from
/// then on what passed. So a wall clock that is wrong, or is set, shows in what begins afterwards and not in what runs. Only a machine
/// that is halted from outside, with its clocks, lets a running process fall behind.
#[derive(Debug)]
pub struct ProcessClock {
    world: Arc<SimClock>,
    /// In milliseconds. One thread writes and reads these two.
    offset: AtomicI64,
    /// Where it stands; [`GOES`] while it does not.
    stands_at: AtomicI64,
}

/// No clock stands there.
const GOES: i64 = i64::MIN;

impl ProcessClock {
    /// One that begins this much beside the truth.
    #[must_use]
    pub fn beside(world: Arc<SimClock>, ms: i64) -> Self {
        Self {
            world,
            offset: AtomicI64::new(ms),
            stands_at: AtomicI64::new(GOES),
        }
    }

    /// How far it is from the truth, in milliseconds; behind is negative.
    #[must_use]
    pub fn offset(&self) -> i64 {
        let truth = self.world.now();
        self.now().0.saturating_sub(truth.0)
    }

    /// It stands still, or goes on from where it stood.
    pub fn stand(&self, still: bool) {
        let (now, truth) = (self.now(), self.world.now());
        if still {
            self.stands_at.store(now.0, Ordering::Relaxed);
        } else {
            // It goes on from where it is, whether it stood or not.
            self.offset.store(now.0.saturating_sub(truth.0), Ordering::Relaxed);
            self.stands_at.store(GOES, Ordering::Relaxed);
        }
    }
}

impl Clock for ProcessClock {
    fn now(&self) -> Timestamp {
        match self.stands_at.load(Ordering::Relaxed) {
            GOES => Timestamp(self.world.now().0.saturating_add(self.offset.load(Ordering::Relaxed))),
            at => Timestamp(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_stood_still_goes_on_from_there_and_never_back() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let world = Arc::new(SimClock::start(runtime.handle().clone()));
        let clock = ProcessClock::beside(world, 600_000);
        let pass = |length| runtime.block_on(async { tokio::time::sleep(length).await });
        pass(seconds(10));
        assert_eq!(clock.now(), BEGIN + seconds(610));
        clock.stand(true);
        clock.stand(true);
        pass(minutes(3));
        assert_eq!(clock.now(), BEGIN + seconds(610));
        clock.stand(false);
        clock.stand(false);
        assert_eq!(clock.now(), BEGIN + seconds(610));
        pass(seconds(5));
        assert_eq!((clock.now(), clock.offset()), (BEGIN + seconds(615), 420_000));
    }
}
