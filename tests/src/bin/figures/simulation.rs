//! The simulated world: how much of a pool's life passes in a minute of one core, and what an hour of three pools under faults costs.
//!
//! Everything runs in this thread, services, agents, site and the checks after every simulated second, so that its processor time is
//! all there is. The first minutes, in which the pool comes up, are left out of the quiet figure and are in it of the stormy one.

use std::time::Duration;

use epu_core::Span;
use epu_core::time::{Clock as _, SystemClock};
use epu_simulator::storm::campaign::quietly;
use epu_simulator::storm::{Campaign, Plan, Settings, play};
use epu_simulator::{World, hours, minutes};
use epu_tests::{Result, Trouble};

use crate::clock::{ThreadCpu, best_of_five};
use crate::{Goal, Report};

/// Workers of the pool.
const WORKERS: u32 = 10;
/// Simulated hours of one measurement.
const HOURS: u32 = 10;
/// How many storms are played in all.
const STORMS: u64 = 10_000;

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
    report.note("three pools of up to 12 workers under every kind of fault, until all is well again".to_owned());
    Ok(report)
}

fn pass(world: &mut World, length: Duration) -> Result<()> {
    world.pass(length).map_err(|broken| Trouble::new("let time pass", broken))
}

/// The storm of a seed: 50 minutes of faults, and calm until everything is as it is to be.
fn storm(seed: u64) -> Result<()> {
    match play(&Plan::draw(seed, &Settings::default())).found {
        None => Ok(()),
        Some(found) => Err(Trouble::new("play a storm", format!("seed {seed}: {}", found.trouble))),
    }
}

/// Storms of fixed seeds, on every core: how many broke something that must always be true.
pub(crate) fn measure_storms() -> Result<Report> {
    let mut report = Report::default();
    let campaign = Campaign {
        from: 1_000_000,
        seeds: STORMS,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        settings: Settings::default(),
    };
    let clock = SystemClock::start();
    let (began, mut shown) = (clock.now(), clock.now());
    let done = quietly(|| {
        campaign.run(|so_far| {
            let now = clock.now();
            if now.since(shown) >= minutes(1) {
                shown = now;
                eprintln!("{} of {STORMS} storms, {} broke something", so_far.played, so_far.failures.len());
            }
            true
        })
    });
    let broken = f64::from(u32::try_from(done.failures.len()).unwrap_or(u32::MAX));
    report.figure("storms-10000-broken", broken, "storms", Goal::Below(1.0));
    let (met, pairs) = done.coverage.pairs();
    report.note(format!(
        "{} storms in {}: {:.0} simulated hours, {} faults, {} machines; {met} of {pairs} pairs of a fault and a situation met; slowest to converge {:?}",
        done.played,
        Span(clock.now().since(began)),
        done.simulated.as_secs_f64() / 3_600.0,
        done.coverage.hits(),
        done.machines,
        done.slowest
    ));
    for failure in &done.failures {
        report.note(format!(
            "seed {} at {}: {}",
            failure.plan.seed, failure.found.at, failure.found.trouble
        ));
    }
    Ok(report)
}
