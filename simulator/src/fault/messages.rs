//! What goes wrong between processes, agents, store and sites.

use std::fmt;

use epu_core::request::Service;
use serde::{Deserialize, Serialize};

use super::{Begun, Harm, Luck, Scene};
use crate::world::World;

/// What goes wrong on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Nobody reaches this service with a request.
    CutOff(Service),
}

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &["cut-off"];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        match kind {
            "cut-off" => luck.of(&scene.processes).map(|process| Self::CutOff(process.service)),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::CutOff(_) => "cut-off",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        match *self {
            Self::CutOff(service) => {
                world.cut_off(service, true);
                Begun::until(move |world| {
                    world.cut_off(service, false);
                })
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutOff(service) => write!(out, "no {service:?} can be reached"),
        }
    }
}
