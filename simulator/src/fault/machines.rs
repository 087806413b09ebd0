//! What goes wrong with a machine, its agent and its worker.

use std::fmt;

use epu_core::id::InstanceId;
use serde::{Deserialize, Serialize};

use super::{Begun, Harm, Luck, Scene};
use crate::world::World;

/// What goes wrong with the n-th of the machines that run when it happens; counted round when there are fewer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Its agent reaches nobody.
    Silent(u32),
    /// Its worker is killed.
    WorkerCrash(u32),
}

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &["agent-silent", "worker-crash"];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        let nth = luck.small(scene.most.saturating_mul(3).max(1));
        match kind {
            "agent-silent" => Some(Self::Silent(nth)),
            "worker-crash" => Some(Self::WorkerCrash(nth)),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Silent(_) => "agent-silent",
            Self::WorkerCrash(_) => "worker-crash",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        match *self {
            Self::Silent(nth) => {
                let Some(id) = nth_running(world, nth) else {
                    return Begun::nothing();
                };
                world.silence(&id);
                Begun::until(move |world| {
                    world.let_speak(&id);
                })
            }
            Self::WorkerCrash(nth) => {
                let Some(id) = nth_running(world, nth) else {
                    return Begun::nothing();
                };
                world.kill_worker(&id);
                Begun::done()
            }
        }
    }
}

/// The n-th of the instances that run on a machine that is there.
pub(crate) fn nth_running(world: &World, nth: u32) -> Option<InstanceId> {
    let there = |id: &InstanceId| world.machines().of(*id).is_some();
    let running: Vec<InstanceId> = world.running().into_iter().filter(there).collect();
    let at = usize::try_from(nth).unwrap_or(0).checked_rem(running.len())?;
    running.get(at).copied()
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(nth) => write!(out, "the agent of machine {nth} falls silent"),
            Self::WorkerCrash(nth) => write!(out, "the worker of machine {nth} is killed"),
        }
    }
}
