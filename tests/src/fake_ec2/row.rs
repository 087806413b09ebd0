//! A machine as EC2 knows it, and as EC2 shows it, which lags behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use epu_core::time::Timestamp;

use super::catalogue;
use super::xml::Xml;

/// The state of a machine. Codes and names: "InstanceState", <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceState.html>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It is being prepared.
    Pending,
    /// It runs.
    Running,
    /// It is going away.
    ShuttingDown,
    /// It is gone.
    Terminated,
    /// It is being stopped.
    Stopping,
    /// It is stopped.
    Stopped,
}

impl State {
    /// EC2's number for it.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Pending => 0,
            Self::Running => 16,
            Self::ShuttingDown => 32,
            Self::Terminated => 48,
            Self::Stopping => 64,
            Self::Stopped => 80,
        }
    }

    /// EC2's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// Whether it is on its way out, or out.
    #[must_use]
    pub fn is_ending(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

/// Whose machine, where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Home {
    /// The account.
    pub account: String,
    /// The region.
    pub region: String,
}

/// What was asked for, the same for all machines of a launch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Spec {
    /// The image.
    pub image: String,
    /// The type.
    pub instance_type: String,
    /// The key pair.
    pub key: Option<String>,
    /// Security groups: id and name.
    pub groups: Vec<(String, String)>,
    /// The instance profile.
    pub profile: Option<String>,
    /// User data as it was sent, in base64.
    pub user_data: Option<String>,
    /// The client token.
    pub token: Option<String>,
    /// Whether it is a spot machine.
    pub spot: bool,
    /// Where.
    pub zone: String,
    /// On which subnet.
    pub subnet: String,
    /// `required` or `optional`: whether instance metadata wants a token.
    pub http_tokens: String,
    /// `enabled` or `disabled`: whether there is instance metadata.
    pub http_endpoint: String,
    /// How many hops a metadata answer may take.
    pub hop_limit: u32,
    /// Whether it is watched closely.
    pub monitoring: bool,
    /// Volumes: device, deleted with the machine.
    pub volumes: Vec<(String, bool)>,
}

impl Spec {
    /// `spot` or `on-demand`.
    #[must_use]
    pub fn market(&self) -> &'static str {
        if self.spot { "spot" } else { "on-demand" }
    }
}

/// When something became of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Times {
    /// When it was launched.
    pub launched: i64,
    /// Since when it is listed.
    pub shown: Option<i64>,
    /// Since when it runs.
    pub running: Option<i64>,
    /// When its user data was started.
    pub booted: Option<i64>,
    /// When it was told of an interruption.
    pub noticed: Option<i64>,
    /// Since when it is being ended.
    pub ending: Option<i64>,
    /// Since when it is gone.
    pub terminated: Option<i64>,
    /// Since when its row is gone, too.
    pub vanished: Option<i64>,
}

/// A machine.
#[derive(Debug)]
pub struct Row {
    /// Its id.
    pub id: String,
    /// Whose.
    pub home: Home,
    /// With which launch it came.
    pub reservation: String,
    /// Which one of that launch: `ami-launch-index`.
    pub index: u32,
    /// What was asked for.
    pub spec: Arc<Spec>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// How it is.
    pub state: State,
    /// Why it is so: a code and a message.
    pub reason: Option<(&'static str, &'static str)>,
    /// Every state that it was shown in, since when. Empty: not shown yet.
    pub shown: Vec<(Timestamp, State)>,
    /// No change is shown before this: changes are shown in their order.
    pub lags_until: Timestamp,
    /// When things happened.
    pub times: Times,
    /// When EC2 wants it back, once it said so.
    pub notice: Option<Timestamp>,
    /// When its status checks pass.
    pub checked: Option<Timestamp>,
    /// Whether its status checks never pass.
    pub impaired: bool,
    /// Whether its user data is never run.
    pub stuck: bool,
    /// How much later its user data is run.
    pub slow: std::time::Duration,
    /// Whether processes of it run on this machine.
    pub is_up: bool,
    /// How long its end takes.
    pub ending: std::time::Duration,
    /// How it looks in lists, until something of it changes.
    pub rendered: Option<String>,
    /// Four random bytes for its addresses.
    pub salt: u32,
    /// Installation, launch and index as they were sent, for counting.
    pub key: (String, String, u32),
    /// Its own random numbers.
    pub random: fastrand::Rng,
}

impl Row {
    /// How EC2 shows it; none when it does not yet, or no longer.
    #[must_use]
    pub fn seen(&self) -> Option<State> {
        let last = self.shown.last().map(|(_, state)| *state);
        last.filter(|_| self.times.vanished.is_none())
    }

