//! The controller's loop: take in facts, look at the pools that changed, record, act.
//!
//! A fact marks its pool, and marked pools are looked at as soon as the facts that have arrived are taken in, so that a queue that
//! crosses its high water is answered at once and not at the next tick. Time marks pools too: each says when it wants to be looked
//! at though nothing happens. A pool that nothing marks costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epu_bus::{Bus, Calls, Facts};
use epu_core::Fault;
use epu_core::code::Chain;
use epu_core::fact::{Covers, Fact, Kind, Listener};
use epu_core::health::Health;
use epu_core::id::{InstanceId, PoolName};
use epu_core::instance::{Instance, Work};
use epu_core::invariant::{self, Violation};
use epu_core::journal::{Entry, Event};
use epu_core::leading::Leading;
use epu_core::lease::Member;
use epu_core::pool::Pool;
use epu_core::random::Random;
use epu_core::request::{Answer, Service};
use epu_core::time::{Clock, Timestamp};
use epu_decision_engines::Registry;
use epu_store::Store;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::config::{Config, Sites};
use crate::error::Error;
use crate::leadership::Leads;
use crate::listening::Ears;
use crate::loading::Loaded;
use crate::managing::Managed;
use crate::metrics::{Counted, Metrics};
use crate::refreshing::Refresh;
use crate::routing::{As, Routes};
use crate::sending::Under;
use crate::spec::{Known, Resolved};
use crate::steering::is_by_plan;
use crate::view::Changed;

/// Facts taken in before pools are looked at: all that can be waiting, or a reading would be taken for newer than it is.
const FACTS_AT_ONCE: usize = 65_536;
/// What tasks brought back that is taken in before pools are looked at.
const BACKS_AT_ONCE: usize = 1_024;
/// How long pools are looked at, and memory is written, before something else has its turn. Too high: after many pools were taken over
/// a slow store keeps leases from being renewed. Too low: the rest of each turn is done too often.
pub(crate) const BITE: Duration = Duration::from_millis(300);
/// Journal entries that may wait to be written together.
pub(crate) const JOURNAL_MOST: usize = 1_000;
/// The shortest wait before leases are looked at again, so that a clock that stands still is no loop.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// The longest; timers have a limit.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// Everything the controller is given.
pub struct Parts {
    /// As whom it shares the pools with other controllers; another name at each start.
    pub member: Member,
    /// How it talks.
    pub bus: Arc<dyn Bus>,
    /// What survives it.
    pub store: Arc<dyn Store>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where ids come from.
    pub random: Arc<Random>,
    /// The engines there are.
    pub engines: Arc<Registry>,
    /// Its settings.
    pub config: Config,
    /// Its metrics.
    pub metrics: Metrics,
    /// The config file's pools, templates and sites: as of start, and whenever it is reloaded.
    pub file: watch::Receiver<Arc<FileConfig>>,
}

