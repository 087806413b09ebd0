//! Traces as comma-separated values: a job a line, or a count for each interval.
//!
//! The separator is a comma, a semicolon or a tab, whichever the first line has. A value may stand in double quotes. Empty lines, and lines
//! that begin with `#`, are skipped. A heading is optional; where there is one, it says which column is which.

use std::time::Duration;

use epu_core::input::{Flaws, nearest};

use super::service::Service;
use super::{Faults, JOBS_MAX, Job, LASTS_MAX, Reading, When, Workload, chance, takes, whole_millis};

/// What the columns are called, the name first by which they are spoken of.
const ARRIVAL: &[&str] = &["arrival", "at", "submit", "time", "timestamp"];
const SERVICE: &[&str] = &["service", "takes", "duration", "runtime"];
const TIME: &[&str] = &["time", "timestamp", "at", "interval"];
const COUNT: &[&str] = &["count", "jobs", "arrivals", "requests"];

/// A line taken apart: its number, and each value with the column in which it begins.
struct Line<'a> {
    number: usize,
    values: Vec<(usize, &'a str)>,
}

impl<'a> Line<'a> {
    fn value(&self, column: Option<usize>) -> Option<(usize, &'a str)> {
        self.values.get(column?).copied()
    }
}

fn lines<'a>(text: &'a str) -> impl Iterator<Item = Line<'a>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let is_written = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let first = text.lines().find(|line| is_written(line)).unwrap_or("");
    let separator = ['\t', ';', ','].into_iter().find(|sign| first.contains(*sign)).unwrap_or(',');
    let written = (1..).zip(text.lines()).filter(move |(_, line)| is_written(line));
    written.map(move |(number, line)| {
        let mut column = 1;
        let values = line.split(separator).map(|part| {
            let begin = column + part.chars().take_while(|letter| letter.is_whitespace()).count();
            column += part.chars().count() + 1;
            let value = part.trim();
            let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            (begin, unquoted.unwrap_or(value).trim())
        });
        Line {
            number,
            values: values.collect(),
        }
    })
}

