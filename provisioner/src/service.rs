//! The provisioner's loop.
//!
//! One task owns the book. It takes what has arrived (requests, results of calls to sites, deadlines), works out what follows,
//! writes it in one transaction, and only then changes the book, tells others, makes calls and answers. Calls to sites run as tasks
//! of their own with a deadline, and their results come back here, so that a slow site holds up nobody.
//!
//! **When a write fails** nothing has happened: askers get `store-failed`, and the book is read anew before the next turn. What a
//! site had answered is not lost by that, because every call can be made again and every list comes again.
//!
//! **After a restart** the loop begins with what the store has: launches without an outcome are called again with their token,
//! machines being ended are ended again, and a list says the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epu_bus::token::Keyring;
use epu_bus::{Answering, Bus, Call, Calls, Facts};
use epu_core::Fault;
use epu_core::code::Chain;
use epu_core::fact::Kind;
use epu_core::id::{InstanceId, LaunchId, SiteName};
use epu_core::instance::{Cause, Instance};
use epu_core::journal::{Entry, Event as Remembered};
use epu_core::launch::Launch;
use epu_core::life::{Illegal, State};
use epu_core::random::Random;
use epu_core::request::{Answer, Request, Service as Role};
use epu_core::time::{Clock, Timestamp};
use epu_store::{ProvisionCommit, Store};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::book::Book;
use crate::config::{Addresses, Config};
use crate::error::Error;
use crate::iaas::Iaas;
use crate::lifecycle::{self, Deadlines, Effect, Happening};
use crate::metrics::Metrics;
use crate::site::{Done, Driver, Site};
use crate::telling::Telling;

/// Requests and results that one turn takes at the most. Too low: a write for each. Too high: the first waits for the last.
const TURN_MOST: usize = 256;
/// Deadlines that one turn acts on at the most.
const OVERDUE_MOST: usize = 500;
/// Ended records and journal entries that one retirement forgets at the most.
const RETIRE_MOST: u32 = 2_000;
/// Wait before the book is read anew after the store failed.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// The same after a conflict: somebody else wrote, and the store is well.
const CONFLICT_RETRY: Duration = Duration::from_millis(50);

/// Everything a provisioner needs.
pub struct Parts {
    /// The installation's id: the tag that makes machines ours.
    pub installation: String,
    /// How patient to be.
    pub config: Config,
    /// Where instances reach us.
    pub addresses: Addresses,
    /// Where records are kept.
    pub store: Arc<dyn Store>,
    /// How others are reached.
    pub bus: Arc<dyn Bus>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// For jitter.
    pub random: Arc<Random>,
    /// Mints the tokens of agents.
    pub keyring: Arc<Keyring>,
    /// Where to launch, by name.
    pub sites: BTreeMap<SiteName, Arc<dyn Iaas>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Serves until cancelled; instances stay as they are. Returns early only with an error.
///
/// # Errors
/// [`Error::Load`] when the records cannot be read at start; [`Error::Replaced`] when another provisioner serves on the bus.
pub async fn run(parts: Parts, cancel: CancellationToken) -> Result<(), Error> {
    let mut calls = parts.bus.serve(Role::Provisioner);
    let mut facts = parts.bus.listen(&[Kind::Listening]);
    let mut service = Service::new(parts);
    service.load().await.map_err(Error::Load)?;
    info!(
        live = service.book.live_count(),
        sites = service.sites.len(),
        "the provisioner begins"
    );
    loop {
        service.due().await;
        service.flush().await;
        let wait = service.next_wake().since(service.clock.now()).max(Duration::from_millis(1));
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            Some(done) = service.tasks.join_next(), if !service.tasks.is_empty() => service.done(done).await,
            call = calls.recv() => match call {
                Some(call) => service.asked(call).await,
                None => return Err(Error::Replaced),
            },
            fact = facts.next() => service.heard(fact, &mut facts),
            () = tokio::time::sleep(wait) => {}
        }
        service.take_more(&mut calls).await;
    }
}

/// What one turn has worked out and not yet written.
#[derive(Default)]
pub(crate) struct Turn {
    instances: BTreeMap<InstanceId, Arc<Instance>>,
    pub(crate) launches: BTreeMap<LaunchId, Launch>,
    pub(crate) journal: Vec<Entry>,
    after: Vec<After>,
    answers: Vec<(Answering, Result<Answer, Fault>)>,
}

/// What is done once a turn is written.
#[derive(Debug)]
pub(crate) enum After {
    EndMachine(SiteName, String),
    Launch(LaunchId),
    DeadlinePassed(State),
    DrainCutShort,
    LookSoon(SiteName),
}

