//! Chaos with real processes, over and over: how many runs broke something that must always be true.
//!
//! A run is what the live test makes, longer, see [`epu_tests::chaos`]: every kind of fault some times, operators and work meanwhile, and
//! the judging from outside. They are made one after the other: several at once, on few processors, are late for want of these.

use std::collections::BTreeMap;
use std::time::Duration;

use epu_tests::Result;
use epu_tests::chaos::endure_alone;

use crate::clock::wall;
use crate::{Goal, Report};

/// Some four minutes each.
const RUNS: u64 = 10;
/// With two faults in a round on average, each kind comes once in a run, and half of them twice.
const ROUNDS: u32 = 12;

pub(crate) fn measure() -> Result<Report> {
    let mut report = Report::default();
    let mut faults: BTreeMap<&'static str, u32> = BTreeMap::new();
    let (mut broken, mut slowest) = (0_u32, Duration::ZERO);
    let (mut machines, mut decisions, mut jobs, mut put_back, mut looks) = (0, 0, 0, 0, 0);
    let began = wall();
    for seed in 1..=RUNS {
        match endure_alone(seed, ROUNDS) {
            Ok(outcome) => {
                for (kind, times) in outcome.faults {
                    *faults.entry(kind).or_default() += times;
                }
                slowest = slowest.max(outcome.converged);
                machines += outcome.machines;
                decisions += outcome.decisions;
                jobs += outcome.jobs;
                put_back += outcome.put_back;
                looks += outcome.looks.0;
            }
            Err(trouble) => {
                broken += 1;
                report.note(format!("run {seed}: {trouble}"));
            }
        }
    }
    let all: u32 = faults.values().sum();
    let each: Vec<String> = faults.iter().map(|(kind, times)| format!("{kind} {times}")).collect();
    report.note(format!(
        "{RUNS} runs of {ROUNDS} rounds in {:.0} s: {all} faults: {}",
        began.elapsed().as_secs_f64(),
        each.join(", ")
    ));
    report.note(format!(
        "{machines} machines, {decisions} decisions shown again, {jobs} jobs all done ({put_back} put back), {looks} looks at the process table; \
         slowest to settle {:.1} s",
        slowest.as_secs_f64()
    ));
    report.figure("chaos-runs-broken", f64::from(broken), "runs", Goal::Below(0.5));
    Ok(report)
}
