//! What can go wrong in a world, in words that can be written down: drawn by chance, played, shrunk, stored, and played again.
//!
//! A [`Fault`] begins at some time and lasts for some time. What it hits is named so that it means something whatever else happened
//! before: an instance is "the n-th of those that run now", a process is a role and a copy. So events can be left out of a plan and
//! the rest still plays, which is what shrinking needs.
//!
//! Each file beside this one is one part of the world: what goes wrong there, how it is drawn, and how it is done to a [`World`].

pub mod leaders;
pub mod luck;
pub mod machines;
pub mod messages;
pub mod operators;
pub mod processes;
pub mod sensors;
pub mod site;
pub mod stores;
pub mod work;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::process::Process;
use crate::world::World;
pub use luck::Luck;

/// Something that goes wrong, or at least happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Between processes, agents, store and sites.
    Messages(messages::Fault),
    /// To a process of a service, and its clock.
    Processes(processes::Fault),
    /// To the store.
    Stores(stores::Fault),
    /// To a site and what it says.
    Site(site::Fault),
    /// To a machine, its agent and its worker.
    Machines(machines::Fault),
    /// To a sensor.
    Sensors(sensors::Fault),
    /// By an operator.
    Operators(operators::Fault),
    /// To who leads.
    Leaders(leaders::Fault),
    /// Jobs arrive, which is no fault.
    Work(work::Fault),
}

/// What a plan may speak of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scene {
    /// The pools, by name.
    pub pools: Vec<String>,
    /// Those among them that follow a queue.
    pub following: Vec<String>,
    /// The sites, by name.
    pub sites: Vec<String>,
    /// The processes.
    pub processes: Vec<Process>,
    /// Most workers of one pool.
    pub most: u32,
}

/// What came of a fault.
#[derive(Default)]
pub struct Begun {
    /// Whether there was anything to go wrong: a worker cannot crash where none runs.
    pub bit: bool,
    /// How it ends, where it lasts.
    pub lift: Option<Lift>,
}

/// Ends a fault.
pub type Lift = Box<dyn FnOnce(&mut World)>;

impl Begun {
    /// There was nothing to go wrong.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// It is done and over.
    #[must_use]
    pub fn done() -> Self {
        Self { bit: true, lift: None }
    }

    /// It lasts until this is done.
    #[must_use]
    pub fn until(lift: impl FnOnce(&mut World) + 'static) -> Self {
        Self {
            bit: true,
            lift: Some(Box::new(lift)),
        }
    }
}

impl fmt::Debug for Begun {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Begun {{ bit: {}, lasts: {} }}", self.bit, self.lift.is_some())
    }
}

/// What each part of the world has that can go wrong.
pub trait Harm: Sized + fmt::Display {
    /// All kinds there are, by name; a plan weighs them, and coverage counts them.
    const KINDS: &'static [&'static str];

    /// One of a kind by chance; none when the scene has nothing for it.
    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self>;

    /// Which kind it is: one of [`Harm::KINDS`].
    fn kind(&self) -> &'static str;

    /// Does it to a world.
    fn begin(&self, world: &mut World) -> Begun;
}

/// Does the same for each part of the world.
macro_rules! each {
    ($fault:expr, $harm:ident => $what:expr) => {
        match $fault {
            Fault::Messages($harm) => $what,
            Fault::Processes($harm) => $what,
            Fault::Stores($harm) => $what,
            Fault::Site($harm) => $what,
            Fault::Machines($harm) => $what,
            Fault::Sensors($harm) => $what,
            Fault::Operators($harm) => $what,
            Fault::Leaders($harm) => $what,
            Fault::Work($harm) => $what,
        }
    };
}

impl Fault {
    /// Every kind of every part, by name.
    #[must_use]
    pub fn kinds() -> Vec<&'static str> {
        [
            messages::Fault::KINDS,
            processes::Fault::KINDS,
            stores::Fault::KINDS,
            site::Fault::KINDS,
            machines::Fault::KINDS,
            sensors::Fault::KINDS,
            operators::Fault::KINDS,
            leaders::Fault::KINDS,
            work::Fault::KINDS,
        ]
        .concat()
    }

    /// One of a kind by chance; none when the scene has nothing for it, or there is no such kind.
    #[must_use]
    pub fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        fn of<H: Harm>(kind: &str, luck: &Luck, scene: &Scene, wrap: fn(H) -> Fault) -> Option<Fault> {
            let known = H::KINDS.contains(&kind);
            known.then(|| H::draw(kind, luck, scene)).flatten().map(wrap)
        }
        of(kind, luck, scene, Self::Messages)
            .or_else(|| of(kind, luck, scene, Self::Processes))
            .or_else(|| of(kind, luck, scene, Self::Stores))
            .or_else(|| of(kind, luck, scene, Self::Site))
            .or_else(|| of(kind, luck, scene, Self::Machines))
            .or_else(|| of(kind, luck, scene, Self::Sensors))
            .or_else(|| of(kind, luck, scene, Self::Operators))
            .or_else(|| of(kind, luck, scene, Self::Leaders))
            .or_else(|| of(kind, luck, scene, Self::Work))
    }

    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        each!(self, harm => harm.kind())
    }

    /// Does it to a world.
    pub fn begin(&self, world: &mut World) -> Begun {
        each!(self, harm => harm.begin(world))
    }
}

/// In a few words, as a story tells it.
impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        each!(self, harm => harm.fmt(out))
    }
}

#[cfg(test)]
mod tests;
