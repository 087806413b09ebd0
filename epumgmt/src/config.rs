//! The config file: read whole, checked whole, every fault shown at once with its place.
//!
//! It is one YAML file. Its form is [`schema`]: the settings of this program, with the pools and engines of
//! [`epu_controller::spec`] put in, so that one definition serves the check, editors (`epumgmt config schema`) and `docs/configuration.md`
//! (`reference`). Everything has a default but pools themselves. Relative paths count from the directory the file is in.

pub(crate) mod distributed;
pub(crate) mod reference;
pub(crate) mod sites;
pub(crate) mod templates;
pub(crate) mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use epu_bus::users::Users;
use epu_controller::spec::{self, Known, Resolved};
use epu_core::input::{Flaw, Flaws, TEXT_MAX, Tree, check, schema_of, strict};
use epu_core::pool::Template;
use epu_core::secret::SecretUrl;
use epu_core::{Fault, SiteName, Span, TemplateName};
use epu_decision_engines::Registry;
use epu_provisioner::iaas::spec::SiteSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::Role;
use crate::compatibility::config::Compatibility;

use self::distributed::{Amqp, StoreChoice};
use self::tls::{Tls, Way, Written};

/// The file that is read when none is named.
pub(crate) const DEFAULT_FILE: &str = "epu.yaml";
/// Where data lies when no file says so.
pub(crate) const DEFAULT_DATA: &str = "epu-data";
/// The operators' token in the data directory.
pub(crate) const TOKEN_FILE: &str = "operator.token";
/// Before the names of queues and exchanges when no file says otherwise.
pub(crate) const DEFAULT_SYSNAME: &str = "epu";
/// Where `serve` listens when no file says so.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:8650";

/// What the bounds of `tick` are. Below: the machine does nothing else. Above: deadlines pass unnoticed.
const TICK: (Span, Span) = (Span::millis(10), Span::secs(60));
/// Less retention than this and nobody could look up what just happened.
const RETENTION_LEAST: Span = Span::secs(60);

/// The settings of the program itself, as written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
struct File {
    /// Where records, keys and the directories of local instances lie. One process at a time uses it.
    data_dir: PathBuf,
    /// Where operators and agents reach this process, as `address:port`; beyond loopback only with `tls`.
    listen: String,
    /// How often deadlines, cooldowns and ageing readings are looked at. News is looked at when it comes.
    tick: Span,
    /// How long ended instances, their output, and the journal are kept.
    retention: Span,
    /// What is logged, and how. Logs go to standard error.
    log: Log,
    /// Where records are kept.
    store: StoreChoice,
    /// The broker that carries messages between processes. Left out: one process does everything and needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    amqp: Option<Amqp>,
    /// Who may do what, by the name that the broker knows them by. Whoever is not named may do nothing over the broker.
    users: Users,
    /// Where agents reach this process, as `https://host:port`, or `http://host:port` on loopback; left out: at `listen`. Wanted as soon as
    /// a site is not this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise: Option<String>,
    /// By which authority agents know the certificate at `advertise` when it is not the one in `tls`, but that of a proxy or tunnel in front:
    /// a PEM file, or `system` for those that each machine trusts by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise_ca: Option<String>,
    /// TLS at the door. Left out: it speaks plain HTTP, and only on loopback.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<Tls>,
    /// The key that agents' tokens are made from, as `env:NAME` or `file:/path`; the same for all processes of an installation. Left
    /// out: `installation.key` in `data-dir`, made at the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    installation_key: Option<SecretUrl>,
    /// Answers for clients of the original EPU. Left out: there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    compatibility: Option<Compatibility>,
    /// Who we are at sites, by name, for `ec2.credentials: {name: NAME}` of one or several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    credentials: sites::Named,
    /// Where to launch, by name. Others can be added while it serves, by `epumgmt site add`.
    sites: BTreeMap<SiteName, SiteSpec>,
}

