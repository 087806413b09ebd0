//! From a domain's configuration to a pool's settings.
//!
//! | engine class, by its last two names | ours |
//! |---|---|
//! | `simplest.SimplestEngine` | `keep` with `preserve_n` |
//! | `npreserving.NpreservingEngine` | `keep` with `preserve_n` and `unique_instances` |
//! | `needy.NeedyEngine` | `keep` with `preserve_n`; one unique instance for each of `unique_values` |
//! | `queuelen_bounded.QueueLengthBoundedEngine` | `queue-length` with the two water marks |
//!
//! Only the names at the end count, since clients have the classes under several package paths. Other classes are refused when the domain is added,
//! as one was that could not be imported. All of this is pure; whether a template or a site is there is the controller's to say.
//!
//! Where the original let something through that it could not do, such as a low water above the high water, the controller's own check refuses it.

use std::collections::BTreeMap;

use epu_bus::amqp::dashi::wire::Problem;
use epu_core::id::SlotLabel;
use epu_core::pool::Template;
use epu_core::{PoolName, SiteName};
use serde_json::{Map, Value, json};

use super::config::Compatibility;
use super::problem::{IMPORT_ERROR, value_error};
use super::sections::Sections;

/// The class that the original took when a domain named none.
pub(crate) const DEFAULT_ENGINE: &str = "epu.decisionengine.impls.simplest.SimplestEngine";
/// The template of a domain that named none, in the original.
const DEFAULT_TYPE: &str = "epu_work_consumer";
/// The sensor of a domain that follows a queue.
pub(crate) const QUEUE_SENSOR: &str = "queue-length";
/// What a domain whose health is not watched waits for a silent instance. The original waited for ever.
const NEVER: &str = "30d";
/// The longest time that a domain's health can name, in seconds.
const SECONDS_MOST: f64 = 30.0 * 86_400.0;
/// The most characters of a name that is repeated in an error.
const SHOWN: usize = 120;

/// An engine of the original that has a counterpart here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Simplest,
    Npreserving,
    Needy,
    QueueLengthBounded,
}

/// What a domain's pool is to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    /// The template's name.
    pub template: String,
    /// Variables to put over the template's.
    pub variables: BTreeMap<String, String>,
    /// The size that instances were asked to have, which is only shown.
    pub allocation: Option<String>,
    /// The pool's settings but for `template`, by key.
    pub settings: Map<String, Value>,
}

impl Engine {
    /// The engine that a domain's configuration names.
    ///
    /// # Errors
    /// `ImportError`, which says what is supported.
    pub(crate) fn of(sections: &Sections) -> Result<Self, Problem> {
        let class = match sections.general.get("engine_class") {
            None | Some(Value::Null) => DEFAULT_ENGINE,
            Some(Value::String(class)) => class,
            Some(_) => return Err(value_error("general.engine_class must be text")),
        };
        let mut names = class.rsplit('.');
        match (names.next(), names.next()) {
            (Some("SimplestEngine"), Some("simplest")) => Ok(Self::Simplest),
            (Some("NpreservingEngine"), Some("npreserving")) => Ok(Self::Npreserving),
            (Some("NeedyEngine"), Some("needy")) => Ok(Self::Needy),
            (Some("QueueLengthBoundedEngine"), Some("queuelen_bounded")) => Ok(Self::QueueLengthBounded),
            _ => {
                let shown: String = class.chars().take(SHOWN).collect();
                let text = format!(
                    "No module named {shown}; supported are simplest.SimplestEngine, npreserving.NpreservingEngine, needy.NeedyEngine and \
                     queuelen_bounded.QueueLengthBoundedEngine"
                );
                Err(Problem::new(IMPORT_ERROR, text))
            }
        }
    }

    /// What the original said of an engine's settings, for the one that said anything.
    pub(crate) fn documentation(self) -> Option<&'static str> {
        match self {
            Self::Simplest => Some(
                "Keeps preserve_n instances running. Settings: preserve_n (required, a whole number of at least 0), epuworker_type (the template), \
                 force_site (the site), epuworker_allocation.",
            ),
            Self::Npreserving | Self::Needy | Self::QueueLengthBounded => None,
        }
    }
}

