//! What controllers and operators ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epu_bus::Answering;
use epu_core::Fault;
use epu_core::id::{InstanceId, PoolName, SiteName};
use epu_core::instance::{Cause, Drain, Instance, Work};
use epu_core::journal::{Entry, Event as Remembered};
use epu_core::lease::{Domain, Term};
use epu_core::life::State;
use epu_core::request::{Answer, Caller, DrainOrder, Ids, Logs, Protect, SiteStatus, SiteWord, Teardown, Terminate};
use serde_json::Value;

use crate::book::{Launching, OnSite};
use crate::iaas::MachineState;
use crate::lifecycle::{Happening, step};
use crate::service::Service;
use crate::site::Done;
use crate::sites::Offer;
use crate::turn::store_failed;

/// Most lines of output in one answer.
const LINES_MAX: u32 = 10_000;

/// Questions that may wait for sites.
const QUESTIONS_MAX: usize = 10_000;

/// Most ids of one order or question that are looked up in the store. Live instances and those that ended a moment ago are in memory.
const READ_MOST: usize = 1_000;

const NOTHING: Answer = Answer::Json(Value::Null);

impl Service {
    /// Refuses what a service says under a leadership term that is over: each of these pools belongs to a shard, and a newer term of
    /// its shard is known. Others than services have no terms, and nobody leads what has no pool.
    ///
    /// Terms are known from the store alone: one that is newer than any of them is asked about and refused for now, or one order with
    /// a number too high would lock out whoever leads. Answers the terms that must still stand when what follows is written.
    pub(crate) fn check_epoch<'a>(
        &mut self,
        caller: &Caller,
        pools: impl IntoIterator<Item = &'a PoolName>,
        epoch: u64,
    ) -> Result<Vec<Term>, Fault> {
        if !matches!(caller, Caller::Service(_)) {
            return Ok(Vec::new());
        }
        let domains: BTreeSet<Domain> = pools
            .into_iter()
            .filter(|pool| epoch != 0 || !pool.is_unpooled())
            .map(Domain::of)
            .collect();
        for domain in &domains {
            let newest = self.epochs.get(domain).copied().unwrap_or_default();
            if epoch < newest {
                self.metrics.stale_epochs.inc();
                return Err(Fault::new(
                    "stale-epoch",
                    format!("epoch {epoch} of {domain} is over: it is {newest} now"),
                ));
            }
            if epoch > newest {
                self.ask_standing = true;
                return Err(Fault::new(
                    "no-contact",
                    format!("epoch {epoch} of {domain} is not known here yet, only {newest}; repeat"),
                ));
            }
        }
        let terms = domains.into_iter().filter(|_| epoch != 0);
        Ok(terms.map(|domain| Term { domain, epoch }).collect())
    }

    /// The same for a command about instances: by the pool of each that is known here.
    fn check_epoch_of(&mut self, caller: &Caller, ids: impl IntoIterator<Item = InstanceId>, epoch: u64) -> Result<Vec<Term>, Fault> {
        let pools: BTreeSet<PoolName> = ids
            .into_iter()
            .filter_map(|id| self.instance(id).map(|instance| instance.pool.clone()))
            .collect();
        self.check_epoch(caller, &pools, epoch)
    }

    /// Makes the same happen to several instances, to all or, when one is wrong, to none. Those that have ended are told again, since
    /// whoever asks does not know. Ids that nobody knows are a fault for an operator, who mistyped; for a service they are old.
    async fn happen_to(&mut self, caller: &Caller, what: Vec<(InstanceId, Happening)>) -> Result<Answer, Fault> {
        let is_operator = caller.is_person();
        let mut again = Vec::new();
        let mut live = Vec::new();
        let mut read = 0;
        for (id, happening) in what {
            if let Some(instance) = self.instance(id) {
                if instance.is_live() {
                    let (now, limits) = (self.clock.now(), self.limits(instance.launch));
                    step(instance, happening.clone(), now, &limits)
                        .map_err(|why| Fault::new("conflict", format!("instance {id}: {why}")))?;
                    live.push((id, happening));
                } else {
                    again.push(instance.clone());
                }
                continue;
            }
            read += 1;
            if read > READ_MOST {
                if is_operator {
                    let text = format!("more than {READ_MOST} of these ids are of no live instance; name fewer");
                    return Err(Fault::new("bad-request", text));
                }
                // What a service believes of the rest is set right when everything is told.
                continue;
            }
            match self.store.instance(id).await.map_err(|error| store_failed(&error))? {
                Some(instance) if instance.is_live() => {
                    self.reload_at = Some(self.clock.now());
                    return Err(Fault::new("store-failed", "the records are being read anew; repeat"));
                }
                Some(instance) => again.push(Arc::new(instance)),
                None if is_operator => {
                    return Err(Fault::new("no-such-instance", format!("no instance has the id {id}")));
                }
                None => {}
            }
        }
        let who = caller.name();
        for (id, happening) in live {
            let happened = self.happen(id, happening, &who);
            happened.map_err(|why| Fault::new("conflict", format!("instance {id}: {why}")))?;
        }
        self.tell(again);
        Ok(NOTHING)
    }

    pub(crate) async fn terminate(&mut self, caller: &Caller, order: Terminate) -> Result<Answer, Fault> {
        self.turn.asking = self.check_epoch_of(caller, order.instances.iter().map(|(id, _)| *id), order.epoch)?;
        let why = order.why;
        let what = order
            .instances
            .into_iter()
            .map(|(id, work)| (id, Happening::Terminate { why, work }));
        self.happen_to(caller, what.collect()).await
    }

    pub(crate) async fn drain(&mut self, caller: &Caller, order: DrainOrder) -> Result<Answer, Fault> {
        self.turn.asking = self.check_epoch_of(caller, order.instances.iter().copied(), order.epoch)?;
        let what = order.instances.into_iter().map(|id| (id, Happening::Drain(order.drain.clone())));
        self.happen_to(caller, what.collect()).await
    }

    pub(crate) fn withdraw_drain(&mut self, caller: &Caller, ids: &Ids) -> Result<Answer, Fault> {
        self.turn.asking = self.check_epoch_of(caller, ids.instances.iter().copied(), ids.epoch)?;
        if self.closed {
            // Whoever asks has not heard of the teardown.
            self.tell(ids.instances.iter().filter_map(|id| self.book.get(*id)).cloned().collect());
            let text = "the installation is closed by teardown: who was told to go, goes";
            return Err(Fault::new("closed", text));
        }
        let mut withdrawn = Vec::new();
        for id in &ids.instances {
            let may_stay = |drain: &Drain| drain.why != Cause::Interrupted;
            let draining = |instance: &Arc<Instance>| instance.drain.as_ref().is_some_and(may_stay) && instance.state < State::Terminating;
            if self.instance(*id).is_some_and(draining) && self.happen(*id, Happening::WithdrawDrain, &caller.name()).is_ok() {
                withdrawn.push(*id);
            }
        }
        Answer::of(&withdrawn)
    }

    pub(crate) fn protect(&mut self, caller: &Caller, protect: &Protect) -> Result<Answer, Fault> {
        for id in &protect.instances {
            if self.instance(*id).is_none_or(|instance| !instance.is_live()) {
                return Err(Fault::new("no-such-instance", format!("no live instance has the id {id}")));
            }
        }
        for id in &protect.instances {
            let happened = self.happen(*id, Happening::Protect(protect.on), &caller.name());
            happened.map_err(|why| Fault::new("conflict", format!("instance {id}: {why}")))?;
        }
        Ok(NOTHING)
    }

    // ---- the installation

    async fn set_closed(&mut self, closed: bool, journal: Vec<Entry>) -> Result<(), Fault> {
        let done = self.store.set_closed(closed, Some(self.right.term), journal).await;
        // Asked of whoever leads then.
        self.deposed |= matches!(done, Err(epu_store::Error::Deposed(_)));
        self.closed_unsure = done.is_err();
        if done.is_err() {
            // It may be written all the same, and what is believed here another thing than what is so.
            self.reload_at = Some(self.clock.now());
        }
        done.map_err(|error| store_failed(&error))
    }

    pub(crate) async fn tear_down(&mut self, caller: &Caller, teardown: Teardown) -> Result<Answer, Fault> {
        let now = self.clock.now();
        let journal = vec![Entry::new(now, caller.name(), Remembered::Closed { force: teardown.force })];
        self.asked_within = teardown.within;
        if !self.closed || self.closed_unsure {
            self.set_closed(true, journal).await?;
            self.closed = true;
        }
        let deadline = now + self.teardown_within();
        let live: Vec<InstanceId> = self.book.live().map(|instance| instance.id).collect();
        for id in &live {
            let happening = if teardown.force {
                Happening::Terminate {
                    why: Cause::Teardown,
                    work: Work::Unknown,
                }
            } else {
                Happening::Drain(Drain {
                    since: now,
                    deadline,
                    why: Cause::Teardown,
                })
            };
            self.happen_quietly(*id, happening);
        }
        self.telling.all_at_once();
        Answer::of(&live.len())
    }

    fn teardown_within(&self) -> Duration {
        *self.asked_within.unwrap_or(self.config.teardown_drain)
    }

    /// What a closed installation still has that nobody told to go: a teardown was cut short between its two steps. Whether it was
    /// to be forced went with it; how long it was to take, only if the process did.
    pub(crate) fn drain_the_rest(&mut self) {
        let now = self.clock.now();
        let within = self.teardown_within();
        let ids: Vec<InstanceId> = self.book.live().map(|instance| instance.id).collect();
        for id in ids {
            if self.instance(id).is_some_and(|instance| !instance.is_leaving()) {
                let (since, deadline, why) = (now, now + within, Cause::Teardown);
                self.happen_quietly(id, Happening::Drain(Drain { since, deadline, why }));
            }
        }
    }

    pub(crate) async fn open(&mut self, caller: &Caller) -> Result<Answer, Fault> {
        let journal = vec![Entry::new(self.clock.now(), caller.name(), Remembered::Opened)];
        if self.closed || self.closed_unsure {
            self.set_closed(false, journal).await?;
            self.closed = false;
            self.telling.all_at_once();
        }
        Ok(NOTHING)
    }

    /// Instances as they are recorded; those that nobody knows are left out.
    pub(crate) async fn records(&self, ids: &Ids) -> Result<Answer, Fault> {
        if ids.instances.is_empty() {
            return Answer::of(&self.book.live().collect::<Vec<_>>());
        }
        if ids.instances.len() > READ_MOST {
            let text = format!("{} ids in one question; at most {READ_MOST}", ids.instances.len());
            return Err(Fault::new("bad-request", text));
        }
        let mut known = Vec::with_capacity(ids.instances.len());
        for id in &ids.instances {
            match self.book.get(*id) {
                Some(instance) => known.push(instance.clone()),
                None => known.extend(self.store.instance(*id).await.map_err(|e| store_failed(&e))?.map(Arc::new)),
            }
        }
        Answer::of(&known)
    }

    pub(crate) fn site_statuses(&self) -> Vec<SiteStatus> {
        let gone = |(name, on_site): (&SiteName, &OnSite)| {
            let lost = on_site.live > 0 && !self.sites.contains_key(name) && !self.offers.contains_key(name);
            lost.then(|| SiteStatus {
                site: name.clone(),
                driver: "none".to_owned(),
                live: on_site.live,
                listed_at: None,
                fault: Some(Fault::new(
                    "no-such-site",
                    format!(
                        "{} instances live on site {name}, which the config has no longer: put it back until they have ended",
                        on_site.live
                    ),
                )),
                account: None,
                pace: Vec::new(),
                launch_most: 1_000,
                waiting: self.waiting_on(name),
                origin: None,
            })
        };
        let origin = |name: &SiteName| self.offers.get(name).and_then(|offer| offer.origin.clone());
        let unusable = |(name, offer): (&SiteName, &Offer)| {
            let why = offer.driver.as_ref().err().filter(|_| !self.sites.contains_key(name))?;
            Some(SiteStatus {
                site: name.clone(),
                driver: why.driver.clone(),
                live: self.book.on_site(name).map_or(0, |on_site| on_site.live),
                listed_at: None,
                fault: Some(why.fault.clone()),
                account: None,
                pace: Vec::new(),
                launch_most: 1_000,
                waiting: self.waiting_on(name),
                origin: offer.origin.clone(),
            })
        };
        self.sites
            .values()
            .map(|site| {
                let (account, pace) = site.driver.iaas.standing();
                let live = self.book.on_site(&site.name).map_or(0, |on_site| on_site.live);
                let leaving = site.leaving.as_ref().map(|fault| {
                    let text = format!(
                        "{}: nothing is launched there, and what is left of {live} instances is watched until they end",
                        fault.text
                    );
                    Fault { text, ..fault.clone() }
                });
                SiteStatus {
                    site: site.name.clone(),
                    driver: site.can.driver.to_owned(),
                    live,
                    listed_at: site.listed_at,
                    fault: leaving.or_else(|| site.fault.as_ref().map(|(_, fault)| fault.clone())),
                    account,
                    pace,
                    launch_most: site.can.launch_most,
                    waiting: self.waiting_on(&site.name),
                    origin: origin(&site.name),
                }
            })
            .chain(self.offers.iter().filter_map(unusable))
            .chain(self.book.sites().filter_map(gone))
            .collect()
    }

    /// Launches on a site that wait for their turn.
    fn waiting_on(&self, site: &SiteName) -> u32 {
        let waiting = |known: &&Launching| known.launch.request.site == *site && known.is_waiting();
        u32::try_from(self.book.open_launches().filter(waiting).count()).unwrap_or(u32::MAX)
    }

    // ---- questions that a site answers

    pub(crate) fn may_wait(&self) -> Result<(), Fault> {
        if self.tasks.len() < QUESTIONS_MAX {
            return Ok(());
        }
        Err(Fault::new("timeout", "too many questions wait for sites already"))
    }

    pub(crate) async fn look(&mut self, caller: &Caller, ids: &Ids, answering: Answering) {
        let current = self.check_epoch_of(caller, ids.instances.iter().copied(), ids.epoch);
        if let Err(fault) = current.and_then(|_| self.may_wait()) {
            return answering.answer(Err(fault));
        }
        let mut words: BTreeMap<InstanceId, SiteWord> = BTreeMap::new();
        let mut asked: BTreeMap<SiteName, BTreeMap<String, InstanceId>> = BTreeMap::new();
        let (mut read, mut ended) = (0, Vec::new());
        for id in &ids.instances {
            words.insert(*id, SiteWord::NoAnswer);
            let known = match self.instance(*id) {
                Some(instance) => Some(instance.clone()),
                None if read >= READ_MOST => None,
                None => {
                    read += 1;
                    self.store.instance(*id).await.ok().flatten().map(Arc::new)
                }
            };
            match known {
                Some(instance) if !instance.is_live() => {
                    words.insert(*id, SiteWord::Gone);
                    ended.push(instance);
                }
                Some(instance) => {
                    if let Some(machine) = &instance.machine {
                        asked.entry(instance.site.clone()).or_default().insert(machine.clone(), *id);
                    }
                }
                None => {}
            }
        }
        // Whoever asks did not hear of it.
        self.tell(ended);
        let order = ids.instances.clone();
        let now = self.clock.now();
        let sites: Vec<_> = asked
            .into_iter()
            .filter_map(|(site, machines)| {
                let site = self.sites.get(&site).filter(|site| site.barred_until <= now)?;
                Some((site.driver.clone(), site.question_permits.clone(), machines))
            })
            .collect();
        self.tasks.spawn(async move {
            let mut failed = Vec::new();
            for (driver, permits, machines) in sites {
                let _permit = permits.acquire().await;
                let names: Vec<String> = machines.keys().cloned().collect();
                let said = driver.call("describe", |iaas| async move { iaas.describe(&names).await }).await;
                let said = said.unwrap_or_else(|error| {
                    failed.push((driver.site.clone(), error));
                    Vec::new()
                });
                for (machine, state) in said {
                    let Some(id) = machines.get(&machine) else { continue };
                    let word = match state {
                        // One that is halted works no more than one that is gone.
                        None | Some(MachineState::Gone | MachineState::Stopped) => SiteWord::Gone,
                        Some(MachineState::Pending | MachineState::Running | MachineState::Stopping) => SiteWord::Running,
                    };
                    words.insert(*id, word);
                }
            }
            let mut seen = BTreeSet::new();
            let list: Vec<(InstanceId, SiteWord)> = order
                .into_iter()
                .filter(|id| seen.insert(*id))
                .filter_map(|id| Some((id, *words.get(&id)?)))
                .collect();
            answering.answer(Answer::of(&list));
            Done::Answered(failed)
        });
    }

    pub(crate) async fn logs(&mut self, logs: &Logs, answering: Answering) {
        let (id, lines) = (logs.instance, logs.lines.min(LINES_MAX));
        let known = match self.instance(id) {
            Some(instance) => Ok(Some(instance.clone())),
            None => self.store.instance(id).await.map(|found| found.map(Arc::new)),
        };
        let instance = match known {
            Ok(Some(instance)) => instance,
            Ok(None) => return answering.answer(Err(Fault::new("no-such-instance", format!("no instance has the id {id}")))),
            Err(error) => return answering.answer(Err(store_failed(&error))),
        };
        if let Err(fault) = self.may_wait() {
            return answering.answer(Err(fault));
        }
        let site = self.sites.get(&instance.site);
        let Some((driver, permits)) = site.map(|site| (site.driver.clone(), site.question_permits.clone())) else {
            let fault = Fault::new("no-such-site", format!("there is no site {} any more", instance.site));
            return answering.answer(Err(fault));
        };
        self.tasks.spawn(async move {
            let _permit = permits.acquire().await;
            let machine = instance.machine.clone();
            let read = driver
                .call("output", |iaas| async move { iaas.output(id, machine.as_deref(), lines).await })
                .await;
            answering.answer(match read {
                Ok(text) => Ok(Answer::Json(Value::String(text.unwrap_or_default()))),
                Err(error) => Err(Fault::new("internal", format!("read the output of {id}: {error}"))),
            });
            Done::Answered(Vec::new())
        });
    }
}
