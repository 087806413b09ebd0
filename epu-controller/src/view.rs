//! What the controller knows of one pool, kept so that looking costs what changed and not what exists.
//!
//! Every member is in exactly one [`Class`]. Counts, the order in which victims are taken, slots and deadlines are kept as members
//! change, so that an observation is read off, a decision names its victims by taking the first ones, and health is judged only
//! when something was heard or its time has come.
//!
//! What was ordered but not yet confirmed by the provisioner counts as done ([`Ordered`]): otherwise the next look would order it
//! again. It is dropped when the provisioner's record moves on, or after a while if it never does.

mod deadlines;
mod index;
mod members;
mod turning_out;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epu_core::fact::{Covers, Heard};
use epu_core::health::{Health, HealthLimits};
use epu_core::heartbeat::Condition;
use epu_core::id::{InstanceId, SensorName, SiteName, SlotLabel};
use epu_core::instance::{Cause, Instance, Work};
use epu_core::life::State;
use epu_core::pool::{Placement, Pool};
use epu_core::reading::{Reading, Readings, SensorReport};
use epu_core::request::{PoolCounts, SiteWord};
use epu_core::time::Timestamp;
use epu_decision_engines::{Counts, Memory, Observation, Seen as SeenReading};

use crate::config::Sites;
use crate::guards::LaunchOutcome;
use crate::health;
use crate::listening::{Listening, Newest};
use crate::rollout::Versions;
use index::{Index, VictimKey};
use members::{Members, Place};
use turning_out::outcomes;

/// An order that was accepted and that no record shows is forgotten after this, and given again if it is still wanted.
const ORDER_LASTS: Duration = Duration::from_secs(60);
/// Ended instances are watched for this long, beyond the zombie time, in case they are heard from.
const ENDED_LASTS: Duration = Duration::from_secs(600);

/// Members that the provisioner is asked about after one telling that does not name them. Too low: many missed ends are cleared up
/// slowly. Too high: one question has it read much of its store.
const UNTOLD_MOST: usize = 200;

/// What a member is to a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Decided on or coming up.
    Pending,
    /// Running, in good health, staying.
    Running,
    /// Live and in bad health, to be replaced.
    Unhealthy,
    /// Told to drain.
    Draining,
    /// Being ended.
    Ending,
    /// Ended.
    Ended,
}

/// What was ordered and not yet confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordered {
    /// To come to be.
    Come,
    /// To drain.
    Drain,
    /// Not to drain after all.
    Stay,
    /// To end.
    End,
}

/// An order that the provisioner's record does not show yet.
#[derive(Debug, Clone, Copy)]
struct Note {
    what: Ordered,
    /// When it is forgotten; never while its command is still to be accepted.
    until: Option<Timestamp>,
}

impl Note {
    /// Whether a record of the provisioner's says by itself what was ordered. A newer one that does not was made before the order
    /// came there, such as that of a launch whose instance is no longer wanted: without the note it counts as staying again.
    fn is_shown_by(self, instance: &Instance) -> bool {
        match self.what {
            Ordered::Come => true,
            Ordered::Drain => instance.is_leaving(),
            Ordered::Stay => instance.drain.is_none(),
            Ordered::End => instance.state >= State::Terminating,
        }
    }
}

/// One instance as this pool's view has it.
#[derive(Debug, Clone)]
pub struct Member {
    /// The provisioner's record.
    pub instance: Arc<Instance>,
    /// What is believed of its health.
    pub health: Health,
    /// When it was last heard from, on our clock.
    pub heard_at: Option<Timestamp>,
    /// What it then said of itself.
    pub condition: Condition,
    /// Whether it had work.
    pub work: Work,
    /// Since when.
    pub work_since: Timestamp,
    /// Whether its worker has been told to drain, which cannot be taken back.
    pub told_to_drain: bool,
    /// Since when it has been out of contact.
    pub out_since: Option<Timestamp>,
    /// What the site said since.
    pub site: Option<SiteWord>,
    ordered: Option<Note>,
    due: Option<Timestamp>,
    place: Place,
    standing: Standing,
    class: Class,
    key: Option<VictimKey>,
}

