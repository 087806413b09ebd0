//! RunInstances.
//!
//! Source of everything without a source of its own: "RunInstances",
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html>.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use epu_core::time::Timestamp;

use super::bucket;
use super::catalogue::{self, DEFAULT_GROUP, SUBNETS};
use super::life::{Event, after};
use super::params::Params;
use super::plan::Fate;
use super::refusal::{Outcome, Refusal};
use super::row::{ROOT, Row, Spec, State, Times};
use super::world::{Asked, World};
use super::{room, tags, templates, xml};

/// Its parameters, by their name before the first dot.
pub(super) const PARAMETERS: &[&str] = &[
    "BlockDeviceMapping",
    "ClientToken",
    "CreditSpecification",
    "DisableApiStop",
    "DisableApiTermination",
    "EbsOptimized",
    "IamInstanceProfile",
    "ImageId",
    "InstanceInitiatedShutdownBehavior",
    "InstanceMarketOptions",
    "InstanceType",
    "KeyName",
    "LaunchTemplate",
    "MaxCount",
    "MetadataOptions",
    "MinCount",
    "Monitoring",
    "NetworkInterface",
    "Placement",
    "SecurityGroup",
    "SecurityGroupId",
    "SubnetId",
    "TagSpecification",
    "UserData",
];

/// Longest user data, before it is put into base64. Source: "Run commands when you launch an EC2 instance with user data input",
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html>: 16 KB in raw form.
pub const MAX_USER_DATA: usize = 16_384;
/// Longest client token. Source: "Ensuring idempotency in Amazon EC2 API requests",
/// <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html>: up to 64 ASCII characters.
pub const MAX_TOKEN: usize = 64;

pub(super) fn run_instances(world: &mut World, asked: &mut Asked<'_>) -> Outcome<String> {
    let token = asked.params.get("ClientToken").map(str::to_owned);
    if token.as_ref().is_some_and(|token| token.len() > MAX_TOKEN || !token.is_ascii()) {
        return Err(Refusal::value(format!("ClientToken must be at most {MAX_TOKEN} ASCII characters")));
    }
    let canonical = asked.params.canonical();
    if let (Some(token), false) = (&token, asked.params.flag("DryRun")?) {
        let before = world.homes.get(asked.home).and_then(|region| region.tokens.get(token));
        if let Some((before, machines)) = before {
            // Source: "Ensuring idempotency in Amazon EC2 API requests": the same token with the same parameters gives the result of the
            // original request and has no further effect; with others, IdempotentParameterMismatch. A token is valid for at least 24
            // hours after the termination of the instance; here it is for ever.
            if *before != canonical {
                let message = "The request uses the same client token as a previous, but non-identical request.";
                return Err(Refusal::new("IdempotentParameterMismatch", message));
            }
            let machines = machines.clone();
            return Ok(answer(world, asked, &machines));
        }
    }
    let params = templates::filled_in(world, asked.params)?;
    let mut wanted = read(world, asked, &params)?;
    let (min, max) = counts(asked.params)?;
    let tags = tags::of_launch(&params)?;
    if asked.params.flag("DryRun")? {
        return Err(super::things::dry_run());
    }
    if let Some((bucket, rate)) = bucket::resources("RunInstances") {
        world.take(asked.home, &bucket, rate, f64::from(max), asked.now)?;
    }
    let room = room::place(world, asked, &mut wanted, max);
    // "If you specify a value that is more capacity than Amazon EC2 can provide in the target Availability Zone, Amazon EC2 does not
    // launch any instances" (MinCount) and "launches the largest possible number of instances above the specified minimum count"
    // (MaxCount).
    if room < min {
        let (kind, zone) = (&wanted.instance_type, &wanted.zone);
        let message = format!(
            "We currently do not have sufficient {kind} capacity in the Availability Zone you requested ({zone}). Our system will be \
             working on provisioning additional capacity."
        );
        return Err(Refusal::new("InsufficientInstanceCapacity", message));
    }
    let allowed = room::allowed(world, asked.home, &wanted, min, max)?;
    if let (true, Some(price), Some(offer)) = (wanted.spot, world.plan.spot_price, max_price(&params)?)
        && offer < price
    {
        let message =
            format!("Your Spot request price of {offer} is lower than the minimum required Spot request fulfillment price of {price}.");
        return Err(Refusal::new("SpotMaxPriceTooLow", message));
    }
    let count = max.min(room).min(allowed);
    for held in &mut world.plan.capacity {
        if held.is_for(&wanted.zone, &wanted.instance_type, wanted.market()) {
            held.left = held.left.saturating_sub(count);
        }
    }
    let machines = begin(world, asked, wanted, &tags, count);
    if let Some(token) = token {
        let region = world.homes.entry(asked.home.clone()).or_default();
        region.tokens.insert(token, (canonical, machines.clone()));
    }
    Ok(answer(world, asked, &machines))
}

