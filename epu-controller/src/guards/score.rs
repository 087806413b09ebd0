//! How launching by one placement went: counters, and how long the last ones took. Bounded, and kept with the guardrails' memory.
//!
//! What is learned here is an expectation and never a deadline: an instance is given up at its template's `ready-within`, as people wrote
//! it, and one that takes much longer than others did before it is only called slow. A learned deadline would end machines on a site's
//! bad day, when there is no other to be had.

use std::time::Duration;

use epu_core::request::Scoreboard;
use epu_core::time::millis;
use serde::{Deserialize, Serialize};

/// How many boot times are kept. Too many: slow to learn that machines became faster. Too few: the 95th of a hundred says nothing.
const BOOTS: usize = 50;
/// With fewer than so many nothing is called slow.
const ENOUGH: usize = 5;

/// How launching went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Score {
    /// Instances that became ready.
    pub ready: u64,
    /// Instances that did not, whatever the reason.
    pub failed: u64,
    /// Of those, how many because the site had no room or allowed no more.
    pub capacity: u64,
    /// Instances that the site took away.
    pub interrupted: u64,
    /// From decision to ready, in milliseconds, of the last ones.
    boots: Vec<i64>,
}

impl Score {
    /// One became ready, after so long.
    pub fn came(&mut self, boot: Option<Duration>) {
        self.ready = self.ready.saturating_add(1);
        if let Some(boot) = boot {
            if self.boots.len() >= BOOTS {
                self.boots.remove(0);
            }
            self.boots.push(millis(boot));
        }
    }

    /// So many of a hundred of the last ones took no longer than this (nearest rank); none before there are any.
    fn took(&self, of_100: usize) -> Option<i64> {
        let mut sorted = self.boots.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * of_100).div_ceil(100);
        sorted.get(rank.checked_sub(1)?).copied()
    }

    /// What a boot mostly takes.
    #[must_use]
    pub fn boot(&self) -> Option<Duration> {
        self.took(50).map(duration)
    }

    /// After so long one that is not ready is called slow: twice what 95 of 100 take. None before enough is known.
    #[must_use]
    pub fn slow_after(&self) -> Option<Duration> {
        (self.boots.len() >= ENOUGH)
            .then(|| self.took(95).map(|ms| duration(ms) * 2))
            .flatten()
    }

    /// As it is shown.
    #[must_use]
    pub fn board(&self, price: Option<f64>) -> Scoreboard {
        Scoreboard {
            ready: self.ready,
            failed: self.failed,
            capacity: self.capacity,
            interrupted: self.interrupted,
            boot_p50_ms: self.took(50),
            boot_p95_ms: self.took(95),
            price,
        }
    }
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_and_95_of_100_are_by_nearest_rank_over_the_last_ones() {
        let mut score = Score::default();
        assert_eq!((score.boot(), score.slow_after()), (None, None));
        for seconds in 1..=4 {
            score.came(Some(Duration::from_secs(seconds)));
        }
        assert_eq!((score.took(50), score.took(95)), (Some(2_000), Some(4_000)));
        assert_eq!(score.slow_after(), None, "four are not enough to call one slow");
        for seconds in 5..=20 {
            score.came(Some(Duration::from_secs(seconds)));
        }
        assert_eq!((score.took(50), score.took(95)), (Some(10_000), Some(19_000)));
        assert_eq!(score.slow_after(), Some(Duration::from_secs(38)));
        for _ in 0..BOOTS {
            score.came(Some(Duration::from_secs(7)));
        }
        assert_eq!(
            (score.took(50), score.took(95), score.boots.len()),
            (Some(7_000), Some(7_000), BOOTS)
        );
        assert_eq!(score.ready, 70);
    }
}
