//! How well supply follows demand, by the metrics of the SPEC Research Group's cloud working group (N. Herbst et al., "Ready for Rain? A View
//! from SPEC Research on the Future of Cloud Metrics", SPEC-RG-2016-01).
//!
//! With demand `d(t)` and supply `s(t)` over a time `T`, where demand is [`super::ideal::demand`], no more than the pool's maximum:
//!
//! | metric | formula | best |
//! |---|---|---|
//! | accuracy, under (theta_U) | 100/T ∫ max(d - s, 0) / max(d, 1) dt | 0 % |
//! | accuracy, over (theta_O) | 100/T ∫ max(s - d, 0) / max(d, 1) dt | 0 % |
//! | timeshare, under (tau_U) | 100/T ∫ \[d > s\] dt | 0 % |
//! | timeshare, over (tau_O) | 100/T ∫ \[s > d\] dt | 0 % |
//! | instability (upsilon) | 100/n, times the number of n intervals in which sgn(Δs) ≠ sgn(Δd) | 0 % |
//! | jitter | (changes of s - changes of d) / T | 0 |
//! | deviation (sigma) | (theta_U⁵ + theta_O⁵ + tau_U⁵ + tau_O⁵ + upsilon⁵)^(1/5) | 0 % |
//! | speedup (epsilon) | (theta_U'/theta_U · theta_O'/theta_O · tau_U'/tau_U · tau_O'/tau_O)^(1/4), where ' is what it is compared with | more |
//!
//! The report divides by `d`, which it takes to be above 0; `max(d, 1)` is the same where it is, and lets idle workers count where there is
//! nothing to do.

use serde::Serialize;

use super::curve::{Curve, together};
use super::outcome::rounded;

/// How well supply follows demand.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Elasticity {
    /// Theta_U, in percent: missing workers for each demanded one, over time.
    pub accuracy_under: f64,
    /// Theta_O, in percent: workers too many for each demanded one, over time.
    pub accuracy_over: f64,
    /// Tau_U, in percent: how much of the time there are too few.
    pub timeshare_under: f64,
    /// Tau_O, in percent: how much of the time there are too many.
    pub timeshare_over: f64,
    /// Upsilon, in percent: how much of the time supply and demand do not go the same way.
    pub instability: f64,
    /// Changes of supply beyond those of demand, for each hour; below 0 it changes less often.
    pub jitter_per_hour: f64,
    /// Sigma, in percent: how far all of it is from the ideal.
    pub deviation: f64,
    /// Epsilon: how much better than what it is compared with; none without one, or where a factor would be without bounds.
    pub speedup: Option<f64>,
}

/// Compares supply with demand over `end` milliseconds; directions of change are looked at every so many.
#[must_use]
pub fn measure(demand: &Curve, supply: &Curve, end: u64, every: u64) -> Elasticity {
    let whole = end.max(1) as f64;
    let (mut under, mut over, mut few, mut many) = (0.0, 0.0, 0.0, 0.0);
    together(demand, supply, end, |length, d, s| {
        under += length * (d - s).max(0.0) / d.max(1.0);
        over += length * (s - d).max(0.0) / d.max(1.0);
        few += if d > s { length } else { 0.0 };
        many += if s > d { length } else { 0.0 };
    });
    let every = every.max(1);
    let intervals = end / every;
    let way = |curve: &Curve, n: u64| curve.at(n * every).cmp(&curve.at((n - 1) * every));
    let apart = (1..=intervals).filter(|n| way(demand, *n) != way(supply, *n)).count();
    let share = |part: f64| rounded(100.0 * part / whole);
    let changes = supply.changes(end) as f64 - demand.changes(end) as f64;
    let mut found = Elasticity {
        accuracy_under: share(under),
        accuracy_over: share(over),
        timeshare_under: share(few),
        timeshare_over: share(many),
        instability: rounded(100.0 * apart as f64 / (intervals.max(1) as f64)),
        jitter_per_hour: rounded(changes * 3_600_000.0 / whole),
        deviation: 0.0,
        speedup: None,
    };
    let fifth: f64 = found.distances().iter().map(|part| part.powi(5)).sum();
    found.deviation = rounded(fifth.powf(0.2));
    found
}

impl Elasticity {
    fn distances(&self) -> [f64; 5] {
        [
            self.accuracy_under,
            self.accuracy_over,
            self.timeshare_under,
            self.timeshare_over,
            self.instability,
        ]
    }

    /// How much better this is than another.
    #[must_use]
    pub fn speedup_over(&self, other: &Self) -> Option<f64> {
        let product: f64 = self
            .distances()
            .iter()
            .zip(other.distances())
            .take(4)
            .map(|(this, other)| other / this)
            .product();
        let speedup = product.powf(0.25);
        (speedup.is_finite() && speedup > 0.0).then_some(rounded(speedup))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over 100 s: demand 2, then 4 from 50 s on; supply 2 until 60 s, 5 until 80 s, then 4.
    fn example() -> Elasticity {
        let demand = Curve::of([(0, 2), (50_000, 4)]);
        let supply = Curve::of([(0, 2), (60_000, 5), (80_000, 4)]);
        measure(&demand, &supply, 100_000, 10_000)
    }

    #[test]
    fn the_metrics_are_those_worked_out_by_hand() {
        let found = example();
        // 10 s with 2 of 4 missing; 20 s with 1 of 4 too many.
        assert!((found.accuracy_under - 5.0).abs() < 1e-9);
        assert!((found.accuracy_over - 5.0).abs() < 1e-9);
        assert!((found.timeshare_under - 10.0).abs() < 1e-9);
        assert!((found.timeshare_over - 20.0).abs() < 1e-9);
        // Of ten intervals, demand rises in the fifth, supply in the sixth, and it falls in the eighth.
        assert!((found.instability - 30.0).abs() < 1e-9);
        // One change more in 100 s.
        assert!((found.jitter_per_hour - 36.0).abs() < 1e-9);
        let deviation = (2.0 * 5_f64.powi(5) + 10_f64.powi(5) + 20_f64.powi(5) + 30_f64.powi(5)).powf(0.2);
        assert!((found.deviation - deviation).abs() < 1e-5);
    }

    #[test]
    fn the_ideal_is_without_deviation_and_better_is_faster() {
        let demand = Curve::of([(0, 2), (50_000, 4)]);
        let ideal = measure(&demand, &demand, 100_000, 10_000);
        assert_eq!((ideal.deviation, ideal.jitter_per_hour), (0.0, 0.0));
        assert_eq!(example().speedup_over(&example()), Some(1.0));
        // Without bounds, which is not a number to show.
        assert_eq!(ideal.speedup_over(&example()), None);
        let worse = Elasticity {
            accuracy_under: 80.0,
            ..example()
        };
        assert_eq!(example().speedup_over(&worse), Some(2.0));
    }

    #[test]
    fn idle_workers_count_where_there_is_nothing_to_do() {
        let found = measure(&Curve::default(), &Curve::of([(0, 3)]), 1_000, 100);
        assert_eq!(
            (found.accuracy_over, found.timeshare_over, found.accuracy_under),
            (300.0, 100.0, 0.0)
        );
    }
}