/// The order of what is in an answer might vary ("DescribeInstances", note at the top), so here it does.
fn answer(world: &mut World, asked: &mut Asked<'_>, machines: &[u64]) -> String {
    let mut machines = machines.to_vec();
    asked.random.shuffle(&mut machines);
    let reservation = machines.first().and_then(|seq| world.rows.get(seq));
    let reservation = reservation.map_or(String::new(), |row| row.reservation.clone());
    xml::answer("RunInstances", asked.request, |xml| {
        xml.leaf("reservationId", reservation)
            .leaf("ownerId", &asked.home.account)
            .empty("groupSet");
        xml.within("instancesSet", |xml| {
            for row in machines.iter().filter_map(|seq| world.rows.get(seq)) {
                xml.0.push_str(&row.render(row.state));
            }
        });
    })
}

fn counts(params: &Params) -> Outcome<(u32, u32)> {
    params.required("MinCount")?;
    params.required("MaxCount")?;
    let (min, max) = (params.number("MinCount")?.unwrap_or(0), params.number("MaxCount")?.unwrap_or(0));
    if min == 0 {
        return Err(Refusal::value(
            "Value (0) for parameter minCount is invalid. Expecting a positive integer.",
        ));
    }
    if min > max {
        let message = format!("Value ({min}) for parameter minCount is invalid. minCount must not be greater than maxCount ({max}).");
        return Err(Refusal::value(message));
    }
    Ok((min, max))
}

/// What is wanted, checked against what there is. Codes: "Error codes for the Amazon EC2 API".
fn read(world: &World, asked: &Asked<'_>, params: &Params) -> Outcome<Spec> {
    let catalogue = &world.catalogue;
    let image = params.required("ImageId")?;
    if !image.starts_with("ami-") {
        return Err(Refusal::new(
            "InvalidAMIID.Malformed",
            format!("Invalid id: \"{image}\" (expecting \"ami-...\")"),
        ));
    }
    if !catalogue.images.iter().any(|known| known == image) {
        return Err(Refusal::new(
            "InvalidAMIID.NotFound",
            format!("The image id '[{image}]' does not exist"),
        ));
    }
    // "Default: m1.small".
    let instance_type = params.get("InstanceType").unwrap_or("m1.small");
    if catalogue::vcpus(instance_type).is_none() {
        return Err(Refusal::value(format!("Invalid value '{instance_type}' for InstanceType.")));
    }
    let key = params.get("KeyName");
    if let Some(key) = key.filter(|key| !catalogue.keys.iter().any(|known| known == key)) {
        return Err(Refusal::new(
            "InvalidKeyPair.NotFound",
            format!("The key pair '{key}' does not exist"),
        ));
    }
    let interfaces = params.groups("NetworkInterface");
    let interface = interfaces.first();
    if interface.is_some() && (params.has("SubnetId") || params.has("SecurityGroupId") || params.has("SecurityGroup")) {
        let message = "Network interfaces and an instance-level subnet ID or security groups may not be specified on the same request";
        return Err(Refusal::combination(message));
    }
    let group_ids = interface.map_or_else(|| params.list("SecurityGroupId"), |interface| interface.list("SecurityGroupId"));
    let groups = groups(world, &group_ids, &params.list("SecurityGroup"))?;
    let subnet = interface.map_or_else(|| params.get("SubnetId"), |interface| interface.get("SubnetId"));
    let (zone, subnet) = zone_and_subnet(asked, params.get("Placement.AvailabilityZone"), subnet)?;
    let profile = params.get("IamInstanceProfile.Name").or_else(|| {
        let arn = params.get("IamInstanceProfile.Arn")?;
        arn.rsplit('/').next()
    });
    if let Some(profile) = profile.filter(|profile| !catalogue.profiles.iter().any(|known| known == profile)) {
        let message = format!("Value ({profile}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name");
        return Err(Refusal::value(message));
    }
    let user_data = params.get("UserData");
    if let Some(text) = user_data {
        let raw = STANDARD
            .decode(text)
            .map_err(|_| Refusal::value("Invalid BASE64 encoding of user data."))?;
        if raw.len() > MAX_USER_DATA {
            return Err(Refusal::value(format!("User data is limited to {MAX_USER_DATA} bytes")));
        }
    }
    let spot = match params.get("InstanceMarketOptions.MarketType") {
        None => false,
        Some("spot") => true,
        Some(other) => return Err(Refusal::value(format!("Value ({other}) for parameter MarketType is invalid."))),
    };
    let one_of = |name: &str, allowed: &[&str]| match params.get(name) {
        None => Ok(allowed[0].to_owned()),
        Some(value) if allowed.contains(&value) => Ok(value.to_owned()),
        Some(value) => Err(Refusal::value(format!("Value ({value}) for parameter {name} is invalid."))),
    };
    let hop_limit = params.number("MetadataOptions.HttpPutResponseHopLimit")?.unwrap_or(1);
    if !(1..=64).contains(&hop_limit) {
        return Err(Refusal::value(format!(
            "Value ({hop_limit}) for parameter HttpPutResponseHopLimit is invalid."
        )));
    }
    Ok(Spec {
        image: image.to_owned(),
        instance_type: instance_type.to_owned(),
        key: key.map(str::to_owned),
        groups,
        profile: profile.map(str::to_owned),
        user_data: user_data.map(str::to_owned),
        token: params.get("ClientToken").map(str::to_owned),
        spot,
        zone: zone.unwrap_or_default(),
        subnet: subnet.unwrap_or_default(),
        http_tokens: one_of("MetadataOptions.HttpTokens", &["optional", "required"])?,
        http_endpoint: one_of("MetadataOptions.HttpEndpoint", &["enabled", "disabled"])?,
        hop_limit,
        monitoring: params.flag("Monitoring.Enabled")?,
        volumes: volumes(params)?,
    })
}

