//! What goes wrong with a site and with what it says.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Begun, Harm, Luck, Scene};
use crate::world::World;

/// What goes wrong with a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It answers nothing.
    Away(String),
    /// A machine is there that carries our tags and that nobody asked for.
    Stray(String),
}

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &["site-away", "stray-machine"];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        let site = luck.of(&scene.sites)?.clone();
        match kind {
            "site-away" => Some(Self::Away(site)),
            "stray-machine" => Some(Self::Stray(site)),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Away(_) => "site-away",
            Self::Stray(_) => "stray-machine",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        match self {
            Self::Away(site) => {
                world.cloud_named(site).goes_away(true);
                let site = site.clone();
                Begun::until(move |world| world.cloud_named(&site).goes_away(false))
            }
            Self::Stray(site) => {
                world.add_machine_at(site);
                Begun::done()
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(site) => write!(out, "site {site} answers nothing"),
            Self::Stray(site) => write!(out, "a machine that nobody asked for runs at {site}"),
        }
    }
}
