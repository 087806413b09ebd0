//! Whether there is room for machines: capacity and quotas.

use super::catalogue::{self, SUBNETS};
use super::refusal::{Outcome, Refusal};
use super::row::{Home, Spec, State};
use super::world::{Asked, World};

/// Chooses a zone when none is named ("we choose a default subnet from your default VPC for you"), here the one with the most room, and
/// says how many fit.
pub(super) fn place(world: &World, asked: &Asked<'_>, wanted: &mut Spec, max: u32) -> u32 {
    let zones = catalogue::zones(&asked.home.region);
    let (kind, market) = (wanted.instance_type.clone(), wanted.market());
    let room = |zone: &str| {
        let held = world.plan.capacity.iter().filter(|room| room.is_for(zone, &kind, market));
        held.map(|room| room.left).min().unwrap_or(max).min(max)
    };
    if wanted.zone.is_empty() {
        wanted.zone = zones.iter().rev().max_by_key(|zone| room(zone)).cloned().unwrap_or_default();
    }
    if wanted.subnet.is_empty() {
        let at = zones.iter().position(|known| *known == wanted.zone).unwrap_or(0);
        SUBNETS[at].clone_into(&mut wanted.subnet);
    }
    room(&wanted.zone)
}

/// Quotas. Source: "Amazon EC2 service quotas", <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-resource-limits.html>: on-demand
/// machines are counted by their virtual processors; codes from "Error codes for the Amazon EC2 API". As with capacity, the largest
/// possible number above the minimum is launched.
pub(super) fn allowed(world: &World, home: &Home, wanted: &Spec, min: u32, max: u32) -> Outcome<u32> {
    let alive = || {
        let region = world.homes.get(home).into_iter().flat_map(|region| &region.listed);
        let rows = region.filter_map(|seq| world.rows.get(seq));
        rows.filter(|row| matches!(row.state, State::Pending | State::Running) && row.spec.spot == wanted.spot)
    };
    let machines = |limit: Option<u32>| limit.map(|limit| limit.saturating_sub(u32::try_from(alive().count()).unwrap_or(u32::MAX)));
    let refused = |code: &str, left: u32, limit: Option<u32>| {
        let message = format!(
            "You have requested more ({max}) than your current limit of {} allows.",
            limit.unwrap_or(0)
        );
        if left < min { Err(Refusal::new(code, message)) } else { Ok(left) }
    };
    if wanted.spot {
        let left = machines(world.plan.spot_instances).unwrap_or(max);
        return refused("MaxSpotInstanceCountExceeded", left, world.plan.spot_instances);
    }
    let left = machines(world.plan.instances).unwrap_or(max);
    let left = refused("InstanceLimitExceeded", left, world.plan.instances)?;
    let Some(limit) = world.plan.vcpus else {
        return Ok(left);
    };
    let each = catalogue::vcpus(&wanted.instance_type).unwrap_or(1);
    let used: u32 = alive().filter_map(|row| catalogue::vcpus(&row.spec.instance_type)).sum();
    let by_vcpus = limit.saturating_sub(used) / each;
    refused("VcpuLimitExceeded", left.min(by_vcpus), Some(limit))
}
