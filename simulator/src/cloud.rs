//! A simulated site: the provisioner's view of the machines, through calls that take time and go wrong.
//!
//! A call reaches the site after a while, has its effect there, and answers after another while. A caller that dies in between has had
//! the effect and does not know it, which is the case that loses machines.
//!
//! What is wrong for a while is a [`Trouble`]; a [`CloudLine`] is the site as one process reaches it.

mod line;
mod trouble;

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use epu_core::id::{InstanceId, LaunchId, SiteName};
use epu_core::launch::Purpose;
use epu_core::random::Random;
use epu_core::request::{BucketView, Finding, FindingVerdict, NamedTemplate};
use epu_core::time::{Clock, Span, Timestamp};
use epu_provisioner::iaas::{Admission, Capabilities, Class, Iaas, IaasError, IaasLaunch, Machine as Listed, MachineState};
use epu_provisioner::pace::{Action, Pace};

use serde::{Deserialize, Serialize};

use crate::fault::Luck;
use crate::lock;
use crate::machines::{Machine, Machines, Order, Power};
use crate::play::boot::Boot as BootModel;
use crate::process::Process;
use crate::transcript::Transcript;
use crate::watch::Watch;
pub use line::CloudLine;
pub use trouble::Trouble;
use trouble::{Boot, Troubles};

/// A site's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// Launch.
    Launch,
    /// Terminate.
    Terminate,
    /// List.
    List,
    /// Describe.
    Describe,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// It is refused, without effect.
    Refused(Class),
    /// It has its effect, and its answer is lost.
    AnswerLost,
    /// It has no effect and no answer.
    Nothing,
}

/// How long a machine boots whose agent never starts.
const STUCK: Duration = Duration::from_secs(5);
/// How often a machine that does not end is looked at again.
const LINGERS: Duration = Duration::from_secs(5);

/// How a site is.
#[derive(Debug)]
struct How {
    boot: Duration,
    /// A machine's boot takes between this share less and more of `boot`.
    boot_spread: f64,
    /// In place of both, where it is given.
    boots_by: Option<BootModel>,
    /// The next machines never start their agents.
    stuck: u32,
    call_takes: Duration,
    stop_takes: Duration,
    list_lag: Duration,
    capacity: Option<u32>,
    launch_most: u32,
    /// What calls wait for, and which refusals for being too many are told to.
    pace: Option<Arc<Pace>>,
    always: BTreeMap<Call, Mishap>,
    next: BTreeMap<Call, VecDeque<Mishap>>,
    /// What was asked under each token, and the machines that came.
    tokens: BTreeMap<LaunchId, (String, Vec<String>)>,
    calls: BTreeMap<Call, u32>,
    troubles: Troubles,
    /// The trouble of a site that was told to go away.
    away: Option<u64>,
}

/// A site.
#[derive(Debug)]
pub struct SimCloud {
    name: SiteName,
    installation: String,
    machines: Arc<Machines>,
    clock: Arc<dyn Clock>,
    random: Arc<Random>,
    transcript: Arc<Transcript>,
    watch: Arc<Watch>,
    /// The site's own, so that what goes wrong with it leaves alone what everybody else draws.
    luck: Luck,
    how: Mutex<How>,
}

impl SimCloud {
    /// A site that works.
    #[must_use]
    pub fn new(
        name: SiteName,
        installation: &str,
        machines: Arc<Machines>,
        clock: Arc<dyn Clock>,
        random: Arc<Random>,
        transcript: Arc<Transcript>,
        watch: Arc<Watch>,
    ) -> Self {
        Self {
            name,
            installation: installation.to_owned(),
            machines,
            clock,
            random,
            transcript,
            watch,
            luck: Luck::seeded(0),
            how: Mutex::new(How {
                boot: Duration::from_secs(20),
                boot_spread: 0.2,
                boots_by: None,
                stuck: 0,
                call_takes: Duration::from_millis(200),
                stop_takes: Duration::from_secs(5),
                list_lag: Duration::from_secs(2),
                capacity: None,
                launch_most: 1_000,
                pace: None,
                always: BTreeMap::new(),
                next: BTreeMap::new(),
                tokens: BTreeMap::new(),
                calls: BTreeMap::new(),
                troubles: Troubles::default(),
                away: None,
            }),
        }
    }

    /// With chances of its own by the world's seed.
    #[must_use]
    pub fn with_luck(mut self, seed: u64) -> Self {
        let name = self.name.as_str().bytes();
        self.luck = Luck::seeded(name.fold(seed, |seed, byte| seed.rotate_left(8) ^ u64::from(byte)));
        self
    }

    /// This is wrong from now on. Gives what it is ended by.
    pub fn troubled_by(&self, trouble: Trouble) -> u64 {
        self.transcript.note(format_args!("{}: {trouble:?}", self.name));
        if trouble.delays().is_some() {
            self.watch.site_fails(self.clock.now());
        }
        lock(&self.how).troubles.begins(trouble)
    }

