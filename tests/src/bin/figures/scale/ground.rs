//! What a town stands on: everything in this process under virtual time, or a real broker, a real database and the real clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use epu_bus::Bus;
use epu_bus::amqp::{AmqpBus, Metrics, Settings};
use epu_bus::local::LocalBus;
use epu_bus::users::{Role, User, Users};
use epu_core::secret::SecretUrl;
use epu_core::time::{Clock, SystemClock};
use epu_store::{MemoryStore, PgSettings, PgStore, Store};
use epu_tests::postgres::Postgres;
use epu_tests::processes::Proc;
use epu_tests::rabbit::{Rabbit, USER};
use epu_tests::{Result, Trouble};

use tokio::sync::Mutex;

use crate::clock::cpu_of;
use crate::ticks::VirtualClock;

/// Of a real installation every service has a connection to the broker and a pool of connections to the database of its own.
pub(super) enum Ground {
    /// In this process, under virtual time.
    Virtual {
        /// Everybody's.
        bus: Arc<LocalBus>,
        /// Everybody's.
        store: Arc<MemoryStore>,
        /// That of the paused runtime.
        clock: Arc<dyn Clock>,
    },
    /// A broker, a database, the clock on the wall.
    Real {
        /// RabbitMQ.
        broker: Box<Rabbit>,
        /// PostgreSQL.
        server: Box<Postgres>,
        /// Of this installation.
        database: String,
        /// Ways to the broker, by process.
        buses: Mutex<BTreeMap<String, Arc<AmqpBus>>>,
        /// The system's.
        clock: Arc<dyn Clock>,
    },
}

impl Ground {
    pub(super) fn in_memory() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(VirtualClock::start());
        Self::Virtual {
            bus: LocalBus::new(),
            store: Arc::new(MemoryStore::with_clock(clock.clone())),
            clock,
        }
    }

    pub(super) async fn real() -> Result<Self> {
        let (broker, server) = (Rabbit::start().await?, Postgres::start().await?);
        let database = server.database().await?;
        Ok(Self::Real {
            broker: Box::new(broker),
            server: Box::new(server),
            database,
            buses: Mutex::default(),
            clock: Arc::new(SystemClock::start()),
        })
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        match self {
            Self::Virtual { clock, .. } | Self::Real { clock, .. } => clock.clone(),
        }
    }

    /// The way to the others, of one process. What it had before is closed.
    pub(super) async fn bus(&self, of: &str) -> Result<Arc<dyn Bus>> {
        match self {
            Self::Virtual { bus, .. } => Ok(bus.clone()),
            Self::Real { broker, buses, .. } => {
                let mut buses = buses.lock().await;
                if let Some(before) = buses.remove(of) {
                    before.close().await;
                }
                let settings = Settings::new(SecretUrl::new(broker.url()), "figures", of);
                let service = User {
                    role: Role::Service,
                    owners: Vec::new(),
                };
                let metrics = Metrics::new().map_err(|e| Trouble::new("make metrics", e))?;
                let bus = AmqpBus::connect(settings, Users::new([(USER.to_owned(), service)]), metrics).await;
                let bus = bus.map_err(|e| Trouble::new("connect to the broker", e))?;
                buses.insert(of.to_owned(), bus.clone());
                Ok(bus)
            }
        }
    }

    /// The records, of one process.
    pub(super) async fn store(&self) -> Result<Arc<dyn Store>> {
        match self {
            Self::Virtual { store, .. } => Ok(store.clone()),
            Self::Real { server, database, .. } => {
                let settings = PgSettings::new(SecretUrl::new(server.url(database)));
                let store = PgStore::connect(&settings).await;
                Ok(Arc::new(
                    store.map_err(|e| Trouble::new("connect to the database", epu_core::code::Chain(&e)))?,
                ))
            }
        }
    }

    /// Processor time of the broker and of the database so far; nothing where there are none.
    pub(super) fn others(&self) -> Result<(Duration, Duration)> {
        let Self::Real { broker, server, .. } = self else {
            return Ok((Duration::ZERO, Duration::ZERO));
        };
        let all = |pid: Option<u32>| -> Result<Duration> {
            let Some(pid) = pid else { return Ok(Duration::ZERO) };
            let below = Proc::descendants_of(pid);
            // One may end between being seen and being read.
            let below: Duration = below.iter().filter_map(|process| cpu_of(process.pid).ok()).sum();
            Ok(cpu_of(pid)? + below)
        };
        Ok((all(broker.pid())?, all(server.pid())?))
    }
}
