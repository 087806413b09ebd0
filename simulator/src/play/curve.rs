//! A number that changes with time in steps.

use std::collections::BTreeMap;

/// A step function: each value holds from its time on, in milliseconds. Before the first time it is 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Curve(Vec<(u64, u64)>);

impl Curve {
    /// Values with the times from which they hold; of several at one time the last holds.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut curve: Vec<(u64, u64)> = Vec::new();
        for (at, value) in values {
            debug_assert!(curve.last().is_none_or(|(last, _)| *last <= at), "times go up");
            if curve.last().is_some_and(|(last, _)| *last == at) {
                curve.pop();
            }
            if curve.last().map_or(0, |(_, before)| *before) != value {
                curve.push((at, value));
            }
        }
        Self(curve)
    }

    /// From what is added and taken away when, in any order.
    #[must_use]
    pub fn from_changes(changes: impl IntoIterator<Item = (u64, i64)>) -> Self {
        let mut by_time: BTreeMap<u64, i64> = BTreeMap::new();
        for (at, change) in changes {
            *by_time.entry(at).or_default() += change;
        }
        let mut value = 0_i64;
        Self::of(by_time.into_iter().map(|(at, change)| {
            value += change;
            (at, u64::try_from(value).unwrap_or(0))
        }))
    }

    /// The value at a time.
    #[must_use]
    pub fn at(&self, at: u64) -> u64 {
        let after = self.0.partition_point(|(from, _)| *from <= at);
        after.checked_sub(1).and_then(|n| self.0.get(n)).map_or(0, |(_, value)| *value)
    }

    /// From `from` to `to`, counted from `from`.
    #[must_use]
    pub fn between(&self, from: u64, to: u64) -> Self {
        let inside = self.0.iter().filter(|(at, _)| *at > from && *at < to);
        let inside = inside.map(|(at, value)| (at - from, *value));
        Self::of([(0, self.at(from))].into_iter().chain(inside))
    }

    /// No more than this at any time.
    #[must_use]
    pub fn at_most(&self, most: u64) -> Self {
        Self::of(self.0.iter().map(|(at, value)| (*at, (*value).min(most))))
    }

    /// The largest value.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.0.iter().map(|(_, value)| *value).max().unwrap_or(0)
    }

    /// The largest value within a stretch of time.
    #[must_use]
    pub fn highest_within(&self, from: u64, to: u64) -> u64 {
        let begin = self.0.partition_point(|(at, _)| *at <= from);
        let inside = self.0.iter().skip(begin).take_while(|(at, _)| *at < to);
        inside.map(|(_, value)| *value).max().unwrap_or(0).max(self.at(from))
    }

    /// Value times milliseconds, until `end`.
    #[must_use]
    pub fn area(&self, end: u64) -> f64 {
        let mut area = 0.0;
        together(self, &Self::default(), end, |length, value, _| area += length * value);
        area
    }

    /// How often it changes until `end`.
    #[must_use]
    pub fn changes(&self, end: u64) -> usize {
        self.0.iter().filter(|(at, _)| *at > 0 && *at < end).count()
    }
}

/// Looks at two curves until `end`: for each stretch of time in which neither changes, its length in milliseconds and both values.
pub fn together(a: &Curve, b: &Curve, end: u64, mut look: impl FnMut(f64, f64, f64)) {
    let (mut of_a, mut of_b) = (a.0.iter().peekable(), b.0.iter().peekable());
    let (mut at, mut value_a, mut value_b) = (0, 0_u64, 0_u64);
    while at < end {
        while let Some((_, value)) = of_a.next_if(|(from, _)| *from <= at) {
            value_a = *value;
        }
        while let Some((_, value)) = of_b.next_if(|(from, _)| *from <= at) {
            value_b = *value;
        }
        let next = [of_a.peek(), of_b.peek()].into_iter().flatten().map(|(from, _)| *from).min();
        let next = next.unwrap_or(end).min(end);
        look((next - at) as f64, value_a as f64, value_b as f64);
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_holds_its_value_until_the_next() {
        let curve = Curve::from_changes([(30, -1), (10, 2), (20, 1), (20, -1)]);
        assert_eq!(curve, Curve::of([(10, 2), (30, 1)]));
        assert_eq!([0, 9, 10, 29, 30, 99].map(|at| curve.at(at)), [0, 0, 2, 2, 1, 1]);
        assert_eq!(curve.area(40), 50.0);
        assert_eq!(curve.area(5), 0.0);
        assert_eq!((curve.highest(), curve.changes(40), curve.changes(30)), (2, 2, 1));
        assert_eq!(
            (
                curve.highest_within(0, 10),
                curve.highest_within(12, 15),
                curve.highest_within(29, 31)
            ),
            (0, 2, 2)
        );
        assert_eq!(curve.between(20, 40), Curve::of([(0, 2), (10, 1)]));
        assert_eq!(curve.at_most(1), Curve::of([(10, 1)]));
        assert_eq!(Curve::of([(0, 1), (0, 3), (5, 3)]), Curve::of([(0, 3)]));
    }

    #[test]
    fn two_curves_are_looked_at_in_stretches_in_which_neither_changes() {
        let (a, b) = (Curve::of([(10, 2), (30, 1)]), Curve::of([(0, 1), (20, 4)]));
        let mut seen = Vec::new();
        together(&a, &b, 40, |length, a, b| seen.push((length, a, b)));
        assert_eq!(seen, [(10.0, 0.0, 1.0), (10.0, 2.0, 1.0), (10.0, 2.0, 4.0), (10.0, 1.0, 4.0)]);
    }
}