    /// A trouble is over; nothing happens when it was already.
    pub fn is_rid_of(&self, id: u64) {
        let Some(trouble) = lock(&self.how).troubles.ends(id) else { return };
        self.transcript.note(format_args!("{}: no longer {trouble:?}", self.name));
        if let Some(delay) = trouble.delays() {
            self.watch.site_answers_by(self.clock.now() + delay);
        }
    }

    fn is_cut_from(&self, process: Process) -> bool {
        lock(&self.how).troubles.is_cut_from(process)
    }

    /// How long machines take to boot, more or less by this share.
    pub fn boots_in(&self, boot: Duration, spread: f64) {
        let mut how = lock(&self.how);
        (how.boot, how.boot_spread) = (boot, spread);
    }

    /// How machines come up from now on, and how many do not.
    pub fn boots_by(&self, boot: BootModel) {
        lock(&self.how).boots_by = Some(boot);
    }

    /// So many of the next machines never start their agents.
    pub fn next_are_stuck(&self, machines: u32) {
        lock(&self.how).stuck = machines;
    }

    /// How long each call takes.
    pub fn calls_take(&self, takes: Duration) {
        lock(&self.how).call_takes = takes;
    }

    /// There is room for so many machines.
    pub fn has_room_for(&self, machines: Option<u32>) {
        lock(&self.how).capacity = machines;
    }

    /// One launch is of so many machines at the most. Provisioners hear of it when they begin.
    pub fn takes_at_once(&self, machines: u32) {
        lock(&self.how).launch_most = machines;
    }

    /// Launches and terminations wait for their turn here; none: they do not wait.
    pub fn is_paced_by(&self, pace: Option<Arc<Pace>>) {
        lock(&self.how).pace = pace;
    }

    /// Somebody else halts a machine: nothing works on it any more, and the site keeps it.
    pub fn halts(&self, machine: &str) {
        self.machines.halt(machine, true);
    }

    /// This goes wrong with the next such call; those after it in the order in which they were said.
    pub fn next_call(&self, call: Call, mishap: Mishap) {
        lock(&self.how).next.entry(call).or_default().push_back(mishap);
    }

    /// This goes wrong with every such call until none does.
    pub fn every_call(&self, call: Call, mishap: Option<Mishap>) {
        let always = &mut lock(&self.how).always;
        match mishap {
            Some(mishap) => always.insert(call, mishap),
            None => always.remove(&call),
        };
    }

    /// The site answers nothing, or everything again.
    pub fn goes_away(&self, away: bool) {
        let since = lock(&self.how).away.take();
        match (away, since) {
            (true, None) => {
                let id = self.troubled_by(Trouble::Away);
                lock(&self.how).away = Some(id);
            }
            (true, still) => lock(&self.how).away = still,
            (false, Some(id)) => self.is_rid_of(id),
            (false, None) => {}
        }
    }

    /// A machine that carries an installation's tag and that nobody asked for.
    pub fn add_machine_of(&self, installation: &str) -> String {
        self.machines.launch(Order {
            site: self.name.clone(),
            installation: installation.to_owned(),
            launch: None,
            index: None,
            pool: None,
            instance: None,
            token: String::new(),
            boot: None,
        })
    }

    /// How often it was called so.
    #[must_use]
    pub fn calls(&self, call: Call) -> u32 {
        lock(&self.how).calls.get(&call).copied().unwrap_or(0)
    }

    /// A call on its way to the site. True when its answer will be lost.
    async fn reach(&self, call: Call) -> Result<bool, IaasError> {
        let (takes, mishap) = {
            let mut how = lock(&self.how);
            *how.calls.entry(call).or_default() += 1;
            let next = how.next.get_mut(&call).and_then(VecDeque::pop_front);
            let mishap = next.or_else(|| how.always.get(&call).copied());
            (how.call_takes, mishap.or_else(|| how.troubles.mishap(call, &self.luck)))
        };
        tokio::time::sleep(takes / 2).await;
        match mishap {
            None => Ok(false),
            Some(Mishap::AnswerLost) => Ok(true),
            Some(Mishap::Refused(class)) => {
                self.transcript
                    .note(format_args!("{}: {call:?} is refused: {}", self.name, class.word()));
                if let (Class::Throttled, Some(pace)) = (class, self.pace()) {
                    pace.throttled(action(call));
                }
                Err(IaasError::new(class, format!("{call:?}: {}", class.word())))
            }
            Some(Mishap::Nothing) => pending().await,
        }
    }

