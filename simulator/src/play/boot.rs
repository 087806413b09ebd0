//! How long machines take to come up, and how many never do.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use epu_core::Span;
use epu_core::random::Random;

use super::workload::service::lognormal;

/// No machine is drawn to take longer.
const LONGEST: Duration = Duration::from_secs(86_400);

/// How machines come up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Boot {
    /// From the launch until the agent starts.
    pub takes: Takes,
    /// The share of machines whose agent never starts.
    pub failing: f64,
}

/// How long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Takes {
    /// So long, and evenly up to this share less or more.
    About(Span, f64),
    /// Lognormal with these quantiles.
    LogNormal {
        /// Half take less.
        p50: Span,
        /// One of a hundred takes more.
        p99: Span,
    },
}

impl Default for Boot {
    fn default() -> Self {
        Self {
            takes: Takes::About(Span::secs(40), 0.2),
            failing: 0.0,
        }
    }
}

impl Boot {
    /// One machine's time by chance; none when its agent never starts.
    #[must_use]
    pub fn draw(&self, random: &Random) -> Option<Duration> {
        let takes = match self.takes {
            Takes::About(takes, share) => random.jitter(*takes, share),
            Takes::LogNormal { p50, p99 } => {
                let seconds = lognormal(random, p50.as_secs_f64(), p99.as_secs_f64());
                Duration::from_secs_f64(seconds.clamp(0.0, LONGEST.as_secs_f64()))
            }
        };
        let fails = self.failing > 0.0 && random.fraction() < self.failing;
        (!fails).then_some(takes.min(LONGEST))
    }
}

impl FromStr for Takes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} is no boot time: {why}; write 40s, 40s±20% (or 40s+-20%), or p50=40s,p99=3m");
        let span = |text: &str| {
            text.trim()
                .parse::<Span>()
                .map_err(|_| wrong("a length of time has a unit, such as 40s"))
        };
        let takes = if let Some(rest) = text.trim().strip_prefix("p50=") {
            let (p50, p99) = rest.split_once(',').ok_or_else(|| wrong("p99 is missing"))?;
            let p99 = p99.trim().strip_prefix("p99=").ok_or_else(|| wrong("p99 is missing"))?;
            let (p50, p99) = (span(p50)?, span(p99)?);
            if p50.is_zero() || p99 < p50 {
                return Err(wrong("p50 is to be more than nothing, and p99 not less than p50"));
            }
            Self::LogNormal { p50, p99 }
        } else if let Some((takes, share)) = text.split_once('±').or_else(|| text.split_once("+-")) {
            let share = share.trim().strip_suffix('%').and_then(|share| share.trim().parse::<f64>().ok());
            let share = share.filter(|share| (0.0..=100.0).contains(share));
            Self::About(
                span(takes)?,
                share.ok_or_else(|| wrong("the share is a percentage up to 100%"))? / 100.0,
            )
        } else {
            Self::About(span(text)?, 0.0)
        };
        let longest = match takes {
            Self::About(takes, _) => takes,
            Self::LogNormal { p99, .. } => p99,
        };
        if *longest > LONGEST {
            Err(wrong("it is more than a day"))
        } else {
            Ok(takes)
        }
    }
}

impl fmt::Display for Takes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::About(takes, 0.0) => write!(out, "{takes}"),
            Self::About(takes, share) => write!(out, "{takes}±{}%", share * 100.0),
            Self::LogNormal { p50, p99 } => write!(out, "p50={p50},p99={p99}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_times_are_written_in_three_ways() {
        let about = |share| Ok(Takes::About(Span::secs(40), share));
        assert_eq!("40s".parse(), about(0.0));
        assert_eq!("40s±20%".parse(), about(0.2));
        assert_eq!("40s +- 20 %".parse(), about(0.2));
        let (p50, p99) = (Span::secs(40), Span::secs(180));
        assert_eq!("p50=40s,p99=3m".parse(), Ok(Takes::LogNormal { p50, p99 }));
        for text in ["40s", "40s±20%", "p50=40s,p99=3m"] {
            assert_eq!(text.parse::<Takes>().unwrap().to_string(), text);
        }
        for text in ["", "40", "40s±", "40s±120%", "p50=40s", "p50=3m,p99=40s", "p50=0s,p99=1s", "2days"] {
            assert!(text.parse::<Takes>().unwrap_err().contains("write 40s"), "{text}");
        }
    }

    #[test]
    fn what_is_drawn_is_as_written() {
        let random = Random::seeded(2);
        let mut boot = Boot::default();
        assert!((0..1_000).all(|_| (32..=48).contains(&boot.draw(&random).unwrap().as_secs())));
        boot.failing = 0.25;
        let failed = (0..10_000).filter(|_| boot.draw(&random).is_none()).count();
        assert!((2_300..2_700).contains(&failed), "{failed}");
        boot = Boot {
            takes: "p50=40s,p99=3m".parse().unwrap(),
            failing: 0.0,
        };
        let mut all: Vec<u64> = (0..10_000).map(|_| boot.draw(&random).unwrap().as_secs()).collect();
        all.sort_unstable();
        assert!(
            (38..=42).contains(&all[5_000]) && (160..=200).contains(&all[9_900]),
            "{} {}",
            all[5_000],
            all[9_900]
        );
    }
}
