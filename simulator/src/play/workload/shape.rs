//! Work that is made up: arrivals by a rate that changes with time, and service times by a distribution, from a seed.
//!
//! But for `constant`, arrivals are a Poisson process whose rate follows the shape (thinning: P. A. W. Lewis and G. S. Shedler, 1979).

use std::f64::consts::TAU;
use std::time::Duration;

use epu_core::Span;
use epu_core::random::Random;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rate::Rate;
use super::service::{self, Service};
use super::{JOBS_MAX, Job, LASTS_MAX};

/// Work that is made up: exactly one of these.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields, extend("minProperties" = 1, "maxProperties" = 1,
    "x-count" = "exactly one generator is wanted, such as `poisson: {rate: 60/m, service: 30s, for: 1h}`"))]
pub struct Shape {
    /// At a rate, evenly spaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constant: Option<Steady>,
    /// At a rate, by chance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poisson: Option<Steady>,
    /// Between a low and a high rate, as a sine over a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diurnal: Option<Diurnal>,
    /// At a rate, and at times at another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Burst>,
    /// From one rate to another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Ramp>,
    /// By turns at one rate and at another, or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_off: Option<OnOff>,
    /// At a rate, by chance; most jobs are short, and some are very long (Pareto).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heavy_tail: Option<HeavyTail>,
}

/// The names of the generators.
pub const KINDS: [&str; 7] = ["constant", "poisson", "diurnal", "burst", "ramp", "on-off", "heavy-tail"];

/// At a rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct Steady {
    /// How many arrive.
    pub rate: Rate,
    /// How long each takes; left out: what was said for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// For how long.
    pub r#for: Span,
    /// Its own seed; left out: that of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// A day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct Diurnal {
    /// The lowest rate.
    pub low: Rate,
    /// The highest rate.
    pub high: Rate,
    /// How long a day is; left out: 24h.
    #[serde(default = "a_day")]
    pub period: Span,
    /// When, after it begins, the rate is highest for the first time; left out: in the middle of the period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<Span>,
    /// How long each takes; left out: what was said for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// For how long.
    pub r#for: Span,
    /// Its own seed; left out: that of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

fn a_day() -> Span {
    Span::secs(86_400)
}

/// Bursts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct Burst {
    /// The rate beside bursts.
    pub rate: Rate,
    /// The rate during one.
    pub high: Rate,
    /// When the first begins.
    pub at: Span,
    /// How long each lasts.
    pub lasts: Span,
    /// From the beginning of one to that of the next; left out: there is one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// How long each job takes; left out: what was said for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// For how long.
    pub r#for: Span,
    /// Its own seed; left out: that of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// A ramp.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct Ramp {
    /// The rate at the beginning.
    pub from: Rate,
    /// The rate at the end.
    pub to: Rate,
    /// How long each takes; left out: what was said for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// For how long.
    pub r#for: Span,
    /// Its own seed; left out: that of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// By turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct OnOff {
    /// The rate while it is on, which it is first.
    pub on: Rate,
    /// The rate while it is off; left out: none.
    #[serde(default = "none")]
    pub off: Rate,
    /// How long it is on.
    pub on_for: Span,
    /// How long it is off.
    pub off_for: Span,
    /// How long each takes; left out: what was said for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// For how long.
    pub r#for: Span,
    /// Its own seed; left out: that of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

fn none() -> Rate {
    Rate(0.0)
}

/// A heavy tail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct HeavyTail {
    /// How many arrive.
    pub rate: Rate,
    /// How long they take on average.
    pub mean: Span,
    /// The exponent of the tail; the nearer to 1, the heavier. Left out: 1.5, whose variance is infinite.
    #[serde(default = "heavy")]
    #[schemars(range(min = 1.01, max = 100.0))]
    pub shape: f64,
    /// For how long.
    pub r#for: Span,
    /// Its own seed; left out: that of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

fn heavy() -> f64 {
    1.5
}

/// A shape as what it comes to.
struct Plain {
    kind: &'static str,
    lasts: Duration,
    service: Option<Service>,
    seed: Option<u64>,
    highest: f64,
    mean: f64,
    even: bool,
    rate: Box<dyn Fn(f64) -> f64>,
}