impl Default for File {
    fn default() -> Self {
        let local = SiteName::new("local").map(|name| (name, SiteSpec::default()));
        Self {
            data_dir: DEFAULT_DATA.into(),
            listen: DEFAULT_LISTEN.to_owned(),
            tick: Span::secs(1),
            retention: Span::secs(7 * 86_400),
            log: Log::default(),
            store: StoreChoice::default(),
            amqp: None,
            users: Users::default(),
            advertise: None,
            advertise_ca: None,
            tls: None,
            installation_key: None,
            compatibility: None,
            credentials: sites::Named::new(),
            sites: local.into_iter().collect(),
        }
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct Log {
    /// What: `error`, `warn`, `info`, `debug` or `trace`, also by module, such as `info,epu_controller=debug`.
    #[schemars(length(min = 1, max = 1_000))]
    pub level: String,
    /// How.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// A config file without faults, with every path made absolute.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The file.
    pub file: PathBuf,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where to listen; beyond loopback only with TLS.
    pub listen: SocketAddr,
    /// How often to look at time.
    pub tick: Span,
    /// How long the past is kept.
    pub retention: Span,
    /// What is logged.
    pub log: Log,
    /// Where records are kept.
    pub store: StoreChoice,
    /// The broker.
    pub amqp: Option<Amqp>,
    /// Who may do what over it.
    pub users: Users,
    /// Where agents reach this process, when it is not where it listens; see [`Config::way`].
    pub advertise: Option<String>,
    /// TLS at the door.
    pub tls: Option<Tls>,
    /// By what the certificate at `advertise` is known, as written.
    advertise_ca: Option<String>,
    /// The certificate of the authority that agents pin, if it is in a file that was named.
    authority: Option<String>,
    /// Where the key is that agents' tokens are made from.
    pub installation_key: Option<SecretUrl>,
    /// Answers for old clients.
    pub compatibility: Option<Compatibility>,
    /// Credentials that sites name.
    pub credentials: sites::Named,
    /// The sites, with the credentials that they name in place.
    pub sites: BTreeMap<SiteName, SiteSpec>,
    /// On which line each of them stands.
    pub site_lines: BTreeMap<SiteName, u32>,
    /// The templates.
    pub templates: BTreeMap<TemplateName, Template>,
    /// The pools.
    pub pools: Vec<Resolved>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Every fault; one without a line when the file cannot be read at all.
    pub(crate) fn load(path: &Path) -> Result<Self, Flaws> {
        Self::read(path, &text_of(path)?)
    }

    /// Checks what a file says.
    ///
    /// # Errors
    /// Every fault.
    pub(crate) fn read(path: &Path, text: &str) -> Result<Self, Flaws> {
        let shown = path.display().to_string();
        let tree = Tree::read(&shown, text)?;
        let engines = Registry::standard();
        let mut flaws = check(&tree, &schema(&engines));
        let file = std::path::absolute(path).map_err(|e| tree.flaw("", format!("find its directory: {e}")))?;
        let base = file.parent().unwrap_or(Path::new("/"));
        let tick = tree.value().get("tick").and_then(Value::as_str).and_then(|text| text.parse().ok());
        let tick = tick.unwrap_or_else(|| File::default().tick);
        let known = known(engines, sites::named(&tree), sites::are_here(&tree), tick);
        rules(&tree, base, &mut flaws);
        sites::rules(&tree, base, &mut flaws);
        let pools = spec::resolve(&tree, Some(base), &known, &mut flaws);
        Flaws::none_in(flaws)?;
        let written: File = tree.get("")?;
        let data_dir = base.join(&written.data_dir);
        let tls = written.tls.map(|tls| tls.based(base));
        let authority = tls::agents_ca(tls.as_ref(), written.advertise_ca.as_deref(), base, &data_dir);
        Ok(Self {
            data_dir,
            listen: written.listen.parse().map_err(|e| tree.flaw("/listen", format!("{e}")))?,
            tick: written.tick,
            retention: written.retention,
            log: written.log,
            store: written.store,
            amqp: written.amqp.map(|amqp| amqp.based(base)),
            users: written.users,
            advertise: written.advertise.map(|url| url.trim_end_matches('/').to_owned()),
            advertise_ca: written.advertise_ca,
            tls,
            authority: authority.map_err(|(place, why)| tree.flaw(&place, why))?,
            installation_key: written.installation_key,
            compatibility: written.compatibility,
            site_lines: sites::lines(&tree),
            sites: sites::all_named(written.sites, &written.credentials),
            credentials: written.credentials,
            templates: spec::templates(&tree, Some(base))?,
            pools,
            file,
        })
    }

    /// Takes what the command line says instead of the file, and refuses a role for which the file does not suffice.
    ///
    /// # Errors
    /// `bad-config`, saying what to write where.
    pub(crate) fn adjust(&mut self, role: Role, listen: Option<SocketAddr>, advertise: Option<String>) -> Result<(), Fault> {
        let refused = |text: String| Err(Fault::new("bad-config", text));
        let file = self.file.display();
        if listen.is_some() || advertise.is_some() {
            self.listen = listen.unwrap_or(self.listen);
            self.advertise = advertise
                .map(|url| url.trim_end_matches('/').to_owned())
                .or_else(|| self.advertise.take());
            let far: Vec<&str> = self
                .sites
                .iter()
                .filter(|(_, site)| site.ec2.as_ref().is_some_and(|ec2| tls::is_far(ec2.endpoint.as_deref())))
                .map(|(name, _)| name.as_str())
                .collect();
            if let Some(wrong) = self.way().first_wrong(&far) {
                return refused(format!("--listen or --advertise: {}; {}", wrong.text, wrong.help));
            }
        }
        if self.amqp.is_some() && !self.users.iter().any(|(_, user)| user.role == epu_bus::users::Role::Service) {
            return refused(format!(
                "{file}: there is `amqp`, and `users` names nobody with the role `service`: write the broker's user of this process \
                 there, such as `users: {{epu: {{role: service}}}}`"
            ));
        }
        let launches = matches!(role, Role::All | Role::Provisioner);
        if let (true, Some(missing)) = (launches, sites::missing_driver(&self.sites)) {
            return Err(Fault::new("driver-missing", format!("{file}: {missing}")));
        }
        if role != Role::All && self.amqp.is_none() {
            return refused(format!(
                "{file}: a service of its own needs a broker: write `amqp: {{url: env:EPU_AMQP_URL}}`, or run `serve all`"
            ));
        }
        if role != Role::All && self.store.postgres.is_none() {
            return refused(format!(
                "{file}: services in several processes need a database for all of them: write `store: {{postgres: {{url: env:EPU_POSTGRES_URL}}}}`, \
                 or run `serve all`"
            ));
        }
        Ok(())
    }

    /// How the door is reached.
    #[must_use]
    pub(crate) fn way(&self) -> Way<'_> {
        Way {
            listen: self.listen,
            advertise: self.advertise.as_deref(),
            tls: self.tls.as_ref(),
            advertise_ca: self.advertise_ca.as_deref(),
        }
    }

    /// The certificate of the authority that agents pin, a PEM text: by it alone they know the door. None when they go by those that their
    /// machine trusts, or speak no TLS. A self-made one is there once `serve` has made it.
    #[must_use]
    pub(crate) fn agents_ca(&self) -> Option<String> {
        let self_made = || {
            let made = self.advertise_ca.is_none() && self.tls.as_ref().is_some_and(|tls| tls.self_made.is_some());
            made.then(|| std::fs::read_to_string(tls::authority_in(&self.data_dir)).ok())
                .flatten()
        };
        self.authority.clone().or_else(self_made)
    }

    /// Where records are, for messages.
    #[must_use]
    pub(crate) fn records_place(&self) -> String {
        match &self.store.postgres {
            Some(postgres) => postgres.url.to_string(),
            None => self.data_dir.display().to_string(),
        }
    }

    /// What pools of operators are checked against.
    #[must_use]
    pub(crate) fn known(&self) -> Known {
        Known {
            templates: self.templates.clone(),
            ..known(
                Registry::standard(),
                self.sites.keys().cloned().collect(),
                sites::all_local(&self.sites),
                self.tick,
            )
        }
    }
}

/// The JSON schema (draft 2020-12) of the whole file, for the check and for editors.
#[must_use]
pub(crate) fn schema(engines: &Registry) -> Value {
    let mut schema = schema_of::<File>();
    let pools = spec::schema(engines);
    for key in ["templates", "pools"] {
        schema["properties"][key] = pools["properties"][key].clone();
    }
    schema["title"] = "EPU configuration".into();
    schema["description"] = "The config file of `epumgmt serve`.".into();
    let mut schema = strict(schema);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema
}

/// The data directory that a file names, whatever else may be wrong in it; none when there is no such file.
#[must_use]
pub(crate) fn data_dir_of(path: &Path) -> Option<PathBuf> {
    let tree = Tree::read("", &text_of(path).ok()?).ok()?;
    let written = tree.value().get("data-dir").and_then(Value::as_str).unwrap_or(DEFAULT_DATA);
    Some(path.parent().unwrap_or(Path::new("")).join(written))
}

/// How a file says that the door is reached, whatever else may be wrong in it.
#[must_use]
pub(crate) fn way_of(path: &Path) -> Option<Written> {
    let tree = Tree::read("", &text_of(path).ok()?).ok()?;
    Some(Written::of(&tree))
}

/// The broker that a file names, whatever else may be wrong in it; none when it names none, or one that cannot be read.
#[must_use]
pub(crate) fn amqp_of(path: &Path) -> Option<Amqp> {
    let tree = Tree::read("", &text_of(path).ok()?).ok()?;
    let amqp: Amqp = serde_json::from_value(tree.value().get("amqp")?.clone()).ok()?;
    Some(amqp.based(path.parent().unwrap_or(Path::new(""))))
}

/// The text of a file, or of standard input for `-`.
///
/// # Errors
/// One flaw without a line.
pub(crate) fn text_of(path: &Path) -> Result<String, Flaws> {
    let limit = u64::try_from(TEXT_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(unplaced(path, format!("read it: {error}")).into()),
    }
}

fn unplaced(path: &Path, text: String) -> Flaw {
    Flaw {
        file: path.display().to_string(),
        line: 0,
        column: 0,
        path: String::new(),
        text,
        help: None,
    }
}

fn known(engines: Registry, sites: BTreeSet<SiteName>, workers_are_here: bool, tick: Span) -> Known {
    Known {
        engines,
        sites,
        owned: BTreeSet::new(),
        templates: BTreeMap::new(),
        tick,
        // Programs of workers on other machines cannot be looked for.
        search: workers_are_here.then(|| std::env::var_os("PATH").unwrap_or_default()),
    }
}

/// What the schema cannot say of the program's own settings.
fn rules(tree: &Tree, base: &Path, flaws: &mut Vec<Flaw>) {
    let text = |key: &str| tree.value().get(key).and_then(Value::as_str);
    let span = |key: &str| text(key).and_then(|text| text.parse::<Span>().ok());
    tls::rules(tree, base, flaws);
    distributed::rules(tree, flaws);
    crate::compatibility::config::rules(tree, flaws);
    if let Some(tick) = span("tick").filter(|tick| *tick < TICK.0 || *tick > TICK.1) {
        flaws.push(tree.flaw("/tick", format!("{tick} is not between {} and {}", TICK.0, TICK.1)));
    }
    if let Some(retention) = span("retention").filter(|retention| *retention < RETENTION_LEAST) {
        flaws.push(tree.flaw(
            "/retention",
            format!("{retention} is less than {RETENTION_LEAST}, the least allowed"),
        ));
    }
    let level = tree.value().pointer("/log/level").and_then(Value::as_str);
    if let Some(Err(error)) = level.map(tracing_subscriber::EnvFilter::try_new) {
        flaws.push(tree.flaw("/log/level", format!("no log level: {error}")));
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
