//! Unique instances: each slot has variables of its own, which its worker finds in its environment and its successor inherits.

use std::collections::BTreeMap;
use std::fs;

use epu_core::InstanceId;
use epu_core::instance::Cause;
use epu_tests::installation::{Installation, brief};
use rustix::process::Signal;

use crate::pools::{HEALTH, LIMITS};

const POOL: &str = "keep: {n: 3, unique: {left: {SHARD: a, COLOUR: red}, right: {SHARD: b}}}";

async fn installation() -> Installation {
    let installation = Installation::serving("pools: {}\n").await;
    let file = installation.path("web.yaml");
    let text = format!(
        "templates:\n  worker: {{run: [sh, -c, 'exec sleep 1000', '${{SHARD}}'], variables: {{SHARD: none}}, heartbeat: 200ms, stop-grace: 1s}}\n\
         pools:\n  web: {{template: worker, max: 5, engine: {{{POOL}}}, health: {HEALTH}, limits: {{{LIMITS}}}}}\n"
    );
    fs::write(&file, text).unwrap();
    installation.does(&["pool", "add", "--file", file.to_str().unwrap()]);
    installation
}

/// Which instance fills which slot, all of them running, and the pool at its size.
async fn filled(installation: &Installation, size: usize) -> BTreeMap<String, InstanceId> {
    let running = installation.until_running(size).await;
    let slots = running
        .iter()
        .filter_map(|view| Some((view.instance.slot.as_ref()?.to_string(), view.instance.id)));
    let slots: BTreeMap<String, InstanceId> = slots.collect();
    let shown = installation.pool("web").await.unwrap().slots;
    let shown: BTreeMap<String, InstanceId> = shown.into_iter().filter_map(|(label, id)| Some((label.to_string(), id?))).collect();
    assert_eq!(shown, slots, "`pool show` says so, too");
    slots
}

fn variable(installation: &Installation, id: InstanceId, name: &str) -> Option<String> {
    installation.worker_of(id).unwrap().variable(name)
}

#[tokio::test]
async fn each_slot_has_its_own_variables_and_a_replacement_inherits_them() {
    let installation = installation().await;
    let slots = filled(&installation, 3).await;
    assert_eq!(slots.len(), 2, "{slots:?}");
    let (left, right) = (slots["left"], slots["right"]);
    let of = |id, name| variable(&installation, id, name);
    assert_eq!(
        (of(left, "SHARD").as_deref(), of(left, "COLOUR").as_deref()),
        (Some("a"), Some("red"))
    );
    assert_eq!((of(right, "SHARD").as_deref(), of(right, "COLOUR").as_deref()), (Some("b"), None));
    let running = installation.live().await;
    let third = running.iter().find(|view| view.instance.slot.is_none()).unwrap().instance.id;
    assert_eq!(of(third, "SHARD").as_deref(), Some("none"), "one without a slot has the template's");

    installation.worker_of(left).unwrap().signal(Signal::KILL);
    installation.until_ended(left).await;
    let after = filled(&installation, 3).await;
    assert_ne!(after["left"], left);
    assert_eq!(after["right"], right);
    assert_eq!(variable(&installation, after["left"], "SHARD").as_deref(), Some("a"));
    assert_eq!(variable(&installation, after["left"], "COLOUR").as_deref(), Some("red"));
}

#[tokio::test]
async fn slots_are_bound_again_after_a_restart_and_one_that_died_meanwhile_is_filled_anew() {
    let mut installation = installation().await;
    let before = filled(&installation, 3).await;
    installation.kill9();
    installation.agent_of(before["right"]).unwrap().signal_group(Signal::KILL);
    installation.start().await;
    installation.until_ended(before["right"]).await;
    let after = filled(&installation, 3).await;
    assert_eq!(after["left"], before["left"], "bound to the same instance");
    assert_eq!(variable(&installation, after["right"], "SHARD").as_deref(), Some("b"));
}

#[tokio::test]
async fn a_removed_label_drains_its_instance_and_an_added_one_gets_one() {
    let installation = installation().await;
    let before = filled(&installation, 3).await;
    installation.does(&[
        "pool",
        "reconfigure",
        "web",
        "engine.keep.unique={right: {SHARD: b}, up: {SHARD: c}}",
    ]);
    let record = installation.until_ended(before["left"]).await.instance;
    let ending = record.ending.unwrap();
    assert_eq!((ending.why, ending.drained_for), (Cause::Drained, Some(Cause::SlotRemoved)));
    installation
        .until("the new slot is filled", async || {
            let live = installation.live().await;
            let filled = live
                .iter()
                .any(|view| view.instance.slot.as_ref().is_some_and(|slot| slot.as_str() == "up"));
            if filled {
                Ok(())
            } else {
                Err(live.iter().map(brief).collect::<Vec<_>>().join(", "))
            }
        })
        .await;
    let after = filled(&installation, 3).await;
    assert_eq!(after.keys().collect::<Vec<_>>(), ["right", "up"]);
    assert_eq!(after["right"], before["right"]);
    assert_eq!(variable(&installation, after["up"], "SHARD").as_deref(), Some("c"));
}