pub(crate) struct Service {
    pub(crate) installation: String,
    pub(crate) config: Config,
    pub(crate) addresses: Addresses,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<Random>,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sites: BTreeMap<SiteName, Site>,
    pub(crate) book: Book,
    pub(crate) turn: Turn,
    pub(crate) tasks: JoinSet<Done>,
    pub(crate) telling: Telling,
    pub(crate) closed: bool,
    /// The highest leadership term seen.
    pub(crate) epoch: u64,
    /// Set while the book may differ from the store: when to read it anew.
    pub(crate) reload_at: Option<Timestamp>,
    /// Instances for which a second claimant was remembered.
    pub(crate) refused: BTreeSet<InstanceId>,
    retire_at: Timestamp,
}

impl Service {
    fn new(parts: Parts) -> Self {
        let now = parts.clock.now();
        let within = *parts.config.call_within;
        let at_once = usize::from(parts.config.calls_at_once.max(1));
        let sites = parts
            .sites
            .into_iter()
            .map(|(name, iaas)| {
                let driver = Driver {
                    site: name.clone(),
                    iaas,
                    within,
                    clock: parts.clock.clone(),
                    metrics: parts.metrics.clone(),
                };
                (name.clone(), Site::new(name, driver, at_once, now))
            })
            .collect();
        Self {
            installation: parts.installation,
            telling: Telling::new(now + *parts.config.tell_every),
            retire_at: now + *parts.config.retire_every,
            config: parts.config,
            addresses: parts.addresses,
            store: parts.store,
            bus: parts.bus,
            clock: parts.clock,
            random: parts.random,
            keyring: parts.keyring,
            metrics: parts.metrics,
            sites,
            book: Book::default(),
            turn: Turn::default(),
            tasks: JoinSet::new(),
            closed: false,
            epoch: 0,
            reload_at: None,
            refused: BTreeSet::new(),
        }
    }

    /// Reads the book from the store and has everything told.
    async fn load(&mut self) -> Result<(), epu_store::Error> {
        let closed = self.store.closed().await?;
        let launches = self.store.open_launches().await?;
        let instances = self.store.instances(true).await?;
        let now = self.clock.now();
        self.closed = closed;
        self.epoch = launches.iter().map(|launch| launch.epoch).fold(self.epoch, u64::max);
        for instance in instances.iter().filter(|instance| instance.state == State::Terminating) {
            if let (Some(site), Some(machine)) = (self.sites.get_mut(&instance.site), &instance.machine) {
                site.to_end.insert(machine.clone());
            }
        }
        self.book.replace(instances, launches, now);
        self.metrics.instances.reset();
        for instance in self.book.live() {
            self.metrics.instances.with_label_values(&[instance.state.code()]).inc();
        }
        self.reload_at = None;
        self.telling.all_at_once();
        Ok(())
    }

    /// Takes what else has already arrived, so that one write serves it all.
    async fn take_more(&mut self, calls: &mut Calls) {
        for _ in 0..TURN_MOST {
            if let Some(done) = self.tasks.try_join_next() {
                self.done(done).await;
            } else if let Ok(call) = calls.try_recv() {
                self.asked(call).await;
            } else {
                return;
            }
        }
    }

    fn heard(&mut self, fact: Option<epu_core::fact::Fact>, facts: &mut Facts) {
        if fact.is_some() || facts.lost() > 0 {
            self.telling.all_at_once();
        }
    }

    /// What is due by the clock.
    async fn due(&mut self) {
        let now = self.clock.now();
        if let Some(at) = self.reload_at {
            if at > now {
                return;
            }
            if let Err(error) = self.load().await {
                self.metrics.store_failures.inc();
                warn!(error = %Chain(&error), "the records cannot be read; trying again");
                self.reload_at = Some(now + STORE_RETRY);
                return;
            }
        }
        for id in self.book.overdue(now, OVERDUE_MOST) {
            self.happen_quietly(id, Happening::Overdue);
        }
        self.due_launches(now);
        self.due_sites(now);
        self.tell_page(now);
        if self.retire_at <= now {
            self.retire_at = now + *self.config.retire_every;
            self.retire(now).await;
        }
    }

