//! What kind of machine a template wants from a site that rents machines: image, size, network, market. A site that has no such
//! choice (processes of this machine) ignores it.
//!
//! Everything may be left out in a template and said by a placement, which overlays it: [`MachineSpec::over`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A machine as a template, or a placement on top of it, describes it. What is left out is the site's own default.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
pub struct MachineSpec {
    /// The image, such as `ami-0abc1234`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub image: Option<String>,
    /// The size, such as `m7i.large`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub size: Option<String>,
    /// The key pair whose owner may log in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub key: Option<String>,
    /// Security groups, by id. A placement's replace the template's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 255)))]
    pub security_groups: Vec<String>,
    /// The subnet, by id; it decides the zone. One placement has one: several placements spread a pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub subnet: Option<String>,
    /// The availability zone, where no subnet is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub zone: Option<String>,
    /// The instance profile, by name or ARN: what programs on the machine may do with the cloud.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2_048))]
    pub instance_profile: Option<String>,
    /// Volumes beside or over those of the image. A placement's replace the template's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 40))]
    pub volumes: Vec<Volume>,
    /// How the machine's own metadata is reached; left out: only with a session token (IMDSv2), one hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// A launch template of the site, which fills in what is left out here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_template: Option<LaunchTemplate>,
    /// On-demand or spot; left out: on-demand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub market: Option<Market>,
    /// What an hour costs, for what is shown and for `limits.budget`; no part of the request to the site.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    pub price: Option<f64>,
    /// Tags besides ours, whose keys begin with `epu:`. A placement's are added to the template's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 40))]
    pub tags: BTreeMap<String, String>,
    /// User data as a minijinja template, in place of ours. It has to start the agent: see `docs/ec2.md` for its variables.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16_384))]
    pub user_data: Option<String>,
}

impl MachineSpec {
    /// This, with `base` where it says nothing: a placement's over its template's.
    #[must_use]
    pub fn over(&self, base: &Self) -> Self {
        fn first<T: Clone>(one: &Option<T>, other: &Option<T>) -> Option<T> {
            one.as_ref().or(other.as_ref()).cloned()
        }
        fn unless_empty<T: Clone>(one: &[T], other: &[T]) -> Vec<T> {
            if one.is_empty() { other.to_vec() } else { one.to_vec() }
        }
        let mut tags = base.tags.clone();
        tags.extend(self.tags.clone());
        // A subnet decides the zone: whoever names one of the two is not to get the other's from below.
        let (subnet, zone) = if self.subnet.is_some() || self.zone.is_some() {
            (self.subnet.clone(), self.zone.clone())
        } else {
            (base.subnet.clone(), base.zone.clone())
        };
        Self {
            image: first(&self.image, &base.image),
            size: first(&self.size, &base.size),
            key: first(&self.key, &base.key),
            security_groups: unless_empty(&self.security_groups, &base.security_groups),
            subnet,
            zone,
            instance_profile: first(&self.instance_profile, &base.instance_profile),
            volumes: unless_empty(&self.volumes, &base.volumes),
            metadata: first(&self.metadata, &base.metadata),
            launch_template: first(&self.launch_template, &base.launch_template),
            market: first(&self.market, &base.market),
            price: first(&self.price, &base.price),
            tags,
            user_data: first(&self.user_data, &base.user_data),
        }
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct Volume {
    /// Its device name, such as `/dev/sdf`; the image's own root device is named to enlarge it.
    #[schemars(length(min = 1, max = 100))]
    pub device: String,
    /// Its size in GiB.
    #[schemars(range(min = 1, max = 65_536))]
    pub size: u32,
    /// Its type, such as `gp3`; left out: the site's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 50))]
    pub kind: Option<String>,
    /// Whether it outlives the machine. Nothing here will ever delete it then.
    #[serde(default)]
    pub keep: bool,
}

/// How a machine's metadata is reached from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
pub struct Metadata {
    /// Whether a session token is demanded (IMDSv2). Without it, any program that can be made to fetch a url can read the launch token.
    pub token_required: bool,
    /// Network hops that an answer survives; containers on the machine need 2.
    #[schemars(range(min = 1, max = 64))]
    pub hops: u8,
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            token_required: true,
            hops: 1,
        }
    }
}

/// A launch template of the site, by id or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct LaunchTemplate {
    /// Its id, such as `lt-0abc`; or `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub id: Option<String>,
    /// Its name; or `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 128))]
    pub name: Option<String>,
    /// Its version, such as `3`. A version that moves by itself (`$Latest`) makes a repeated call another one, and is refused.
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[0-9]+$"))]
    pub version: String,
}

/// How a machine is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Market {
    /// By the hour, until we end it.
    OnDemand,
    /// Cheaper, and taken back by the site with short notice.
    Spot(Spot),
}

/// A spot machine.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
pub struct Spot {
    /// Most to pay an hour; left out: the on-demand price, as the site advises.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0001, max = 1_000_000.0))]
    pub max_price: Option<f64>,
}

/// Where a machine gets the agent from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AgentSource {
    /// The image has it, as `epu-agent` on the path.
    #[default]
    Baked,
    /// It is fetched at boot and checked.
    #[serde(untagged)]
    Fetched(Fetched),
}

/// An agent program to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct Fetched {
    /// From where, over https or http; the digest is what makes it safe.
    #[schemars(length(min = 1, max = 2_000), regex(pattern = "^https?://[^\\s'\"]+$"))]
    pub url: String,
    /// Its SHA-256, in hexadecimal.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_overlays_its_template() {
        let template = MachineSpec {
            image: Some("ami-1".to_owned()),
            size: Some("small".to_owned()),
            subnet: Some("subnet-a".to_owned()),
            tags: BTreeMap::from([("team".to_owned(), "x".to_owned()), ("stage".to_owned(), "a".to_owned())]),
            ..MachineSpec::default()
        };
        let placement = MachineSpec {
            size: Some("large".to_owned()),
            zone: Some("us-east-1b".to_owned()),
            market: Some(Market::Spot(Spot { max_price: Some(0.05) })),
            tags: BTreeMap::from([("stage".to_owned(), "b".to_owned())]),
            ..MachineSpec::default()
        };
        let both = placement.over(&template);
        assert_eq!((both.image.as_deref(), both.size.as_deref()), (Some("ami-1"), Some("large")));
        assert_eq!(
            both.subnet, None,
            "a zone of the placement is not overruled by the template's subnet"
        );
        assert_eq!(both.zone.as_deref(), Some("us-east-1b"));
        assert_eq!((both.tags["team"].as_str(), both.tags["stage"].as_str()), ("x", "b"));
        assert_eq!(MachineSpec::default().over(&template), template);
    }

    #[test]
    fn what_people_write_is_understood() {
        let spec: MachineSpec = serde_json::from_str(r#"{"market": {"spot": {"max-price": 0.1}}, "metadata": {}}"#).unwrap();
        assert_eq!(spec.market, Some(Market::Spot(Spot { max_price: Some(0.1) })));
        assert!(spec.metadata.unwrap().token_required);
        assert_eq!(serde_json::from_str::<Market>(r#""on-demand""#).unwrap(), Market::OnDemand);
        assert_eq!(serde_json::from_str::<AgentSource>(r#""baked""#).unwrap(), AgentSource::Baked);
        let fetched: AgentSource = serde_json::from_str(r#"{"url": "https://h/a", "sha256": "00"}"#).unwrap();
        assert!(matches!(fetched, AgentSource::Fetched(_)));
        assert_eq!(serde_json::to_string(&fetched).unwrap(), r#"{"url":"https://h/a","sha256":"00"}"#);
    }
}
