//! `epumgmt serve`: where the parts are put together. Everything a service needs is made here and handed to it; nothing else in
//! the program knows all of them.
//!
//! The order matters. The data directory's lock comes first, so that a second process touches nothing. The port comes before any
//! service, so that one that is taken is known before anything is launched. The door opens last.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use epu_bus::Bus;
use epu_bus::http::{self, Door, Limits, Ready};
use epu_bus::local::LocalBus;
use epu_bus::token::{Keyring, OperatorToken, fresh_secret};
use epu_controller::service::FileConfig;
use epu_core::Fault;
use epu_core::code::Chain;
use epu_core::id::SiteName;
use epu_core::input::Flaws;
use epu_core::journal::{Entry, Event};
use epu_core::random::Random;
use epu_core::time::{Clock, SystemClock, Timestamp};
use epu_decision_engines::Registry;
use epu_provisioner::config::Addresses;
use epu_provisioner::iaas::Iaas;
use epu_provisioner::iaas::local::{AgentProgram, Local};
use epu_sensor_aggregator::sensors::RealSources;
use epu_store::{Metered, SqliteStore, Store};
use prometheus::core::Collector;
use prometheus::{Encoder as _, TextEncoder};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::cli;
use crate::config::{Config, LogFormat, Site, TOKEN_FILE, text_of};
use crate::exit::{Exit, Failure};

/// The installation's key in the data directory: every agent's token is made from it.
const KEY_FILE: &str = "installation.key";
/// The address in the data directory that agents were last given.
const ADDRESS_FILE: &str = "address";
/// How long an answer of `/readyz` stands: each is a write to the disk, and anybody may ask.
const READY_FOR: Duration = Duration::from_secs(5);

