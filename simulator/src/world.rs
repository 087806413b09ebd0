//! A world and what can be said to it: arrange, let time pass, look.
//!
//! Time passes only in [`World::pass`], [`World::elapse`] and [`World::until`]. After every simulated second the invariants are checked. Where
//! one is broken, `pass` says so, and the other two panic with the seed and the end of the transcript. A service that ends by itself is
//! started again, as a supervisor would; one that panics ends the run.

mod ask;
mod harm;
mod look;
mod own;
mod processes;
mod trouble;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use epu_bus::Bus;
use epu_bus::token::Keyring;
use epu_controller::service::FileConfig;
use epu_controller::spec::Known;
use epu_core::code::Chain;
use epu_core::id::{PoolName, SiteName};
use epu_core::invariant::Violation;
use epu_core::lease::Member;
use epu_core::random::Random;
use epu_core::request::{PoolFile, Request, Service};
use epu_core::time::{Clock, Span, Timestamp};
use epu_decision_engines::Registry;
use epu_provisioner::config::Addresses;
use epu_provisioner::iaas::Iaas;
use epu_store::{MemoryStore, Store};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch as told;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cloud::{CloudLine, SimCloud};
use crate::edge::{Driver, Wire};
use crate::ledger::Ledger;
use crate::machines::Machines;
use crate::net::SimNet;
use crate::pausable::Gate;
use crate::process::Process;
use crate::queue::{Queues, SimQueue};
use crate::sensors::SimSources;
use crate::setup::Setup;
use crate::time::{Moved, ProcessClock, SimClock, seconds};
use crate::transcript::Transcript;
use crate::watch::Watch;

/// The tag of the world's own machines.
pub const INSTALLATION: &str = "simulated";
/// The pool that scenarios speak of.
pub const POOL: &str = "pool";
/// How often everything is checked.
const STEP: Duration = Duration::from_secs(1);
/// Lines of the transcript that a failure shows.
const TAIL: usize = 60;

/// What came of a service.
type Ended = Result<(), String>;

struct Running {
    task: JoinHandle<Ended>,
    gate: Gate,
    /// Ends it as a supervisor's signal does.
    stop: CancellationToken,
    /// Its name among the members; another one at each start.
    name: String,
    clock: Arc<ProcessClock>,
    /// How many things hold it.
    holds: u32,
}

/// The world as one process has it.
struct Own {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    gate: Gate,
    clock: Arc<dyn Clock>,
}

/// Why a world cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// Something that must always be true was not.
    Violated(Violation),
    /// A process panicked, with these words.
    Panicked(Process, String),
    /// The agent of a machine panicked, with these words.
    AgentPanicked(String, String),
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violated(violation) => violation.fmt(out),
            Self::Panicked(process, words) => write!(out, "{process} panicked: {words}"),
            Self::AgentPanicked(machine, words) => write!(out, "the agent of machine {machine} panicked: {words}"),
        }
    }
}

/// A simulated world.
pub struct World {
    services: BTreeMap<Process, Running>,
    /// Those that are to stay away.
    crashed: BTreeSet<Process>,
    /// Those among them that died of their doom.
    died: BTreeSet<Process>,
    /// How often each was started, and as whom the last time.
    starts: BTreeMap<Process, (u32, String)>,
    /// How far the wall clock of a process's machine is from the truth, in milliseconds; one that begins reads it.
    wall: BTreeMap<Process, i64>,
    /// Why everything in the store fails, where a scenario said so.
    away: Option<u64>,
    /// Those who took leases and are no processes of this world.
    usurpers: u32,
    /// How many things take leases of provisioners again and again.
    flaps: u32,
    seed: u64,
    setup: Setup,
    template: Value,
    pool: PoolName,
    file: told::Sender<Arc<FileConfig>>,
    clouds: BTreeMap<SiteName, Arc<SimCloud>>,
    memory: Arc<MemoryStore>,
    ledger: Arc<Ledger>,
    net: Arc<SimNet>,
    queues: Arc<Queues>,
    queue: Arc<SimQueue>,
    sources: Arc<SimSources>,
    machines: Arc<Machines>,
    watch: Arc<Watch>,
    transcript: Arc<Transcript>,
    clock: Arc<SimClock>,
    random: Arc<Random>,
    keyring: Arc<Keyring>,
    /// Dropped last: everything above may have tasks on it.
    runtime: Runtime,
}