/// What a config file says to the controller.
#[derive(Debug, Clone)]
pub struct FileConfig {
    /// Which file; empty when there is none.
    pub path: String,
    /// Its pools.
    pub pools: Vec<Resolved>,
    /// What pools may refer to, sites that are not in the file among it.
    pub known: Known,
    /// What is known of those sites.
    pub sites: Sites,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Parts").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What a task brings back.
pub(crate) enum Back {
    /// A command was answered.
    Sent(PoolName, Under, Uuid, Result<Answer, Fault>),
    /// The wait before sending again is over.
    Waited(PoolName, u64),
    /// The site was asked about these.
    Looked(PoolName, Under, Vec<InstanceId>, Result<Answer, Fault>),
    /// What was gained is loaded.
    Loaded(Box<Result<Loaded, Error>>),
    /// Every pool in the store.
    Pools(Result<Vec<Pool>, String>),
    /// Of every pool in the store its revision.
    Revisions(Result<BTreeMap<PoolName, u64>, String>),
    /// A request was answered by others.
    Routed,
    /// Nothing follows.
    Done,
}

pub(crate) struct Controller {
    pub(crate) parts: Parts,
    pub(crate) pools: BTreeMap<PoolName, Managed>,
    pub(crate) in_file: BTreeSet<PoolName>,
    pub(crate) closed: bool,
    pub(crate) since: Timestamp,
    pub(crate) store_fault: Option<String>,
    pub(crate) to_send: BTreeSet<PoolName>,
    /// Pools that have, or had at the last tick, commands that are not accepted yet.
    pub(crate) commanding: BTreeSet<PoolName>,
    /// Pools of which something is not written yet, some that were written since among them.
    pub(crate) unwritten: BTreeSet<PoolName>,
    /// Pools that wait for the next word of an aggregator, whatever it is about; see [`crate::view::View::waits`].
    pub(crate) waiting: BTreeSet<PoolName>,
    /// Pools for which not all was heard.
    pub(crate) unheard: BTreeSet<PoolName>,
    pub(crate) accepted: Vec<Uuid>,
    pub(crate) tasks: JoinSet<Back>,
    pub(crate) file_failed: bool,
    pub(crate) leads: Leads,
    pub(crate) routes: Routes,
    pub(crate) refresh: Refresh,
    pub(crate) ears: Ears,
    pub(crate) dirty: BTreeSet<PoolName>,
    /// Marked before those, and not looked at yet because others took long.
    rest: BTreeSet<PoolName>,
    /// To be written to the journal before pools are looked at.
    pub(crate) noted_entries: Vec<Entry>,
    pub(crate) wakes: BTreeSet<(Timestamp, PoolName)>,
    /// When the next page of pools is told, and after which pool it begins.
    pub(crate) tell_at: Timestamp,
    pub(crate) told_up_to: Option<PoolName>,
    passed_at: Timestamp,
}

/// Runs until cancelled, then returns; workers and everything else are left as they are. Others take over its pools at once.
///
/// # Errors
/// When its records cannot be loaded at start.
pub async fn run(parts: Parts, cancel: CancellationToken) -> Result<(), Error> {
    let doors = Doors {
        any: parts.bus.serve(Service::Controller),
        leader: parts.bus.serve_member(&parts.member.name),
    };
    // Listening begins before loading, so that nothing that happens meanwhile is missed.
    let facts = parts.bus.listen(&[Kind::Instances, Kind::Snapshot, Kind::Listening, Kind::Pools]);
    let mut controller = Controller::new(parts).await?;
    controller.apply_file().await;
    let ended = controller.turn(doors, facts, &cancel).await;
    controller.leave().await;
    ended
}

/// Where requests arrive.
struct Doors {
    /// Those that any controller may answer.
    any: Calls,
    /// Those for this one alone.
    leader: Calls,
}

impl Controller {
    /// One that leads nothing yet.
    async fn new(parts: Parts) -> Result<Self, Error> {
        let now = parts.clock.now();
        let tell_at = now + *parts.config.tell_every;
        let closed = parts.store.closed().await.map_err(|source| Error::Load {
            what: "whether the installation is closed",
            source,
        })?;
        Ok(Self {
            leads: Leads::new(Leading::new(parts.member.clone(), now), now),
            routes: Routes::default(),
            refresh: Refresh::new(now),
            parts,
            pools: BTreeMap::new(),
            in_file: BTreeSet::new(),
            closed,
            since: now,
            store_fault: None,
            to_send: BTreeSet::new(),
            commanding: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            waiting: BTreeSet::new(),
            unheard: BTreeSet::new(),
            accepted: Vec::new(),
            tasks: JoinSet::new(),
            file_failed: false,
            ears: Ears::default(),
            dirty: BTreeSet::new(),
            rest: BTreeSet::new(),
            noted_entries: Vec::new(),
            wakes: BTreeSet::new(),
            tell_at,
            told_up_to: None,
            passed_at: now,
        })
    }

    async fn turn(&mut self, mut doors: Doors, mut facts: Facts, cancel: &CancellationToken) -> Result<(), Error> {
        let mut tick = tokio::time::interval(*self.parts.config.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let stopped = cancel.cancelled();
        tokio::pin!(stopped);
        loop {
            // First of all: what is no longer led is not to be acted on, whatever else there is to do.
            self.lead().await;
            let now = self.parts.clock.now();
            let lead_in = self.leads.leading.next_due().since(now).clamp(SHORTEST_WAIT, LONGEST_WAIT);
            let answers = self.leads.is_settled(now) && self.routes.has_room();
            tokio::select! {
                biased;
                () = &mut stopped => return Ok(()),
                Some(renewed) = self.leads.renewals.join_next(), if !self.leads.renewals.is_empty() => self.take_renewed(renewed),
                Some(back) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    self.take_joined(back).await?;
                    for _ in 0..BACKS_AT_ONCE {
                        let Some(back) = self.tasks.try_join_next() else { break };
                        self.take_joined(back).await?;
                    }
                }
                // After what tasks bring back, of which there is only so much: a flood of calls must not keep leases from being renewed.
                Some(call) = doors.any.recv(), if answers => self.take_call(call, As::Any).await,
                Some(call) = doors.leader.recv(), if answers => self.take_call(call, As::Leader).await,
                Some(fact) = facts.next() => {
                    self.take_fact(fact);
                    for _ in 0..FACTS_AT_ONCE {
                        let Some(fact) = facts.next_now() else { break };
                        self.lead().await;
                        self.write_noted(JOURNAL_MOST).await;
                        self.take_fact(fact);
                    }
                    if facts.lost() > 0 {
                        warn!("facts were lost; asking for everything again");
                        self.hear_anew(self.parts.clock.now());
                    }
                }
                Ok(()) = self.parts.file.changed() => self.apply_file().await,
                _ = tick.tick() => {}
                // What is left of the last look; others have their turn before it.
                () = tokio::task::yield_now(), if !self.rest.is_empty() => {}
                () = tokio::time::sleep(lead_in) => continue,
            }
            // Also when there is always something else to do.
            if self.parts.clock.now().since(self.passed_at) >= *self.parts.config.tick {
                self.pass_time().await;
            }
            self.forget_accepted().await;
            self.write_noted(1).await;
            self.look().await;
        }
    }

