//! A restart with 100,000 instances on record: from the start of controller and provisioner to the first answer that has all of
//! them, beside the same rows fetched and decoded with nothing but sqlx.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use epu_bus::Bus as _;
use epu_bus::local::LocalBus;
use epu_bus::token::{Keyring, fresh_secret};
use epu_core::State;
use epu_core::instance::Instance;
use epu_core::launch::{Launch, LaunchRequest, Outcome, Wanted};
use epu_core::pool::Pool;
use epu_core::random::Random;
use epu_core::request::{Caller, PoolRef, PoolView, Request};
use epu_core::time::{Clock, SystemClock};
use epu_decision_engines::Registry;
use epu_store::{ProvisionCommit, SqliteStore, Store};
use epu_tests::{Result, Trouble};
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, Row as _};
use tokio_util::sync::CancellationToken;

use crate::clock::{cpu_of, wall};
use crate::samples::{self, BEGIN, Instances};
use crate::ticks::no_file;
use crate::{Goal, Report, serving};

const SIZE: u32 = 100_000;

pub(crate) fn measure() -> Result<Report> {
    serving::runtime()?.block_on(restart())
}

/// What something took: by the clock, and of processors.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    cpu: Duration,
}

impl Took {
    const EVER: Self = Self {
        wall: Duration::MAX,
        cpu: Duration::MAX,
    };

    fn best(self, other: Self) -> Self {
        Self {
            wall: self.wall.min(other.wall),
            cpu: self.cpu.min(other.cpu),
        }
    }
}

async fn restart() -> Result<Report> {
    let mut report = Report::default();
    let directory = tempfile::tempdir().map_err(|e| Trouble::new("make a directory", e))?;
    fill(directory.path()).await?;
    let (mut ready, mut plain) = (Took::EVER, Took::EVER);
    for _ in 0..5 {
        plain = plain.best(fetch(&directory.path().join("epu.db")).await?);
        ready = ready.best(start(directory.path()).await?);
    }
    report.figure("restart-100k", ready.cpu.as_secs_f64(), "s", Goal::Below(3.0));
    report.figure(
        "restart-100k-to-sqlx",
        ready.wall.as_secs_f64() / plain.wall.as_secs_f64(),
        "times",
        Goal::Below(2.0),
    );
    report.note(format!(
        "view ready after {:.3} s by the clock ({:.3} s of processors, provisioner included); through sqlx alone {:.3} s ({:.3} s)",
        ready.wall.as_secs_f64(),
        ready.cpu.as_secs_f64(),
        plain.wall.as_secs_f64(),
        plain.cpu.as_secs_f64()
    ));
    Ok(report)
}

fn broken(e: epu_store::Error) -> Trouble {
    Trouble::new("use the store", epu_core::code::Chain(&e))
}

fn pool() -> Result<Pool> {
    samples::pool("web", &json!({"keep": {"n": SIZE}}), &json!({}))
}

/// Writes a pool, its instances and their launches, as they are when all run.
async fn fill(directory: &Path) -> Result<()> {
    let store = SqliteStore::open(directory).await.map_err(broken)?;
    let pool = pool()?;
    store.put_pools(std::slice::from_ref(&pool), Vec::new()).await.map_err(broken)?;
    let mut made = Instances::of(&pool.name)?;
    let all: Vec<Instance> = (0..SIZE)
        .map(|n| made.make(State::Running, BEGIN + Duration::from_millis(u64::from(n) * 10)))
        .collect();
    for launch in all.chunk_by(|a, b| a.launch == b.launch) {
        let wanted = launch
            .iter()
            .map(|i| Wanted {
                id: i.id,
                slot: None,
                variables: std::collections::BTreeMap::new(),
            })
            .collect();
        let first = &launch[0];
        let request = LaunchRequest {
            launch: first.launch,
            pool: pool.name.clone(),
            site: first.site.clone(),
            placement: None,
            purpose: epu_core::launch::Purpose::default(),
            template: pool.template.clone(),
            template_version: pool.template_version.clone(),
            instances: wanted,
            min: 1,
            max: None,
            epoch: 0,
        };
        let outcome = Some(Outcome::Launched {
            machines: u32::try_from(launch.len()).unwrap_or(u32::MAX),
        });
        let record = Launch {
            id: first.launch,
            request,
            accepted_at: first.created_at,
            epoch: 0,
            attempts: 1,
            doors: Vec::new(),
            outcome,
        };
        let instances = launch.iter().map(|i| Arc::new(Instance { version: 1, ..i.clone() })).collect();
        let commit = ProvisionCommit {
            term: None,
            also: Vec::new(),
            instances,
            launches: vec![record],
            journal: Vec::new(),
        };
        store.commit_provision(commit).await.map_err(broken)?;
    }
    store.close().await;
    Ok(())
}