/// What a domain's pool is to be.
///
/// # Errors
/// `ImportError` for the engine's class, `ValueError` for its settings.
pub(crate) fn wanted(sections: &Sections, config: &Compatibility) -> Result<Wanted, Problem> {
    let engine = Engine::of(sections)?;
    let conf = Conf(&sections.engine_conf);
    let (type_key, site_key, allocation_key) = match engine {
        Engine::Needy => ("deployable_type", "iaas_site", "iaas_allocation"),
        Engine::Simplest | Engine::Npreserving | Engine::QueueLengthBounded => ("epuworker_type", "force_site", "epuworker_allocation"),
    };
    let default_type = config.default_template.as_ref().map_or(DEFAULT_TYPE, |name| name.as_str());
    let site = conf.text(site_key)?.or(config.default_site.as_ref().map(|site| site.as_str()));
    let mut settings = match engine {
        Engine::Simplest => {
            conf.only(&["force_site", "epuworker_type", "epuworker_allocation", "preserve_n"])?;
            kept(
                conf.count("preserve_n")?.ok_or_else(|| value_error("preserve_n is required"))?,
                json!({}),
                config,
            )?
        }
        Engine::Npreserving => {
            let n = conf.count("preserve_n")?.unwrap_or(0);
            kept(n, conf.unique_instances(n)?, config)?
        }
        Engine::Needy => {
            let n = conf.count("preserve_n")?.unwrap_or(0);
            let (n, unique) = conf.unique_values(n)?;
            kept(n, unique, config)?
        }
        Engine::QueueLengthBounded => following(&conf, config)?,
    };
    let placements = site.map(|site| json!([{ "site": site }])).unwrap_or_else(|| json!([]));
    settings.insert("placements".to_owned(), placements);
    settings.insert("health".to_owned(), health(&sections.health)?);
    settings.insert("limits".to_owned(), serde_json::to_value(&config.limits).unwrap_or_default());
    let mut vars = config.provisioner_vars.clone();
    vars.extend(conf.mapping("provisioner_vars")?);
    if let Some(credential) = sections.general.get("chef_credential").filter(|credential| !credential.is_null()) {
        vars.insert("chef_credential".to_owned(), credential.clone());
    }
    let mut variables = variables(&vars);
    variables.insert("heartbeat_dest".to_owned(), config.management_name.clone());
    // Each instance's own id, which only the provisioner knows.
    variables.insert("node_id".to_owned(), "${EPU_INSTANCE}".to_owned());
    Ok(Wanted {
        template: conf.text(type_key)?.unwrap_or(default_type).to_owned(),
        variables,
        allocation: conf.text(allocation_key)?.map(str::to_owned),
        settings,
    })
}

impl Wanted {
    /// The site it is placed on, if it names one.
    #[must_use]
    pub(crate) fn site(&self) -> Option<&str> {
        self.settings.get("placements")?.get(0)?.get("site")?.as_str()
    }

    /// Places it on a site.
    pub(crate) fn place_on(&mut self, site: &SiteName) {
        self.settings.insert("placements".to_owned(), json!([{ "site": site }]));
    }

    /// The pool as a file that the controller reads; `template` is the named one's content, if there is such a one.
    #[must_use]
    pub(crate) fn file(&self, pool: &PoolName, template: Option<&Template>) -> String {
        let mut spec = self.settings.clone();
        spec.insert("template".to_owned(), json!(self.template));
        let mut file = json!({ "pools": { pool.as_str(): spec } });
        // Without a template of that name the controller says so, with the place.
        if let Some(template) = template {
            file["templates"] = json!({ self.template.as_str(): with_variables(template, &self.variables) });
        }
        file.to_string()
    }

