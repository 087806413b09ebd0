//! What came of a run: numbers for people and programs, from what truly happened and not from what services say of it.
//!
//! Everything is of the time that is measured: from the first moment of the workload until the end of the run. All times are in seconds,
//! all others say what they are in.

use std::time::Duration;

use epu_core::time::Timestamp;
use serde::Serialize;

use super::curve::Curve;
use super::elasticity::{self, Elasticity};
use super::ideal::{demand, millis};
use super::workload::Workload;
use crate::queue::{JobTimes, Recorded};

/// What came of a pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Which.
    pub pool: String,
    /// Its jobs.
    pub jobs: Jobs,
    /// From submission to the first start, in seconds; a job that never began waited until the end.
    pub waits_s: Spread,
    /// From submission to done, in seconds, of those that were done.
    pub sojourns_s: Spread,
    /// Its workers.
    pub workers: Workers,
    /// Its machines.
    pub machines: Machines,
    /// Jobs whose worker ended under them.
    pub interrupted: Interrupted,
    /// How well supply followed demand.
    pub elasticity: Elasticity,
    /// How it went, evenly over time.
    pub series: Vec<Point>,
}

/// Jobs of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Jobs {
    /// How many came.
    pub submitted: usize,
    /// How many are done.
    pub done: usize,
    /// How many were not done when the run ended: they wait or are being done.
    pub unfinished: usize,
    /// How many are gone: neither waiting, nor being done, nor done.
    pub lost: u64,
    /// How many were begun more than once, their first worker having ended.
    pub begun_again: usize,
    /// How many were done more than once.
    pub done_twice: usize,
}

/// Values put together.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// Half are not more.
    pub p50: f64,
    /// Ninety-five of a hundred are not more.
    pub p95: f64,
    /// Ninety-nine of a hundred are not more.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

/// Workers of a run: those that take jobs.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Workers {
    /// How many there were on average.
    pub mean: f64,
    /// The most at one time.
    pub peak: u64,
    /// Hours of all of them together.
    pub hours: f64,
    /// Hours that they worked, lost work included.
    pub busy_hours: f64,
    /// Hours of work that were lost, since a worker ended before its job.
    pub wasted_hours: f64,
    /// The share of their hours that they worked.
    pub utilisation: f64,
    /// Hours that the ideal needs: as many workers as are demanded at each time, and no more than the pool's maximum.
    pub ideal_hours: f64,
}

/// Machines of a run, from launch to gone.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Machines {
    /// How many were launched.
    pub launched: usize,
    /// By how many launches.
    pub launches: usize,
    /// How many ended.
    pub ended: usize,
    /// How many ended and had never been ready.
    pub never_ready: usize,
    /// Hours of all of them together.
    pub hours: f64,
    /// What they cost, as they are billed; none when nothing is known of prices.
    pub cost: Option<f64>,
}

/// Jobs whose worker ended under them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Interrupted {
    /// It was chosen to go, and was ended at its drain's deadline.
    pub by_choice: usize,
    /// It failed, or something it needed did.
    pub by_fault: usize,
}

/// How it was in a stretch of time: the most of each within it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// When it begins, in seconds since the workload did.
    pub at_s: f64,
    /// Workers that would be wanted so that nobody waits longer than was said.
    pub demand: u64,
    /// Workers that take jobs.
    pub supply: u64,
    /// Jobs that wait.
    pub waiting: u64,
}

/// A machine, as far as money goes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Paid {
    pub launched: Timestamp,
    pub off: Option<Timestamp>,
    pub launch: Option<String>,
    pub was_ready: bool,
    pub price: Option<f64>,
}

/// How time is billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Billing(
    /// Every such length that has begun is paid whole.
    pub Duration,
);

impl Default for Billing {
    fn default() -> Self {
        Self(Duration::from_secs(1))
    }
}

/// What is measured.
pub(super) struct Measured<'a> {
    pub pool: &'a str,
    pub workload: &'a Workload,
    pub max: u32,
    pub recorded: &'a Recorded,
    pub paid: &'a [Paid],
    pub interrupted: Interrupted,
    pub lost: u64,
    pub done_twice: usize,
    pub from: Timestamp,
    pub to: Timestamp,
    pub target_wait: Duration,
    pub billing: Billing,
    pub points: usize,
}

/// How often directions of change are looked at.
const DIRECTION_EVERY: u64 = 60_000;

