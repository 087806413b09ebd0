//! Changes of a pool's settings, by dotted paths.

use std::collections::BTreeMap;

use epu_controller::spec;
use epu_core::Timestamp;
use epu_core::pool::{Origin, Paused, Pool};
use serde_json::Value;

use super::config::KNOWN;
use super::{Verdict, saying, so};

/// Words of paths and values.
pub(super) const WORDS: &[&str] = &[
    "min",
    "max",
    "engine",
    "engine.keep.n",
    "engine.keep",
    "engine.queue-length",
    "engine.queue-length.sensor",
    "sensors.jobs",
    "sensors.jobs.every",
    "sensors.\"a.b\".every",
    "sensors.jobs.rabbitmq.url",
    "limits.drain",
    "limits.cooldown-up",
    "health.missing",
    "placements",
    "placements.0.site",
    "placements.0.max",
    "template",
    "amqp://me:hunter2hunter2@host/v",
    "a.b.c",
    "\"",
    ".",
    "..",
];
/// The pool as it is before.
const POOL: &str = "{templates: {sleeper: {run: [/bin/sleep, '60']}}, pools: {web: {template: sleeper, min: 1, max: 5, \
    engine: {queue-length: {sensor: jobs, high-water: 50, low-water: 10}}, placements: [{site: local}], \
    sensors: {jobs: {rabbitmq: {url: 'env:AMQP_URL', queue: jobs}, every: 5s}}}}}";

/// Each line is one change, made to what the ones before it left. One that is refused leaves nothing behind; one that is taken is a pool that
/// is taken again, and changes nothing when it is repeated.
pub(super) fn changes(input: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(input);
    let mut pools = spec::read("pool", POOL, &KNOWN).map_err(|flaws| flaws.to_string())?;
    let first = pools.pop().ok_or("there is no pool to change")?;
    let mut pool = Pool {
        name: first.name,
        spec: first.spec,
        template: first.template,
        template_version: first.template_version,
        origin: Origin::Operator,
        revision: 1,
        paused: Paused::default(),
        removed: false,
        added_at: Timestamp(0),
        refresh: None,
        previous: None,
        owner: None,
    };
    let sets = text
        .lines()
        .filter_map(|line| serde_json::from_str::<BTreeMap<String, Value>>(line).ok());
    for set in sets.take(5) {
        let before = pool.clone();
        let changed = spec::patched(&pool, &set, None, &KNOWN);
        so(pool == before, || "the pool changed before it was to".to_owned())?;
        match changed {
            Ok(resolved) => {
                saying::survives(&resolved.spec)?;
                pool.spec = resolved.spec;
                pool.template = resolved.template;
                pool.template_version = resolved.template_version;
                let twice = spec::patched(&pool, &set, None, &KNOWN);
                let twice = twice.map_err(|flaws| format!("made once more it is refused: {flaws}"))?;
                so(twice.spec == pool.spec, || "made once more it changes more".to_owned())?;
                let same = spec::patched(&pool, &BTreeMap::new(), None, &KNOWN);
                let same = same.map_err(|flaws| format!("what was taken is refused: {flaws}"))?;
                so(same.spec == pool.spec, || {
                    "what was taken is another when it is read again".to_owned()
                })?;
            }
            Err(flaws) => refused(&flaws, &set)?,
        }
    }
    Ok(())
}

fn refused(flaws: &epu_core::input::Flaws, set: &BTreeMap<String, Value>) -> Verdict {
    let text = flaws.to_string();
    saying::bounded(&text, 200_000)?;
    let longest = set.keys().map(String::len).max().unwrap_or(0);
    for flaw in flaws.as_slice() {
        so(flaw.line == 0, || format!("a line in what was not read from a text: {flaw}"))?;
        saying::bounded(&flaw.text, 4_000 + 8 * longest)?;
    }
    let url = format!("://me:{}@", saying::SECRET);
    let written = serde_json::to_string(set).unwrap_or_default();
    let only_as_url = written.matches(saying::SECRET).count() == written.matches(&url).count();
    let in_a_key = set.keys().any(|key| key.contains(saying::SECRET));
    so(!only_as_url || in_a_key || !text.contains(saying::SECRET), || {
        format!("a password is repeated: {text}")
    })
}