    /// The settings as changes of a pool.
    #[must_use]
    pub(crate) fn changes(&self) -> BTreeMap<String, Value> {
        let mut changes: BTreeMap<String, Value> = self.settings.clone().into_iter().collect();
        // A pool that no longer follows a queue has no sensor.
        changes.entry("sensors".to_owned()).or_insert_with(|| json!({}));
        changes
    }
}

/// A template with variables over its own.
#[must_use]
pub(crate) fn with_variables(template: &Template, variables: &BTreeMap<String, String>) -> Template {
    let mut template = template.clone();
    template
        .variables
        .extend(variables.iter().map(|(name, value)| (name.clone(), value.clone())));
    template
}

/// Variables of a template: as text, and with each `$` doubled, so that it arrives as it is.
#[must_use]
pub(crate) fn variables<'a>(vars: impl IntoIterator<Item = (&'a String, &'a Value)>) -> BTreeMap<String, String> {
    let doubled = |value| text_of(value).replace('$', "$$");
    vars.into_iter().map(|(name, value)| (name.clone(), doubled(value))).collect()
}

/// A variable as text: lists and mappings as JSON, as the original did.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn kept(n: u32, unique: Value, config: &Compatibility) -> Result<Map<String, Value>, Problem> {
    if n > config.most {
        return Err(value_error(format!(
            "preserve_n {n} is more than {}, the most allowed here (`most`)",
            config.most
        )));
    }
    let mut keep = json!({ "n": n });
    if unique.as_object().is_some_and(|unique| !unique.is_empty()) {
        keep["unique"] = unique;
    }
    Ok(Map::from_iter([
        ("min".to_owned(), json!(0)),
        ("max".to_owned(), json!(config.most)),
        ("engine".to_owned(), json!({ "keep": keep })),
    ]))
}

fn following(conf: &Conf<'_>, config: &Compatibility) -> Result<Map<String, Value>, Problem> {
    let mark = |key: &str| conf.count(key)?.ok_or_else(|| value_error(format!("{key} is required")));
    let (high, low) = (mark("queuelen_high_water")?, mark("queuelen_low_water")?);
    let min = conf.count("min_instances")?.unwrap_or(0);
    let queue = match conf.text("queue_name_work")? {
        Some(queue) => queue,
        None => conf
            .text("queue_name")?
            .ok_or_else(|| value_error("queue_name_work is required: the queue to follow"))?,
    };
    let url = config.queue_url.as_ref().or(config.url.as_ref());
    let url = url.ok_or_else(|| value_error("no broker is configured whose queues can be followed (`queue-url`)"))?;
    let mut rabbitmq = json!({ "url": url, "queue": queue, "count": "ready" });
    if let Some(management) = &config.queue_management_url {
        rabbitmq["management-url"] = json!(management);
        rabbitmq["count"] = json!("ready+unacked");
    }
    let engine = json!({ "queue-length": { "sensor": QUEUE_SENSOR, "high-water": high, "low-water": low } });
    Ok(Map::from_iter([
        ("min".to_owned(), json!(min)),
        ("max".to_owned(), json!(config.most)),
        ("engine".to_owned(), engine),
        ("sensors".to_owned(), json!({ QUEUE_SENSOR: { "rabbitmq": rabbitmq } })),
    ]))
}

/// The section `health`. Without `monitor_health` silence condemns nobody; machines that a site no longer has are replaced all the same.
fn health(section: &Map<String, Value>) -> Result<Value, Problem> {
    let monitored = match section.get("monitor_health") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(_) => return Err(value_error("health.monitor_health must be true or false")),
    };
    if !monitored {
        return Ok(json!({ "boot": NEVER, "missing": NEVER }));
    }
    let mut limits = Map::new();
    for (theirs, ours) in [
        ("boot_timeout", "boot"),
        ("missing_timeout", "missing"),
        ("really_missing_timeout", "really-missing"),
        ("zombie_seconds", "zombie"),
    ] {
        let millis = match section.get(theirs) {
            None | Some(Value::Null) => continue,
            Some(seconds) => seconds
                .as_f64()
                .filter(|s| (0.0..=SECONDS_MOST).contains(s))
                .map(|s| (s * 1_000.0).round()),
        };
        let millis = millis.ok_or_else(|| value_error(format!("health.{theirs} must be seconds, at most {SECONDS_MOST}")))?;
        limits.insert(ours.to_owned(), json!(format!("{millis:.0}ms")));
    }
    Ok(Value::Object(limits))
}

