//! What goes wrong with the store, for all or for one process. A store here is a PostgreSQL with several processes at it: what it says
//! in trouble is what the store's PostgreSQL side makes of a lost connection, a timeout, a deadlock or a failed serialization.

use std::fmt;
use std::time::Duration;

use epu_core::time::Span;
use serde::{Deserialize, Serialize};

use super::{Begun, Harm, Luck, Scene};
use crate::ledger::Trouble;
use crate::process::Process;
use crate::world::World;

/// What goes wrong with the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Everything fails at once.
    Away,
    /// One process does not reach it.
    Cut(Process),
    /// Each commit and read takes up to so long.
    Slow {
        /// For whom; none: for all.
        whose: Option<Process>,
        /// So long at the most.
        most: Span,
    },
    /// A share of the writes is refused, since others changed the same.
    Conflicts {
        /// For whom; none: for all.
        whose: Option<Process>,
        /// How large a share.
        share: f64,
    },
    /// A share of the writes is done and said to have failed.
    RepliesLost {
        /// For whom; none: for all.
        whose: Option<Process>,
        /// How large a share.
        share: f64,
    },
}

/// The longest that a slow store takes for one thing: longer than its callers wait.
const SLOWEST: Duration = Duration::from_secs(20);

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &["store-away", "store-cut", "store-slow", "store-conflicts", "store-replies-lost"];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        let whose = || {
            if luck.once_in(2) {
                luck.of(&scene.processes).copied()
            } else {
                None
            }
        };
        match kind {
            "store-away" => Some(Self::Away),
            "store-cut" => luck.of(&scene.processes).copied().map(Self::Cut),
            "store-slow" => Some(Self::Slow {
                whose: whose(),
                most: Span(luck.time(SLOWEST)),
            }),
            "store-conflicts" => Some(Self::Conflicts {
                whose: whose(),
                share: luck.share(0.05, 0.9),
            }),
            "store-replies-lost" => Some(Self::RepliesLost {
                whose: whose(),
                share: luck.share(0.05, 0.9),
            }),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Away => "store-away",
            Self::Cut(_) => "store-cut",
            Self::Slow { .. } => "store-slow",
            Self::Conflicts { .. } => "store-conflicts",
            Self::RepliesLost { .. } => "store-replies-lost",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        let (whose, trouble) = match *self {
            Self::Away => (None, Trouble::Away("the disk is away")),
            Self::Cut(process) => (Some(process), Trouble::Cut),
            Self::Slow { whose, most } => (whose, Trouble::Slow(most.0)),
            Self::Conflicts { whose, share } => (whose, Trouble::Conflicts(share)),
            Self::RepliesLost { whose, share } => (whose, Trouble::RepliesLost(share)),
        };
        let number = world.begin_trouble(whose, trouble);
        Begun::until(move |world| world.end_trouble(number))
    }
}

struct For(Option<Process>);

impl fmt::Display for For {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some(process) => write!(out, " for {process}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away => write!(out, "the store is away"),
            Self::Cut(process) => write!(out, "{process} does not reach the store"),
            Self::Slow { whose, most } => write!(out, "the store takes up to {most} for everything{}", For(*whose)),
            Self::Conflicts { whose, share } => write!(out, "the store refuses {:.0}% of writes{}", share * 100.0, For(*whose)),
            Self::RepliesLost { whose, share } => write!(
                out,
                "the store's replies to {:.0}% of writes are lost{}",
                share * 100.0,
                For(*whose)
            ),
        }
    }
}
