//! Tells what happened in a storm that found something, for a person to read.
#![expect(clippy::let_underscore_must_use, reason = "writing to a text does not fail")]

use std::collections::VecDeque;
use std::fmt::Write as _;

use super::plan::Plan;
use super::play::Found;
use crate::time::BEGIN;
use crate::transcript::since_begin;

/// Lines of the transcript that are told; what is left out in between is said.
const LINES_MOST: usize = 120;
/// The last of them, which are told whatever they say.
const LAST: usize = 30;
/// A line is not told again while it is among so many that were told last.
const REPEATS_WITHIN: usize = 30;
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
    let lines = fresh(&lines[..lines.len().saturating_sub(1)]);
    let skipped = lines.len().saturating_sub(LINES_MOST);
    // Of what lies further back, what happened to the world matters most.
    let (back, last) = lines.split_at(lines.len().saturating_sub(LAST.max(LINES_MOST)));
    let told: Vec<&&str> = back.iter().filter(|line| line.contains("!! ")).collect();
    for line in &told[told.len().saturating_sub(LAST)..] {
        let _ = writeln!(text, "    {}", short(line));
    }
    if skipped > 0 {
        let _ = writeln!(
            text,
            "    ... {skipped} lines further back, and those that say again what was just said, are in the transcript"
        );
    }
    for line in last {
        let _ = writeln!(text, "    {}", short(line));
    }
    text
}

/// The lines that do not say, but for the time, what one of the last few said.
fn fresh<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let mut said: VecDeque<&str> = VecDeque::with_capacity(REPEATS_WITHIN);
    let mut is_fresh = |line: &&&'a str| {
        let what = line.split_once(' ').map_or(**line, |(_, what)| what);
        if said.contains(&what) {
            return false;
        }
        if said.len() == REPEATS_WITHIN {
            said.pop_front();
        }
        said.push_back(what);
        true
    };
    lines.iter().filter(|line| is_fresh(line)).copied().collect()
}

fn short(line: &str) -> String {
    let mut text: String = line.chars().take(LINE_MOST).collect();
    if text.len() < line.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_again_and_again_is_told_once() {
        let lines = [
            "0:01 an operator asks open",
            "0:02 m-1 is gone",
            "0:03 an operator asks open",
            "0:04 m-2 is gone",
        ];
        assert_eq!(fresh(&lines), [lines[0], lines[1], lines[3]]);
    }
}
