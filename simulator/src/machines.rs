//! Every machine there is, with what runs on it: the truth that sites report on, more or less well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epu_bus::token::Keyring;
use epu_core::id::{InstanceId, LaunchId, PoolName, SiteName};
use epu_core::random::Random;
use epu_core::time::{Clock, Timestamp};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::host::{Behaviour, Body, SimHost, SimLink};
use crate::ill::Quirk;
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
    /// When it came up.
    pub on_at: Option<Timestamp>,
    /// When it was told to end.
    pub stopping_at: Option<Timestamp>,
    /// When it lost power.
    pub off_at: Option<Timestamp>,
    /// The site calls it gone although it runs.
    pub called_gone: bool,
    /// Until when it did the last time.
    pub gone_until: Option<Timestamp>,
    /// For how many reasons it is called gone, stands still, is halted by its site, and does not end.
    gone: u32,
    frozen: u32,
    halted: u32,
    lingering: u32,
    body: Option<Arc<Body>>,
    gate: Gate,
    agent: Option<JoinHandle<()>>,
    token: String,
}

impl Machine {
    /// Whether it may still cost something.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.power != Power::Off
    }

    /// Whether its site halted it and keeps it.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.halted > 0
    }

    /// Whether it does not end although it was told to.
    #[must_use]
    pub fn lingers(&self) -> bool {
        self.lingering > 0 && self.power == Power::Stopping
    }

    fn hold(&self) {
        if self.frozen + self.halted > 0 {
            self.gate.hold();
        } else {
            self.gate.let_go();
        }
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
    quirks: Mutex<(u64, BTreeMap<u64, Quirk>)>,
    inner: Mutex<BTreeMap<String, Machine>>,
    /// Machines on which something panicked.
    fallen: Arc<Mutex<Vec<String>>>,
}

