//! What goes wrong on the way between processes, agents and operators.
//!
//! What lies between a process and the store or a site is not spoken of here.

use std::fmt;
use std::time::Duration;

use epu_core::request::Service;
use epu_core::time::Span;
use serde::{Deserialize, Serialize};

use super::machines::nth_running;
use super::{Begun, Harm, Luck, Scene};
use crate::net::rules::{Effect, Place, Rule};
use crate::process::Process;
use crate::world::World;

/// The longest that messages are late by chance.
pub(crate) const LATE_MOST: Duration = Duration::from_secs(180);

/// What goes wrong on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Nobody reaches this service with a request, and everybody is told so at once.
    CutOff(Service),
    /// This share of all messages does not arrive.
    Lost(f64),
    /// This share of all messages arrives up to so much later; more often a little than much.
    Late(f64, Span),
    /// This share of all messages arrives twice.
    Doubled(f64),
    /// This share of all messages is overtaken by later ones.
    Reordered(f64),
    /// This share of all messages arrives damaged.
    Corrupted(f64),
    /// Nothing gets from one end to the other.
    Partition {
        /// One end.
        from: End,
        /// The other.
        to: End,
        /// What comes from the other end arrives.
        one_way: bool,
    },
    /// Nothing gets through between processes and operators, and they know it. Agents, who come over HTTP, still reach processes.
    BrokerAway,
}

/// One end of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// A process.
    Process(Process),
    /// All agents.
    Agents,
    /// The agent of the n-th of the instances that run.
    Agent(u32),
    /// All operators.
    Operators,
}

impl End {
    /// Where that is in a world as it is now.
    fn place(self, world: &World) -> Option<Place> {
        match self {
            Self::Process(process) => Some(Place::Process(process)),
            Self::Agents => Some(Place::Agents),
            Self::Agent(nth) => nth_running(world, nth).map(Place::Agent),
            Self::Operators => Some(Place::Operators),
        }
    }
}

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &[
        "cut-off",
        "messages-lost",
        "messages-late",
        "messages-doubled",
        "messages-reordered",
        "messages-corrupted",
        "partition",
        "broker-away",
    ];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        let fault = match kind {
            "cut-off" => Self::CutOff(luck.of(&scene.processes)?.service),
            "messages-lost" => Self::Lost(luck.share(0.05, 0.7)),
            "messages-late" => {
                let most = Span::secs(luck.time(LATE_MOST).as_secs().max(1));
                Self::Late(luck.share(0.1, 1.0), most)
            }
            "messages-doubled" => Self::Doubled(luck.share(0.1, 1.0)),
            "messages-reordered" => Self::Reordered(luck.share(0.1, 0.8)),
            "messages-corrupted" => Self::Corrupted(luck.share(0.05, 0.7)),
            "partition" => partition(luck, scene)?,
            "broker-away" => Self::BrokerAway,
            _ => return None,
        };
        Some(fault)
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::CutOff(_) => "cut-off",
            Self::Lost(_) => "messages-lost",
            Self::Late(..) => "messages-late",
            Self::Doubled(_) => "messages-doubled",
            Self::Reordered(_) => "messages-reordered",
            Self::Corrupted(_) => "messages-corrupted",
            Self::Partition { .. } => "partition",
            Self::BrokerAway => "broker-away",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        let rule = match *self {
            Self::CutOff(service) => {
                world.cut_off(service, true);
                return Begun::until(move |world| {
                    world.cut_off(service, false);
                });
            }
            Self::BrokerAway => {
                world.broker_away(true);
                return Begun::until(|world| {
                    world.broker_away(false);
                });
            }
            Self::Partition { from, to, one_way } => {
                let (Some(from), Some(to)) = (from.place(world), to.place(world)) else {
                    return Begun::nothing();
                };
                let there = world.disturb(Rule::new(Effect::Lost).between(from, to));
                let back = (!one_way).then(|| world.disturb(Rule::new(Effect::Lost).between(to, from)));
                return Begun::until(move |world| {
                    for rule in [Some(there), back].into_iter().flatten() {
                        world.undisturb(rule);
                    }
                });
            }
            Self::Lost(share) => Rule::new(Effect::Lost).share(share),
            Self::Late(share, most) => Rule::new(Effect::Late(Duration::ZERO, *most)).share(share),
            Self::Doubled(share) => Rule::new(Effect::Doubled).share(share),
            Self::Reordered(share) => Rule::new(Effect::Overtaken).share(share),
            Self::Corrupted(share) => Rule::new(Effect::Corrupted).share(share),
        };
        let rule = world.disturb(rule);
        Begun::until(move |world| {
            world.undisturb(rule);
        })
    }
}

/// A process and somebody else who have something to say to each other.
fn partition(luck: &Luck, scene: &Scene) -> Option<Fault> {
    let process = *luck.of(&scene.processes)?;
    let nth = luck.small(scene.most.saturating_mul(3).max(1));
    let others: Vec<End> = scene
        .processes
        .iter()
        .filter(|other| **other != process)
        .copied()
        .map(End::Process)
        .collect();
    let other = match luck.below(4) {
        0 => End::Agents,
        1 => End::Agent(nth),
        2 => End::Operators,
        _ => luck.of(&others).copied().unwrap_or(End::Agents),
    };
    let one_way = luck.once_in(2);
    let (from, to) = if luck.once_in(2) {
        (End::Process(process), other)
    } else {
        (other, End::Process(process))
    };
    Some(Fault::Partition { from, to, one_way })
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutOff(service) => write!(out, "no {service:?} can be reached"),
            Self::Lost(share) => write!(out, "{share} of all messages are lost"),
            Self::Late(share, most) => write!(out, "{share} of all messages are late by up to {most}"),
            Self::Doubled(share) => write!(out, "{share} of all messages arrive twice"),
            Self::Reordered(share) => write!(out, "{share} of all messages are overtaken"),
            Self::Corrupted(share) => write!(out, "{share} of all messages arrive damaged"),
            Self::Partition { from, to, one_way: true } => write!(out, "nothing gets from {from} to {to}"),
            Self::Partition { from, to, one_way: false } => write!(out, "nothing gets between {from} and {to}"),
            Self::BrokerAway => write!(out, "the broker is away"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(process) => process.fmt(out),
            Self::Agents => write!(out, "agents"),
            Self::Agent(nth) => write!(out, "the agent of machine {nth}"),
            Self::Operators => write!(out, "operators"),
        }
    }
}
