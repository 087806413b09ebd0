//! Trying again, with growing waits.

use std::time::Duration;

use epu_core::Timestamp;

/// Wait before the first repetition; each further one waits twice as long, up to [`BACKOFF_MOST`]. Too low: a service that comes
/// back is met by a crowd. Too high: a lost message delays an instance.
const BACKOFF_LEAST: Duration = Duration::from_millis(200);
/// The longest wait between repetitions. Too high: an instance stays unready that much longer after an outage.
const BACKOFF_MOST: Duration = Duration::from_secs(10);

/// Something that is tried until it succeeds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempts {
    pub(super) under_way: bool,
    pub(super) next_at: Timestamp,
    failed: u32,
}

impl Attempts {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            under_way: false,
            next_at: now,
            failed: 0,
        }
    }

    pub(super) fn begin(&mut self, now: Timestamp) -> bool {
        let begins = !self.under_way && now >= self.next_at;
        self.under_way |= begins;
        begins
    }

    pub(super) fn succeeded(&mut self, now: Timestamp) {
        *self = Self {
            under_way: false,
            next_at: now,
            failed: 0,
        };
    }

    /// This attempt failed, and another way is open at once.
    pub(super) fn elsewhere(&mut self, now: Timestamp) {
        self.under_way = false;
        self.next_at = now;
    }

    pub(super) fn failed(&mut self, now: Timestamp, luck: f64) {
        let wait = BACKOFF_LEAST.saturating_mul(1 << self.failed.min(10)).min(BACKOFF_MOST);
        *self = Self {
            under_way: false,
            next_at: now + wait.mul_f64(0.75 + 0.5 * luck),
            failed: self.failed.saturating_add(1),
        };
    }
}
