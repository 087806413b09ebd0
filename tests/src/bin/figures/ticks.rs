//! A controller of 1,000 pools with 50 instances each, in which nothing changes: what one second costs it.
//!
//! It is the controller's own loop, as in production, on a local bus and a store in memory, under virtual time: each second
//! brings the snapshots that an aggregator would send (every instance speaks every 5 s, every sensor is read every 5 s), deadlines
//! pass, pools are looked at every 30 s though nothing happened, and pools are told every 30 s. All of that counts.

use std::sync::Arc;
use std::time::Duration;

use epu_bus::Bus as _;
use epu_bus::local::LocalBus;
use epu_controller::service::FileConfig;
use epu_controller::spec::Known;
use epu_core::fact::{Fact, Heard, Snapshot};
use epu_core::id::InstanceId;
use epu_core::instance::{Instance, Work};
use epu_core::pool::Pool;
use epu_core::random::Random;
use epu_core::reading::SensorReport;
use epu_core::time::{Clock, Span, Timestamp};
use epu_core::{SensorName, State};
use epu_decision_engines::Registry;
use epu_store::{JournalQuery, MemoryStore, ProvisionCommit, Store};
use epu_tests::{Result, Trouble};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::clock::{ThreadCpu, ms};
use crate::samples::{self, BEGIN, Instances};
use crate::{Goal, Report};

const POOLS: usize = 1_000;
const MEMBERS: u32 = 50;
/// How often an instance speaks and a sensor is read, in seconds.
const EVERY: usize = 5;
/// Until everything is in its rhythm: longer than the longest deadline.
const WARM: u32 = 160;
/// Seconds of one measurement: a whole round of every deadline, so that none is shorter than another by luck.
const SECONDS: u32 = 120;
/// Instances in one page of a snapshot, as the aggregator cuts them.
const PAGE: usize = epu_sensor_aggregator::window::PAGE_MAX;

/// The clock of a runtime whose time is paused.
#[derive(Debug)]
pub(crate) struct VirtualClock(tokio::time::Instant);

impl VirtualClock {
    /// One that begins now.
    #[expect(clippy::disallowed_methods, reason = "this is a clock")]
    pub(crate) fn start() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for VirtualClock {
    #[expect(clippy::disallowed_methods, reason = "this is a clock")]
    fn now(&self) -> Timestamp {
        BEGIN + Duration::from_secs(3_600) + tokio::time::Instant::now().duration_since(self.0)
    }
}

pub(crate) fn measure() -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.map_err(|e| Trouble::new("start a runtime", e))?.block_on(world())
}

/// No files and no templates: everything is in the store already.
pub(crate) fn no_file() -> tokio::sync::watch::Receiver<Arc<FileConfig>> {
    let known = Known {
        engines: Registry::standard(),
        sites: std::collections::BTreeSet::new(),
        owned: std::collections::BTreeSet::new(),
        templates: std::collections::BTreeMap::new(),
        tick: Span::secs(1),
        search: None,
    };
    tokio::sync::watch::channel(Arc::new(FileConfig {
        path: String::new(),
        pools: Vec::new(),
        known,
        sites: epu_controller::config::Sites::default(),
    }))
    .1
}

