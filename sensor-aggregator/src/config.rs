//! The aggregator's settings. Every one has a default that suits pools of up to 100,000 instances.

use std::time::Duration;

use epu_core::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shortest period of anything here. Shorter ones only burn the processor.
const SHORTEST: Duration = Duration::from_millis(10);

/// The aggregator's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
pub struct Config {
    /// How often what is new is told. Too high: failures are noticed that much later. Too low: more messages. A sensor's new
    /// value does not wait for it.
    pub snapshot_every: Span,
    /// How often everything is told, new or not, for those who missed something.
    pub complete_every: Span,
    /// How long one reading of a sensor may take. Sources have shorter limits of their own, which say more; this one is for
    /// those that hang in spite of them. Too low: it cuts those short.
    pub read_within: Span,
    /// How long an ended instance is remembered after it was last mentioned or heard, so that it is told to stop when it is not
    /// really gone. Also how long a pool's sensors are read after its last mention.
    pub forget_ended: Span,
    /// How long an instance is remembered that is neither mentioned nor heard. Too low: with very many instances the provisioner
    /// may need longer to mention each of them again.
    pub forget_silent: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            snapshot_every: Span::secs(1),
            complete_every: Span::secs(30),
            read_within: Span::secs(25),
            forget_ended: Span::secs(600),
            forget_silent: Span::secs(6 * 3_600),
        }
    }
}

impl Config {
    /// Every setting that cannot be meant: its key, and what is wrong with it.
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        for (key, span) in [
            ("snapshot-every", self.snapshot_every),
            ("complete-every", self.complete_every),
            ("read-within", self.read_within),
        ] {
            if *span < SHORTEST {
                faults.push((key, format!("{span} is too short: at least {}", Span(SHORTEST))));
            }
        }
        if *self.complete_every < *self.snapshot_every {
            faults.push((
                "complete-every",
                format!("{} is shorter than snapshot-every ({})", self.complete_every, self.snapshot_every),
            ));
        }
        faults
    }
}

/// `every`, or the shortest period that a loop may have.
pub(crate) fn period(every: Span) -> Duration {
    (*every).max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_without_fault_and_nonsense_is_named() {
        assert_eq!(Config::default().faults(), []);
        let nonsense = Config {
            snapshot_every: Span::secs(60),
            read_within: Span::secs(0),
            ..Config::default()
        };
        let keys: Vec<_> = nonsense.faults().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["read-within", "complete-every"]);
    }
}