    /// How EC2 showed it at some time.
    #[must_use]
    pub fn seen_at(&self, at: Timestamp) -> Option<State> {
        self.shown.iter().rev().find(|(since, _)| *since <= at).map(|(_, state)| *state)
    }

    /// Its address in the network.
    #[must_use]
    pub fn address(&self) -> String {
        let [_, b, c, d] = self.salt.to_be_bytes();
        format!("10.{b}.{c}.{d}")
    }

    /// The host name that goes with its address.
    #[must_use]
    pub fn host(&self) -> String {
        format!("ip-{}.{}.compute.internal", self.address().replace('.', "-"), self.home.region)
    }

    /// An id that belongs to it, such as its volume's.
    fn id_of(&self, kind: &str, number: usize) -> String {
        let rest = self.id.strip_prefix("i-").unwrap_or(&self.id);
        format!("{kind}-{number:x}{}", rest.get(1..).unwrap_or(rest))
    }

    /// What a filter of DescribeInstances compares with; none for one that is not known.
    ///
    /// Source: "DescribeInstances", section Filters.
    #[must_use]
    pub fn field(&self, filter: &str, seen: State) -> Option<Vec<String>> {
        if let Some(key) = filter.strip_prefix("tag:") {
            return Some(self.tags.get(key).cloned().into_iter().collect());
        }
        let spec = &self.spec;
        let one = |text: &str| Some(vec![text.to_owned()]);
        match filter {
            "tag-key" => Some(self.tags.keys().cloned().collect()),
            "instance-id" => one(&self.id),
            "instance-state-name" => one(seen.name()),
            "instance-state-code" => one(&seen.code().to_string()),
            "client-token" => Some(spec.token.clone().into_iter().collect()),
            "image-id" => one(&spec.image),
            "instance-type" => one(&spec.instance_type),
            "instance-lifecycle" => Some(if spec.spot { vec!["spot".to_owned()] } else { Vec::new() }),
            "availability-zone" => one(&spec.zone),
            "subnet-id" => one(&spec.subnet),
            "vpc-id" => one(catalogue::VPC),
            "key-name" => Some(spec.key.clone().into_iter().collect()),
            "launch-index" => one(&self.index.to_string()),
            "reservation-id" => one(&self.reservation),
            "owner-id" => one(&self.home.account),
            "private-ip-address" => one(&self.address()),
            "private-dns-name" => one(&self.host()),
            "instance.group-id" => Some(spec.groups.iter().map(|(id, _)| id.clone()).collect()),
            "instance.group-name" => Some(spec.groups.iter().map(|(_, name)| name.clone()).collect()),
            _ => None,
        }
    }

