//! Settings of the controller itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use epu_core::launch::INSTANCES_MAX;
use epu_core::{SiteName, Span};

use crate::spec::digest;

/// What the controller knows of sites beyond their names; one that is missing is like [`SiteFacts::default`].
pub type Sites = Arc<BTreeMap<SiteName, SiteFacts>>;

/// A site, as far as it matters to who decides on launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteFacts {
    /// The most machines of one launch there.
    pub launch_most: usize,
    /// A digest of its settings: a placement that was parked under others is tried again.
    pub settings: u64,
}

impl SiteFacts {
    /// From the most machines of one launch (0 counts as 1) and the site's settings in whatever form they are written.
    #[must_use]
    pub fn of(launch_most: u32, settings: &impl serde::Serialize) -> Self {
        Self {
            launch_most: usize::try_from(launch_most).unwrap_or(INSTANCES_MAX).clamp(1, INSTANCES_MAX),
            settings: digest(settings),
        }
    }
}

impl Default for SiteFacts {
    fn default() -> Self {
        Self {
            launch_most: INSTANCES_MAX,
            settings: 0,
        }
    }
}

/// How often it looks, and how long it waits.
#[derive(Debug, Clone)]
pub struct Config {
    /// The installation's name, for status.
    pub installation: String,
    /// The program's version, for status.
    pub version: String,
    /// How often time is looked at: deadlines, cooldowns, ageing readings. Facts are looked at when they come.
    pub tick: Span,
    /// Every pool is looked at this often though nothing seems to have changed.
    pub look_every: Span,
    /// How often all pools are told to aggregators.
    pub tell_every: Span,
    /// How long a command may take to be answered.
    pub ask_within: Span,
    /// Memory that changes without a decision is written this often at the most.
    pub remember_every: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            installation: "epu".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            tick: Span::secs(1),
            look_every: Span::secs(30),
            tell_every: Span::secs(30),
            ask_within: Span::secs(30),
            remember_every: Span::secs(60),
        }
    }
}
