//! Work that arrives.

use std::fmt;
use std::time::Duration;

use epu_core::time::Span;
use serde::{Deserialize, Serialize};

use super::{Begun, Harm, Luck, Scene};
use crate::world::World;

/// What arrives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// So many jobs for a pool, which take so long each.
    Jobs {
        /// The pool.
        pool: String,
        /// How many.
        jobs: u64,
        /// How long each takes.
        takes: Span,
    },
}

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &["jobs"];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        match kind {
            "jobs" => {
                let pool = luck.of(&scene.pools)?.clone();
                // A pool that keeps a number does not grow with its work.
                let most = if scene.following.contains(&pool) { 40 } else { 8 };
                Some(Self::Jobs {
                    pool,
                    jobs: 1 + luck.below(most),
                    takes: Span(Duration::from_secs(1) + luck.time(Duration::from_secs(240))),
                })
            }
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Jobs { .. } => "jobs",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        match self {
            Self::Jobs { pool, jobs, takes } => {
                world.submit_to(pool, *jobs, takes.0);
                Begun::done()
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jobs { pool, jobs, takes } => write!(out, "{jobs} jobs of {takes} arrive for {pool}"),
        }
    }
}
