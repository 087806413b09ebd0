//! How long jobs take, as a distribution that people can write: `30s`, `exponential(30s)`, `lognormal(p50=20s,p99=3m)`.

use std::f64::consts::TAU;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use epu_core::Span;
use epu_core::random::Random;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How long a job takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Service {
    /// Always this long.
    Fixed(Span),
    /// Exponentially distributed with this mean.
    Exponential(Span),
    /// Evenly between these.
    Uniform(Span, Span),
    /// Lognormal with these quantiles.
    LogNormal {
        /// Half take less.
        p50: Span,
        /// One of a hundred takes more.
        p99: Span,
    },
    /// Pareto: none takes less than `least`; the smaller the shape, the heavier the tail.
    Pareto {
        /// The least.
        least: Span,
        /// The exponent of the tail, more than 1 (with less there is no mean).
        shape: f64,
    },
}

/// No job is drawn longer than this, so that one draw of a heavy tail cannot make a run endless.
pub const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// The standard normal distribution's 0.99 quantile.
const Z99: f64 = 2.326_347_874_040_841;

impl Service {
    /// One by chance, in whole milliseconds, at least one.
    #[must_use]
    pub fn draw(&self, random: &Random) -> Duration {
        let seconds = match *self {
            Self::Fixed(takes) => takes.as_secs_f64(),
            Self::Exponential(mean) => mean.as_secs_f64() * exponential(random),
            Self::Uniform(least, most) => least.as_secs_f64() + (most.as_secs_f64() - least.as_secs_f64()) * random.fraction(),
            Self::LogNormal { p50, p99 } => lognormal(random, p50.as_secs_f64(), p99.as_secs_f64()),
            Self::Pareto { least, shape } => least.as_secs_f64() * (1.0 - random.fraction()).powf(-1.0 / shape),
        };
        let takes = Duration::from_secs_f64(seconds.clamp(0.001, LONGEST.as_secs_f64()));
        Duration::from_millis(u64::try_from(takes.as_millis()).unwrap_or(1).max(1))
    }

    /// The Pareto distribution with this mean.
    #[must_use]
    pub fn pareto_of_mean(mean: Span, shape: f64) -> Self {
        Self::Pareto {
            least: Span(mean.mul_f64((shape - 1.0) / shape)),
            shape,
        }
    }
}

/// Exponentially distributed with mean 1.
#[must_use]
pub(crate) fn exponential(random: &Random) -> f64 {
    -(1.0 - random.fraction()).ln()
}

/// Lognormal with these quantiles: `exp(ln p50 + sigma z)`, where `sigma = ln(p99 / p50) / z99`; z by Box and Muller.
#[must_use]
pub(crate) fn lognormal(random: &Random, p50: f64, p99: f64) -> f64 {
    let (radius, angle) = ((-2.0 * (1.0 - random.fraction()).ln()).sqrt(), TAU * random.fraction());
    let sigma = (p99 / p50).ln() / Z99;
    p50 * (sigma * radius * angle.cos()).exp()
}

const HOW: &str = "write 30s, exponential(30s), uniform(10s,1m), lognormal(p50=20s,p99=3m) or pareto(least=5s,shape=1.5)";

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = |why: &str| format!("{text:?} is no time that a job takes: {why}; {HOW}");
        let Some((kind, inside)) = text.split_once('(') else {
            let takes: Span = text.parse().map_err(|_| wrong("it has no unit that is known"))?;
            return above_zero(takes).map(Self::Fixed).ok_or_else(|| wrong("it is nothing"));
        };
        let inside = inside.strip_suffix(')').ok_or_else(|| wrong("the bracket is not closed"))?;
        let given: Vec<&str> = inside.split(',').map(str::trim).collect();
        let value = |n: usize, key: &str| -> Result<&str, String> {
            let written = given.get(n).ok_or_else(|| wrong(&format!("{key} is missing")))?;
            let value = match written.split_once('=') {
                None => written,
                Some((name, value)) if name.trim() == key => value.trim(),
                Some((name, _)) => return Err(wrong(&format!("{:?} stands where {key} is wanted", name.trim()))),
            };
            Ok(value)
        };
        let span = |n: usize, key: &str| -> Result<Span, String> {
            let takes: Span = value(n, key)?.parse().map_err(|error: String| wrong(&error))?;
            above_zero(takes).ok_or_else(|| wrong(&format!("{key} is nothing")))
        };
        let (service, wanted) = match kind.trim() {
            "exponential" => (Self::Exponential(span(0, "mean")?), 1),
            "uniform" => (Self::Uniform(span(0, "least")?, span(1, "most")?), 2),
            "lognormal" => {
                let (p50, p99) = (span(0, "p50")?, span(1, "p99")?);
                (Self::LogNormal { p50, p99 }, 2)
            }
            "pareto" => {
                let shape: f64 = value(1, "shape")?.parse().map_err(|_| wrong("shape is a number above 1"))?;
                let least = span(0, "least")?;
                (Self::Pareto { least, shape }, 2)
            }
            _ => return Err(wrong("there is no such distribution")),
        };
        match service {
            _ if given.len() > wanted => Err(wrong("there is too much in the brackets")),
            Self::Uniform(least, most) if most < least => Err(wrong("the most is less than the least")),
            Self::LogNormal { p50, p99 } if p99 < p50 => Err(wrong("p99 is less than p50")),
            Self::Pareto { shape, .. } if !(shape > 1.0 && shape <= 100.0) => Err(wrong("shape is to be above 1, and 100 at the most")),
            Self::Fixed(_) | Self::Exponential(_) | Self::Uniform(..) | Self::LogNormal { .. } | Self::Pareto { .. } => Ok(service),
        }
    }
}