/// An engine's settings.
struct Conf<'a>(&'a Map<String, Value>);

impl<'a> Conf<'a> {
    fn only(&self, keys: &[&str]) -> Result<(), Problem> {
        match self.0.keys().find(|key| !keys.contains(&key.as_str())) {
            None => Ok(()),
            Some(unknown) => {
                let shown: String = unknown.chars().take(SHOWN).collect();
                Err(value_error(format!(
                    "{shown} is not a setting of this engine; it has {}",
                    keys.join(", ")
                )))
            }
        }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, Problem> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(value_error(format!("engine_conf.{key} must be text"))),
        }
    }

    fn mapping(&self, key: &str) -> Result<BTreeMap<String, Value>, Problem> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(BTreeMap::new()),
            Some(Value::Object(map)) => Ok(map.clone().into_iter().collect()),
            Some(_) => Err(value_error(format!("engine_conf.{key} must be a mapping"))),
        }
    }

    /// A whole number of at least 0; a text of digits will do, as for Python's `int()`.
    fn count(&self, key: &str) -> Result<Option<u32>, Problem> {
        let number = match self.0.get(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) => number.as_u64().and_then(|n| u32::try_from(n).ok()),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => None,
        };
        number
            .map(Some)
            .ok_or_else(|| value_error(format!("{key} must be a whole number of at least 0")))
    }

    /// `unique_instances`: variables by label.
    fn unique_instances(&self, n: u32) -> Result<Value, Problem> {
        let unique = self.mapping("unique_instances")?;
        if u32::try_from(unique.len()).is_ok_and(|count| count > n) || u32::try_from(unique.len()).is_err() {
            let text = format!("{} unique_instances are more than preserve_n, which is {n}", unique.len());
            return Err(value_error(text));
        }
        let mut slots = Map::new();
        for (label, vars) in &unique {
            let Value::Object(vars) = vars else {
                return Err(value_error(format!("unique_instances.{label} must be a mapping of variables")));
            };
            let vars: BTreeMap<&String, String> = vars.iter().map(|(name, value)| (name, text_of(value))).collect();
            slots.insert(slot_label(label), json!(vars));
        }
        if slots.len() != unique.len() {
            return Err(value_error(
                "unique_instances: two labels are the same to us; use letters, digits, '.', '_' and '-'",
            ));
        }
        Ok(Value::Object(slots))
    }

    /// `unique_key` and `unique_values`: the first values go to one instance each. With fewer values than `preserve_n` there are only as many instances
    /// as values, as in the original.
    fn unique_values(&self, n: u32) -> Result<(u32, Value), Problem> {
        let Some(key) = self.text("unique_key")? else {
            return Ok((n, json!({})));
        };
        let values: Vec<String> = match self.0.get("unique_values") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(list)) => list
                .split(',')
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
                .collect(),
            Some(Value::Array(list)) => list.iter().map(text_of).collect(),
            Some(_) => return Err(value_error("engine_conf.unique_values must be a list or a text with commas")),
        };
        if values.is_empty() {
            return Ok((n, json!({})));
        }
        let most = usize::try_from(n).unwrap_or(usize::MAX);
        let mut slots = Map::new();
        for value in values.iter().take(most) {
            slots.insert(slot_label(value), json!({ key: value }));
        }
        Ok((n.min(u32::try_from(slots.len()).unwrap_or(u32::MAX)), Value::Object(slots)))
    }
}

/// A label as a slot's: itself where it can be, otherwise what it has of letters and digits and a digest of the whole.
fn slot_label(text: &str) -> String {
    if SlotLabel::new(text).is_ok() {
        return text.to_owned();
    }
    super::domains::plain(text, 40)
}

#[cfg(test)]
mod tests;
