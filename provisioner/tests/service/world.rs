//! A provisioner on a local bus, with a store in memory and a site that does as it is told, under virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use epu_bus::local::LocalBus;
use epu_bus::token::Keyring;
use epu_bus::{Bus, Facts};
use epu_core::Fault;
use epu_core::fact::{Fact, Instances, Kind};
use epu_core::id::{InstanceId, LaunchId, PoolName, SiteName};
use epu_core::instance::{Cause, Drain, Exit, Instance, Work};
use epu_core::journal::{Entry, Event};
use epu_core::launch::{LaunchRequest, Purpose, Wanted};
use epu_core::lease::{Domain, LeaseAsk, Member};
use epu_core::life::State;
use epu_core::random::Random;
use epu_core::request::{Answer, Caller, Context, ContextClaim, DrainOrder, Happened, Nothing, Report, Request, Service};
use epu_core::request::{BucketView, Finding, FindingVerdict, NamedTemplate};
use epu_core::request::{SiteStatus, Terminate};
use epu_core::time::{Clock, Span, Timestamp};
use epu_provisioner::iaas::{Admission, Capabilities, Class, Iaas, IaasError, IaasLaunch, Machine, MachineState};
use epu_provisioner::pace::{Action, Pace, Pacers};
use epu_provisioner::sites::{Desk, NoDesk, Offers, fixed};
use epu_provisioner::{Addresses, Config, Error, Metrics, Parts, run};
use epu_store::{JournalQuery, MemoryStore, Store};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) const CONTROLLER: Caller = Caller::Service("controller");

/// Tokio's paused clock as ours.
#[derive(Debug)]
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        Timestamp(1_763_840_236_000) + self.0.elapsed()
    }
}

/// What the site does with a launch.
#[derive(Debug, Clone)]
pub(crate) enum Does {
    /// Launches them all at once.
    All,
    /// Launches them after a while.
    AllAfter(Duration),
    /// Launches so many.
    Only(usize),
    /// Launches them, and the answer is lost.
    LosesAnswer,
    /// Launches them, and never answers.
    LaunchesAndHangs,
    /// Never does anything.
    Hangs,
    /// Says no.
    Fails(Class),
}

#[derive(Debug, Default)]
pub(crate) struct Inside {
    pub(crate) machines: BTreeMap<String, Machine>,
    pub(crate) by_launch: BTreeMap<LaunchId, Vec<String>>,
    /// What is done with the next launches; afterwards, or when empty, everything works.
    pub(crate) script: VecDeque<Does>,
    /// What is done with every launch once the script is over.
    pub(crate) always: Option<Does>,
    pub(crate) launches: Vec<(Timestamp, IaasLaunch)>,
    pub(crate) terminates: Vec<Vec<String>>,
    pub(crate) lists: u32,
    pub(crate) describes: u32,
    pub(crate) checks: u32,
    pub(crate) list_fails: bool,
    /// Every such call fails like this: `list`, `describe`, `terminate`.
    pub(crate) fails: BTreeMap<&'static str, Class>,
    pub(crate) ignores_terminate: bool,
    pub(crate) terminate_fails: bool,
    /// No call that names one of these machines ends any.
    pub(crate) protected: Vec<String>,
    /// With this; left out: permanent.
    pub(crate) protects: Option<Class>,
    /// Whose account it says it is; left out: it can only be in one place.
    pub(crate) account: Option<Option<&'static str>>,
    /// All of a call, or an error and nothing.
    pub(crate) refuses_whole: bool,
    /// The next such calls are answered after they took effect, with a lost connection.
    pub(crate) loses: BTreeMap<&'static str, u32>,
    /// The next such calls have their effect and are never answered.
    pub(crate) hangs: BTreeMap<&'static str, u32>,
    /// Machines that lists show as they are not.
    pub(crate) listed_as: BTreeMap<String, MachineState>,
    /// Machines that lists leave out though they run.
    pub(crate) hidden: Vec<String>,
    made: u32,
}

/// A site that does as it is told.
pub(crate) struct Site {
    inside: Mutex<Inside>,
    clock: Arc<dyn Clock>,
    can: Capabilities,
    pub(crate) pace: Arc<Pace>,
    /// Whether calls wait for their turn.
    pub(crate) is_paced: AtomicBool,
}

/// How a call ends once it took effect.
async fn after(fate: Fate) -> Result<(), IaasError> {
    match fate {
        Fate::Answered => Ok(()),
        Fate::Lost => Err(IaasError::new(Class::Retryable, "the connection was lost")),
        Fate::Never => std::future::pending().await,
    }
}