    /// When to look at the clock again.
    fn next_wake(&self) -> Timestamp {
        if let Some(at) = self.reload_at {
            return at;
        }
        let launches = self.next_launch();
        let sites = self.next_site();
        [
            self.book.next_due(),
            launches,
            sites,
            Some(self.telling.next_page),
            Some(self.retire_at),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(self.retire_at)
    }

    async fn retire(&mut self, now: Timestamp) {
        let before = now - *self.config.retention;
        match self.store.retire(before, RETIRE_MOST).await {
            Ok(gone) => self.metrics.retired.inc_by(gone),
            Err(error) => {
                self.metrics.store_failures.inc();
                warn!(error = %Chain(&error), "old records stay for now");
            }
        }
        for site in self.sites.values() {
            let driver = site.driver.clone();
            self.tasks.spawn(async move {
                if let Err(error) = driver.call("tidy", |iaas| async move { iaas.tidy(before).await }).await {
                    warn!(site = %driver.site, %error, "old output stays for now");
                }
                Done::Answered
            });
        }
    }

    async fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Launched { launch, result }) => self.launched(launch, result),
            Ok(Done::Terminated { site, machines, result }) => self.terminated(&site, machines, result),
            Ok(Done::Listed { site, began, result }) => self.listed(&site, began, result).await,
            Ok(Done::Described { site, result }) => self.described(&site, result),
            Ok(Done::Answered) => {}
            Err(error) => error!(%error, "a task of the provisioner ended before its time"),
        }
    }

    async fn asked(&mut self, call: Call) {
        let (caller, request, answering) = call.into_parts();
        if let Err(fault) = self.may_ask(&caller, &request) {
            answering.answer(Err(fault));
            return;
        }
        let answer = match request {
            Request::Launch(request) => self.launch(*request).await,
            Request::Terminate(order) => self.terminate(&caller, order).await,
            Request::Drain(order) => self.drain(&caller, order).await,
            Request::WithdrawDrain(ids) => self.withdraw_drain(&caller, &ids),
            Request::Protect(protect) => self.protect(&caller, &protect),
            Request::Teardown(teardown) => self.tear_down(&caller, teardown).await,
            Request::Open(_) => self.open(&caller).await,
            Request::Sites(_) => self.site_statuses(),
            Request::Context(claim) => self.context(&caller, &claim).await,
            Request::Report(report) => self.report(&caller, report).await,
            Request::Look(ids) => return self.look(&ids, answering).await,
            Request::Logs(logs) => return self.logs(&logs, answering).await,
            other @ (Request::Heartbeat(_)
            | Request::Heartbeats(_)
            | Request::PoolAdd(_)
            | Request::PoolList(_)
            | Request::PoolShow(_)
            | Request::PoolReconfigure(_)
            | Request::PoolPause(_)
            | Request::PoolResume(_)
            | Request::PoolRemove(_)
            | Request::InstanceList(_)
            | Request::InstanceShow(_)
            | Request::Status(_)
            | Request::Events(_)) => Err(Fault::new("bad-request", format!("the provisioner does not answer {}", other.op()))),
        };
        self.turn.answers.push((answering, answer));
    }

    // ---- what a turn works out

    /// The instance as this turn has left it so far.
    pub(crate) fn instance(&self, id: InstanceId) -> Option<&Arc<Instance>> {
        self.turn.instances.get(&id).or_else(|| self.book.get(id))
    }

    pub(crate) fn limits(&self, launch: LaunchId) -> Deadlines {
        let ready_within = self
            .book
            .launch(launch)
            .map_or(Duration::from_secs(600), |known| *known.launch.request.template.ready_within);
        Deadlines {
            launch_window: *self.config.launch_window,
            ready_within,
            failed_grace: *self.config.failed_grace,
            terminate_within: *self.config.terminate_within,
        }
    }

    /// Something happened to an instance. Answers how it is then.
    pub(crate) fn happen(&mut self, id: InstanceId, happening: Happening, who: &str) -> Result<Arc<Instance>, Unhappened> {
        let was = self.instance(id).cloned().ok_or(Unhappened::Unknown)?;
        let now = self.clock.now();
        let (mut next, effects) = lifecycle::step(&was, happening, now, &self.limits(was.launch)).map_err(Unhappened::Illegal)?;
        for effect in effects {
            self.turn.after.push(match effect {
                Effect::EndMachine(machine) => After::EndMachine(was.site.clone(), machine),
                Effect::DeadlinePassed(state) => After::DeadlinePassed(state),
                Effect::DrainCutShort => After::DrainCutShort,
            });
        }
        if next.version == was.version {
            return Ok(was);
        }
        remember(&mut self.turn.journal, &was, &next, now, who);
        // However much happened to it in one turn, it is one version above what is stored.
        next.version = self.book.get(id).map_or(0, |stored| stored.version) + 1;
        if next.state != was.state {
            self.turn.after.push(After::LookSoon(was.site.clone()));
        }
        let next = Arc::new(next);
        self.turn.instances.insert(id, next.clone());
        Ok(next)
    }

    /// Something happened by itself; when it cannot have, that is logged and nothing changes.
    pub(crate) fn happen_quietly(&mut self, id: InstanceId, happening: Happening) {
        if let Err(Unhappened::Illegal(illegal)) = self.happen(id, happening, "provisioner") {
            warn!(instance = %id, %illegal, "left as it is");
        }
    }

    pub(crate) fn note_launch(&mut self, launch: Launch) {
        self.turn.launches.insert(launch.id, launch);
    }

    pub(crate) fn later(&mut self, after: After) {
        self.turn.after.push(after);
    }

    // ---- writing

    /// Writes what this turn worked out, then does what follows from it. False when it could not be written.
    pub(crate) async fn flush(&mut self) -> bool {
        let turn = std::mem::take(&mut self.turn);
        let commit = ProvisionCommit {
            instances: turn.instances.values().cloned().collect(),
            launches: turn.launches.values().cloned().collect(),
            journal: turn.journal,
        };
        let nothing = commit.instances.is_empty() && commit.launches.is_empty() && commit.journal.is_empty();
        let written = if nothing {
            Ok(())
        } else {
            self.store.commit_provision(commit).await
        };
        if let Err(error) = written {
            self.not_written(&error);
            for (answering, answer) in turn.answers {
                answering.answer(answer.and_then(|_| Err(store_failed(&error))));
            }
            return false;
        }
        let now = self.clock.now();
        for launch in turn.launches.into_values() {
            let id = launch.id;
            self.book.put_launch(launch, now);
            self.book.forget_if_over(id);
        }
        for instance in turn.instances.values() {
            self.count(instance);
            self.book.put(instance.clone(), now);
        }
        self.tell(turn.instances.into_values().collect());
        self.tell_all_if_asked();
        for after in turn.after {
            self.follow(after, now);
        }
        for (answering, answer) in turn.answers {
            answering.answer(answer);
        }
        true
    }

    /// What is in memory may differ from the store now: it is read anew before anything else is done.
    pub(crate) fn not_written(&mut self, error: &epu_store::Error) {
        self.metrics.store_failures.inc();
        error!(error = %Chain(error), "the records were not written; reading them anew");
        let now = self.clock.now();
        self.reload_at = Some(match error {
            epu_store::Error::Conflict(_) => now + CONFLICT_RETRY,
            epu_store::Error::Exists(_)
            | epu_store::Error::Closed
            | epu_store::Error::InUse { .. }
            | epu_store::Error::Database { .. }
            | epu_store::Error::Corrupt { .. } => now + STORE_RETRY,
        });
        self.book.retry_launches(now + STORE_RETRY);
        for site in self.sites.values_mut() {
            site.next_look = site.next_look.min(now + STORE_RETRY);
        }
    }

    fn follow(&mut self, after: After, now: Timestamp) {
        match after {
            After::EndMachine(site, machine) => {
                if let Some(site) = self.sites.get_mut(&site) {
                    site.to_end.insert(machine);
                }
            }
            After::Launch(id) => self.call_launch(id),
            After::DeadlinePassed(state) => self.metrics.deadlines.with_label_values(&[state.code()]).inc(),
            After::DrainCutShort => self.metrics.drains_cut_short.inc(),
            After::LookSoon(site) => self.look_soon(&site, now),
        }
    }

    fn count(&self, instance: &Instance) {
        if let Some(was) = self.book.get(instance.id).filter(|was| was.is_live()) {
            self.metrics.instances.with_label_values(&[was.state.code()]).dec();
        }
        if instance.is_live() {
            self.metrics.instances.with_label_values(&[instance.state.code()]).inc();
        }
    }
}

