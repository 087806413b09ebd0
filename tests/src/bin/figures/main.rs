//! Measures what the system is to reach, and says for each figure whether it does: `figures [NAME...] [--long] [--write FILE]`.
//!
//! `--write` writes the picture of how cost grows with size, when that is measured, to a file.
//!
//! Prints `name value unit goal met|short`, one line a figure; lines that begin with `#` say what else was seen. Everything is
//! measured in the run that prints it. Ends with 0 when every figure is met, 1 when one is short, 2 when one could not be measured.
//!
//! **Processor time, not the wall clock**, decides goals in absolute terms, best of five, so that a busy machine does not spoil
//! them; where waiting is the point (from a queue to a launch, the first command) it is the wall clock. A goal that is a ratio has
//! both its sides measured here, one after the other.

mod amqp;
mod chaos;
mod clock;
#[cfg(feature = "ec2")]
mod ec2;
mod failover;
mod first;
mod fuzz;
mod heartbeats;
mod idle;
mod launch;
mod restart;
mod samples;
mod scale;
mod serving;
mod simulation;
mod steady;
mod ticks;
mod views;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use epu_tests::Result;

/// What is to be reached.
#[derive(Debug, Clone, Copy)]
enum Goal {
    Below(f64),
    Above(f64),
}

impl fmt::Display for Goal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Below(limit) => write!(out, "<{limit}"),
            Self::Above(limit) => write!(out, ">{limit}"),
        }
    }
}

/// One figure.
#[derive(Debug)]
struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    goal: Goal,
}

impl Figure {
    fn is_met(&self) -> bool {
        match self.goal {
            Goal::Below(limit) => self.value < limit,
            Goal::Above(limit) => self.value > limit,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.value.abs() < 100.0 { 3 } else { 0 };
        let Self { name, value, unit, goal } = self;
        write!(
            out,
            "{name} {value:.digits$} {unit} {goal} {}",
            if self.is_met() { "met" } else { "short" }
        )
    }
}

/// What one measurement brought.
#[derive(Debug, Default)]
struct Report {
    figures: Vec<Figure>,
    notes: Vec<String>,
}

impl Report {
    fn figure(&mut self, name: &'static str, value: f64, unit: &'static str, goal: Goal) {
        self.figures.push(Figure { name, value, unit, goal });
    }
    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }
}

/// A measurement, and the figures that come out of it.
struct Measurement {
    names: &'static [&'static str],
    long: bool,
    run: fn() -> Result<Report>,
}

