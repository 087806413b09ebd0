//! What goes wrong with a sensor.

use std::fmt;
use std::time::Duration;

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
    /// It answers half a minute late.
    Late(String),
    /// It says what is no number.
    NotANumber(String),
    /// It says that there is infinitely much.
    Infinite(String),
    /// It says that there is less than nothing.
    Negative(String),
    /// It says that there is more than there can be.
    Absurd(String),
    /// It says that there is nothing.
    Zero(String),
    /// It says what it said last.
    Frozen(String),
}

/// How late one is that is late.
const LATE: Duration = Duration::from_secs(30);

impl Fault {
    fn pool(&self) -> &str {
        match self {
            Self::Fails(pool)
            | Self::Hangs(pool)
            | Self::Late(pool)
            | Self::NotANumber(pool)
            | Self::Infinite(pool)
            | Self::Negative(pool)
            | Self::Absurd(pool)
            | Self::Zero(pool)
            | Self::Frozen(pool) => pool,
        }
    }

    fn mode(&self) -> Mode {
        match self {
            Self::Fails(_) => Mode::Fails,
            Self::Hangs(_) => Mode::Hangs,
            Self::Late(_) => Mode::Late(LATE),
            Self::NotANumber(_) => Mode::Says(f64::NAN),
            Self::Infinite(_) => Mode::Says(f64::INFINITY),
            Self::Negative(_) => Mode::Says(-7.0),
            Self::Absurd(_) => Mode::Says(1e300),
            Self::Zero(_) => Mode::Says(0.0),
            Self::Frozen(_) => Mode::Frozen,
        }
    }
}

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &[
        "sensor-fails",
        "sensor-hangs",
        "sensor-late",
        "sensor-nan",
        "sensor-infinite",
        "sensor-negative",
        "sensor-absurd",
        "sensor-zero",
        "sensor-frozen",
    ];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        let pool = luck.of(&scene.following)?.clone();
        match kind {
            "sensor-fails" => Some(Self::Fails(pool)),
            "sensor-hangs" => Some(Self::Hangs(pool)),
            "sensor-late" => Some(Self::Late(pool)),
            "sensor-nan" => Some(Self::NotANumber(pool)),
            "sensor-infinite" => Some(Self::Infinite(pool)),
            "sensor-negative" => Some(Self::Negative(pool)),
            "sensor-absurd" => Some(Self::Absurd(pool)),
            "sensor-zero" => Some(Self::Zero(pool)),
            "sensor-frozen" => Some(Self::Frozen(pool)),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Fails(_) => "sensor-fails",
            Self::Hangs(_) => "sensor-hangs",
            Self::Late(_) => "sensor-late",
            Self::NotANumber(_) => "sensor-nan",
            Self::Infinite(_) => "sensor-infinite",
            Self::Negative(_) => "sensor-negative",
            Self::Absurd(_) => "sensor-absurd",
            Self::Zero(_) => "sensor-zero",
            Self::Frozen(_) => "sensor-frozen",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        world.sensor_trouble(self.pool(), self.mode())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the sensor of {} ", self.pool())?;
        out.write_str(match self {
            Self::Fails(_) => "fails",
            Self::Hangs(_) => "does not answer",
            Self::Late(_) => "answers late",
            Self::NotANumber(_) => "says what is no number",
            Self::Infinite(_) => "says infinity",
            Self::Negative(_) => "says less than nothing",
            Self::Absurd(_) => "says more than there can be",
            Self::Zero(_) => "says nothing is there",
            Self::Frozen(_) => "says what it said last",
        })
    }
}
