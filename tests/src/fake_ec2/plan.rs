//! What goes wrong, by plan: how much there is, what calls meet, what becomes of machines, how long things take.
//!
//! A plan is JSON for `POST /_fake/plan` and `--plan`, and a struct for tests in Rust. A new plan replaces the one before; what its
//! faults have already been through starts anew. Everything random is drawn from the seed, separately for each action and each
//! machine: what one call meets does not depend on which calls of other actions came before it.

use epu_core::time::Span;
use serde::{Deserialize, Serialize};

use super::bucket::Throttle;

/// What goes wrong. The default is: nothing, and EC2's published throttling.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Plan {
    /// Room for machines. A place that none of these names has room without end.
    pub capacity: Vec<Room>,
    /// Most virtual processors of running on-demand machines per account and region; then `VcpuLimitExceeded`.
    pub vcpus: Option<u32>,
    /// Most running on-demand machines per account and region; then `InstanceLimitExceeded`.
    pub instances: Option<u32>,
    /// Most running spot machines per account and region; then `MaxSpotInstanceCountExceeded`.
    pub spot_instances: Option<u32>,
    /// What a spot machine costs now: who offers less gets `SpotMaxPriceTooLow`.
    pub spot_price: Option<f64>,
    /// How calls are throttled; left out: as before.
    pub throttle: Option<Throttle>,
    /// What calls meet.
    pub faults: Vec<Fault>,
    /// What becomes of machines that are launched from now on.
    pub fates: Vec<Chance>,
    /// How long things take; left out: as before.
    pub timings: Option<Timings>,
    /// How far this EC2's clock is ahead of ours, in milliseconds; negative is behind.
    pub clock_ahead_ms: i64,
}

/// So much room in a place. What is left out matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Room {
    /// In this zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// For this instance type.
    #[serde(default)]
    pub instance_type: Option<String>,
    /// For this market, `spot` or `on-demand`.
    #[serde(default)]
    pub market: Option<String>,
    /// So many more machines. Those that end give their room back.
    pub left: u32,
}

impl Room {
    /// So much room for all types in a zone.
    #[must_use]
    pub fn in_zone(zone: &str, left: u32) -> Self {
        Self {
            zone: Some(zone.to_owned()),
            instance_type: None,
            market: None,
            left,
        }
    }

    /// Whether it speaks of machines like these.
    #[must_use]
    pub fn is_for(&self, zone: &str, instance_type: &str, market: &str) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        fits(&self.zone, zone) && fits(&self.instance_type, instance_type) && fits(&self.market, market)
    }
}

/// What some calls meet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Fault {
    /// Calls of this action; left out: of any.
    #[serde(default)]
    pub action: Option<String>,
    /// Calls of this account; left out: of any.
    #[serde(default)]
    pub account: Option<String>,
    /// So many calls pass unharmed first.
    #[serde(default)]
    pub skip: u32,
    /// Then so many are hit; left out: all.
    #[serde(default)]
    pub next: Option<u32>,
    /// How likely each of them is hit; left out: surely.
    #[serde(default)]
    pub probability: Option<f64>,
    /// What they meet.
    pub effect: Effect,
}

impl Fault {
    /// Every call of an action meets this.
    #[must_use]
    pub fn on(action: &str, effect: Effect) -> Self {
        Self {
            action: Some(action.to_owned()),
            account: None,
            skip: 0,
            next: None,
            probability: None,
            effect,
        }
    }

    /// Only the next `calls`.
    #[must_use]
    pub fn next(self, calls: u32) -> Self {
        Self { next: Some(calls), ..self }
    }

    /// Only after `calls` others.
    #[must_use]
    pub fn after(self, calls: u32) -> Self {
        Self { skip: calls, ..self }
    }

    /// Only this share of them.
    #[must_use]
    pub fn probability(self, share: f64) -> Self {
        Self {
            probability: Some(share),
            ..self
        }
    }
}

/// What a call meets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Effect {
    /// It is not done and answered with this error.
    Error {
        /// The code.
        code: String,
        /// What it says; left out: something fitting.
        #[serde(default)]
        message: Option<String>,
        /// The HTTP status; left out: the one that goes with the code.
        #[serde(default)]
        status: Option<u16>,
    },
    /// It is not done, and the connection is closed.
    Lost,
    /// It **is** done, and the connection is closed without an answer.
    Dropped,
    /// It is done, and answered later.
    Delayed {
        /// By so much.
        by: Span,
    },
    /// Its tags are forgotten.
    TagsIgnored,
    /// The list ends in the middle of the page, and says that it is complete.
    Short,
    /// The list is empty, and says that it is complete.
    Empty,
    /// The answer is cut off within an element.
    Malformed,
    /// The list shows the world as it was.
    Stale {
        /// So long ago.
        by: Span,
    },
    /// This share of the machines is missing from the list, each time others.
    Missing {
        /// How many of them, from 0 to 1.
        share: f64,
    },
}

impl Effect {
    /// An error with the message and status that go with its code.
    #[must_use]
    pub fn error(code: &str) -> Self {
        Self::Error {
            code: code.to_owned(),
            message: None,
            status: None,
        }
    }

    /// For counting.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Error { .. } => "error",
            Self::Lost => "lost",
            Self::Dropped => "dropped",
            Self::Delayed { .. } => "delayed",
            Self::TagsIgnored => "tags-ignored",
            Self::Short => "short",
            Self::Empty => "empty",
            Self::Malformed => "malformed",
            Self::Stale { .. } => "stale",
            Self::Missing { .. } => "missing",
        }
    }
}

