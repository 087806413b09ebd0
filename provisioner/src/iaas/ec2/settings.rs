//! An EC2 site's settings.

use std::collections::BTreeMap;

use epu_core::secret::SecretRef;
use epu_core::time::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An EC2 site's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct Ec2Settings {
    /// The region, such as `eu-central-1`.
    #[schemars(length(min = 1, max = 60), regex(pattern = "^[A-Za-z0-9-]+$"))]
    pub region: String,
    /// Where a cloud that speaks EC2's API answers, such as `https://cloud.example.org:8773/services/compute`; left out: Amazon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500), regex(pattern = r"^https?://[^@\s]+$"))]
    pub endpoint: Option<String>,
    /// Where it says who the caller is (STS); left out: Amazon's, and with `endpoint` the account is known by its access key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500), regex(pattern = r"^https?://[^@\s]+$"))]
    pub identity_endpoint: Option<String>,
    /// Who we are there; left out: as the vendor's tools find it (environment, profile, instance metadata).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Whether a repeated RunInstances with the same client token gives the same machines. Without, every launch looks first and asks for
    /// one machine at a time.
    #[serde(default = "yes")]
    pub client_tokens: bool,
    /// Whether tags can be given in RunInstances. Without, they are added right after it.
    #[serde(default = "yes")]
    pub tags_on_create: bool,
    /// Whether machines of one RunInstances are numbered by their launch index. Without, every launch asks for one machine at a time.
    #[serde(default = "yes")]
    pub launch_index: bool,
    /// Whether a machine counts as running only when the site's own checks of it passed. Costs one more list each time.
    #[serde(default)]
    pub status_checks: bool,
    /// Most machines of one launch.
    #[serde(default = "launch_most")]
    #[schemars(range(min = 1, max = 1_000))]
    pub launch_most: u32,
    /// How long a fresh machine may be missing from lists.
    #[serde(default = "grace")]
    pub consistency_grace: Span,
    /// How often to list while something is changing.
    #[serde(default = "fast")]
    pub look_fast: Span,
    /// How often to list while nothing changes.
    #[serde(default = "steady")]
    pub look_steady: Span,
    /// How long a machine without a record may stay.
    #[serde(default = "sweep")]
    pub sweep_grace: Span,
    /// Token buckets that differ from EC2's published ones, by name, such as `run-instances`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pace: BTreeMap<String, BucketSpec>,
}

/// Who we are at a site. Either `name`, or `profile`, or both keys.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
pub struct Credentials {
    /// One of `credentials` at the top of the config file, which then stands here. Drivers never see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// The access key's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<SecretRef>,
    /// The secret access key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<SecretRef>,
    /// The session token, for keys that expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SecretRef>,
    /// A profile of the vendor's credentials file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub profile: Option<String>,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct BucketSpec {
    /// Most tokens that it holds.
    #[schemars(range(min = 1.0, max = 1_000_000.0))]
    pub capacity: f64,
    /// Tokens that come back each second.
    #[schemars(range(min = 0.01, max = 1_000_000.0))]
    pub refill: f64,
}

fn yes() -> bool {
    true
}
fn launch_most() -> u32 {
    1_000
}
fn grace() -> Span {
    Span::secs(120)
}
fn fast() -> Span {
    Span::secs(5)
}
fn steady() -> Span {
    Span::secs(60)
}
fn sweep() -> Span {
    Span::secs(600)
}