/// Why nothing happened to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unhappened {
    /// It is not known, or ended a while ago.
    Unknown,
    /// It cannot happen to it now.
    Illegal(Illegal),
}

/// As an asker hears it.
pub(crate) fn store_failed(error: &epu_store::Error) -> Fault {
    Fault::new("store-failed", format!("record it: {}", Chain(error)))
}

fn remember(journal: &mut Vec<Entry>, was: &Instance, next: &Instance, now: Timestamp, who: &str) {
    let mut note = |event: Remembered| journal.push(Entry::new(now, who.to_owned(), event).of(&was.pool).on(was.id));
    if next.state != was.state {
        let why: Option<Cause> = next
            .ending
            .as_ref()
            .filter(|_| next.state >= State::Terminating)
            .map(|ending| ending.why);
        note(Remembered::Moved {
            from: was.state,
            to: next.state,
            why,
            fault: next.fault.clone().filter(|_| next.fault != was.fault),
        });
    } else if next.fault != was.fault && next.exit != was.exit {
        // The worker ended and its instance stays for its pool to replace: the fault is remembered with the state unchanged.
        note(Remembered::Moved {
            from: was.state,
            to: next.state,
            why: None,
            fault: next.fault.clone(),
        });
    }
    match (&was.drain, &next.drain) {
        (before, Some(drain)) if before.as_ref() != Some(drain) => note(Remembered::DrainOrdered {
            why: drain.why,
            deadline: drain.deadline,
        }),
        (Some(_), None) => note(Remembered::DrainWithdrawn),
        (None | Some(_), None | Some(_)) => {}
    }
    if was.protected != next.protected {
        note(Remembered::Protected { on: next.protected });
    }
}
