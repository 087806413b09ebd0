//! From what people wrote to pools that can be run: every fault at once, each with its place.
//!
//! A file has `templates:` and `pools:`. Its form is checked against [`schema`], which has each engine's own settings in it. What a
//! schema cannot say is checked by rules (`rules`) that look at the tree and not at the typed form, so that a low water
//! above the high water is found together with a misspelt key beside it, and not only after that is mended. Only a file without any fault
//! is turned into [`Resolved`] pools.
//!
//! A pool's settings are changed through the same door: [`patched`] sets values in the written form and checks the whole again.
//!
//! Relative paths (a template's `directory` and programs, a sensor's directories) are resolved against the file's directory, so that they
//! mean the same wherever the service was started.

mod machines;
mod programs;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use epu_core::input::{Flaw, Flaws, Tree, check, pointer, schema_of};
use epu_core::pool::{Placement, Pool, Template};
use epu_core::{PoolName, PoolSpec, SiteName, Span, TemplateName};
use epu_decision_engines::Registry;
use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use rules::Rules;

/// What pools are checked against.
#[derive(Debug, Clone)]
pub struct Known {
    /// The engines.
    pub engines: Registry,
    /// The sites.
    pub sites: BTreeSet<SiteName>,
    /// Those of them that are somebody's own: they have to be named, and no pool is placed there because there is no other.
    pub owned: BTreeSet<SiteName>,
    /// Templates that need not stand in the file itself: those of the config file.
    pub templates: BTreeMap<TemplateName, Template>,
    /// How often the controller looks at time: nothing can be faster.
    pub tick: Span,
    /// Where programs are looked for, like the environment's `PATH`. None: they are not looked for, since workers run elsewhere.
    pub search: Option<OsString>,
}

impl Known {
    /// The sites that a pool may be placed on without naming one.
    pub(crate) fn everybodys(&self) -> impl Iterator<Item = &SiteName> {
        self.sites.difference(&self.owned)
    }
}

/// A pool without faults.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// Its name.
    pub name: PoolName,
    /// Its settings, with paths made absolute and the only site put in where none was named.
    pub spec: PoolSpec,
    /// Its template's content.
    pub template: Template,
    /// Its template's name and digest, as `name@0123456789ab`.
    pub template_version: String,
    /// On which line it stands; 0 when it was not read from a text.
    pub line: u32,
}

/// Only what its schema is made from.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
#[schemars(deny_unknown_fields)]
struct File {
    /// What to launch, by name.
    #[schemars(default)]
    templates: BTreeMap<TemplateName, Template>,
    /// Pools, by name.
    #[schemars(default)]
    pools: BTreeMap<PoolName, PoolSpec>,
}

/// The JSON schema (draft 2020-12) of a file with `templates:` and `pools:`, with every engine's settings in it.
#[must_use]
pub fn schema(engines: &Registry) -> Value {
    let mut schema = schema_of::<File>();
    let names: Map<String, Value> = engines
        .names()
        .filter_map(|name| Some((name.to_owned(), engines.schema(name)?.clone())))
        .collect();
    let engine = schema
        .pointer_mut("/properties/pools/patternProperties")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(|by_pattern| by_pattern.values_mut())
        .filter_map(|pool| pool.pointer_mut("/properties/engine"));
    for engine in engine {
        let description = engine.get("description").cloned().unwrap_or_default();
        *engine = json!({
            "type": "object",
            "description": description,
            "properties": names,
            "additionalProperties": false,
            "minProperties": 1,
            "maxProperties": 1,
            "x-count": "exactly one engine is wanted, such as `keep: {n: 3}`",
        });
    }
    epu_core::input::strict(schema)
}

/// Reads pools from a text. `file` is what it is called; when that is an absolute path, relative paths in it count from its directory.
///
/// # Errors
/// Every fault.
pub fn read(file: &str, text: &str, known: &Known) -> Result<Vec<Resolved>, Flaws> {
    let tree = Tree::read(file, text)?;
    let mut flaws = check(&tree, &schema(&known.engines));
    let base = Path::new(file).parent().filter(|base| base.is_absolute());
    let pools = resolve(&tree, base, known, &mut flaws);
    Flaws::none_in(flaws).map(|()| pools)
}

/// The pools of a tree that has been checked against a schema with [`schema`] in it, which found `flaws`; what the rules find is added.
/// Without any flaw the answer is every pool, otherwise it is not to be used. Relative paths count from `base`; without one they are flaws.
pub fn resolve(tree: &Tree, base: Option<&Path>, known: &Known, flaws: &mut Vec<Flaw>) -> Vec<Resolved> {
    let rules = Rules { tree, base, known };
    rules.check(flaws);
    if !flaws.is_empty() {
        return Vec::new();
    }
    let names = tree
        .value()
        .get("pools")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|pools| pools.keys());
    let mut pools = Vec::new();
    for name in names {
        match resolved(tree, name, base, known) {
            Ok(pool) => pools.push(pool),
            Err(flaw) => flaws.push(flaw),
        }
    }
    pools
}

