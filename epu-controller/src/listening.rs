//! When somebody listened: the aggregators' terms, put together on the controller's clock.
//!
//! Silence counts only within this time. Terms that overlap are one; a gap between two, during which nobody listened, begins the
//! count anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use epu_core::fact::Snapshot;
use epu_core::time::Timestamp;

/// An aggregator not heard from for this long is forgotten. Too low: a short gap forgets when it began to listen.
const FORGET_AFTER: Duration = Duration::from_secs(300);

/// The time within which aggregators listened without a gap, on the controller's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// Since when.
    pub since: Timestamp,
    /// Up to their newest word.
    pub until: Timestamp,
}

/// When somebody listened, as of the newest word of anybody: one for all pools, so that a word costs the same however many there are.
/// Written and read by one task.
#[derive(Debug, Default)]
pub struct Newest {
    since: AtomicI64,
    until: AtomicI64,
}

impl Newest {
    pub(crate) fn set(&self, listening: Listening) {
        self.since.store(listening.since.0, Ordering::Relaxed);
        self.until.store(listening.until.0, Ordering::Relaxed);
    }

    /// As it is now.
    #[must_use]
    pub fn get(&self) -> Listening {
        Listening {
            since: Timestamp(self.since.load(Ordering::Relaxed)),
            until: Timestamp(self.until.load(Ordering::Relaxed)),
        }
    }
}

/// The aggregators that were heard of.
#[derive(Debug, Clone, Default)]
pub struct Ears {
    terms: BTreeMap<String, Listening>,
    newest: Arc<Newest>,
}

impl Ears {
    /// Takes in that an aggregator has been listening, from whatever snapshot, and gives what all of them come to.
    pub fn take(&mut self, snapshot: &Snapshot, now: Timestamp) -> Listening {
        let since = Timestamp(now.0.saturating_sub(snapshot.listening_for_ms.max(0)));
        match self.terms.get_mut(&snapshot.aggregator) {
            Some(term) => {
                // The same term may look a little shorter or longer by the way the message took; a new one is much shorter.
                if since > term.until {
                    term.since = since;
                }
                term.until = now;
            }
            None => drop(self.terms.insert(snapshot.aggregator.clone(), Listening { since, until: now })),
        }
        self.terms.retain(|_, term| now.since(term.until) < FORGET_AFTER);
        let together = self.together(now);
        self.newest.set(together);
        together
    }

    /// What all of them come to, kept up to date by [`Self::take`].
    #[must_use]
    pub fn heard(&self) -> &Arc<Newest> {
        &self.newest
    }

    fn together(&self, now: Timestamp) -> Listening {
        let mut terms: Vec<Listening> = self.terms.values().copied().collect();
        terms.sort_by_key(|term| std::cmp::Reverse(term.until));
        let mut whole = Listening { since: now, until: now };
        for term in terms {
            if term.until >= whole.since {
                whole.since = whole.since.min(term.since);
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(aggregator: &str, listening_for: i64) -> Snapshot {
        Snapshot {
            aggregator: aggregator.into(),
            listening_for_ms: listening_for * 1_000,
            instances: vec![],
            sensors: vec![],
            complete: false,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000)
    }

    #[test]
    fn overlapping_terms_are_one_and_a_gap_begins_anew() {
        let mut ears = Ears::default();
        assert_eq!(
            ears.take(&says("a", 100), at(100)),
            Listening {
                since: at(0),
                until: at(100)
            }
        );
        assert_eq!(
            ears.take(&says("b", 20), at(110)),
            Listening {
                since: at(0),
                until: at(110)
            },
            "b began while a listened"
        );
        assert_eq!(
            ears.take(&says("c", 5), at(200)),
            Listening {
                since: at(195),
                until: at(200)
            },
            "nobody listened from 110 to 195"
        );
        assert_eq!(
            ears.take(&says("c", 1), at(230)),
            Listening {
                since: at(229),
                until: at(230)
            },
            "c was restarted"
        );
    }
}
