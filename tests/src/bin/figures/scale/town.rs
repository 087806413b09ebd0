//! A large installation in one process: the real controller, provisioner and aggregator, beside stand-ins for what is outside. The site
//! answers at once. One voice speaks for all agents, in batches, and reports new machines ready to the provisioner. What carries their
//! words and keeps their records is the [`Ground`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use epu_bus::Bus;
use epu_bus::token::{Keyring, fresh_secret};
use epu_core::heartbeat::{Condition, Heartbeat};
use epu_core::instance::{Exit, Instance, Work};
use epu_core::launch::{Launch, LaunchRequest, Outcome, Wanted};
use epu_core::lease::Member;
use epu_core::pool::Pool;
use epu_core::random::Random;
use epu_core::request::{
    Answer, Caller, Context, ContextClaim, Finding, Happened, NamedTemplate, Nothing, Report, Request, Service, StatusView,
};
use epu_core::time::{Span, Timestamp};
use epu_core::{InstanceId, LaunchId, State};
use epu_decision_engines::Registry;
use epu_provisioner::iaas::{Capabilities, Iaas, IaasError, IaasLaunch, Machine, MachineState};
use epu_sensor_aggregator::sensors::RealSources;
use epu_store::{ProvisionCommit, Store};
use epu_tests::{Result, Trouble};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::ground::Ground;
use crate::samples::{self, Instances};
use crate::ticks::no_file;

/// How often an instance speaks, in seconds.
pub(super) const EVERY: usize = 30;
/// How often a site of this size is listed while nothing changes.
const LOOK_STEADY: Span = Span::secs(60);
/// Heartbeats in one batch.
const BATCH: usize = 1_000;
/// Pools that are written in one go.
const AT_ONCE: usize = 20;
const WITHIN: Duration = Duration::from_secs(60);
/// How often somebody is asked again who is not there yet.
const ASK_AGAIN: u32 = 30;
/// How long a start may take.
const ANEW_WITHIN: Duration = Duration::from_secs(120);
const WHO: Caller = Caller::Service("figures");

/// A site whose machines are up at once and gone at once.
#[derive(Debug, Default)]
pub(super) struct Site {
    inner: Mutex<There>,
}

#[derive(Debug, Default)]
struct There {
    machines: BTreeMap<String, Machine>,
    launched: BTreeMap<LaunchId, Vec<String>>,
    /// Came up and was not begun to be spoken for.
    new: Vec<(LaunchId, u32)>,
    made: u64,
    lists: u64,
}

impl Site {
    fn lock(&self) -> MutexGuard<'_, There> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often it was listed.
    pub(super) fn lists(&self) -> u64 {
        self.lock().lists
    }
}

#[async_trait]
impl Iaas for Site {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            driver: "made-up",
            consistency_grace: Span::secs(10),
            gone_confirmations: 2,
            look_fast: Span::secs(2),
            look_steady: LOOK_STEADY,
            sweep_grace: Span::secs(60),
            launch_most: 1_000,
        }
    }

    async fn launch(&self, launch: &IaasLaunch) -> std::result::Result<Vec<Machine>, IaasError> {
        let mut there = self.lock();
        if !there.launched.contains_key(&launch.launch) {
            let mut ids = Vec::new();
            for index in (0..).take(launch.instances.len()) {
                there.made += 1;
                let machine = machine(format!("n-{:017x}", there.made), launch.launch, index);
                there.new.push((launch.launch, index));
                ids.push(machine.id.clone());
                there.machines.insert(machine.id.clone(), machine);
            }
            there.launched.insert(launch.launch, ids);
        }
        let ids = there.launched.get(&launch.launch).into_iter().flatten();
        Ok(ids.filter_map(|id| there.machines.get(id)).cloned().collect())
    }

    async fn terminate(&self, machines: &[String]) -> std::result::Result<(), IaasError> {
        let mut there = self.lock();
        for id in machines {
            there.machines.remove(id);
        }
        Ok(())
    }

    async fn list(&self) -> std::result::Result<Vec<Machine>, IaasError> {
        let mut there = self.lock();
        there.lists += 1;
        Ok(there.machines.values().cloned().collect())
    }

    async fn describe(&self, machines: &[String]) -> std::result::Result<Vec<(String, Option<MachineState>)>, IaasError> {
        let there = self.lock();
        let state = |id: &String| (id.clone(), there.machines.get(id).map(|machine| machine.state));
        Ok(machines.iter().map(state).collect())
    }

    async fn output(&self, _: InstanceId, _: Option<&str>, _: u32) -> std::result::Result<Option<String>, IaasError> {
        Ok(None)
    }

    async fn check(&self, _: &[NamedTemplate]) -> Vec<Finding> {
        Vec::new()
    }

    async fn tidy(&self, _: Timestamp) -> std::result::Result<u32, IaasError> {
        Ok(0)
    }
}