async fn world() -> Result<Report> {
    let mut report = Report::default();
    let store = Arc::new(MemoryStore::new());
    let (pools, instances) = fill(store.as_ref()).await?;
    let bus = LocalBus::new();
    let clock = Arc::new(VirtualClock::start());
    let metrics = epu_controller::Metrics::new().map_err(|e| Trouble::new("make metrics", e))?;
    let parts = epu_controller::Parts {
        member: epu_core::lease::Member {
            name: "controller".to_owned(),
            service: epu_core::request::Service::Controller,
            url: None,
            since: BEGIN,
        },
        bus: bus.clone(),
        store: store.clone(),
        clock,
        random: Arc::new(Random::seeded(1)),
        engines: Arc::new(Registry::standard()),
        config: epu_controller::Config::default(),
        metrics: metrics.clone(),
        file: no_file(),
    };
    let cancel = CancellationToken::new();
    let running = tokio::spawn(epu_controller::run(parts, cancel.clone()));
    let pages = pages(&pools, &instances)?;
    let cpu = ThreadCpu::here()?;

    let looks = || {
        pools
            .iter()
            .map(|p| metrics.looks.with_label_values(&[p.name.as_str()]).get())
            .sum::<u64>()
    };
    let mut second = 0;
    let mut pass = async |seconds: u32| {
        for _ in 0..seconds {
            for page in &pages[second % EVERY] {
                bus.tell(Fact::Snapshot(page.clone()));
            }
            second += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    pass(WARM).await;
    let (told_before, looks_before) = (events(store.as_ref()).await?, looks());
    if looks_before < u64::try_from(POOLS).unwrap_or(u64::MAX) {
        return Err(Trouble::new("warm up", format!("only {looks_before} looks at {POOLS} pools")));
    }
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let before = cpu.used()?;
        pass(SECONDS).await;
        best = best.min((cpu.used()?.saturating_sub(before)) / SECONDS);
    }
    let (told, looked) = (events(store.as_ref()).await? - told_before, looks() - looks_before);
    if told > 0 {
        return Err(Trouble::new("let nothing change", format!("{told} events were written")));
    }
    cancel.cancel();
    running
        .await
        .map_err(|e| Trouble::new("run the controller", e))?
        .map_err(|e| Trouble::new("run the controller", e))?;
    report.figure("tick-1000-pools-50", ms(best), "ms", Goal::Below(20.0));
    let heard: usize = pages[0].iter().map(|p| p.instances.len()).sum();
    let seconds = f64::from(SECONDS * 5);
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let looked = looked as f64 / seconds;
    report.note(format!(
        "with {heard} heartbeats taken in and {looked:.0} pools looked at in each tick, nothing decided or written"
    ));
    Ok(report)
}

async fn fill(store: &MemoryStore) -> Result<(Vec<Pool>, Vec<Arc<Instance>>)> {
    let broken = |e| Trouble::new("fill the store", epu_core::code::Chain(&e));
    let mut pools = Vec::new();
    let mut all = Vec::new();
    for n in 0..POOLS {
        let engine = if n.is_multiple_of(2) {
            samples::band()
        } else {
            json!({"keep": {"n": MEMBERS}})
        };
        let pool = samples::pool(&format!("pool-{n:04}"), &engine, &json!({}))?;
        let mut instances = Instances::of(&pool.name)?;
        let at = |member: u32| BEGIN + Duration::from_millis(u64::from(member) * 50_000 + u64::try_from(n).unwrap_or(0));
        all.extend((0..MEMBERS).map(|member| Arc::new(instances.make(State::Running, at(member)))));
        pools.push(pool);
    }
    store.put_pools(&pools, Vec::new()).await.map_err(broken)?;
    let written: Vec<Arc<Instance>> = all
        .iter()
        .map(|instance| {
            let mut first = instance.as_ref().clone();
            first.version = 1;
            Arc::new(first)
        })
        .collect();
    store
        .commit_provision(ProvisionCommit {
            instances: written,
            ..ProvisionCommit::default()
        })
        .await
        .map_err(broken)?;
    Ok((pools, all))
}

/// What an aggregator says in each second of a round: who spoke, and which sensors were read. Not in order of pools.
fn pages(pools: &[Pool], instances: &[Arc<Instance>]) -> Result<Vec<Vec<Arc<Snapshot>>>> {
    let jobs = SensorName::new("jobs").map_err(|e| Trouble::new("name a sensor", e))?;
    let mut seconds = Vec::new();
    for second in 0..EVERY {
        let mut heard: Vec<(InstanceId, Heard)> = instances
            .iter()
            .enumerate()
            .filter(|(n, _)| n % EVERY == second)
            .map(|(n, i)| {
                (
                    i.id,
                    Heard {
                        ago_ms: i64::try_from(n % 1_000).unwrap_or(0),
                        ..samples::heard(i.id, &i.pool, Work::Busy)
                    },
                )
            })
            .collect();
        heard.sort_by_key(|(id, _)| id.0.as_u128().rotate_left(64));
        let sensors = pools
            .iter()
            .enumerate()
            .filter(|(n, _)| n % EVERY == second)
            .map(|(_, pool)| SensorReport {
                pool: pool.name.clone(),
                sensor: jobs.clone(),
                value: Some(100.0),
                age_ms: Some(10),
                source: "/var/spool/jobs".to_owned(),
                fault: None,
                reported: 1,
                of: 1,
                covers_in_progress: false,
            });
        let heard: Vec<Heard> = heard.into_iter().map(|(_, heard)| heard).collect();
        let page = |instances: &[Heard]| Snapshot {
            aggregator: "a".to_owned(),
            listening_for_ms: 3_600_000,
            instances: instances.to_vec(),
            sensors: Vec::new(),
            complete: false,
        };
        let mut pages: Vec<Snapshot> = heard.chunks(PAGE).map(page).collect();
        if let Some(last) = pages.last_mut() {
            last.sensors.extend(sensors);
            last.complete = second == 0;
        }
        seconds.push(pages.into_iter().map(Arc::new).collect());
    }
    Ok(seconds)
}

async fn events(store: &MemoryStore) -> Result<usize> {
    let all = JournalQuery {
        after: Some(0),
        limit: u32::MAX,
        ..JournalQuery::default()
    };
    store
        .journal(all)
        .await
        .map(|entries| entries.len())
        .map_err(|e| Trouble::new("read the journal", e))
}
