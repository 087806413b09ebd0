//! What the tests stand on: a private RabbitMQ and PostgreSQL, a real Prometheus, the real program as a process, the process table.
//!
//! The tests themselves are `scenarios/` (the simulated world), `live/` (real broker, monitor, processes) and `tests/` (the shape of
//! the workspace). `tests/run` installs what they need and runs them all; a live test whose program is missing fails and says which.
//!
//! **Everything ends.** Each thing started here is ended by its process id when its handle is dropped, also when a test panics. When
//! the test program itself is killed, the kernel ends them (see [`keeper`]). Every wait has a limit.
//!
//! **Nothing is shared with the machine.** Ports are found free, directories are temporary, nodes have names of their own; a RabbitMQ
//! or Prometheus that runs there anyway is neither used nor disturbed.

pub mod chaos;
pub mod cluster;
pub mod ec2_runs;
pub mod fake_ec2;
pub mod fleet;
pub mod fuzz;
pub mod installation;
pub mod keeper;
pub mod moto;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod processes;
pub mod prometheus;
pub mod rabbit;
pub mod systemd;
pub mod wait;
pub mod web;

use std::fmt;

/// Why a part of the harness could not do what a test asked for, in a sentence.
#[derive(Clone, PartialEq, Eq)]
pub struct Trouble(pub String);

impl Trouble {
    /// `doing: why`.
    pub fn new(doing: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self(format!("{doing}: {why}"))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// The same as for people, so that `unwrap` in a test shows the sentence with its line breaks.
impl fmt::Debug for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Trouble {}

/// What the harness gives back.
pub type Result<T> = std::result::Result<T, Trouble>;

/// The end of a text file, for messages about a program that did not do what it should; says so when there is none.
#[must_use]
pub fn tail_of(path: &std::path::Path, lines: usize) -> String {
    let Ok(text) = std::fs::read(path) else {
        return format!("(no {})", path.display());
    };
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