/// Why there is no service.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("use {path}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("make a secret")]
    Secret(#[from] epu_bus::token::Error),
    #[error("open the store in {path}")]
    Store { path: PathBuf, source: epu_store::Error },
    #[error(transparent)]
    Door(#[from] http::Error),
    #[error(
        "listen is {new}, and {live} instances live whose agents report to {old}: set listen back to {old}, or tear down first \
         (listen at {old} once more and run `epumgmt teardown`)"
    )]
    Moved { old: String, new: String, live: usize },
    #[error("make the metrics")]
    Metrics(#[from] prometheus::Error),
    #[error("listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("the {service} stopped: {why}")]
    Stopped { service: &'static str, why: String },
}

impl Error {
    fn failure(&self) -> Failure {
        let code = match self {
            Self::Store {
                source: epu_store::Error::InUse { .. },
                ..
            } => "in-use",
            Self::Store { .. } => "store-failed",
            Self::Door(http::Error::Taken { .. }) => "in-use",
            Self::Door(_) | Self::Moved { .. } => "bad-config",
            Self::File { .. } | Self::Secret(_) | Self::Metrics(_) | Self::Signals(_) | Self::Stopped { .. } => "internal",
        };
        Failure::while_doing("serve", Fault::new(code, Chain(self).to_string()))
    }
}

/// Serves until SIGTERM or SIGINT. Workers go on.
///
/// # Errors
/// When it cannot begin, or a service ends by itself.
pub(crate) fn run(args: &cli::Serve, file: &Path) -> Result<Exit, Failure> {
    debug_assert!(args.role == cli::Role::All);
    let config = load(file)?;
    log_to(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(serve(config));
    runtime.shutdown_timeout(Duration::from_secs(2));
    served.map_err(|e| e.failure())?;
    Ok(Exit::Done)
}

fn load(path: &Path) -> Result<Config, Failure> {
    let flawed = |flaws: Flaws| Failure::Flaws {
        flaws,
        text: text_of(path).unwrap_or_default(),
    };
    Config::load(path).map_err(flawed)
}

fn log_to(config: &Config) {
    // A level that cannot be understood was refused with the config.
    // lapin logs each refused queue as an error of its own, every few seconds; the sensor says it once, and better.
    let level = std::env::var("EPU_LOG").unwrap_or_else(|_| config.log.level.clone());
    let filter = EnvFilter::try_new(format!("lapin=off,{level}")).unwrap_or_default();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    let set = match config.log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    if let Err(error) = set {
        warn!(error, "the log was set up before");
    }
}

async fn serve(config: Config) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Error::Signals)?;

    let store = SqliteStore::open(&config.data_dir).await;
    let store = Arc::new(store.map_err(|source| Error::Store {
        path: config.data_dir.clone(),
        source,
    })?);
    let listener = http::bind(&config.listen.to_string(), false).await?;

    let metrics = AllMetrics::new()?;
    let metered: Arc<dyn Store> = Arc::new(Metered::new(store.clone(), metrics.store.clone()));
    let kept = |source| Error::Store {
        path: config.data_dir.clone(),
        source,
    };
    let address = config.listen.to_string();
    if let Some(old) = other_address(&config.data_dir, &address)? {
        let live = metered.instances(true).await.map_err(kept)?.len();
        if live > 0 {
            return Err(Error::Moved { old, new: address, live });
        }
    }
    keep_address(&config.data_dir, &address)?;
    let key = secret_in(&config.data_dir.join(KEY_FILE))?;
    let operator = secret_in(&config.data_dir.join(TOKEN_FILE))?;
    let fresh = format!("epu-{}", &fresh_secret()?[..12]);
    let installation = metered.keep("installation", &fresh).await.map_err(kept)?;

    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let random = Arc::new(Random::from_system());
    let bus: Arc<dyn Bus> = LocalBus::new();
    let keys = Keyring::new(key.as_bytes())?;
    let cancel = CancellationToken::new();
    let (file, file_seen) = watch::channel(Arc::new(file_config(&config)));
    let now = clock.now();
    let started = Entry::new(
        now,
        "serve",
        Event::Started {
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
    );
    metered.append(vec![started]).await.map_err(kept)?;

    let mut services: JoinSet<(&'static str, Result<(), String>)> = JoinSet::new();
    let provisioner = epu_provisioner::Parts {
        member: epu_core::lease::Member {
            name: format!("provisioner-{}", random.uuid(now)),
            service: epu_core::request::Service::Provisioner,
            url: Some(format!("http://{}", config.listen)),
            since: now,
        },
        installation: installation.clone(),
        config: epu_provisioner::Config {
            retention: config.retention,
            ..epu_provisioner::Config::default()
        },
        addresses: addresses(&config),
        store: metered.clone(),
        bus: bus.clone(),
        clock: clock.clone(),
        random: random.clone(),
        keyring: Arc::new(keys.clone()),
        sites: sites(&config, &installation)?,
        metrics: Arc::new(metrics.provisioner.clone()),
    };
    let aggregator = epu_sensor_aggregator::Parts {
        name: format!("{installation}/{}", std::process::id()),
        member: epu_core::lease::Member {
            name: format!("aggregator-{}", random.uuid(now)),
            service: epu_core::request::Service::Aggregator,
            url: Some(format!("http://{}", config.listen)),
            since: now,
        },
        store: Some(metered.clone()),
        bus: bus.clone(),
        clock: clock.clone(),
        sources: Arc::new(RealSources::new(clock.clone())),
        config: epu_sensor_aggregator::Config::default(),
        metrics: metrics.aggregator.clone(),
    };
    let controller = epu_controller::Parts {
        member: epu_core::lease::Member {
            name: format!("controller-{}", random.uuid(now)),
            service: epu_core::request::Service::Controller,
            url: None,
            since: now,
        },
        bus: bus.clone(),
        store: metered.clone(),
        clock: clock.clone(),
        random,
        engines: Arc::new(Registry::standard()),
        config: epu_controller::Config {
            installation: installation.clone(),
            tick: config.tick,
            ..epu_controller::Config::default()
        },
        metrics: metrics.controller.clone(),
        file: file_seen,
    };
    let registry = metrics.registry.clone();
    let door = Door {
        bus,
        keys,
        operator: OperatorToken::new(&operator)?,
        clock: clock.clone(),
        metrics: metrics.bus.clone(),
        render: Arc::new(move || render(&registry)),
        ready: readiness(metered.clone(), clock.clone()),
        limits: Limits::default(),
    };
    let text = |error: &dyn std::error::Error| Chain(error).to_string();
    let stop = cancel.clone();
    services.spawn(async move { ("provisioner", epu_provisioner::run(provisioner, stop).await.map_err(|e| text(&e))) });
    let stop = cancel.clone();
    services.spawn(async move {
        (
            "aggregator",
            epu_sensor_aggregator::run(aggregator, stop).await.map_err(|e| text(&e)),
        )
    });
    let stop = cancel.clone();
    services.spawn(async move { ("controller", epu_controller::run(controller, stop).await.map_err(|e| text(&e))) });
    let stop = cancel.clone();
    services.spawn(async move { ("door", http::serve(listener, door, stop).await.map_err(|e| text(&e))) });
    info!(installation, listen = %config.listen, data = %config.data_dir.display(), pools = config.pools.len(), "serving");

    let ended = loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            Some(ended) = services.join_next() => break Some(ended),
            _ = hangup.recv() => reload(&config.file, &config, &file),
        }
    };
    cancel.cancel();
    let mut failed = None;
    let mut outcomes: Vec<_> = ended.into_iter().collect();
    while let Some(outcome) = services.join_next().await {
        outcomes.push(outcome);
    }
    for outcome in outcomes {
        match outcome {
            Ok((_, Ok(()))) => {}
            Ok((service, Err(why))) => {
                error!(service, why, "a service failed");
                failed = failed.or(Some(Error::Stopped { service, why }));
            }
            Err(error) => {
                failed = failed.or(Some(Error::Stopped {
                    service: "process",
                    why: error.to_string(),
                }))
            }
        }
    }
    let stopped = Entry::new(clock.now(), "serve", Event::Stopped);
    if let Err(error) = metered.append(vec![stopped]).await {
        warn!(error = %Chain(&error), "the stop could not be written to the journal");
    }
    info!("stopped; workers go on");
    failed.map_or(Ok(()), Err)
}

