//! What must always be true, as far as the provisioner can see it ([`epu_core::invariant`]).
//!
//! Nothing here repairs anything. Each check is made only where its answer is certain, and what it does not apply to is said with it:
//!
//! - **I1**: machines that no record explains are counted from the site's complete lists, each once, from when every call to the site
//!   has worked; a site that does not answer, or ends nothing, starts that anew, and so do records that had to be read anew and time in
//!   which this process was held up. Two machines
//!   of one instance are counted once both were in two lists in a row.
//! - **I2** is not counted but kept: a launch that its pool's maximum, which it carries, has no room for is refused
//!   ([`crate::launching`]). A launch of an operator, or of a release that did not carry it, has none.
//! - **I5**: from the records, once a while, after what is due was acted upon; not before this process has acted for so long, and
//!   not of instances whose site the config has no longer.
//! - **I7**: the store is asked for the launch before its call is made. A call that it does not explain is not made; a store that does
//!   not answer says nothing, and the call is made, since it was recorded before. Ending a machine belongs to a record that says so, or to none.
//! - **I11**: an order that is refused has changed nothing that will be written.
//! - **I12**: what becomes `TERMINATED` was called gone by its site when it was last asked, and while the installation is closed
//!   nobody stays for long who was not told to go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use epu_core::id::{InstanceId, SiteName};
use epu_core::instance::Instance;
use epu_core::invariant::{self, Intention, Violation};
use epu_core::launch::Launch;
use epu_core::life::State;
use epu_core::time::Timestamp;
use epu_store::Store;
use tracing::error;

use crate::book::Book;
use crate::iaas::{IaasLaunch, Machine, MachineState};
use crate::metrics::Metrics;
use crate::service::Service;
use crate::site::Site;

/// How long acting on a deadline may take before it counts as missed. Too low: a busy store looks like a fault of ours.
const DEADLINE_GRACE: Duration = Duration::from_secs(60);
/// Between two looks at the records. Too long: a missed deadline is noticed late.
const EVERY: Duration = Duration::from_secs(30);
/// Missed deadlines that one look finds at the most.
const LATE_MOST: usize = 100;
/// How long the store may take to say whether a launch is recorded; then the call is made without.
const STORE_WITHIN: Duration = Duration::from_secs(5);
/// Coming back this much later than it meant to, this process was held up: stopped, short of processor time, or its store is slow. Too
/// high: what nobody could see to meanwhile is counted against it.
const HELD_UP: Duration = Duration::from_secs(30);
/// Lists in a row that show two machines of one instance before that is believed.
const DOUBLE_LISTS: u32 = 2;

/// When was checked what.
#[derive(Debug)]
pub(crate) struct Checks {
    /// Since when this process acts on what the store has.
    acts_since: Timestamp,
    /// By when it means to look again.
    wakes_by: Timestamp,
    next_at: Timestamp,
    /// Those whose deadline was missed and that were counted for it.
    late: BTreeSet<InstanceId>,
    /// Since when somebody stays though the installation is closed, and whether it was counted.
    stays_since: Option<(Timestamp, bool)>,
}

impl Checks {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            acts_since: now,
            wakes_by: now,
            next_at: now + EVERY,
            late: BTreeSet::new(),
            stays_since: None,
        }
    }

    /// It waits now, until then at the latest.
    pub(crate) fn waits(&mut self, until: Timestamp) {
        self.wakes_by = until;
    }
}

/// Logs and counts a violation.
pub(crate) fn count(metrics: &Metrics, violation: &Violation) {
    error!(
        invariant = violation.invariant.id(),
        what = violation.what,
        "something that must always be true is not"
    );
    metrics.violations.count(violation);
}

/// I7: how the store has a launch that is about to be called, if it is not as it is called. None when the store does not say.
pub(crate) async fn unintended(store: &dyn Store, call: &IaasLaunch, epoch: u64) -> Option<Violation> {
    let asked = tokio::time::timeout(STORE_WITHIN, store.launch(call.launch)).await;
    let Ok(Ok(recorded)) = asked else { return None };
    let ids = |launch: &Launch| launch.request.instances.iter().map(|wanted| wanted.id).collect::<Vec<_>>();
    let recorded = recorded.map(|launch| (ids(&launch), launch.epoch));
    let recorded = recorded.as_ref().map(|(instances, epoch)| Intention { instances, epoch: *epoch });
    let instances = &call.instances;
    invariant::intended(call.launch, Intention { instances, epoch }, recorded)
}

/// I7: machines that are to be ended and are those of instances which live and are not being ended.
pub(crate) fn ended_against_records(site: &Site, book: &Book) -> Vec<(String, Violation)> {
    let Some(on_site) = book.on_site(&site.name) else {
        return Vec::new();
    };
    let check = |machine: &String| {
        let instance = on_site.machines.get(machine).and_then(|id| book.get(*id));
        let violation = invariant::ended_as_recorded(machine, instance.map(AsRef::as_ref))?;
        Some((machine.clone(), violation))
    };
    site.to_end.iter().filter_map(check).collect()
}

impl Service {
    pub(crate) fn violated(&self, violation: Option<Violation>) {
        if let Some(violation) = violation {
            count(&self.metrics, &violation);
        }
    }

