//! What goes wrong with who leads.

use std::fmt;

use epu_core::request::Service;
use epu_core::time::Span;
use serde::{Deserialize, Serialize};

use super::{Begun, Harm, Luck, Scene};
use crate::process::Process;
use crate::time::seconds;
use crate::world::World;

/// What goes wrong with who leads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Somebody else takes everything from a controller that does not know of it, and gives it back at the end.
    Usurped(Process),
    /// Every so often somebody takes everything that a service leads, and gives it back half as long after.
    Flap {
        /// What is led.
        service: Service,
        /// How often.
        every: Span,
    },
    /// A leader stands still with its clock, and somebody takes over at once. At the end it goes on and believes to lead.
    TwoLeaders(Process),
}

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &["usurped", "leaders-flap", "two-leaders"];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        let all = scene.processes.iter().copied();
        let leaders: Vec<Process> = all.filter(|process| process.service != Service::Aggregator).collect();
        let is_controller = |process: &&Process| process.service == Service::Controller;
        let controllers: Vec<Process> = leaders.iter().filter(is_controller).copied().collect();
        match kind {
            "usurped" => luck.of(&controllers).copied().map(Self::Usurped),
            "leaders-flap" => luck.of(&leaders).map(|process| Self::Flap {
                service: process.service,
                every: Span(seconds(1) + luck.time(seconds(20))),
            }),
            "two-leaders" => luck.of(&leaders).copied().map(Self::TwoLeaders),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Usurped(_) => "usurped",
            Self::Flap { .. } => "leaders-flap",
            Self::TwoLeaders(_) => "two-leaders",
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
            Self::Flap { service, every } => {
                let (flaps, name) = world.flap(service, every.0);
                Begun::until(move |world| world.calm(service, &flaps, &name))
            }
            Self::TwoLeaders(process) => {
                let Some(name) = world.hold(process, true) else {
                    return Begun::nothing();
                };
                world.depose(process);
                Begun::until(move |world| world.let_go(process, &name))
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usurped(process) => write!(out, "somebody takes everything from {process}"),
            Self::Flap { service, every } => write!(out, "every {every} somebody takes what {service:?}s lead"),
            Self::TwoLeaders(process) => write!(out, "{process} stands still with its clock, and somebody takes over"),
        }
    }
}
