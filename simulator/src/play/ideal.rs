//! What a workload asks for, whoever serves it: the workers that somebody would have who knows every job beforehand and starts workers in no
//! time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::curve::Curve;
use super::workload::Job;

/// How many workers are wanted over time, in milliseconds since the workload began, so that no job waits longer than `wait`.
///
/// Without a wait it is the number of jobs that would be in progress were there no end of workers, which is the fewest. With one, a job
/// takes over a worker that has just finished, and gets one of its own when it has waited as long as it may: each worker is there only while
/// it works. That is few, not proven to be the fewest.
#[must_use]
pub fn demand(jobs: &[Job], wait: Duration) -> Curve {
    let mut changes: Vec<(u64, i64)> = Vec::with_capacity(jobs.len().saturating_mul(2));
    let wait = millis(wait);
    let mut free: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
    let mut waiting: VecDeque<(u64, u64)> = VecDeque::new();
    let mut arrivals = jobs.iter().map(|job| (millis(job.at), millis(job.takes))).peekable();
    loop {
        let finish = free.peek().map(|Reverse(at)| *at);
        let arrival = arrivals.peek().map(|(at, _)| *at);
        let patience = waiting.front().map(|(since, _)| since.saturating_add(wait));
        let Some(now) = [finish, arrival, patience].into_iter().flatten().min() else {
            break;
        };
        if finish == Some(now) {
            free.pop();
            match waiting.pop_front() {
                Some((_, takes)) => free.push(Reverse(now.saturating_add(takes))),
                None => changes.push((now, -1)),
            }
        } else if arrival == Some(now) {
            waiting.extend(arrivals.next());
        } else if let Some((_, takes)) = waiting.pop_front() {
            changes.push((now, 1));
            free.push(Reverse(now.saturating_add(takes)));
        }
    }
    Curve::from_changes(changes)
}

/// How long each job waits when so many workers are there all the time, first come first served (J. Kiefer and J. Wolfowitz, 1955).
#[must_use]
pub fn waits_of_fixed(jobs: &[Job], workers: usize) -> Vec<Duration> {
    let mut free: BinaryHeap<Reverse<Duration>> = (0..workers.max(1)).map(|_| Reverse(Duration::ZERO)).collect();
    let wait = |job: &Job| {
        let Reverse(free_at) = free.pop().unwrap_or(Reverse(Duration::ZERO));
        let begins = free_at.max(job.at);
        free.push(Reverse(begins + job.takes));
        begins.saturating_sub(job.at)
    };
    jobs.iter().map(wait).collect()
}

/// Whole milliseconds.
#[must_use]
pub(crate) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// The mean wait in seconds in a queue with Poisson arrivals, exponential service and `workers` servers, by A. K. Erlang's C formula
/// (1917); none when there is more work than they can do. Rates are for each second.
#[must_use]
pub fn erlang_c_wait(arrivals: f64, served: f64, workers: u32) -> Option<f64> {
    let load = arrivals / served;
    let servers = f64::from(workers);
    if load >= servers {
        return None;
    }
    // Erlang B by its recursion, which no factorial overflows.
    let blocked = (1..=workers).fold(1.0, |blocked, n| load * blocked / (f64::from(n) + load * blocked));
    let waits = blocked / (1.0 - load / servers * (1.0 - blocked));
    Some(waits / (servers * served - arrivals))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::workload::shape::Shape;
    use super::*;

    fn job(at: u64, takes: u64) -> Job {
        Job {
            at: Duration::from_secs(at),
            takes: Duration::from_secs(takes),
        }
    }

    #[test]
    fn demand_is_what_would_be_in_progress_with_no_end_of_workers() {
        let jobs = [job(0, 10), job(5, 10), job(5, 1), job(30, 1)];
        let wanted = Curve::of([(0, 1), (5_000, 3), (6_000, 2), (10_000, 1), (15_000, 0), (30_000, 1), (31_000, 0)]);
        assert_eq!(demand(&jobs, Duration::ZERO), wanted);
        assert_eq!(demand(&[], Duration::ZERO), Curve::default());
    }

    #[test]
    fn who_may_wait_takes_over_a_worker() {
        // The second waits 4 s for the first's worker; the third may wait 5 s only, and gets its own.
        let jobs = [job(0, 10), job(11, 20), job(20, 1)];
        let wanted = Curve::of([(5_000, 1), (25_000, 2), (26_000, 1), (35_000, 0)]);
        assert_eq!(demand(&jobs, Duration::from_secs(5)), wanted);
    }

    #[test]
    fn a_fixed_number_of_workers_makes_jobs_wait_their_turn() {
        let jobs = [job(0, 10), job(1, 10), job(2, 10), job(40, 1)];
        let seconds = |workers| waits_of_fixed(&jobs, workers).iter().map(Duration::as_secs).collect::<Vec<_>>();
        assert_eq!(seconds(1), [0, 9, 18, 0]);
        assert_eq!(seconds(2), [0, 0, 8, 0]);
        assert_eq!(seconds(3), [0, 0, 0, 0]);
    }

    #[test]
    fn erlang_c_is_known() {
        // One server: rho / (mu - lambda). Two servers with a load of 1: waits one time in three.
        assert!((erlang_c_wait(0.5, 1.0, 1).unwrap() - 1.0).abs() < 1e-12);
        assert!((erlang_c_wait(1.0, 1.0, 2).unwrap() - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(erlang_c_wait(2.0, 1.0, 2), None);
    }

    #[test]
    fn a_queue_by_chance_waits_as_erlang_says() {
        let shape: Shape =
            serde_json::from_value(json!({"poisson": {"rate": "14/s", "service": "exponential(200ms)", "for": "20h"}})).unwrap();
        let (jobs, _) = shape.jobs(None, 5).unwrap();
        let waits = waits_of_fixed(&jobs, 4);
        let mean = waits.iter().map(Duration::as_secs_f64).sum::<f64>() / waits.len() as f64;
        let erlang = erlang_c_wait(14.0, 5.0, 4).unwrap();
        assert!((mean / erlang - 1.0).abs() < 0.05, "{mean} is not {erlang}");
    }
}
