//! Settings of the controller itself.

use epu_core::Span;

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
