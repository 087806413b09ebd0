//! What goes wrong with the store.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Begun, Harm, Luck, Scene};
use crate::world::World;

/// What goes wrong with the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Everything fails.
    Away,
}

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &["store-away"];

    fn draw(kind: &str, _: &Luck, _: &Scene) -> Option<Self> {
        match kind {
            "store-away" => Some(Self::Away),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Away => "store-away",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        match self {
            Self::Away => {
                world.store_fails(Some("the disk is away"));
                Begun::until(|world| {
                    world.store_fails(None);
                })
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away => write!(out, "the store is away"),
        }
    }
}
