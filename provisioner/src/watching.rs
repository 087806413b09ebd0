//! Watching sites: one list for all pools, often while something is changing and seldom while nothing is.
//!
//! What a list shows moves instances on. What it does not show is only a suspicion: a machine is gone when the site, asked for it by
//! name, has said so as often as its driver demands, after the time by which its lists lag. A list that failed says nothing.
//!
//! **Few of many.** While few machines are changing on a site that has many, these few are asked for by name, and the list comes as seldom
//! as if nothing changed: what a change costs must not grow with what exists.
//!
//! **Halted** machines are listed and do no work. The site's word on that is asked for as often as on one that is gone; then the
//! instance is being ended, and it has ended when its machine is gone.
//!
//! **A site that fails** is asked again ever more slowly, whatever happens on it meanwhile; one that refuses us or so many calls is
//! not asked other people's questions either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epu_core::Fault;
use epu_core::id::{InstanceId, SiteName};
use epu_core::instance::Instance;
use epu_core::journal::{Entry, Event as Remembered};
use epu_core::launch::Launch;
use epu_core::life::State;
use epu_core::time::Timestamp;
use tracing::{info, warn};

use crate::book::Launching;
use crate::checking::{count, ended_against_records};
use crate::iaas::{Admission, Class, IaasError, Machine, MachineState};
use crate::lifecycle::{Happening, instance_at, nothing_there};
use crate::service::Service;
use crate::site::{BATCH, Done, Site, Spared, Suspicion, Why};
use crate::vouching::vouch;

/// How much longer to wait after `throttled` than after another passing error.
const THROTTLED_TIMES: u32 = 4;

/// A machine whose end was refused so often is left alone until its deadline passes. Too high: whoever pays for a site's fault waits. Too
/// low: one that is being started is left.
const END_TRIES: u32 = 3;

/// Machines of one list that are remembered for the sweep's preview though nothing is done about them.
const SPARED_MOST: usize = 1_000;

/// A machine that is still listed as running so long after the site agreed to end it is ended again, once. Too low: a list that lags costs a call.
/// Too high: one that the site did not know yet runs on until its deadline.
const AGREED: Duration = Duration::from_secs(5);

/// A launch that was accepted so lately is told of by the reply to its call; only later is the whole site listed for it. Too low: a site of many
/// machines is listed for every launch. Too high: machines whose reply was lost are found that much later.
const REPLY_SOON: Duration = Duration::from_secs(5);

/// What has been changing for longer than the first is looked at no more often than once in the second. Too slow: a late boot or end
/// is noticed that much later. Too fast: one that is stuck has the whole site listed all the time.
const SLOWER: [(Duration, Duration); 2] = [
    (Duration::from_secs(10), Duration::from_secs(1)),
    (Duration::from_secs(60), Duration::from_secs(2)),
];

impl Service {
    // ---- calling

