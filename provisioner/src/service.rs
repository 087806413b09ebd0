//! The provisioner's loop.
//!
//! One task owns the book. It takes what has arrived (requests, results of calls to sites, deadlines), works out what follows,
//! writes it in one transaction, and only then changes the book, tells others, makes calls and answers. Calls to sites run as tasks
//! of their own with a deadline, and their results come back here, so that a slow site holds up nobody.
//!
//! **When a write fails** nothing has happened: askers get `store-failed`, and the book is read anew before the next turn. What a
//! site had answered is not lost by that, because every call can be made again and every list comes again.
//!
//! **One acts, the others stand by** (`leadership`): the loop runs once a term, beginning with nothing but the records, and ends
//! with the term. Every write carries the term, so that whoever was held up and missed its end changes nothing.
//!
//! **After a restart**, and when another process takes over, the loop begins with what the store has: launches without an outcome are called again with their token,
//! machines being ended are ended again, a teardown that was cut short goes on, and a list says the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epu_bus::token::Keyring;
use epu_bus::{Bus, Call, Calls, Facts};
use epu_core::Fault;
use epu_core::code::Chain;
use epu_core::fact::Kind;
use epu_core::id::{InstanceId, LaunchId, SiteName};
use epu_core::invariant;
use epu_core::lease::{Domain, Member, Standing};
use epu_core::life::State;
use epu_core::random::Random;
use epu_core::request::{Answer, Request, Service as Role};
use epu_core::time::{Clock, Span, Timestamp};
use epu_store::Store;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::book::Book;
use crate::checking::Checks;
use crate::config::{Addresses, Config};
use crate::doors::Doors;
use crate::error::Error;
use crate::leadership::{Leadership, Right};
use crate::lifecycle::Happening;
use crate::metrics::Metrics;
use crate::site::{Done, Site};
use crate::sites::{Desk, Formers, Offers};
use crate::telling::Telling;
use crate::turn::{Reply, STORE_RETRY, Turn};

/// Requests and results that one turn takes at the most. Too low: a write for each. Too high: the first waits for the last.
const TURN_MOST: usize = 256;
/// Deadlines that one turn acts on at the most.
const OVERDUE_MOST: usize = 500;
/// Ended records and journal entries that one retirement forgets at the most.
const RETIRE_MOST: u32 = 2_000;
/// Wait before the next when there may be more. Too high: a busy installation writes more than is forgotten.
const RETIRE_AGAIN: Duration = Duration::from_secs(1);

/// Everything a provisioner needs.
pub struct Parts {
    /// This process among those of the installation; its url is where agents reach it.
    pub member: Member,
    /// The installation's id: the tag that makes machines ours.
    pub installation: String,
    /// How patient to be.
    pub config: Config,
    /// Where instances reach us while no live member says where it is reached.
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
    /// Where to launch, as it is now.
    pub sites: watch::Receiver<Arc<Offers>>,
    /// Reads what operators write as sites.
    pub desk: Arc<dyn Desk>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Stands by until this process leads, then serves for as long as it does, and so on until cancelled; instances stay as they are.
/// Returns early only with an error.
///
/// # Errors
/// [`Error::Load`] when the records cannot be understood; [`Error::Replaced`] when another provisioner serves on the bus while this
/// one leads.
pub async fn run(parts: Parts, cancel: CancellationToken) -> Result<(), Error> {
    let leadership = Leadership::new(parts.member.clone(), parts.store.clone(), parts.clock.clone());
    let formers = Formers::default();
    let ended = tokio::select! {
        biased; // whether this process leads is found out before it acts
        never = leadership.renew() => match never {},
        ended = lead(&parts, &leadership, &formers, &cancel) => ended,
    };
    leadership.leave().await;
    ended
}

/// Why this process acts no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// It was told to stop.
    Stopped,
    /// Its right ran out or went to another.
    Over,
    /// The store refused a write: another leads, whatever is known here.
    Deposed,
}

async fn lead(parts: &Parts, leadership: &Leadership, formers: &Formers, cancel: &CancellationToken) -> Result<(), Error> {
    loop {
        let right = tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            right = leadership.gained() => right,
        };
        let epoch = right.term.epoch;
        info!(epoch, "this provisioner leads");
        parts.metrics.leader.set(1);
        parts.metrics.leadership_changes.inc();
        let ended = tokio::select! {
            biased;
            () = leadership.over(&right) => Ok(Ended::Over),
            ended = act(parts, leadership, formers, &right, cancel) => ended,
        };
        // Everything that knew the term is gone now; a call that is just being made sees that it is over.
        right.end();
        parts.metrics.leader.set(0);
        parts.metrics.leadership_changes.inc();
        parts.metrics.instances.reset();
        match ended? {
            Ended::Stopped => return Ok(()),
            Ended::Over => warn!(epoch, "this provisioner leads no longer and stands by"),
            Ended::Deposed => {
                warn!(epoch, "another provisioner leads; this one stands by");
                parts.metrics.deposed.inc();
                leadership.deposed(&right);
            }
        }
    }
}

