//! What a site is, as people write it: one driver with its settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ec2::Ec2Settings;
use super::local::LocalSettings;

/// One place to launch on. Exactly one driver is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields, extend("minProperties" = 1, "maxProperties" = 1, "x-count" = "exactly one driver is wanted, such as `local: {}`"))]
pub struct SiteSpec {
    /// Workers are processes of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalSettings>,
    /// Workers are on machines of Amazon EC2, or of a cloud that speaks its API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ec2: Option<Ec2Settings>,
}

impl SiteSpec {
    /// The driver's name.
    #[must_use]
    pub fn driver(&self) -> &'static str {
        if self.ec2.is_some() { "ec2" } else { "local" }
    }
}

impl Default for SiteSpec {
    fn default() -> Self {
        Self {
            local: Some(LocalSettings::default()),
            ec2: None,
        }
    }
}
