//! What came of it, for people: a table with a column for each variant, and a picture of each.

use std::fmt::Write as _;
use std::time::Duration;

use epu_core::Span;
use epu_simulator::play::outcome::Outcome;

use super::run::{Answer, Column};
use crate::demo::chart::{self, WIDTH};

/// How a number is shown.
#[derive(Clone, Copy)]
enum As {
    Count,
    Tenths,
    Seconds,
    Percent,
    Money,
}

/// A row: its name, how it is shown, and where it comes from. Without a value in any column it is left out.
type Row = (&'static str, As, fn(&Outcome) -> Option<f64>);

fn count(n: usize) -> Option<f64> {
    u32::try_from(n).ok().map(f64::from)
}

/// Shown only where it is not 0.
fn odd(n: usize) -> Option<f64> {
    count(n).filter(|n| *n > 0.0)
}

fn worth(n: f64) -> Option<f64> {
    Some(n)
}

const ROWS: &[Row] = &[
    ("jobs", As::Count, |o| count(o.jobs.submitted)),
    ("  done", As::Count, |o| count(o.jobs.done)),
    ("  not done at the end", As::Count, |o| odd(o.jobs.unfinished)),
    ("  lost", As::Count, |o| odd(usize::try_from(o.jobs.lost).unwrap_or(usize::MAX))),
    ("  begun again", As::Count, |o| odd(o.jobs.begun_again)),
    ("  done twice", As::Count, |o| odd(o.jobs.done_twice)),
    ("wait, mean", As::Seconds, |o| worth(o.waits_s.mean)),
    ("  p50", As::Seconds, |o| worth(o.waits_s.p50)),
    ("  p95", As::Seconds, |o| worth(o.waits_s.p95)),
    ("  p99", As::Seconds, |o| worth(o.waits_s.p99)),
    ("  max", As::Seconds, |o| worth(o.waits_s.max)),
    ("submitted to done, p95", As::Seconds, |o| worth(o.sojourns_s.p95)),
    ("workers, mean", As::Tenths, |o| worth(o.workers.mean)),
    ("  peak", As::Count, |o| u32::try_from(o.workers.peak).ok().map(f64::from)),
    ("worker-hours", As::Tenths, |o| worth(o.workers.hours)),
    ("  of an ideal pool", As::Tenths, |o| worth(o.workers.ideal_hours)),
    ("  utilisation", As::Percent, |o| worth(100.0 * o.workers.utilisation)),
    ("  of lost work", As::Tenths, |o| {
        worth(o.workers.wasted_hours).filter(|hours| *hours >= 0.05)
    }),
    ("machines launched", As::Count, |o| count(o.machines.launched)),
    ("  by launches", As::Count, |o| count(o.machines.launches)),
    ("  never ready", As::Count, |o| odd(o.machines.never_ready)),
    ("machine-hours", As::Tenths, |o| worth(o.machines.hours)),
    ("cost", As::Money, |o| o.machines.cost),
    ("busy workers ended by choice", As::Count, |o| count(o.interrupted.by_choice)),
    ("busy workers lost by fault", As::Count, |o| odd(o.interrupted.by_fault)),
    ("accuracy, under", As::Percent, |o| worth(o.elasticity.accuracy_under)),
    ("accuracy, over", As::Percent, |o| worth(o.elasticity.accuracy_over)),
    ("timeshare, under", As::Percent, |o| worth(o.elasticity.timeshare_under)),
    ("timeshare, over", As::Percent, |o| worth(o.elasticity.timeshare_over)),
    ("instability", As::Percent, |o| worth(o.elasticity.instability)),
    ("jitter, an hour", As::Tenths, |o| worth(o.elasticity.jitter_per_hour)),
    ("deviation", As::Percent, |o| worth(o.elasticity.deviation)),
    ("speedup", As::Money, |o| o.elasticity.speedup),
];

/// Everything.
pub(super) fn text(answer: &Answer) -> String {
    let mut text = String::new();
    for note in &answer.notes {
        line(&mut text, &format!("note: {note}"));
    }
    let columns = &answer.variants;
    let measured = columns.first().map_or(0.0, |column| column.played.measured_s);
    let faults = if answer.faults == "none" {
        String::new()
    } else {
        format!(", faults {}", answer.faults)
    };
    line(
        &mut text,
        &format!(
            "measured {} of simulated time; boot {}{faults}, seed {}",
            length(measured),
            answer.boot,
            answer.seed
        ),
    );
    let pools = columns.first().map_or(0, |column| column.played.pools.len());
    for pool in 0..pools {
        let of_pool: Vec<&Outcome> = columns.iter().filter_map(|column| column.played.pools.get(pool)).collect();
        let Some(first) = of_pool.first() else { continue };
        line(&mut text, &format!("\npool {}", first.pool));
        table(&mut text, columns, &of_pool);
        for (column, outcome) in columns.iter().zip(&of_pool) {
            let name = if columns.len() > 1 {
                format!(" {}", column.name)
            } else {
                String::new()
            };
            line(&mut text, &format!("\npool {}{name}", outcome.pool));
            picture(&mut text, outcome, measured);
        }
    }
    for column in columns {
        happened(&mut text, column);
    }
    text
}

fn table(text: &mut String, columns: &[Column], outcomes: &[&Outcome]) {
    let mut rows: Vec<Vec<String>> = Vec::new();
    if columns.len() > 1 {
        rows.push(
            [String::new()]
                .into_iter()
                .chain(columns.iter().map(|column| column.name.clone()))
                .collect(),
        );
    }
    for (name, how, of) in ROWS {
        let values: Vec<Option<f64>> = outcomes.iter().map(|outcome| of(outcome)).collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        let base = values.first().copied().flatten();
        let cells = (0..).zip(&values).map(|(n, value)| match value {
            None => "-".to_owned(),
            Some(value) if n == 0 => shown(*value, *how),
            Some(value) => format!("{}{}", shown(*value, *how), difference(*value, base)),
        });
        rows.push([(*name).to_owned()].into_iter().chain(cells).collect());
    }
    let width = |n: usize| {
        rows.iter()
            .filter_map(|row| row.get(n))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..=columns.len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        line(text, cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

fn shown(value: f64, how: As) -> String {
    match how {
        As::Count => format!("{value:.0}"),
        As::Tenths => format!("{value:.1}"),
        As::Seconds => length(value),
        As::Percent => format!("{value:.1} %"),
        As::Money => format!("{value:.2}"),
    }
}

/// Seconds, in tenths where they are few.
fn length(seconds: f64) -> String {
    if seconds < 120.0 {
        format!("{seconds:.1}s")
    } else {
        Span(Duration::from_secs(Duration::from_secs_f64(seconds.min(1e9)).as_secs())).to_string()
    }
}

/// How it differs from the first column.
fn difference(value: f64, base: Option<f64>) -> String {
    match base {
        Some(base) if base > 0.0 => {
            let percent = 100.0 * (value / base - 1.0);
            if percent.abs() < 0.5 {
                String::new()
            } else {
                format!(" ({percent:+.0} %)")
            }
        }
        Some(_) | None => String::new(),
    }
}

fn picture(text: &mut String, outcome: &Outcome, measured: f64) {
    let points = &outcome.series;
    let values = |of: fn(&epu_simulator::play::outcome::Point) -> u64| {
        let mut columns = [0_usize; WIDTH];
        for (n, column) in columns.iter_mut().enumerate() {
            let from = n * points.len() / WIDTH;
            let to = ((n + 1) * points.len() / WIDTH).max(from + 1);
            let within = points.get(from..to.min(points.len())).unwrap_or(&[]);
            *column = within
                .iter()
                .map(|point| usize::try_from(of(point)).unwrap_or(usize::MAX))
                .max()
                .unwrap_or(0);
        }
        columns
    };
    chart::graph(text, "demand", &values(|point| point.demand), 3);
    chart::graph(text, "workers", &values(|point| point.supply), 3);
    chart::graph(text, "waiting", &values(|point| point.waiting), 3);
    line(text, &format!("{:>10} 0{:>width$}", "", length(measured), width = WIDTH - 1));
}

/// Most faults that are listed; the rest is counted.
const FAULTS_SHOWN: usize = 20;

fn happened(text: &mut String, column: &Column) {
    let played = &column.played;
    if !played.faults.is_empty() {
        line(text, &format!("\n{}: {} faults", column.name, played.faults.len()));
        for fault in played.faults.iter().take(FAULTS_SHOWN) {
            let lasts = if fault.lasts_s > 0.0 {
                format!(" for {}", length(fault.lasts_s))
            } else {
                String::new()
            };
            line(text, &format!("  {:>8}  {}{lasts}", length(fault.at_s), fault.what));
        }
        if played.faults.len() > FAULTS_SHOWN {
            line(text, &format!("  ... and {} more", played.faults.len() - FAULTS_SHOWN));
        }
    }
    for broken in &played.broken {
        line(text, &format!("{}: a promise was broken: {broken}", column.name));
    }
}

/// Writing to a text cannot fail.
fn line(text: &mut String, what: &str) {
    writeln!(text, "{what}").ok();
}
