//! Which faults met the system in which situations, so that what was never tried shows.
#![expect(clippy::let_underscore_must_use, reason = "writing to a text does not fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::fault::Fault;

/// What can be the case when a fault begins. Several can at once.
pub const SITUATIONS: [&str; 14] = [
    "asked",
    "booting",
    "starting",
    "draining",
    "ending",
    "empty",
    "full",
    "work waits",
    "removed",
    "refresh",
    "closed",
    "no leader",
    "process away",
    "fault on",
];

/// How often each kind of fault met each situation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    met: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// How often each kind began, and how often it had something to hit.
    begun: BTreeMap<&'static str, (u64, u64)>,
}

impl Coverage {
    /// A fault began in these situations.
    pub fn met(&mut self, kind: &'static str, bit: bool, situations: &BTreeSet<&'static str>) {
        let begun = self.begun.entry(kind).or_default();
        begun.0 += 1;
        begun.1 += u64::from(bit);
        if bit {
            for situation in situations {
                *self.met.entry(kind).or_default().entry(situation).or_default() += 1;
            }
        }
    }

    /// Adds what another saw.
    pub fn add(&mut self, other: &Self) {
        for (kind, (begun, bit)) in &other.begun {
            let mine = self.begun.entry(kind).or_default();
            mine.0 += begun;
            mine.1 += bit;
        }
        for (kind, met) in &other.met {
            for (situation, times) in met {
                *self.met.entry(kind).or_default().entry(situation).or_default() += times;
            }
        }
    }

    /// How many faults hit something.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.begun.values().map(|(_, bit)| bit).sum()
    }

    /// How often this kind met this situation.
    #[must_use]
    pub fn times(&self, kind: &str, situation: &str) -> u64 {
        self.met.get(kind).and_then(|met| met.get(situation)).copied().unwrap_or(0)
    }

    /// How often this kind hit something.
    #[must_use]
    pub fn bit(&self, kind: &str) -> u64 {
        self.begun.get(kind).map_or(0, |(_, bit)| *bit)
    }

    /// Pairs of kind and situation that never met.
    #[must_use]
    pub fn blind_spots(&self) -> Vec<(&'static str, &'static str)> {
        let all = Fault::kinds()
            .into_iter()
            .flat_map(|kind| SITUATIONS.map(|situation| (kind, situation)));
        all.filter(|(kind, situation)| self.times(kind, situation) == 0).collect()
    }

    /// Of all pairs of kind and situation, how many met.
    #[must_use]
    pub fn pairs(&self) -> (usize, usize) {
        let all = Fault::kinds().len() * SITUATIONS.len();
        (all - self.blind_spots().len(), all)
    }

    /// A table: a line for each kind of fault, a column for each situation.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{:<18}{:>9}", "fault", "hit");
        for situation in SITUATIONS {
            let _ = write!(text, "{situation:>13}");
        }
        for kind in Fault::kinds() {
            let _ = write!(text, "\n{kind:<18}{:>9}", self.bit(kind));
            for situation in SITUATIONS {
                match self.times(kind, situation) {
                    0 => text.push_str("            ."),
                    times => {
                        let _ = write!(text, "{times:>13}");
                    }
                }
            }
        }
        text.push('\n');
        text
    }
}