    async fn answer<T>(&self, call: Call, lost: bool, answer: T) -> Result<T, IaasError> {
        let takes = lock(&self.how).call_takes;
        tokio::time::sleep(takes / 2).await;
        if lost {
            self.transcript.note(format_args!("{}: the answer to {call:?} is lost", self.name));
            return Err(IaasError::new(Class::Retryable, format!("{call:?}: connection reset")));
        }
        Ok(answer)
    }

    fn launch_here(&self, launch: &IaasLaunch) -> Result<Vec<Listed>, IaasError> {
        self.watch.called(launch, self.clock.now());
        let asked = format!("{:?} {} {:?}", launch.instances, launch.min, launch.template);
        let known = lock(&self.how).tokens.get(&launch.launch).cloned();
        let ids = match known {
            Some((before, _)) if before != asked => {
                self.watch.changed_request(launch.launch);
                return Err(IaasError::new(Class::Changed, "the same token with another request"));
            }
            Some((_, ids)) => ids,
            None => {
                let wanted = launch.instances.len();
                let came = self.room(wanted);
                if came < usize::try_from(launch.min).unwrap_or(usize::MAX) {
                    return Err(IaasError::new(Class::Capacity, format!("no room for {} machines", launch.min)));
                }
                let ids: Vec<String> = (0..)
                    .zip(&launch.instances)
                    .take(came)
                    .map(|(index, id)| self.start(launch, index, *id))
                    .collect();
                lock(&self.how).tokens.insert(launch.launch, (asked, ids.clone()));
                ids
            }
        };
        Ok(self.machines.look(|all| {
            ids.iter()
                .filter_map(|id| all.get(id))
                .map(|machine| self.listed(machine))
                .collect()
        }))
    }

    fn pace(&self) -> Option<Arc<Pace>> {
        lock(&self.how).pace.clone()
    }

    /// As the site shows a machine.
    fn state(&self, machine: &Machine) -> MachineState {
        let state = state_of(machine);
        match state {
            MachineState::Pending | MachineState::Running if machine.is_halted() => MachineState::Stopped,
            MachineState::Pending | MachineState::Running | MachineState::Stopping | MachineState::Stopped | MachineState::Gone => state,
        }
    }

    fn room(&self, wanted: usize) -> usize {
        let (capacity, wanted) = {
            let how = lock(&self.how);
            let rooms = [how.capacity, how.troubles.room()];
            (rooms.into_iter().flatten().min(), how.troubles.part(wanted))
        };
        let Some(capacity) = capacity else { return wanted };
        let there = self
            .machines
            .look(|all| all.values().filter(|m| m.is_there() && m.site == self.name).count());
        wanted.min(usize::try_from(capacity).unwrap_or(usize::MAX).saturating_sub(there))
    }

    fn start(&self, launch: &IaasLaunch, index: u32, instance: InstanceId) -> String {
        let (takes, boot) = {
            let mut how = lock(&self.how);
            let mut boot = how.troubles.boot();
            boot.is_stuck |= how.stuck > 0;
            how.stuck = how.stuck.saturating_sub(1);
            let drawn = match how.boots_by {
                _ if boot.is_stuck => None,
                Some(boots) => boots.draw(&self.random),
                None => Some(self.random.jitter(how.boot, how.boot_spread)),
            };
            boot.is_stuck = drawn.is_none();
            (drawn.map_or(STUCK, |takes| takes.mul_f64(boot.factor)), boot)
        };
        let Boot {
            is_stuck, is_stillborn, ..
        } = boot;
        let id = self.machines.launch(Order {
            site: self.name.clone(),
            installation: launch.installation.clone(),
            launch: Some(launch.launch),
            index: Some(index),
            pool: Some(launch.pool.clone()),
            instance: Some(instance),
            token: launch.launch_token.0.clone(),
            boot: (!is_stuck).then_some(takes),
        });
        if is_stillborn {
            let (all, id) = (self.machines.clone(), id.clone());
            tokio::spawn(async move {
                tokio::time::sleep(takes / 2).await;
                all.power_off(&id);
            });
        }
        id
    }

    fn listed(&self, machine: &Machine) -> Listed {
        Listed {
            id: machine.id.clone(),
            launch: machine.launch,
            index: machine.index,
            instance: None,
            state: self.state(machine),
            address: None,
        }
    }

    fn is_ours(&self, machine: &Machine) -> bool {
        machine.site == self.name && machine.installation == self.installation
    }
}

fn action(call: Call) -> Action {
    match call {
        Call::Launch => Action::RunInstances,
        Call::Terminate => Action::TerminateInstances,
        Call::List => Action::DescribeInstances,
        Call::Describe => Action::DescribeInstancesById,
    }
}

/// As a site shows a machine that still says what was so then.
fn state_at(machine: &Machine, then: Timestamp) -> MachineState {
    let was = |at: Option<Timestamp>| at.is_some_and(|at| at <= then);
    if machine.called_gone || was(machine.off_at) {
        MachineState::Gone
    } else if was(machine.stopping_at) {
        MachineState::Stopping
    } else if was(machine.on_at) {
        MachineState::Running
    } else {
        MachineState::Pending
    }
}

