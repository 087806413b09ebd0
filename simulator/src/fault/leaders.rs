//! What goes wrong with who leads.

use std::fmt;

use epu_core::request::Service;
use serde::{Deserialize, Serialize};

use super::{Begun, Harm, Luck, Scene};
use crate::process::Process;
use crate::world::World;

/// What goes wrong with who leads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Somebody else takes everything from a controller that does not know of it, and gives it back at the end.
    Usurped(Process),
}

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &["usurped"];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        let is_controller = |process: &&Process| process.service == Service::Controller;
        let controllers: Vec<Process> = scene.processes.iter().filter(is_controller).copied().collect();
        match kind {
            "usurped" => luck.of(&controllers).copied().map(Self::Usurped),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Usurped(_) => "usurped",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        match *self {
            Self::Usurped(process) => {
                if !world.runs(process) {
                    return Begun::nothing();
                }
                world.usurp(process, true);
                Begun::until(move |world| {
                    world.usurp(process, false);
                })
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usurped(process) => write!(out, "somebody takes everything from {process}"),
        }
    }
}