    /// The records were read anew, or nobody looked for a while: nothing is late yet, and no machine has been without a record.
    pub(crate) fn begins_anew(&mut self, now: Timestamp) {
        self.checks.acts_since = now;
        for site in self.sites.values_mut().filter(|site| site.works_since <= now) {
            site.works_since = now;
        }
    }

    /// I12: an instance is as a turn has left it, and was written.
    pub(crate) fn count_unconfirmed(&self, after: &Instance) {
        let Some(before) = self.book.get(after.id) else { return };
        self.violated(invariant::moved_legally(before, after));
        if before.state == State::Terminated || after.state != State::Terminated {
            return;
        }
        if let Some(site) = self.sites.get(&after.site) {
            self.violated(invariant::confirmed_gone(after, site.called_gone.contains(&after.id)));
        }
    }

    /// I5 and I12, from the records, once a while.
    pub(crate) fn check_records(&mut self, now: Timestamp) {
        self.unless_held_up(now);
        if now < self.checks.next_at {
            return;
        }
        self.checks.next_at = now + EVERY;
        if now.since(self.checks.acts_since) <= DEADLINE_GRACE {
            return;
        }
        let overdue = self.book.overdue(now - DEADLINE_GRACE, LATE_MOST);
        // Those that were acted upon in this turn are not in the book yet.
        let missed: Vec<(InstanceId, Violation)> = overdue
            .into_iter()
            .filter(|id| !self.has_no_site(*id))
            .filter_map(|id| Some((id, invariant::deadline_kept(self.instance(id)?, now, DEADLINE_GRACE)?)))
            .collect();
        let before = std::mem::replace(&mut self.checks.late, missed.iter().map(|(id, _)| *id).collect());
        for (_, violation) in missed.into_iter().filter(|(id, _)| !before.contains(id)) {
            self.violated(Some(violation));
        }
        let stays = |instance: &Instance| !instance.is_leaving() && instance.state != State::RunningFailed;
        let staying = match self.closed {
            true => self.book.live().filter(|instance| stays(instance)).count(),
            false => 0,
        };
        if staying == 0 {
            self.checks.stays_since = None;
            return;
        }
        // What a teardown changes is written in the turns that follow it.
        let (since, counted) = *self.checks.stays_since.get_or_insert((now, false));
        if !counted && now.since(since) > DEADLINE_GRACE {
            self.violated(invariant::nobody_stays(staying));
            self.checks.stays_since = Some((since, true));
        }
    }

    /// I1: machines of one list that are a second one of an instance whose own is in that list too.
    pub(crate) fn count_doubles(&mut self, site: &SiteName, strays: &[Machine], present: &BTreeSet<String>) {
        let second = |machine: &Machine| {
            let instance = self
                .tagged(machine)
                .filter(|instance| instance.is_live() && instance.site == *site)?;
            let own = instance.machine.as_ref()?;
            let runs = matches!(machine.state, MachineState::Pending | MachineState::Running);
            let is_second = runs && machine.launch == Some(instance.launch) && *own != machine.id && present.contains(own);
            is_second.then_some(instance.id)
        };
        let mut machines: BTreeMap<InstanceId, usize> = BTreeMap::new();
        for id in strays.iter().filter_map(second) {
            *machines.entry(id).or_insert(1) += 1;
        }
        let Some(known) = self.sites.get_mut(site) else { return };
        let before = std::mem::take(&mut known.doubles);
        let mut violations = Vec::new();
        for (id, machines) in machines {
            let lists = before.get(&id).copied().unwrap_or(0).saturating_add(1);
            known.doubles.insert(id, lists);
            if lists == DOUBLE_LISTS {
                violations.extend(invariant::one_machine(id, machines));
            }
        }
        for violation in violations {
            self.violated(Some(violation));
        }
    }

    /// Time in which nobody here looked is nobody's to be counted.
    fn unless_held_up(&mut self, now: Timestamp) {
        if now.since(self.checks.wakes_by) > HELD_UP {
            self.checks.wakes_by = now;
            self.begins_anew(now);
        }
    }

    /// I1: machines that have been without a record for longer than the sweep takes.
    pub(crate) fn count_strays(&mut self, site: &SiteName, now: Timestamp) {
        self.unless_held_up(now);
        if self.reload_at.is_some() {
            return;
        }
        let config = &self.config;
        let Some(known) = self.sites.get_mut(site).filter(|known| known.works_since <= now) else {
            return;
        };
        // A grace before its end is asked for, and another before it is asked for again; two looks in each, and a few machines after each.
        let grace = *config.sweep_grace.unwrap_or(known.can.sweep_grace);
        let look = *config.look_steady.unwrap_or(known.can.look_steady);
        let passes = known.strays.len() / usize::from(config.sweep_most.max(1));
        let looks = u32::try_from(passes).unwrap_or(u32::MAX).saturating_add(4);
        let within = (grace * 2)
            .saturating_add(look.saturating_mul(looks))
            .saturating_add(*config.terminate_within);
        let mut violations = Vec::new();
        for (machine, stray) in &mut known.strays {
            if stray.is_counted || stray.machine.state == MachineState::Stopping {
                continue;
            }
            let violation = invariant::swept(machine, stray.since.max(known.works_since), now, within);
            stray.is_counted = violation.is_some();
            violations.extend(violation);
        }
        for violation in violations {
            self.violated(Some(violation));
        }
    }
}
