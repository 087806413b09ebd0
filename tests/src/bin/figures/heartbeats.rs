//! Heartbeats through the aggregator over the local bus, on one core: askers, bus and aggregator share one thread.
//!
//! The figure is about single heartbeats, as agents send them: each is asked for by itself and its answer awaited. A note has those
//! that came in batches. The aggregator has no store at all; that nothing is stored by whoever hears its snapshots either is
//! counted with a controller on the same bus.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use epu_bus::Bus;
use epu_bus::local::LocalBus;
use epu_core::fact::{Fact, Instances as Told};
use epu_core::heartbeat::{Condition, Heartbeat};
use epu_core::id::InstanceId;
use epu_core::instance::{Instance, Work};
use epu_core::random::Random;
use epu_core::request::{Answer, Caller, Nothing, Request, StatusView};
use epu_core::time::{Clock, SystemClock};
use epu_core::{Span, State};
use epu_decision_engines::Registry;
use epu_sensor_aggregator::sensors::RealSources;
use epu_store::{MemoryStore, Metered, ProvisionCommit, Store};
use epu_tests::{Result, Trouble, wait};
use prometheus::core::Collector as _;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::ThreadCpu;
use crate::samples::{self, BEGIN, Instances};
use crate::ticks::no_file;
use crate::{Goal, Report};

/// Instances that speak.
const INSTANCES: u32 = 10_000;
/// Askers at a time; each speaks for its share of the instances in turn.
const ASKERS: usize = 100;
/// Rounds of one measurement; in each, every instance speaks once.
const ROUNDS: u64 = 30;
/// Heartbeats in one batch.
const BATCH: usize = 500;
/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(5);

struct World {
    bus: Arc<LocalBus>,
    clock: Arc<dyn Clock>,
    ids: Arc<Vec<InstanceId>>,
    sequence: u64,
    taken: prometheus::IntCounterVec,
}

pub(crate) fn measure() -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Trouble::new("start a runtime", e))?.block_on(world())
}

async fn world() -> Result<Report> {
    let mut report = Report::default();
    let cpu = ThreadCpu::here()?;
    let pool = samples::pool("web", &json!({"keep": {"n": INSTANCES}}), &json!({}))?;
    let mut made = Instances::of(&pool.name)?;
    let instances: Vec<Arc<Instance>> = (0..INSTANCES).map(|_| Arc::new(made.make(State::Running, BEGIN))).collect();
    let bus = LocalBus::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let metrics = epu_sensor_aggregator::Metrics::new().map_err(|e| Trouble::new("make metrics", e))?;
    let cancel = CancellationToken::new();
    let mut services: JoinSet<std::result::Result<(), String>> = JoinSet::new();
    let parts = epu_sensor_aggregator::Parts {
        name: "figures".to_owned(),
        member: epu_core::lease::Member {
            name: "figures".to_owned(),
            service: epu_core::request::Service::Aggregator,
            url: None,
            since: clock.now(),
        },
        store: None,
        bus: bus.clone(),
        clock: clock.clone(),
        sources: Arc::new(RealSources::new(clock.clone())),
        config: epu_sensor_aggregator::Config::default(),
        metrics: metrics.clone(),
    };
    let stop = cancel.clone();
    services.spawn(async move { epu_sensor_aggregator::run(parts, stop).await.map_err(|e| e.to_string()) });
    tokio::task::yield_now().await;
    let told = Told {
        changed: instances.clone(),
        complete: true,
        ..Told::default()
    };
    bus.tell(Fact::Instances(Arc::new(told)));
    let ids = Arc::new(instances.iter().map(|i| i.id).collect());
    let mut world = World {
        bus: bus.clone(),
        clock: clock.clone(),
        ids,
        sequence: 0,
        taken: metrics.heartbeats.clone(),
    };
    tokio::time::sleep(Duration::from_millis(100)).await;

    let count = ROUNDS * u64::from(INSTANCES);
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let before = cpu.used()?;
        world.singles(ROUNDS).await?;
        best = best.min(cpu.used()?.saturating_sub(before));
    }
    report.figure("heartbeats-local-bus", rate(count, best), "per-core-second", Goal::Above(500_000.0));
    report.note(format!(
        "{ASKERS} askers, each awaiting the answer to one heartbeat at a time; {:.2} us each",
        1e6 / rate(count, best)
    ));
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let before = cpu.used()?;
        world.batches(ROUNDS).await?;
        best = best.min(cpu.used()?.saturating_sub(before));
    }
    report.note(format!("in batches of {BATCH}: {:.0} per core second", rate(count, best)));

    let stored = stored(&mut world, pool, instances, &mut services, &cancel).await?;
    report.figure(
        "heartbeats-stored",
        rate(stored, Duration::from_secs(1)),
        "writes",
        Goal::Below(1.0),
    );
    report.note(format!(
        "by a controller on the same bus, during {} heartbeats and the snapshots of {} s",
        10 * u64::from(INSTANCES),
        3
    ));
    cancel.cancel();
    while let Some(ended) = services.join_next().await {
        ended
            .map_err(|e| Trouble::new("run a service", e))?
            .map_err(|e| Trouble::new("run a service", e))?;
    }
    Ok(report)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

impl World {
    fn so_far(&self) -> u64 {
        self.taken.with_label_values(&["taken"]).get()
    }

