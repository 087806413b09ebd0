//! What people write: YAML as it is read everywhere, and files of templates and pools.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use epu_controller::spec::{self, Known};
use epu_core::input::{TEXT_MAX, Tree};
use epu_core::{SiteName, Span};
use epu_decision_engines::Registry;
use serde_json::{Value, json};

use super::{Verdict, saying, so};

/// Words of a config file.
pub(super) const WORDS: &[&str] = &[
    "pools:",
    "templates:",
    "template: ",
    "run: ",
    "max: ",
    "min: ",
    "engine: ",
    "keep: ",
    "n: ",
    "queue-length: ",
    "high-water: ",
    "low-water: ",
    "sensors: ",
    "rabbitmq: ",
    "url: ",
    "queue: ",
    "count: ready+unacked",
    "management-url: ",
    "directory: ",
    "heartbeat: ",
    "placements: ",
    "site: ",
    "limits: ",
    "drain: ",
    "cooldown-up: ",
    "health: ",
    "missing: ",
    "machine: ",
    "market: ",
    "spot: ",
    "price: ",
    "variables: ",
    "slots: ",
    "unique: ",
    "env:AMQP_URL",
    "\"amqp://me:hunter2hunter2@host/v\"",
    "local",
    "30s",
    "{n: 3}",
    "[a, b]",
    "\n    ",
    "\n  ",
    "\n- ",
    "&x ",
    "*x",
    "&x [*x, *x]",
    "<<: *x",
    "!!str ",
    "!!int ",
    "!local ",
    "%YAML 1.2\n---\n",
    "\"\\x07\"",
    "? [a, b]\n: c\n",
];
/// What pools are checked against.
pub(super) static KNOWN: LazyLock<Known> = LazyLock::new(|| Known {
    engines: Registry::standard(),
    sites: ["local", "aws"].into_iter().filter_map(|name| SiteName::new(name).ok()).collect(),
    owned: std::collections::BTreeSet::new(),
    templates: BTreeMap::new(),
    tick: Span::secs(1),
    search: None,
});
/// What the file is called.
const FILE: &str = "/etc/epu/epu.yaml";

/// Any YAML: refused with one flaw and its place, or taken with a place for everything in it; and what was taken is, written as JSON,
/// read again as the same.
pub(super) fn yaml(input: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(input);
    let tree = match Tree::read(FILE, &text) {
        Ok(tree) => tree,
        Err(flaws) => {
            so(flaws.as_slice().len() == 1, || {
                format!("{} flaws of one text that is no YAML", flaws.as_slice().len())
            })?;
            return saying::flaws(&flaws, &text);
        }
    };
    saying::places(&tree, &text)?;
    // Where aliases unfolded, the text may be longer than what is read.
    let written = tree.value().to_string();
    let is_plain = !written.chars().any(char::is_control);
    if is_plain && written.len() <= TEXT_MAX.min(2 * text.len() + 1_000) {
        let again = Tree::read(FILE, &written).map_err(|flaws| format!("as JSON it is not read again: {flaws}: {written}"))?;
        so(again.value() == tree.value(), || {
            format!("as JSON it is another: {written} and {}", again.value())
        })?;
    }
    Ok(())
}

/// JSON that a program sends in place of YAML means the same here as anywhere.
pub(super) fn json(input: &[u8]) -> Verdict {
    let Ok(value) = serde_json::from_slice::<Value>(input) else {
        return Ok(());
    };
    let written = value.to_string();
    match Tree::read(FILE, &written) {
        Ok(tree) => so(same(&value, tree.value()), || format!("read as YAML it is {}", tree.value())),
        Err(flaws) => {
            let flaw = flaws.to_string();
            // The parser takes no control character as it stands, as YAML does outside of quotes.
            let has_a_limit = ["nested deeper", "too large", "longer than", "not a finite", "unexpected character"];
            so(has_a_limit.iter().any(|limit| flaw.contains(limit)), || {
                format!("JSON is refused: {flaw}")
            })
        }
    }
}

/// The same, where `3.0` is 3.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other)),
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| same(one, other)))
        }
        (one, other) => one == other,
    }
}

/// A file of templates and pools: every flaw has its place and tells no password; what is taken is taken again as it is stored.
pub(super) fn pools(input: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(input);
    let pools = match spec::read(FILE, &text, &KNOWN) {
        Ok(pools) => pools,
        Err(flaws) => return saying::flaws(&flaws, &text),
    };
    for pool in pools {
        saying::survives(&pool.spec)?;
        saying::survives(&pool.template)?;
        let template = pool.spec.template.as_str();
        let stored = json!({ "templates": { template: pool.template }, "pools": { pool.name.as_str(): pool.spec } }).to_string();
        let again = spec::read(FILE, &stored, &KNOWN).map_err(|flaws| format!("as it is stored it is refused: {flaws}: {stored}"))?;
        let [again] = again.as_slice() else {
            return Err(format!("as it is stored it is {} pools", again.len()));
        };
        so(
            again.spec == pool.spec && again.template == pool.template && again.name == pool.name,
            || format!("as it is stored it is another: {stored}"),
        )?;
        so(again.template_version == pool.template_version, || {
            "the same template has two versions".to_owned()
        })?;
    }
    Ok(())
}