impl Member {
    fn new(instance: Arc<Instance>, standing: Standing) -> Self {
        let class = Class::Ended;
        Self {
            work_since: instance.state_since,
            instance,
            health: Health::Unknown,
            heard_at: None,
            condition: Condition::Ok,
            work: Work::Unknown,
            told_to_drain: false,
            out_since: None,
            site: None,
            ordered: None,
            due: None,
            place: Place::default(),
            standing,
            class,
            key: None,
        }
    }

    /// Whether it is of another version than would be launched by its placement now.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.standing.outdated
    }

    /// By which of the pool's placements it counts; by none of them when its own is no more, or is another site's by now.
    #[must_use]
    pub fn placed_by(&self) -> &str {
        self.standing.elsewhere.as_deref().unwrap_or_else(|| self.instance.placed_by())
    }

    /// Whether it is one of those that its placement has: live, and not on its way out.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        match self.class {
            Class::Pending | Class::Running => true,
            Class::Unhealthy => !self.is_leaving(),
            Class::Draining | Class::Ending | Class::Ended => false,
        }
    }

    /// What it is to a decision.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// Whether it is on its way out, by its record or by an order that is on its way.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.instance.is_leaving() || self.ordered.is_some_and(|note| matches!(note.what, Ordered::Drain | Ordered::End))
    }

    /// Whether its worker was told to drain while no order to drain stands: it will not work again, and nothing ends it.
    #[must_use]
    pub fn drains_unordered(&self) -> bool {
        self.told_to_drain && self.instance.drain.is_none() && self.ordered.is_none() && self.class == Class::Draining
    }

    /// Whether it said that it has work, and not longer ago than that.
    #[must_use]
    pub fn is_heard_at_work(&self, now: Timestamp, within: Duration) -> bool {
        self.work == Work::Busy && self.heard_at.is_some_and(|at| now.since(at) <= within)
    }

    /// Whether it runs in good health and nothing is to be seen to but its silence. Found out without its record, which lies
    /// elsewhere in memory: most of what is done with a large pool is asking this.
    fn is_settled(&self) -> bool {
        self.health == Health::Ok && self.class == Class::Running && self.ordered.is_none()
    }

    /// Until when its silence says nothing; none when that depends on more than what was heard.
    fn quiet_until(&self, listening: Option<Listening>, limits: &HealthLimits) -> Option<Timestamp> {
        let heard_at = self.heard_at.filter(|_| self.is_settled())?;
        Some(health::quiet_until(heard_at, listening?, limits))
    }

    /// Whether the site said that it takes the machine away. Falling silent is no illness then, and nothing to judge the others by.
    fn is_being_taken_away(&self) -> bool {
        self.instance.drain.as_ref().is_some_and(|drain| drain.why == Cause::Interrupted)
    }

    fn worker_failed(&self) -> bool {
        self.instance.exit.as_ref().is_some_and(|exit| !exit.is_success())
    }

    fn classify(&self) -> Class {
        let ordered = self.ordered.map(|note| note.what);
        if self.instance.state.is_end() {
            Class::Ended
        } else if self.instance.state == State::Terminating || ordered == Some(Ordered::End) {
            Class::Ending
        } else if self.is_being_taken_away() {
            Class::Draining
        } else if self.instance.state == State::RunningFailed || !self.health.is_good() {
            Class::Unhealthy
        } else if ordered != Some(Ordered::Stay) && (self.instance.drain.is_some() || ordered == Some(Ordered::Drain) || self.told_to_drain)
        {
            Class::Draining
        } else if self.instance.state.is_booting() {
            Class::Pending
        } else {
            Class::Running
        }
    }
}

/// What a fact changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changed {
    /// Something a decision could depend on.
    pub decision: bool,
    /// An instance's health: which, from, to, why.
    pub health: Vec<(InstanceId, Health, Health, String)>,
    /// Instances about which the site is to be asked.
    pub ask_site: Vec<InstanceId>,
    /// How launches turned out.
    pub outcomes: Vec<LaunchOutcome>,
}

