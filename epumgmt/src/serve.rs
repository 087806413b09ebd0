//! `epumgmt serve`: where the parts are put together. Everything a service needs is made in [`parts`] and handed to it; nothing else
//! in the program knows all of them.
//!
//! The order matters. Records come first, with the data directory's lock where this process has them to itself, so that a second one
//! touches nothing. The port comes before any service, so that one that is taken is known before anything is launched. The door
//! opens last.

mod files;
mod metrics;
mod parts;
mod self_made;
mod sites;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use epu_bus::http;
use epu_core::Fault;
use epu_core::code::Chain;
use epu_core::input::Flaws;
use epu_core::journal::{Entry, Event};
use epu_core::request::Service;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use self::parts::{Records, Shared};
use self::sites::{Sites, file_config};
use crate::config::{self, Config, LogFormat, text_of};
use crate::exit::{Exit, Failure};
use crate::{cli, compatibility};

pub(crate) use self::metrics::AllMetrics;

/// How often the files of the door's certificate are looked at. Too low: reads of the disk for nothing. Too high: a new one is not used for long.
const LOOK_AT_CERTIFICATE: Duration = Duration::from_secs(60);

/// Why there is no service.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("use {path}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("make a secret")]
    Secret(#[from] epu_bus::token::Error),
    #[error("read the installation's key")]
    Key(#[source] epu_core::secret::Error),
    #[error(
        "the installation key is another one than that of this installation's first start, so that no agent would be believed: copy \
         `installation.key` from the data directory of another process of it, or name the right one as `installation-key`"
    )]
    OtherKey,
    #[error("open the store in {place}")]
    Store { place: String, source: epu_store::Error },
    #[error(transparent)]
    Amqp(#[from] epu_bus::amqp::Error),
    #[error(transparent)]
    Door(#[from] http::Error),
    #[error(
        "listen is {new}, and {live} instances live whose agents report to {old}: set listen back to {old}, or tear down first \
         (listen at {old} once more and run `epumgmt teardown`)"
    )]
    Moved { old: String, new: String, live: usize },
    #[error("there is `compatibility`, and no broker: write `compatibility: {{url: env:EPU_AMQP_URL}}`, or `amqp`")]
    NoBroker,
    #[error("{}", .0.text)]
    Site(Fault),
    #[error("make the metrics")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Tls(#[from] http::tls::Error),
    #[error("make a certificate for the door")]
    SelfMade(#[from] rcgen::Error),
    #[error(
        "use {path}: it holds no private key; put the right one back, or delete the directory it is in for a new authority, which agents that live do not believe"
    )]
    SelfMadeFile { path: PathBuf, source: rcgen::Error },
    #[error("listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("the {service} stopped: {why}")]
    Stopped { service: &'static str, why: String },
}

impl Error {
    fn file(path: &Path, source: std::io::Error) -> Self {
        Self::File {
            path: path.to_owned(),
            source,
        }
    }

    fn failure(&self) -> Failure {
        Failure::while_doing("serve", self.fault())
    }

    fn fault(&self) -> Fault {
        let code = match self {
            Self::Site(fault) => return fault.clone(),
            Self::Store {
                source: epu_store::Error::InUse { .. },
                ..
            } => "in-use",
            Self::Store { .. } => "store-failed",
            Self::Amqp(_) => "no-contact",
            Self::Door(http::Error::Taken { .. }) => "in-use",
            Self::Door(_)
            | Self::Moved { .. }
            | Self::Key(_)
            | Self::OtherKey
            | Self::NoBroker
            | Self::Tls(_)
            | Self::SelfMadeFile { .. } => "bad-config",
            Self::File { .. } | Self::Secret(_) | Self::SelfMade(_) | Self::Metrics(_) | Self::Signals(_) | Self::Stopped { .. } => {
                "internal"
            }
        };
        Fault::new(code, Chain(self).to_string())
    }
}