/// One term, from its first look at the records to its end. Dropped, it does nothing more: calls to sites go with it, and whoever
/// waits for an answer hears that nobody is there and asks again.
async fn act(parts: &Parts, leadership: &Leadership, formers: &Formers, right: &Right, cancel: &CancellationToken) -> Result<Ended, Error> {
    let mut facts = parts.bus.listen(&[Kind::Listening]);
    let mut news = leadership.news();
    let mut offers = parts.sites.clone();
    let mut service = Service::new(parts, right.clone(), formers.clone());
    service.stood(leadership.standing());
    while let Err(error) = service.load().await {
        if matches!(error, epu_store::Error::Corrupt { .. }) {
            return Err(Error::Load(error));
        }
        service.metrics.store_failures.inc();
        warn!(error = %Chain(&error), "the records cannot be read; trying again");
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(Ended::Stopped),
            () = tokio::time::sleep(STORE_RETRY) => {}
        }
    }
    service.offers = offers.borrow_and_update().clone();
    service.recall_sites();
    service.fit_sites();
    let mut calls = parts.bus.serve(Role::Provisioner);
    info!(
        live = service.book.live_count(),
        sites = service.sites.len(),
        "the provisioner begins"
    );
    let stopped = cancel.cancelled();
    tokio::pin!(stopped);
    loop {
        if let Some(ended) = service.ended() {
            return Ok(ended);
        }
        service.due().await;
        service.flush().await;
        if let Some(ended) = service.ended() {
            return Ok(ended);
        }
        let now = service.clock.now();
        let wait = service.next_wake().since(now).max(Duration::from_millis(1));
        service.checks.waits(now + wait);
        tokio::select! {
            biased;
            () = &mut stopped => return Ok(Ended::Stopped),
            Ok(()) = news.changed() => service.stood(leadership.standing()),
            Ok(()) = offers.changed() => service.take_sites(offers.borrow_and_update().clone()),
            Some(done) = service.tasks.join_next(), if !service.tasks.is_empty() => service.done(done).await,
            call = calls.recv() => match call {
                Some(call) => service.asked(call).await,
                None if !right.stands() => return Ok(Ended::Over),
                None => return Err(Error::Replaced),
            },
            fact = facts.next() => service.heard(fact, &mut facts),
            () = tokio::time::sleep(wait) => {}
        }
        service.take_more(&mut calls).await;
    }
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
    /// What sites are to be.
    pub(crate) offers: Arc<Offers>,
    pub(crate) formers: Formers,
    pub(crate) desk: Arc<dyn Desk>,
    pub(crate) book: Book,
    pub(crate) turn: Turn,
    pub(crate) tasks: JoinSet<Done>,
    pub(crate) telling: Telling,
    pub(crate) closed: bool,
    /// Whether the store may have it otherwise: it was asked to write that, and did not say whether it has.
    pub(crate) closed_unsure: bool,
    /// How long the last teardown was to take, if its asker said so: for what it did not come to.
    pub(crate) asked_within: Option<Span>,
    /// Under which term, and whether it still stands.
    pub(crate) right: Right,
    /// Set once the store said that the term is over.
    pub(crate) deposed: bool,
    /// The newest leadership term known of each shard of the pools.
    pub(crate) epochs: BTreeMap<Domain, u64>,
    /// Somebody knows more of leadership terms than this: the store is asked before anything else.
    pub(crate) ask_standing: bool,
    /// Who was there and who led what when that last changed.
    stood: Arc<Standing>,
    /// Where agents reach the installation.
    pub(crate) doors: Doors,
    /// Set while the book may differ from the store: when to read it anew.
    pub(crate) reload_at: Option<Timestamp>,
    /// Instances for which a second claimant was remembered.
    pub(crate) refused: BTreeSet<InstanceId>,
    /// Launches that were refused for good, and why.
    pub(crate) refused_launches: BTreeMap<LaunchId, Fault>,
    /// Launches of which it is to be found out whether they are worth having.
    pub(crate) to_judge: BTreeSet<LaunchId>,
    retire_at: Timestamp,
    /// Changes that were worked out, whether or not they are written yet.
    pub(crate) changes: u64,
    pub(crate) checks: Checks,
}

