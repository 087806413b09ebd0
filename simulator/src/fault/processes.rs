//! What goes wrong with a process of a service, and with its clock.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Begun, Harm, Luck, Scene};
use crate::process::Process;
use crate::world::World;

/// What goes wrong with a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It is killed, and started again at the end of the fault.
    Crash(Process),
    /// It stands still, and goes on at the end of the fault.
    Pause(Process),
}

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &["crash", "pause"];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        let process = *luck.of(&scene.processes)?;
        match kind {
            "crash" => Some(Self::Crash(process)),
            "pause" => Some(Self::Pause(process)),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Crash(_) => "crash",
            Self::Pause(_) => "pause",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        match *self {
            Self::Crash(process) => {
                world.crash(process);
                Begun::until(move |world| {
                    world.start(process);
                })
            }
            Self::Pause(process) => {
                world.suspend(process, true);
                Begun::until(move |world| {
                    world.suspend(process, false);
                })
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(process) => write!(out, "{process} is killed"),
            Self::Pause(process) => write!(out, "{process} stands still"),
        }
    }
}
