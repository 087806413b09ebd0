//! What arrives for a pool: jobs in order, each with the time at which it comes and the time it takes.
//!
//! It is read from a file ([`Format`]) or made up ([`shape`]). Readers find every fault at once, each with its line and column, as the config
//! file's reader does, and what they leave out they say in [`Workload::notes`].

pub mod rate;
pub mod service;
pub mod shape;

mod csv;
mod swf;
mod yaml;

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use epu_core::PoolName;
use epu_core::input::{Flaw, Flaws, Tree, check, nearest, pointer, schema_of};
use epu_core::time::Timestamp;
use epu_core::{Span, random};
use serde_json::{Map, Value};

use rate::Rate;
use service::Service;
use shape::{KINDS, Shape};

/// Most jobs of one workload. Too low: a long trace is refused. Too high: times of every job are kept, some hundred bytes each.
pub const JOBS_MAX: usize = 2_000_000;
/// The longest time that a workload may last.
pub const LASTS_MAX: Duration = Duration::from_secs(366 * 86_400);
/// The longest text that is read. Two million lines of a trace need a quarter of it.
pub const TEXT_MAX: usize = 256 * 1024 * 1024;
/// Reading ends after so many faults: the rest is likely the same one.
const FLAWS_MAX: usize = 100;

/// One job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Job {
    /// When it arrives, since the workload began; whole milliseconds.
    pub at: Duration,
    /// How long a worker needs for it; whole milliseconds, at least one.
    pub takes: Duration,
}

/// What arrives for a pool.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Workload {
    jobs: Vec<Job>,
    lasts: Duration,
    /// What was left out or taken otherwise than written, for people.
    pub notes: Vec<String>,
}

impl Workload {
    /// Jobs in any order, which go on arriving for so long, or until the last of them.
    #[must_use]
    pub fn of(mut jobs: Vec<Job>, lasts: Duration) -> Self {
        jobs.sort_by_key(|job| job.at);
        let last = jobs.last().map_or(Duration::ZERO, |job| job.at + Duration::from_millis(1));
        Self {
            lasts: lasts.max(last),
            jobs,
            notes: Vec::new(),
        }
    }

    /// The jobs, in order of arrival.
    #[must_use]
    pub fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    /// How long it lasts.
    #[must_use]
    pub fn lasts(&self) -> Duration {
        self.lasts
    }

    /// How long one worker would need for all of it.
    #[must_use]
    pub fn work(&self) -> Duration {
        self.jobs.iter().map(|job| job.takes).sum()
    }

    /// This, and the other at the same time.
    fn and(mut self, other: Self) -> Self {
        self.jobs.extend(other.jobs);
        self.notes.extend(other.notes);
        let notes = std::mem::take(&mut self.notes);
        Self {
            notes,
            ..Self::of(self.jobs, self.lasts.max(other.lasts))
        }
    }

    /// This, and the other after it.
    fn then(self, mut other: Self) -> Self {
        for job in &mut other.jobs {
            job.at += self.lasts;
        }
        other.lasts += self.lasts;
        self.and(other)
    }
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// CSV: `arrival,service`, a job a line.
    Jobs,
    /// CSV: `time,count`, an interval a line.
    Counts,
    /// YAML or JSON: jobs, or generators.
    Yaml,
    /// The Standard Workload Format of the Parallel Workloads Archive.
    Swf,
}

/// How workloads are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// How the file is written; none: found out.
    pub format: Option<Format>,
    /// How long jobs take that do not say it.
    pub service: Option<Service>,
    /// What chance goes by.
    pub seed: u64,
    /// How many processors of a job of the Standard Workload Format one worker stands for.
    pub processors_per_worker: u32,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            format: None,
            service: None,
            seed: 1,
            processors_per_worker: 1,
        }
    }
}

/// What a file has: work for whichever pool it is given to, and work for pools that it names.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Written {
    /// For the pool that it is given to.
    pub all: Option<Workload>,
    /// For these.
    pub pools: BTreeMap<PoolName, Workload>,
}

impl Written {
    fn all(workload: Workload) -> Self {
        Self {
            all: Some(workload),
            pools: BTreeMap::new(),
        }
    }
}