impl Shape {
    fn plain(&self) -> Option<Plain> {
        let steady = |of: &Steady, even: bool| {
            let rate = of.rate.0;
            let kind = if even { "constant" } else { "poisson" };
            Plain {
                kind,
                lasts: *of.r#for,
                service: of.service,
                seed: of.seed,
                highest: rate,
                mean: rate,
                even,
                rate: Box::new(move |_| rate),
            }
        };
        if let Some(of) = &self.constant {
            return Some(steady(of, true));
        }
        if let Some(of) = &self.poisson {
            return Some(steady(of, false));
        }
        if let Some(of) = &self.diurnal {
            let (low, high, period) = (of.low.0, of.high.0, of.period.as_secs_f64().max(1.0));
            let peak = of.peak.map_or(period / 2.0, |peak| peak.as_secs_f64());
            let rate = move |at: f64| low + (high - low) * (1.0 + (TAU * (at - peak) / period).cos()) / 2.0;
            let (lasts, service, seed, mean) = (*of.r#for, of.service, of.seed, low.midpoint(high));
            return Some(Plain {
                kind: "diurnal",
                lasts,
                service,
                seed,
                highest: low.max(high),
                mean,
                even: false,
                rate: Box::new(rate),
            });
        }
        if let Some(of) = &self.burst {
            let (rate, high, first, each) = (of.rate.0, of.high.0, of.at.as_secs_f64(), of.lasts.as_secs_f64());
            let every = of.every.map(|every| every.as_secs_f64().max(0.001));
            let at = move |at: f64| {
                let since = at - first;
                let within = every.map_or(since, |every| since.rem_euclid(every));
                if since >= 0.0 && within < each { high } else { rate }
            };
            let (lasts, service, seed, highest) = (*of.r#for, of.service, of.seed, rate.max(high));
            return Some(Plain {
                kind: "burst",
                lasts,
                service,
                seed,
                highest,
                mean: highest,
                even: false,
                rate: Box::new(at),
            });
        }
        if let Some(of) = &self.ramp {
            let (from, to, whole) = (of.from.0, of.to.0, of.r#for.as_secs_f64().max(0.001));
            let rate = move |at: f64| from + (to - from) * at / whole;
            let (lasts, service, seed, mean) = (*of.r#for, of.service, of.seed, from.midpoint(to));
            return Some(Plain {
                kind: "ramp",
                lasts,
                service,
                seed,
                highest: from.max(to),
                mean,
                even: false,
                rate: Box::new(rate),
            });
        }
        if let Some(of) = &self.on_off {
            let (on, off, on_for) = (of.on.0, of.off.0, of.on_for.as_secs_f64());
            let turn = (on_for + of.off_for.as_secs_f64()).max(0.001);
            let rate = move |at: f64| if at.rem_euclid(turn) < on_for { on } else { off };
            let (lasts, service, seed, mean) = (*of.r#for, of.service, of.seed, (on * on_for + off * (turn - on_for)) / turn);
            return Some(Plain {
                kind: "on-off",
                lasts,
                service,
                seed,
                highest: on.max(off),
                mean,
                even: false,
                rate: Box::new(rate),
            });
        }
        let of = self.heavy_tail.as_ref()?;
        let rate = of.rate.0;
        let service = Some(Service::pareto_of_mean(of.mean, of.shape));
        let (lasts, seed) = (*of.r#for, of.seed);
        Some(Plain {
            kind: "heavy-tail",
            lasts,
            service,
            seed,
            highest: rate,
            mean: rate,
            even: false,
            rate: Box::new(move |_| rate),
        })
    }

    /// The jobs, and how long they go on arriving. `service` is for those that do not say how long they take.
    ///
    /// # Errors
    /// What is missing or too much, and what to do.
    pub fn jobs(&self, service: Option<Service>, seed: u64) -> Result<(Vec<Job>, Duration), String> {
        let Some(plain) = self.plain() else {
            return Err("there is no generator in it".to_owned());
        };
        let kind = plain.kind;
        let service = plain.service.or(service);
        let service =
            service.ok_or_else(|| format!("{kind} does not say how long jobs take: write `service: 30s`, or give --service-time"))?;
        if plain.lasts.is_zero() || plain.lasts > LASTS_MAX {
            return Err(format!("{kind} is to last more than nothing, and {} at the most", Span(LASTS_MAX)));
        }
        let (whole, most) = (plain.lasts.as_secs_f64(), JOBS_MAX as f64);
        let too_many =
            || format!("{kind} makes more than {JOBS_MAX} jobs, the most that are simulated: lower its rate, or make `for` shorter");
        // Far too many is said before they are made.
        if plain.mean * whole > most * 4.0 {
            return Err(too_many());
        }
        let random = Random::seeded(plain.seed.unwrap_or(seed));
        let mut jobs = Vec::new();
        let (mut at, mut n) = (0.0, 0.0);
        if plain.highest <= 0.0 {
            return Ok((jobs, plain.lasts));
        }
        loop {
            if plain.even {
                at = n / plain.highest;
                n += 1.0;
            } else {
                at += service::exponential(&random) / plain.highest;
            }
            if at >= whole {
                break;
            }
            if !plain.even && random.fraction() * plain.highest >= (plain.rate)(at) {
                continue;
            }
            if jobs.len() >= JOBS_MAX {
                return Err(too_many());
            }
            jobs.push(Job {
                at: Duration::from_millis(millis(at)),
                takes: service.draw(&random),
            });
        }
        Ok((jobs, plain.lasts))
    }
}

/// Whole milliseconds of seconds that are neither negative nor more than a year.
fn millis(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(shape: serde_json::Value) -> Vec<Job> {
        let shape: Shape = serde_json::from_value(shape).unwrap();
        shape.jobs(None, 3).unwrap().0
    }

    /// How many arrive within these hours.
    fn between(jobs: &[Job], from: f64, to: f64) -> f64 {
        let within = jobs.iter().filter(|job| (from..to).contains(&(job.at.as_secs_f64() / 3_600.0)));
        within.count() as f64
    }

    /// A count of a Poisson process is within five standard deviations of its mean.
    fn about(is: f64, wanted: f64) {
        assert!((is - wanted).abs() <= 5.0 * wanted.sqrt().max(1.0), "{is} is not about {wanted}");
    }

    #[test]
    fn rates_are_those_of_the_shape() {
        let constant = made(json!({"constant": {"rate": "2/m", "service": "30s", "for": "1h"}}));
        assert_eq!(constant.len(), 120);
        assert_eq!(
            (constant[1].at, constant[1].takes),
            (Duration::from_secs(30), Duration::from_secs(30))
        );
        let poisson = made(json!({"poisson": {"rate": "60/m", "service": "30s", "for": "5h"}}));
        about(between(&poisson, 0.0, 5.0), 18_000.0);
        let gaps: Vec<f64> = poisson.windows(2).map(|two| (two[1].at - two[0].at).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "the gaps of chance are exponential");
        let day = made(json!({"diurnal": {"low": "60/h", "high": "3600/h", "service": "1s", "for": "48h"}}));
        about(between(&day, 0.0, 48.0), 1_830.0 * 48.0);
        about(between(&day, 11.9, 12.1), 3_599.0 * 0.2);
        about(between(&day, 23.9, 24.1), 61.0 * 0.2);
        let early = made(json!({"diurnal": {"low": "0/h", "high": "3600/h", "peak": "6h", "service": "1s", "for": "24h"}}));
        about(between(&early, 5.9, 6.1), 720.0);
        let burst = made(
            json!({"burst": {"rate": "60/h", "high": "3600/h", "at": "1h", "lasts": "30m", "every": "2h", "service": "1s", "for": "5h"}}),
        );
        about(between(&burst, 0.0, 1.0), 60.0);
        about(between(&burst, 1.0, 1.5), 1_800.0);
        about(between(&burst, 3.0, 3.5), 1_800.0);
        about(between(&burst, 3.5, 5.0), 90.0);
        let ramp = made(json!({"ramp": {"from": "0/h", "to": "7200/h", "service": "1s", "for": "4h"}}));
        about(between(&ramp, 0.0, 2.0), 3_600.0);
        about(between(&ramp, 2.0, 4.0), 10_800.0);
        let turns = made(json!({"on-off": {"on": "3600/h", "on-for": "30m", "off-for": "90m", "service": "1s", "for": "4h"}}));
        about(between(&turns, 2.0, 2.5), 1_800.0);
        assert_eq!(between(&turns, 0.5, 2.0), 0.0);
        let tail = made(json!({"heavy-tail": {"rate": "3600/h", "mean": "30s", "shape": 3.0, "for": "5h"}}));
        let mean = tail.iter().map(|job| job.takes.as_secs_f64()).sum::<f64>() / tail.len() as f64;
        assert!((mean - 30.0).abs() < 1.5, "{mean}");
        assert!(tail.iter().any(|job| job.takes > Duration::from_secs(150)));
    }

    #[test]
    fn the_same_seed_gives_the_same_jobs() {
        let shape: Shape =
            serde_json::from_value(json!({"poisson": {"rate": "60/m", "service": "exponential(30s)", "for": "1h"}})).unwrap();
        assert_eq!(shape.jobs(None, 1), shape.jobs(None, 1));
        assert_ne!(shape.jobs(None, 1), shape.jobs(None, 2));
        let own: Shape = serde_json::from_value(json!({"poisson": {"rate": "60/m", "service": "30s", "for": "1h", "seed": 9}})).unwrap();
        assert_eq!(own.jobs(None, 1), own.jobs(None, 2));
    }

    #[test]
    fn too_many_and_what_is_missing_is_refused() {
        for (shape, says) in [
            (json!({}), "no generator"),
            (json!({"poisson": {"rate": "60/m", "for": "1h"}}), "--service-time"),
            (
                json!({"poisson": {"rate": "60/m", "service": "30s", "for": "0s"}}),
                "more than nothing",
            ),
            (
                json!({"poisson": {"rate": "10000/s", "service": "30s", "for": "1h"}}),
                "lower its rate",
            ),
            (
                json!({"constant": {"rate": "100/s", "service": "30s", "for": "6h"}}),
                "lower its rate",
            ),
        ] {
            let shape: Shape = serde_json::from_value(shape).unwrap();
            let error = shape.jobs(None, 1).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let nothing: Shape = serde_json::from_value(json!({"constant": {"rate": "0/s", "service": "30s", "for": "6h"}})).unwrap();
        assert_eq!(nothing.jobs(None, 1).unwrap().0, []);
    }
}