#[derive(Clone, Copy)]
enum Fate {
    Answered,
    Lost,
    Never,
}

impl Inside {
    fn refusal(&self, call: &'static str) -> Result<(), IaasError> {
        match self.fails.get(call) {
            Some(class) => Err(IaasError::new(*class, format!("{call}: the site says {}", class.word()))),
            None => Ok(()),
        }
    }

    fn fate(&mut self, call: &'static str) -> Fate {
        let is_next = |of: &mut BTreeMap<&'static str, u32>| {
            let left = of.entry(call).or_default();
            let is_next = *left > 0;
            *left = left.saturating_sub(1);
            is_next
        };
        if is_next(&mut self.loses) {
            Fate::Lost
        } else if is_next(&mut self.hangs) {
            Fate::Never
        } else {
            Fate::Answered
        }
    }
}

impl Site {
    pub(crate) fn look(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    /// Machines that are not gone.
    pub(crate) fn running(&self) -> usize {
        self.look().machines.values().filter(|m| m.state != MachineState::Gone).count()
    }

    pub(crate) fn calls(&self) -> usize {
        self.look().launches.len()
    }

    pub(crate) fn put(&self, id: &str, launch: Option<(LaunchId, u32)>, instance: Option<InstanceId>) {
        self.look().machines.insert(
            id.to_owned(),
            Machine {
                id: id.to_owned(),
                launch: launch.map(|(launch, _)| launch),
                index: launch.map(|(_, index)| index),
                instance,
                state: MachineState::Running,
                address: None,
            },
        );
    }

    pub(crate) fn becomes(&self, machine: &str, state: MachineState) {
        self.look().machines.get_mut(machine).unwrap().state = state;
    }

    pub(crate) fn vanish(&self, machine: &str) {
        self.look().machines.remove(machine);
    }

    fn make(&self, launch: &IaasLaunch, most: usize) -> Vec<Machine> {
        let mut inside = self.look();
        if !inside.by_launch.contains_key(&launch.launch) {
            let mut ids = Vec::new();
            for index in (0..).take(launch.instances.len().min(most)) {
                inside.made += 1;
                let id = format!("m-{}", inside.made);
                let machine = Machine {
                    id: id.clone(),
                    launch: Some(launch.launch),
                    index: Some(index),
                    instance: None,
                    state: MachineState::Running,
                    address: Some("10.0.0.1".to_owned()),
                };
                inside.machines.insert(id.clone(), machine);
                ids.push(id);
            }
            inside.by_launch.insert(launch.launch, ids);
        }
        let ids = &inside.by_launch[&launch.launch];
        ids.iter().map(|id| inside.machines[id].clone()).collect()
    }
}

#[async_trait]
impl Iaas for Site {
    fn capabilities(&self) -> Capabilities {
        self.can.clone()
    }

    async fn launch(&self, launch: &IaasLaunch) -> Result<Vec<Machine>, IaasError> {
        let does = {
            let mut inside = self.look();
            // Not of what is asked for, and the one thing that a repetition may say otherwise.
            let said = IaasLaunch {
                doubtful: false,
                ..launch.clone()
            };
            inside.launches.push((self.clock.now(), said));
            let always = inside.always.clone();
            inside.script.pop_front().or(always).unwrap_or(Does::All)
        };
        match does {
            Does::All => Ok(self.make(launch, usize::MAX)),
            Does::AllAfter(wait) => {
                tokio::time::sleep(wait).await;
                Ok(self.make(launch, usize::MAX))
            }
            Does::Only(most) => Ok(self.make(launch, most)),
            Does::LosesAnswer => {
                self.make(launch, usize::MAX);
                Err(IaasError::new(Class::Retryable, "the connection was lost"))
            }
            Does::LaunchesAndHangs => {
                self.make(launch, usize::MAX);
                std::future::pending().await
            }
            Does::Hangs => std::future::pending().await,
            Does::Fails(class) => Err(IaasError::new(class, format!("the site says {}", class.word()))),
        }
    }

    async fn terminate(&self, machines: &[String]) -> Result<(), IaasError> {
        let fate = self.end(machines)?;
        after(fate).await
    }

    async fn list(&self) -> Result<Vec<Machine>, IaasError> {
        let (fate, seen) = {
            let mut inside = self.look();
            inside.lists += 1;
            inside.refusal("list")?;
            if inside.list_fails {
                return Err(IaasError::new(Class::Retryable, "no list"));
            }
            let seen = inside.machines.values().filter(|m| !inside.hidden.contains(&m.id)).cloned();
            let mut seen: Vec<Machine> = seen.collect();
            for machine in &mut seen {
                machine.state = inside.listed_as.get(&machine.id).copied().unwrap_or(machine.state);
            }
            (inside.fate("list"), seen)
        };
        after(fate).await.map(|()| seen)
    }