/// The templates that stand in a tree, as [`resolve`] would use them.
///
/// # Errors
/// Those that are none.
pub fn templates(tree: &Tree, base: Option<&Path>) -> Result<BTreeMap<TemplateName, Template>, Flaws> {
    let names = tree
        .value()
        .get("templates")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|all| all.keys());
    let mut templates = BTreeMap::new();
    let mut flaws = Vec::new();
    for name in names {
        let at = pointer(["templates", name]);
        let template = TemplateName::new(name).map_err(|e| tree.flaw_at_key(&at, e.to_string()));
        match template.and_then(|name| Ok((name, tree.get(&at)?))) {
            Ok((name, template)) => drop(templates.insert(name, absolute(template, base))),
            Err(flaw) => flaws.push(flaw),
        }
    }
    Flaws::none_in(flaws).map(|()| templates)
}

fn resolved(tree: &Tree, name: &str, base: Option<&Path>, known: &Known) -> Result<Resolved, Flaw> {
    let at = pointer(["pools", name]);
    let mut spec: PoolSpec = tree.get(&at)?;
    let written = pointer(["templates", spec.template.as_str()]);
    let template = match (tree.value().pointer(&written), known.templates.get(&spec.template)) {
        (Some(_), _) => absolute(tree.get(&written)?, base),
        (None, Some(template)) => template.clone(),
        (None, None) => {
            return Err(tree.flaw(
                &format!("{at}/template"),
                format!("no template is named {:?}", spec.template.as_str()),
            ));
        }
    };
    for sensor in spec.sensors.values_mut() {
        if let Some(directory) = &mut sensor.directory {
            join(&mut directory.path, base);
            directory.in_progress.iter_mut().for_each(|path| join(path, base));
        }
    }
    if let (true, Some(only)) = (spec.placements.is_empty(), known.everybodys().next()) {
        spec.placements.push(Placement::on(only.clone()));
    }
    Ok(Resolved {
        name: PoolName::new(name).map_err(|e| tree.flaw_at_key(&at, e.to_string()))?,
        template_version: version(&spec.template, &template),
        spec,
        template,
        line: tree.place(&at).key.map_or(0, |key| key.line),
    })
}

/// The template with its paths made absolute.
fn absolute(mut template: Template, base: Option<&Path>) -> Template {
    template.directory.iter_mut().for_each(|directory| join(directory, base));
    let from = template.directory.clone().or_else(|| base.map(Path::to_path_buf));
    for program in template.run.first_mut().into_iter().chain(template.set_up.first_mut()) {
        if let (true, Some(from)) = (program.contains('/') && !program.contains("${"), &from) {
            *program = from.join(&*program).to_string_lossy().into_owned();
        }
    }
    template
}

fn join(path: &mut PathBuf, base: Option<&Path>) {
    if let Some(base) = base {
        *path = base.join(&*path);
    }
}

/// A template's name and a digest of its content: another content is another version.
#[must_use]
pub fn version(name: &TemplateName, template: &Template) -> String {
    // A template always has a JSON form, and a struct's fields and a BTreeMap's keys always come in one order.
    format!("{name}@{:012x}", digest(template) >> 16)
}

/// The version of what a pool launches by one of its placements: the template's own, unless the placement changes something in it.
#[must_use]
pub fn version_on(pool: &Pool, placement: &Placement) -> String {
    if placement.machine.is_empty() {
        pool.template_version.clone()
    } else {
        version(&pool.spec.template, &placement.template(&pool.template))
    }
}

/// A digest of everything that decides what a launch by a placement asks of its site, the site's own settings (by their digest) included:
/// what was refused once is refused again for as long as this stays the same.
#[must_use]
pub fn asked_by(pool: &Pool, placement: &Placement, site: u64) -> u64 {
    digest(&(&placement.site, &placement.template(&pool.template), site))
}

/// What the guardrails hold to: changed bounds, engine or limits are a new wish, a pause or another sensor is not.
#[must_use]
pub fn wish_of(spec: &PoolSpec) -> u64 {
    digest(&(spec.min, spec.max, &spec.engine, &spec.limits))
}