    /// Time passes: whatever is due is looked at.
    async fn pass_time(&mut self) {
        let now = self.parts.clock.now();
        self.passed_at = now;
        self.load_gained();
        self.drop_parked(now);
        self.compare(now);
        if self.file_failed {
            self.apply_file().await;
        }
        while let Some((at, name)) = self.wakes.first().cloned() {
            if at > now {
                break;
            }
            self.wakes.remove(&(at, name.clone()));
            if let Some(managed) = self.pools.get_mut(&name) {
                managed.wake = None;
                let changed = managed.view.look(now);
                self.take_changed(&name, changed, now);
                self.dirty.insert(name);
            }
        }
        let pools = &self.pools;
        self.commanding
            .retain(|name| pools.get(name).is_some_and(|managed| !managed.outbox.is_empty()));
        let waiting: usize = self
            .commanding
            .iter()
            .filter_map(|name| pools.get(name))
            .map(|managed| managed.outbox.len())
            .sum();
        self.parts.metrics.outbox.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.tell_some(now);
        self.remember(now).await;
    }

    async fn take_joined(&mut self, back: Result<Back, JoinError>) -> Result<(), Error> {
        match back {
            Ok(back) => self.take_back(back).await,
            Err(error) => {
                warn!(%error, "a task of the controller was lost");
                // Whichever it was: what was gained is loaded.
                self.lost_a_task();
                Ok(())
            }
        }
    }

    fn take_fact(&mut self, fact: Fact) {
        let now = self.parts.clock.now();
        match fact {
            Fact::Instances(told) => {
                if self.closed != told.closed {
                    self.closed = told.closed;
                    self.dirty.extend(self.pools.keys().cloned());
                }
                let told_of: BTreeSet<&PoolName> = told.changed.iter().map(|instance| &instance.pool).collect();
                if told.complete {
                    self.pools.values_mut().for_each(|managed| managed.view.told(now));
                } else {
                    for name in told_of {
                        if let Some(managed) = self.pools.get_mut(name) {
                            managed.view.told(now);
                        }
                    }
                }
                for instance in &told.changed {
                    let changed = self.take_instance(instance.clone(), now);
                    self.take_changed(&instance.pool, changed, now);
                }
                if let Some(covers) = &told.covers {
                    self.ask_about_untold(covers, &told.changed);
                }
            }
            Fact::Snapshot(snapshot) => self.take_snapshot(&snapshot, now),
            Fact::Listening(Listener::Aggregator) => self.tell_pools(),
            Fact::Pools(told) => self.hear_of_pools(&told),
            Fact::Listening(Listener::Controller) => {}
        }
    }

    /// An end of which no word came here is told again to whoever asks: without that its instance counts as live for ever.
    fn ask_about_untold(&mut self, covers: &Covers, told: &[Arc<Instance>]) {
        let mut named: Vec<InstanceId> = told.iter().map(|instance| instance.id).collect();
        named.sort_unstable();
        let untold = |(name, managed): (&PoolName, &Managed)| {
            let ids = managed.view.untold(covers, &named);
            (!ids.is_empty()).then(|| (name.clone(), ids))
        };
        let asked: Vec<_> = self.pools.iter().filter_map(untold).collect();
        for (name, ids) in asked {
            self.ask_site(&name, ids);
        }
    }

