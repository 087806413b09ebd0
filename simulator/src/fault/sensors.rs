//! What goes wrong with a sensor.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Begun, Harm, Luck, Scene};
use crate::sensors::Mode;
use crate::world::World;

/// What goes wrong with the sensor of a pool that follows a queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It fails.
    Fails(String),
    /// It does not answer.
    Hangs(String),
}

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &["sensor-fails", "sensor-hangs"];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        let pool = luck.of(&scene.following)?.clone();
        match kind {
            "sensor-fails" => Some(Self::Fails(pool)),
            "sensor-hangs" => Some(Self::Hangs(pool)),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Fails(_) => "sensor-fails",
            Self::Hangs(_) => "sensor-hangs",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        let (pool, mode) = match self {
            Self::Fails(pool) => (pool.clone(), Mode::Fails),
            Self::Hangs(pool) => (pool.clone(), Mode::Hangs),
        };
        world.sensor_of(&pool, mode);
        Begun::until(move |world| {
            world.sensor_of(&pool, Mode::True);
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fails(pool) => write!(out, "the sensor of {pool} fails"),
            Self::Hangs(pool) => write!(out, "the sensor of {pool} does not answer"),
        }
    }
}