/// Serves until SIGTERM or SIGINT. Workers go on.
///
/// # Errors
/// When it cannot begin, or a service ends by itself.
pub(crate) fn run(args: &cli::Serve, file: &Path) -> Result<Exit, Failure> {
    let mut config = load(file)?;
    let adjusted = config.adjust(args.role, args.listen, args.advertise.clone());
    adjusted.map_err(|fault| Failure::while_doing("serve", fault))?;
    log_to(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(serve(config, args.role));
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
    let filter = EnvFilter::try_new(filters(&level)).unwrap_or_default();
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

/// What is logged at a level.
fn filters(level: &str) -> String {
    // What the vendor's library says at lower levels holds user data, and with it launch tokens.
    let vendor = "aws_smithy_runtime=info,aws_sigv4=info,aws_runtime=info,aws_config=info";
    format!("lapin=off,sqlx=warn,{vendor},{level}")
}

fn services_of(role: cli::Role) -> &'static [Service] {
    match role {
        cli::Role::All => &Service::ALL,
        cli::Role::Provisioner => &[Service::Provisioner],
        cli::Role::Controller => &[Service::Controller],
        cli::Role::Aggregator => &[Service::Aggregator],
    }
}

async fn serve(config: Config, role: cli::Role) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Error::Signals)?;

    if services_of(role).contains(&Service::Provisioner) {
        for note in config::sites::notes(&config) {
            warn!(note, "a site may not work");
        }
    }
    let records = Records::open(&config).await?;
    let listener = http::bind(&config.listen.to_string(), config.tls.is_some()).await?;
    let (file, file_seen) = watch::channel(Arc::new(file_config(&config)));
    let shared = Shared::new(config, &records, file_seen).await?;
    if records.are_mine() {
        // Where there are several doors, agents know them all.
        stay_where_agents_look(&shared).await?;
    }
    let (config, clock, store) = (shared.config.clone(), shared.clock.clone(), shared.store.clone());
    let who = if role == cli::Role::All {
        "serve"
    } else {
        services_of(role)[0].name()
    };
    let started = Event::Started {
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let written = store.append(vec![Entry::new(clock.now(), who, started)]).await;
    written.map_err(|source| Error::Store {
        place: config.records_place(),
        source,
    })?;

    let launches = services_of(role).contains(&Service::Provisioner);
    let sites = shared.sites(launches, file).await?;
    let cancel = CancellationToken::new();
    let mut services: JoinSet<(&'static str, Result<(), String>)> = JoinSet::new();
    let text = |error: &dyn std::error::Error| Chain(error).to_string();
    for service in services_of(role) {
        let stop = cancel.clone();
        match service {
            Service::Provisioner => {
                let parts = shared.provisioner(&sites);
                services.spawn(async move { ("provisioner", epu_provisioner::run(parts, stop).await.map_err(|e| text(&e))) });
            }
            Service::Aggregator => {
                let parts = shared.aggregator();
                services.spawn(async move { ("aggregator", epu_sensor_aggregator::run(parts, stop).await.map_err(|e| text(&e))) });
            }
            Service::Controller => {
                let parts = shared.controller();
                services.spawn(async move { ("controller", epu_controller::run(parts, stop).await.map_err(|e| text(&e))) });
            }
        }
    }
    if role != cli::Role::Aggregator
        && let Some(parts) = shared.compatibility()?
    {
        let stop = cancel.clone();
        services.spawn(async move {
            compatibility::run(parts, stop).await;
            ("compatibility", Ok(()))
        });
    }
    if role != cli::Role::Aggregator {
        let (stop, looking) = (cancel.clone(), sites.clone());
        services.spawn(async move {
            looking.keep_looking(stop).await;
            ("sites", Ok(()))
        });
    }
    let (door, tls) = (shared.door()?, shared.tls.clone());
    let stop = cancel.clone();
    services.spawn(async move {
        let served = match tls {
            Some(tls) => http::serve_tls(listener, door, tls, stop).await,
            None => http::serve(listener, door, stop).await,
        };
        ("door", served.map_err(|e| text(&e)))
    });
    info!(role = who, installation = shared.installation, listen = %config.listen, url = %config.way().url(), data = %config.data_dir.display(), pools = config.pools.len(), "serving");

    let mut look = tokio::time::interval(LOOK_AT_CERTIFICATE);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let ended = loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            Some(ended) = services.join_next() => break Some(ended),
            _ = hangup.recv() => {
                reload(&config.file, &sites).await;
                shared.look_at_certificate().await;
            }
            _ = look.tick() => shared.look_at_certificate().await,
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
    if let Err(error) = store.append(vec![Entry::new(clock.now(), who, Event::Stopped)]).await {
        warn!(error = %Chain(&error), "the stop could not be written to the journal");
    }
    shared.carrier.close().await;
    records.close().await;
    info!("stopped; workers go on");
    failed.map_or(Ok(()), Err)
}

/// Refuses another address than the one that living agents know.
async fn stay_where_agents_look(shared: &Shared) -> Result<(), Error> {
    let config = &shared.config;
    // Over TLS it is another one: agents that live would not speak it.
    let address = match &config.tls {
        Some(_) => format!("https://{}", config.listen),
        None => config.listen.to_string(),
    };
    if let Some(old) = files::other_address(&config.data_dir, &address)? {
        let live = shared.store.instances(true).await.map_err(|source| Error::Store {
            place: config.records_place(),
            source,
        })?;
        if !live.is_empty() {
            return Err(Error::Moved {
                old,
                new: address,
                live: live.len(),
            });
        }
    }
    files::keep_address(&config.data_dir, &address)
}

/// Reads the config file again. One with faults changes nothing.
async fn reload(path: &Path, sites: &Sites) {
    match Config::load(path) {
        Ok(config) => {
            let pools = config.pools.len();
            match sites.reload(config).await {
                Ok(()) => {
                    info!(file = %path.display(), pools, "reloaded; listen, tls, data-dir, store and amqp are read at start only");
                }
                Err(fault) => error!(file = %path.display(), %fault, "not reloaded: a site of it has no driver"),
            }
        }
        Err(flaws) => error!(file = %path.display(), faults = %flaws, "not reloaded: mend the file and send SIGHUP again"),
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn user_data_is_not_logged_at_any_level() {
        let logged = tracing_subscriber::registry().with(EnvFilter::try_new(filters("trace")).unwrap());
        tracing::subscriber::with_default(logged, || {
            assert!(tracing::enabled!(target: "epu_provisioner", tracing::Level::TRACE));
            assert!(!tracing::enabled!(target: "aws_smithy_runtime::client::orchestrator", tracing::Level::DEBUG));
            assert!(!tracing::enabled!(target: "aws_sigv4::http_request", tracing::Level::TRACE));
        });
    }

    #[test]
    fn a_moved_address_names_the_way_back() {
        let moved = Error::Moved {
            old: "127.0.0.1:8650".to_owned(),
            new: "127.0.0.1:9000".to_owned(),
            live: 3,
        };
        let text = moved.failure().shown(false);
        assert!(text.contains("127.0.0.1:8650") && text.contains("tear down"), "{text}");
    }
}