fn machine(id: String, launch: LaunchId, index: u32) -> Machine {
    Machine {
        id,
        launch: Some(launch),
        index: Some(index),
        instance: None,
        state: MachineState::Running,
        address: None,
    }
}

/// A service and how it is stopped.
struct Running {
    task: JoinHandle<std::result::Result<(), String>>,
    cancel: CancellationToken,
}

impl Running {
    async fn stop(self) -> Result<()> {
        self.cancel.cancel();
        let ended = self.task.await.map_err(|e| Trouble::new("stop a service", e))?;
        ended.map_err(|e| Trouble::new("stop a service", e))
    }
}

/// The installation.
pub(super) struct Town {
    pub(super) site: Arc<Site>,
    pub(super) ground: Ground,
    /// The voice's.
    bus: Arc<dyn Bus>,
    random: Arc<Random>,
    keyring: Arc<Keyring>,
    pools: u32,
    of_each: u32,
    /// Who is spoken for, each in its place: an heir has the place of whom it replaces.
    speaking: Vec<InstanceId>,
    free: Vec<usize>,
    second: usize,
    seconds: Interval,
    starts: u32,
    aggregator: Running,
    provisioner: Running,
    controller: Running,
}

fn broken(doing: &str) -> impl Fn(epu_store::Error) -> Trouble {
    let doing = doing.to_owned();
    move |error| Trouble::new(&doing, epu_core::code::Chain(&error))
}