/// Reads what a file says.
///
/// # Errors
/// Every fault, up to a hundred.
pub fn read(file: &str, text: &str, how: &Reading) -> Result<Written, Flaws> {
    if text.len() > TEXT_MAX {
        return Err(Faults::new(file).whole(format!("it is longer than {} MiB, the most that is read", TEXT_MAX >> 20)));
    }
    match how.format.unwrap_or_else(|| found_out(file, text)) {
        Format::Jobs => csv::jobs(file, text, how).map(Written::all),
        Format::Counts => csv::counts(file, text, how).map(Written::all),
        Format::Swf => swf::read(file, text, how).map(Written::all),
        Format::Yaml => yaml::read(file, text, how),
    }
}

/// By the name's end, and by what stands in it where that does not tell.
fn found_out(file: &str, text: &str) -> Format {
    let end = Path::new(file).extension().and_then(|end| end.to_str()).unwrap_or("");
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match end.to_ascii_lowercase().as_str() {
        "yaml" | "yml" | "json" => return Format::Yaml,
        "swf" => return Format::Swf,
        "csv" | "tsv" => {}
        _ => {
            let first = lines.clone().next().unwrap_or("");
            let numbers = first.split_whitespace().filter(|word| word.parse::<f64>().is_ok()).count();
            if first.starts_with(';') || numbers >= swf::COLUMNS {
                return Format::Swf;
            }
            let is_key = |line: &str| {
                ["jobs:", "generator:", "pools:", "then:", "and:"]
                    .iter()
                    .any(|key| line.starts_with(key))
            };
            if first.starts_with('{') || first.starts_with("---") || lines.clone().any(is_key) {
                return Format::Yaml;
            }
        }
    }
    let heading = lines.find(|line| !line.starts_with('#')).unwrap_or("");
    if csv::has_counts(heading) { Format::Counts } else { Format::Jobs }
}

/// Whether this is a generator in one line, such as `poisson:rate=60/m,service=30s,for=1h`.
#[must_use]
pub fn is_inline(text: &str) -> bool {
    text.split_once(':').is_some_and(|(kind, _)| KINDS.contains(&kind.trim()))
}

/// What to say when something is neither a file nor a generator: the nearest generator's name.
#[must_use]
pub fn nearest_kind(text: &str) -> Option<&'static str> {
    let (kind, _) = text.split_once(':')?;
    nearest(kind.trim(), KINDS)
}

/// Reads a generator that is written in one line.
///
/// # Errors
/// Every fault.
pub fn read_inline(text: &str, how: &Reading) -> Result<Workload, Flaws> {
    let faults = Faults::new(text);
    let (kind, rest) = text.split_once(':').ok_or_else(|| faults.whole("it has no colon".to_owned()))?;
    let mut settings = Map::new();
    let mut flaws = Vec::new();
    for part in parts(rest) {
        match part.split_once('=') {
            Some((key, value)) => {
                let (key, value) = (key.trim().to_owned(), value.trim());
                let number = matches!(key.as_str(), "seed" | "shape")
                    .then(|| value.parse::<serde_json::Number>().ok())
                    .flatten();
                let value = number.map_or_else(|| Value::String(value.to_owned()), Value::Number);
                if settings.insert(key.clone(), value).is_some() {
                    flaws.push(faults.at(0, 0, format!("{key} is given twice")));
                }
            }
            None => flaws.push(faults.at(0, 0, format!("{part:?} is not KEY=VALUE")).help("such as rate=60/m")),
        }
    }
    let tree = Tree::of(
        text,
        Value::Object(Map::from_iter([(kind.trim().to_owned(), Value::Object(settings))])),
    );
    flaws.extend(check(&tree, &schema_of::<Shape>()));
    rates_and_times(&tree, "", tree.value(), &mut flaws);
    Flaws::none_in(flaws)?;
    let shape: Shape = tree.get("")?;
    let (jobs, lasts) = shape.jobs(how.service, how.seed).map_err(|why| faults.whole(why))?;
    Ok(Workload::of(jobs, lasts))
}

