//! Chaos with real processes, over and over: how many runs broke something that must always be true.
//!
//! A run is what the live test makes, longer, see [`epu_tests::chaos`]: every kind of fault some times, operators and work meanwhile, and
//! the judging from outside. Two are made at a time: most of a run is waiting.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use epu_tests::Result;
use epu_tests::chaos::{Outcome, endure_alone};

use crate::clock::wall;
use crate::{Goal, Report};

/// Some five minutes each, of which two are made at a time.
const RUNS: u64 = 10;
/// With two faults in a round on average, each kind comes once in a run, and most of them twice.
const ROUNDS: u32 = 14;
/// More are not borne by a machine of two processors: what is late then is late for want of them.
const AT_ONCE: usize = 2;

pub(crate) fn measure() -> Result<Report> {
    let mut report = Report::default();
    let mut faults: BTreeMap<&'static str, u32> = BTreeMap::new();
    let (mut broken, mut slowest) = (0_u32, Duration::ZERO);
    let (mut machines, mut decisions, mut jobs, mut put_back, mut looks) = (0, 0, 0, 0, 0);
    let began = wall();
    for (seed, run) in runs() {
        match run {
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

/// All runs with their seeds, in the order of these.
fn runs() -> BTreeMap<u64, Result<Outcome>> {
    let next = Mutex::new(1..=RUNS);
    let done = Mutex::new(BTreeMap::new());
    let one_after_the_other = || {
        loop {
            let Some(seed) = next.lock().unwrap_or_else(PoisonError::into_inner).next() else {
                return;
            };
            let run = endure_alone(seed, ROUNDS);
            done.lock().unwrap_or_else(PoisonError::into_inner).insert(seed, run);
        }
    };
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(one_after_the_other);
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}