/// Reads the config file again. One with faults changes nothing.
fn reload(path: &Path, running: &Config, file: &watch::Sender<Arc<FileConfig>>) {
    match Config::load(path) {
        Ok(config) if config.sites != running.sites => {
            error!(file = %path.display(), "not reloaded: its sites are others now, and sites are read at start only; restart to use them (workers go on)");
        }
        Ok(config) => {
            info!(file = %path.display(), pools = config.pools.len(), "reloaded; listen and data-dir are read at start only");
            file.send_replace(Arc::new(file_config(&config)));
        }
        Err(flaws) => error!(file = %path.display(), faults = %flaws, "not reloaded: mend the file and send SIGHUP again"),
    }
}

fn file_config(config: &Config) -> FileConfig {
    FileConfig {
        path: config.file.display().to_string(),
        pools: config.pools.clone(),
        known: config.known(),
    }
}

fn addresses(config: &Config) -> Addresses {
    let url = format!("http://{}", config.listen);
    Addresses {
        provisioner: url.clone(),
        aggregators: vec![url],
    }
}

fn sites(config: &Config, installation: &str) -> Result<BTreeMap<SiteName, Arc<dyn Iaas>>, Error> {
    let program = std::env::current_exe().map_err(|source| Error::File {
        path: "the program itself".into(),
        source,
    })?;
    let mut sites: BTreeMap<SiteName, Arc<dyn Iaas>> = BTreeMap::new();
    for (name, site) in &config.sites {
        let Site { local } = site;
        let agent = AgentProgram {
            program: program.clone(),
            arguments: vec!["agent".to_owned()],
        };
        let driver = Local::new(installation, &config.data_dir, agent, local.clone().unwrap_or_default());
        sites.insert(name.clone(), Arc::new(driver));
    }
    Ok(sites)
}

/// Whether the store can be written to; found out at most once in a while, however many ask.
fn readiness(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Ready {
    type Word = (Timestamp, Result<(), Fault>);
    let last: Arc<Mutex<Option<Word>>> = Arc::default();
    Arc::new(move || {
        let (store, clock, last) = (store.clone(), clock.clone(), last.clone());
        Box::pin(async move {
            let mut last = last.lock().await;
            if let Some((_, word)) = last.as_ref().filter(|(at, _)| clock.now().since(*at) < READY_FOR) {
                return word.clone();
            }
            let word = store.check().await;
            let word = word.map_err(|e| Fault::new("store-failed", Chain(&e).to_string()));
            *last = Some((clock.now(), word.clone()));
            word
        })
    })
}

/// The address that agents were last given, when it is another one: those that live would not find us any more.
fn other_address(data_dir: &Path, address: &str) -> Result<Option<String>, Error> {
    let path = data_dir.join(ADDRESS_FILE);
    match std::fs::read_to_string(&path) {
        Ok(known) => Ok(Some(known.trim().to_owned()).filter(|known| !known.is_empty() && known != address)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { path, source }),
    }
}

fn keep_address(data_dir: &Path, address: &str) -> Result<(), Error> {
    let path = data_dir.join(ADDRESS_FILE);
    write_whole(&path, address).map_err(|source| Error::File { path, source })
}

/// Writes a file that only its owner can read, whole or not at all.
fn write_whole(path: &Path, content: &str) -> std::io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}

