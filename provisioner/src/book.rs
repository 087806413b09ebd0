//! What is recorded, in memory: every live instance, the launches they came from, and those that ended a moment ago. A copy of the
//! store with indexes; it changes only after the store has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use epu_core::Fault;
use epu_core::id::{InstanceId, LaunchId, PoolName, SiteName};
use epu_core::instance::Instance;
use epu_core::launch::Launch;
use epu_core::life::State;
use epu_core::time::Timestamp;

use crate::lifecycle;
use crate::site::Ticket;

/// Ended instances are kept in mind this long, so that a lost fact about an end is told again.
const RECENT_FOR: Duration = Duration::from_secs(600);
/// Most ended instances kept in mind; the oldest go first.
const RECENT_MOST: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Book {
    live: BTreeMap<InstanceId, Arc<Instance>>,
    recent: BTreeMap<InstanceId, Arc<Instance>>,
    recent_order: VecDeque<(Timestamp, InstanceId)>,
    due: BTreeSet<(Timestamp, InstanceId)>,
    /// Those that are due at another time than their records say, until they change.
    put_off: BTreeMap<InstanceId, Timestamp>,
    sites: BTreeMap<SiteName, OnSite>,
    launches: BTreeMap<LaunchId, Launching>,
    /// Those launches that have no outcome: few, however many there are.
    open: BTreeSet<LaunchId>,
    /// Of each pool how many live and are not on their way out; none where nobody is.
    staying: BTreeMap<PoolName, u32>,
}

/// The live instances of one site.
#[derive(Debug, Default)]
pub(crate) struct OnSite {
    pub(crate) machines: BTreeMap<String, InstanceId>,
    /// Those about which the site's list will soon say something new.
    pub(crate) moving: BTreeSet<InstanceId>,
    pub(crate) live: u32,
}

/// A launch and how far it is.
#[derive(Debug)]
pub(crate) struct Launching {
    pub(crate) launch: Launch,
    pub(crate) live: u32,
    /// Whether a call is under way.
    pub(crate) calling: bool,
    /// Not to be called before.
    pub(crate) next_at: Timestamp,
    pub(crate) failures: u32,
    /// What the site said when it would not launch it: it is not called any more.
    pub(crate) refused: Option<Fault>,
    /// The call that is under way, or waits for its turn.
    pub(crate) ticket: Option<Arc<Ticket>>,
    /// Whether a call may have come to something that nobody heard of: an answer was lost, or another process may have called.
    pub(crate) doubtful: bool,
    /// When the last call ended, or when this process began to know the launch.
    pub(crate) quiet_since: Timestamp,
}

impl Launching {
    pub(crate) fn new(launch: Launch, now: Timestamp) -> Self {
        Self {
            launch,
            live: 0,
            calling: false,
            next_at: now,
            failures: 0,
            refused: None,
            ticket: None,
            doubtful: true,
            quiet_since: now,
        }
    }

    /// Whether its call waits for its turn and is not made yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.calling && self.ticket.as_ref().is_some_and(|ticket| ticket.is_waiting())
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.launch.request.instances.iter().map(|wanted| wanted.id)
    }
}

impl Book {
    /// The whole, as the store has it. What is known of calls under way and of ended instances is kept.
    pub(crate) fn replace(&mut self, instances: Vec<Instance>, launches: Vec<Launch>, now: Timestamp) {
        let mut before = std::mem::take(&mut self.launches);
        self.live.clear();
        self.due.clear();
        self.put_off.clear();
        self.sites.clear();
        self.open.clear();
        self.staying.clear();
        for launch in launches {
            let kept = before.remove(&launch.id).map(|known| Launching { live: 0, ..known });
            let mut entry = kept.unwrap_or_else(|| Launching::new(launch.clone(), now));
            entry.launch = launch;
            if entry.launch.outcome.is_none() {
                self.open.insert(entry.launch.id);
            }
            self.launches.insert(entry.launch.id, entry);
        }
        for instance in instances {
            self.put(Arc::new(instance), now);
        }
    }

    pub(crate) fn put_launch(&mut self, launch: Launch, now: Timestamp) {
        if launch.outcome.is_none() {
            self.open.insert(launch.id);
        } else {
            self.open.remove(&launch.id);
        }
        match self.launches.get_mut(&launch.id) {
            Some(known) => known.launch = launch,
            None => {
                self.launches.insert(launch.id, Launching::new(launch, now));
            }
        }
    }

    /// An instance as it is from now on.
    pub(crate) fn put(&mut self, instance: Arc<Instance>, now: Timestamp) {
        let id = instance.id;
        self.take(id);
        if instance.state.is_end() {
            self.forget_if_over(instance.launch);
            if self.recent.insert(id, instance).is_none() {
                self.recent_order.push_back((now, id));
            }
            self.forget_recent(now);
            return;
        }
        if let Some(at) = lifecycle::due_at(&instance) {
            self.due.insert((at, id));
        }
        let site = self.sites.entry(instance.site.clone()).or_default();
        site.live += 1;
        if let Some(machine) = &instance.machine {
            site.machines.insert(machine.clone(), id);
        }
        if is_moving(instance.state) {
            site.moving.insert(id);
        }
        if let Some(launch) = self.launches.get_mut(&instance.launch) {
            launch.live += 1;
        }
        if !instance.is_leaving() {
            *self.staying.entry(instance.pool.clone()).or_default() += 1;
        }
        self.live.insert(id, instance);
    }