    /// Every instance speaks so many times, each heartbeat a request of its own.
    async fn singles(&mut self, rounds: u64) -> Result<()> {
        let before = self.so_far();
        let mut asking = JoinSet::new();
        for asker in 0..ASKERS {
            let (bus, ids, from) = (self.bus.clone(), self.ids.clone(), self.sequence);
            asking.spawn(async move {
                for round in 1..=rounds {
                    for id in ids.iter().skip(asker).step_by(ASKERS) {
                        let request = Request::Heartbeat(Box::new(heartbeat(*id, from + round)));
                        let answer = bus.ask(Caller::Instance(*id), request, WITHIN).await;
                        if !matches!(answer, Ok(Answer::Orders(_))) {
                            return Err(Trouble::new("send a heartbeat", format!("{answer:?}")));
                        }
                    }
                }
                Ok(())
            });
        }
        all(asking).await?;
        self.sequence += rounds;
        self.check(before, rounds)
    }

    /// The same in batches.
    async fn batches(&mut self, rounds: u64) -> Result<()> {
        let before = self.so_far();
        for _ in 0..rounds {
            self.sequence += 1;
            let mut asking = JoinSet::new();
            for ids in self.ids.chunks(BATCH) {
                let batch = Request::Heartbeats(ids.iter().map(|id| heartbeat(*id, self.sequence)).collect());
                let bus = self.bus.clone();
                asking.spawn(async move {
                    let answer = bus.ask(Caller::Service("figures"), batch, WITHIN).await;
                    answer.map(drop).map_err(|e| Trouble::new("send a batch", e))
                });
            }
            all(asking).await?;
        }
        self.check(before, rounds)
    }

    fn check(&self, before: u64, rounds: u64) -> Result<()> {
        let (taken, sent) = (self.so_far() - before, rounds * u64::from(INSTANCES));
        if taken == sent {
            Ok(())
        } else {
            Err(Trouble::new("send heartbeats", format!("{sent} were sent and {taken} taken")))
        }
    }
}

fn heartbeat(instance: InstanceId, sequence: u64) -> Heartbeat {
    Heartbeat {
        instance,
        sequence,
        started_at_ms: 1,
        sent_at_ms: 1,
        condition: Condition::Ok,
        work: Work::Busy,
        work_for_ms: 1_000,
        draining: false,
        readings: BTreeMap::new(),
    }
}

async fn all(mut asking: JoinSet<Result<()>>) -> Result<()> {
    while let Some(done) = asking.join_next().await {
        done.map_err(|e| Trouble::new("ask", e))??;
    }
    Ok(())
}

/// Runs a controller beside the aggregator and counts what it writes while heartbeats come.
async fn stored(
    world: &mut World,
    pool: epu_core::Pool,
    instances: Vec<Arc<Instance>>,
    services: &mut JoinSet<std::result::Result<(), String>>,
    cancel: &CancellationToken,
) -> Result<u64> {
    let broken = |e: epu_store::Error| Trouble::new("fill the store", e);
    let memory = Arc::new(MemoryStore::new());
    memory.put_pools(&[pool], Vec::new()).await.map_err(broken)?;
    let first = |i: &Arc<Instance>| {
        Arc::new(Instance {
            version: 1,
            ..i.as_ref().clone()
        })
    };
    let commit = ProvisionCommit {
        instances: instances.iter().map(first).collect(),
        ..ProvisionCommit::default()
    };
    memory.commit_provision(commit).await.map_err(broken)?;
    let metrics = epu_store::Metrics::new().map_err(|e| Trouble::new("make metrics", e))?;
    let parts = epu_controller::Parts {
        member: epu_core::lease::Member {
            name: "controller".to_owned(),
            service: epu_core::request::Service::Controller,
            url: None,
            since: epu_core::Timestamp::START,
        },
        bus: world.bus.clone(),
        store: Arc::new(Metered::new(memory, metrics.clone())),
        clock: world.clock.clone(),
        random: Arc::new(Random::seeded(1)),
        engines: Arc::new(Registry::standard()),
        config: epu_controller::Config {
            tick: Span::millis(100),
            ..epu_controller::Config::default()
        },
        metrics: epu_controller::Metrics::new().map_err(|e| Trouble::new("make metrics", e))?,
        file: no_file(),
    };
    let stop = cancel.clone();
    services.spawn(async move { epu_controller::run(parts, stop).await.map_err(|e| e.to_string()) });
    let bus = world.bus.clone();
    let ask = async || {
        let answer = bus.ask(Caller::Service("figures"), Request::Status(Nothing {}), WITHIN).await?;
        answer.read::<StatusView>()
    };
    world.singles(1).await?;
    // It hears everybody with the aggregator's answer to its first word, and decides once.
    wait::until(
        Duration::from_secs(20),
        "the controller knows that everybody is busy",
        async || match ask().await {
            Ok(status) if status.pools.iter().any(|p| p.counts.busy == INSTANCES && p.condition == "steady") => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let writes = || -> u64 {
        let families = metrics.writes.collect();
        families
            .iter()
            .flat_map(|f| f.get_metric())
            .map(|m| m.get_counter().get_value())
            .map(whole)
            .sum()
    };
    let before = writes();
    if before == 0 {
        return Err(Trouble::new("count writes", "not even the first decision was counted"));
    }
    for _ in 0..5 {
        world.singles(2).await?;
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    Ok(writes() - before)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter of writes: a small whole number"
)]
fn whole(value: f64) -> u64 {
    value as u64
}
