//! What a schema cannot say. Each rule looks at the tree, takes a default for what was left out, and is silent about what is not of the
//! form that the schema asks for: that has been said already.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use epu_core::health::HealthLimits;
use epu_core::id::UNPOOLED;
use epu_core::input::{Flaw, Tree, pointer};
use epu_core::pool::Limits;
use epu_core::secret::SecretUrl;
use epu_core::{PoolName, Span};
use serde_json::{Map, Value};

use super::{Known, machines, programs};

/// An agent that reports more often than this only makes noise.
const HEARTBEAT_LEAST: Span = Span::millis(100);
/// The ways a sensor can be read.
const SOURCES: [&str; 3] = ["rabbitmq", "directory", "heartbeat"];

/// The most placements of a pool. Too low: zones times sizes times markets do not fit. Too high: as many metrics and scores a pool.
const PLACEMENTS_MAX: usize = 64;

pub(super) struct Rules<'a> {
    pub(super) tree: &'a Tree,
    pub(super) base: Option<&'a Path>,
    pub(super) known: &'a Known,
}

impl<'a> Rules<'a> {
    pub(super) fn check(&self, flaws: &mut Vec<Flaw>) {
        let mut found = Vec::new();
        for name in self.keys("/templates") {
            self.template(name, &mut found);
        }
        for name in self.keys("/pools").filter(|name| PoolName::new(name).is_ok()) {
            let at = pointer(["pools", name]);
            if name == UNPOOLED {
                let flaw = self.tree.flaw_at_key(&at, "this name stands for having no pool");
                flaws.push(flaw.help("choose another name"));
            }
            self.pool(&Spot::new(self, at), flaws, &mut found);
        }
        flaws.append(&mut found);
    }

    fn keys(&self, at: &str) -> impl Iterator<Item = &'a String> + use<'a> {
        let map = self.tree.value().pointer(at).and_then(Value::as_object);
        map.into_iter().flat_map(Map::keys)
    }

    fn template(&self, name: &str, flaws: &mut Vec<Flaw>) {
        let at = Spot::new(self, pointer(["templates", name]));
        let heartbeat = at.span("heartbeat").unwrap_or(Span::secs(5));
        if heartbeat < HEARTBEAT_LEAST {
            flaws.push(at.flaw(
                "heartbeat",
                format!("{heartbeat} is less than {HEARTBEAT_LEAST}, the least allowed"),
            ));
        }
        if at.span("ready-within").is_some_and(|within| within.is_zero()) {
            flaws.push(at.flaw("ready-within", "no instance would ever be ready in time".to_owned()));
        }
        for variable in self.keys(&at.below("variables")) {
            let good = !variable.is_empty() && !variable.contains(['=', '\0']);
            if !good || variable.starts_with("EPU_") {
                let why = if good {
                    "names that begin with EPU_ are the agent's own"
                } else {
                    "no name for a variable"
                };
                let inside = pointer(["variables", variable]);
                flaws.push(self.tree.flaw_at_key(&format!("{}{inside}", at.pointer), why));
            }
        }
        let directory = at.text("directory").map(PathBuf::from);
        let directory = self.path(&at, "directory", directory, flaws);
        self.programs(&at, directory.as_deref(), flaws);
        machines::check(&at.inside(["machine"]), flaws);
    }

