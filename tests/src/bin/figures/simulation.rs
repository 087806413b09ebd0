//! The simulated world: how much of a pool's life passes in a minute of one core, and what an hour of three pools under faults costs.
//!
//! Everything runs in this thread, services, agents, site and the checks after every simulated second, so that its processor time is
//! all there is. The first minutes, in which the pool comes up, are left out of the quiet figure and are in it of the stormy one.

use std::time::Duration;

use epu_simulator::cloud::{Call, Mishap};
use epu_simulator::{Service, Setup, World, hours, minutes, seconds};
use epu_tests::{Result, Trouble};
use serde_json::json;

use crate::clock::{ThreadCpu, best_of_five};
use crate::{Goal, Report};

/// Workers of the pool.
const WORKERS: u32 = 10;
/// Simulated hours of one measurement.
const HOURS: u32 = 10;
/// Pools of the stormy world, and workers of each.
const POOLS: usize = 3;

pub(crate) fn measure() -> Result<Report> {
    let mut report = Report::default();
    let cpu = ThreadCpu::here()?;
    let mut world = World::keeping(WORKERS);
    pass(&mut world, minutes(10))?;
    let running = world.running().len();
    if u32::try_from(running) != Ok(WORKERS) {
        return Err(Trouble::new("let a pool come up", format!("{running} run")));
    }
    let best = best_of_five(|| {
        let before = cpu.used()?;
        pass(&mut world, hours(u64::from(HOURS)))?;
        Ok(cpu.used()?.saturating_sub(before))
    })?;
    let per_hour = best / HOURS;
    let rate = 60.0 / per_hour.as_secs_f64();
    report.figure("simulated-hours-per-minute", rate, "hours", Goal::Above(1_000.0));
    report.note(format!(
        "one pool of {WORKERS}, no faults, the invariants checked every simulated second: {:.1} ms an hour",
        per_hour.as_secs_f64() * 1_000.0
    ));

    let mut seed = 0;
    let storm = best_of_five(|| {
        seed += 1;
        let before = cpu.used()?;
        storm(seed)?;
        Ok(cpu.used()?.saturating_sub(before))
    })?;
    report.figure("simulated-storm-hour", storm.as_secs_f64(), "s", Goal::Below(0.3));
    report.note(format!(
        "{POOLS} pools of {WORKERS}, of which something is killed, cut off, slow or refused in every minute"
    ));
    Ok(report)
}

fn pass(world: &mut World, length: Duration) -> Result<()> {
    world.pass(length).map_err(|broken| Trouble::new("let time pass", broken))
}

/// An hour in which something goes wrong every minute.
fn storm(seed: u64) -> Result<()> {
    let pool = || json!({ "template": "worker", "max": 2 * WORKERS, "engine": { "keep": { "n": WORKERS } } });
    let names = ["second", "third"];
    let setup = names.iter().fold(Setup::keeping(WORKERS), |setup, name| setup.beside(name, pool()));
    let mut world = setup.seed(seed).world();
    for minute in 0..60_u64 {
        let victim = world.running().get(usize::try_from(minute % 7).unwrap_or(0)).copied();
        match minute % 6 {
            0 => world.cloud().next_call(Call::Launch, Mishap::AnswerLost),
            1 => {
                let machine = victim.and_then(|id| world.machines().of(id));
                machine.iter().for_each(|machine| world.machines().power_off(machine));
            }
            2 => victim.iter().for_each(|id| world.net().silence(*id, true)),
            3 => {
                world.crash(Service::Controller);
                pass(&mut world, seconds(5))?;
                world.start(Service::Controller);
            }
            4 => world.cloud().next_call(Call::List, Mishap::Nothing),
            _ => {
                world.crash(Service::Provisioner);
                pass(&mut world, seconds(5))?;
                world.start(Service::Provisioner);
            }
        }
        pass(&mut world, minutes(1))?;
    }
    Ok(())
}
