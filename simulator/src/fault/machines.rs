//! What goes wrong with a machine, its agent and its worker.

use std::fmt;
use std::time::Duration;

use epu_core::id::InstanceId;
use epu_core::instance::Work;
use epu_core::time::Span;
use serde::{Deserialize, Serialize};

use super::{Begun, Harm, Luck, Scene};
use crate::host::killed;
use crate::ill::{Ill, Quirk};
use crate::world::World;

/// What goes wrong with the n-th of the machines that run when it happens, counted round when there are fewer; or with those that come
/// up while it lasts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Its agent reaches nobody.
    Silent(u32),
    /// Its agent says this of the worker's work, whatever that does.
    Lies(u32, Work),
    /// Its agent reaches nobody for so long, then everybody for so long, and so on.
    Flaps(u32, Span),
    /// Its agent is killed, and started again at the end of the fault.
    AgentRestarts(u32),
    /// It does not end when it is told to, and its agent goes on.
    Zombie(u32),
    /// Everything on it stands still.
    Freeze(u32),
    /// It disappears.
    Vanish(u32),
    /// Its site halts it and keeps it, and starts it again at the end of the fault.
    Stop(u32),
    /// Its site calls it gone although it runs, and shows it again at the end of the fault.
    CallGone(u32),
    /// Its worker is killed.
    WorkerCrash(u32),
    /// Its worker ends with this code.
    WorkerExits(u32, i32),
    /// Its worker does nothing any more, and does not say so.
    WorkerHangs(u32),
    /// Its worker has something to do that does not end.
    EndlessJob(u32),
    /// Its worker says this of itself.
    WorkerReads(u32, Odd),
    /// Set-up ends with this code on machines that come up.
    SetUpFails(i32),
    /// Set-up takes so long on machines that come up.
    SetUpSlow(Span),
    /// The run program is missing on machines that come up.
    WorkerMissing,
    /// Workers that come up do not listen when they are told to drain.
    IgnoresDrain,
    /// Agents that come up say that they are ready before they are.
    ReadyEarly,
}

/// An amount that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Odd {
    /// It is no number.
    NotANumber,
    /// There is no end to it.
    Infinite,
    /// It is less than nothing.
    Negative,
    /// It is more than there can be.
    Absurd,
}