    fn programs(&self, at: &Spot<'_>, directory: Option<&Path>, flaws: &mut Vec<Flaw>) {
        let Some(search) = &self.known.search else {
            return;
        };
        if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
            flaws.push(at.flaw("directory", format!("there is no directory {}", directory.display())));
            return;
        }
        let search = at.text("variables/PATH").map_or_else(|| search.clone(), Into::into);
        for key in ["run/0", "set-up/0"] {
            // A program named by a variable is known only at launch.
            let Some(program) = at.text(key).filter(|program| !program.contains("${")) else {
                continue;
            };
            let relative = program.contains('/') && Path::new(program).is_relative();
            if relative && directory.or(self.base).is_none() {
                flaws.push(at.flaw(key, format!("{program:?} is relative, and there is no file to be relative to")));
            } else if let Some(why) = programs::fault(program, directory.or(self.base), &search) {
                flaws.push(at.flaw(key, why));
            }
        }
    }

    /// A path made absolute; a flaw when it is relative to nothing.
    fn path(&self, at: &Spot<'_>, key: &str, path: Option<PathBuf>, flaws: &mut Vec<Flaw>) -> Option<PathBuf> {
        let path = path?;
        if path.is_absolute() {
            return Some(path);
        }
        if self.base.is_none() {
            let text = format!("{} is relative, and there is no file to be relative to", path.display());
            flaws.push(at.flaw(key, text));
        }
        self.base.map(|base| base.join(path))
    }

    fn pool(&self, at: &Spot<'a>, of_form: &[Flaw], flaws: &mut Vec<Flaw>) {
        let min = at.whole("min").unwrap_or(0);
        if let Some(max) = at.whole("max").filter(|max| min > *max) {
            flaws.push(at.flaw("min", format!("min {min} is more than max {max}")));
        }
        self.template_of(at, flaws);
        self.engine(at, of_form, flaws);
        for name in self.keys(&at.below("sensors")) {
            self.sensor(&at.inside(["sensors", name]), flaws);
        }
        self.placements(at, min, flaws);
        self.budget(at, flaws);
        self.no_faster_than_a_tick(at, "limits/cooldown-up", Limits::default().cooldown_up, flaws);
        self.no_faster_than_a_tick(at, "limits/cooldown-down", Limits::default().cooldown_down, flaws);
    }

    /// A budget is kept by prices: every placement has to have one.
    fn budget(&self, at: &Spot<'a>, flaws: &mut Vec<Flaw>) {
        let (Some(_), Some(template)) = (at.value("limits/budget").and_then(Value::as_f64), at.text("template")) else {
            return;
        };
        let here = Spot::new(self, pointer(["templates", template]));
        let elsewhere = self.known.templates.iter().find(|(name, _)| name.as_str() == template);
        let has_price = match (here.exists(), elsewhere) {
            (true, _) => here.value("machine/price").is_some(),
            (false, Some((_, template))) => template.machine.price.is_some(),
            // That it is missing has been said.
            (false, None) => return,
        };
        if has_price {
            return;
        }
        let list = at.value("placements").and_then(Value::as_array).map_or(0, Vec::len);
        let places = (0..list.min(PLACEMENTS_MAX)).map(|i| at.inside(["placements", &i.to_string()]));
        let unpriced: Vec<Spot<'_>> = places.filter(|place| place.value("machine/price").is_none()).collect();
        if list > 0 && unpriced.is_empty() {
            return;
        }
        let named = |place: &Spot<'a>| place.text("name").or_else(|| place.text("site"));
        let names: Vec<&str> = unpriced.iter().filter_map(named).collect();
        let text = match names.as_slice() {
            [] => "a budget is kept by prices, and the template's machine has none".to_owned(),
            names => format!("a budget is kept by prices, and there is none for {}", names.join(", ")),
        };
        let flaw = at.flaw("limits/budget", text);
        flaws.push(flaw.help("write what an hour costs as `price` under the template's `machine`, or under each placement's"));
    }

    fn no_faster_than_a_tick(&self, at: &Spot<'_>, key: &str, default: Span, flaws: &mut Vec<Flaw>) {
        let length = at.span(key).unwrap_or(default);
        let tick = self.known.tick;
        // None at all is not a short one.
        if length < tick && (!length.is_zero() || key == "every") {
            flaws.push(at.flaw(key, format!("{length} is shorter than a tick, which is {tick}")));
        }
    }

    fn template_of(&self, at: &Spot<'_>, flaws: &mut Vec<Flaw>) {
        let Some(name) = at.text("template") else {
            return;
        };
        let here = Spot::new(self, pointer(["templates", name]));
        let elsewhere = self.known.templates.iter().find(|(known, _)| known.as_str() == name);
        if !here.exists() && elsewhere.is_none() {
            let known: BTreeSet<&str> = self
                .keys("/templates")
                .map(String::as_str)
                .chain(self.known.templates.keys().map(|name| name.as_str()))
                .collect();
            let flaw = at
                .flaw("template", format!("no template is named {name:?}"))
                .did_you_mean(name, known.iter().copied());
            let all = known.into_iter().collect::<Vec<_>>().join(", ");
            flaws.push(match flaw.help {
                None if !all.is_empty() => flaw.help(format!("there are: {all}")),
                Some(_) | None => flaw,
            });
            return;
        }
        let written = here.span("heartbeat").filter(|_| here.exists());
        let heartbeat = written.or_else(|| elsewhere.filter(|_| !here.exists()).map(|(_, template)| template.heartbeat));
        let heartbeat = heartbeat.unwrap_or(Span::secs(5));
        let missing = at.span("health/missing").unwrap_or(HealthLimits::default().missing);
        if *heartbeat > *missing / 2 {
            let text =
                format!("workers report every {heartbeat}, which is more than half of health.missing ({missing}): they would look silent");
            let says_so = at.tree().value().pointer(&at.below("health/missing")).is_some();
            flaws.push(if says_so || !here.exists() {
                at.flaw("health/missing", text)
            } else {
                here.flaw("heartbeat", text)
            });
        }
    }

    fn engine(&self, at: &Spot<'_>, of_form: &[Flaw], flaws: &mut Vec<Flaw>) {
        let engines = at.value("engine").and_then(Value::as_object);
        for (name, settings) in engines.into_iter().flatten() {
            if self.known.engines.canonical(name).is_none() {
                continue;
            }
            let here = at.inside(["engine", name]);
            let mut sensors = Vec::new();
            match self.known.engines.make(name, settings) {
                Ok(engine) => sensors.extend(engine.sensors().iter().map(|sensor| sensor.as_str().to_owned())),
                Err(problems) => {
                    sensors.extend(here.text("sensor").map(str::to_owned));
                    for problem in problems {
                        let flaw = self.tree.flaw(&format!("{}{}", here.pointer, problem.path), problem.text);
                        // Faults of form are found by the schema too, which says them better.
                        if !of_form
                            .iter()
                            .any(|other| is_about_the_same(other, &flaw, self.tree, &here.pointer, &problem.path))
                        {
                            flaws.push(flaw);
                        }
                    }
                }
            }
            for sensor in sensors {
                self.engine_sensor(at, &here, &sensor, flaws);
            }
            if self.known.engines.canonical(name) == Some("keep") {
                self.keep_within_bounds(at, &here, flaws);
            }
        }
    }

    fn engine_sensor(&self, at: &Spot<'_>, here: &Spot<'_>, sensor: &str, flaws: &mut Vec<Flaw>) {
        let known: Vec<&str> = self.keys(&at.below("sensors")).map(String::as_str).collect();
        if known.contains(&sensor) {
            return;
        }
        // The setting that names it, when there is one.
        let settings = here.value("").and_then(Value::as_object);
        let key = settings.into_iter().flatten().find(|(_, value)| value.as_str() == Some(sensor));
        let flaw = here.flaw(key.map_or("", |(key, _)| key), format!("the pool has no sensor {sensor:?}"));
        let flaw = flaw.did_you_mean(sensor, known.iter().copied());
        flaws.push(match flaw.help {
            None if known.is_empty() => flaw.help("define it under `sensors:`"),
            None => flaw.help(format!("its sensors are: {}", known.join(", "))),
            Some(_) => flaw,
        });
    }

    fn keep_within_bounds(&self, at: &Spot<'_>, here: &Spot<'_>, flaws: &mut Vec<Flaw>) {
        let Some(n) = here.whole("n") else {
            return;
        };
        if let Some(max) = at.whole("max").filter(|max| n > *max) {
            flaws.push(here.flaw("n", format!("n {n} is more than the pool's max {max}")));
        }
        if let Some(min) = at.whole("min").filter(|min| n < *min) {
            flaws.push(here.flaw("n", format!("n {n} is less than the pool's min {min}")));
        }
    }

    fn sensor(&self, at: &Spot<'_>, flaws: &mut Vec<Flaw>) {
        let given: Vec<&str> = SOURCES.into_iter().filter(|source| at.value(source).is_some()).collect();
        if at.value("").is_some_and(Value::is_object) && given.len() != 1 {
            let found = if given.is_empty() {
                "no source".to_owned()
            } else {
                format!("more than one source: {}", given.join(", "))
            };
            let flaw = self.tree.flaw_at_key(&at.pointer, found);
            flaws.push(flaw.help(format!("give exactly one of {}", SOURCES.join(", "))));
        }
        self.rabbit(&at.inside(["rabbitmq"]), flaws);
        for key in ["directory/path", "directory/in-progress"] {
            let path = at.text(key).map(PathBuf::from);
            let _absolute = self.path(at, key, path, flaws);
        }
        self.no_faster_than_a_tick(at, "every", Span::secs(5), flaws);
        let every = at.span("every").unwrap_or(Span::secs(5));
        let stale_after = at.span("stale-after");
        if let Some(stale_after) = stale_after.filter(|stale_after| *stale_after < every) {
            flaws.push(at.flaw(
                "stale-after",
                format!("{stale_after} is shorter than `every` ({every}): it would be stale between two readings"),
            ));
        }
        let stale_after = stale_after.unwrap_or(Span((*every * 3).max(*Span::secs(15))));
        if let Some(missing_after) = at.span("missing-after").filter(|missing_after| *missing_after < stale_after) {
            flaws.push(at.flaw(
                "missing-after",
                format!("{missing_after} is shorter than `stale-after` ({stale_after})"),
            ));
        }
    }

    fn rabbit(&self, at: &Spot<'_>, flaws: &mut Vec<Flaw>) {
        if at.text("count") == Some("ready+unacked") && at.value("management-url").is_none() {
            let flaw = at.flaw(
                "count",
                "`ready+unacked` needs `management-url`: a passive declare counts only what waits".to_owned(),
            );
            flaws.push(flaw.help("add management-url, such as env:RABBITMQ_MANAGEMENT"));
        }
        for (key, schemes) in [("url", ["amqp", "amqps"]), ("management-url", ["http", "https"])] {
            let Some(written) = at.text(key) else {
                continue;
            };
            if SecretUrl::new(written).has_open_password() {
                let flaw = at.flaw(key, "a password stands here in the open".to_owned());
                flaws.push(flaw.help("put the address into a variable or a file and write env:NAME or file:/path"));
            }
            let is_reference = ["env:", "file:"].iter().any(|kind| written.starts_with(kind));
            let scheme = written.split_once("://").map(|(scheme, _)| scheme);
            if !is_reference && !scheme.is_some_and(|scheme| schemes.contains(&scheme)) {
                let text = format!(
                    "no {} address: it is to begin with {}://, env: or file:",
                    schemes[0],
                    schemes.join(":// or ")
                );
                flaws.push(at.flaw(key, text));
            }
        }
    }

    fn placements(&self, at: &Spot<'_>, min: u64, flaws: &mut Vec<Flaw>) {
        let sites: Vec<&str> = self.known.sites.iter().map(|site| site.as_str()).collect();
        let Some(list) = at.value("placements").and_then(Value::as_array).filter(|list| !list.is_empty()) else {
            let choice: Vec<&str> = self.known.everybodys().map(|site| site.as_str()).collect();
            if choice.is_empty() {
                let flaw = self.tree.flaw_at_key(&at.pointer, "there is no site to place it on".to_owned());
                flaws.push(flaw.help("write one under `sites:` in the config file, or add one with `epumgmt site add`"));
            }
            if choice.len() > 1 {
                let flaw = self.tree.flaw_at_key(
                    &at.pointer,
                    format!("`placements` is missing, and there are {} sites", choice.len()),
                );
                flaws.push(flaw.help(format!("name one of: {}", choice.join(", "))));
            }
            return;
        };
        if list.len() > PLACEMENTS_MAX {
            let text = format!("{} placements are more than {PLACEMENTS_MAX}", list.len());
            flaws.push(self.tree.flaw_at_key(&at.below("placements"), text));
            return;
        }
        // By name: where it stands, and whether it was given one.
        let mut seen: BTreeMap<&str, (String, bool)> = BTreeMap::new();
        let mut room = Some(0_u64);
        for i in 0..list.len() {
            let i = i.to_string();
            let here = at.inside(["placements", &i]);
            machines::check(&here.inside(["machine"]), flaws);
            if let Some(site) = here.text("site")
                && !sites.contains(&site)
            {
                let flaw = here
                    .flaw("site", format!("no site is named {site:?}"))
                    .did_you_mean(site, sites.iter().copied());
                flaws.push(match flaw.help {
                    None => flaw.help(format!("there are: {}", sites.join(", "))),
                    Some(_) => flaw,
                });
            }
            let named = here.text("name");
            if let Some(name) = named.filter(|name| sites.contains(name) && here.text("site") != Some(*name)) {
                let flaw = here.flaw("name", format!("{name:?} is the name of another site"));
                flaws.push(flaw.help("a placement without a name is called like its site; choose a name that no site has"));
            }
            if let Some(called) = named.or_else(|| here.text("site")) {
                let key = if named.is_some() { "name" } else { "site" };
                match seen.get(called) {
                    Some((first, false)) if named.is_none() => {
                        let text = format!("site {called:?} is used a second time, first {first}, and neither use has a name");
                        let flaw = here.flaw(key, text);
                        flaws.push(flaw.help(format!("give each a name of its own, such as `name: {called}-2`")));
                    }
                    Some((first, _)) => {
                        let text = format!("a second placement is called {called:?}, the first one {first}");
                        let flaw = here.flaw(key, text);
                        flaws.push(flaw.help("a placement without a name is called like its site; give each a name of its own"));
                    }
                    None => drop(seen.insert(called, (here.whereabouts(key), named.is_some()))),
                }
            }
            // One without a maximum takes the whole pool.
            room = room.zip(here.whole("max")).map(|(room, max)| room.saturating_add(max));
        }
        if let Some(room) = room.filter(|room| *room < min) {
            let text = format!("all placements together take {room}, which is less than the pool's min {min}");
            flaws.push(self.tree.flaw_at_key(&at.below("placements"), text));
        }
    }
}