impl Changed {
    /// Adds what another fact changed.
    pub fn absorb(&mut self, other: Self) {
        self.decision |= other.decision;
        self.health.extend(other.health);
        self.ask_site.extend(other.ask_site);
        self.outcomes.extend(other.outcomes);
    }
}

/// What is known of one pool.
#[derive(Debug)]
pub struct View {
    /// Its record.
    pub pool: Arc<Pool>,
    members: Members,
    index: Index,
    settings: u64,
    /// Of each placement its site, and its place among the pool's, the best first.
    ranks: Ranks,
    versions: Versions,
    sites: Sites,
    told_at: Timestamp,
    /// Members whose time has come but for which nobody has listened that long; looked at again with the next snapshot.
    waiting: BTreeSet<InstanceId>,
    /// When somebody listened; nothing is known of that before the first word.
    newest: Arc<Newest>,
    has_listened: bool,
    /// Since when all there is to tell is waited for; nothing once it was told.
    anew_since: Option<Timestamp>,
    readings: Readings,
}

impl View {
    /// A pool of which nothing else is known yet.
    #[must_use]
    pub fn new(pool: Arc<Pool>, now: Timestamp) -> Self {
        let mut view = Self {
            pool: pool.clone(),
            members: Members::default(),
            index: Index::default(),
            settings: 0,
            ranks: Ranks::new(),
            versions: Versions::default(),
            sites: Sites::default(),
            told_at: now,
            waiting: BTreeSet::new(),
            newest: Arc::default(),
            has_listened: false,
            anew_since: Some(now),
            readings: Readings::new(),
        };
        view.set_pool(pool, now);
        view
    }

    /// Takes new settings: sensors that are gone are forgotten, new ones begin as never heard, and every deadline is set anew.
    pub fn set_pool(&mut self, pool: Arc<Pool>, now: Timestamp) -> Changed {
        self.readings.retain(|name, _| pool.spec.sensors.contains_key(name));
        for (name, spec) in &pool.spec.sensors {
            let limits = spec.staleness();
            self.readings
                .entry(name.clone())
                .and_modify(|r| r.limits = limits)
                .or_insert_with(|| Reading::never(now, limits));
        }
        self.settings = crate::spec::wish_of(&pool.spec);
        self.pool = pool;
        self.rank();
        let mut changed = Changed {
            decision: true,
            ..Changed::default()
        };
        let ids: Vec<InstanceId> = self.members.iter().map(|member| member.instance.id).collect();
        for id in ids {
            changed.absorb(self.judge(id, now));
        }
        changed
    }

    /// Whether the pool still has the placement that an instance was launched by.
    #[must_use]
    pub fn is_placed(&self, instance: &Instance) -> bool {
        self.ranks.get(instance.placed_by()).is_some_and(|(site, _)| *site == instance.site)
    }

    /// Ranks members by the pool's placements and its template as they are now.
    fn rank(&mut self) {
        let placements = self.pool.spec.placements.iter();
        let named = placements.map(|placement| (placement.called().to_owned(), placement.site.clone()));
        let ranks: Ranks = named.zip(0..).map(|((name, site), rank)| (name, (site, rank))).collect();
        let versions = Versions::of(&self.pool);
        if (&ranks, &versions) == (&self.ranks, &self.versions) {
            return;
        }
        (self.ranks, self.versions) = (ranks, versions);
        for place in self.members.places() {
            if let Some(member) = self.members.at_mut(place) {
                let standing = Standing::of(&member.instance, &self.ranks, &self.versions);
                self.index.change(member, |member| member.standing = standing);
            }
        }
    }

    /// Takes what is known of sites.
    pub fn on_sites(&mut self, sites: Sites) {
        self.sites = sites;
    }

    /// The most machines of one launch on a placement's site.
    #[must_use]
    pub fn launch_most(&self, placement: &Placement) -> usize {
        self.sites.get(&placement.site).copied().unwrap_or_default().launch_most
    }

    /// A digest of what a launch by this placement asks of its site.
    #[must_use]
    pub fn asked_by(&self, placement: &Placement) -> u64 {
        let site = self.sites.get(&placement.site).copied().unwrap_or_default();
        crate::spec::asked_by(&self.pool, placement, site.settings)
    }