fn above_zero(takes: Span) -> Option<Span> {
    (takes >= Span::millis(1)).then_some(takes)
}

impl fmt::Display for Service {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(takes) => write!(out, "{takes}"),
            Self::Exponential(mean) => write!(out, "exponential({mean})"),
            Self::Uniform(least, most) => write!(out, "uniform({least},{most})"),
            Self::LogNormal { p50, p99 } => write!(out, "lognormal(p50={p50},p99={p99})"),
            Self::Pareto { least, shape } => write!(out, "pareto(least={least},shape={shape})"),
        }
    }
}

impl Serialize for Service {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Service {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Service {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Service".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "how long a job takes: 30s, exponential(30s), uniform(10s,1m), lognormal(p50=20s,p99=3m), pareto(least=5s,shape=1.5)"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(text: &str) -> Vec<f64> {
        let (service, random) = (text.parse::<Service>().unwrap(), Random::seeded(7));
        let mut all: Vec<f64> = (0..40_000).map(|_| service.draw(&random).as_secs_f64()).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    fn mean(all: &[f64]) -> f64 {
        all.iter().sum::<f64>() / all.len() as f64
    }

    #[test]
    fn what_is_drawn_has_the_distribution_that_was_written() {
        let near = |is: f64, wanted: f64, share: f64| assert!((is - wanted).abs() <= wanted * share, "{is} is not near {wanted}");
        near(mean(&drawn("30s")), 30.0, 0.0);
        let exponential = drawn("exponential(30s)");
        near(mean(&exponential), 30.0, 0.02);
        near(exponential[20_000], 30.0 * 2_f64.ln(), 0.03);
        near(mean(&drawn("uniform(10s, 1m)")), 35.0, 0.02);
        let lognormal = drawn("lognormal(p50=20s,p99=3m)");
        near(lognormal[20_000], 20.0, 0.03);
        near(lognormal[39_600], 180.0, 0.06);
        let pareto = drawn("pareto(least=5s,shape=3)");
        near(pareto[0], 5.0, 0.001);
        near(mean(&pareto), 7.5, 0.03);
        let Service::Pareto { least, .. } = Service::pareto_of_mean(Span::secs(30), 1.5) else {
            unreachable!()
        };
        assert_eq!(least, Span::secs(10));
    }

    #[test]
    fn what_is_written_is_read_again_and_faults_say_what_to_write() {
        for text in [
            "30s",
            "exponential(1m)",
            "uniform(10s,1m)",
            "lognormal(p50=20s,p99=3m)",
            "pareto(least=5s,shape=1.5)",
        ] {
            assert_eq!(text.parse::<Service>().unwrap().to_string(), text);
        }
        assert_eq!("exponential(mean=5s)".parse(), Ok(Service::Exponential(Span::secs(5))));
        for text in [
            "",
            "30",
            "0s",
            "exponential",
            "exponential()",
            "exponential(30s",
            "exponential(30s,1s)",
            "weibull(1s)",
            "uniform(2s,1s)",
            "lognormal(p99=2s,p50=1s)",
            "lognormal(p50=2s,p99=1s)",
            "pareto(least=5s,shape=1)",
            "pareto(5s)",
            "pareto(5s,NaN)",
        ] {
            let error = text.parse::<Service>().unwrap_err();
            assert!(error.contains("write 30s"), "{text}: {error}");
        }
    }

    #[test]
    fn no_draw_is_nothing_or_endless() {
        assert!(
            drawn("pareto(least=1h,shape=1.01)")
                .iter()
                .all(|takes| *takes <= LONGEST.as_secs_f64())
        );
        assert!(drawn("exponential(1ms)").iter().all(|takes| *takes >= 0.001));
    }
}