/// Whether a flaw of form is about what an engine complains of too.
fn is_about_the_same(of_form: &Flaw, of_engine: &Flaw, tree: &Tree, engine: &str, inside: &str) -> bool {
    if inside.is_empty() {
        // A setting that is missing, perhaps because it is misspelt.
        return of_form.path.starts_with(&of_engine.path);
    }
    if of_form.line == 0 {
        // Without lines: the same path, or the key that is unknown in it.
        let last = inside.rsplit('/').next().unwrap_or_default();
        let parent = of_engine.path.rfind('.').map_or("", |dot| &of_engine.path[..dot]);
        return of_form.path == of_engine.path || (of_form.path == parent && !last.is_empty() && of_form.text.contains(last));
    }
    let place = tree.place(&format!("{engine}{inside}"));
    let mark = epu_core::input::Mark {
        line: of_form.line,
        column: of_form.column,
    };
    mark == place.value || Some(mark) == place.key
}

/// A place in the tree, with what stands below it.
pub(super) struct Spot<'a> {
    tree: &'a Tree,
    pointer: String,
}

impl<'a> Spot<'a> {
    fn new(rules: &Rules<'a>, pointer: String) -> Self {
        Self { tree: rules.tree, pointer }
    }

    pub(super) fn tree(&self) -> &'a Tree {
        self.tree
    }

    pub(super) fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Where something stands, in words.
    pub(super) fn whereabouts(&self, keys: &str) -> String {
        let at = self.below(keys);
        match self.tree.place(&at).value.line {
            0 => format!("at {}", self.tree.flaw(&at, String::new()).path),
            line => format!("in line {line}"),
        }
    }

    pub(super) fn inside<'k>(&self, keys: impl IntoIterator<Item = &'k str>) -> Self {
        Self {
            tree: self.tree,
            pointer: format!("{}{}", self.pointer, pointer(keys)),
        }
    }

    fn exists(&self) -> bool {
        self.value("").is_some()
    }

    /// The pointer of `keys`, which have slashes between them and no other.
    fn below(&self, keys: &str) -> String {
        if keys.is_empty() {
            self.pointer.clone()
        } else {
            format!("{}/{keys}", self.pointer)
        }
    }

    pub(super) fn value(&self, keys: &str) -> Option<&'a Value> {
        self.tree.value().pointer(&self.below(keys))
    }

    pub(super) fn text(&self, keys: &str) -> Option<&'a str> {
        self.value(keys)?.as_str()
    }

    fn whole(&self, keys: &str) -> Option<u64> {
        self.value(keys)?.as_u64()
    }

    fn span(&self, keys: &str) -> Option<Span> {
        self.text(keys)?.parse().ok()
    }

    pub(super) fn flaw(&self, keys: &str, text: String) -> Flaw {
        self.tree.flaw(&self.below(keys), text)
    }
}
