//! Pools that several tests use: the limits are short, so that a test takes seconds.

/// How long silence may last. Shorter, and a busy machine makes healthy workers look silent.
pub(crate) const HEALTH: &str = "{boot: 10s, missing: 4s, really-missing: 1s, zombie: 10s}";
/// How fast things may change: at once.
pub(crate) const LIMITS: &str = "cooldown-down: 0s, stabilization: 0s, replace-at-once: 10, replace-window: 1s, storm-at-least: 10";

/// A pool `web` of so many workers that do nothing.
pub(crate) fn keeping(n: u32) -> String {
    format!(
        "templates:\n  sleeper: {{run: [sleep, '1000'], heartbeat: 200ms, stop-grace: 1s}}\n\
         pools:\n  web:\n    template: sleeper\n    max: 10\n    engine: {{keep: {{n: {n}}}}}\n    health: {HEALTH}\n    limits: {{{LIMITS}}}\n"
    )
}

/// Pools of so many workers each that do nothing, as a file for `pool add`.
pub(crate) fn sleeping(pools: &[(&str, u32)]) -> String {
    let pool = |(name, n): &(&str, u32)| {
        format!(
            "  {name}:\n    template: sleeper\n    max: 20\n    engine: {{keep: {{n: {n}}}}}\n    health: {HEALTH}\n    limits: {{{LIMITS}}}\n"
        )
    };
    let pools: String = pools.iter().map(pool).collect();
    format!("templates:\n  sleeper: {{run: [sleep, '1000'], heartbeat: 500ms, stop-grace: 1s}}\npools:\n{pools}")
}