impl Odd {
    fn amount(self) -> f64 {
        match self {
            Self::NotANumber => f64::NAN,
            Self::Infinite => f64::INFINITY,
            Self::Negative => -7.0,
            Self::Absurd => 1e300,
        }
    }
}

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &[
        "agent-silent",
        "agent-lies",
        "agent-flaps",
        "agent-restarts",
        "zombie",
        "freeze",
        "vanish",
        "stop",
        "call-gone",
        "worker-crash",
        "worker-exits",
        "worker-hangs",
        "endless-job",
        "worker-reads",
        "set-up-fails",
        "set-up-slow",
        "worker-missing",
        "ignores-drain",
        "ready-early",
    ];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        let nth = luck.small(scene.most.saturating_mul(3).max(1));
        let seconds = |least, most| Span(Duration::from_secs(least + luck.below(most)));
        match kind {
            "agent-silent" => Some(Self::Silent(nth)),
            "agent-lies" => Some(Self::Lies(nth, *luck.of(&[Work::Idle, Work::Busy])?)),
            "agent-flaps" => Some(Self::Flaps(nth, seconds(1, 20))),
            "agent-restarts" => Some(Self::AgentRestarts(nth)),
            "zombie" => Some(Self::Zombie(nth)),
            "freeze" => Some(Self::Freeze(nth)),
            "vanish" => Some(Self::Vanish(nth)),
            "stop" => Some(Self::Stop(nth)),
            "call-gone" => Some(Self::CallGone(nth)),
            "worker-crash" => Some(Self::WorkerCrash(nth)),
            "worker-exits" => Some(Self::WorkerExits(nth, *luck.of(&[0, 1, 137])?)),
            "worker-hangs" => Some(Self::WorkerHangs(nth)),
            "endless-job" => Some(Self::EndlessJob(nth)),
            "worker-reads" => {
                let odd = [Odd::NotANumber, Odd::Infinite, Odd::Negative, Odd::Absurd];
                Some(Self::WorkerReads(nth, *luck.of(&odd)?))
            }
            "set-up-fails" => Some(Self::SetUpFails(1)),
            "set-up-slow" => Some(Self::SetUpSlow(seconds(30, 900))),
            "worker-missing" => Some(Self::WorkerMissing),
            "ignores-drain" => Some(Self::IgnoresDrain),
            "ready-early" => Some(Self::ReadyEarly),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Silent(_) => "agent-silent",
            Self::Lies(..) => "agent-lies",
            Self::Flaps(..) => "agent-flaps",
            Self::AgentRestarts(_) => "agent-restarts",
            Self::Zombie(_) => "zombie",
            Self::Freeze(_) => "freeze",
            Self::Vanish(_) => "vanish",
            Self::Stop(_) => "stop",
            Self::CallGone(_) => "call-gone",
            Self::WorkerCrash(_) => "worker-crash",
            Self::WorkerExits(..) => "worker-exits",
            Self::WorkerHangs(_) => "worker-hangs",
            Self::EndlessJob(_) => "endless-job",
            Self::WorkerReads(..) => "worker-reads",
            Self::SetUpFails(_) => "set-up-fails",
            Self::SetUpSlow(_) => "set-up-slow",
            Self::WorkerMissing => "worker-missing",
            Self::IgnoresDrain => "ignores-drain",
            Self::ReadyEarly => "ready-early",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        match *self {
            Self::Silent(nth) => on(world, nth, |world, machine| world.ill(machine, Ill::Silent)),
            Self::Lies(nth, work) => on(world, nth, |world, machine| world.ill(machine, Ill::Says(work))),
            Self::Flaps(nth, every) => on(world, nth, |world, machine| world.ill(machine, Ill::Flaps(every.0))),
            Self::AgentRestarts(nth) => on(world, nth, World::agent_dies),
            Self::Zombie(nth) => on(world, nth, |world, machine| world.becomes_a_zombie(machine)),
            Self::Freeze(nth) => on(world, nth, |world, machine| {
                world.until_lifted(machine, "stands still", |machines, id, on| machines.freeze(id, on))
            }),
            Self::Vanish(nth) => on(world, nth, |world, machine| {
                world.vanish(machine);
                Begun::done()
            }),
            Self::Stop(nth) => on(world, nth, |world, machine| {
                world.until_lifted(machine, "is halted by its site", |machines, id, on| machines.halt(id, on))
            }),
            Self::CallGone(nth) => on(world, nth, |world, machine| {
                world.until_lifted(machine, "is called gone", |machines, id, on| match on {
                    true => machines.call_gone(id),
                    false => machines.comes_back(id),
                })
            }),
            Self::WorkerCrash(nth) => on(world, nth, |world, machine| {
                world.worker_ends(machine, killed(9));
                Begun::done()
            }),
            Self::WorkerExits(nth, code) => on(world, nth, |world, machine| {
                world.worker_ends(machine, crate::host::exited(code));
                Begun::done()
            }),
            Self::WorkerHangs(nth) => on(world, nth, |world, machine| world.ill(machine, Ill::Hangs)),
            Self::EndlessJob(nth) => on(world, nth, |world, machine| world.ill(machine, Ill::Occupied)),
            Self::WorkerReads(nth, odd) => on(world, nth, |world, machine| world.ill(machine, Ill::Reads(odd.amount()))),
            Self::SetUpFails(code) => world.quirk(Quirk::SetUpFails(code)),
            Self::SetUpSlow(takes) => world.quirk(Quirk::SetUpTakes(takes.0)),
            Self::WorkerMissing => world.quirk(Quirk::Missing),
            Self::IgnoresDrain => world.quirk(Quirk::IgnoresDrain),
            Self::ReadyEarly => world.quirk(Quirk::ReadyEarly),
        }
    }
}

/// Does something to the n-th machine, if any runs.
fn on(world: &mut World, nth: u32, harm: impl FnOnce(&mut World, &str) -> Begun) -> Begun {
    let machine = nth_running(world, nth).and_then(|id| world.machines().of(id));
    match machine {
        Some(machine) => harm(world, &machine),
        None => Begun::nothing(),
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
            Self::Lies(nth, work) => write!(out, "the agent of machine {nth} says {work:?}, whatever its worker does"),
            Self::Flaps(nth, every) => write!(out, "the agent of machine {nth} falls silent and speaks again every {every}"),
            Self::AgentRestarts(nth) => write!(out, "the agent of machine {nth} is killed"),
            Self::Zombie(nth) => write!(out, "machine {nth} does not end when it is told to"),
            Self::Freeze(nth) => write!(out, "machine {nth} stands still"),
            Self::Vanish(nth) => write!(out, "machine {nth} disappears"),
            Self::Stop(nth) => write!(out, "machine {nth} is halted by its site"),
            Self::CallGone(nth) => write!(out, "machine {nth} is called gone and runs"),
            Self::WorkerCrash(nth) => write!(out, "the worker of machine {nth} is killed"),
            Self::WorkerExits(nth, code) => write!(out, "the worker of machine {nth} ends with code {code}"),
            Self::WorkerHangs(nth) => write!(out, "the worker of machine {nth} hangs"),
            Self::EndlessJob(nth) => write!(out, "the worker of machine {nth} has a job without end"),
            Self::WorkerReads(nth, odd) => write!(out, "the worker of machine {nth} says {} of itself", odd.amount()),
            Self::SetUpFails(code) => write!(out, "set-up of new machines ends with code {code}"),
            Self::SetUpSlow(takes) => write!(out, "set-up of new machines takes {takes}"),
            Self::WorkerMissing => write!(out, "new machines do not have the run program"),
            Self::IgnoresDrain => write!(out, "workers of new machines do not listen when they are told to drain"),
            Self::ReadyEarly => write!(out, "agents of new machines say that they are ready before they are"),
        }
    }
}
