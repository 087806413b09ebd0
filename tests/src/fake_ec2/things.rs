//! The actions that describe what is not a machine, or one thing of a machine; and who the caller is.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::catalogue::{self, SUBNETS, TYPES, VPC};
use super::change::find;
use super::list::Filter;
use super::refusal::{Outcome, Refusal};
use super::row::{ROOT, stamp};
use super::templates;
use super::world::{Asked, World};
use super::xml::{self, Xml};

/// Longest console output. Source: "GetConsoleOutput",
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetConsoleOutput.html>: the most recent 64 KB.
const MAX_CONSOLE: usize = 65_536;

/// Source: "Error codes for the Amazon EC2 API", `DryRunOperation`: the user has the required permissions, so the request would have
/// succeeded, but the DryRun parameter was used.
pub(super) fn dry_run() -> Refusal {
    Refusal::new("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
}

/// The parameters of these actions, by their name before the first dot.
pub(super) fn parameters(action: &str) -> Option<&'static [&'static str]> {
    Some(match action {
        "DescribeImages" => &[
            "ImageId",
            "Owner",
            "ExecutableBy",
            "Filter",
            "IncludeDeprecated",
            "MaxResults",
            "NextToken",
        ],
        "DescribeKeyPairs" => &["KeyName", "KeyPairId", "Filter", "IncludePublicKey"],
        "DescribeSecurityGroups" => &["GroupId", "GroupName", "Filter", "MaxResults", "NextToken"],
        "DescribeSubnets" => &["SubnetId", "Filter", "MaxResults", "NextToken"],
        "DescribeAvailabilityZones" => &["ZoneName", "ZoneId", "AllAvailabilityZones", "Filter"],
        "DescribeInstanceTypes" => &["InstanceType", "Filter", "MaxResults", "NextToken"],
        "DescribeLaunchTemplates" => &["LaunchTemplateId", "LaunchTemplateName", "Filter", "MaxResults", "NextToken"],
        "DescribeLaunchTemplateVersions" => &[
            "LaunchTemplateId",
            "LaunchTemplateName",
            "LaunchTemplateVersion",
            "MaxResults",
            "NextToken",
        ],
        "DescribeInstanceAttribute" => &["InstanceId", "Attribute"],
        "GetConsoleOutput" => &["InstanceId", "Latest"],
        "GetCallerIdentity" => &[],
        _ => return None,
    })
}

/// Answers one of these actions. Each is documented at `https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_<action>.html`.
pub(super) fn describe(world: &World, action: &str, asked: &Asked<'_>) -> Outcome<String> {
    let answer = match action {
        "DescribeImages" => images(world, asked),
        "DescribeKeyPairs" => keys(world, asked),
        "DescribeSecurityGroups" => security_groups(world, asked),
        "DescribeSubnets" => subnets(asked),
        "DescribeAvailabilityZones" => availability_zones(asked),
        "DescribeInstanceTypes" => instance_types(asked),
        "DescribeLaunchTemplates" => templates::describe(world, asked),
        "DescribeLaunchTemplateVersions" => templates::describe_versions(world, asked),
        "DescribeInstanceAttribute" => attribute(world, asked),
        "GetConsoleOutput" => console(world, asked),
        _ => return Ok(identity(asked)),
    }?;
    if asked.params.flag("DryRun")? {
        return Err(dry_run());
    }
    Ok(answer)
}

/// One thing of a list: what filters look at, and how it is written.
pub(super) struct Thing {
    fields: Vec<(&'static str, String)>,
    xml: Xml,
}

/// The things that were asked for by id, and pass the filters.
pub(super) struct Asking<'a> {
    /// The parameter that names things, the field that it compares with, and the code for one that there is not.
    pub(super) by: &'a [(&'a str, &'static str, &'a str)],
    /// The element that holds them.
    pub(super) set: &'a str,
}

impl Asking<'_> {
    /// Answers with them.
    pub(super) fn answer(&self, action: &str, asked: &Asked<'_>, mut things: Vec<Thing>) -> Outcome<String> {
        for (parameter, field, code) in self.by {
            let wanted = asked.params.list(parameter);
            if wanted.is_empty() {
                continue;
            }
            let is = |thing: &Thing, id: &str| thing.fields.iter().any(|(name, value)| name == field && value == id);
            if let Some(id) = wanted.iter().find(|id| !things.iter().any(|thing| is(thing, id))) {
                return Err(Refusal::new(code, format!("The {field} '{id}' does not exist")));
            }
            things.retain(|thing| wanted.iter().any(|id| is(thing, id)));
        }
        for filter in Filter::all(asked.params)? {
            let known = things.iter().all(|thing| thing.fields.iter().any(|(name, _)| *name == filter.name));
            if !known {
                return Err(Filter::unknown(&filter.name));
            }
            things.retain(|thing| {
                thing
                    .fields
                    .iter()
                    .any(|(name, value)| *name == filter.name && filter.takes(&[value]))
            });
        }
        Ok(xml::answer(action, asked.request, |xml| {
            xml.within(self.set, |xml| {
                for thing in &things {
                    xml.within("item", |xml| xml.0.push_str(&thing.xml.0));
                }
            });
        }))
    }
}

