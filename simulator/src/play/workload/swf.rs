//! The Standard Workload Format, version 2.2, of the Parallel Workloads Archive
//! (<https://www.cs.huji.ac.il/labs/parallel/workload/swf.html>): a job a line in 18 numbers, comments after `;`, -1 for what is not known.
//!
//! Taken are column 2 (submit time), 4 (run time), 5 (processors allocated) and, where that is not known, 8 (processors requested). A job of
//! n processors becomes n jobs for one worker each (or fewer, with more processors a worker): a pool's workers are interchangeable and take
//! one job at a time, so that what a job of a parallel machine waits for, to have all its processors at once, is not simulated. Jobs whose
//! run time is not known or 0 never ran, and are left out.

use std::time::Duration;

use epu_core::input::Flaws;

use super::{Faults, JOBS_MAX, Job, LASTS_MAX, Reading, Workload};

/// How many numbers a line has.
pub(super) const COLUMNS: usize = 18;
const SUBMIT: usize = 1;
const RUN: usize = 3;
const ALLOCATED: usize = 4;
const REQUESTED: usize = 7;

pub(super) fn read(file: &str, text: &str, how: &Reading) -> Result<Workload, Flaws> {
    let mut faults = Faults::new(file);
    let mut jobs: Vec<(f64, Duration)> = Vec::new();
    let (mut never_ran, mut no_submit, mut wide) = (0_u64, 0_u64, 0_u64);
    for (number, line) in (1..).zip(text.lines()) {
        let written = line.trim();
        if written.is_empty() || written.starts_with(';') {
            continue;
        }
        if faults.are_many() {
            break;
        }
        let Some(values) = numbers(&mut faults, number, line) else {
            continue;
        };
        let [submit, run, allocated, requested] = [SUBMIT, RUN, ALLOCATED, REQUESTED].map(|column| values[column]);
        if submit < 0.0 {
            no_submit += 1;
            continue;
        }
        if run <= 0.0 {
            never_ran += 1;
            continue;
        }
        if run > LASTS_MAX.as_secs_f64() {
            faults.add(faults.at(number, 1, format!("its run time of {run} s is longer than a year")));
            continue;
        }
        let processors = if allocated > 0.0 { allocated } else { requested.max(1.0) };
        let workers = (processors / f64::from(how.processors_per_worker.max(1))).ceil();
        if workers > (JOBS_MAX - jobs.len()) as f64 {
            let flaw = faults.at(
                number,
                1,
                format!("with the {workers} workers of this job there are more than {JOBS_MAX} jobs, the most"),
            );
            faults.add(flaw.help("cut the log, or give more processors to a worker with --processors-per-worker"));
            break;
        }
        if workers > 1.0 {
            wide += 1;
        }
        let takes = Duration::from_millis(u64::try_from(Duration::from_secs_f64(run).as_millis()).unwrap_or(1).max(1));
        let mut left = workers;
        while left > 0.0 {
            jobs.push((submit, takes));
            left -= 1.0;
        }
    }
    let first = jobs.iter().map(|(submit, _)| *submit).fold(f64::INFINITY, f64::min);
    if let Some((last, _)) = jobs.iter().find(|(submit, _)| submit - first > LASTS_MAX.as_secs_f64()) {
        faults.add(faults.at(0, 0, format!("a job is submitted {last} s after the beginning, more than a year")));
    }
    Flaws::none_in(faults.found)?;
    let since = |submit: f64| Duration::from_millis(u64::try_from(Duration::from_secs_f64(submit - first).as_millis()).unwrap_or(0));
    let all = jobs.into_iter().map(|(submit, takes)| Job { at: since(submit), takes });
    let mut workload = Workload::of(all.collect(), Duration::ZERO);
    let mut note = |count: u64, text: &str| {
        if count > 0 {
            workload.notes.push(format!("{file}: {count} {text}"));
        }
    };
    note(never_ran, "jobs have no run time, and are left out");
    note(no_submit, "jobs have no submit time, and are left out");
    note(
        wide,
        "jobs of several workers became a job for each of them, which need not run at once",
    );
    Ok(workload)
}

/// The numbers of a line.
fn numbers(faults: &mut Faults, number: usize, line: &str) -> Option<[f64; COLUMNS]> {
    let mut values = [0.0; COLUMNS];
    let (mut found, mut is_good) = (0, true);
    let begin = line.as_ptr().addr();
    for word in line.split_whitespace() {
        let column = line[..word.as_ptr().addr() - begin].chars().count() + 1;
        match (word.parse::<f64>(), values.get_mut(found)) {
            (Ok(value), Some(place)) if value.is_finite() && (value >= 0.0 || value == -1.0) => *place = value,
            (_, None) => {
                faults.add(faults.at(number, column, format!("there are more than {COLUMNS} values")));
                return None;
            }
            (Ok(_) | Err(_), Some(_)) => {
                let flaw = faults.at(number, column, format!("{word:?} is neither a number nor -1 for what is not known"));
                faults.add(flaw);
                is_good = false;
            }
        }
        found += 1;
    }
    if found < COLUMNS {
        let flaw = faults.at(
            number,
            line.trim_end().chars().count() + 1,
            format!("there are {found} values, and {COLUMNS} are wanted"),
        );
        faults.add(flaw.help("the Standard Workload Format writes -1 for what is not known"));
        return None;
    }
    is_good.then_some(values)
}
