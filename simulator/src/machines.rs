//! Every machine there is, with what runs on it: the truth that sites report on, more or less well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epu_bus::token::Keyring;
use epu_core::id::{InstanceId, LaunchId, PoolName, SiteName};
use epu_core::random::Random;
use epu_core::time::{Clock, Timestamp};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::host::{Behaviour, Body, SimHost, SimLink};
use crate::lock;
use crate::net::SimNet;
use crate::pausable::Gate;
use crate::queue::Queues;
use crate::transcript::Transcript;

/// Whether a machine has power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Power {
    /// It is coming up.
    Booting,
    /// It runs.
    On,
    /// It was told to end.
    Stopping,
    /// Nothing of it runs.
    Off,
}

/// A machine.
#[derive(Debug)]
pub struct Machine {
    /// The site's name for it.
    pub id: String,
    /// Where it is.
    pub site: SiteName,
    /// Whose it is, by its tag.
    pub installation: String,
    /// The launch it is from, by its tag.
    pub launch: Option<LaunchId>,
    /// Its place in that launch.
    pub index: Option<u32>,
    /// For which pool, by its tag.
    pub pool: Option<PoolName>,
    /// Which instance it is; the world knows, the site does not say.
    pub instance: Option<InstanceId>,
    /// When it was launched.
    pub launched_at: Timestamp,
    /// Whether it has power.
    pub power: Power,
    /// When it lost it.
    pub off_at: Option<Timestamp>,
    /// The site calls it gone although it runs.
    pub called_gone: bool,
    body: Option<Arc<Body>>,
    gate: Gate,
    agent: Option<AbortHandle>,
    token: String,
}

impl Machine {
    /// Whether it may still cost something.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.power != Power::Off
    }

    /// What is on it, once it is up.
    #[must_use]
    pub fn body(&self) -> Option<&Arc<Body>> {
        self.body.as_ref()
    }
}

/// A machine to be.
#[derive(Debug, Clone)]
pub struct Order {
    /// Where.
    pub site: SiteName,
    /// Whose.
    pub installation: String,
    /// The launch, if one explains it.
    pub launch: Option<LaunchId>,
    /// Its place in that launch.
    pub index: Option<u32>,
    /// For which pool.
    pub pool: Option<PoolName>,
    /// Which instance it is.
    pub instance: Option<InstanceId>,
    /// The launch token.
    pub token: String,
    /// From launch to running; none: it never starts its agent.
    pub boot: Option<Duration>,
}

/// All machines of a world.
#[derive(Debug)]
pub struct Machines {
    net: Arc<SimNet>,
    queues: Arc<Queues>,
    keyring: Arc<Keyring>,
    clock: Arc<dyn Clock>,
    random: Arc<Random>,
    transcript: Arc<Transcript>,
    behaviour: Mutex<Behaviour>,
    inner: Mutex<BTreeMap<String, Machine>>,
}

impl Machines {
    /// None yet.
    #[must_use]
    pub fn new(
        net: Arc<SimNet>,
        queues: Arc<Queues>,
        keyring: Arc<Keyring>,
        clock: Arc<dyn Clock>,
        random: Arc<Random>,
        transcript: Arc<Transcript>,
    ) -> Arc<Self> {
        Arc::new(Self {
            net,
            queues,
            keyring,
            clock,
            random,
            transcript,
            behaviour: Mutex::default(),
            inner: Mutex::default(),
        })
    }