/// What the schema has as text only: rates and service times, which say better themselves what is wrong with them.
fn rates_and_times(tree: &Tree, at: &str, value: &Value, flaws: &mut Vec<Flaw>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let below = format!("{at}{}", pointer([key.as_str()]));
                let wrong = match (key.as_str(), value.as_str()) {
                    ("rate" | "low" | "high" | "from" | "to" | "on" | "off", Some(text)) => text.parse::<Rate>().err(),
                    ("service" | "takes", Some(text)) => text.parse::<Service>().err(),
                    _ => {
                        rates_and_times(tree, &below, value, flaws);
                        None
                    }
                };
                flaws.extend(wrong.map(|why| tree.flaw(&below, why)));
            }
        }
        Value::Array(list) => {
            for (n, value) in list.iter().enumerate() {
                rates_and_times(tree, &format!("{at}/{n}"), value, flaws);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The parts between commas that are in no bracket.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut deep) = (Vec::new(), 0, 0_usize);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => deep += 1,
            ')' => deep = deep.saturating_sub(1),
            ',' if deep == 0 => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// The faults of a text that is read line by line.
struct Faults {
    file: String,
    found: Vec<Flaw>,
}

impl Faults {
    fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            found: Vec::new(),
        }
    }

    fn at(&self, line: usize, column: usize, text: String) -> Flaw {
        Flaw {
            file: self.file.clone(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
            path: String::new(),
            text,
            help: None,
        }
    }

    fn whole(&self, text: String) -> Flaws {
        self.at(0, 0, text).into()
    }

    fn add(&mut self, flaw: Flaw) {
        if self.found.len() < FLAWS_MAX {
            self.found.push(flaw);
        }
    }

    fn are_many(&self) -> bool {
        self.found.len() >= FLAWS_MAX
    }
}

/// A moment as a trace writes it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    /// Since the trace began.
    Since(Duration),
    /// By the calendar.
    On(Timestamp),
}

/// Numbers from here on are seconds since 1970 and not since the trace began: more than thirty years.
const EPOCH_FROM: f64 = 1e9;
/// And from here on they are milliseconds, which is not guessed.
const EPOCH_TO: f64 = 1e11;

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no time: write seconds (90 or 1.5), a length of time (1m 30s), or 2026-01-31T08:00:00Z");
        if let Ok(seconds) = text.parse::<f64>() {
            return match seconds {
                _ if !seconds.is_finite() || seconds < 0.0 => Err(wrong()),
                _ if seconds >= EPOCH_TO => Err(format!("{text:?} is too far away; times are in seconds")),
                _ if seconds >= EPOCH_FROM => Ok(Self::On(Timestamp::START + Duration::from_secs_f64(seconds))),
                _ => Ok(Self::Since(Duration::from_secs_f64(seconds))),
            };
        }
        if let Ok(span) = text.parse::<Span>() {
            return Ok(Self::Since(*span));
        }
        let whole = text.replacen(' ', "T", 1);
        let zoned = |text: &str| Timestamp::from_rfc3339(text).or_else(|| Timestamp::from_rfc3339(&format!("{text}Z")));
        zoned(&whole).map(Self::On).ok_or_else(wrong)
    }
}

/// A length of time as a trace writes it, for a job.
fn takes(text: &str) -> Result<Duration, String> {
    let written = match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds > 0.0 && seconds <= LASTS_MAX.as_secs_f64() => Duration::from_secs_f64(seconds),
        Ok(_) => {
            return Err(format!(
                "{text:?} is no time that a job takes: it is to be above 0, and a year at the most"
            ));
        }
        Err(_) => *text
            .parse::<Span>()
            .map_err(|_| format!("{text:?} is no time that a job takes: write seconds (90 or 1.5) or a length of time (1m 30s)"))?,
    };
    if written.is_zero() {
        return Err(format!("{text:?} is no time that a job takes: it is nothing"));
    }
    Ok(whole_millis(written).max(Duration::from_millis(1)))
}

/// In whole milliseconds, since nothing in a simulated world happens between them.
fn whole_millis(length: Duration) -> Duration {
    Duration::from_millis(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
}

/// Chance for what a file leaves open.
fn chance(seed: u64) -> random::Random {
    random::Random::seeded(seed)
}

#[cfg(test)]
mod tests;