/// Notes which machine it was on when it is dropped by a panic.
struct Witness(Arc<Mutex<Vec<String>>>, String);

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0).push(std::mem::take(&mut self.1));
        }
    }
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
            quirks: Mutex::default(),
            inner: Mutex::default(),
            fallen: Arc::default(),
        })
    }

    /// What time it is.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// How workers behave on machines that come up from now on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.behaviour));
    }

    /// What is the matter with machines that come up from now on. Gives what it is ended by.
    pub fn come_with(&self, quirk: Quirk) -> u64 {
        self.transcript.note(format_args!("machines that come up: {quirk:?}"));
        let mut quirks = lock(&self.quirks);
        quirks.0 += 1;
        let id = quirks.0;
        quirks.1.insert(id, quirk);
        id
    }

    /// Machines that come up from now on are without it again; those that came stay as they are.
    pub fn come_without(&self, quirk: u64) {
        if let Some(quirk) = lock(&self.quirks).1.remove(&quirk) {
            self.transcript.note(format_args!("machines that come up: no longer {quirk:?}"));
        }
    }

    /// How what comes up now behaves.
    fn upbringing(&self) -> Behaviour {
        let mut behaviour = lock(&self.behaviour).clone();
        for quirk in lock(&self.quirks).1.values() {
            quirk.shape(&mut behaviour);
        }
        behaviour
    }

    /// On which machines an agent or a worker panicked since this was last asked, and the task of the agent that is there.
    pub(crate) fn fallen(&self) -> Vec<(String, Option<JoinHandle<()>>)> {
        let fallen = std::mem::take(&mut *lock(&self.fallen));
        let mut inner = lock(&self.inner);
        let with_task = |id: String| {
            let agent = inner.get_mut(&id).and_then(|machine| machine.agent.take());
            (id, agent)
        };
        fallen.into_iter().map(with_task).collect()
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
            on_at: None,
            stopping_at: None,
            off_at: None,
            called_gone: false,
            gone_until: None,
            gone: 0,
            frozen: 0,
            halted: 0,
            lingering: 0,
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
            machine.on_at = Some(self.clock.now());
            let body = Body::new(
                id.to_owned(),
                machine.pool.as_ref().map(|pool| self.queues.of(pool)).unwrap_or_default(),
                self.clock.clone(),
                self.random.clone(),
                self.upbringing(),
                machine.gate.clone(),
            );
            machine.body = Some(Arc::new(body));
        }
        self.transcript.note(format_args!("machine {id} runs"));
        if with_agent {
            self.start_agent(id);
        }
    }

    /// Starts a machine's agent, in place of one that ended or is there. Nothing happens where nothing runs.
    pub fn start_agent(self: &Arc<Self>, id: &str) {
        let mut inner = lock(&self.inner);
        let has_power = |machine: &&mut Machine| matches!(machine.power, Power::On | Power::Stopping);
        let Some(machine) = inner.get_mut(id).filter(has_power) else {
            return;
        };
        if let Some(former) = machine.agent.take() {
            former.abort();
        }
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
                body: body.clone(),
            },
            host: SimHost(body),
            clock: self.clock.clone(),
            random: self.random.clone(),
        };
        let (transcript, name) = (self.transcript.clone(), id.to_owned());
        let witness = Witness(self.fallen.clone(), id.to_owned());
        let life = async move {
            let _witness = witness;
            match epu_agent::run(parts, CancellationToken::new()).await {
                Ok(ended) => transcript.note(format_args!("the agent of {name} ended: {ended:?}")),
                Err(error) => transcript.note(format_args!("the agent of {name} gave up: {error}")),
            }
        };
        machine.agent = Some(tokio::spawn(machine.gate.around(life)));
    }

    /// Ends a machine's agent and leaves its worker.
    pub fn kill_agent(&self, id: &str) {
        if let Some(agent) = lock(&self.inner).get_mut(id).and_then(|machine| machine.agent.take()) {
            agent.abort();
        }
    }

    /// Holds everything on a machine, or lets it go on; held twice it is let go twice.
    pub fn freeze(&self, id: &str, frozen: bool) {
        if let Some(machine) = lock(&self.inner).get_mut(id) {
            machine.frozen = counted(machine.frozen, frozen);
            machine.hold();
        }
    }

    /// A machine's site halts it and keeps it, or starts it again: nothing works on it meanwhile.
    pub fn halt(&self, id: &str, halted: bool) {
        if let Some(machine) = lock(&self.inner).get_mut(id) {
            machine.halted = counted(machine.halted, halted);
            machine.hold();
            let word = if halted { "is halted" } else { "is started again" };
            self.transcript.note(format_args!("machine {id} {word}"));
        }
    }

    /// A machine does not end when it is told to, or does again.
    pub fn linger(&self, id: &str, on: bool) {
        if let Some(machine) = lock(&self.inner).get_mut(id) {
            machine.lingering = counted(machine.lingering, on);
        }
    }

    /// A machine begins to end. True when it had not before.
    pub(crate) fn stopping(&self, id: &str) -> bool {
        let mut inner = lock(&self.inner);
        let Some(machine) = inner.get_mut(id).filter(|machine| machine.power < Power::Stopping) else {
            return false;
        };
        machine.power = Power::Stopping;
        machine.stopping_at = Some(self.clock.now());
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
        self.gone(id, true);
    }

    /// The site shows a machine again that it called gone.
    pub fn comes_back(&self, id: &str) {
        self.gone(id, false);
    }

    fn gone(&self, id: &str, on: bool) {
        if let Some(machine) = lock(&self.inner).get_mut(id) {
            machine.gone = counted(machine.gone, on);
            machine.called_gone = machine.gone > 0;
            if !on {
                machine.gone_until = Some(self.clock.now());
            }
        }
    }

    /// What is on a machine that has power.
    #[must_use]
    pub fn body_on(&self, id: &str) -> Option<Arc<Body>> {
        self.look(|all| {
            all.get(id)
                .filter(|machine| machine.is_there())
                .and_then(|machine| machine.body.clone())
        })
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

fn counted(reasons: u32, more: bool) -> u32 {
    if more {
        reasons.saturating_add(1)
    } else {
        reasons.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::World;
    use crate::time::seconds;
    use crate::world::Broken;

    #[test]
    fn a_panic_on_a_machine_ends_the_run() {
        let mut world = World::keeping(0);
        let witness = Witness(world.machines().fallen.clone(), "m-000001".to_owned());
        world.pass(seconds(2)).unwrap();
        let panicking = std::thread::spawn(move || {
            let _witness = witness;
            panic!("an agent panics");
        });
        panicking.join().unwrap_err();
        let broken = world.pass(seconds(2)).unwrap_err();
        assert!(
            matches!(&broken, Broken::AgentPanicked(machine, _) if machine == "m-000001"),
            "{broken}"
        );
    }
}