/// A fate and whom it strikes. Each machine draws once for each of these when it is launched; several may strike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Chance {
    /// How likely; left out: surely.
    #[serde(default)]
    pub probability: Option<f64>,
    /// So many machines at the most; left out: no limit.
    #[serde(default)]
    pub next: Option<u32>,
    /// Only in this zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// What becomes of them.
    pub fate: Fate,
}

impl Chance {
    /// Strikes every machine.
    #[must_use]
    pub fn always(fate: Fate) -> Self {
        Self {
            probability: None,
            next: None,
            zone: None,
            fate,
        }
    }

    /// Strikes this share.
    #[must_use]
    pub fn probability(self, share: f64) -> Self {
        Self {
            probability: Some(share),
            ..self
        }
    }

    /// Strikes so many.
    #[must_use]
    pub fn next(self, machines: u32) -> Self {
        Self {
            next: Some(machines),
            ..self
        }
    }
}

/// What becomes of a machine. `after` counts from its launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Fate {
    /// It stays `pending` longer.
    Pending {
        /// By so much.
        by: Span,
    },
    /// It goes from `pending` to `terminated`.
    ///
    /// Source: "Instance terminates immediately",
    /// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/troubleshooting-launch.html>, with state reason `Server.InternalError`.
    LaunchFails,
    /// It runs, and its user data runs later.
    Slow {
        /// By so much.
        by: Span,
    },
    /// It runs, and its user data never does.
    Stuck,
    /// Its status checks never pass.
    Impaired,
    /// Its processes are killed while EC2 goes on saying `running`.
    Silent {
        /// So long after the launch.
        after: Span,
    },
    /// It is gone from one moment to the next, and so is its row.
    Vanishes {
        /// So long after the launch.
        after: Span,
    },
    /// It stops, as if somebody had stopped it.
    Stops {
        /// So long after the launch.
        after: Span,
    },
    /// It is terminated, as if somebody had terminated it.
    Terminated {
        /// So long after the launch.
        after: Span,
    },
    /// EC2 wants it back: a notice, then the end. Strikes spot machines only.
    Interrupted {
        /// The notice comes so long after the launch.
        after: Span,
    },
}

/// Between the one and the other, drawn for each machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Between(pub Span, pub Span);

impl Between {
    /// Always the same.
    #[must_use]
    pub const fn exactly(length: Span) -> Self {
        Self(length, length)
    }

    /// One of them.
    pub fn draw(self, random: &mut fastrand::Rng) -> std::time::Duration {
        let width = self.1.saturating_sub(*self.0);
        *self.0 + width.mul_f64(random.f64())
    }
}

/// How long things take. The defaults are EC2's order, made short enough for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Timings {
    /// From `pending` to `running`.
    pub pending: Between,
    /// From `shutting-down` to `terminated`, and from `stopping` to `stopped`.
    pub ending: Between,
    /// How much later than it happens a change is seen in lists and by id.
    ///
    /// Source: "Eventual consistency in the Amazon EC2 API", <https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>:
    /// an id from RunInstances may give `InvalidInstanceID.NotFound` for a while.
    pub lag: Between,
    /// How long after it runs a machine's status checks pass.
    pub checks: Between,
    /// How long a terminated machine is still listed.
    ///
    /// Source: "DescribeInstances", <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html>: recently
    /// terminated instances might appear, usually for less than one hour.
    pub listed: Between,
    /// How long before its end a spot machine is told.
    ///
    /// Source: "Spot Instance interruption notices",
    /// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html>: two minutes.
    pub notice: Span,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            pending: Between(Span::millis(300), Span::secs(1)),
            ending: Between(Span::millis(200), Span::secs(1)),
            lag: Between(Span::millis(0), Span::secs(1)),
            checks: Between(Span::secs(1), Span::secs(3)),
            listed: Between::exactly(Span::secs(3_600)),
            notice: Span::secs(120),
        }
    }
}

impl Timings {
    /// Everything at once, nothing lags: for tests of other things.
    #[must_use]
    pub fn instant() -> Self {
        let now = Between::exactly(Span::millis(0));
        Self {
            pending: now,
            ending: now,
            lag: now,
            checks: now,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_is_documented() {
        let text = r#"{
            "capacity": [{"zone": "us-east-1a", "instance-type": "m5.large", "left": 3}],
            "vcpus": 64,
            "throttle": {"on": true, "buckets": {"RunInstances:resources": {"capacity": 10000, "refill": 100}}},
            "faults": [
                {"action": "RunInstances", "probability": 0.1, "effect": "dropped"},
                {"action": "DescribeInstances", "skip": 2, "next": 1, "effect": {"stale": {"by": "30s"}}},
                {"effect": {"error": {"code": "UnauthorizedOperation"}}, "next": 1}
            ],
            "fates": [{"probability": 0.05, "fate": "stuck"}, {"next": 1, "fate": {"interrupted": {"after": "10s"}}}],
            "timings": {"pending": ["1s", "3s"], "notice": "2s"}
        }"#;
        let plan: Plan = serde_json::from_str(text).unwrap();
        assert_eq!(plan.faults[1].effect, Effect::Stale { by: Span::secs(30) });
        assert_eq!(plan.timings.unwrap().notice, Span::secs(2));
        let again: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        assert_eq!(again, plan);
        for wrong in [r#"{"capactiy": []}"#, r#"{"faults": [{"effect": "dorpped"}]}"#] {
            assert!(serde_json::from_str::<Plan>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lengths_are_drawn_within_their_bounds() {
        let between = Between(Span::secs(1), Span::secs(3));
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..100 {
            let drawn = between.draw(&mut random);
            assert!(drawn >= *between.0 && drawn <= *between.1, "{drawn:?}");
        }
    }
}