    pub(crate) fn due_sites(&mut self, now: Timestamp) {
        let inhabited: BTreeSet<SiteName> = self.sites.keys().filter(|site| self.has_machines(site)).cloned().collect();
        let mut few: BTreeMap<SiteName, Vec<(InstanceId, String, bool)>> = BTreeMap::new();
        for site in self.sites.values().filter(|site| !site.looking && site.next_look <= now) {
            few.extend(self.few_of_many(site, now).map(|few| (site.name.clone(), few)));
        }
        let steady = self.config.look_steady;
        for site in self.sites.values_mut() {
            if !site.ending && site.end_at <= now && !site.to_end.is_empty() {
                let astray = ended_against_records(site, &self.book);
                for (machine, violation) in astray {
                    count(&self.metrics, &violation);
                    site.ends_no_more(&machine);
                }
                if site.to_end.is_empty() {
                    continue;
                }
                site.ending = true;
                let machines = site.next_to_end();
                let (name, driver) = (site.name.clone(), site.driver.clone());
                self.tasks.spawn(async move {
                    let asked = machines.clone();
                    let machines_asked = u32::try_from(asked.len()).unwrap_or(u32::MAX);
                    driver.admitted(Admission::Terminate { machines: machines_asked }).await;
                    let result = driver.call("terminate", |iaas| async move { iaas.terminate(&asked).await }).await;
                    Done::Terminated {
                        site: name,
                        machines,
                        result,
                    }
                });
            }
            if !site.looking && site.next_look <= now {
                site.by_name = None;
                let few = few.remove(&site.name);
                if few.as_ref().is_some_and(Vec::is_empty) {
                    if self.book.open_launches().any(|known| known.launch.request.site == site.name) {
                        site.next_look = now + *self.config.look_fast.unwrap_or(site.can.look_fast);
                        continue;
                    }
                    // What changed has come to its end: the next list is early enough.
                    let steady = *steady.unwrap_or(site.can.look_steady);
                    site.next_look = site.listed_at.map_or(now, |at| at + steady);
                    site.changing_since = None;
                    continue;
                }
                site.looking = true;
                if let Some(few) = few {
                    site.by_name = Some(now);
                    let (name, driver) = (site.name.clone(), site.driver.clone());
                    for (id, ..) in few.iter().filter(|(_, _, is_to_be_there)| *is_to_be_there) {
                        site.suspects.entry(*id).or_default();
                    }
                    let machines: Vec<String> = few.into_iter().map(|(_, machine, _)| machine).collect();
                    self.tasks.spawn(async move {
                        let result = driver.call("describe", |iaas| async move { iaas.describe(&machines).await }).await;
                        Done::Described { site: name, result }
                    });
                    continue;
                }
                let (name, driver, store) = (site.name.clone(), site.driver.clone(), self.store.clone());
                let (must_vouch, has_machines) = (site.must_vouch(now), inhabited.contains(&name));
                self.tasks.spawn(async move {
                    let vouched = match must_vouch {
                        true => Some(vouch(&driver, &store, has_machines).await),
                        false => None,
                    };
                    let (vouched, result) = match vouched.transpose() {
                        Ok(vouched) => (vouched, driver.call("list", |iaas| async move { iaas.list().await }).await),
                        Err(error) => (None, Err(error)),
                    };
                    Done::Listed {
                        site: name,
                        began: now,
                        vouched,
                        result,
                    }
                });
            }
        }
    }

    /// The machines to be asked for by name in place of a list, each with whether what the site does not know of it counts: those that
    /// change and those that are suspected, if they are few and the site has many, the last list is not old, and it is known what each
    /// of them is to be. What was launched just now and is nowhere yet is left to the reply. None at all when nothing changes any more.
    fn few_of_many(&self, site: &Site, now: Timestamp) -> Option<Vec<(InstanceId, String, bool)>> {
        let on_site = self.book.on_site(&site.name).filter(|on_site| on_site.machines.len() > BATCH)?;
        let steady = *self.config.look_steady.unwrap_or(site.can.look_steady);
        let is_listed = site.listed_at.is_some_and(|at| now < at + steady) && site.fault.is_none() && !site.must_vouch(now);
        let is_told_soon = |known: &Launching| !known.doubtful && known.refused.is_none() && now < known.launch.accepted_at + REPLY_SOON;
        let mut open = self.book.open_launches().filter(|known| known.launch.request.site == site.name);
        if !is_listed || !site.strays.is_empty() || !open.all(is_told_soon) {
            return None;
        }
        let is_nowhere_yet = |id: &&InstanceId| {
            let instance = self.book.get(**id).filter(|instance| instance.machine.is_none());
            let launch = instance.and_then(|instance| self.book.launch(instance.launch));
            launch.is_some_and(is_told_soon)
        };
        let moving = on_site.moving.iter().filter(|id| !is_nowhere_yet(id));
        let asked: BTreeSet<InstanceId> = moving.chain(site.suspects.keys()).take(BATCH + 1).copied().collect();
        if asked.len() > BATCH {
            return None;
        }
        let grace = *site.can.consistency_grace;
        let one = |id: InstanceId| {
            let instance = self.book.get(id)?;
            let is_to_be_known = instance.state >= State::Terminating || now >= instance.state_since + grace;
            Some((id, instance.machine.clone()?, is_to_be_known))
        };
        asked.into_iter().map(one).collect()
    }

    pub(crate) fn next_site(&self) -> Option<Timestamp> {
        self.sites
            .values()
            .flat_map(|site| {
                let look = (!site.looking).then_some(site.next_look);
                let end = (!site.ending && !site.to_end.is_empty()).then_some(site.end_at);
                [look, end]
            })
            .flatten()
            .min()
    }