fn groups(world: &World, ids: &[&str], names: &[&str]) -> Outcome<Vec<(String, String)>> {
    let known = &world.catalogue.groups;
    let missing = |what: &str| Refusal::new("InvalidGroup.NotFound", format!("The security group '{what}' does not exist"));
    let by_id = ids
        .iter()
        .map(|id| known.iter().find(|group| group.0 == **id).ok_or_else(|| missing(id)));
    let by_name = names
        .iter()
        .map(|name| known.iter().find(|group| group.1 == **name).ok_or_else(|| missing(name)));
    let found: Vec<_> = by_id.chain(by_name).map(|group| group.cloned()).collect::<Outcome<_>>()?;
    if found.is_empty() {
        // "If you don't specify a security group ID, we use the default security group for the VPC".
        return Ok(known.iter().filter(|group| group.0 == DEFAULT_GROUP).cloned().collect());
    }
    Ok(found)
}

type Place = (Option<String>, Option<String>);

fn zone_and_subnet(asked: &Asked<'_>, zone: Option<&str>, subnet: Option<&str>) -> Outcome<Place> {
    let zones = catalogue::zones(&asked.home.region);
    let mut chosen = None;
    if let Some(zone) = zone {
        if !zones.iter().any(|known| known == zone) {
            return Err(Refusal::value(format!("Invalid availability zone: [{zone}]")));
        }
        chosen = Some(zone.to_owned());
    }
    if let Some(subnet) = subnet {
        let at = SUBNETS
            .iter()
            .position(|known| *known == subnet)
            .ok_or_else(|| Refusal::new("InvalidSubnetID.NotFound", format!("The subnet ID '{subnet}' does not exist")))?;
        if chosen.as_ref().is_some_and(|zone| *zone != zones[at]) {
            return Err(Refusal::value(format!("The subnet {subnet} is in availability zone {}", zones[at])));
        }
        return Ok((Some(zones[at].clone()), Some(subnet.to_owned())));
    }
    Ok((chosen, None))
}

fn volumes(params: &Params) -> Outcome<Vec<(String, bool)>> {
    let mut volumes = vec![(ROOT.to_owned(), true)];
    for mapping in params.groups("BlockDeviceMapping") {
        let device = mapping.required("DeviceName")?.to_owned();
        let kind = mapping.get("Ebs.VolumeType").unwrap_or("gp2");
        if !["gp2", "gp3", "io1", "io2", "sc1", "st1", "standard"].contains(&kind) {
            return Err(Refusal::value(format!("Value ({kind}) for parameter volumeType is invalid.")));
        }
        if mapping.number("Ebs.VolumeSize")? == Some(0) {
            return Err(Refusal::value("Value (0) for parameter volumeSize is invalid."));
        }
        mapping.flag("Ebs.Encrypted")?;
        let deleted = mapping.get("Ebs.DeleteOnTermination") != Some("false");
        volumes.retain(|(known, _)| *known != device);
        volumes.push((device, deleted));
    }
    Ok(volumes)
}

