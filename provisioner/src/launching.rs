//! Launches: recorded, then called, then settled.
//!
//! A launch and its instances are recorded in one transaction, and answered, before the call is made. The call is repeated byte by
//! byte with the same token while it fails in a way that may pass, waiting longer each time, until the launch window ends. From
//! then on, when the site said that it will not launch it, and when everything of it has been told to end meanwhile, it is not called
//! any more and only a complete list of the site settles what came of it (`watching`): an error says nothing of what was started
//! before it. Only where the site does all of a call or nothing, and no answer was lost, is its refusal the end of it.
//!
//! A call waits for its turn where calls are paced, and is withdrawn when by then nobody wants it any more.
//!
//! **Worth having**: when fewer of a launch became ready in time than its `min`, the rest of it is ended (`judging`).

use std::sync::Arc;
use std::time::Duration;

use epu_core::Fault;
use epu_core::id::{InstanceId, LaunchId, SiteName};
use epu_core::instance::Instance;
use epu_core::journal::{Entry, Event as Remembered};
use epu_core::launch::{INSTANCES_MAX, Launch, LaunchRequest, Outcome};
use epu_core::lease::{Domain, Term};
use epu_core::life::State;
use epu_core::request::{Answer, Caller};
use epu_core::time::Timestamp;
use serde_json::Value;

use crate::book::Launching;
use crate::checking::{count, unintended};
use crate::iaas::{Admission, Class, IaasError, IaasLaunch, LaunchToken, Machine, MachineState};
use crate::lifecycle::{Happening, instance_at};
use crate::service::Service;
use crate::site::{Done, Ticket};
use crate::turn::{After, stale, store_failed};

/// No launch is repeated for longer than this, whatever is configured: sites forget client tokens after a day
/// (<https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html>).
const WINDOW_MOST: Duration = Duration::from_secs(86_400);
/// A launch token is good for so long after the longest launch window and the time to become ready. It does not depend on what is
/// configured, so that a call repeated after a change of that is the same.
const TOKEN_SPARE: Duration = Duration::from_secs(3_600);
/// Refused launches that are remembered, so that no late copy of one is carried out.
const REFUSED_MOST: usize = 1_000;
/// How much longer to wait after `throttled` than after another passing error.
const THROTTLED_TIMES: u32 = 4;

/// I2, where the launch says what the maximum is: whoever asked may have reckoned with what has changed since.
fn fits(request: &LaunchRequest, staying: Option<u32>) -> Result<(), Fault> {
    let more = u32::try_from(request.instances.len()).unwrap_or(u32::MAX);
    match (staying, request.max) {
        (Some(staying), Some(max)) if staying.saturating_add(more) > max => {
            let text = format!(
                "launch {}: {staying} instances stay, {more} more would be above the maximum of {max}",
                request.launch
            );
            Err(Fault::new("above-max", text))
        }
        (Some(_) | None, _) => Ok(()),
    }
}