    /// Something changes there: the next look comes sooner.
    pub(crate) fn look_soon(&mut self, site: &SiteName, now: Timestamp) {
        let fast = self.config.look_fast;
        if let Some(site) = self.sites.get_mut(site) {
            site.look_by(now + *fast.unwrap_or(site.can.look_fast));
        }
    }

    // ---- what came of it

    pub(crate) fn terminated(&mut self, site: &SiteName, machines: Vec<String>, result: Result<(), IaasError>) {
        let now = self.clock.now();
        let Some(known) = self.sites.get_mut(site) else { return };
        known.ending = false;
        match result {
            Ok(()) => {
                known.works("terminate");
                known.end_failures = 0;
                known.end_most = (known.end_most * 2).min(BATCH);
                for machine in machines {
                    known.ends_no_more(&machine);
                    known.agreed.entry(machine).or_insert(now);
                }
                self.look_soon(site, now);
            }
            Err(error) => {
                warn!(%site, %error, "machines were not ended; trying again");
                known.failed("terminate", &error);
                let (is_about_them, is_at_once) = match error.class {
                    Class::Throttled => (false, false),
                    // The first may well be about none of them.
                    Class::Retryable => (known.end_failures > 0, false),
                    Class::Capacity | Class::Quota | Class::Credentials | Class::Permanent | Class::Changed => (true, true),
                };
                if is_about_them && machines.len() > 1 {
                    // One of them is what the site objects to; halving soon finds which.
                    known.end_most = (machines.len() / 2).max(1);
                } else if let (true, [machine]) = (is_about_them, machines.as_slice()) {
                    let tries = known.end_tries.entry(machine.clone()).or_default();
                    *tries += 1;
                    if error.class == Class::Permanent || *tries >= END_TRIES {
                        // It is asked for again when its deadline passes, and keeps no other from its end meanwhile.
                        known.ends_no_more(machine);
                    }
                }
                let wait = if is_at_once && machines.len() > 1 {
                    *self.config.retry_first
                } else {
                    known.end_failures = known.end_failures.saturating_add(1);
                    let failures = known.end_failures;
                    self.wait_after(&error, failures)
                };
                if let Some(known) = self.sites.get_mut(site) {
                    known.end_at = now + wait;
                }
            }
        }
    }

    /// How long to wait after so many failures in a row of which this is the last.
    fn wait_after(&self, error: &IaasError, failures: u32) -> Duration {
        match error.class {
            // Only a person can change that; until then the site is asked as seldom as ever.
            Class::Credentials => self.backoff(u32::MAX),
            Class::Throttled => self.backoff(failures) * THROTTLED_TIMES,
            Class::Retryable | Class::Capacity | Class::Quota | Class::Permanent | Class::Changed => self.backoff(failures),
        }
    }

    pub(crate) async fn listed(
        &mut self,
        site: &SiteName,
        began: Timestamp,
        vouched: Option<bool>,
        result: Result<Vec<Machine>, IaasError>,
    ) {
        if let (Some(vouched), Some(known)) = (vouched, self.sites.get_mut(site)) {
            known.vouched = Some((self.clock.now(), vouched));
        }
        let machines = match result {
            Ok(machines) => machines,
            Err(error) => return self.look_failed(site, "list", &error),
        };
        let now = self.clock.now();
        if let Some(known) = self.sites.get_mut(site) {
            known.works("list");
            known.listed_at = Some(now);
            known.spared.clear();
        }
        let mut present = BTreeSet::new();
        let mut strays = Vec::new();
        for machine in machines.into_iter().filter(|machine| machine.state != MachineState::Gone) {
            let owner = self.owner(site, &machine);
            // One that is halted is as good as absent, unless it is being ended: then it still has to go.
            let is_ending = || {
                owner
                    .and_then(|id| self.instance(id))
                    .is_some_and(|i| i.state >= State::Terminating)
            };
            if machine.state != MachineState::Stopped || is_ending() {
                present.insert(machine.id.clone());
            }
            match owner {
                Some(id) => {
                    if is_ending() && !matches!(machine.state, MachineState::Stopping | MachineState::Gone) {
                        self.end_again(site, &machine.id, began);
                    }
                    if self.seen(id, &machine) {
                        self.spare(site, machine, Why::Adopted(id));
                    }
                }
                None if self.is_elsewhere(site, &machine) => self.spare(site, machine, Why::Elsewhere),
                None => strays.push(machine),
            }
        }
        self.suspect(site, began, &present);
        self.settle_silent_launches(site, began);
        self.count_doubles(site, &strays, &present);
        self.sweep(site, strays, now).await;
        self.count_strays(site, now);
        self.look_closer(site, now);
    }