const ALL: &[Measurement] = &[
    Measurement {
        names: &["observe-100k-changed-100", "replace-1000-of-100k"],
        long: false,
        run: views::measure,
    },
    Measurement {
        names: &["tick-1000-pools-50"],
        long: false,
        run: ticks::measure,
    },
    Measurement {
        names: &["heartbeats-local-bus", "heartbeats-stored"],
        long: false,
        run: heartbeats::measure,
    },
    Measurement {
        names: &["restart-100k", "restart-100k-to-sqlx"],
        long: false,
        run: restart::measure,
    },
    Measurement {
        names: &["queue-to-launch"],
        long: false,
        run: launch::measure,
    },
    Measurement {
        names: &["serve-100-idle-cpu", "serve-100-idle-rss"],
        long: false,
        run: idle::measure,
    },
    Measurement {
        names: &["steady-50k-cores", "steady-50k-rss", "steady-50k-writes"],
        long: false,
        run: steady::measure,
    },
    Measurement {
        names: &["failover-p99"],
        long: true,
        run: failover::measure,
    },
    Measurement {
        names: &["amqp-calls", "amqp-calls-to-bare", "amqp-heartbeats-to-bare"],
        long: false,
        run: amqp::measure,
    },
    Measurement {
        names: &["simulated-hours-per-minute", "simulated-storm-hour"],
        long: false,
        run: simulation::measure,
    },
    Measurement {
        names: &["storms-10000-broken"],
        long: true,
        run: simulation::measure_storms,
    },
    Measurement {
        names: &[
            "scale-50k-second",
            "scale-500k-second",
            "scale-500k-to-50k-second",
            "scale-500k-to-50k-change",
            "scale-500k-rss",
            "scale-500k-restart",
        ],
        long: true,
        run: scale::measure,
    },
    Measurement {
        names: &[
            "scale-real-50k-second",
            "scale-real-500k-second",
            "scale-real-500k-to-50k-change",
            "scale-real-500k-rss",
            "scale-real-500k-restart",
        ],
        long: true,
        run: scale::measure_real,
    },
    #[cfg(feature = "ec2")]
    Measurement {
        names: &["ec2-launch-1000-calls", "ec2-pages-1000-in-1-pool", "ec2-pages-2400-in-6-pools"],
        long: false,
        run: ec2::measure_calls,
    },
    #[cfg(feature = "ec2")]
    Measurement {
        names: &["ec2-watch-10k-cores", "ec2-watch-10k-writes"],
        long: false,
        run: ec2::measure_watch,
    },
    #[cfg(feature = "ec2")]
    Measurement {
        names: &["ec2-200-faulty-runs-broken"],
        long: true,
        run: ec2::measure_losing,
    },
    Measurement {
        names: &["fuzz-million-cases"],
        long: true,
        run: fuzz::measure,
    },
    Measurement {
        names: &["chaos-runs-broken"],
        long: true,
        run: chaos::measure,
    },
    Measurement {
        names: &["first-command"],
        long: true,
        run: first::measure,
    },
];

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn say(text: impl fmt::Display) {
    println!("{text}");
}

/// Where the picture goes, if anywhere.
static WRITE: OnceLock<PathBuf> = OnceLock::new();

fn written_to() -> Option<PathBuf> {
    WRITE.get().cloned()
}

/// What this program asks of itself: one size of [`scale`], in a process of its own.
fn size(pools: &str, how: &[String]) -> ExitCode {
    let pools = pools.parse().map_err(|e| epu_tests::Trouble::new("read the size", e));
    match pools.and_then(|pools| scale::measure_one(pools, how)) {
        Ok(size) => {
            say(size);
            ExitCode::SUCCESS
        }
        Err(trouble) => {
            say(trouble);
            ExitCode::from(2)
        }
    }
}

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, pools, how @ ..] = arguments.as_slice()
        && flag == "--size"
    {
        return size(pools, how);
    }
    if let Some(at) = arguments.iter().position(|a| a == "--write")
        && at + 1 < arguments.len()
    {
        // It is set only here.
        drop(WRITE.set(arguments.remove(at + 1).into()));
        arguments.remove(at);
    }
    let long = arguments.iter().any(|a| a == "--long");
    let wanted: Vec<&String> = arguments.iter().filter(|a| *a != "--long").collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|w| !ALL.iter().flat_map(|m| m.names).any(|n| n.starts_with(w.as_str())))
    {
        say(format_args!("usage: tests/figures [NAME...] [--long]\n{unknown:?} is none of:"));
        ALL.iter().flat_map(|m| m.names).for_each(|name| say(format_args!("  {name}")));
        return ExitCode::from(2);
    }
    let named = |m: &Measurement| wanted.iter().any(|w| m.names.iter().any(|n| n.starts_with(w.as_str())));
    let (mut short, mut failed) = (false, false);
    for measurement in ALL.iter().filter(|m| if wanted.is_empty() { long || !m.long } else { named(m) }) {
        match (measurement.run)() {
            Ok(report) => {
                for figure in &report.figures {
                    short |= !figure.is_met();
                    say(figure);
                }
                report.notes.iter().for_each(|note| say(format_args!("#   {note}")));
            }
            Err(trouble) => {
                failed = true;
                say(format_args!("# {} could not be measured: {trouble}", measurement.names.join(", ")));
            }
        }
    }
    ExitCode::from(if failed { 2 } else { u8::from(short) })
}