impl Service {
    pub(crate) async fn launch(&mut self, caller: &Caller, request: LaunchRequest) -> Result<Answer, Fault> {
        self.check_epoch(caller, std::iter::once(&request.pool), request.epoch)?;
        let nothing = Ok(Answer::Json(Value::Null));
        if self.book.launch(request.launch).is_some() {
            return nothing;
        }
        // Another copy of it, which was long on its way: its asker has been told that nothing comes of it.
        if let Some(fault) = self.refused_launches.get(&request.launch) {
            return Err(fault.clone());
        }
        // What was worked out before this must not be written after it.
        if !self.flush().await {
            return Err(Fault::new("store-failed", "the records could not be written just now"));
        }
        if let Err(fault) = self.check_launch(&request) {
            self.refuse(&request, &fault);
            return Err(fault);
        }
        let now = self.clock.now();
        // Only what the records say of a pool that has none to be read anew.
        let staying = self.reload_at.is_none().then(|| self.book.staying(&request.pool));
        if let Err(fault) = fits(&request, staying) {
            self.refuse(&request, &fault);
            return Err(fault);
        }
        let (launch, instances) = self.intention(request, now);
        let mut terms = vec![self.right.term];
        if matches!(caller, Caller::Service(_)) && launch.epoch != 0 {
            let (domain, epoch) = (Domain::of(&launch.request.pool), launch.epoch);
            terms.push(Term { domain, epoch });
        }
        let journal = vec![
            Entry::new(
                now,
                "provisioner",
                Remembered::LaunchRecorded {
                    launch: launch.id,
                    site: launch.request.site.clone(),
                    instances: u32::try_from(instances.len()).unwrap_or(u32::MAX),
                },
            )
            .of(&launch.request.pool),
        ];
        match self.store.record_launch(&launch, &instances, journal, &terms).await {
            Ok(true) => {
                let id = launch.id;
                let site = launch.request.site.clone();
                self.metrics.writes.inc();
                self.book.put_launch(launch, now);
                if let Some(known) = self.book.launch_mut(id) {
                    // Nobody can have called it before.
                    known.doubtful = false;
                }
                for instance in &instances {
                    self.metrics.instances.with_label_values(&[instance.state.code()]).inc();
                    self.book.put(instance.clone(), now);
                }
                self.tell(instances);
                self.call_launch(id);
                self.look_soon(&site, now);
                nothing
            }
            // Recorded before, and not in the book: the answer to its recording was lost, or it is over.
            Ok(false) => {
                self.reload_at = Some(now);
                nothing
            }
            Err(epu_store::Error::Closed) => {
                self.closed = true;
                let fault = closed();
                self.refuse(&launch.request, &fault);
                Err(fault)
            }
            Err(epu_store::Error::Deposed(term)) if term != self.right.term => {
                self.metrics.stale_epochs.inc();
                Err(stale(term))
            }
            Err(epu_store::Error::Exists(what)) => Err(Fault::new("conflict", format!("record the launch: {what} exists already"))),
            Err(error) => {
                self.not_written(&error);
                Err(store_failed(&error))
            }
        }
    }

