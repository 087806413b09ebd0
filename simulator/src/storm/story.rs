//! Tells what happened in a storm that found something, for a person to read.
#![expect(clippy::let_underscore_must_use, reason = "writing to a text does not fail")]

use std::fmt::Write as _;

use super::plan::Plan;
use super::play::Found;
use crate::time::BEGIN;
use crate::transcript::since_begin;

/// Lines of the transcript that are told; what is left out in between is said.
const LINES_MOST: usize = 120;
/// The last of them, which are told whatever they say.
const LAST: usize = 30;
/// A line is told up to here.
const LINE_MOST: usize = 220;

/// The story: what was there, what happened to it, and what came of it.
#[must_use]
pub fn story(plan: &Plan, found: &Found) -> String {
    let mut text = format!(
        "{}\n  found {} after the beginning, seed {}\n",
        found.trouble,
        since_begin(BEGIN + *found.at),
        plan.seed
    );
    let _ = writeln!(
        text,
        "  {} controllers, {} provisioners, {} aggregators; sites {}",
        plan.controllers,
        plan.provisioners,
        plan.aggregators,
        plan.sites.join(", ")
    );
    for (name, pool) in &plan.pools {
        let _ = writeln!(text, "  pool {name}: {pool}");
    }
    text.push_str("  what happens to them:\n");
    for event in &plan.events {
        let _ = writeln!(
            text,
            "    {:>12}  {} (for {})",
            since_begin(BEGIN + *event.at),
            event.fault,
            event.lasts
        );
    }
    text.push_str("  what came of it:\n");
    let lines: Vec<&str> = found.transcript.lines().collect();
    // The last line is the transcript's own number.
    let lines = &lines[..lines.len().saturating_sub(1)];
    let skipped = lines.len().saturating_sub(LINES_MOST);
    // Of what lies further back, what happened to the world matters most.
    let (back, last) = lines.split_at(lines.len().saturating_sub(LAST.max(LINES_MOST)));
    let told: Vec<&&str> = back.iter().filter(|line| line.contains("!! ")).collect();
    for line in &told[told.len().saturating_sub(LAST)..] {
        let _ = writeln!(text, "    {}", short(line));
    }
    if skipped > 0 {
        let _ = writeln!(text, "    ... {skipped} lines further back are in the transcript");
    }
    for line in last {
        let _ = writeln!(text, "    {}", short(line));
    }
    text
}

fn short(line: &str) -> String {
    let mut text: String = line.chars().take(LINE_MOST).collect();
    if text.len() < line.len() {
        text.push('…');
    }
    text
}
