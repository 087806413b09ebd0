//! A launch as one RunInstances. The same launch gives the same bytes: EC2 refuses a token that comes with another request.

use std::collections::BTreeMap;

use aws_sdk_ec2::operation::run_instances::RunInstancesInput;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesInputBuilder;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification, InstanceInterruptionBehavior,
    InstanceMarketOptionsRequest, InstanceMetadataEndpointState, InstanceMetadataOptionsRequest, InstanceType, LaunchTemplateSpecification,
    MarketType, Placement, ResourceType, ShutdownBehavior, SpotInstanceType, SpotMarketOptions, Tag, TagSpecification, VolumeType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use epu_core::id::SiteName;
use epu_core::machine::{MachineSpec, Market, Metadata, Volume};

use super::origin::{self, Manner, Origin};
use super::user_data::{self, USER_DATA_MAX};
use crate::iaas::{Class, IaasError, IaasLaunch};

/// The most characters of a tag's value. <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions>
const TAG_MOST: usize = 256;
/// What user data says where the agent is to ask the machine's metadata for its index.
const INDEX_BY_METADATA: &str = "EPU_INDEX=metadata";

/// A launch, or one of its machines, as a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) site: &'a SiteName,
    pub(super) launch: &'a IaasLaunch,
    pub(super) manner: Manner,
    pub(super) ca_pem: Option<&'a str>,
    /// Which machine, where they are asked for one by one.
    pub(super) index: Option<u32>,
}

impl Wanted<'_> {
    pub(super) fn origin(&self) -> Origin {
        Origin {
            launch: self.launch.launch,
            index: self.index,
        }
    }

    /// Every tag that its machines have from the first, ours over the template's.
    pub(super) fn tags(&self) -> Vec<Tag> {
        let launch = self.launch;
        let mut tags: BTreeMap<String, String> = BTreeMap::from([(origin::NAME.to_owned(), launch.pool.to_string())]);
        let theirs = launch.template.machine.tags.iter().filter(|(key, _)| !key.starts_with("epu:"));
        tags.extend(theirs.map(|(key, value)| (key.clone(), value.clone())));
        tags.insert(origin::INSTALLATION.to_owned(), launch.installation.clone());
        tags.insert(origin::POOL.to_owned(), launch.pool.to_string());
        tags.insert(origin::LAUNCH.to_owned(), launch.launch.to_string());
        tags.insert(origin::SITE.to_owned(), self.site.to_string());
        if let Some(index) = self.index {
            tags.insert(origin::INDEX.to_owned(), index.to_string());
            let instance = usize::try_from(index).ok().and_then(|index| launch.instances.get(index));
            if let Some(instance) = instance {
                tags.insert(origin::INSTANCE.to_owned(), instance.to_string());
            }
        }
        tags.iter().map(|(key, value)| tagged(key, value)).collect()
    }

    /// User data, before base64.
    ///
    /// # Errors
    /// Permanent, when there can be none.
    pub(super) fn user_data(&self) -> Result<String, IaasError> {
        let doing = format!("user data of pool {}", self.launch.pool);
        let refused = |why: &dyn std::fmt::Display| IaasError::new(Class::Permanent, format!("{doing}: {why}"));
        let mut text = user_data::render(self.launch, self.ca_pem).map_err(|error| refused(&epu_core::code::Chain(&error)))?;
        if let Some(index) = self.index.filter(|_| self.launch.instances.len() > 1) {
            // The site would call every one of them the first.
            if !text.contains(INDEX_BY_METADATA) {
                return Err(refused(&format!(
                    "this site does not number the machines of a launch, so that it has to: put in `files`, or `{INDEX_BY_METADATA}` into \
                     the agent's settings, which is replaced by the number"
                )));
            }
            text = text.replace(INDEX_BY_METADATA, &format!("EPU_INDEX={index}"));
        }
        if !self.manner.tags && !self.manner.tokens {
            text.push_str(&self.origin().line(&self.launch.installation));
        }
        if text.len() > USER_DATA_MAX {
            return Err(refused(&format!("it has {} bytes, and a site takes {USER_DATA_MAX}", text.len())));
        }
        Ok(text)
    }

    /// The whole request.
    ///
    /// # Errors
    /// Permanent, when there can be no user data.
    pub(super) fn request(&self) -> Result<RunInstancesInputBuilder, IaasError> {
        let launch = self.launch;
        let all = i32::try_from(launch.instances.len()).unwrap_or(i32::MAX);
        let (least, most) = match self.index {
            Some(_) => (1, 1),
            None => (i32::try_from(launch.min).unwrap_or(i32::MAX).clamp(1, all.max(1)), all),
        };
        let mut request = machine(&launch.template.machine)
            .client_token(self.origin().token(self.manner, &launch.installation))
            .min_count(least)
            .max_count(most)
            .user_data(STANDARD.encode(self.user_data()?));
        if self.manner.tags {
            let is_spot = matches!(launch.template.machine.market, Some(Market::Spot(_)));
            let kinds = [ResourceType::Instance, ResourceType::Volume, ResourceType::SpotInstancesRequest];
            for kind in kinds.into_iter().take(if is_spot { 3 } else { 2 }) {
                let tags = TagSpecification::builder().resource_type(kind).set_tags(Some(self.tags()));
                request = request.tag_specifications(tags.build());
            }
        }
        Ok(request)
    }
}