    /// A machine that is being ended is listed as if it were not: the site may have agreed without knowing it yet, as right after its launch.
    fn end_again(&mut self, site: &SiteName, machine: &str, began: Timestamp) {
        if let Some(known) = self.sites.get_mut(site)
            && known.agreed.get(machine).is_some_and(|agreed| began >= *agreed + AGREED)
        {
            known.agreed.insert(machine.to_owned(), Timestamp::NEVER);
            known.to_end.insert(machine.to_owned());
        }
    }

    /// Whose machine this is, by its name or by its tags. A second machine for one instance is nobody's.
    fn owner(&self, site: &SiteName, machine: &Machine) -> Option<InstanceId> {
        if let Some(id) = self.book.on_site(site).and_then(|on_site| on_site.machines.get(&machine.id)) {
            return Some(*id);
        }
        let instance = self.tagged(machine)?;
        let fits = instance.is_live()
            && instance.site == *site
            && machine.launch == Some(instance.launch)
            && instance.machine.as_ref().is_none_or(|known| *known == machine.id);
        fits.then_some(instance.id)
    }

    /// Which instance this is by its tags.
    pub(crate) fn tagged(&self, machine: &Machine) -> Option<&Arc<Instance>> {
        let by_index = || {
            let known = self.book.launch(machine.launch?)?;
            instance_at(&known.ids().collect::<Vec<_>>(), machine.index?)
        };
        self.instance(by_index().or(machine.instance)?)
    }

    /// Whether this machine is, or is about to become, that of a live instance on another site. Two sites can show the same machine
    /// when their settings overlap, and whichever does not know it must leave it alone.
    pub(crate) fn is_elsewhere(&self, site: &SiteName, machine: &Machine) -> bool {
        let may_become = |instance: &Arc<Instance>| {
            instance.is_live()
                && instance.site != *site
                && machine.launch == Some(instance.launch)
                && instance.machine.as_ref().is_none_or(|known| *known == machine.id)
        };
        self.book.is_elsewhere(site, &machine.id) || self.tagged(machine).is_some_and(may_become)
    }

    fn spare(&mut self, site: &SiteName, machine: Machine, why: Why) {
        if let Some(known) = self.sites.get_mut(site)
            && known.spared.len() < SPARED_MOST
        {
            known.spared.push(Spared { machine, why });
        }
    }

    /// Takes in how the machine of an instance is. True when it had none before and none was expected at this moment.
    fn seen(&mut self, id: InstanceId, machine: &Machine) -> bool {
        let Some(instance) = self.instance(id).cloned() else { return false };
        // While its first call is under way, a machine that is listed before the answer is nothing remarkable.
        let unasked = |known: &Launching| !known.calling || known.launch.attempts > 1;
        let adopted = instance.machine.is_none() && self.book.launch(instance.launch).is_some_and(unasked);
        if adopted {
            info!(instance = %id, machine = %machine.id, "a machine without a record belongs to a recorded launch");
            self.metrics.swept.with_label_values(&[instance.site.as_str(), "adopted"]).inc();
            let event = Remembered::SweepAdopted {
                machine: machine.id.clone(),
            };
            self.turn
                .journal
                .push(Entry::new(self.clock.now(), "provisioner", event).of(&instance.pool).on(id));
        }
        let is_reached = instance.address.is_some() || machine.address.is_none();
        if instance.machine.is_none() || instance.state < State::Started || !is_reached {
            self.take_in(id, machine);
        }
        adopted
    }

    fn suspect(&mut self, site: &SiteName, began: Timestamp, present: &BTreeSet<String>) {
        let Some(known) = self.sites.get_mut(site) else { return };
        let Some(on_site) = self.book.on_site(site) else {
            known.suspects.clear();
            return;
        };
        known.shows_some = on_site.machines.keys().any(|machine| present.contains(machine));
        let grace = *known.can.consistency_grace;
        let mut suspects = std::mem::take(&mut known.suspects);
        for (machine, id) in &on_site.machines {
            if present.contains(machine) {
                continue;
            }
            // What became known after the list was begun cannot be in it. One that is being ended is to be absent: it is asked for by name
            // at once, and what the site says then is not a list that lags.
            let expected = self.book.get(*id).is_some_and(|instance| {
                let lag = if instance.state >= State::Terminating {
                    Duration::ZERO
                } else {
                    grace
                };
                began >= instance.state_since + lag
            });
            if let Some(suspicion) = suspects.remove(id) {
                known.suspects.insert(*id, suspicion);
            } else if expected {
                known.suspects.insert(*id, Suspicion::default());
            }
        }
    }

