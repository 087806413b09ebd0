//! Token buckets, as EC2 throttles with them.
//!
//! Source of all of it: "Request throttling for the Amazon EC2 API", <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html>.
//! Per account and region. *Request rate*: each API is evaluated by itself; a request takes one token from its bucket. *Resource rate*:
//! some actions have a second bucket, from which a request takes one token for each machine that it is about. Who exceeds either gets
//! `RequestLimitExceeded`.

use std::collections::BTreeMap;

use epu_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// How a bucket is filled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Most tokens that it holds.
    pub capacity: f64,
    /// Tokens that come back each second.
    pub refill: f64,
}

/// How calls are throttled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Throttle {
    /// Whether they are at all.
    pub on: bool,
    /// Buckets that differ from the published ones, by name: `RunInstances`, `RunInstances:resources`, `DescribeInstances:unfiltered`.
    pub buckets: BTreeMap<String, Rate>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            on: true,
            buckets: BTreeMap::new(),
        }
    }
}

impl Throttle {
    /// No throttling.
    #[must_use]
    pub fn off() -> Self {
        Self {
            on: false,
            ..Self::default()
        }
    }
}

/// The published rate of requests of an action; `plain` when neither pages nor filters are asked for.
///
/// The table "Request token bucket sizes and refill rates".
#[must_use]
pub fn requests(action: &str, plain: bool) -> (String, Rate) {
    // "Unfiltered and unpaginated non-mutating actions".
    const PLAIN: [&str; 3] = ["DescribeInstances", "DescribeInstanceStatus", "DescribeSecurityGroups"];
    if plain && PLAIN.contains(&action) {
        return (format!("{action}:unfiltered"), rate(50.0, 10.0));
    }
    let rate = match action {
        // "Uncategorized actions".
        "RunInstances" | "StartInstances" => rate(5.0, 2.0),
        "TerminateInstances" => rate(100.0, 5.0),
        "CreateTags" | "DeleteTags" => rate(100.0, 10.0),
        reads if reads.starts_with("Describe") || reads.starts_with("Get") => rate(100.0, 20.0),
        // "Mutating actions".
        _ => rate(50.0, 5.0),
    };
    (action.to_owned(), rate)
}

/// The published rate of machines of an action, where it has one. The table "Resource token bucket sizes and refill rates".
#[must_use]
pub fn resources(action: &str) -> Option<(String, Rate)> {
    let rate = match action {
        "RunInstances" | "StartInstances" => rate(1_000.0, 2.0),
        "TerminateInstances" | "StopInstances" => rate(1_000.0, 20.0),
        _ => return None,
    };
    Some((format!("{action}:resources"), rate))
}

fn rate(capacity: f64, refill: f64) -> Rate {
    Rate { capacity, refill }
}

/// The buckets of one account and region.
#[derive(Debug, Default)]
pub struct Buckets(BTreeMap<String, (f64, Timestamp)>);

impl Buckets {
    /// Takes `tokens` when they are there, otherwise none. A bucket is full when it is first asked.
    pub fn take(&mut self, name: &str, rate: Rate, tokens: f64, now: Timestamp) -> bool {
        let (level, at) = self.0.entry(name.to_owned()).or_insert((rate.capacity, now));
        let refilled = now.since(*at).as_secs_f64() * rate.refill;
        (*level, *at) = ((*level + refilled).min(rate.capacity), now.max(*at));
        if *level + 1e-9 < tokens {
            return false;
        }
        *level -= tokens;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_refills_at_its_rate_and_never_overflows() {
        let (name, rate) = requests("RunInstances", false);
        let mut buckets = Buckets::default();
        let at = |ms| Timestamp(ms);
        for _ in 0..5 {
            assert!(buckets.take(&name, rate, 1.0, at(0)));
        }
        assert!(!buckets.take(&name, rate, 1.0, at(499)));
        assert!(buckets.take(&name, rate, 1.0, at(500)), "two a second");
        assert!(!buckets.take(&name, rate, 1.0, at(500)));
        assert!(buckets.take(&name, rate, 5.0, at(60_000)));
        assert!(!buckets.take(&name, rate, 1.0, at(60_000)), "it held five, not more");
    }

    #[test]
    fn the_published_numbers() {
        let of = |(_, rate): (String, Rate)| (rate.capacity, rate.refill);
        assert_eq!(of(requests("DescribeInstances", false)), (100.0, 20.0));
        assert_eq!(of(requests("DescribeInstances", true)), (50.0, 10.0));
        assert_eq!(of(requests("DescribeImages", true)), (100.0, 20.0));
        assert_eq!(of(requests("TerminateInstances", false)), (100.0, 5.0));
        assert_eq!(of(resources("RunInstances").unwrap()), (1_000.0, 2.0));
        assert_eq!(of(resources("TerminateInstances").unwrap()), (1_000.0, 20.0));
        assert_eq!(resources("CreateTags"), None);
    }
}
