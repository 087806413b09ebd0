//! What the services of one process are made of.

use std::sync::Arc;
use std::time::Duration;

use epu_bus::Bus;
use epu_bus::amqp::dashi::Dashi;
use epu_bus::amqp::{AmqpBus, Link};
use epu_bus::http::tls::Files;
use epu_bus::http::{Door, Limits, Ready, Tls};
use epu_bus::local::LocalBus;
use epu_bus::token::{Keyring, OperatorToken};
use epu_controller::service::FileConfig;
use epu_core::Fault;
use epu_core::code::Chain;
use epu_core::lease::Member;
use epu_core::random::Random;
use epu_core::request::Service;
use epu_core::time::{Clock, SystemClock, Timestamp};
use epu_decision_engines::Registry;
use epu_provisioner::config::Addresses;
use epu_provisioner::iaas::ec2::{Accounts, Ec2Parts};
use epu_provisioner::pace::Pacers;
use epu_sensor_aggregator::sensors::RealSources;
use epu_store::{Metered, PgStore, SqliteStore, Store};
use ring::digest;
use tokio::sync::{Mutex, watch};
use tracing::error;

use super::metrics::{AllMetrics, render};
use super::sites::Sites;
use super::{Error, files, self_made};
use crate::compatibility;
use crate::config::{Config, TOKEN_FILE};

/// How long an answer of `/readyz` stands: each is a write to the disk, and anybody may ask.
const READY_FOR: Duration = Duration::from_secs(5);

/// Records, as this process has them.
pub(super) enum Records {
    Sqlite(Arc<SqliteStore>),
    Postgres(Arc<PgStore>),
}

impl Records {
    /// Opens those that the config names. The data directory's lock comes with SQLite's.
    pub(super) async fn open(config: &Config) -> Result<Self, Error> {
        match &config.store.postgres {
            None => {
                let store = SqliteStore::open(&config.data_dir).await;
                let place = config.data_dir.display().to_string();
                Ok(Self::Sqlite(Arc::new(store.map_err(|source| Error::Store { place, source })?)))
            }
            Some(postgres) => {
                files::directory(&config.data_dir)?;
                let settings = postgres.settings();
                let place = postgres.url.to_string();
                let store = PgStore::connect(&settings).await;
                Ok(Self::Postgres(Arc::new(store.map_err(|source| Error::Store { place, source })?)))
            }
        }
    }

    fn metered(&self, metrics: epu_store::Metrics) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(store) => Arc::new(Metered::new(store.clone(), metrics)),
            Self::Postgres(store) => Arc::new(Metered::new(store.clone(), metrics)),
        }
    }

    /// Whether this process has them to itself.
    pub(super) fn are_mine(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}

/// What carries what the services of this process say.
#[derive(Clone)]
pub(super) enum Carrier {
    Local(Arc<LocalBus>),
    Amqp(Arc<AmqpBus>),
}

impl Carrier {
    fn bus(&self) -> Arc<dyn Bus> {
        match self {
            Self::Local(bus) => bus.clone(),
            Self::Amqp(bus) => bus.clone(),
        }
    }

    /// Whether what is asked at the door is carried to who answers it.
    fn ready(&self) -> Result<(), Fault> {
        match self {
            Self::Local(bus) => bus.ready(),
            Self::Amqp(bus) => bus.ready(),
        }
    }

    pub(super) async fn close(&self) {
        if let Self::Amqp(bus) = self {
            bus.close().await;
        }
    }
}

/// What all services of this process share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) installation: String,
    pub(super) store: Arc<dyn Store>,
    pub(super) bus: Arc<dyn Bus>,
    pub(super) carrier: Carrier,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: AllMetrics,
    pub(super) file: watch::Receiver<Arc<FileConfig>>,
    pub(super) tls: Option<Arc<Tls>>,
    random: Arc<Random>,
    keys: Keyring,
    operator: String,
    name: String,
    since: Timestamp,
}