    /// How workers behave on machines that come up from now on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.behaviour));
    }

    /// Looks at all of them, in the order in which they came.
    pub fn look<T>(&self, look: impl FnOnce(&BTreeMap<String, Machine>) -> T) -> T {
        look(&lock(&self.inner))
    }

    /// A new machine, which comes up by itself. Gives its name.
    pub fn launch(self: &Arc<Self>, order: Order) -> String {
        let mut inner = lock(&self.inner);
        let id = format!("m-{:06}", inner.len() + 1);
        let machine = Machine {
            id: id.clone(),
            site: order.site,
            installation: order.installation,
            launch: order.launch,
            index: order.index,
            pool: order.pool,
            instance: order.instance,
            launched_at: self.clock.now(),
            power: Power::Booting,
            off_at: None,
            called_gone: false,
            body: None,
            gate: Gate::default(),
            agent: None,
            token: order.token,
        };
        self.transcript.note(format_args!("machine {id} is launched"));
        inner.insert(id.clone(), machine);
        let (here, name) = (self.clone(), id.clone());
        tokio::spawn(async move {
            tokio::time::sleep(order.boot.unwrap_or(Duration::from_secs(5))).await;
            here.up(&name, order.boot.is_some());
        });
        id
    }

    fn up(self: &Arc<Self>, id: &str, with_agent: bool) {
        {
            let mut inner = lock(&self.inner);
            let Some(machine) = inner.get_mut(id).filter(|machine| machine.power == Power::Booting) else {
                return;
            };
            machine.power = Power::On;
            let body = Body::new(
                id.to_owned(),
                machine.pool.as_ref().map(|pool| self.queues.of(pool)).unwrap_or_default(),
                self.clock.clone(),
                self.random.clone(),
                lock(&self.behaviour).clone(),
                machine.gate.clone(),
            );
            machine.body = Some(Arc::new(body));
        }
        self.transcript.note(format_args!("machine {id} runs"));
        if with_agent {
            self.start_agent(id);
        }
    }

    /// Starts a machine's agent, in place of one that ended.
    pub fn start_agent(self: &Arc<Self>, id: &str) {
        let mut inner = lock(&self.inner);
        let Some(machine) = inner.get_mut(id) else { return };
        let (Some(body), Some(launch), Some(index)) = (machine.body.clone(), machine.launch, machine.index) else {
            return;
        };
        let parts = epu_agent::Parts {
            url: String::new(),
            launch,
            index,
            launch_token: machine.token.clone(),
            link: SimLink {
                net: self.net.clone(),
                keyring: self.keyring.clone(),
                clock: self.clock.clone(),
                instance: machine.instance,
            },
            host: SimHost(body),
            clock: self.clock.clone(),
            random: self.random.clone(),
        };
        let (transcript, name) = (self.transcript.clone(), id.to_owned());
        let life = async move {
            match epu_agent::run(parts, CancellationToken::new()).await {
                Ok(ended) => transcript.note(format_args!("the agent of {name} ended: {ended:?}")),
                Err(error) => transcript.note(format_args!("the agent of {name} gave up: {error}")),
            }
        };
        machine.agent = Some(tokio::spawn(machine.gate.around(life)).abort_handle());
    }

    /// Ends a machine's agent and leaves its worker.
    pub fn kill_agent(&self, id: &str) {
        if let Some(agent) = lock(&self.inner).get_mut(id).and_then(|machine| machine.agent.take()) {
            agent.abort();
        }
    }

    /// Holds everything on a machine, or lets it go on.
    pub fn freeze(&self, id: &str, frozen: bool) {
        let gate = lock(&self.inner).get(id).map(|machine| machine.gate.clone());
        match gate {
            Some(gate) if frozen => gate.hold(),
            Some(gate) => gate.let_go(),
            None => {}
        }
    }

    /// A machine begins to end. True when it had not before.
    pub(crate) fn stopping(&self, id: &str) -> bool {
        let mut inner = lock(&self.inner);
        let Some(machine) = inner.get_mut(id).filter(|machine| machine.power < Power::Stopping) else {
            return false;
        };
        machine.power = Power::Stopping;
        true
    }

    /// A machine loses power: nothing of it runs any more.
    pub fn power_off(&self, id: &str) {
        let body = {
            let mut inner = lock(&self.inner);
            let Some(machine) = inner.get_mut(id).filter(|machine| machine.is_there()) else {
                return;
            };
            machine.power = Power::Off;
            machine.off_at = Some(self.clock.now());
            if let Some(agent) = machine.agent.take() {
                agent.abort();
            }
            machine.body.clone()
        };
        if let Some(body) = body {
            body.end_worker(crate::host::killed(9));
        }
        self.transcript.note(format_args!("machine {id} is gone"));
    }

    /// The site calls a machine gone from now on, although it runs.
    pub fn call_gone(&self, id: &str) {
        if let Some(machine) = lock(&self.inner).get_mut(id) {
            machine.called_gone = true;
        }
    }

    /// The machine that is there for an instance; the first when there are several.
    #[must_use]
    pub fn of(&self, instance: InstanceId) -> Option<String> {
        self.look(|all| {
            let mut there = all.values().filter(|machine| machine.instance == Some(instance));
            there.find(|machine| machine.is_there()).map(|machine| machine.id.clone())
        })
    }

    /// What is on the machine of an instance, also after its end.
    #[must_use]
    pub fn body_of(&self, instance: InstanceId) -> Option<Arc<Body>> {
        self.look(|all| {
            let mut known = all.values().filter(|machine| machine.instance == Some(instance));
            known.find_map(|machine| machine.body.clone())
        })
    }
}