impl Service {
    fn new(parts: &Parts, right: Right, formers: Formers) -> Self {
        let now = parts.clock.now();
        Self {
            installation: parts.installation.clone(),
            telling: Telling::new(now + *parts.config.tell_every),
            retire_at: now + *parts.config.retire_every,
            config: parts.config.clone(),
            stood: Arc::default(),
            doors: Doors::of(&parts.addresses, &Standing::default()),
            addresses: parts.addresses.clone(),
            store: parts.store.clone(),
            bus: parts.bus.clone(),
            clock: parts.clock.clone(),
            random: parts.random.clone(),
            keyring: parts.keyring.clone(),
            metrics: parts.metrics.clone(),
            right,
            deposed: false,
            epochs: BTreeMap::new(),
            ask_standing: false,
            sites: BTreeMap::new(),
            offers: Arc::default(),
            formers,
            desk: parts.desk.clone(),
            book: Book::default(),
            turn: Turn::default(),
            tasks: JoinSet::new(),
            closed: false,
            closed_unsure: false,
            asked_within: None,
            reload_at: None,
            refused: BTreeSet::new(),
            refused_launches: BTreeMap::new(),
            to_judge: BTreeSet::new(),
            changes: 0,
            checks: Checks::new(now),
        }
    }

    /// Whether this process is to act no longer.
    fn ended(&self) -> Option<Ended> {
        if self.deposed {
            return Some(Ended::Deposed);
        }
        (!self.right.stands()).then_some(Ended::Over)
    }

    /// Takes in who is there and who leads what.
    fn stood(&mut self, standing: Arc<Standing>) {
        for lease in standing.leases.iter() {
            if let Some(domain) = Domain::named(&lease.name) {
                self.know_epoch(domain, lease.epoch);
            }
        }
        self.doors = Doors::of(&self.addresses, &standing);
        self.stood = standing;
    }

    fn know_epoch(&mut self, domain: Domain, epoch: u64) {
        let known = self.epochs.entry(domain).or_default();
        *known = epoch.max(*known);
    }