impl Shared {
    /// Connects and reads what is needed before any service begins.
    pub(super) async fn new(config: Config, records: &Records, file: watch::Receiver<Arc<FileConfig>>) -> Result<Self, Error> {
        let metrics = AllMetrics::new()?;
        let store = records.metered(metrics.store.clone());
        let kept = |source| Error::Store {
            place: config.records_place(),
            source,
        };
        let key = match &config.installation_key {
            Some(reference) => reference.resolve().map_err(Error::Key)?,
            None => files::secret_in(&config.data_dir.join(files::KEY_FILE))?,
        };
        let operator = files::secret_in(&config.data_dir.join(TOKEN_FILE))?;
        let fingerprint = fingerprint(&key);
        if store.keep("key-fingerprint", &fingerprint).await.map_err(kept)? != fingerprint {
            return Err(Error::OtherKey);
        }
        let fresh = format!("epu-{}", &epu_bus::token::fresh_secret()?[..12]);
        let installation = store.keep("installation", &fresh).await.map_err(kept)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let tls = certificate(&config, &clock, &metrics)?;
        let random = Arc::new(Random::from_system());
        let name = format!("{}-{}-{:04x}", host(), std::process::id(), random.number() & 0xffff);
        let carrier = match &config.amqp {
            None => Carrier::Local(LocalBus::new()),
            Some(amqp) => {
                let settings = amqp.settings(&name);
                let users = Arc::new(config.users.clone());
                Carrier::Amqp(AmqpBus::connect(settings, users, metrics.amqp.clone()).await?)
            }
        };
        Ok(Self {
            installation,
            store,
            bus: carrier.bus(),
            carrier,
            metrics,
            file,
            tls,
            keys: Keyring::new(key.as_bytes())?,
            operator,
            name,
            since: clock.now(),
            clock,
            random,
            config,
        })
    }

    /// This process as a member of a service; `url` says whether agents reach it.
    fn member(&self, service: Service, url: bool) -> Member {
        Member {
            name: format!("{}.{}", service.name(), self.name),
            service,
            url: url.then(|| self.url()),
            since: self.since,
        }
    }

    /// Where agents reach this process.
    fn url(&self) -> String {
        self.config.way().url()
    }

    /// Renews a self-made certificate that is due, and lets the door use what its files hold by now. What cannot be done is logged, and tried
    /// again the next time.
    pub(super) async fn look_at_certificate(&self) {
        let Some(tls) = self.tls.clone() else { return };
        let (now, data_dir) = (self.clock.now(), self.config.data_dir.clone());
        let names = self_made_names(&self.config);
        let looking = tokio::task::spawn_blocking(move || {
            if let Some(names) = names
                && let Err(error) = self_made::make(&data_dir, &names, now)
            {
                error!(error = %Chain(&error), "the door's certificate could not be renewed; the next look tries again");
            }
            tls.look()
        });
        if let Err(error) = looking.await {
            error!(%error, "the door's certificate could not be looked at");
        }
    }

    pub(super) fn provisioner(&self, sites: &Arc<Sites>) -> epu_provisioner::Parts {
        epu_provisioner::Parts {
            member: self.member(Service::Provisioner, true),
            installation: self.installation.clone(),
            config: epu_provisioner::Config {
                retention: self.config.retention,
                ..epu_provisioner::Config::default()
            },
            addresses: Addresses {
                provisioner: self.url(),
                aggregators: vec![self.url()],
            },
            store: self.store.clone(),
            bus: self.bus.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            keyring: Arc::new(self.keys.clone()),
            sites: sites.offers(),
            desk: sites.clone(),
            metrics: Arc::new(self.metrics.provisioner.clone()),
        }
    }