    fn take(&mut self, id: InstanceId) {
        let Some(old) = self.live.remove(&id) else { return };
        if let Some(at) = self.put_off.remove(&id).or_else(|| lifecycle::due_at(&old)) {
            self.due.remove(&(at, id));
        }
        if let Some(site) = self.sites.get_mut(&old.site) {
            site.live = site.live.saturating_sub(1);
            site.moving.remove(&id);
            if let Some(machine) = &old.machine {
                site.machines.remove(machine);
            }
        }
        if let Some(launch) = self.launches.get_mut(&old.launch) {
            launch.live = launch.live.saturating_sub(1);
        }
        if let Some(staying) = self.staying.get_mut(&old.pool).filter(|_| !old.is_leaving()) {
            *staying = staying.saturating_sub(1);
            if *staying == 0 {
                self.staying.remove(&old.pool);
            }
        }
    }

    /// How many of a pool live and are not on their way out.
    pub(crate) fn staying(&self, pool: &PoolName) -> u32 {
        self.staying.get(pool).copied().unwrap_or(0)
    }

    /// A launch is over when it came to something and nothing of it lives.
    pub(crate) fn forget_if_over(&mut self, id: LaunchId) {
        let over = |known: &Launching| known.live == 0 && known.launch.outcome.is_some() && !known.calling;
        if self.launches.get(&id).is_some_and(over) {
            self.launches.remove(&id);
        }
    }

    fn forget_recent(&mut self, now: Timestamp) {
        while let Some((at, id)) = self.recent_order.front().copied() {
            if self.recent_order.len() <= RECENT_MOST && now.since(at) < RECENT_FOR {
                break;
            }
            self.recent_order.pop_front();
            self.recent.remove(&id);
        }
    }

    pub(crate) fn get(&self, id: InstanceId) -> Option<&Arc<Instance>> {
        self.live.get(&id).or_else(|| self.recent.get(&id))
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.live.values()
    }

    pub(crate) fn live_count(&self) -> usize {
        self.live.len()
    }

    /// Up to `most` live instances after an id.
    pub(crate) fn page(&self, after: Option<InstanceId>, most: usize) -> Vec<Arc<Instance>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.live
            .range((from, Unbounded))
            .take(most)
            .map(|(_, instance)| instance.clone())
            .collect()
    }

    pub(crate) fn recent(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.recent.values()
    }

    /// Instances whose deadline has passed, up to `most`.
    pub(crate) fn overdue(&self, now: Timestamp, most: usize) -> Vec<InstanceId> {
        self.due
            .iter()
            .take_while(|(at, _)| *at <= now)
            .take(most)
            .map(|(_, id)| *id)
            .collect()
    }

    /// Looks at a live instance again at `at` and not when its record says so; nothing is written for that.
    pub(crate) fn put_off(&mut self, id: InstanceId, at: Timestamp) {
        let Some(instance) = self.live.get(&id) else { return };
        let before = self.put_off.insert(id, at).or_else(|| lifecycle::due_at(instance));
        if let Some(before) = before {
            self.due.remove(&(before, id));
        }
        self.due.insert((at, id));
    }

    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    pub(crate) fn on_site(&self, site: &SiteName) -> Option<&OnSite> {
        self.sites.get(site)
    }

    /// Every site that was ever one of a live instance since the book was read.
    pub(crate) fn sites(&self) -> impl Iterator<Item = (&SiteName, &OnSite)> {
        self.sites.iter()
    }

    /// Whether this is the recorded machine of a live instance on any other site.
    pub(crate) fn is_elsewhere(&self, site: &SiteName, machine: &str) -> bool {
        self.sites
            .iter()
            .any(|(name, on_site)| name != site && on_site.machines.contains_key(machine))
    }

    pub(crate) fn launch(&self, id: LaunchId) -> Option<&Launching> {
        self.launches.get(&id)
    }

    pub(crate) fn launch_mut(&mut self, id: LaunchId) -> Option<&mut Launching> {
        self.launches.get_mut(&id)
    }

    /// Every launch that has no outcome, or of which something lives.
    pub(crate) fn launches(&self) -> impl Iterator<Item = &Launching> {
        self.launches.values()
    }

    /// What came of calls may not have been recorded: those without an outcome are called again, not before `at`.
    pub(crate) fn retry_launches(&mut self, at: Timestamp) {
        for id in &self.open {
            if let Some(known) = self.launches.get_mut(id) {
                known.next_at = known.next_at.max(at);
            }
        }
    }

    /// Launches without an outcome.
    pub(crate) fn open_launches(&self) -> impl Iterator<Item = &Launching> {
        self.open.iter().filter_map(|id| self.launches.get(id))
    }
}

/// Whether the site's next list is likely to move it on.
fn is_moving(state: State) -> bool {
    match state {
        State::Requesting | State::Requested | State::ErrorRetrying | State::Pending | State::Terminating => true,
        State::Started | State::Running | State::RunningFailed | State::Terminated | State::Failed | State::Rejected => false,
    }
}
