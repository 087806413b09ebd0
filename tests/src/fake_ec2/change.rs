//! TerminateInstances, StopInstances, CreateTags.

use super::bucket;
use super::refusal::{Outcome, Refusal};
use super::row::{self, State};
use super::things::dry_run;
use super::world::{Asked, World};
use super::{tags, xml};

/// The machines with these ids, when all of them are visible.
///
/// Source: "Error codes for the Amazon EC2 API", `InvalidInstanceID.Malformed` and `InvalidInstanceID.NotFound`, and "Eventual consistency
/// in the Amazon EC2 API", <https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>: an id that RunInstances just
/// gave may not be found by any command.
pub(super) fn find(world: &World, asked: &Asked<'_>, ids: &[&str]) -> Outcome<Vec<u64>> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for id in ids {
        let digits = id.strip_prefix("i-").unwrap_or("");
        if !matches!(digits.len(), 8 | 17) || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Refusal::new("InvalidInstanceID.Malformed", format!("Invalid id: \"{id}\"")));
        }
        let seq = world.ids.get(*id).copied();
        let visible = |seq: &u64| {
            world
                .rows
                .get(seq)
                .is_some_and(|row| row.home == *asked.home && row.seen().is_some())
        };
        match seq.filter(visible) {
            Some(seq) => found.push(seq),
            None => missing.push(*id),
        }
    }
    match missing.as_slice() {
        [] => Ok(found),
        [one] => {
            let message = format!("The instance ID '{one}' does not exist");
            Err(Refusal::new("InvalidInstanceID.NotFound", message))
        }
        several => {
            let message = format!("The instance IDs '{}' do not exist", several.join(", "));
            Err(Refusal::new("InvalidInstanceID.NotFound", message))
        }
    }
}

/// Source: "TerminateInstances", <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TerminateInstances.html>: idempotent, so that
/// terminating again succeeds; if the request fails because of one id, none is terminated.
pub(super) fn terminate_instances(world: &mut World, asked: &Asked<'_>) -> Outcome<String> {
    let reason = ("Client.UserInitiatedShutdown", "User initiated shutdown");
    end_all(world, asked, "TerminateInstances", State::ShuttingDown, reason)
}

/// Source: "StopInstances", <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StopInstances.html>, and `IncorrectInstanceState`
/// of the error codes: what is not running or pending cannot be stopped.
pub(super) fn stop_instances(world: &mut World, asked: &Asked<'_>) -> Outcome<String> {
    let ids = asked.params.list("InstanceId");
    for seq in find(world, asked, &ids)? {
        if let Some(row) = world.rows.get(&seq).filter(|row| row.state.is_ending()) {
            let message = format!("This instance '{}' is not in a state from which it can be stopped.", row.id);
            return Err(Refusal::new("IncorrectInstanceState", message));
        }
    }
    let reason = ("Client.UserInitiatedShutdown", "User initiated shutdown");
    end_all(world, asked, "StopInstances", State::Stopping, reason)
}

fn end_all(world: &mut World, asked: &Asked<'_>, action: &str, to: State, reason: (&'static str, &'static str)) -> Outcome<String> {
    let ids = asked.params.list("InstanceId");
    if ids.is_empty() {
        return Err(Refusal::new(
            "MissingParameter",
            "The request must contain the parameter InstanceId",
        ));
    }
    let found = find(world, asked, &ids)?;
    if asked.params.flag("DryRun")? {
        return Err(dry_run());
    }
    if let Some((bucket, rate)) = bucket::resources(action) {
        let machines = f64::from(u32::try_from(found.len()).unwrap_or(u32::MAX));
        world.take(asked.home, &bucket, rate, machines, asked.now)?;
    }
    let mut changes = Vec::new();
    for seq in found {
        let state = |world: &World| world.rows.get(&seq).map(|row| (row.id.clone(), row.state));
        let before = state(world);
        world.end(seq, to, reason, asked.now);
        if let (Some((id, before)), Some((_, after))) = (before, state(world)) {
            changes.push((id, before, after));
        }
    }
    Ok(xml::answer(action, asked.request, |xml| {
        xml.within("instancesSet", |xml| {
            for (id, before, after) in &changes {
                xml.within("item", |xml| {
                    xml.leaf("instanceId", id);
                    xml.within("currentState", |xml| row::state(xml, *after));
                    xml.within("previousState", |xml| row::state(xml, *before));
                });
            }
        });
    }))
}

/// Source: "CreateTags", <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateTags.html>: adds or overwrites; all or nothing of
/// the resources named.
pub(super) fn create_tags(world: &mut World, asked: &Asked<'_>) -> Outcome<String> {
    let resources = asked.params.list("ResourceId");
    if resources.is_empty() {
        return Err(Refusal::new(
            "MissingParameter",
            "The request must contain the parameter resourceIdSet",
        ));
    }
    let tags = asked.params.groups("Tag");
    if tags.is_empty() {
        return Err(Refusal::new("MissingParameter", "The request must contain the parameter tagSet"));
    }
    let pairs = tags
        .iter()
        .map(|tag| (tag.get("Key").unwrap_or(""), tag.get("Value").unwrap_or("")));
    let tags = tags::check(pairs)?;
    if let Some(other) = resources.iter().find(|id| !id.starts_with("i-")) {
        return Err(Refusal::new("InvalidID", format!("The ID '{other}' is not valid")));
    }
    let found = find(world, asked, &resources)?;
    let too_many = |seq: &&u64| {
        let row = world.rows.get(seq);
        row.is_some_and(|row| row.tags.keys().chain(tags.keys()).collect::<std::collections::BTreeSet<_>>().len() > 50)
    };
    if found.iter().any(|seq| too_many(&seq)) {
        return Err(Refusal::new("TagLimitExceeded", "More than 50 tags on a resource"));
    }
    if asked.params.flag("DryRun")? {
        return Err(dry_run());
    }
    for seq in found.iter().filter(|_| !asked.trouble.tags_ignored) {
        if let Some(row) = world.rows.get_mut(seq) {
            row.tags.extend(tags.clone());
            row.rendered = None;
        }
    }
    Ok(xml::answer("CreateTags", asked.request, |xml| {
        xml.leaf("return", true);
    }))
}
