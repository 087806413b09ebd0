//! When members are to be looked at: sorted by second, and within a second not at all.
//!
//! Most deadlines pass only to be set anew, since their member was heard meanwhile, so that setting one has to be cheap: it is
//! appended to its second. None is ever taken out before its time. Whoever takes those that have come asks the member whether it
//! still has that deadline; a stale one costs that question and, at worst, one look too early.

use std::collections::BTreeMap;

use epu_core::time::Timestamp;

use super::members::Place;

/// How much time shares a list. Too long: a look goes through many that have not come. Too short: as many lists as deadlines.
const SPAN_MS: i64 = 1_000;

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    spans: BTreeMap<i64, Span>,
}

#[derive(Debug)]
struct Span {
    first: Timestamp,
    all: Vec<(Timestamp, Place)>,
}

impl Deadlines {
    pub(super) fn add(&mut self, at: Timestamp, place: Place) {
        let span = self.spans.entry(at.0.div_euclid(SPAN_MS)).or_insert(Span {
            first: at,
            all: Vec::new(),
        });
        span.first = span.first.min(at);
        span.all.push((at, place));
    }

    /// The earliest, one that is stale by now among them.
    pub(super) fn first(&self) -> Option<Timestamp> {
        self.spans.first_key_value().map(|(_, span)| span.first)
    }

    /// Takes out all that have come, in no particular order.
    pub(super) fn come(&mut self, now: Timestamp) -> Vec<(Timestamp, Place)> {
        let mut come = Vec::new();
        while let Some(entry) = self.spans.first_entry() {
            if entry.get().first > now {
                break;
            }
            for (at, place) in entry.remove().all {
                if at > now {
                    self.add(at, place);
                } else {
                    come.push((at, place));
                }
            }
        }
        come
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_have_come_are_taken_and_the_others_stay() {
        let mut deadlines = Deadlines::default();
        let place = Place::default();
        let at = |ms: i64| Timestamp(ms);
        for ms in [1_700, 1_200, 900, 5_000, 1_500] {
            deadlines.add(at(ms), place);
        }
        assert_eq!(deadlines.first(), Some(at(900)));
        let mut come = deadlines.come(at(1_500));
        come.sort_unstable();
        assert_eq!(come, [(at(900), place), (at(1_200), place), (at(1_500), place)]);
        assert_eq!(deadlines.first(), Some(at(1_700)));
        assert!(deadlines.come(at(1_699)).is_empty());
        assert_eq!(deadlines.come(at(6_000)).len(), 2);
        assert_eq!(deadlines.first(), None);
    }
}