    /// Launches that are not called any more and have no outcome: what a complete list does not show never came.
    fn settle_silent_launches(&mut self, site: &SiteName, began: Timestamp) {
        let Some(grace) = self.sites.get(site).map(|known| *known.can.consistency_grace) else {
            return;
        };
        let silent: Vec<(Launch, Fault)> = self
            .book
            .open_launches()
            .filter(|known| known.launch.request.site == *site && !known.calling)
            .filter(|known| !self.turn.launches.contains_key(&known.launch.id))
            .filter(|known| !self.is_wanted(known, began) && began >= known.quiet_since + grace)
            .map(|known| (known.launch.clone(), known.refused.clone().unwrap_or_else(nothing_there)))
            .collect();
        for (launch, fault) in silent {
            self.came_to_nothing(&launch, &fault);
        }
    }

    /// Asks about suspects by name; without any, the look is over.
    fn look_closer(&mut self, site: &SiteName, now: Timestamp) {
        let suspects = self
            .sites
            .get(site)
            .map(|known| known.suspects.keys().take(BATCH).copied().collect::<Vec<_>>());
        let machines: Vec<String> = suspects
            .unwrap_or_default()
            .into_iter()
            .filter_map(|id| self.book.get(id).and_then(|instance| instance.machine.clone()))
            .collect();
        if machines.is_empty() {
            return self.looked(site, now);
        }
        let Some(known) = self.sites.get(site) else { return };
        let (name, driver) = (site.clone(), known.driver.clone());
        self.tasks.spawn(async move {
            let result = driver.call("describe", |iaas| async move { iaas.describe(&machines).await }).await;
            Done::Described { site: name, result }
        });
    }

    pub(crate) fn described(&mut self, site: &SiteName, result: Result<Vec<(String, Option<MachineState>)>, IaasError>) {
        let said = match result {
            Ok(said) => said,
            Err(error) => return self.look_failed(site, "describe", &error),
        };
        let (mut over, mut unknown) = (Vec::new(), Vec::new());
        // Of whichever the site says anything, that it knows; such as that it has ended.
        let knows_some = said.iter().any(|(_, state)| state.is_some());
        let (mut absent, mut shows_some) = (0, false);
        let mut there = Vec::new();
        let began = self.sites.get(site).and_then(|known| known.by_name);
        if let (Some(known), Some(on_site)) = (self.sites.get_mut(site), self.book.on_site(site)) {
            known.works("describe");
            (absent, shows_some) = (known.suspects.len(), known.shows_some);
            for (machine, state) in said {
                let Some(id) = on_site.machines.get(&machine) else { continue };
                match state {
                    None | Some(MachineState::Gone) => known.called_gone.insert(*id),
                    Some(_) => known.called_gone.remove(id),
                };
                let is_ending = self.book.get(*id).is_some_and(|instance| instance.state >= State::Terminating);
                let happened = match state {
                    None | Some(MachineState::Gone) => Some(Happening::Gone),
                    Some(MachineState::Stopped) if !is_ending => Some(Happening::Halted),
                    Some(MachineState::Pending | MachineState::Running | MachineState::Stopping | MachineState::Stopped) => None,
                };
                let Some(happened) = happened else {
                    known.suspects.remove(id);
                    there.extend(state.filter(|_| began.is_some()).map(|state| (*id, machine, state)));
                    continue;
                };
                if let Some(suspicion) = known.suspects.get_mut(id) {
                    suspicion.gone += 1;
                    if suspicion.gone >= known.can.gone_confirmations {
                        known.suspects.remove(id);
                        if state.is_none() && !is_ending {
                            unknown.push(*id);
                        } else {
                            over.push((*id, happened));
                        }
                    }
                }
            }
        }
        for (id, machine, state) in there {
            self.is_there(site, id, machine, state, began.unwrap_or_default());
        }
        for (id, happened) in over {
            self.happen_quietly(id, happened);
        }
        if self.are_many(site, unknown.len(), absent) {
            return self.ask_before_they_are_gone(site, unknown, knows_some || shows_some);
        }
        for id in unknown {
            self.happen_quietly(id, Happening::Gone);
        }
        self.looked(site, self.clock.now());
    }