/// The secret in a file that only its owner can read, made when there is none.
fn secret_in(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
            if mode & 0o077 != 0 {
                warn!(file = %path.display(), "others can read this secret; chmod 600 it");
            }
            Ok(text.trim().to_owned())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let secret = fresh_secret()?;
            write_whole(path, &secret).map_err(failed)?;
            Ok(secret)
        }
        Err(source) => Err(failed(source)),
    }
}

/// Every metric of the program, made in one place: what is served, and what the reference is generated from.
pub(crate) struct AllMetrics {
    /// Where they are read.
    pub(crate) registry: prometheus::Registry,
    store: epu_store::Metrics,
    bus: http::Metrics,
    provisioner: epu_provisioner::Metrics,
    aggregator: epu_sensor_aggregator::Metrics,
    controller: epu_controller::Metrics,
}

impl AllMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// Only when two have the same name.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let metrics = Self {
            registry: prometheus::Registry::new(),
            store: epu_store::Metrics::new()?,
            bus: http::Metrics::new()?,
            provisioner: epu_provisioner::Metrics::new()?,
            aggregator: epu_sensor_aggregator::Metrics::new()?,
            controller: epu_controller::Metrics::new()?,
        };
        for collector in metrics.all() {
            metrics.registry.register(collector)?;
        }
        metrics
            .registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// Every collector of ours.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<Box<dyn Collector>> {
        [
            self.controller.all(),
            self.provisioner.all(),
            self.aggregator.all(),
            self.store.all(),
            self.bus.all(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn render(registry: &prometheus::Registry) -> Result<String, Fault> {
    let mut text = Vec::new();
    let failed = |why: String| Fault::new("internal", format!("write the metrics: {why}"));
    TextEncoder::new()
        .encode(&registry.gather(), &mut text)
        .map_err(|e| failed(e.to_string()))?;
    String::from_utf8(text).map_err(|e| failed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use epu_core::time::ManualClock;
    use epu_store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn whether_it_is_ready_is_found_out_now_and_then() {
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let ready = readiness(store.clone(), clock.clone());
        assert_eq!(ready().await, Ok(()));
        store.fail_with(Some("disk full"));
        clock.advance(Duration::from_secs(4));
        assert_eq!(ready().await, Ok(()), "the store was written to again");
        clock.advance(Duration::from_secs(2));
        assert_eq!(ready().await.unwrap_err().code, "store-failed");
        store.fail_with(None);
        clock.advance(Duration::from_secs(4));
        assert!(ready().await.is_err());
        clock.advance(Duration::from_secs(2));
        assert_eq!(ready().await, Ok(()));
    }

    #[test]
    fn where_agents_live_that_report_elsewhere_it_does_not_begin() {
        let home = tempfile::tempdir().unwrap();
        let (old, new) = ("127.0.0.1:8650", "127.0.0.1:9000");
        assert_eq!(other_address(home.path(), old).unwrap(), None, "a directory of before");
        keep_address(home.path(), old).unwrap();
        assert_eq!(other_address(home.path(), old).unwrap(), None);
        assert_eq!(other_address(home.path(), new).unwrap().as_deref(), Some(old));
        let text = Error::Moved {
            old: old.to_owned(),
            new: new.to_owned(),
            live: 3,
        }
        .failure()
        .shown(false);
        assert!(text.contains(old) && text.contains("tear down"), "{text}");
        keep_address(home.path(), new).unwrap();
        assert_eq!(
            other_address(home.path(), old).unwrap().as_deref(),
            Some(new),
            "the new one is kept"
        );
    }
}