    /// Takes in that the provisioner has told of this pool, or of everything.
    pub fn told(&mut self, now: Timestamp) {
        self.told_at = now;
    }

    /// Members that count as live and that a telling which names all that live does not name, some hundreds at most: their ends
    /// were missed, or the telling is older than they are. The provisioner knows which. `named` is in order.
    #[must_use]
    pub fn untold(&self, covers: &Covers, named: &[InstanceId]) -> Vec<InstanceId> {
        let is_recorded = |member: &&Member| member.instance.state != State::Requesting && !member.instance.state.is_end();
        let members = self.members.range(covers.bounds()).filter(is_recorded);
        let ids = members
            .map(|member| member.instance.id)
            .filter(|id| named.binary_search(id).is_err());
        ids.take(UNTOLD_MOST).collect()
    }

    /// Takes in a record of the provisioner's. An old version changes nothing.
    pub fn instance(&mut self, instance: Arc<Instance>, now: Timestamp) -> Changed {
        let id = instance.id;
        let known = self.members.get(id);
        if known.is_some_and(|m| m.instance.version >= instance.version)
            || (known.is_none() && instance.state.is_end() && !lingers(&instance, now))
            // Its launch was refused, which was counted when the answer came.
            || (known.is_none() && instance.state == State::Rejected)
        {
            return Changed::default();
        }
        let mut changed = Changed {
            decision: true,
            ..Changed::default()
        };
        changed
            .outcomes
            .extend(outcomes(self, known.map(|m| m.instance.as_ref()), &instance, now));
        if let Some(member) = self.members.get_mut(id) {
            self.index.change(member, |member| {
                if member.ordered.is_some_and(|note| note.is_shown_by(&instance)) {
                    member.ordered = None;
                }
                member.instance = instance;
            });
        } else {
            let standing = Standing::of(&instance, &self.ranks, &self.versions);
            self.put_in(Member::new(instance, standing));
        }
        changed.absorb(self.judge(id, now));
        changed
    }

    /// Takes in the provisioner's records at start: what [`Self::instance`] does with each, without searching for any.
    pub fn load(&mut self, mut instances: Vec<Arc<Instance>>, now: Timestamp) -> Changed {
        let mut changed = Changed::default();
        if !self.members.is_empty() {
            for instance in instances {
                changed.absorb(self.instance(instance, now));
            }
            return changed;
        }
        instances.retain(|instance| !instance.state.is_end() || lingers(instance, now));
        instances.sort_by_key(|instance| instance.id);
        changed.decision = !instances.is_empty();
        changed.outcomes = instances.iter().flat_map(|instance| outcomes(self, None, instance, now)).collect();
        let mut victims = Vec::with_capacity(instances.len());
        let (index, ranks, versions) = (&mut self.index, &self.ranks, &self.versions);
        self.members.fill(instances.into_iter().map(|instance| {
            let standing = Standing::of(&instance, ranks, versions);
            let mut member = Member::new(instance, standing);
            index.add_but_victim(&mut member);
            victims.extend(member.key);
            member
        }));
        index.victims = victims.into_iter().collect();
        for place in self.members.places() {
            changed.absorb(self.judge_at(place, now));
        }
        changed
    }

    /// Drops an instance that the provisioner never accepted.
    pub fn refused(&mut self, id: InstanceId) {
        if self.members.get(id).is_some_and(|m| m.instance.state == State::Requesting) {
            self.take_out(id);
        }
    }

    /// Notes what was ordered, until the provisioner's record says so itself.
    pub fn ordered(&mut self, id: InstanceId, what: Ordered) {
        if let Some(member) = self.members.get_mut(id) {
            let note = Note { what, until: None };
            self.index.change(member, |member| member.ordered = Some(note));
        }
    }

    /// The command was accepted: should the provisioner's record not follow, the note is dropped after a while.
    pub fn accepted(&mut self, id: InstanceId, what: Ordered, now: Timestamp) {
        let Some(member) = self.members.get_mut(id) else { return };
        // A later order for it, still to be accepted, keeps its note.
        if let Some(note) = member.ordered.as_mut().filter(|note| note.what == what) {
            let until = now + ORDER_LASTS;
            note.until = Some(until);
            let due = member.due.map_or(until, |due| due.min(until));
            self.index.set_due(member, Some(due));
        }
    }