/// In millionths: what a machine's mathematics differ in beyond that is not shown.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// Puts a pool's run into numbers.
pub(super) fn measure(run: &Measured<'_>) -> Outcome {
    let end = millis(run.to.since(run.from));
    let since = |at: Timestamp| millis(at.since(run.from));
    let jobs = &run.recorded.jobs;
    let supply = run.recorded.workers.iter().map(|(at, workers)| (since(*at), u64::from(*workers)));
    let supply = Curve::of(supply).between(0, end);
    let demand = demand(run.workload.jobs(), run.target_wait).at_most(u64::from(run.max));
    let begun = |times: &JobTimes| times.started < Timestamp::NEVER;
    let waiting = Curve::from_changes(jobs.iter().flat_map(|times| {
        let leaves = begun(times).then(|| (since(times.started), -1));
        [Some((since(times.submitted), 1)), leaves].into_iter().flatten()
    }));
    let is_done = |times: &&JobTimes| times.done < Timestamp::NEVER;
    let done = jobs.iter().filter(is_done).count();
    let waits = jobs.iter().map(|times| times.started.min(run.to).since(times.submitted));
    let sojourns = jobs.iter().filter(is_done).map(|times| times.done.since(times.submitted));
    let wasted: Duration = run.recorded.interrupted.iter().map(|lost| lost.wasted).sum();
    let busy = run.recorded.worked + run.recorded.at_work + wasted;
    let hours = supply.area(end) / 3_600_000.0;
    let busy_hours = busy.as_secs_f64() / 3_600.0;
    Outcome {
        pool: run.pool.to_owned(),
        jobs: Jobs {
            submitted: jobs.len(),
            done,
            unfinished: jobs
                .len()
                .saturating_sub(done)
                .saturating_sub(usize::try_from(run.lost).unwrap_or(0)),
            lost: run.lost,
            begun_again: jobs.iter().filter(|times| times.begun > 1).count(),
            done_twice: run.done_twice,
        },
        waits_s: spread(waits.collect()),
        sojourns_s: spread(sojourns.collect()),
        workers: Workers {
            mean: rounded(supply.area(end) / end.max(1) as f64),
            peak: supply.highest(),
            hours: rounded(hours),
            busy_hours: rounded(busy_hours),
            wasted_hours: rounded(wasted.as_secs_f64() / 3_600.0),
            utilisation: if hours > 0.0 { rounded((busy_hours / hours).min(1.0)) } else { 0.0 },
            ideal_hours: rounded(demand.area(end) / 3_600_000.0),
        },
        machines: machines(run),
        interrupted: run.interrupted,
        elasticity: elasticity::measure(&demand, &supply, end, DIRECTION_EVERY),
        series: series(&demand, &supply, &waiting, end, run.points),
    }
}

/// Nearest rank: the smallest value that at least this share of all do not exceed.
pub(super) fn spread(mut all: Vec<Duration>) -> Spread {
    all.sort_unstable();
    let Some(max) = all.last() else { return Spread::default() };
    let rank = |hundredths: usize| {
        let at = (all.len() * hundredths).div_ceil(100).max(1) - 1;
        all.get(at).map_or(0.0, Duration::as_secs_f64)
    };
    Spread {
        mean: rounded(all.iter().map(Duration::as_secs_f64).sum::<f64>() / all.len() as f64),
        p50: rank(50),
        p95: rank(95),
        p99: rank(99),
        max: max.as_secs_f64(),
    }
}

fn machines(run: &Measured<'_>) -> Machines {
    let mut found = Machines::default();
    let mut launches: Vec<&str> = Vec::new();
    let mut cost = 0.0;
    let mut is_priced = false;
    for machine in run.paid {
        let off = machine.off.map_or(run.to, |off| off.min(run.to));
        if off < run.from {
            continue;
        }
        if machine.launched >= run.from {
            found.launched += 1;
            launches.extend(machine.launch.as_deref());
        }
        if machine.off.is_some() {
            found.ended += 1;
            found.never_ready += usize::from(!machine.was_ready);
        }
        let time = off.since(machine.launched.max(run.from));
        found.hours += time.as_secs_f64() / 3_600.0;
        if let Some(price) = machine.price {
            is_priced = true;
            let unit = run.billing.0.as_millis().max(1);
            let billed = time.as_millis().div_ceil(unit) * unit;
            cost += Duration::from_millis(u64::try_from(billed).unwrap_or(u64::MAX)).as_secs_f64() / 3_600.0 * price;
        }
    }
    launches.sort_unstable();
    launches.dedup();
    found.launches = launches.len();
    found.hours = rounded(found.hours);
    found.cost = is_priced.then_some(rounded(cost));
    found
}