    pub(super) fn controller(&self) -> epu_controller::Parts {
        epu_controller::Parts {
            member: self.member(Service::Controller, false),
            bus: self.bus.clone(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            engines: Arc::new(Registry::standard()),
            config: epu_controller::Config {
                installation: self.installation.clone(),
                tick: self.config.tick,
                ..epu_controller::Config::default()
            },
            metrics: self.metrics.controller.clone(),
            file: self.file.clone(),
        }
    }

    pub(super) fn aggregator(&self) -> epu_sensor_aggregator::Parts {
        let member = self.member(Service::Aggregator, true);
        epu_sensor_aggregator::Parts {
            name: member.name.clone(),
            member,
            store: Some(self.store.clone()),
            bus: self.bus.clone(),
            clock: self.clock.clone(),
            sources: Arc::new(RealSources::new(self.clock.clone())),
            config: epu_sensor_aggregator::Config::default(),
            metrics: self.metrics.aggregator.clone(),
        }
    }

    pub(super) fn door(&self) -> Result<Door, Error> {
        let registry = self.metrics.registry.clone();
        Ok(Door {
            bus: self.bus.clone(),
            keys: self.keys.clone(),
            operator: OperatorToken::new(&self.operator)?,
            clock: self.clock.clone(),
            metrics: self.metrics.bus.clone(),
            render: Arc::new(move || render(&registry)),
            ready: readiness(self.store.clone(), self.carrier.clone(), self.clock.clone()),
            limits: Limits::default(),
        })
    }

    /// Answers for old clients, when the config wants them. Its broker is waited for: nothing else depends on it.
    pub(super) fn compatibility(&self) -> Result<Option<compatibility::Parts>, Error> {
        let Some(config) = &self.config.compatibility else {
            return Ok(None);
        };
        let own = self.config.amqp.as_ref().map(|amqp| amqp.settings(&self.name));
        let settings = config.settings(own, &self.name).ok_or(Error::NoBroker)?;
        let link = Link::start(settings, self.metrics.amqp.clone());
        Ok(Some(compatibility::Parts {
            dashi: Dashi::new(link, config.names()),
            bus: self.bus.clone(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            config: config.clone(),
            data_dir: self.config.data_dir.clone(),
            sites: self.config.sites.clone(),
            file: self.file.clone(),
        }))
    }

    /// The sites of the config file and of the records, for whoever of this process launches or decides.
    pub(super) async fn sites(&self, launches: bool, file: watch::Sender<Arc<FileConfig>>) -> Result<Arc<Sites>, Error> {
        let program = std::env::current_exe().map_err(|source| Error::file("the program itself".as_ref(), source))?;
        let (config, rented, store) = (self.config.clone(), self.ec2_parts(), self.store.clone());
        let sites = Sites::start(config, program, rented, store, launches, file).await;
        sites.map_err(Error::Site)
    }

    /// What sites of one account share, and what all of them need.
    fn ec2_parts(&self) -> Ec2Parts {
        Ec2Parts {
            installation: self.installation.clone(),
            ca_pem: self.config.agents_ca(),
            pacers: Pacers::new(self.clock.clone(), Arc::new(self.metrics.provisioner.clone())),
            accounts: Accounts::default(),
            clock: self.clock.clone(),
            random: self.random.clone(),
        }
    }
}

/// What a self-made certificate is for; none when it is not to be made here.
fn self_made_names(config: &Config) -> Option<Vec<String>> {
    let made = config.tls.as_ref()?.self_made.as_ref();
    made.map(|_| config.way().names())
}

/// The door's certificate, made first if it is to be made here.
fn certificate(config: &Config, clock: &Arc<dyn Clock>, metrics: &AllMetrics) -> Result<Option<Arc<Tls>>, Error> {
    let Some(tls) = &config.tls else { return Ok(None) };
    if let Some(names) = self_made_names(config) {
        self_made::make(&config.data_dir, &names, clock.now())?;
    }
    let files = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Files {
            certificate: certificate.clone(),
            key: key.clone(),
        },
        (Some(_) | None, Some(_) | None) => self_made::files_in(&config.data_dir),
    };
    Ok(Some(Tls::load(files, clock.clone(), metrics.bus.clone())?))
}

/// This machine's name, as far as it can stand in the name of a queue.
fn host() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    let plain = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(30)
        .collect::<String>();
    if plain.is_empty() { "host".to_owned() } else { plain }
}

/// Tells keys apart without telling them.
fn fingerprint(key: &str) -> String {
    let digest = digest::digest(&digest::SHA256, format!("epu installation key {key}").as_bytes());
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the store can be written to, found out at most once in a while, however many ask; and whether what is asked is answered.
fn readiness(store: Arc<dyn Store>, carrier: Carrier, clock: Arc<dyn Clock>) -> Ready {
    type Word = (Timestamp, Result<(), Fault>);
    let last: Arc<Mutex<Option<Word>>> = Arc::default();
    Arc::new(move || {
        let (store, carrier, clock, last) = (store.clone(), carrier.clone(), clock.clone(), last.clone());
        Box::pin(async move {
            let mut last = last.lock().await;
            let written = match last.as_ref().filter(|(at, _)| clock.now().since(*at) < READY_FOR) {
                Some((_, word)) => word.clone(),
                None => {
                    let word = store.check().await;
                    let word = word.map_err(|e| Fault::new("store-failed", Chain(&e).to_string()));
                    *last = Some((clock.now(), word.clone()));
                    word
                }
            };
            written.and_then(|()| carrier.ready())
        })
    })
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
        let bus = LocalBus::new();
        let _calls = Service::ALL.map(|service| bus.serve(service));
        let ready = readiness(store.clone(), Carrier::Local(bus), clock.clone());
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

    #[tokio::test]
    async fn it_is_not_ready_before_every_service_answers() {
        let bus = LocalBus::new();
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let ready = readiness(Arc::new(MemoryStore::new()), Carrier::Local(bus.clone()), clock);
        let fault = ready().await.unwrap_err();
        assert_eq!((&*fault.code, &*fault.text), ("no-contact", "no provisioner is running here"));
        let _calls = Service::ALL.map(|service| bus.serve(service));
        assert_eq!(ready().await, Ok(()));
    }

    #[test]
    fn a_fingerprint_tells_keys_apart_and_not_what_they_are() {
        assert_ne!(fingerprint("one"), fingerprint("two"));
        assert_eq!(fingerprint("one").len(), 16);
        assert!(!fingerprint("0123456789abcdef").contains("0123"));
    }
}