    fn take_instance(&mut self, instance: Arc<Instance>, now: Timestamp) -> Changed {
        let Some(managed) = self.pools.get_mut(&instance.pool) else {
            return Changed::default();
        };
        if let Some(before) = managed.view.member(instance.id) {
            let violation = invariant::moved_legally(&before.instance, &instance);
            let ended = instance.ending.is_some() && before.instance.ending.is_none();
            let busy = ended.then(|| invariant::no_busy_ended(&instance)).flatten();
            if let Some(ending) = instance
                .ending
                .as_ref()
                .filter(|e| ended && e.work != Work::Idle && instance.ready_at.is_some())
            {
                let because = serde_json::to_value(ending.why)
                    .ok()
                    .and_then(|v| v.as_str().map(str::to_owned))
                    .unwrap_or_default();
                managed.metrics.count(Counted::BusyEnded, &because, 1);
            }
            for violation in [violation, busy].into_iter().flatten() {
                self.violated(&violation);
            }
            if ended && !instance.ending.as_ref().is_some_and(|ending| is_by_plan(ending.why)) {
                self.disturb(&instance.pool, now);
            }
        }
        let Some(managed) = self.pools.get_mut(&instance.pool) else {
            return Changed::default();
        };
        managed.view.instance(instance, now)
    }

    pub(crate) fn take_changed(&mut self, name: &PoolName, changed: Changed, now: Timestamp) {
        let Some(managed) = self.pools.get(name) else { return };
        if managed.view.waits() && !self.waiting.contains(name) {
            self.waiting.insert(name.clone());
        }
        // Whoever leads instead writes it down.
        if self.term_of(name).is_none() {
            return;
        }
        if changed.decision {
            self.dirty.insert(name.clone());
        }
        let failed = changed.outcomes.iter().any(|outcome| outcome.fault.is_some());
        if failed || changed.health.iter().any(|(_, _, to, _)| !to.is_good()) {
            self.disturb(name, now);
        }
        let mut journal = Vec::new();
        for (id, from, to, why) in changed.health {
            if to != Health::Ok || from != Health::Unknown {
                info!(pool = %name, instance = %id, %from, %to, why, "health changed");
                journal.push(
                    Entry::new(now, "controller", Event::HealthChanged { from, to, why })
                        .of(name)
                        .on(id),
                );
            }
        }
        journal.append(&mut self.take_outcomes(name, changed.outcomes, now));
        if !changed.ask_site.is_empty() {
            self.ask_site(name, changed.ask_site);
        }
        self.noted_entries.append(&mut journal);
    }

    /// Writes what is to be in the journal, if there are so many entries.
    pub(crate) async fn write_noted(&mut self, least: usize) {
        if self.noted_entries.len() >= least {
            let journal = std::mem::take(&mut self.noted_entries);
            self.write_journal(journal).await;
        }
    }

    pub(crate) async fn write_journal(&mut self, journal: Vec<Entry>) {
        if journal.is_empty() {
            return;
        }
        let result = self.parts.store.append(journal).await;
        self.noted(result.map_err(|e| Chain(&e).to_string()), "write to the journal");
    }

    /// Keeps in mind whether the store works, and says so when that changes.
    pub(crate) fn noted(&mut self, result: Result<(), String>, doing: &str) -> bool {
        match result {
            Ok(()) => {
                if self.store_fault.take().is_some() {
                    info!("the store works again");
                }
                true
            }
            Err(error) => {
                let text = format!("{doing}: {error}");
                if self.store_fault.as_ref() != Some(&text) {
                    warn!(error, doing, "the store failed; it is tried again, nothing is done meanwhile");
                }
                self.store_fault = Some(text);
                false
            }
        }
    }

    /// Looks at pools that changed, for a while; those that are left come first at the next turn.
    async fn look(&mut self) {
        let is_fresh = self.rest.is_empty();
        if is_fresh {
            self.rest = std::mem::take(&mut self.dirty);
        }
        if !self.rest.is_empty() {
            let timer = self.parts.metrics.look_seconds.start_timer();
            let began = self.parts.clock.now();
            while let Some(name) = self.rest.pop_first() {
                self.dirty.remove(&name);
                self.look_at(&name).await;
                if self.parts.clock.now().since(began) >= BITE {
                    break;
                }
            }
            drop(timer);
        }
        if !is_fresh && self.rest.is_empty() {
            self.rest = std::mem::take(&mut self.dirty);
        }
        self.send();
    }

    pub(crate) fn wake(&mut self, name: &PoolName, at: Timestamp) {
        let Some(managed) = self.pools.get_mut(name) else { return };
        if let Some(before) = managed.wake {
            self.wakes.remove(&(before, name.clone()));
        }
        managed.wake = Some(at);
        self.wakes.insert((at, name.clone()));
    }

    /// Marks a pool to be looked at.
    pub(crate) fn mark(&mut self, name: &PoolName) {
        self.dirty.insert(name.clone());
    }

    pub(crate) fn violated(&self, violation: &Violation) {
        tracing::error!(
            invariant = violation.invariant.id(),
            what = violation.what,
            "something that must always be true is not"
        );
        self.parts.metrics.violations.count(violation);
    }
}
