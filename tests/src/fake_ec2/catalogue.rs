//! What there is before anybody launches anything: accounts, images, key pairs, groups, subnets, zones, types, launch templates.

use std::collections::BTreeMap;

/// An image.
pub const IMAGE: &str = "ami-0e2e0fa1e00000001";
/// A key pair.
pub const KEY: &str = "epu-key";
/// A security group, named [`GROUP_NAME`].
pub const GROUP: &str = "sg-0e2e0fa1e00000001";
/// The name of [`GROUP`].
pub const GROUP_NAME: &str = "epu-workers";
/// The security group that machines get when none is asked for.
pub const DEFAULT_GROUP: &str = "sg-0e2e0fa1e0000000d";
/// The only network.
pub const VPC: &str = "vpc-0e2e0fa1e00000001";
/// The subnets of the zones a, b and c of every region.
pub const SUBNETS: [&str; 3] = ["subnet-0e2e0fa1e0000000a", "subnet-0e2e0fa1e0000000b", "subnet-0e2e0fa1e0000000c"];
/// An instance profile.
pub const PROFILE: &str = "epu-worker";
/// A launch template with two versions, named [`TEMPLATE_NAME`].
pub const TEMPLATE: &str = "lt-0e2e0fa1e00000001";
/// The name of [`TEMPLATE`].
pub const TEMPLATE_NAME: &str = "epu-worker";
/// An access key of account [`ACCOUNT`].
pub const ACCESS_KEY: &str = "test";
/// The account of [`ACCESS_KEY`].
pub const ACCOUNT: &str = "111111111111";
/// An access key of another account, [`OTHER_ACCOUNT`].
pub const OTHER_ACCESS_KEY: &str = "test-other";
/// The account of [`OTHER_ACCESS_KEY`].
pub const OTHER_ACCOUNT: &str = "222222222222";

/// The instance types: name, virtual processors, memory in MiB, architecture.
///
/// Source: "Amazon EC2 instance types", <https://docs.aws.amazon.com/ec2/latest/instancetypes/instance-types.html>.
pub const TYPES: [(&str, u32, u32, &str); 10] = [
    ("m1.small", 1, 1_740, "x86_64"),
    ("t3.micro", 2, 1_024, "x86_64"),
    ("t3.small", 2, 2_048, "x86_64"),
    ("t3.medium", 2, 4_096, "x86_64"),
    ("t3.large", 2, 8_192, "x86_64"),
    ("m5.large", 2, 8_192, "x86_64"),
    ("m5.xlarge", 4, 16_384, "x86_64"),
    ("c5.large", 2, 4_096, "x86_64"),
    ("c5.xlarge", 4, 8_192, "x86_64"),
    ("m6g.large", 2, 8_192, "arm64"),
];

/// A launch template: its versions hold parameters of RunInstances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchTemplate {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What each version sets, from version 1.
    pub versions: Vec<BTreeMap<String, String>>,
    /// The version that is used when none is named.
    pub default: usize,
}

/// What there is. Tests may add to it before they start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    /// The account of each access key.
    pub accounts: BTreeMap<String, String>,
    /// Images.
    pub images: Vec<String>,
    /// Key pairs.
    pub keys: Vec<String>,
    /// Security groups: id and name.
    pub groups: Vec<(String, String)>,
    /// Instance profiles.
    pub profiles: Vec<String>,
    /// Launch templates.
    pub templates: Vec<LaunchTemplate>,
}

impl Default for Catalogue {
    fn default() -> Self {
        let own = |text: &str| text.to_owned();
        let version = |size: &str| BTreeMap::from([(own("ImageId"), own(IMAGE)), (own("InstanceType"), own(size))]);
        Self {
            accounts: BTreeMap::from([(own(ACCESS_KEY), own(ACCOUNT)), (own(OTHER_ACCESS_KEY), own(OTHER_ACCOUNT))]),
            images: vec![own(IMAGE)],
            keys: vec![own(KEY)],
            groups: vec![(own(GROUP), own(GROUP_NAME)), (own(DEFAULT_GROUP), own("default"))],
            profiles: vec![own(PROFILE)],
            templates: vec![LaunchTemplate {
                id: own(TEMPLATE),
                name: own(TEMPLATE_NAME),
                versions: vec![version("t3.micro"), version("t3.small")],
                default: 1,
            }],
        }
    }
}

/// The zones of a region: a, b and c.
#[must_use]
pub fn zones(region: &str) -> [String; 3] {
    ["a", "b", "c"].map(|letter| format!("{region}{letter}"))
}

/// The virtual processors of a type.
#[must_use]
pub fn vcpus(instance_type: &str) -> Option<u32> {
    TYPES.iter().find(|(name, ..)| *name == instance_type).map(|(_, vcpus, ..)| *vcpus)
}

/// The architecture of a type.
#[must_use]
pub fn architecture(instance_type: &str) -> &'static str {
    TYPES
        .iter()
        .find(|(name, ..)| *name == instance_type)
        .map_or("x86_64", |(.., arch)| arch)
}
