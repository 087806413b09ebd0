//! What happened in a world, in order, as text: what two runs of one seed must have in common to the byte, and what a failing run
//! shows.

use std::fmt;
use std::sync::{Arc, Mutex};

use epu_core::time::{Clock, Timestamp};

use crate::lock;
use crate::time::BEGIN;

/// Most lines that are kept; the run goes on without. Too low: a long run's beginning cannot be compared. Too high: memory.
const LINES_MAX: usize = 1_000_000;

/// What happened.
#[derive(Debug)]
pub struct Transcript {
    clock: Arc<dyn Clock>,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    lines: Vec<String>,
    /// When each line was said.
    times: Vec<Timestamp>,
    /// Of everything that passed, also of what makes no line.
    print: u64,
}

impl Transcript {
    /// An empty one.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            said: Mutex::default(),
        }
    }

    /// Something worth a line happened.
    pub fn note(&self, what: impl fmt::Display) {
        let now = self.clock.now();
        let line = format!("{} {what}", since_begin(now));
        let mut said = lock(&self.said);
        said.print = mixed(said.print, line.as_bytes());
        if said.lines.len() < LINES_MAX {
            said.lines.push(line);
            said.times.push(now);
        }
    }

    /// Something of which there is too much for a line each happened.
    pub fn mark(&self, what: &str) {
        let now = self.clock.now().0.to_le_bytes();
        let mut said = lock(&self.said);
        said.print = mixed(mixed(said.print, &now), what.as_bytes());
    }

    /// The whole text. Its last line is a number made from everything that passed, so that two texts that are equal mean two runs
    /// that were.
    #[must_use]
    pub fn text(&self) -> String {
        let said = lock(&self.said);
        format!("{}\n{:016x}\n", said.lines.join("\n"), said.print)
    }

    /// How many lines were said since then.
    #[must_use]
    pub fn lines_since(&self, then: Timestamp) -> usize {
        let said = lock(&self.said);
        said.times.len() - said.times.partition_point(|at| *at < then)
    }

    /// The number made from everything that passed.
    #[must_use]
    pub fn print(&self) -> u64 {
        lock(&self.said).print
    }

    /// The last lines.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let said = lock(&self.said);
        said.lines[said.lines.len().saturating_sub(lines)..].join("\n")
    }
}

/// `1:02:03.004` since the world began.
#[must_use]
pub fn since_begin(now: Timestamp) -> String {
    let ms = now.since(BEGIN).as_millis();
    let (h, m, s, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000);
    format!("{h}:{m:02}:{s:02}.{ms:03}")
}

/// FNV-1a: not secret, the same on every machine.
fn mixed(before: u64, bytes: &[u8]) -> u64 {
    let begin = if before == 0 { 0xcbf2_9ce4_8422_2325 } else { before };
    bytes
        .iter()
        .fold(begin, |print, byte| (print ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