impl std::fmt::Debug for World {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "World of seed {} at {}", self.seed, self.now())
    }
}

impl World {
    /// One pool that keeps `n` workers.
    #[must_use]
    pub fn keeping(n: u32) -> Self {
        Setup::keeping(n).world()
    }

    /// One pool that follows the queue between these marks.
    #[must_use]
    pub fn following_queue(low: u32, high: u32) -> Self {
        Setup::following_queue(low, high).world()
    }

    /// A world from its setup, with all services running and the pool just added.
    ///
    /// # Panics
    /// When the setup has faults.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        Self::try_new(setup).unwrap_or_else(|fault| panic!("the setup has faults: {fault}"))
    }

    /// The same, where the pools are somebody's own.
    ///
    /// # Errors
    /// Why the controller does not take them.
    pub(crate) fn try_new(setup: &Setup) -> Result<Self, epu_core::Fault> {
        let moved = Moved::default();
        let says = moved.clone();
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .on_thread_unpark(move || says.say())
            .build();
        let runtime = runtime.unwrap_or_else(|error| panic!("a runtime without a single device: {error}"));
        let clock = Arc::new(SimClock::start(runtime.handle().clone()).moved_by(moved));
        let random = Arc::new(Random::seeded(setup.seed));
        let transcript = Arc::new(Transcript::new(clock.clone()));
        let keyring = Keyring::new(b"the key of a world that is not there");
        let keyring = Arc::new(keyring.unwrap_or_else(|error| panic!("the simulated key: {error}")));
        let net = Arc::new(SimNet::new(transcript.clone()).seeded(setup.seed));
        let queues = Arc::new(Queues::default());
        let machines = Machines::new(
            net.clone(),
            queues.clone(),
            keyring.clone(),
            clock.clone(),
            random.clone(),
            transcript.clone(),
        );
        let watch = Arc::new(Watch::new(machines.clone(), INSTALLATION));
        let memory = Arc::new(MemoryStore::with_clock(clock.clone()));
        let ledger = Arc::new(Ledger::new(memory.clone(), watch.clone(), transcript.clone(), setup.seed));
        let sites = setup.sites.iter().filter_map(|name| SiteName::new(name).ok());
        let clouds: BTreeMap<SiteName, Arc<SimCloud>> = sites
            .map(|name| {
                let (machines, watch) = (machines.clone(), watch.clone());
                let cloud = SimCloud::new(
                    name.clone(),
                    INSTALLATION,
                    machines,
                    clock.clone(),
                    random.clone(),
                    transcript.clone(),
                    watch,
                );
                (name, Arc::new(cloud.with_luck(setup.seed)))
            })
            .collect();
        let known = Known {
            engines: Registry::standard(),
            sites: clouds.keys().cloned().collect(),
            owned: BTreeSet::new(),
            templates: BTreeMap::new(),
            tick: Span::secs(1),
            search: None,
        };
        let file = FileConfig {
            path: String::new(),
            pools: Vec::new(),
            known,
            sites: epu_controller::config::Sites::default(),
        };
        let pool = PoolName::new(POOL).unwrap_or_else(|error| panic!("{error}"));
        let mut world = Self {
            services: BTreeMap::new(),
            crashed: BTreeSet::new(),
            died: BTreeSet::new(),
            starts: BTreeMap::new(),
            wall: BTreeMap::new(),
            away: None,
            usurpers: 0,
            flaps: 0,
            seed: setup.seed,
            setup: setup.clone(),
            template: setup.template.clone(),
            queue: queues.of(&pool),
            pool,
            file: told::channel(Arc::new(file)).0,
            clouds,
            memory,
            ledger,
            net,
            sources: Arc::new(SimSources::new(queues.clone())),
            queues,
            machines,
            watch,
            transcript,
            clock,
            random,
            keyring,
            runtime,
        };
        if let Some(own) = &setup.own {
            world.prepare(own);
        }
        let copies = [
            (Service::Provisioner, setup.provisioners),
            (Service::Aggregator, setup.aggregators),
            (Service::Controller, setup.controllers),
        ];
        for (service, copies) in copies {
            for copy in 0..copies {
                world.begin(Process { service, copy });
            }
        }
        world.elapse(crate::time::millis(1));
        let text = json!({ "templates": setup.all_templates(), "pools": setup.all_pools() }).to_string();
        let add = Request::PoolAdd(PoolFile {
            file: "world.yaml".to_owned(),
            text,
        });
        world.ask(add)?;
        Ok(world)
    }

    fn begin(&mut self, process: Process) {
        let name = self.name_of(process);
        let gate = Gate::default();
        self.net.enter(process, &name);
        let wall = self.wall.get(&process).copied().unwrap_or(0);
        let clock = Arc::new(ProcessClock::beside(self.clock.clone(), wall));
        let _inside = self.runtime.enter();
        let stop = CancellationToken::new();
        let cancel = stop.clone();
        let member = Member {
            name: name.clone(),
            service: process.service,
            url: None,
            since: clock.now(),
        };
        let edge = Own {
            store: Arc::new(self.ledger.line(process, gate.clone())),
            bus: Arc::new(Wire::new(self.net.line(&name), gate.clone())),
            gate: gate.clone(),
            clock: clock.clone(),
        };
        let task = match process.service {
            Service::Provisioner => {
                let parts = self.provisioner(process, member, edge);
                tokio::spawn(
                    gate.around(async move { epu_provisioner::run(parts, cancel).await.map_err(|error| Chain(&error).to_string()) }),
                )
            }
            Service::Controller => {
                let parts = self.controller(member, edge);
                tokio::spawn(
                    gate.around(async move { epu_controller::run(parts, cancel).await.map_err(|error| Chain(&error).to_string()) }),
                )
            }
            Service::Aggregator => {
                let parts = self.aggregator(member, edge);
                tokio::spawn(gate.around(async move {
                    epu_sensor_aggregator::run(parts, cancel)
                        .await
                        .map_err(|error| Chain(&error).to_string())
                }))
            }
        };
        self.transcript.note(format_args!("{process} begins"));
        let running = Running {
            task,
            gate,
            stop,
            name,
            clock,
            holds: 0,
        };
        self.services.insert(process, running);
        self.goes(process.service);
    }

    /// As whom a process begins. Where a service has one copy only, what that had before is free at once, as it is for a process
    /// that has the store to itself; otherwise leases have to run out.
    fn name_of(&mut self, process: Process) -> String {
        let sole = !self
            .starts
            .keys()
            .any(|other| other.service == process.service && *other != process);
        let starts = self.starts.entry(process).or_default();
        // A store that is away keeps them, and they run out.
        if sole && starts.0 > 0 && !self.ledger.is_barred(process) {
            drop(self.runtime.block_on(self.memory.leave(&starts.1)));
        }
        starts.0 += 1;
        starts.1 = format!("{}-{}-{}", word(process.service), process.copy, starts.0);
        starts.1.clone()
    }

    /// A process came, went, stands still or goes on: whether its service works depends on the others, too.
    fn goes(&self, service: Service) {
        let now = self.clock.now();
        self.clocks_agree(now);
        let goes = |running: &Running| !running.gate.is_held() && !running.gate.is_dead() && !running.stop.is_cancelled();
        let one_goes = self
            .services
            .iter()
            .any(|(process, running)| process.service == service && goes(running));
        // Whoever takes over needs time to catch up.
        self.watch.works(word(service), false, now);
        if one_goes {
            self.watch.works(word(service), true, now);
        }
    }

    fn provisioner(&self, process: Process, member: Member, own: Own) -> epu_provisioner::Parts {
        let sites = self.clouds.iter().map(|(name, cloud)| {
            let line = Arc::new(CloudLine::new(cloud.clone(), process));
            let driver: Arc<dyn Iaas> = Arc::new(Driver::new(line, own.gate.clone()));
            (name.clone(), driver)
        });
        epu_provisioner::Parts {
            bus: own.bus,
            member,
            installation: INSTALLATION.to_owned(),
            config: epu_provisioner::Config::default(),
            addresses: Addresses {
                provisioner: "http://simulated".to_owned(),
                aggregators: Vec::new(),
            },
            store: own.store,
            clock: own.clock,
            random: self.random.clone(),
            keyring: self.keyring.clone(),
            sites: epu_provisioner::sites::fixed(sites.collect()),
            desk: Arc::new(epu_provisioner::sites::NoDesk),
            metrics: Arc::new(epu_provisioner::Metrics::with(self.watch.production()).unwrap_or_else(|error| panic!("metrics: {error}"))),
        }
    }

    fn controller(&self, member: Member, own: Own) -> epu_controller::Parts {
        epu_controller::Parts {
            bus: own.bus,
            member,
            store: own.store,
            clock: own.clock,
            random: self.random.clone(),
            engines: Arc::new(Registry::standard()),
            config: epu_controller::Config {
                installation: INSTALLATION.to_owned(),
                ..epu_controller::Config::default()
            },
            metrics: epu_controller::Metrics::with(self.watch.production()).unwrap_or_else(|error| panic!("metrics: {error}")),
            file: self.file.subscribe(),
        }
    }

    fn aggregator(&self, member: Member, own: Own) -> epu_sensor_aggregator::Parts {
        epu_sensor_aggregator::Parts {
            name: member.name.clone(),
            bus: own.bus,
            member,
            store: Some(own.store),
            clock: own.clock,
            sources: self.sources.clone(),
            config: epu_sensor_aggregator::Config::default(),
            metrics: epu_sensor_aggregator::Metrics::new().unwrap_or_else(|error| panic!("metrics: {error}")),
        }
    }

    // ---- time

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Lets time pass, and checks after every second of it everything that must always be true.
    ///
    /// # Errors
    /// What was not true; the world stands still where it was found.
    pub fn pass(&mut self, length: Duration) -> Result<(), Broken> {
        let end = self.now() + length;
        while self.now() < end {
            let step = end.since(self.now()).min(STEP);
            self.runtime.block_on(async { tokio::time::sleep(step).await });
            self.supervise()?;
            self.watch.tick(self.clock.now());
            if let Some(violation) = self.watch.violations().into_iter().next() {
                return Err(Broken::Violated(violation));
            }
        }
        Ok(())
    }

    /// Lets time pass.
    ///
    /// # Panics
    /// When something that must always be true was not.
    pub fn elapse(&mut self, length: Duration) -> &mut Self {
        if let Err(broken) = self.pass(length) {
            panic!("{broken}\n{}", self.story());
        }
        self
    }

    /// Lets time pass until something is so.
    ///
    /// # Panics
    /// When it is not so within `limit`, or something that must always be true was not.
    pub fn until(&mut self, what: &str, limit: Duration, is_so: impl Fn(&Self) -> bool) -> &mut Self {
        let end = self.now() + limit;
        while !is_so(self) {
            assert!(self.now() < end, "{what}: not within {}\n{}", Span(limit), self.story());
            self.elapse(STEP);
        }
        self
    }

    fn story(&self) -> String {
        format!("seed {}, the end of what happened:\n{}", self.seed, self.transcript.tail(TAIL))
    }

    /// Starts again what ended by itself.
    fn supervise(&mut self) -> Result<(), Broken> {
        self.bury();
        if let Some((machine, agent)) = self.machines.fallen().into_iter().next() {
            let ended = agent.map(|agent| self.runtime.block_on(agent));
            let words = ended.and_then(Result::err).map_or_else(String::new, |error| error.to_string());
            return Err(Broken::AgentPanicked(machine, words));
        }
        let ended = self.services.iter().filter(|(_, running)| running.task.is_finished());
        let ended: Vec<Process> = ended.map(|(process, _)| *process).collect();
        for process in ended {
            let Some(running) = self.services.remove(&process) else { continue };
            match self.runtime.block_on(running.task) {
                Err(error) if error.is_panic() => return Err(Broken::Panicked(process, error.to_string())),
                ended => self.transcript.note(format_args!("{process} ended by itself: {ended:?}")),
            }
            self.goes(process.service);
            if running.stop.is_cancelled() {
                self.crashed.insert(process);
                continue;
            }
            self.runtime.block_on(async { tokio::time::sleep(seconds(1)).await });
            self.begin(process);
        }
        Ok(())
    }

    /// Does something where tasks can be started.
    fn inside<T>(&self, act: impl FnOnce() -> T) -> T {
        let _inside = self.runtime.enter();
        act()
    }
}

fn word(service: Service) -> &'static str {
    match service {
        Service::Provisioner => "provisioner",
        Service::Controller => "controller",
        Service::Aggregator => "aggregator",
    }
}
