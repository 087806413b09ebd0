//! Golden traces: each file of `traces/` is a series of observations, and the snapshot beside it the table of what was decided.
//!
//! A field of a step holds for the following steps too, until another value is given. Only `target` and `capacity` follow the
//! decision by themselves, as do the slots that are filled: as if everything asked for were there by the next step.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use epu_core::Span;
use epu_core::id::{SensorName, SlotLabel};
use epu_core::reading::Status;
use epu_core::time::millis;
use epu_decision_engines::{Decision, Observation, Registry, reasons};
use serde::Deserialize;
use serde_json::Value;

use crate::world::{id, nothing, reading};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trace {
    /// What it shows.
    about: String,
    engine: String,
    settings: Value,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Step {
    /// What this step is about.
    note: Option<String>,
    /// The reading of the sensor `jobs`.
    jobs: Option<Says>,
    covers_in_progress: Option<bool>,
    min: Option<u32>,
    max: Option<u32>,
    target: Option<u32>,
    capacity: Option<u32>,
    pending: Option<u32>,
    busy: Option<u32>,
    unknown: Option<u32>,
    unhealthy: Option<u32>,
    draining: Option<u32>,
    slots: Option<BTreeSet<SlotLabel>>,
    /// Other settings from here on.
    settings: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", untagged)]
enum Says {
    Fresh(f64),
    Nothing(Word),
    Stale { stale: f64, age: Span },
    Invalid { invalid: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    /// There never was a value, or it is too old.
    Missing,
    /// The pool has no such sensor.
    Absent,
}

impl Says {
    fn status(self) -> Option<Status> {
        match self {
            Self::Fresh(value) => Some(Status::Fresh { value }),
            Self::Stale { stale, age } => Some(Status::Stale {
                value: stale,
                age_ms: millis(*age),
            }),
            Self::Invalid { invalid } => Some(Status::Invalid { why: invalid }),
            Self::Nothing(Word::Missing) => Some(Status::Missing),
            Self::Nothing(Word::Absent) => None,
        }
    }
}

fn jobs() -> SensorName {
    SensorName::new("jobs").expect("a name")
}

fn set<T>(place: &mut T, given: Option<T>) {
    if let Some(value) = given {
        *place = value;
    }
}

/// What is seen at this step, from what was seen before.
fn look(seen: &mut Observation, step: Step) {
    set(&mut seen.min, step.min);
    set(&mut seen.max, step.max);
    set(&mut seen.target, step.target);
    set(&mut seen.counts.capacity, step.capacity);
    set(&mut seen.counts.pending, step.pending);
    set(&mut seen.counts.busy, step.busy);
    set(&mut seen.counts.unknown, step.unknown);
    set(&mut seen.counts.unhealthy, step.unhealthy);
    set(&mut seen.counts.draining, step.draining);
    if let Some(slots) = step.slots {
        fill(seen, slots);
    }
    if let Some(says) = step.jobs {
        let covers = seen.readings.get(&jobs()).is_some_and(|seen| seen.covers_in_progress);
        let found = says.status().map(|status| (jobs(), reading(status, covers)));
        seen.readings = found.into_iter().collect();
    }
    if let (Some(covers), Some(jobs)) = (step.covers_in_progress, seen.readings.get_mut(&jobs())) {
        jobs.covers_in_progress = covers;
    }
}

fn fill(seen: &mut Observation, slots: impl IntoIterator<Item = SlotLabel>) {
    seen.slots = (1..).map(id).zip(slots).map(|(id, slot)| (slot, id)).collect();
}

/// What differs from a quiet pool, in words.
fn counted(seen: &Observation) -> String {
    let counts = &seen.counts;
    let mut words = vec![format!("{} of {}", counts.capacity, seen.target)];
    let named = [
        ("pending", counts.pending),
        ("busy", counts.busy),
        ("unknown", counts.unknown),
        ("unhealthy", counts.unhealthy),
        ("draining", counts.draining),
    ];
    words.extend(named.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{n} {name}")));
    if !seen.slots.is_empty() {
        let slots: Vec<_> = seen.slots.keys().map(SlotLabel::as_str).collect();
        words.push(format!("[{}]", slots.join(" ")));
    }
    words.join(", ")
}

fn said(seen: &Observation) -> String {
    seen.readings.get(&jobs()).map_or_else(
        || "-".to_owned(),
        |jobs| {
            let covers = if jobs.covers_in_progress { ", all work" } else { "" };
            format!("{}{covers}", jobs.status)
        },
    )
}

fn reasons_of(decision: &Decision) -> Vec<String> {
    let one = |reason: &epu_core::Reason| {
        let numbers: Vec<_> = reason.numbers.iter().map(|(name, number)| format!("{name} {number}")).collect();
        format!("{}: {} ({})", reason.code, reason.text, numbers.join(", "))
    };
    decision.reasons.iter().map(one).collect()
}

fn slots_of(decision: &Decision) -> String {
    let one = |(slot, variables): (&SlotLabel, &BTreeMap<String, String>)| {
        let variables: Vec<_> = variables.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        format!("{slot}{}", variables.concat())
    };
    let slots: Vec<_> = decision.slots.iter().map(one).collect();
    if slots.is_empty() {
        String::new()
    } else {
        format!(" [{}]", slots.join("; "))
    }
}

/// The table, and the codes that stand in it.
fn run(trace: Trace, codes: &mut BTreeSet<String>) -> String {
    let all = Registry::standard();
    let mut engine = all.make(&trace.engine, &trace.settings).expect("good settings");
    let mut seen = nothing(0, 10);
    let mut rows = vec![["step", "jobs", "bounds", "there", "desired", "reasons"].map(str::to_owned)];
    let mut between = BTreeMap::new();
    for (number, mut step) in trace.steps.into_iter().enumerate() {
        if let Some(settings) = step.settings.take() {
            between.insert(rows.len(), format!("settings: {settings}"));
            engine = all.make(&trace.engine, &settings).expect("good settings");
        }
        if let Some(note) = step.note.take() {
            let before: &mut String = between.entry(rows.len()).or_default();
            let gap = if before.is_empty() { "" } else { "\n" };
            write!(before, "{gap}# {note}").expect("text");
        }
        look(&mut seen, step);
        let decision = engine.decide(&seen);
        codes.extend(decision.reasons.iter().map(|reason| reason.code.to_string()));
        let mut why = reasons_of(&decision).into_iter();
        rows.push([
            (number + 1).to_string(),
            said(&seen),
            format!("{}..{}", seen.min, seen.max),
            counted(&seen),
            format!("{}{}", decision.desired, slots_of(&decision)),
            why.next().unwrap_or_default(),
        ]);
        rows.extend(why.map(|more| ["", "", "", "", "", &more].map(str::to_owned)));
        seen.target = decision.desired;
        seen.counts.capacity = decision.desired;
        fill(&mut seen, decision.slots.into_keys());
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..6).map(width).collect();
    let mut table = format!("{}\n\n{} {}\n", trace.about.trim_end(), trace.engine, trace.settings);
    for (at, row) in rows.iter().enumerate() {
        if let Some(line) = between.get(&at) {
            writeln!(table, "\n{line}").expect("text");
        }
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(table, "{}", cells.join("  ").trim_end()).expect("text");
    }
    table
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("traces")
        .map(|entry| entry.expect("entry").path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|kind| kind == "yaml"));
    files.sort();
    files
}

#[test]
fn every_trace_is_decided_as_its_snapshot_shows_and_every_reason_is_shown_by_one() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../traces");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let mut codes = BTreeSet::new();
    for path in files() {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        let text = std::fs::read_to_string(&path).expect("a trace");
        let trace: Trace = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let table = run(trace, &mut codes);
        settings.bind(|| insta::assert_snapshot!(name, table));
    }
    let listed: BTreeSet<_> = reasons::CODES.iter().map(|(code, _)| (*code).to_owned()).collect();
    assert_eq!(codes, listed, "each reason is shown by a trace, and listed");
}

#[test]
fn every_snapshot_beside_the_traces_belongs_to_one() {
    let names: BTreeSet<_> = files().iter().map(|path| path.with_extension("snap")).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces");
    for entry in std::fs::read_dir(folder).expect("traces") {
        let path = entry.expect("entry").path();
        let is_snapshot = path.extension().is_some_and(|kind| kind == "snap");
        assert!(!is_snapshot || names.contains(&path), "{} has no trace", path.display());
    }
}