impl Town {
    /// Everything on record and everything running; nobody has been heard yet.
    pub(super) async fn found(ground: Ground, pools: u32, of_each: u32) -> Result<Self> {
        let clock = ground.clock();
        let site = Arc::new(Site::default());
        let speaking = fill(ground.store().await?.as_ref(), &site, clock.now(), pools, of_each).await?;
        let secret = fresh_secret().map_err(|e| Trouble::new("make a key", e))?;
        let keyring = Arc::new(Keyring::new(secret.as_bytes()).map_err(|e| Trouble::new("make a key", e))?);
        let random = Arc::new(Random::seeded(1));
        let aggregator = {
            let parts = epu_sensor_aggregator::Parts {
                name: "aggregator".to_owned(),
                member: member("aggregator", Service::Aggregator, 0, clock.now()),
                store: Some(ground.store().await?),
                bus: ground.bus("aggregator").await?,
                clock: clock.clone(),
                sources: Arc::new(RealSources::new(clock.clone())),
                config: epu_sensor_aggregator::Config::default(),
                metrics: epu_sensor_aggregator::Metrics::new().map_err(|e| Trouble::new("make metrics", e))?,
            };
            let cancel = CancellationToken::new();
            let stop = cancel.clone();
            let task = tokio::spawn(async move { epu_sensor_aggregator::run(parts, stop).await.map_err(|e| e.to_string()) });
            Running { task, cancel }
        };
        let parts = (&random, &keyring, &site);
        let provisioner = provisioner(&ground, parts, 1).await?;
        let controller = controller(&ground, parts, 1).await?;
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        // What one second took beyond itself is not made up for.
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // They begin to serve.
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Self {
            site,
            bus: ground.bus("voice").await?,
            ground,
            random,
            keyring,
            pools,
            of_each,
            speaking,
            free: Vec::new(),
            second: 0,
            seconds,
            starts: 1,
            aggregator,
            provisioner,
            controller,
        })
    }

    /// One second, in which everybody speaks whose turn it is, and who came up says so.
    pub(super) async fn second(&mut self) -> Result<()> {
        let (turn, sequence) = (self.second % EVERY, u64::try_from(self.second / EVERY).unwrap_or(0) + 1);
        self.second += 1;
        let due: Vec<InstanceId> = self.speaking.iter().skip(turn).step_by(EVERY).copied().collect();
        for ids in due.chunks(BATCH) {
            let batch = ids.iter().map(|id| heartbeat(*id, sequence)).collect();
            self.ask(WHO, Request::Heartbeats(batch)).await?;
        }
        let new = std::mem::take(&mut self.site.lock().new);
        for (launch, index) in new {
            let nonce = format!("{launch}-{index}");
            let claim = Request::Context(ContextClaim { launch, index, nonce });
            // Its launch may not be written yet: it asks again, as an agent does.
            let Ok(answer) = self.bus.ask(Caller::Launch(launch), claim, WITHIN).await else {
                self.site.lock().new.push((launch, index));
                continue;
            };
            let context: Context = answer.read().map_err(|e| Trouble::new("read a context", e))?;
            let (instance, happened) = (context.instance, Happened::Ready { address: None });
            self.ask(Caller::Instance(instance), Request::Report(Report { instance, happened }))
                .await?;
            match self.free.pop() {
                Some(place) => self.speaking[place] = instance,
                None => self.speaking.push(instance),
            }
        }
        self.seconds.tick().await;
        Ok(())
    }

    /// The workers of `n` instances fail, each in a pool of its own; these are another `n` in every round.
    pub(super) async fn fail(&mut self, n: u32, round: u32) -> Result<()> {
        let (pools, of_each) = (self.pools, self.of_each);
        for nth in 0..n {
            // Spread over all pools; another member of the pool whenever the round comes to the same pool again.
            let at = round * n + nth;
            let (pool, member) = (at % pools, at / pools % of_each);
            let place = usize::try_from(pool * of_each + member).unwrap_or(0);
            let Some(instance) = self.speaking.get(place).copied() else {
                continue;
            };
            let exit = Exit {
                code: Some(1),
                signal: None,
                output: "it failed".to_owned(),
            };
            let happened = Happened::Exited { exit };
            self.ask(Caller::Instance(instance), Request::Report(Report { instance, happened }))
                .await?;
            self.free.push(place);
        }
        Ok(())
    }

    async fn ask(&self, caller: Caller, request: Request) -> Result<Answer> {
        let op = request.op();
        let mut answer = self.bus.ask(caller.clone(), request.clone(), WITHIN).await;
        for _ in 0..ASK_AGAIN {
            if !answer.as_ref().is_err_and(|fault| matches!(&*fault.code, "no-contact" | "timeout")) {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            answer = self.bus.ask(caller.clone(), request.clone(), WITHIN).await;
        }
        answer.map_err(|fault| Trouble::new(format!("ask {op}"), fault))
    }

    /// How many run and are busy, as the controller shows them.
    pub(super) async fn busy(&self) -> Result<u32> {
        let answer = self.ask(WHO, Request::Status(Nothing {})).await?;
        let status: StatusView = answer.read().map_err(|e| Trouble::new("read the status", e))?;
        Ok(status.pools.iter().map(|pool| pool.counts.busy).sum())
    }

    /// Stops controller and provisioner in the orderly way and starts them anew on what is recorded; back when the first answer has
    /// everybody.
    pub(super) async fn restart(mut self) -> Result<Self> {
        self.starts += 1;
        self.controller.stop().await?;
        self.provisioner.stop().await?;
        let parts = (&self.random, &self.keyring, &self.site);
        self.provisioner = provisioner(&self.ground, parts, self.starts).await?;
        self.controller = controller(&self.ground, parts, self.starts).await?;
        let all = self.pools * self.of_each;
        let clock = self.ground.clock();
        let by = clock.now() + ANEW_WITHIN;
        while clock.now() < by {
            let answer = self.bus.ask(WHO, Request::Status(Nothing {}), WITHIN).await;
            let status = answer.and_then(Answer::read::<StatusView>);
            let live = status.map_or(0, |status| status.pools.iter().map(|pool| pool.counts.live).sum());
            if live >= all {
                return Ok(self);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(Trouble::new(
            "start anew",
            format!("not everybody is known after {}", Span(ANEW_WITHIN)),
        ))
    }

    pub(super) async fn end(self) -> Result<()> {
        self.controller.stop().await?;
        self.provisioner.stop().await?;
        self.aggregator.stop().await
    }
}

fn member(name: &str, service: Service, start: u32, since: Timestamp) -> Member {
    Member {
        name: format!("{name}-{start}"),
        service,
        url: None,
        since,
    }
}

type Given<'a> = (&'a Arc<Random>, &'a Arc<Keyring>, &'a Arc<Site>);

async fn provisioner(ground: &Ground, (random, keyring, site): Given<'_>, start: u32) -> Result<Running> {
    let clock = ground.clock();
    let name = epu_core::SiteName::new("here").map_err(|e| Trouble::new("name a site", e))?;
    let driver: Arc<dyn Iaas> = site.clone();
    let parts = epu_provisioner::Parts {
        member: member("provisioner", Service::Provisioner, start, clock.now()),
        installation: "figures".to_owned(),
        config: epu_provisioner::Config::default(),
        addresses: epu_provisioner::Addresses::default(),
        store: ground.store().await?,
        bus: ground.bus("provisioner").await?,
        clock,
        random: random.clone(),
        keyring: keyring.clone(),
        sites: epu_provisioner::sites::fixed(BTreeMap::from([(name, driver)])),
        desk: Arc::new(epu_provisioner::sites::NoDesk),
        metrics: Arc::new(epu_provisioner::Metrics::new().map_err(|e| Trouble::new("make metrics", e))?),
    };
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let task = tokio::spawn(async move { epu_provisioner::run(parts, stop).await.map_err(|e| e.to_string()) });
    Ok(Running { task, cancel })
}

async fn controller(ground: &Ground, (random, ..): Given<'_>, start: u32) -> Result<Running> {
    let clock = ground.clock();
    let parts = epu_controller::Parts {
        member: member("controller", Service::Controller, start, clock.now()),
        bus: ground.bus("controller").await?,
        store: ground.store().await?,
        clock,
        random: random.clone(),
        engines: Arc::new(Registry::standard()),
        config: epu_controller::Config::default(),
        metrics: epu_controller::Metrics::new().map_err(|e| Trouble::new("make metrics", e))?,
        file: no_file(),
    };
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let task = tokio::spawn(async move { epu_controller::run(parts, stop).await.map_err(|e| e.to_string()) });
    Ok(Running { task, cancel })
}

/// Writes pools, launches and instances as they are when all run, and puts their machines on the site.
async fn fill(store: &dyn Store, site: &Site, now: Timestamp, pools: u32, of_each: u32) -> Result<Vec<InstanceId>> {
    let mut speaking = Vec::new();
    let (mut written, mut commit) = (Vec::new(), ProvisionCommit::default());
    for n in 0..pools {
        let mut pool = samples::pool(&format!("pool-{n:05}"), &json!({"keep": {"n": of_each}}), &json!({}))?;
        pool.spec.sensors.clear();
        pool.template.heartbeat = Span::secs(u64::try_from(EVERY).unwrap_or(30));
        let mut made = Instances::seeded(&pool.name, u64::from(n))?;
        let at = now - Duration::from_secs(3_000);
        let all: Vec<Arc<Instance>> = (0..of_each)
            .map(|member| {
                let first = made.make(State::Running, at + Duration::from_millis(u64::from(member) * 20_000));
                Arc::new(Instance {
                    version: 1,
                    machine: Some(format!("i-{n:08x}{member:09x}")),
                    ..first
                })
            })
            .collect();
        speaking.extend(all.iter().map(|instance| instance.id));
        let of_one = all.chunk_by(|a, b| a.launch == b.launch);
        commit.launches.extend(of_one.map(|of_one| launch_of(&pool, of_one)));
        {
            let mut there = site.lock();
            for instance in &all {
                let id = instance.machine.clone().unwrap_or_default();
                there.machines.insert(id.clone(), machine(id, instance.launch, instance.index));
            }
        }
        commit.instances.extend(all);
        written.push(pool);
        if written.len() == AT_ONCE || n + 1 == pools {
            let pools = std::mem::take(&mut written);
            store.put_pools(&pools, Vec::new()).await.map_err(broken("write pools"))?;
            let commit = std::mem::take(&mut commit);
            store.commit_provision(commit).await.map_err(broken("write instances"))?;
        }
    }
    Ok(speaking)
}

fn launch_of(pool: &Pool, all: &[Arc<Instance>]) -> Launch {
    let wanted = all.iter().map(|instance| Wanted {
        id: instance.id,
        slot: None,
        variables: BTreeMap::new(),
    });
    let first = &all[0];
    Launch {
        id: first.launch,
        request: LaunchRequest {
            launch: first.launch,
            pool: pool.name.clone(),
            site: first.site.clone(),
            placement: None,
            purpose: epu_core::launch::Purpose::default(),
            template: pool.template.clone(),
            template_version: pool.template_version.clone(),
            instances: wanted.collect(),
            min: 1,
            max: None,
            epoch: 0,
        },
        accepted_at: first.created_at,
        epoch: 0,
        attempts: 1,
        doors: Vec::new(),
        outcome: Some(Outcome::Launched {
            machines: u32::try_from(all.len()).unwrap_or(u32::MAX),
        }),
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