/// Starts both services on the store and waits for the first answer that has every instance.
async fn start(directory: &Path) -> Result<Took> {
    let store = Arc::new(SqliteStore::open(directory).await.map_err(broken)?);
    let failed = |e: &dyn std::fmt::Display| Trouble::new("set up the services", e);
    let key = fresh_secret()
        .and_then(|secret| Keyring::new(secret.as_bytes()))
        .map_err(|e| failed(&e))?;
    let bus = LocalBus::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let random = Arc::new(Random::seeded(1));
    let provisioner = epu_provisioner::Parts {
        member: epu_core::lease::Member {
            name: "provisioner".to_owned(),
            service: epu_core::request::Service::Provisioner,
            url: None,
            since: clock.now(),
        },
        installation: "figures".to_owned(),
        config: epu_provisioner::Config::default(),
        addresses: epu_provisioner::Addresses::default(),
        store: store.clone(),
        bus: bus.clone(),
        clock: clock.clone(),
        random: random.clone(),
        keyring: Arc::new(key),
        sites: epu_provisioner::sites::fixed(std::collections::BTreeMap::new()),
        desk: Arc::new(epu_provisioner::sites::NoDesk),
        metrics: Arc::new(epu_provisioner::Metrics::new().map_err(|e| failed(&e))?),
    };
    let controller = epu_controller::Parts {
        member: epu_core::lease::Member {
            name: "controller".to_owned(),
            service: epu_core::request::Service::Controller,
            url: None,
            since: clock.now(),
        },
        bus: bus.clone(),
        store: store.clone(),
        clock,
        random,
        engines: Arc::new(Registry::standard()),
        config: epu_controller::Config::default(),
        metrics: epu_controller::Metrics::new().map_err(|e| failed(&e))?,
        file: no_file(),
    };
    let cancel = CancellationToken::new();
    let name = pool()?.name;
    let (began, cpu_before) = (wall(), cpu_of(std::process::id())?);
    let (stop, stop_too) = (cancel.clone(), cancel.clone());
    let provisioning = tokio::spawn(async move { epu_provisioner::run(provisioner, stop).await.map_err(|e| e.to_string()) });
    let controlling = tokio::spawn(async move { epu_controller::run(controller, stop_too).await.map_err(|e| e.to_string()) });
    let live = loop {
        let show = Request::PoolShow(PoolRef { pool: name.clone() });
        match bus.ask(Caller::Service("figures"), show, Duration::from_secs(60)).await {
            Ok(answer) => break answer.read::<PoolView>().map_err(|e| failed(&e))?.counts.live,
            // It is not yet there to be asked.
            Err(fault) if fault.code == "no-contact" => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(fault) => return Err(failed(&fault)),
        }
    };
    let took = Took {
        wall: began.elapsed(),
        cpu: cpu_of(std::process::id())?.saturating_sub(cpu_before),
    };
    if live != SIZE {
        return Err(Trouble::new("have the view ready", format!("the first answer says {live}")));
    }
    cancel.cancel();
    for service in [provisioning, controlling] {
        service.await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
    }
    store.close().await;
    Ok(took)
}

/// The same rows, fetched and decoded.
async fn fetch(database: &Path) -> Result<Took> {
    let failed = |e: &dyn std::fmt::Display| Trouble::new("fetch through sqlx", e);
    let (began, cpu_before) = (wall(), cpu_of(std::process::id())?);
    let options = SqliteConnectOptions::new().filename(database).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(|e| failed(&e))?;
    let rows = sqlx::query("SELECT body FROM instances WHERE state < '800'")
        .fetch_all(&mut connection)
        .await
        .map_err(|e| failed(&e))?;
    let mut instances: Vec<Instance> = Vec::with_capacity(rows.len());
    for row in &rows {
        let text: &str = row.try_get(0).map_err(|e| failed(&e))?;
        instances.push(serde_json::from_str(text).map_err(|e| failed(&e))?);
    }
    let took = Took {
        wall: began.elapsed(),
        cpu: cpu_of(std::process::id())?.saturating_sub(cpu_before),
    };
    if u32::try_from(instances.len()) != Ok(SIZE) {
        return Err(failed(&format_args!("{} rows", instances.len())));
    }
    connection.close().await.map_err(|e| failed(&e))?;
    Ok(took)
}