    async fn describe(&self, machines: &[String]) -> Result<Vec<(String, Option<MachineState>)>, IaasError> {
        let mut inside = self.look();
        inside.describes += 1;
        inside.refusal("describe")?;
        Ok(machines
            .iter()
            .map(|id| (id.clone(), inside.machines.get(id).map(|machine| machine.state)))
            .collect())
    }

    async fn output(&self, instance: InstanceId, machine: Option<&str>, lines: u32) -> Result<Option<String>, IaasError> {
        Ok(machine.map(|machine| format!("{lines} lines of {instance} on {machine}")))
    }

    async fn check(&self, templates: &[NamedTemplate]) -> Vec<Finding> {
        self.look().checks += 1;
        if templates.iter().any(|named| named.name == "hangs") {
            return std::future::pending().await;
        }
        vec![Finding {
            what: "site".to_owned(),
            verdict: FindingVerdict::Good,
            text: format!("scripted, {} templates", templates.len()),
        }]
    }

    async fn admit(&self, call: Admission) {
        if !self.is_paced.load(Ordering::Relaxed) {
            return;
        }
        match call {
            Admission::Launch { machines, purpose } => self.pace.turn(Action::RunInstances, machines, purpose).await,
            Admission::Terminate { machines } => self.pace.turn(Action::TerminateInstances, machines, Purpose::Replace).await,
        }
    }

    async fn identity(&self) -> Result<Option<String>, IaasError> {
        let account = self.look().account;
        Ok(account.map_or(Some(String::new()), |account| account.map(str::to_owned)))
    }

    fn refuses_whole(&self) -> bool {
        self.look().refuses_whole
    }

    fn standing(&self) -> (Option<String>, Vec<BucketView>) {
        (Some("123".to_owned()), self.pace.levels())
    }

    async fn tidy(&self, _before: Timestamp) -> Result<u32, IaasError> {
        Ok(0)
    }
}

impl Site {
    fn new(can: Capabilities, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            inside: Mutex::default(),
            pace: Pacers::new(clock.clone(), metrics).account("123", "here"),
            clock,
            can,
            is_paced: AtomicBool::new(false),
        })
    }

    fn end(&self, machines: &[String]) -> Result<Fate, IaasError> {
        let mut inside = self.look();
        inside.terminates.push(machines.to_vec());
        inside.refusal("terminate")?;
        if machines.iter().any(|machine| inside.protected.contains(machine)) {
            let class = inside.protects.unwrap_or(Class::Permanent);
            return Err(IaasError::new(class, "one of them may not be ended"));
        }
        if inside.terminate_fails {
            return Err(IaasError::new(Class::Retryable, "not now"));
        }
        if !inside.ignores_terminate {
            for machine in machines {
                if let Some(machine) = inside.machines.get_mut(machine) {
                    machine.state = MachineState::Gone;
                }
            }
        }
        Ok(inside.fate("terminate"))
    }
}