    /// Drops the note: the provisioner did not do it. That of a later order stays.
    pub fn not_ordered(&mut self, id: InstanceId, what: Ordered) {
        if let Some(member) = self.members.get_mut(id)
            && member.ordered.is_some_and(|note| note.what == what)
        {
            self.index.change(member, |member| member.ordered = None);
        }
    }

    /// Has when somebody listened read off there from its first word on, which still comes by [`Self::listened`].
    pub fn hears_with(&mut self, newest: Arc<Newest>) {
        self.newest = newest;
    }

    /// Whether the next word of an aggregator says something, whatever it is: that somebody listens, or who is still silent.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.has_listened || !self.waiting.is_empty()
    }

    /// Takes in that somebody has listened, and whether all that is known has been told; looks again at those that waited for it.
    /// To be called after [`Self::heard`] for what came with it.
    pub fn listened(&mut self, listening: Listening, complete: bool, now: Timestamp) -> Changed {
        self.newest.set(listening);
        self.has_listened = true;
        let mut changed = Changed {
            decision: complete && !self.has_heard_all(),
            ..Changed::default()
        };
        if let Some(since) = self.anew_since.take_if(|_| complete) {
            // From now on their silence counts from before.
            let silent = self.members.iter().filter(|member| member.heard_at.is_none_or(|at| at < since));
            self.waiting.extend(silent.map(|member| member.instance.id));
        }
        if self.waiting.is_empty() {
            return changed;
        }
        for id in std::mem::take(&mut self.waiting) {
            changed.absorb(self.judge(id, now));
        }
        changed
    }

    /// Some of what was told was lost: nothing shrinks until all of it is told again, and until then silence counts from now on.
    pub fn hear_anew(&mut self, now: Timestamp) {
        self.anew_since.get_or_insert(now);
    }

    /// Takes in what was heard from one instance.
    pub fn heard(&mut self, heard: &Heard, now: Timestamp) -> Changed {
        let id = heard.instance;
        let at = Timestamp(now.0.saturating_sub(heard.ago_ms.max(0)));
        let Some(known) = self.members.get_mut(id) else {
            return Changed::default();
        };
        if known.heard_at.is_some_and(|before| before > at) {
            return Changed::default();
        }
        let same = known.work == heard.work && known.told_to_drain == heard.draining && known.condition == heard.condition;
        if same && (known.is_settled() || (known.health == Health::Ok && known.instance.state == State::Running)) {
            // The steady case, and by far the most frequent: its deadline finds out by itself that it was heard from.
            known.heard_at = Some(at);
            return Changed::default();
        }
        self.index.change(known, |member| {
            member.heard_at = Some(at);
            member.condition.clone_from(&heard.condition);
            if member.work != heard.work || member.work_since > now {
                member.work_since = Timestamp(now.0.saturating_sub(heard.work_for_ms.max(0)));
            }
            member.work = heard.work;
            member.told_to_drain = heard.draining;
        });
        let mut changed = Changed {
            decision: true,
            ..Changed::default()
        };
        changed.absorb(self.judge(id, now));
        changed
    }

    /// Takes in what a sensor said. True when a decision could depend on it.
    pub fn sensor(&mut self, report: &SensorReport, now: Timestamp) -> bool {
        let Some(reading) = self.readings.get_mut(&report.sensor) else {
            return false;
        };
        let before = (reading.status(now), reading.covers_in_progress);
        let taken_at = report.age_ms.map(|age| Timestamp(now.0.saturating_sub(age.max(0))));
        let newer = taken_at.is_some() && taken_at >= reading.taken_at;
        if newer {
            reading.value = report.value;
            reading.taken_at = taken_at;
            reading.covers_in_progress = report.covers_in_progress;
            reading.reported = report.reported;
            reading.of = report.of;
        }
        if newer || report.fault.is_some() {
            reading.fault.clone_from(&report.fault);
        }
        reading.source.clone_from(&report.source);
        before != (reading.status(now), reading.covers_in_progress)
    }

    /// Takes in the site's word about an instance that is out of contact. About any other it means nothing.
    pub fn site_said(&mut self, id: InstanceId, word: SiteWord, now: Timestamp) -> Changed {
        let Some(member) = self.members.get_mut(id).filter(|member| member.health == Health::OutOfContact) else {
            return Changed::default();
        };
        member.site = Some(word);
        self.judge(id, now)
    }

    /// Looks at every member whose time has come.
    pub fn look(&mut self, now: Timestamp) -> Changed {
        let mut changed = Changed::default();
        let mut come = self.come(now);
        while let Some((at, id)) = come.pop_first() {
            let Some(member) = self.members.get_mut(id).filter(|member| member.due == Some(at)) else {
                continue;
            };
            member.due = None;
            if member.instance.state.is_end() && !lingers(&member.instance, now) {
                self.take_out(id);
                continue;
            }
            let over = member.ordered.filter(|note| note.until.is_some_and(|until| until <= now));
            if over.and_then(|note| note.until).is_some_and(|until| until > self.told_at) {
                // Nothing has been told since, so that no record followed says nothing.
                self.index.set_due(member, Some(now + ORDER_LASTS / 6));
                continue;
            }
            if let Some(note) = over {
                changed.decision = true;
                if member.instance.state == State::Requesting {
                    // It was accepted, and yet there is no record of it: whatever became of it, it is not coming.
                    self.take_out(id);
                    continue;
                }
                self.not_ordered(id, note.what);
            }
            changed.absorb(self.judge(id, now));
            if come.is_empty() {
                come = self.come(now);
            }
        }
        changed
    }

    /// Members whose time has come, first come first, but for those that were heard meanwhile: their time comes later.
    fn come(&mut self, now: Timestamp) -> BTreeSet<(Timestamp, InstanceId)> {
        let mut come = BTreeSet::new();
        let listening = self.listening();
        for (at, place) in self.index.due.come(now) {
            let Some(member) = self.members.at_mut(place).filter(|member| member.due == Some(at)) else {
                continue;
            };
            match member.quiet_until(listening, &self.pool.spec.health) {
                Some(later) if later > now => {
                    member.due = Some(later);
                    self.index.due.add(later, place);
                }
                Some(_) | None => {
                    come.insert((at, member.instance.id));
                }
            }
        }
        come
    }

    /// When the next member's time comes, or a reading's status changes by itself.
    #[must_use]
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let readings = self.readings.values().filter_map(|r| r.changes_at(now)).min();
        [self.index.due.first(), readings].into_iter().flatten().min()
    }

    /// What an engine is shown; `boot` is how long instances are known to take to become ready.
    #[must_use]
    pub fn observation(&self, now: Timestamp, target: Option<u32>, boot: Option<Duration>, memory: Memory) -> Observation {
        let seen = |reading: &Reading| SeenReading {
            status: reading.status(now),
            covers_in_progress: reading.covers_in_progress,
        };
        Observation {
            now,
            min: self.pool.spec.min,
            max: self.pool.spec.max,
            target: target.unwrap_or(self.index.counts.capacity),
            counts: self.index.counts,
            readings: self.readings.iter().map(|(name, reading)| (name.clone(), seen(reading))).collect(),
            slots: self.filled_slots().map(|(label, id)| (label.clone(), id)).collect(),
            boot,
            memory,
        }
    }

    /// Slots with the member that holds each: of several the one that came first.
    pub fn filled_slots(&self) -> impl Iterator<Item = (&SlotLabel, InstanceId)> {
        self.index
            .slots
            .iter()
            .filter_map(|(label, members)| members.first().map(|id| (label, *id)))
    }

    /// Every member of a slot, first come first.
    pub fn slot_members(&self) -> impl Iterator<Item = (&SlotLabel, &BTreeSet<InstanceId>)> {
        self.index.slots.iter()
    }

    /// Capacity in the order in which it is given up.
    pub fn victims(&self) -> impl Iterator<Item = &Member> {
        self.index.victims.iter().filter_map(|key| self.member(key.id))
    }

    /// Live members in bad health.
    pub fn unhealthy(&self) -> impl Iterator<Item = &Member> {
        self.index.unhealthy.iter().filter_map(|id| self.member(*id))
    }

    /// Members that were told to drain.
    pub fn draining(&self) -> impl Iterator<Item = &Member> {
        self.index.draining.iter().filter_map(|id| self.member(*id))
    }

    /// Every member, ended ones that are still watched among them.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    /// One member.
    #[must_use]
    pub fn member(&self, id: InstanceId) -> Option<&Member> {
        self.members.get(id)
    }

    /// Counts for a decision.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.index.counts
    }

    /// Live members that are not leaving, by one placement.
    #[must_use]
    pub fn staying_on(&self, placement: &str) -> u32 {
        self.index.placed.get(placement).map_or(0, |placed| placed.staying)
    }

    /// Of those, how many are decided on or coming up.
    #[must_use]
    pub fn pending_on(&self, placement: &str) -> u32 {
        self.index.placed.get(placement).map_or(0, |placed| placed.pending)
    }

    /// Every placement by which any stay, with how many do.
    pub fn placed(&self) -> impl Iterator<Item = (&str, u32)> {
        let staying = self.index.placed.iter().map(|(name, placed)| (name.as_str(), placed.staying));
        staying.filter(|(_, staying)| *staying > 0)
    }

    /// Live members that are not being ended, by placement: what is paid for, and goes on being.
    pub fn paid(&self) -> impl Iterator<Item = (&str, u32)> {
        self.index.placed.iter().map(|(name, placed)| (name.as_str(), placed.paid))
    }

    /// By which placement's name an instance counts, see [`Member::placed_by`].
    #[must_use]
    pub fn placed_by(&self, instance: &Instance) -> String {
        let elsewhere = Standing::of(instance, &self.ranks, &self.versions).elsewhere;
        elsewhere.unwrap_or_else(|| instance.placed_by().to_owned())
    }

    /// Of those that run and stay, how many are out of contact.
    #[must_use]
    pub fn out_of_contact(&self) -> u32 {
        self.index.silent
    }

    /// Live members of older versions, and how many of them are on their way out.
    #[must_use]
    pub fn outdated(&self) -> (u32, u32) {
        (self.index.outdated, self.index.outdated_going)
    }

    /// Live members, whatever their condition.
    #[must_use]
    pub fn live(&self) -> u32 {
        self.index.counts.capacity + self.index.counts.unhealthy + self.index.counts.draining + self.index.ending
    }

    /// Counts for people.
    #[must_use]
    pub fn pool_counts(&self) -> PoolCounts {
        PoolCounts {
            live: self.live(),
            running: self.index.counts.capacity - self.index.counts.pending,
            booting: self.index.counts.pending,
            draining: self.index.counts.draining,
            ending: self.index.ending,
            unhealthy: self.index.counts.unhealthy,
            busy: self.index.counts.busy,
            idle: self.index.counts.idle,
        }
    }

    /// What sensors say.
    #[must_use]
    pub fn readings(&self) -> &Readings {
        &self.readings
    }

    /// A digest of what the guardrails hold to.
    #[must_use]
    pub fn settings(&self) -> u64 {
        self.settings
    }

    /// Whether all that is known was told since this view began, or since some of it was lost: before that nothing may shrink.
    #[must_use]
    pub fn has_heard_all(&self) -> bool {
        self.anew_since.is_none()
    }

    /// Since when, and until when, what was said was heard here: by aggregators without a gap, who told all of it.
    #[must_use]
    pub fn listening(&self) -> Option<Listening> {
        self.has_listened.then(|| {
            let newest = self.newest.get();
            Listening {
                since: self.anew_since.map_or(newest.since, |since| newest.since.max(since)),
                ..newest
            }
        })
    }

    fn judge(&mut self, id: InstanceId, now: Timestamp) -> Changed {
        self.members.place(id).map(|place| self.judge_at(place, now)).unwrap_or_default()
    }

    fn judge_at(&mut self, place: Place, now: Timestamp) -> Changed {
        let listening = self.listening();
        let Some(member) = self.members.at_mut(place) else {
            return Changed::default();
        };
        let id = member.instance.id;
        let verdict = health::judge(
            &health::Seen {
                state: member.instance.state,
                state_since: member.instance.state_since,
                worker_failed: member.worker_failed(),
                health: member.health,
                heard_at: member.heard_at,
                condition: &member.condition,
                out_since: member.out_since,
                site: member.site,
                listening,
            },
            &self.pool.spec.health,
        );
        let from = member.health;
        let mut changed = Changed::default();
        if verdict.health != from {
            self.index.change(member, |member| {
                member.health = verdict.health;
                match verdict.health {
                    Health::OutOfContact => member.out_since = Some(now),
                    Health::Missing => {}
                    Health::Unknown | Health::Ok | Health::MonitorError | Health::ProcessError | Health::Zombie => {
                        member.out_since = None;
                        member.site = None;
                    }
                }
            });
            changed.decision = true;
            // The end of an instance is told by its state; that its health is no longer known needs no telling.
            if verdict.health != Health::Unknown {
                changed.health.push((id, from, verdict.health, verdict.why));
            }
            if verdict.ask_site {
                changed.ask_site.push(id);
                // What follows depends on the answer, and on silence from here on.
                changed.absorb(self.judge_at(place, now));
                return changed;
            }
        }
        let overdue = verdict.look_at.is_some_and(|at| at <= now);
        // Before anybody is known to listen, its silence has no beginning, and so no end that could be waited for.
        let is_before_all = !self.has_listened && member.instance.state == State::Running;
        if overdue || is_before_all {
            self.waiting.insert(id);
        }
        let look_at = verdict.look_at.filter(|_| !overdue);
        let ended = member
            .instance
            .state
            .is_end()
            .then(|| member.instance.state_since + *self.pool.spec.health.zombie + ENDED_LASTS);
        let order_ends = member.ordered.and_then(|note| note.until);
        self.index.set_due(member, [look_at, ended, order_ends].into_iter().flatten().min());
        changed
    }

    fn take_out(&mut self, id: InstanceId) {
        if let Some(member) = self.members.remove(id) {
            self.index.remove(&member);
        }
    }

    fn put_in(&mut self, mut member: Member) {
        self.index.add(&mut member);
        self.members.add(member);
    }

    /// Counts everything anew: what the kept counts must equal.
    #[must_use]
    pub fn recount(&self) -> (Counts, u32) {
        let mut fresh = Self::new(self.pool.clone(), Timestamp::START);
        for member in self.members.iter() {
            fresh.put_in(Member {
                due: None,
                ..member.clone()
            });
        }
        (fresh.index.counts, fresh.index.ending)
    }
}