/// Whether the first line is a heading: something stands in it that is no number, length or date.
fn is_heading(line: &Line<'_>) -> bool {
    line.values
        .iter()
        .any(|(_, value)| value.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_'))
}

/// Whether a heading is one of counts.
pub(super) fn has_counts(heading: &str) -> bool {
    lines(heading).any(|line| line.values.iter().any(|(_, value)| is_one(value, COUNT)))
}

fn is_one(value: &str, names: &[&str]) -> bool {
    names.iter().any(|name| value.eq_ignore_ascii_case(name))
}

/// In which columns the two or three things are. Without a heading: in this order.
fn columns(faults: &mut Faults, heading: Option<&Line<'_>>, wanted: &[&[&str]], needed: usize) -> Vec<Option<usize>> {
    let Some(heading) = heading else {
        return (0..wanted.len()).map(Some).collect();
    };
    let mut found: Vec<Option<usize>> = vec![None; wanted.len()];
    for (at, (column, value)) in heading.values.iter().enumerate() {
        match wanted.iter().position(|names| is_one(value, names)) {
            Some(which) if found[which].is_some() => {
                let text = format!("the column {value:?} says again what {:?} says", wanted[which][0]);
                faults.add(faults.at(heading.number, *column, text).help("take one of them out"));
            }
            Some(which) => found[which] = Some(at),
            None => {
                let names = wanted.iter().flat_map(|names| names.iter().copied());
                let lower = value.to_ascii_lowercase();
                let flaw = faults.at(heading.number, *column, format!("no column is called {value:?}"));
                let all: Vec<&str> = wanted.iter().map(|names| names[0]).collect();
                faults.add(match nearest(&lower, names) {
                    Some(near) => flaw.help(format!("did you mean {near:?}?")),
                    None => flaw.help(format!("take it out; the columns are: {}", all.join(", "))),
                });
            }
        }
    }
    for (which, names) in wanted.iter().enumerate().take(needed) {
        if found[which].is_none() {
            let text = format!("the column {:?} is missing", names[0]);
            faults.add(
                faults
                    .at(heading.number, 1, text)
                    .help(format!("it may be called {}", names.join(", "))),
            );
        }
    }
    found
}

/// Moments as lengths of time since the trace began; those by the calendar count from the first of them.
fn since_begin(faults: &mut Faults, whens: &[(usize, usize, When)]) -> Vec<Duration> {
    let first = whens.iter().filter_map(|(_, _, when)| match when {
        When::On(at) => Some(*at),
        When::Since(_) => None,
    });
    let first = first.min();
    let mut all = Vec::with_capacity(whens.len());
    for (line, column, when) in whens {
        let since = match (when, first) {
            (When::On(at), Some(first)) => at.since(first),
            (When::Since(since), None) => *since,
            (When::On(_), None) | (When::Since(_), Some(_)) => {
                let flaw = faults.at(*line, *column, "some times are by the calendar and this one is not".to_owned());
                faults.add(flaw.help("write all of them in one way"));
                Duration::ZERO
            }
        };
        if since > LASTS_MAX {
            faults.add(faults.at(*line, *column, "this is more than a year after the beginning".to_owned()));
        }
        all.push(whole_millis(since.min(LASTS_MAX)));
    }
    all
}

/// What a line has in a column, parsed; the fault is put down.
fn parsed<T>(
    faults: &mut Faults,
    line: &Line<'_>,
    column: Option<usize>,
    name: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    let Some((at, value)) = line.value(column).filter(|(_, value)| !value.is_empty()) else {
        let at = line.values.last().map_or(1, |(at, value)| at + value.chars().count());
        faults.add(faults.at(line.number, at, format!("there is no {name}")));
        return None;
    };
    match parse(value) {
        Ok(value) => Some(value),
        Err(why) => {
            faults.add(faults.at(line.number, at, why));
            None
        }
    }
}

fn too_wide(faults: &mut Faults, line: &Line<'_>, most: usize) {
    if let Some((column, _)) = line.values.get(most) {
        let text = format!("there are {} values, and {most} are wanted", line.values.len());
        faults.add(faults.at(line.number, *column, text));
    }
}

/// A job a line.
pub(super) fn jobs(file: &str, text: &str, how: &Reading) -> Result<Workload, Flaws> {
    let mut faults = Faults::new(file);
    let mut rows = lines(text).peekable();
    let heading = rows.next_if(is_heading);
    let needed = if how.service.is_some() { 1 } else { 2 };
    let at = columns(&mut faults, heading.as_ref(), &[ARRIVAL, SERVICE], needed);
    let width = heading.as_ref().map_or(2, |heading| heading.values.len());
    let random = chance(how.seed);
    let (mut whens, mut services) = (Vec::new(), Vec::new());
    for line in rows {
        if faults.are_many() || (heading.is_some() && !faults.found.is_empty() && at[0].is_none()) {
            break;
        }
        if whens.len() >= JOBS_MAX {
            faults.add(faults.at(line.number, 1, format!("this is job {}, and {JOBS_MAX} are the most", JOBS_MAX + 1)));
            break;
        }
        too_wide(&mut faults, &line, width);
        let arrival = parsed(&mut faults, &line, at[0], "arrival", str::parse::<When>);
        let service = match (line.value(at[1]).filter(|(_, value)| !value.is_empty()), how.service) {
            (None, Some(service)) => Some(service.draw(&random)),
            (None, None) if heading.is_some() && at[1].is_none() => None,
            (Some(_) | None, _) => parsed(&mut faults, &line, at[1], "service time", takes),
        };
        if let (Some(arrival), Some(service), Some((column, _))) = (arrival, service, line.value(at[0])) {
            whens.push((line.number, column, arrival));
            services.push(service);
        }
    }
    let since = since_begin(&mut faults, &whens);
    Flaws::none_in(faults.found)?;
    let jobs = since.into_iter().zip(services).map(|(at, takes)| Job { at, takes });
    Ok(Workload::of(jobs.collect(), Duration::ZERO))
}

/// A count for each interval, which lasts until the next begins; the last is as long as the one before it. Jobs arrive within an interval
/// by chance.
pub(super) fn counts(file: &str, text: &str, how: &Reading) -> Result<Workload, Flaws> {
    let mut faults = Faults::new(file);
    let mut rows = lines(text).peekable();
    let heading = rows.next_if(is_heading);
    let at = columns(&mut faults, heading.as_ref(), &[TIME, COUNT, SERVICE], 2);
    let (mut whens, mut rest, mut total) = (Vec::new(), Vec::new(), 0_usize);
    for line in rows {
        if faults.are_many() || (heading.is_some() && (at[0].is_none() || at[1].is_none())) {
            break;
        }
        too_wide(&mut faults, &line, 3);
        let when = parsed(&mut faults, &line, at[0], "time", str::parse::<When>);
        let count = parsed(&mut faults, &line, at[1], "count", |value| {
            let count = value.parse::<usize>();
            count.map_err(|_| format!("{value:?} is no count: write a whole number, not negative"))
        });
        let given = line.value(at[2]).filter(|(_, value)| !value.is_empty());
        let service = match (given, how.service) {
            (Some(_), _) => parsed(&mut faults, &line, at[2], "service time", takes).map(|takes| Service::Fixed(epu_core::Span(takes))),
            (None, Some(service)) => Some(service),
            (None, None) => {
                let column = line.values.last().map_or(1, |(at, value)| at + value.chars().count());
                let flaw = faults.at(line.number, column, "it is not said how long these jobs take".to_owned());
                faults.add(flaw.help("give --service-time 30s, or add a column `service`"));
                // One such line is enough to know it.
                break;
            }
        };
        if let (Some(when), Some(count), Some(service), Some((column, _))) = (when, count, service, line.value(at[0])) {
            total = total.saturating_add(count);
            if total > JOBS_MAX {
                faults.add(faults.at(
                    line.number,
                    column,
                    format!("with these there are {total} jobs, and {JOBS_MAX} are the most"),
                ));
                break;
            }
            whens.push((line.number, column, when));
            rest.push((count, service));
        }
    }
    let since = since_begin(&mut faults, &whens);
    for (two, (line, column, _)) in since.windows(2).zip(whens.iter().skip(1)) {
        if two[1] <= two[0] {
            let flaw = faults.at(*line, *column, "this interval does not begin after the one before".to_owned());
            faults.add(flaw.help("sort the file by time"));
        }
    }
    if let ([(line, column, _)], true) = (whens.as_slice(), faults.found.is_empty()) {
        let flaw = faults.at(
            *line,
            *column,
            "there is one interval only, so that its length is not known".to_owned(),
        );
        faults.add(flaw.help("add a line with the end of it and the count 0"));
    }
    Flaws::none_in(faults.found)?;
    Ok(spread(&since, &rest, how.seed))
}

fn spread(begins: &[Duration], counts: &[(usize, Service)], seed: u64) -> Workload {
    let random = chance(seed);
    let last = begins.windows(2).last().map_or(Duration::ZERO, |two| two[1] - two[0]);
    let end = begins.last().map_or(Duration::ZERO, |begin| *begin + last);
    let ends = begins.iter().skip(1).copied().chain([end]);
    let mut jobs = Vec::new();
    for ((begin, end), (count, service)) in begins.iter().zip(ends).zip(counts) {
        let length = end - *begin;
        jobs.extend((0..*count).map(|_| Job {
            at: *begin + whole_millis(length.mul_f64(random.fraction())),
            takes: service.draw(&random),
        }));
    }
    // A last interval of nothing says only where the one before it ends.
    let lasts = if counts.last().is_some_and(|(count, _)| *count == 0) {
        begins.last().copied()
    } else {
        Some(end)
    };
    Workload::of(jobs, lasts.unwrap_or_default())
}
