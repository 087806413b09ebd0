//! How patient the provisioner is.

use epu_core::time::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The provisioner's settings. Every one has a default that suits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Config {
    /// How long a launch is repeated that nobody answers, a day at the most. Too low: machines are given up that come late. Too high: a dead site
    /// holds a pool's places.
    pub launch_window: Span,
    /// How long one call to a site may take.
    pub call_within: Span,
    /// Launches called at one site at the same time, and questions asked of it; others wait.
    #[schemars(range(min = 1, max = 1_000))]
    pub calls_at_once: u16,
    /// Wait before a failed call is repeated; it doubles each time.
    pub retry_first: Span,
    /// The longest such wait.
    pub retry_most: Span,
    /// How long a failed instance is left for its pool to replace in its own order, before it is ended here.
    pub failed_grace: Span,
    /// How long ending may take before it is asked for again.
    pub terminate_within: Span,
    /// How often sites are listed while something is changing; left out: as the driver advises.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub look_fast: Option<Span>,
    /// How often sites are listed while nothing changes; left out: as the driver advises.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub look_steady: Option<Span>,
    /// How long a machine without a record may stay; left out: as the driver advises.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep_grace: Option<Span>,
    /// Most machines without a record that are ended after one look. A wrong list then does little harm.
    #[schemars(range(min = 1, max = 1_000))]
    pub sweep_most: u16,
    /// How long ended records, journal and output are kept.
    pub retention: Span,
    /// How often those that are older go.
    pub retire_every: Span,
    /// How often a page of instances is told again without being asked.
    pub tell_every: Span,
    /// How long draining may take in a teardown that does not say.
    pub teardown_drain: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            launch_window: Span::secs(3_600),
            call_within: Span::secs(60),
            calls_at_once: 8,
            retry_first: Span::secs(1),
            retry_most: Span::secs(60),
            failed_grace: Span::secs(600),
            terminate_within: Span::secs(60),
            look_fast: None,
            look_steady: None,
            sweep_grace: None,
            sweep_most: 10,
            retention: Span::secs(7 * 86_400),
            retire_every: Span::secs(600),
            tell_every: Span::secs(10),
            teardown_drain: Span::secs(3_600),
        }
    }
}

/// Where instances reach us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    /// Where agents ask for their context and report, as `http://host:port`.
    pub provisioner: String,
    /// Where heartbeats go; any of them will do.
    pub aggregators: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_is_the_default_and_unknown_keys_are_refused() {
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
        assert!(serde_json::from_str::<Config>(r#"{"launch_window": "1h"}"#).is_err());
        let text = serde_json::to_string(&Config::default()).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), Config::default());
    }
}