    /// As an item of `instancesSet`. Source: "Instance", <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Instance.html>.
    #[must_use]
    pub fn render(&self, seen: State) -> String {
        let spec = &self.spec;
        let launched = stamp(Timestamp(self.times.launched));
        // Of a machine that is gone EC2 no longer shows addresses, network interfaces and volumes.
        let gone = seen == State::Terminated;
        let mut xml = Xml(String::with_capacity(4_000));
        xml.open("item");
        xml.leaf("instanceId", &self.id).leaf("imageId", &spec.image);
        xml.within("instanceState", |xml| state(xml, seen));
        xml.leaf("privateDnsName", if gone { String::new() } else { self.host() })
            .empty("dnsName");
        match self.reason.filter(|_| seen != State::Pending && seen != State::Running) {
            Some((code, message)) => {
                xml.leaf("reason", message);
                xml.within("stateReason", |xml| {
                    xml.leaf("code", code).leaf("message", format_args!("{code}: {message}"));
                });
            }
            None => {
                xml.empty("reason");
            }
        }
        if let Some(key) = &spec.key {
            xml.leaf("keyName", key);
        }
        xml.leaf("amiLaunchIndex", self.index).empty("productCodes");
        xml.leaf("instanceType", &spec.instance_type).leaf("launchTime", &launched);
        xml.within("placement", |xml| {
            xml.leaf("availabilityZone", &spec.zone)
                .empty("groupName")
                .leaf("tenancy", "default");
        });
        xml.within("monitoring", |xml| {
            xml.leaf("state", if spec.monitoring { "enabled" } else { "disabled" });
        });
        if !gone {
            xml.leaf("subnetId", &spec.subnet).leaf("vpcId", catalogue::VPC);
            xml.leaf("privateIpAddress", self.address()).leaf("sourceDestCheck", true);
        }
        xml.within("groupSet", |xml| groups(xml, if gone { &[] } else { &spec.groups }));
        xml.leaf("architecture", catalogue::architecture(&spec.instance_type));
        xml.leaf("rootDeviceType", "ebs").leaf("rootDeviceName", ROOT);
        xml.within("blockDeviceMapping", |xml| {
            for (number, (device, deleted)) in spec.volumes.iter().enumerate().filter(|_| !gone) {
                xml.within("item", |xml| {
                    xml.leaf("deviceName", device);
                    xml.within("ebs", |xml| {
                        xml.leaf("volumeId", self.id_of("vol", number)).leaf("status", "attached");
                        xml.leaf("attachTime", &launched).leaf("deleteOnTermination", deleted);
                    });
                });
            }
        });
        if spec.spot {
            xml.leaf("instanceLifecycle", "spot");
            xml.leaf("spotInstanceRequestId", self.id_of("sir", 0));
        }
        xml.leaf("virtualizationType", "hvm");
        match &spec.token {
            Some(token) => xml.leaf("clientToken", token),
            None => xml.empty("clientToken"),
        };
        if !self.tags.is_empty() {
            xml.within("tagSet", |xml| tags(xml, &self.tags));
        }
        xml.leaf("hypervisor", "xen");
        xml.within("networkInterfaceSet", |xml| {
            if !gone {
                xml.within("item", |xml| self.interface(xml, &launched));
            }
        });
        if let Some(profile) = &spec.profile {
            xml.within("iamInstanceProfile", |xml| {
                xml.leaf("arn", format_args!("arn:aws:iam::{}:instance-profile/{profile}", self.home.account));
                xml.leaf("id", "AIPAFAKEEC2FAKEEC2FAK");
            });
        }
        xml.leaf("ebsOptimized", false).leaf("enaSupport", true);
        xml.within("metadataOptions", |xml| {
            xml.leaf("state", "applied").leaf("httpTokens", &spec.http_tokens);
            xml.leaf("httpPutResponseHopLimit", spec.hop_limit)
                .leaf("httpEndpoint", &spec.http_endpoint);
            xml.leaf("httpProtocolIpv6", "disabled").leaf("instanceMetadataTags", "disabled");
        });
        xml.close("item");
        xml.0
    }

    fn interface(&self, xml: &mut Xml, launched: &str) {
        let [a, b, c, d] = self.salt.to_be_bytes();
        xml.leaf("networkInterfaceId", self.id_of("eni", 0))
            .leaf("subnetId", &self.spec.subnet);
        xml.leaf("vpcId", catalogue::VPC)
            .empty("description")
            .leaf("ownerId", &self.home.account);
        xml.leaf("status", "in-use")
            .leaf("macAddress", format_args!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}"));
        xml.leaf("privateIpAddress", self.address()).leaf("privateDnsName", self.host());
        xml.leaf("sourceDestCheck", true);
        xml.within("groupSet", |xml| groups(xml, &self.spec.groups));
        xml.within("attachment", |xml| {
            xml.leaf("attachmentId", self.id_of("eni-attach", 0)).leaf("deviceIndex", 0);
            xml.leaf("status", "attached")
                .leaf("attachTime", launched)
                .leaf("deleteOnTermination", true);
            xml.leaf("networkCardIndex", 0);
        });
        xml.within("privateIpAddressesSet", |xml| {
            xml.within("item", |xml| {
                xml.leaf("privateIpAddress", self.address())
                    .leaf("privateDnsName", self.host())
                    .leaf("primary", true);
            });
        });
        xml.empty("ipv6AddressesSet").leaf("interfaceType", "interface");
    }
}

/// The root volume's device.
pub const ROOT: &str = "/dev/xvda";

/// `code` and `name` of a state.
pub fn state(xml: &mut Xml, state: State) {
    xml.leaf("code", state.code()).leaf("name", state.name());
}

/// Items with `key` and `value`.
pub fn tags(xml: &mut Xml, tags: &BTreeMap<String, String>) {
    for (key, value) in tags {
        xml.within("item", |xml| {
            xml.leaf("key", key).leaf("value", value);
        });
    }
}

fn groups(xml: &mut Xml, groups: &[(String, String)]) {
    for (id, name) in groups {
        xml.within("item", |xml| {
            xml.leaf("groupId", id).leaf("groupName", name);
        });
    }
}

/// `2026-11-22T19:37:16.000Z`.
#[must_use]
pub fn stamp(at: Timestamp) -> String {
    at.rfc3339().replace('Z', ".000Z")
}