    fn check_launch(&self, request: &LaunchRequest) -> Result<(), Fault> {
        if self.closed {
            return Err(closed());
        }
        if let Some(fault) = self.no_launches_on(&request.site) {
            return Err(fault);
        }
        let most = self.sites.get(&request.site).map_or(0, |site| site.can.launch_most);
        if request.instances.len() > usize::try_from(most).unwrap_or(usize::MAX) {
            let text = format!(
                "launch {}: {} instances; site {} takes {most} in one launch at the most",
                request.launch,
                request.instances.len(),
                request.site
            );
            return Err(Fault::new("too-large", text));
        }
        let mut ids: Vec<InstanceId> = request.instances.iter().map(|wanted| wanted.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let count = request.instances.len();
        let wrong = if count == 0 || count > INSTANCES_MAX {
            Some(format!("{count} instances; 1 to {INSTANCES_MAX} are possible"))
        } else if ids.len() != count {
            Some("an instance id is named twice".to_owned())
        } else if usize::try_from(request.min).unwrap_or(usize::MAX) > count {
            Some(format!("min is {} of {count}", request.min))
        } else if request.template.run.is_empty() {
            Some("the template has no run program".to_owned())
        } else {
            None
        };
        wrong.map_or(Ok(()), |why| {
            Err(Fault::new("bad-request", format!("launch {}: {why}", request.launch)))
        })
    }

    /// Lets the asker's other ears hear of it too: instances that it counts as asked for will never be.
    fn refuse(&mut self, request: &LaunchRequest, fault: &Fault) {
        // The asker sends it again after anything else, and it may be carried out then.
        if !fault.is_final() {
            return;
        }
        self.refused_launches.insert(request.launch, fault.clone());
        if self.refused_launches.len() > REFUSED_MOST {
            self.refused_launches.pop_first();
        }
        let now = self.clock.now();
        let (_, instances) = self.intention(request.clone(), now);
        let rejected = instances
            .into_iter()
            .filter(|instance| self.book.get(instance.id).is_none())
            .map(|instance| {
                let mut instance = Arc::unwrap_or_clone(instance);
                instance.state = State::Rejected;
                instance.deadline = None;
                instance.fault = Some(fault.clone());
                Arc::new(instance)
            })
            .collect();
        self.tell(rejected);
    }

    fn intention(&self, request: LaunchRequest, now: Timestamp) -> (Launch, Vec<Arc<Instance>>) {
        let instances = (0..)
            .zip(&request.instances)
            .map(|(index, wanted)| {
                Arc::new(Instance {
                    state: State::Requested,
                    version: 1,
                    deadline: Some(now + self.launch_window()),
                    ..request.instance(index, wanted, now)
                })
            })
            .collect();
        let launch = Launch {
            id: request.launch,
            epoch: request.epoch,
            request,
            accepted_at: now,
            attempts: 1,
            doors: self.doors.all.clone(),
            outcome: None,
        };
        (launch, instances)
    }

    // ---- calling

    pub(crate) fn launch_window(&self) -> Duration {
        (*self.config.launch_window).min(WINDOW_MOST)
    }

    /// Whether calling again makes sense: nothing came of it yet, it is not too late, its site takes launches, and somebody still wants it.
    pub(crate) fn is_wanted(&self, known: &Launching, now: Timestamp) -> bool {
        let leaves = |site: &SiteName| self.sites.get(site).is_some_and(|site| site.leaving.is_some());
        known.launch.outcome.is_none()
            && known.refused.is_none()
            && !leaves(&known.launch.request.site)
            && now < known.launch.accepted_at + self.launch_window()
            && known
                .ids()
                .any(|id| self.book.get(id).is_some_and(|instance| instance.state < State::Terminating))
    }

    pub(crate) fn next_launch(&self) -> Option<Timestamp> {
        let now = self.clock.now();
        self.book
            .open_launches()
            .filter_map(|known| match known.calling {
                true => known.is_waiting().then(|| known.launch.accepted_at + self.launch_window()),
                false => self.is_wanted(known, now).then_some(known.next_at),
            })
            .min()
    }

    /// Calls that wait for their turn and that nobody wants any more are not made.
    pub(crate) fn withdraw_unwanted(&self, now: Timestamp) {
        let waiting = self.book.open_launches().filter(|known| known.is_waiting());
        for known in waiting.filter(|known| !self.is_wanted(known, now)) {
            if let Some(ticket) = &known.ticket {
                ticket.withdraw();
            }
        }
    }

    /// Calls again what is to be called again. That it is called again is recorded first.
    pub(crate) fn due_launches(&mut self, now: Timestamp) {
        let due: Vec<Launch> = self
            .book
            .open_launches()
            .filter(|known| !known.calling && known.next_at <= now && self.is_wanted(known, now))
            // What this turn already worked out about a launch, such as its outcome, is not overwritten.
            .filter(|known| !self.turn.launches.contains_key(&known.launch.id))
            .map(|known| known.launch.clone())
            .collect();
        for mut launch in due {
            launch.attempts = launch.attempts.saturating_add(1);
            let id = launch.id;
            self.note_launch(launch);
            self.later(After::Launch(id));
        }
    }

    pub(crate) fn call_launch(&mut self, id: LaunchId) {
        let Some(known) = self.book.launch_mut(id).filter(|known| !known.calling) else {
            return;
        };
        let Some(site) = self.sites.get(&known.launch.request.site) else {
            known.next_at = Timestamp::NEVER;
            return;
        };
        known.calling = true;
        let ticket = Arc::<Ticket>::default();
        known.ticket = Some(ticket.clone());
        let request = &known.launch.request;
        let template = request.template.clone();
        let expiry = known.launch.accepted_at + WINDOW_MOST + *template.ready_within + TOKEN_SPARE;
        let call = IaasLaunch {
            installation: self.installation.clone(),
            launch: id,
            pool: request.pool.clone(),
            instances: request.instances.iter().map(|wanted| wanted.id).collect(),
            min: request.min,
            launch_token: LaunchToken(self.keyring.mint_launch(id, expiry)),
            url: match known.launch.doors.as_slice() {
                // Recorded by a release that did not keep them.
                [] => self.doors.all.join(" "),
                doors => doors.join(" "),
            },
            template,
            doubtful: known.doubtful,
        };
        let (driver, permits) = (site.driver.clone(), site.launch_permits.clone());
        let (store, metrics, epoch) = (self.store.clone(), self.metrics.clone(), known.launch.epoch);
        let purpose = request.purpose;
        let admission = Admission::Launch {
            machines: u32::try_from(request.instances.len()).unwrap_or(u32::MAX),
            purpose,
        };
        self.tasks.spawn(async move {
            let turn = async {
                driver.admitted(admission).await;
                let permit = permits.acquire(purpose, driver.clock.now()).await;
                (permit, unintended(store.as_ref(), &call, epoch).await)
            };
            let turn = tokio::select! {
                biased;
                () = ticket.withdrawn() => None,
                turn = turn => Some(turn),
            };
            let Some((_permit, violation)) = turn.filter(|_| ticket.make()) else {
                return Done::Withdrawn(id);
            };
            if let Some(violation) = violation {
                count(&metrics, &violation);
                return Done::Unrecorded(id);
            }
            let result = driver.call("launch", |iaas| async move { iaas.launch(&call).await }).await;
            Done::Launched { launch: id, result }
        });
    }

    // ---- what came of it

    pub(crate) fn launched(&mut self, id: LaunchId, result: Result<Vec<Machine>, IaasError>) {
        let now = self.clock.now();
        let Some(known) = self.book.launch_mut(id) else { return };
        known.calling = false;
        known.ticket = None;
        known.quiet_since = now;
        let launch = known.launch.clone();
        let is_clear = !known.doubtful
            && self
                .sites
                .get(&launch.request.site)
                .is_some_and(|site| site.driver.iaas.refuses_whole());
        match result {
            Ok(machines) => self.arrived(&launch, &machines),
            Err(error) if error.class.is_passing() => {
                // A call that was refused for being one too many has come to nothing; of any other that is not known.
                known.doubtful |= error.class != Class::Throttled;
                known.failures = known.failures.saturating_add(1);
                let failures = known.failures;
                let times = if error.class == Class::Throttled { THROTTLED_TIMES } else { 1 };
                let next_at = now + self.backoff(failures) * times;
                if let Some(known) = self.book.launch_mut(id) {
                    known.next_at = next_at;
                }
                for wanted in &launch.request.instances {
                    let waiting = |i: &Arc<Instance>| matches!(i.state, State::Requested | State::ErrorRetrying);
                    if self.instance(wanted.id).is_some_and(waiting) {
                        self.happen_quietly(wanted.id, Happening::Retrying(error.fault()));
                    }
                }
            }
            // What is not the same as before was called before.
            Err(error) if is_clear && error.class != Class::Changed => self.came_to_nothing(&launch, &error.fault()),
            // Part of it may have come all the same, in this call or in one whose answer was lost.
            Err(error) => {
                if let Some(known) = self.book.launch_mut(id) {
                    known.refused = Some(error.fault());
                }
                self.look_soon(&launch.request.site, now);
            }
        }
    }

    /// The call was not made.
    pub(crate) fn withdrawn(&mut self, id: LaunchId) {
        let now = self.clock.now();
        let Some(known) = self.book.launch_mut(id) else { return };
        known.calling = false;
        known.ticket = None;
        known.quiet_since = now;
        let launch = known.launch.clone();
        if known.doubtful {
            return self.look_soon(&launch.request.site, now);
        }
        // Nothing was ever sent, or all that was sent was refused.
        let window = self.launch_window();
        let fault = if now >= launch.accepted_at + window {
            Fault::new(
                "site-throttled",
                format!("it did not get its turn to be launched within {}", epu_core::Span(window)),
            )
        } else if let Some(fault) = self.no_launches_on(&launch.request.site) {
            fault
        } else {
            Fault::new("launch-failed", "it was told to end before it was launched")
        };
        self.came_to_nothing(&launch, &fault);
    }

    /// The store has the launch otherwise than it was to be called, or not at all: the store is right.
    pub(crate) fn unrecorded(&mut self, id: LaunchId) {
        let now = self.clock.now();
        let Some(known) = self.book.launch_mut(id) else { return };
        known.calling = false;
        known.ticket = None;
        known.failures = known.failures.saturating_add(1);
        let failures = known.failures;
        let next_at = now + self.backoff(failures);
        if let Some(known) = self.book.launch_mut(id) {
            known.next_at = next_at;
        }
        self.reload_at = Some(now);
    }

    fn arrived(&mut self, launch: &Launch, machines: &[Machine]) {
        let ids: Vec<InstanceId> = launch.request.instances.iter().map(|wanted| wanted.id).collect();
        let mut came = Vec::new();
        for (place, machine) in (0..).zip(machines) {
            let Some(id) = instance_at(&ids, machine.index.unwrap_or(place)) else {
                continue;
            };
            came.push(id);
            self.take_in(id, machine);
        }
        let short = Fault::new(
            "capacity-short",
            format!("the site launched {} of {} machines", came.len(), launch.request.instances.len()),
        );
        for id in &ids {
            if !came.contains(id) && self.instance(*id).is_some_and(|i| i.is_live() && i.machine.is_none()) {
                self.happen_quietly(*id, Happening::LaunchFailed(short.clone()));
            }
        }
        let machines = u32::try_from(came.len()).unwrap_or(u32::MAX);
        if machines < launch.request.min {
            self.undo(launch, machines, "came");
        }
        let fault = (came.len() < ids.len()).then_some(short);
        self.settle(launch, Outcome::Launched { machines }, fault);
    }

    /// This machine is this instance's.
    pub(crate) fn take_in(&mut self, id: InstanceId, machine: &Machine) {
        let Some(instance) = self.instance(id).filter(|instance| instance.is_live()).cloned() else {
            return;
        };
        let is_news = instance.machine.is_none() || instance.address.is_none() && machine.address.is_some();
        if is_news {
            self.happen_quietly(
                id,
                Happening::Launched {
                    machine: machine.id.clone(),
                    address: machine.address.clone(),
                },
            );
        }
        if machine.state == MachineState::Running && self.instance(id).is_some_and(|i| i.state < State::Started) {
            self.happen_quietly(id, Happening::Up);
        }
    }

    /// No more machines will come: whatever has none has failed.
    pub(crate) fn came_to_nothing(&mut self, launch: &Launch, fault: &Fault) {
        let mut machines = 0;
        for wanted in &launch.request.instances {
            let Some(instance) = self.instance(wanted.id) else { continue };
            if instance.machine.is_some() {
                machines += 1;
            } else if instance.is_live() {
                self.happen_quietly(wanted.id, Happening::LaunchFailed(fault.clone()));
            }
        }
        if machines > 0 && machines < launch.request.min {
            self.undo(launch, machines, "came");
        }
        let outcome = match machines {
            0 => Outcome::Failed { fault: fault.clone() },
            machines => Outcome::Launched { machines },
        };
        self.settle(launch, outcome, Some(fault.clone()));
    }

    /// Ends what there is of a launch, since no more than so many `came`, or became ready, and that is not worth having.
    pub(crate) fn undo(&mut self, launch: &Launch, so_many: u32, did: &str) {
        let text = format!(
            "{so_many} of {} instances {did}, and fewer than {} are not worth having: the launch is undone",
            launch.request.instances.len(),
            launch.request.min
        );
        for wanted in &launch.request.instances {
            let stays = |instance: &Arc<Instance>| instance.machine.is_some() && !instance.is_leaving();
            if self.instance(wanted.id).is_some_and(stays) {
                self.happen_quietly(wanted.id, Happening::Undone(Fault::new("launch-undone", text.clone())));
            }
        }
    }

    fn settle(&mut self, launch: &Launch, outcome: Outcome, fault: Option<Fault>) {
        let wanted = u32::try_from(launch.request.instances.len()).unwrap_or(u32::MAX);
        let (machines, word) = match &outcome {
            Outcome::Launched { machines } if *machines == wanted => (*machines, "all"),
            Outcome::Launched { machines: 0 } | Outcome::Failed { .. } => (0, "none"),
            Outcome::Launched { machines } => (*machines, "some"),
        };
        self.metrics.launches.with_label_values(&[launch.request.site.as_str(), word]).inc();
        let event = Remembered::LaunchEnded {
            launch: launch.id,
            machines,
            fault,
        };
        self.turn
            .journal
            .push(Entry::new(self.clock.now(), "provisioner", event).of(&launch.request.pool));
        self.note_launch(Launch {
            outcome: Some(outcome),
            ..launch.clone()
        });
    }

    /// The wait after so many failures in a row.
    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        let doubled = self.config.retry_first.saturating_mul(1 << failures.saturating_sub(1).min(16));
        self.random.jitter(doubled.min(*self.config.retry_most), 0.2)
    }
}

pub(crate) fn closed() -> Fault {
    Fault::new("closed", "the installation is closed by teardown: nothing is launched")
}
