//! Randomness as something handed in: the same seed gives the same ids, jitter and choices, on any machine.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use crate::id::{InstanceId, LaunchId};
use crate::time::Timestamp;

/// A source of numbers that need not be secret: ids and jitter. Keys and tokens come from the operating system instead.
pub struct Random(Mutex<fastrand::Rng>);

impl fmt::Debug for Random {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Random")
    }
}

impl Random {
    /// Different in every process.
    #[must_use]
    pub fn from_system() -> Self {
        Self(Mutex::new(fastrand::Rng::new()))
    }

    /// The same numbers for the same seed, for ever.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(fastrand::Rng::with_seed(seed)))
    }

    /// A uniform number.
    pub fn number(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).u64(..)
    }

    /// A number in `0.0..1.0`.
    pub fn fraction(&self) -> f64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).f64()
    }

    /// `length`, more or less: between `1 - share` and `1 + share` of it, so that a thousand senders do not speak at once.
    pub fn jitter(&self, length: Duration, share: f64) -> Duration {
        length.mul_f64((1.0 + share * (2.0 * self.fraction() - 1.0)).max(0.0))
    }

    /// A UUID version 7 (RFC 9562): `now` in its first 48 bits, so that ids sort by when they were made.
    pub fn uuid(&self, now: Timestamp) -> Uuid {
        let mut bytes = [0u8; 10];
        let (high, low) = (self.number(), self.number());
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes()[..2]);
        uuid::Builder::from_unix_timestamp_millis(u64::try_from(now.0).unwrap_or(0), &bytes).into_uuid()
    }

    /// A new instance id.
    pub fn instance(&self, now: Timestamp) -> InstanceId {
        InstanceId(self.uuid(now))
    }

    /// A new launch id.
    pub fn launch(&self, now: Timestamp) -> LaunchId {
        LaunchId(self.uuid(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_ids_in_order_of_time() {
        let (a, b) = (Random::seeded(7), Random::seeded(7));
        let (first, second) = (a.instance(Timestamp(1_000)), a.instance(Timestamp(2_000)));
        assert_eq!((first, second), (b.instance(Timestamp(1_000)), b.instance(Timestamp(2_000))));
        assert!(first < second);
        assert_eq!(first.0.get_version_num(), 7);
    }
}
