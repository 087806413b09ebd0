//! What goes wrong with a process of a service, and with its clock.
//!
//! A process reads the wall clock once, when it begins, and from then on a clock that nobody sets (`epu_core::time::SystemClock`). So a
//! wall clock that is wrong is only noticed by what begins while it is, and a running process's clock falls behind only when the whole
//! machine is halted with it.

use std::fmt;

use epu_core::request::Service;
use serde::{Deserialize, Serialize};

use super::{Begun, Harm, Luck, Scene};
use crate::pausable::{Doom, Edge, Side};
use crate::process::Process;
use crate::world::World;

/// What goes wrong with a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It is killed, and started again at the end of the fault.
    Crash(Process),
    /// It dies at a certain moment, if that comes, and is started again at the end of the fault.
    CrashAt {
        /// Which.
        process: Process,
        /// When.
        doom: Doom,
    },
    /// It is killed and started at once.
    Restart(Process),
    /// It is told to end, and started again at the end of the fault.
    StopAndStart(Process),
    /// It stands still, and goes on at the end of the fault. Its clock goes on.
    Pause(Process),
    /// Its machine is halted from outside: it and its clock stand still, and the clock is behind from then on.
    Halt(Process),
    /// The wall clock of its machine is wrong when it is started again, and right when it is at the end of the fault.
    ClockWrong {
        /// Whose.
        process: Process,
        /// By how much, in milliseconds; behind is negative.
        by_ms: i32,
    },
}

/// Polls of a process in some minutes; beyond that nothing more happens than before.
const POLLS: u32 = 3_000;
/// How often a process meets the world in some minutes of change.
const MEETINGS: u32 = 25;
/// How wrong a wall clock is at the most.
const WRONG_MS: i32 = 600_000;

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &[
        "crash",
        "crash-at-poll",
        "crash-at",
        "restart",
        "stop-and-start",
        "pause",
        "halt",
        "clock-wrong",
    ];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        let process = *luck.of(&scene.processes)?;
        match kind {
            "crash" => Some(Self::Crash(process)),
            "crash-at-poll" => {
                // Half of them within the first tenth.
                let most = 1 + luck.small(if luck.once_in(2) { POLLS } else { POLLS / 10 });
                let doom = Doom::Polls(most);
                Some(Self::CrashAt { process, doom })
            }
            "crash-at" => {
                let edges: &[Edge] = match process.service {
                    Service::Provisioner => &[Edge::Commit, Edge::Call, Edge::Tell],
                    Service::Controller => &[Edge::Commit, Edge::Tell],
                    Service::Aggregator => &[Edge::Tell],
                };
                let doom = Doom::At {
                    edge: *luck.of(edges)?,
                    side: *luck.of(&[Side::Before, Side::After])?,
                    nth: 1 + luck.small(MEETINGS),
                };
                Some(Self::CrashAt { process, doom })
            }
            "restart" => Some(Self::Restart(process)),
            "stop-and-start" => Some(Self::StopAndStart(process)),
            "pause" => Some(Self::Pause(process)),
            "halt" => Some(Self::Halt(process)),
            "clock-wrong" => {
                let by = i32::try_from(1 + luck.small(WRONG_MS.unsigned_abs())).unwrap_or(WRONG_MS);
                let by_ms = if luck.once_in(2) { -by } else { by };
                Some(Self::ClockWrong { process, by_ms })
            }
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Crash(_) => "crash",
            Self::CrashAt { doom: Doom::Polls(_), .. } => "crash-at-poll",
            Self::CrashAt { doom: Doom::At { .. }, .. } => "crash-at",
            Self::Restart(_) => "restart",
            Self::StopAndStart(_) => "stop-and-start",
            Self::Pause(_) => "pause",
            Self::Halt(_) => "halt",
            Self::ClockWrong { .. } => "clock-wrong",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        match *self {
            Self::Crash(process) => {
                let name = world.name_now(process);
                world.crash(process);
                revived(process, name)
            }
            Self::CrashAt { process, doom } => match world.doom(process, doom) {
                None => Begun::nothing(),
                Some(name) => Begun::until(move |world| {
                    world.spare(process, &name);
                }),
            },
            Self::Restart(process) => {
                if world.name_now(process).is_none() {
                    return Begun::nothing();
                }
                world.restart(process);
                Begun::done()
            }
            Self::StopAndStart(process) => revived(process, world.tell_to_stop(process)),
            Self::Pause(process) => held(process, world.hold(process, false)),
            Self::Halt(process) => held(process, world.hold(process, true)),
            Self::ClockWrong { process, by_ms } => {
                let by_ms = i64::from(by_ms);
                world.set_clock(process, by_ms);
                Begun::until(move |world| {
                    world.set_clock(process, -by_ms);
                })
            }
        }
    }
}

fn revived(process: Process, name: Option<String>) -> Begun {
    match name {
        None => Begun::nothing(),
        Some(name) => Begun::until(move |world| {
            world.revive(process, &name);
        }),
    }
}

fn held(process: Process, name: Option<String>) -> Begun {
    match name {
        None => Begun::nothing(),
        Some(name) => Begun::until(move |world| world.let_go(process, &name)),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(process) => write!(out, "{process} is killed"),
            Self::CrashAt { process, doom } => write!(out, "{process} dies {doom}"),
            Self::Restart(process) => write!(out, "{process} is killed and started at once"),
            Self::StopAndStart(process) => write!(out, "{process} is told to end"),
            Self::Pause(process) => write!(out, "{process} stands still"),
            Self::Halt(process) => write!(out, "{process} stands still with its clock"),
            Self::ClockWrong { process, by_ms } => write!(out, "{process} starts again with a clock that is {by_ms} ms from the truth"),
        }
    }
}