pub(super) fn tagged(key: &str, value: &str) -> Tag {
    Tag::builder()
        .key(key)
        .value(value.chars().take(TAG_MOST).collect::<String>())
        .build()
}

/// What does not depend on the launch.
fn machine(spec: &MachineSpec) -> RunInstancesInputBuilder {
    // Ids, and names on clouds whose groups have nothing else.
    let (ids, names): (Vec<String>, Vec<String>) = spec.security_groups.iter().cloned().partition(|group| group.starts_with("sg-"));
    let some = |groups: Vec<String>| Some(groups).filter(|groups| !groups.is_empty());
    let volumes: Vec<BlockDeviceMapping> = spec.volumes.iter().map(volume).collect();
    RunInstancesInput::builder()
        .set_image_id(spec.image.clone())
        .set_instance_type(spec.size.as_deref().map(InstanceType::from))
        .set_key_name(spec.key.clone())
        .set_security_group_ids(some(ids))
        .set_security_groups(some(names))
        .set_subnet_id(spec.subnet.clone())
        .set_placement(spec.zone.as_ref().map(|zone| Placement::builder().availability_zone(zone).build()))
        .set_iam_instance_profile(spec.instance_profile.as_deref().map(profile))
        .set_block_device_mappings(Some(volumes).filter(|volumes| !volumes.is_empty()))
        .set_launch_template(spec.launch_template.as_ref().map(|template| {
            LaunchTemplateSpecification::builder()
                .set_launch_template_id(template.id.clone())
                .set_launch_template_name(template.name.clone().filter(|_| template.id.is_none()))
                .version(&template.version)
                .build()
        }))
        .set_instance_market_options(spec.market.and_then(market))
        .metadata_options(metadata(spec.metadata.unwrap_or_default()))
        // Whatever shuts itself down is gone, and not kept for somebody to start again.
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
}

fn profile(name: &str) -> IamInstanceProfileSpecification {
    let profile = IamInstanceProfileSpecification::builder();
    if name.starts_with("arn:") {
        profile.arn(name)
    } else {
        profile.name(name)
    }
    .build()
}

fn volume(volume: &Volume) -> BlockDeviceMapping {
    let ebs = EbsBlockDevice::builder()
        .volume_size(i32::try_from(volume.size).unwrap_or(i32::MAX))
        .set_volume_type(volume.kind.as_deref().map(VolumeType::from))
        .delete_on_termination(!volume.keep);
    BlockDeviceMapping::builder().device_name(&volume.device).ebs(ebs.build()).build()
}

fn metadata(metadata: Metadata) -> InstanceMetadataOptionsRequest {
    let tokens = if metadata.token_required {
        HttpTokensState::Required
    } else {
        HttpTokensState::Optional
    };
    InstanceMetadataOptionsRequest::builder()
        .http_endpoint(InstanceMetadataEndpointState::Enabled)
        .http_tokens(tokens)
        .http_put_response_hop_limit(i32::from(metadata.hops))
        .build()
}

fn market(market: Market) -> Option<InstanceMarketOptionsRequest> {
    let Market::Spot(spot) = market else { return None };
    let options = SpotMarketOptions::builder()
        .spot_instance_type(SpotInstanceType::OneTime)
        .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate)
        .set_max_price(spot.max_price.map(|price| price.to_string()));
    Some(
        InstanceMarketOptionsRequest::builder()
            .market_type(MarketType::Spot)
            .spot_options(options.build())
            .build(),
    )
}