fn max_price(params: &Params) -> Outcome<Option<f64>> {
    let price = params.get("InstanceMarketOptions.SpotOptions.MaxPrice");
    let read = |text: &str| {
        text.parse()
            .map_err(|_| Refusal::value(format!("Value ({text}) for parameter MaxPrice is invalid.")))
    };
    price.map(read).transpose()
}

fn begin(world: &mut World, asked: &mut Asked<'_>, spec: Spec, tags: &BTreeMap<String, String>, count: u32) -> Vec<u64> {
    world.launches += 1;
    let reservation = format!(
        "r-{:017x}",
        world.random("reservation", world.launches).u64(..) & 0x0fff_ffff_ffff_ffff
    );
    let tag = |name: &str| tags.get(name).cloned();
    let installation = tag("epu:installation").unwrap_or_default();
    let launch = tag("epu:launch")
        .or_else(|| spec.token.clone())
        .unwrap_or_else(|| reservation.clone());
    let spec = Arc::new(spec);
    let kept = if asked.trouble.tags_ignored {
        BTreeMap::new()
    } else {
        tags.clone()
    };
    let mut machines = Vec::new();
    for index in 0..count {
        let seq = world.rows.last_key_value().map_or(1, |(last, _)| last + 1);
        let mut random = world.random("machine", seq);
        let id = format!(
            "i-{:017x}",
            (u128::from(random.u64(..)) << 4 | u128::from(random.u8(..16))) & 0xf_ffff_ffff_ffff_ffff
        );
        let row = Row {
            id: id.clone(),
            home: asked.home.clone(),
            reservation: reservation.clone(),
            index,
            spec: Arc::clone(&spec),
            tags: kept.clone(),
            state: State::Pending,
            reason: None,
            shown: Vec::new(),
            lags_until: asked.now,
            times: Times {
                launched: asked.now.0,
                ..Times::default()
            },
            notice: None,
            checked: None,
            impaired: false,
            stuck: false,
            slow: std::time::Duration::ZERO,
            is_up: false,
            ending: std::time::Duration::ZERO,
            rendered: None,
            salt: random.u32(..),
            key: (installation.clone(), launch.clone(), index),
            random,
        };
        world.counts.begins(&row.key);
        world.rows.insert(seq, row);
        world.ids.insert(id, seq);
        world.homes.entry(asked.home.clone()).or_default().listed.insert(seq);
        machines.push(seq);
        world.show(seq, asked.now);
        let runs = fates(world, seq, asked.now);
        world.at(runs, Event::Runs(seq));
    }
    machines
}

/// Draws what becomes of a machine; gives when it runs.
fn fates(world: &mut World, seq: u64, now: Timestamp) -> Timestamp {
    let pending = world.timings.pending;
    let Some(row) = world.rows.get_mut(&seq) else {
        return now;
    };
    let mut runs = now + pending.draw(&mut row.random);
    let zone = row.spec.zone.clone();
    for at in 0..world.plan.fates.len() {
        let chance = world.plan.fates[at].clone();
        let draw = world.random(&format!("fate/{at}"), seq).f64();
        let elsewhere = chance.zone.as_ref().is_some_and(|wanted| *wanted != zone);
        let spared = chance.next.is_some_and(|next| world.struck[at] >= next);
        if elsewhere || spared || chance.probability.is_some_and(|share| draw >= share) {
            continue;
        }
        world.struck[at] += 1;
        match chance.fate {
            Fate::Pending { by } => runs = runs + *by,
            Fate::LaunchFails => {
                // It goes from pending to terminated at the moment at which it would have run.
                world.at(runs, Event::Struck(seq, Fate::LaunchFails));
            }
            Fate::Slow { .. }
            | Fate::Stuck
            | Fate::Impaired
            | Fate::Silent { .. }
            | Fate::Vanishes { .. }
            | Fate::Stops { .. }
            | Fate::Terminated { .. }
            | Fate::Interrupted { .. } => world.at(now + after(chance.fate), Event::Struck(seq, chance.fate)),
        }
    }
    runs
}