fn series(demand: &Curve, supply: &Curve, waiting: &Curve, end: u64, points: usize) -> Vec<Point> {
    let points = u64::try_from(points.max(1)).unwrap_or(1).min(end.max(1));
    let at = |n: u64| n * (end / points) + n * (end % points) / points;
    let point = |n: u64| {
        let (from, to) = (at(n), at(n + 1));
        Point {
            at_s: rounded(from as f64 / 1_000.0),
            demand: demand.highest_within(from, to),
            supply: supply.highest_within(from, to),
            waiting: waiting.highest_within(from, to),
        }
    };
    (0..points).map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::super::workload::Job;
    use super::*;

    const FROM: Timestamp = Timestamp(1_000_000);

    fn at(seconds: i64) -> Timestamp {
        Timestamp(FROM.0 + seconds * 1_000)
    }

    #[test]
    fn quantiles_are_values_that_were() {
        let all = (1..=200).map(Duration::from_secs).collect();
        let found = spread(all);
        assert_eq!(
            (found.mean, found.p50, found.p95, found.p99, found.max),
            (100.5, 100.0, 190.0, 198.0, 200.0)
        );
        let one = spread(vec![Duration::from_secs(3)]);
        assert_eq!((one.p50, one.p99, one.max), (3.0, 3.0, 3.0));
        assert_eq!(spread(Vec::new()), Spread::default());
    }

    #[test]
    fn a_run_is_put_into_numbers() {
        // Three jobs of 60 s; one is never begun. One worker from 10 s before on, a second from 60 s to 120 s.
        let job = |at: u64| Job {
            at: Duration::from_secs(at),
            takes: Duration::from_secs(60),
        };
        let times = |submitted, started: Option<i64>, done: Option<i64>, begun| JobTimes {
            submitted: at(submitted),
            started: started.map_or(Timestamp::NEVER, at),
            done: done.map_or(Timestamp::NEVER, at),
            begun,
        };
        let recorded = Recorded {
            jobs: vec![
                times(0, Some(0), Some(60), 1),
                times(30, Some(60), Some(180), 2),
                times(170, None, None, 0),
            ],
            workers: vec![(at(-20), 0), (at(-10), 1), (at(60), 2), (at(120), 1)],
            interrupted: vec![crate::queue::Interruption {
                at: at(120),
                worker: "m".to_owned(),
                job: 2,
                wasted: Duration::from_secs(60),
            }],
            worked: Duration::from_secs(120),
            at_work: Duration::ZERO,
        };
        let machine = |launched, off: Option<i64>, launch: &str, was_ready| Paid {
            launched: at(launched),
            off: off.map(at),
            launch: Some(launch.to_owned()),
            was_ready,
            price: Some(3.6),
        };
        let paid = [
            machine(-100, Some(-50), "before", true),
            machine(-50, None, "first", true),
            machine(10, Some(130), "second", true),
            machine(10, Some(50), "second", false),
        ];
        let workload = Workload::of(vec![job(0), job(30), job(170)], Duration::ZERO);
        let found = measure(&Measured {
            pool: "web",
            workload: &workload,
            max: 2,
            recorded: &recorded,
            paid: &paid,
            interrupted: Interrupted { by_choice: 0, by_fault: 1 },
            lost: 0,
            done_twice: 0,
            from: FROM,
            to: at(200),
            target_wait: Duration::ZERO,
            billing: Billing(Duration::from_secs(60)),
            points: 4,
        });
        assert_eq!(
            found.jobs,
            Jobs {
                submitted: 3,
                done: 2,
                unfinished: 1,
                lost: 0,
                begun_again: 1,
                done_twice: 0
            }
        );
        assert_eq!((found.waits_s.mean, found.waits_s.p50, found.waits_s.max), (20.0, 30.0, 30.0));
        assert_eq!((found.sojourns_s.mean, found.sojourns_s.max), (105.0, 150.0));
        let seconds = |hours: f64| (hours * 3_600.0).round();
        assert_eq!(
            (seconds(found.workers.hours), found.workers.peak, found.workers.mean),
            (260.0, 2, 1.3)
        );
        assert_eq!(
            (seconds(found.workers.busy_hours), seconds(found.workers.wasted_hours)),
            (180.0, 60.0)
        );
        assert_eq!(seconds(found.workers.ideal_hours), 150.0);
        assert_eq!((found.machines.launched, found.machines.launches), (2, 1));
        assert_eq!(
            (found.machines.ended, found.machines.never_ready, seconds(found.machines.hours)),
            (2, 1, 360.0)
        );
        // Of 200, 120 and 40 s, each minute that began: 240, 120 and 60 s for a thousandth a second.
        assert!((found.machines.cost.unwrap() - 0.42).abs() < 1e-9, "{:?}", found.machines.cost);
        let shown: Vec<(f64, u64, u64, u64)> = found.series.iter().map(|p| (p.at_s, p.demand, p.supply, p.waiting)).collect();
        assert_eq!(shown, [(0.0, 2, 1, 1), (50.0, 2, 2, 1), (100.0, 0, 2, 0), (150.0, 1, 1, 1)]);
    }
}