/// By name, the site and the rank of each placement.
type Ranks = BTreeMap<String, (SiteName, u32)>;

/// How a member stands to the pool's placements as they are now.
#[derive(Debug, Clone)]
struct Standing {
    /// Its placement's rank; behind all others where the pool has it no more.
    rank: u32,
    /// Whether its placement would launch another version.
    outdated: bool,
    /// What it counts by instead, where its placement's name is that of another site's by now.
    elsewhere: Option<String>,
}

impl Standing {
    fn of(instance: &Instance, ranks: &Ranks, versions: &Versions) -> Self {
        let found = ranks.get(instance.placed_by());
        let here = found.filter(|(site, _)| *site == instance.site);
        Self {
            rank: here.map_or(u32::MAX, |(_, rank)| *rank),
            outdated: versions.is_outdated(instance),
            elsewhere: (found.is_some() && here.is_none()).then(|| format!("{}@{}", instance.placed_by(), instance.site)),
        }
    }
}

fn lingers(instance: &Instance, now: Timestamp) -> bool {
    now.since(instance.state_since) < ENDED_LASTS
}

/// The named readings that an engine needs and that cannot be acted on now.
#[must_use]
pub fn unreadable(readings: &Readings, needed: &[SensorName], now: Timestamp) -> Vec<SensorName> {
    needed
        .iter()
        .filter(|name| readings.get(*name).is_none_or(|r| r.status(now).fresh().is_none()))
        .cloned()
        .collect()
}