pub(crate) struct World {
    pub(crate) store: Arc<MemoryStore>,
    /// What the next start has for a store; left out: that.
    pub(crate) through: Option<Arc<dyn Store>>,
    pub(crate) bus: Arc<LocalBus>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) site: Arc<Site>,
    pub(crate) random: Arc<Random>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: Config,
    pub(crate) facts: Facts,
    /// Where agents reach the next that starts.
    pub(crate) url: String,
    /// The sites that the next start is given.
    pub(crate) sites: BTreeMap<SiteName, Arc<dyn Iaas>>,
    /// What is offered now; as `sites` has it at each start.
    pub(crate) offers: watch::Sender<Arc<Offers>>,
    pub(crate) desk: Arc<dyn Desk>,
    serving: Option<(CancellationToken, JoinHandle<Result<(), Error>>)>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(Capabilities {
            driver: "scripted",
            consistency_grace: Span::millis(0),
            gone_confirmations: 1,
            look_fast: Span::millis(500),
            look_steady: Span::secs(5),
            sweep_grace: Span::secs(10),
            launch_most: 1_000,
        })
        .await
    }

    #[expect(clippy::disallowed_methods, reason = "the clock that the rest is told to ask")]
    pub(crate) async fn on(can: Capabilities) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(Virtual(Instant::now()));
        let bus = LocalBus::new();
        let facts = bus.listen(&[Kind::Instances]);
        let metrics = Arc::new(Metrics::new().unwrap());
        let site = Site::new(can, clock.clone(), metrics.clone());
        let sites: BTreeMap<SiteName, Arc<dyn Iaas>> = BTreeMap::from([(site_name(), site.clone() as _)]);
        let mut world = Self {
            store: Arc::new(MemoryStore::with_clock(clock.clone())),
            through: None,
            site,
            sites,
            offers: watch::channel(Arc::default()).0,
            desk: Arc::new(NoDesk),
            bus,
            clock,
            random: Arc::new(Random::seeded(1)),
            metrics,
            config: Config::default(),
            facts,
            url: "http://127.0.0.1:1".to_owned(),
            serving: None,
        };
        world.start().await;
        world
    }

    /// Starts the provisioner and gives it time for its first look. One that is started again has the name it had, so that it need
    /// not wait for its own lease to run out.
    pub(crate) async fn start(&mut self) {
        let parts = self.parts("one");
        let cancel = CancellationToken::new();
        self.serving = Some((cancel.clone(), tokio::spawn(run(parts, cancel))));
        self.elapse(1).await;
    }

    /// What a provisioner of this name is started with.
    pub(crate) fn parts(&self, name: &str) -> Parts {
        self.offers.send_replace(fixed(self.sites.clone()).borrow().clone());
        Parts {
            member: member(name, self.clock.now()),
            installation: "test".to_owned(),
            config: self.config.clone(),
            addresses: Addresses {
                provisioner: self.url.clone(),
                aggregators: vec!["http://127.0.0.1:2".to_owned()],
            },
            store: self.through.clone().unwrap_or_else(|| self.store.clone()),
            bus: self.bus.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            keyring: Arc::new(Keyring::new(&[7; 32]).unwrap()),
            sites: self.offers.subscribe(),
            desk: self.desk.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// Another site like the first, from the next start on.
    pub(crate) fn another_site(&mut self, name: &str) -> Arc<Site> {
        let site = Site::new(self.site.can.clone(), self.clock.clone(), self.metrics.clone());
        self.sites.insert(SiteName::new(name).unwrap(), site.clone());
        site
    }

    /// kill -9.
    pub(crate) async fn crash(&mut self) {
        let (_, task) = self.serving.take().unwrap();
        task.abort();
        assert!(task.await.is_err(), "it had ended before it was killed");
    }

    pub(crate) async fn stop(&mut self) -> Result<(), Error> {
        let (cancel, task) = self.serving.take().unwrap();
        cancel.cancel();
        task.await.unwrap()
    }

    /// What it ended with, of itself.
    pub(crate) async fn ended(&mut self) -> Result<(), Error> {
        self.serving.take().unwrap().1.await.unwrap()
    }

    pub(crate) async fn elapse(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// A controller of this name takes every shard of the pools from whoever had it: their epochs grow by one.
    pub(crate) async fn lead_pools(&self, name: &str) {
        let standing = self.store.standing().await.unwrap();
        for other in standing.of(Service::Controller) {
            self.store.leave(&other.name).await.unwrap();
        }
        let ask = LeaseAsk {
            member: Member {
                service: Service::Controller,
                ..member(name, self.clock.now())
            },
            want: Domain::all(Service::Controller).into_iter().collect(),
            lasts: Span::secs(86_400),
        };
        self.store.lease(ask).await.unwrap();
    }

    // ---- asking

    pub(crate) async fn ask(&self, caller: Caller, request: Request) -> Result<Answer, Fault> {
        self.bus.ask(caller, request, Duration::from_secs(120)).await
    }

    pub(crate) fn request(&self, instances: usize) -> LaunchRequest {
        let now = self.clock.now();
        LaunchRequest {
            launch: self.random.launch(now),
            pool: pool(),
            site: site_name(),
            placement: None,
            purpose: epu_core::launch::Purpose::default(),
            template: serde_json::from_value(json!({
                "run": ["work", "${QUEUE}"], "variables": { "QUEUE": "q1" }, "ready-within": "10m"
            }))
            .unwrap(),
            template_version: "worker@1".to_owned(),
            instances: (0..instances)
                .map(|_| Wanted {
                    id: self.random.instance(now),
                    slot: None,
                    variables: BTreeMap::new(),
                })
                .collect(),
            min: 1,
            max: None,
            epoch: 0,
        }
    }

    /// Asks for a launch and waits until it has been called.
    pub(crate) async fn launch(&self, request: &LaunchRequest) -> Vec<InstanceId> {
        let answer = self.ask(CONTROLLER, Request::Launch(Box::new(request.clone()))).await;
        assert_eq!(answer, Ok(Answer::Json(serde_json::Value::Null)));
        request.instances.iter().map(|wanted| wanted.id).collect()
    }

    /// The site as it is shown.
    pub(crate) async fn site_status(&self) -> SiteStatus {
        let sites = self.ask(CONTROLLER, Request::Sites(Nothing {})).await;
        sites.unwrap().read::<Vec<SiteStatus>>().unwrap().swap_remove(0)
    }

    /// Its agent reports ready.
    pub(crate) async fn becomes_ready(&self, request: &LaunchRequest, index: u32) {
        self.claim(request, index, &format!("nonce {index}")).await.unwrap();
        let id = request.instances[usize::try_from(index).unwrap()].id;
        self.report(id, Happened::Ready { address: None }).await.unwrap();
        assert_eq!(self.state(id).await, State::Running);
    }

    /// One instance that runs.
    pub(crate) async fn running_one(&self) -> InstanceId {
        let request = self.request(1);
        let id = self.launch(&request).await[0];
        self.elapse(1).await;
        self.claim(&request, 0, "nonce").await.unwrap();
        self.report(id, Happened::Ready { address: None }).await.unwrap();
        assert_eq!(self.state(id).await, State::Running);
        id
    }

    pub(crate) async fn claim(&self, request: &LaunchRequest, index: u32, nonce: &str) -> Result<Context, Fault> {
        let claim = ContextClaim {
            launch: request.launch,
            index,
            nonce: nonce.to_owned(),
        };
        self.ask(Caller::Launch(request.launch), Request::Context(claim)).await?.read()
    }

    pub(crate) async fn report(&self, instance: InstanceId, happened: Happened) -> Result<epu_core::heartbeat::Orders, Fault> {
        let report = Request::Report(Report { instance, happened });
        self.ask(Caller::Instance(instance), report).await?.read()
    }

    pub(crate) async fn terminate(&self, id: InstanceId) -> Result<Answer, Fault> {
        let order = Terminate {
            instances: vec![(id, Work::Busy)],
            why: Cause::Unhealthy,
            epoch: 0,
        };
        self.ask(CONTROLLER, Request::Terminate(order)).await
    }

    pub(crate) async fn drain(&self, id: InstanceId, within: u64) -> Result<Answer, Fault> {
        let now = self.clock.now();
        let order = DrainOrder {
            instances: vec![id],
            drain: Drain {
                since: now,
                deadline: now + Duration::from_secs(within),
                why: Cause::ScaleIn,
            },
            epoch: 0,
        };
        self.ask(CONTROLLER, Request::Drain(order)).await
    }

    // ---- looking

    pub(crate) async fn instance(&self, id: InstanceId) -> Instance {
        self.store.instance(id).await.unwrap().expect("a recorded instance")
    }

    pub(crate) async fn state(&self, id: InstanceId) -> State {
        self.instance(id).await.state
    }

    pub(crate) async fn fault_code(&self, id: InstanceId) -> String {
        self.instance(id).await.fault.expect("a fault").code.into_owned()
    }

    pub(crate) async fn cause(&self, id: InstanceId) -> Cause {
        self.instance(id).await.ending.expect("an ending").why
    }

    pub(crate) async fn journal(&self, is_it: impl Fn(&Event) -> bool) -> Vec<Entry> {
        let query = JournalQuery {
            after: Some(0),
            limit: 10_000,
            ..JournalQuery::default()
        };
        let mut entries = self.store.journal(query).await.unwrap();
        entries.retain(|entry| is_it(&entry.event));
        entries
    }

    /// Facts that have arrived.
    pub(crate) fn told(&mut self) -> Vec<Arc<Instances>> {
        let mut told = Vec::new();
        while let Some(fact) = self.facts.next_now() {
            if let Fact::Instances(instances) = fact {
                told.push(instances);
            }
        }
        told
    }
}

pub(crate) fn member(name: &str, since: Timestamp) -> Member {
    Member {
        name: name.to_owned(),
        service: Service::Provisioner,
        url: None,
        since,
    }
}

pub(crate) fn site_name() -> SiteName {
    SiteName::new("here").unwrap()
}

pub(crate) fn pool() -> PoolName {
    PoolName::new("web").unwrap()
}

pub(crate) fn exit(code: i32) -> Exit {
    Exit {
        code: Some(code),
        signal: None,
        output: "the end".to_owned(),
    }
}