fn state_of(machine: &Machine) -> MachineState {
    match machine.power {
        _ if machine.called_gone => MachineState::Gone,
        Power::Booting => MachineState::Pending,
        Power::On => MachineState::Running,
        Power::Stopping => MachineState::Stopping,
        Power::Off => MachineState::Gone,
    }
}

#[async_trait]
impl Iaas for SimCloud {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            driver: "simulated",
            consistency_grace: Span::secs(10),
            gone_confirmations: 2,
            look_fast: Span::secs(2),
            look_steady: Span::secs(20),
            sweep_grace: Span::secs(60),
            launch_most: lock(&self.how).launch_most,
        }
    }

    fn refuses_whole(&self) -> bool {
        true
    }

    async fn admit(&self, call: Admission) {
        let Some(pace) = self.pace() else { return };
        match call {
            Admission::Launch { machines, purpose } => pace.turn(Action::RunInstances, machines, purpose).await,
            Admission::Terminate { machines } => pace.turn(Action::TerminateInstances, machines, Purpose::Replace).await,
        }
    }

    fn standing(&self) -> (Option<String>, Vec<BucketView>) {
        let pace = self.pace();
        (
            pace.as_ref().map(|_| "simulated".to_owned()),
            pace.map(|pace| pace.levels()).unwrap_or_default(),
        )
    }

    async fn launch(&self, launch: &IaasLaunch) -> Result<Vec<Listed>, IaasError> {
        let lost = self.reach(Call::Launch).await?;
        let came = self.launch_here(launch)?;
        self.answer(Call::Launch, lost, came).await
    }

    async fn terminate(&self, machines: &[String]) -> Result<(), IaasError> {
        let lost = self.reach(Call::Terminate).await?;
        let takes = lock(&self.how).stop_takes;
        for id in machines {
            let whose = self
                .machines
                .look(|all| all.get(id).map(|machine| (self.is_ours(machine), machine.installation.clone())));
            if let Some((_, other)) = whose.as_ref().filter(|(_, installation)| *installation != self.installation) {
                self.watch.ended_of_another(id, other);
            }
            let ours = whose.is_some_and(|(ours, _)| ours);
            if ours && self.machines.stopping(id) {
                self.transcript.note(format_args!("machine {id} is being ended"));
                let (all, id) = (self.machines.clone(), id.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(takes).await;
                    while all.look(|all| all.get(&id).is_some_and(Machine::lingers)) {
                        tokio::time::sleep(LINGERS).await;
                    }
                    all.power_off(&id);
                });
            }
        }
        self.answer(Call::Terminate, lost, ()).await
    }

    async fn list(&self) -> Result<Vec<Listed>, IaasError> {
        let lost = self.reach(Call::List).await?;
        let now = self.clock.now();
        let (as_of, lag) = {
            let how = lock(&self.how);
            (how.troubles.as_of(now, &self.luck), how.list_lag)
        };
        let listed = self.machines.look(|all| {
            let shown = all
                .values()
                .filter(|machine| self.is_ours(machine) && as_of.since(machine.launched_at) >= lag);
            shown
                .map(|machine| match as_of < now {
                    true => Listed {
                        state: state_at(machine, as_of),
                        ..self.listed(machine)
                    },
                    false => self.listed(machine),
                })
                .filter(|machine| machine.state != MachineState::Gone)
                .collect()
        });
        let listed = lock(&self.how).troubles.tell(listed, &self.luck);
        self.answer(Call::List, lost, listed).await
    }

    async fn describe(&self, machines: &[String]) -> Result<Vec<(String, Option<MachineState>)>, IaasError> {
        let lost = self.reach(Call::Describe).await?;
        let said = self.machines.look(|all| {
            let state = |id: &String| {
                all.get(id)
                    .filter(|machine| self.is_ours(machine))
                    .map(|machine| self.state(machine))
            };
            machines.iter().map(|id| (id.clone(), state(id))).collect()
        });
        self.answer(Call::Describe, lost, said).await
    }

    async fn output(&self, instance: InstanceId, _: Option<&str>, _: u32) -> Result<Option<String>, IaasError> {
        let known = self
            .machines
            .look(|all| all.values().any(|machine| machine.instance == Some(instance)));
        Ok(known.then(|| "the worker says nothing".to_owned()))
    }

    async fn check(&self, _: &[NamedTemplate]) -> Vec<Finding> {
        vec![Finding {
            what: "site".to_owned(),
            verdict: FindingVerdict::Good,
            text: "it is simulated".to_owned(),
        }]
    }

    async fn tidy(&self, _: Timestamp) -> Result<u32, IaasError> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests;