/// One thing, with what filters look at.
pub(super) fn thing(fields: &[(&'static str, &str)], write: impl FnOnce(&mut Xml)) -> Thing {
    let mut xml = Xml::default();
    write(&mut xml);
    Thing {
        fields: fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        xml,
    }
}

fn images(world: &World, asked: &Asked<'_>) -> Outcome<String> {
    for id in asked.params.list("ImageId") {
        if !id.starts_with("ami-") {
            return Err(Refusal::new(
                "InvalidAMIID.Malformed",
                format!("Invalid id: \"{id}\" (expecting \"ami-...\")"),
            ));
        }
    }
    let owner = &asked.home.account;
    let image = |id: &String| {
        let name = format!("image {id}");
        let fields = [
            ("image-id", id.as_str()),
            ("name", &name),
            ("state", "available"),
            ("owner-id", owner),
            ("architecture", "x86_64"),
        ];
        thing(&fields, |xml| {
            xml.leaf("imageId", id).leaf("imageLocation", format_args!("{owner}/{name}"));
            xml.leaf("imageState", "available")
                .leaf("imageOwnerId", owner)
                .leaf("isPublic", true);
            xml.empty("productCodes")
                .leaf("architecture", "x86_64")
                .leaf("imageType", "machine");
            xml.leaf("name", &name).leaf("description", "an image of the fake EC2");
            xml.leaf("rootDeviceType", "ebs").leaf("rootDeviceName", ROOT);
            xml.within("blockDeviceMapping", |xml| {
                xml.within("item", |xml| {
                    xml.leaf("deviceName", ROOT);
                    xml.within("ebs", |xml| {
                        xml.leaf("snapshotId", "snap-0e2e0fa1e00000001").leaf("volumeSize", 8);
                        xml.leaf("deleteOnTermination", true).leaf("volumeType", "gp3");
                    });
                });
            });
            xml.leaf("virtualizationType", "hvm")
                .leaf("hypervisor", "xen")
                .leaf("creationDate", "2026-01-01T00:00:00.000Z");
        })
    };
    let asking = Asking {
        by: &[("ImageId", "image-id", "InvalidAMIID.NotFound")],
        set: "imagesSet",
    };
    asking.answer("DescribeImages", asked, world.catalogue.images.iter().map(image).collect())
}

fn keys(world: &World, asked: &Asked<'_>) -> Outcome<String> {
    let key = |name: &String| {
        let id = format!("key-0e2e0fa1e{:08x}", name.len());
        thing(&[("key-name", name.as_str()), ("key-pair-id", &id)], |xml| {
            xml.leaf("keyPairId", &id).leaf("keyName", name).leaf("keyType", "ed25519");
            xml.leaf("keyFingerprint", "fakefakefakefakefakefakefakefakefakefakefak=");
        })
    };
    let asking = Asking {
        by: &[
            ("KeyName", "key-name", "InvalidKeyPair.NotFound"),
            ("KeyPairId", "key-pair-id", "InvalidKeyPair.NotFound"),
        ],
        set: "keySet",
    };
    asking.answer("DescribeKeyPairs", asked, world.catalogue.keys.iter().map(key).collect())
}

fn security_groups(world: &World, asked: &Asked<'_>) -> Outcome<String> {
    let group = |(id, name): &(String, String)| {
        let fields = [
            ("group-id", id.as_str()),
            ("group-name", name),
            ("vpc-id", VPC),
            ("owner-id", &asked.home.account),
        ];
        thing(&fields, |xml| {
            xml.leaf("ownerId", &asked.home.account).leaf("groupId", id).leaf("groupName", name);
            xml.leaf("groupDescription", "a group of the fake EC2").leaf("vpcId", VPC);
            xml.empty("ipPermissions").empty("ipPermissionsEgress");
        })
    };
    let asking = Asking {
        by: &[
            ("GroupId", "group-id", "InvalidGroup.NotFound"),
            ("GroupName", "group-name", "InvalidGroup.NotFound"),
        ],
        set: "securityGroupInfo",
    };
    asking.answer("DescribeSecurityGroups", asked, world.catalogue.groups.iter().map(group).collect())
}

fn subnets(asked: &Asked<'_>) -> Outcome<String> {
    let zones = catalogue::zones(&asked.home.region);
    let subnet = |(number, (id, zone)): (usize, (&&str, &String))| {
        let fields = [
            ("subnet-id", *id),
            ("availability-zone", zone),
            ("vpc-id", VPC),
            ("state", "available"),
            ("default-for-az", "true"),
        ];
        thing(&fields, |xml| {
            xml.leaf("subnetId", id)
                .leaf("state", "available")
                .leaf("vpcId", VPC)
                .leaf("ownerId", &asked.home.account);
            xml.leaf("cidrBlock", format_args!("10.{number}.0.0/16"))
                .leaf("availableIpAddressCount", 65_531);
            xml.leaf("availabilityZone", zone)
                .leaf("availabilityZoneId", format_args!("fake-az{}", number + 1));
            xml.leaf("defaultForAz", true).leaf("mapPublicIpOnLaunch", false);
        })
    };
    let asking = Asking {
        by: &[("SubnetId", "subnet-id", "InvalidSubnetID.NotFound")],
        set: "subnetSet",
    };
    asking.answer(
        "DescribeSubnets",
        asked,
        SUBNETS.iter().zip(&zones).enumerate().map(subnet).collect(),
    )
}

fn availability_zones(asked: &Asked<'_>) -> Outcome<String> {
    let region = &asked.home.region;
    let zone = |(number, zone): (usize, &String)| {
        let id = format!("fake-az{}", number + 1);
        let fields = [
            ("zone-name", zone.as_str()),
            ("zone-id", &id),
            ("state", "available"),
            ("region-name", region),
        ];
        thing(&fields, |xml| {
            xml.leaf("zoneName", zone).leaf("zoneState", "available").leaf("regionName", region);
            xml.empty("messageSet").leaf("zoneId", &id).leaf("zoneType", "availability-zone");
            xml.leaf("optInStatus", "opt-in-not-required").leaf("groupName", region);
        })
    };
    let asking = Asking {
        by: &[
            ("ZoneName", "zone-name", "InvalidParameterValue"),
            ("ZoneId", "zone-id", "InvalidParameterValue"),
        ],
        set: "availabilityZoneInfo",
    };
    let zones = catalogue::zones(region);
    asking.answer("DescribeAvailabilityZones", asked, zones.iter().enumerate().map(zone).collect())
}

fn instance_types(asked: &Asked<'_>) -> Outcome<String> {
    let kind = |(name, vcpus, memory, architecture): &(&'static str, u32, u32, &'static str)| {
        let fields = [("instance-type", *name), ("processor-info.supported-architecture", *architecture)];
        thing(&fields, |xml| {
            xml.leaf("instanceType", name).leaf("currentGeneration", true);
            xml.within("supportedUsageClasses", |xml| {
                xml.leaf("item", "on-demand").leaf("item", "spot");
            });
            xml.within("processorInfo", |xml| {
                xml.within("supportedArchitectures", |xml| {
                    xml.leaf("item", architecture);
                });
            });
            xml.within("vCpuInfo", |xml| {
                xml.leaf("defaultVCpus", vcpus);
            });
            xml.within("memoryInfo", |xml| {
                xml.leaf("sizeInMiB", memory);
            });
        })
    };
    let asking = Asking {
        by: &[("InstanceType", "instance-type", "InvalidInstanceType")],
        set: "instanceTypeSet",
    };
    asking.answer("DescribeInstanceTypes", asked, TYPES.iter().map(kind).collect())
}

fn attribute(world: &World, asked: &Asked<'_>) -> Outcome<String> {
    let id = asked.params.required("InstanceId")?;
    let attribute = asked.params.required("Attribute")?;
    let found = find(world, asked, &[id])?;
    if attribute != "userData" {
        return Err(Refusal::value(format!(
            "Value ({attribute}) for parameter attribute is invalid. Unknown attribute."
        )));
    }
    let row = found.first().and_then(|seq| world.rows.get(seq));
    let user_data = row.and_then(|row| row.spec.user_data.as_ref());
    Ok(xml::answer("DescribeInstanceAttribute", asked.request, |xml| {
        xml.leaf("instanceId", id);
        match user_data {
            Some(text) => xml.within("userData", |xml| {
                xml.leaf("value", text);
            }),
            None => xml.empty("userData"),
        };
    }))
}

/// The output is there when the machine was booted for real.
fn console(world: &World, asked: &Asked<'_>) -> Outcome<String> {
    let id = asked.params.required("InstanceId")?;
    find(world, asked, &[id])?;
    let text = world
        .machines
        .as_ref()
        .and_then(|machines| std::fs::read(console_of(machines, id)).ok());
    let text = text.unwrap_or_default();
    let tail = &text[text.len().saturating_sub(MAX_CONSOLE)..];
    Ok(xml::answer("GetConsoleOutput", asked.request, |xml| {
        xml.leaf("instanceId", id)
            .leaf("timestamp", stamp(asked.now))
            .leaf("output", STANDARD.encode(tail));
    }))
}

/// Where a booted machine's output goes.
pub(super) fn console_of(machines: &Path, id: &str) -> std::path::PathBuf {
    machines.join(id).join("console.log")
}

/// Source: "GetCallerIdentity", <https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html>.
fn identity(asked: &Asked<'_>) -> String {
    let mut xml = Xml("<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">".to_owned());
    xml.within("GetCallerIdentityResult", |xml| {
        xml.leaf("Arn", format_args!("arn:aws:iam::{}:user/epu", asked.home.account));
        xml.leaf("UserId", "AIDAFAKEEC2FAKEEC2FAK").leaf("Account", &asked.home.account);
    });
    xml.within("ResponseMetadata", |xml| {
        xml.leaf("RequestId", asked.request);
    });
    xml.close("GetCallerIdentityResponse");
    xml.0
}