    /// Reads the book from the store and has everything told.
    async fn load(&mut self) -> Result<(), epu_store::Error> {
        let closed = self.store.closed().await?;
        let launches = self.store.open_launches().await?;
        let instances = self.store.instances(true).await?;
        let now = self.clock.now();
        self.closed = closed;
        self.closed_unsure = false;
        for launch in &launches {
            self.know_epoch(Domain::of(&launch.request.pool), launch.epoch);
        }
        for instance in instances.iter().filter(|instance| instance.state == State::Terminating) {
            if let (Some(site), Some(machine)) = (self.sites.get_mut(&instance.site), &instance.machine) {
                site.to_end.insert(machine.clone());
            }
        }
        self.book.replace(instances, launches, now);
        self.judge_all(now);
        self.metrics.instances.reset();
        for instance in self.book.live() {
            self.metrics.instances.with_label_values(&[instance.state.code()]).inc();
        }
        self.reload_at = None;
        self.begins_anew(now);
        self.telling.all_at_once();
        if self.closed {
            self.drain_the_rest();
        }
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
        if std::mem::take(&mut self.ask_standing) {
            match self.store.standing().await {
                Ok(standing) => self.stood(Arc::new(standing)),
                // The next order asks again, and the next renewal says it anyway.
                Err(error) => warn!(error = %Chain(&error), "who leads what cannot be read"),
            }
        }
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
            if self.has_no_site(id) {
                self.book.put_off(id, now + *self.config.terminate_within);
            } else {
                self.happen_quietly(id, Happening::Overdue);
            }
        }
        self.check_records(now);
        self.judge().await;
        if self.sites_leave() {
            self.fit_sites();
        }
        self.withdraw_unwanted(now);
        self.due_launches(now);
        self.due_sites(now);
        self.tell_page(now);
        if self.retire_at <= now {
            self.retire_at = now + *self.config.retire_every;
            self.retire(now).await;
        }
    }

    /// Whether it waits for a word of a site that the config has no longer: time brings it nowhere, and writing that down again and
    /// again helps nobody. `sites` shows it.
    pub(crate) fn has_no_site(&self, id: InstanceId) -> bool {
        self.instance(id).is_some_and(|instance| {
            !self.sites.contains_key(&instance.site)
                && match instance.state {
                    State::Requesting | State::Requested | State::ErrorRetrying | State::Terminating => true,
                    State::Pending
                    | State::Started
                    | State::Running
                    | State::RunningFailed
                    | State::Terminated
                    | State::Failed
                    | State::Rejected => false,
                }
        })
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
            Ok(gone) => {
                self.metrics.retired.inc_by(gone);
                if gone >= u64::from(RETIRE_MOST) {
                    self.retire_soon(now);
                }
            }
            Err(error) => {
                self.metrics.store_failures.inc();
                warn!(error = %Chain(&error), "old records stay for now");
            }
        }
        for site in self.sites.values() {
            let driver = site.driver.clone();
            self.tasks.spawn(async move {
                let tidied = driver.call("tidy", |iaas| async move { iaas.tidy(before).await }).await;
                Done::Tidied(tidied.unwrap_or_else(|error| {
                    warn!(site = %driver.site, %error, "old output stays for now");
                    0
                }))
            });
        }
    }

    /// There may be more to forget than one retirement takes.
    fn retire_soon(&mut self, now: Timestamp) {
        self.retire_at = self.retire_at.min(now + RETIRE_AGAIN);
    }

    async fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Launched { launch, result }) => self.launched(launch, result),
            Ok(Done::Terminated { site, machines, result }) => self.terminated(&site, machines, result),
            Ok(Done::Listed {
                site,
                began,
                vouched,
                result,
            }) => self.listed(&site, began, vouched, result).await,
            Ok(Done::Vouched { site, gone, result }) => self.vouched(&site, gone, result),
            Ok(Done::Described { site, result }) => self.described(&site, result),
            Ok(Done::Withdrawn(launch)) => self.withdrawn(launch),
            Ok(Done::Unrecorded(launch)) => self.unrecorded(launch),
            Ok(Done::Tidied(0)) => {}
            Ok(Done::Answered(failed)) => {
                for (site, error) in failed {
                    self.bar(&site, &error, 1);
                }
            }
            Ok(Done::Tidied(_)) => self.retire_soon(self.clock.now()),
            Err(error) => error!(%error, "a task of the provisioner ended before its time"),
        }
    }

    async fn asked(&mut self, call: Call) {
        let (caller, request, answering) = call.into_parts();
        if let Err(fault) = self.may_ask(&caller, &request) {
            answering.answer(Err(fault));
            return;
        }
        let (before, op) = (self.changes, request.op());
        // One whose context cannot be put together has failed by that.
        let may_change = matches!(request, Request::Context(_));
        let answer = match request {
            Request::Launch(request) => self.launch(&caller, *request).await,
            Request::Terminate(order) => self.terminate(&caller, order).await,
            Request::Drain(order) => self.drain(&caller, order).await,
            Request::WithdrawDrain(ids) => self.withdraw_drain(&caller, &ids),
            Request::Protect(protect) => self.protect(&caller, &protect),
            Request::Teardown(teardown) => self.tear_down(&caller, teardown).await,
            Request::Open(_) => self.open(&caller).await,
            Request::Sites(_) => Answer::of(&self.site_statuses()),
            Request::Sweep(filter) => self.sweep_view(&filter).await,
            Request::SiteCheck(check) => return self.site_check(check, answering),
            Request::SiteAdd(file) => return self.site_add(&caller, &file, answering).await,
            Request::SiteRemove(remove) => return self.site_remove(&caller, &remove, answering).await,
            Request::TemplateAdd(file) => return self.template_add(&caller, &file, answering).await,
            Request::TemplateRemove(which) => return self.template_remove(&caller, &which, answering).await,
            Request::Templates(_) => self.templates().await,
            Request::Records(ids) => self.records(&ids).await,
            Request::Context(claim) => self.context(&caller, &claim).await,
            Request::Report(report) => self.report(&caller, report).await,
            Request::Look(ids) => return self.look(&caller, &ids, answering).await,
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
            | Request::PoolRefresh(_)
            | Request::PlacementList(_)
            | Request::PlacementReset(_)
            | Request::InstanceList(_)
            | Request::InstanceShow(_)
            | Request::Status(_)
            | Request::Events(_)) => Err(Fault::new("bad-request", format!("the provisioner does not answer {}", other.op()))),
        };
        if answer.as_ref().is_err_and(Fault::is_refusal) && !may_change {
            self.violated(invariant::unchanged(op, &before, &self.changes));
        }
        let under = std::mem::take(&mut self.turn.asking);
        self.turn.answers.push(Reply { answering, answer, under });
    }
}
