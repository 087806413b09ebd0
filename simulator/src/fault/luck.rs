//! Chance, by a seed of its own, so that what goes wrong does not depend on what the services draw.

use std::time::Duration;

use epu_core::random::Random;

/// Chance.
#[derive(Debug)]
pub struct Luck(Random);

impl Luck {
    /// The same chances for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Random::seeded(seed))
    }

    /// A number below `n`; 0 when `n` is.
    pub fn below(&self, n: u64) -> u64 {
        self.0.number().checked_rem(n).unwrap_or(0)
    }

    /// A small number below `n`.
    pub fn small(&self, n: u32) -> u32 {
        u32::try_from(self.below(u64::from(n))).unwrap_or(0)
    }

    /// True once in `n` times.
    pub fn once_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these; none of none.
    pub fn of<'a, T>(&self, all: &'a [T]) -> Option<&'a T> {
        let n = u64::try_from(all.len()).unwrap_or(0);
        all.get(usize::try_from(self.below(n)).unwrap_or(0))
    }

    /// A share between these, in whole hundredths, so that it is written down exactly.
    pub fn share(&self, least: f64, most: f64) -> f64 {
        ((least + (most - least) * self.0.fraction()) * 100.0).round() / 100.0
    }

    /// A time up to `most`, more often short than long: half are below a tenth of it.
    pub fn time(&self, most: Duration) -> Duration {
        let share = self.0.fraction().powi(3);
        let ms = u64::try_from(most.mul_f64(share).as_millis()).unwrap_or(0);
        Duration::from_millis(ms.max(1))
    }
}