    /// One that was asked for by name in place of a list is there.
    fn is_there(&mut self, site: &SiteName, id: InstanceId, machine: String, state: MachineState, began: Timestamp) {
        let Some(instance) = self.instance(id).cloned() else { return };
        if instance.state >= State::Terminating {
            if state != MachineState::Stopping {
                self.end_again(site, &machine, began);
            }
        } else if instance.state < State::Started {
            let machine = Machine {
                id: machine,
                launch: Some(instance.launch),
                index: Some(instance.index),
                instance: Some(id),
                state,
                address: None,
            };
            self.seen(id, &machine);
        }
    }

    pub(crate) fn looked(&mut self, site: &SiteName, now: Timestamp) {
        let youngest = self.book.on_site(site).and_then(|on_site| {
            let moving = on_site.moving.iter().filter_map(|id| self.book.get(*id));
            moving.map(|instance| instance.state_since).max()
        });
        let (fast, steady) = (self.config.look_fast, self.config.look_steady);
        let Some(known) = self.sites.get_mut(site) else { return };
        known.looking = false;
        // Not before: one that lists and does not describe fails all the same.
        known.look_failures = 0;
        let changing = youngest.is_some() || !known.suspects.is_empty() || !known.strays.is_empty() || !known.to_end.is_empty();
        if !changing {
            known.changing_since = None;
            let steady = *steady.unwrap_or(known.can.look_steady);
            // The list that was left out is not put off by that.
            let since = known.by_name.and(known.listed_at).unwrap_or(now);
            known.next_look = (since + steady).max(now + *fast.unwrap_or(known.can.look_fast));
            return;
        }
        // Whatever began to change last; what does not come to an end is not worth a look four times a second.
        let began = *known.changing_since.get_or_insert(now);
        let newest = known
            .strays
            .values()
            .map(|stray| stray.first_seen)
            .chain(youngest)
            .fold(began, Timestamp::max);
        known.next_look = now + patience(*fast.unwrap_or(known.can.look_fast), now.since(newest));
    }

    pub(crate) fn look_failed(&mut self, site: &SiteName, call: &'static str, error: &IaasError) {
        warn!(%site, call, %error, "the site cannot be seen; nothing is concluded from that");
        let now = self.clock.now();
        let Some(known) = self.sites.get_mut(site) else { return };
        known.look_failures = known.look_failures.saturating_add(1);
        known.failed(call, error);
        known.looking = false;
        let failures = known.look_failures;
        let fast = *self.config.look_fast.unwrap_or(known.can.look_fast);
        let wait = self.wait_after(error, failures).max(fast);
        if let Some(known) = self.sites.get_mut(site) {
            known.rests_until = now + wait;
            known.next_look = now + wait;
        }
        self.bar(site, error, failures);
    }

    /// Nobody's questions are passed on for a while to a site that refuses us, or so many calls.
    pub(crate) fn bar(&mut self, site: &SiteName, error: &IaasError, failures: u32) {
        let is_refusing = match error.class {
            Class::Throttled | Class::Credentials | Class::Permanent => true,
            Class::Retryable | Class::Capacity | Class::Quota | Class::Changed => false,
        };
        let until = self.clock.now() + self.wait_after(error, failures);
        if let Some(known) = self.sites.get_mut(site).filter(|_| is_refusing) {
            known.barred_until = known.barred_until.max(until);
        }
    }
}

/// Between two looks at something that has been changing for so long.
fn patience(fast: Duration, changing_for: Duration) -> Duration {
    match SLOWER.iter().rev().find(|(after, _)| changing_for > *after) {
        Some((_, wait)) => fast.max(*wait),
        None => fast,
    }
}

impl Site {
    pub(crate) fn failed(&mut self, call: &'static str, error: &IaasError) {
        self.fault = Some((call, error.fault()));
        self.works_since = Timestamp::NEVER;
    }

    pub(crate) fn works(&mut self, call: &'static str) {
        if self.fault.as_ref().is_some_and(|(failed, _)| *failed == call) {
            self.fault = None;
            self.works_since = self.driver.clock.now();
        }
    }
}
