//! Many storms at once, one thread each.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use super::coverage::Coverage;
use super::plan::{Plan, Settings};
use super::play::{Found, play};
use crate::lock;

/// Failures that are kept; after that a campaign ends, since one cause has many faces.
const FAILURES_MOST: usize = 20;

/// What is to be played.
#[derive(Debug, Clone, Default)]
pub struct Campaign {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// How many at once.
    pub threads: usize,
    /// How storms are to be.
    pub settings: Settings,
}

/// A seed in which something went wrong.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What was played.
    pub plan: Plan,
    /// What went wrong.
    pub found: Found,
}

/// What came of a campaign so far.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Storms played.
    pub played: u64,
    /// What went wrong, by seed.
    pub failures: Vec<Failure>,
    /// Which faults met what.
    pub coverage: Coverage,
    /// Time that passed in the worlds.
    pub simulated: Duration,
    /// Machines that there were.
    pub machines: u64,
    /// The longest that a world took to converge, and its seed.
    pub slowest: Option<(Duration, u64)>,
    /// Made from everything that happened in all of them, in whatever order they were played.
    pub print: u64,
}

impl Campaign {
    /// Plays every seed. `told` hears of each one that ended, and says whether to go on.
    ///
    /// # Panics
    /// When a thread cannot be started.
    pub fn run(&self, mut told: impl FnMut(&Report) -> bool) -> Report {
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let mut report = Report::default();
        std::thread::scope(|scope| {
            let (done, outcomes) = mpsc::channel();
            for _ in 0..self.threads.max(1) {
                let (next, stop, done) = (&next, &stop, done.clone());
                scope.spawn(move || {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= self.seeds || stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let plan = Plan::draw(self.from + n, &self.settings);
                        let outcome = play(&plan);
                        if done.send((plan, outcome)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(done);
            for (plan, outcome) in outcomes {
                report.played += 1;
                report.simulated += outcome.simulated;
                report.machines += u64::try_from(outcome.machines).unwrap_or(0);
                report.coverage.add(&outcome.coverage);
                report.print ^= outcome.print.rotate_left(u32::try_from(plan.seed % 64).unwrap_or(0));
                if let Some(took) = outcome.converged_in
                    && report.slowest.is_none_or(|(slowest, _)| took > slowest)
                {
                    report.slowest = Some((took, plan.seed));
                }
                if let Some(found) = outcome.found {
                    report.failures.push(Failure { plan, found });
                }
                if !told(&report) || report.failures.len() >= FAILURES_MOST {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        });
        report.failures.sort_by_key(|failure| failure.plan.seed);
        report
    }
}

/// Runs something with panics of this process's threads kept off the terminal: a storm catches its own.
pub fn quietly<T>(act: impl FnOnce() -> T) -> T {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = lock(&ONE_AT_A_TIME);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let done = act();
    std::panic::set_hook(before);
    done
}