/// A digest of a JSON form.
pub(crate) fn digest(of: &impl serde::Serialize) -> u64 {
    let canonical = serde_json::to_string(of).unwrap_or_default();
    canonical
        .bytes()
        .fold(FNV_START, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): the same on every machine and in every release.
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The most values set at once. Too low: a script has to ask twice.
pub const SET_MAX: usize = 100;

/// A pool with new values by dotted path, such as `engine.keep.n`; null takes a key out. A key that contains a dot is written in double
/// quotes: `sensors."a.b".every`. Setting another engine's key takes the old engine out. Naming the template, be it the one that the
/// pool has, takes its content as it is known now; a content that is given goes before any other.
///
/// # Errors
/// Every fault of the new settings; the paths in them are those of the pool.
pub fn patched(pool: &Pool, set: &BTreeMap<String, Value>, template: Option<&Template>, known: &Known) -> Result<Resolved, Flaws> {
    let name = pool.name.as_str();
    let whole = |text: String| Flaws::from(Tree::of(name, Value::Null).flaw("", text));
    if set.len() > SET_MAX {
        return Err(whole(format!("{} values at once are more than {SET_MAX}", set.len())));
    }
    let mut spec = serde_json::to_value(&pool.spec).map_err(|e| whole(e.to_string()))?;
    let mut flaws = Vec::new();
    for (path, value) in set {
        if let Err(why) = put(&mut spec, path, value) {
            flaws.push(Tree::of(name, Value::Null).flaw("", if path.is_empty() { why } else { format!("{path}: {why}") }));
        }
    }
    Flaws::none_in(flaws)?;
    let mut tree = json!({ "pools": { name: spec } });
    let called = tree.pointer(&pointer(["pools", name, "template"])).and_then(Value::as_str);
    let called = called.unwrap_or_default().to_owned();
    // The pool goes on with the template it has, unless it is given another.
    let is_known = set.contains_key("template") && known.templates.keys().any(|known| known.as_str() == called);
    let content = template.or_else(|| (called == pool.spec.template.as_str() && !is_known).then_some(&pool.template));
    if let Some(content) = content {
        tree["templates"] = json!({ called: content });
    }
    let tree = Tree::of(name, tree);
    let mut flaws = check(&tree, &schema(&known.engines));
    let mut pools = resolve(&tree, None, known, &mut flaws);
    for flaw in &mut flaws {
        let short = flaw
            .path
            .strip_prefix(&format!("pools.{name}"))
            .map(|rest| rest.trim_start_matches('.').to_owned());
        flaw.path = short.unwrap_or_else(|| flaw.path.clone());
    }
    Flaws::none_in(flaws)?;
    pools.pop().ok_or_else(|| whole("nothing is left of it".to_owned()))
}

fn put(root: &mut Value, path: &str, value: &Value) -> Result<(), String> {
    let keys = keys(path)?;
    let Some((last, before)) = keys.split_last() else {
        return Err("an empty path".to_owned());
    };
    if let ("engine", [name]) = (keys[0].as_str(), &keys[1..keys.len().min(2)])
        && let Some(engine) = root.get_mut("engine").and_then(Value::as_object_mut)
        && !engine.contains_key(name)
        && !value.is_null()
    {
        engine.clear();
    }
    let mut at = root;
    for key in before {
        if at.is_array() {
            let index: usize = key.parse().map_err(|_| format!("{key:?} is no place in a list"))?;
            at = at.get_mut(index).ok_or_else(|| format!("the list has no place {index}"))?;
            continue;
        }
        let Some(map) = at.as_object_mut() else {
            return Err(format!("what stands there has no key {key:?}"));
        };
        at = map.entry(key.clone()).or_insert_with(|| json!({}));
    }
    match at {
        Value::Object(map) if value.is_null() => drop(map.remove(last)),
        Value::Object(map) => drop(map.insert(last.clone(), value.clone())),
        Value::Array(list) => {
            let index: usize = last.parse().map_err(|_| format!("{last:?} is no place in a list"))?;
            let there = list.get_mut(index).ok_or_else(|| format!("the list has no place {index}"))?;
            *there = value.clone();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return Err(format!("what stands there has no key {last:?}")),
    }
    Ok(())
}

/// A dotted path taken apart.
fn keys(path: &str) -> Result<Vec<String>, String> {
    let mut keys = Vec::new();
    let mut rest = path;
    loop {
        let (key, after) = if let Some(quoted) = rest.strip_prefix('"') {
            let (key, after) = quoted.split_once('"').ok_or("a quote is not closed")?;
            (key, after)
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            rest.split_at(end)
        };
        if key.is_empty() {
            return Err("a key is empty; write a path such as engine.keep.n".to_owned());
        }
        keys.push(key.to_owned());
        match after.strip_prefix('.') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(keys),
            None => return Err("a dot is missing after a quote".to_owned()),
        }
        if keys.len() > epu_core::input::DEPTH_MAX {
            return Err("it is too deep".to_owned());
        }
    }
}

#[cfg(test)]
mod tests;
