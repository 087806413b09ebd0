//! What the controller knows, as it is shown to people and programs.

use epu_core::Fault;
use epu_core::id::{InstanceId, PoolName};
use epu_core::instance::Instance;
use epu_core::lease::{Domain, SHARDS};
use epu_core::request::{Answer, InstanceFilter, InstanceView, PoolBrief, PoolView, ReadingView, Request, Service, StatusView};
use epu_store::Store;

use crate::managing::Managed;
use crate::ops::store_fault;
use crate::placements;
use crate::service::Controller;
use crate::view::Member;

/// The most instances in one answer.
pub(crate) const INSTANCES_MAX: usize = 200_000;

impl Controller {
    pub(crate) fn pool_views(&self) -> Vec<PoolView> {
        self.pools.values().map(|managed| self.view_of(managed)).collect()
    }

    pub(crate) fn pool_view(&self, name: &PoolName) -> Result<PoolView, Fault> {
        self.pool(name)?;
        self.pools
            .get(name)
            .map(|managed| self.view_of(managed))
            .ok_or_else(|| Fault::new("no-such-pool", format!("no pool is named {name}")))
    }

    fn view_of(&self, managed: &Managed) -> PoolView {
        let now = self.parts.clock.now();
        let view = &managed.view;
        let mut slots: std::collections::BTreeMap<_, _> = wanted_slots(managed).into_iter().map(|label| (label, None)).collect();
        slots.extend(view.filled_slots().map(|(label, id)| (label.clone(), Some(id))));
        PoolView {
            pool: view.pool.as_ref().clone(),
            counts: view.pool_counts(),
            target: managed.target,
            decision: managed.last.clone(),
            readings: view
                .readings()
                .iter()
                .map(|(name, r)| {
                    (
                        name.clone(),
                        ReadingView {
                            reading: r.clone(),
                            status: r.status(now),
                        },
                    )
                })
                .collect(),
            slots,
            concerns: self.concerns_of(managed),
            boot_ms: managed.guards.boot(view).map(epu_core::time::millis),
            versions: crate::rollout::versions(view),
        }
    }

    /// What holds a pool up or is wrong with it.
    fn concerns_of(&self, managed: &Managed) -> Vec<String> {
        let now = self.parts.clock.now();
        let view = &managed.view;
        let mut concerns = Vec::new();
        if let Some(fault) = &managed.trouble {
            concerns.push(fault.text.clone());
        }
        for (name, reading) in view.readings() {
            let status = reading.status(now);
            if status.fresh().is_none() {
                let why = reading.fault.as_ref().map_or(String::new(), |fault| format!(": {}", fault.text));
                concerns.push(format!("sensor {name} is {status}{why}"));
            }
        }
        if let Some(storm) = &managed.guards.storm {
            concerns.push(format!(
                "a storm since {}: {} are unhealthy at once",
                storm.since,
                view.counts().unhealthy
            ));
        }
        concerns.extend(placements::concerns(managed, now));
        let held = managed.last.iter().flat_map(|last| &last.suppressed);
        concerns.extend(held.filter(|reason| reason.code == "budget").map(|reason| reason.text.clone()));
        if view.pool.paused.any() {
            let what: Vec<&str> = [
                ("growing", view.pool.paused.grow),
                ("shrinking", view.pool.paused.shrink),
                ("replacing", view.pool.paused.replace),
            ]
            .into_iter()
            .filter_map(|(word, on)| on.then_some(word))
            .collect();
            let why = if view.pool.paused.why.is_empty() {
                String::new()
            } else {
                format!(": {}", view.pool.paused.why)
            };
            concerns.push(format!("{} is paused{why}", what.join(", ")));
        }
        concerns.extend(crate::rolling::concerns(managed));
        if self.left_the_file().contains(&view.pool.name) {
            concerns.push("the config file no longer has this pool; `epumgmt pool remove` ends it".into());
        }
        concerns
    }

    pub(crate) fn status_view(&self) -> StatusView {
        let mut concerns = Vec::new();
        if self.closed {
            concerns.push("the installation is closed by teardown; `epumgmt open` reopens it".into());
        }
        if let Some(fault) = &self.store_fault {
            concerns.push(format!("the store fails: {fault}; nothing is done until it works"));
        }
        let leaderless = self.leaderless();
        if leaderless > 0 {
            concerns.push(format!(
                "{leaderless} of the {SHARDS} shards of pools have no leader just now: nothing is decided for their pools until a controller takes over"
            ));
        }
        let pools: Vec<PoolBrief> = self.pools.values().map(|managed| self.brief(managed)).collect();
        for managed in self.pools.values() {
            concerns.extend(
                self.concerns_of(managed)
                    .into_iter()
                    .map(|text| format!("pool {}: {text}", managed.view.pool.name)),
            );
        }
        StatusView {
            installation: self.parts.config.installation.clone(),
            version: self.parts.config.version.clone(),
            closed: self.closed,
            since: self.since,
            now: self.parts.clock.now(),
            pools,
            concerns,
            standing: self.leads.leading.standing().as_ref().clone(),
        }
    }

    /// How many shards nobody leads, as far as this controller knows; its own that are not loaded yet are not among them.
    fn leaderless(&self) -> usize {
        let now = self.parts.clock.now();
        let leading = &self.leads.leading;
        let me = &leading.member().name;
        let is_led = |domain: &Domain| {
            let leader = leading.standing().leader(*domain);
            leading.term(*domain, now).is_some() || leader.is_some_and(|leader| leader != me)
        };
        Domain::all(Service::Controller).iter().filter(|domain| !is_led(domain)).count()
    }

    fn brief(&self, managed: &Managed) -> PoolBrief {
        let now = self.parts.clock.now();
        let counts = managed.view.pool_counts();
        let capacity = managed.view.counts().capacity;
        let pool = &managed.view.pool;
        let condition = match managed.target {
            _ if pool.removed => "removed",
            _ if self.closed => "closed",
            None => "waiting",
            _ if managed.trouble.is_some()
                || managed.guards.storm.is_some()
                || managed.guards.launching.values().any(|breaker| breaker.holds_now(now)) =>
            {
                "trouble"
            }
            _ if pool.paused.any() => "paused",
            Some(target) if capacity < target || counts.booting > 0 => "growing",
            Some(target) if capacity > target || counts.draining + counts.ending > 0 => "shrinking",
            Some(_) => "steady",
        };
        let why = managed.last.as_ref().map_or_else(String::new, |last| {
            last.reasons
                .iter()
                .chain(&last.suppressed)
                .map(|r| r.text.as_str())
                .collect::<Vec<_>>()
                .join("; ")
        });
        PoolBrief {
            name: pool.name.clone(),
            engine: pool.spec.engine.keys().next().cloned().unwrap_or_default(),
            target: managed.target,
            counts,
            condition: condition.into(),
            why,
        }
    }

    fn live_instances(&self, only: Option<&PoolName>) -> Vec<InstanceView> {
        let pools = self.pools.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
        let members = pools.flat_map(|(_, m)| m.view.members());
        members.filter(|m| m.instance.is_live()).take(INSTANCES_MAX).map(shown).collect()
    }

    pub(crate) async fn instance_list(&self, filter: &InstanceFilter) -> Result<Vec<InstanceView>, Fault> {
        if let Some(pool) = &filter.pool {
            self.pool(pool)?;
        }
        if !filter.all {
            return Ok(self.live_instances(filter.pool.as_ref()));
        }
        let wanted = |pool: &PoolName| filter.pool.as_ref().is_none_or(|only| only == pool);
        let stored = self.parts.store.instances(false).await.map_err(|e| store_fault(&e))?;
        let known = |i: &Instance| self.pools.get(&i.pool).and_then(|m| m.view.member(i.id));
        Ok(stored
            .into_iter()
            .filter(|i| wanted(&i.pool))
            .take(INSTANCES_MAX)
            .map(|i| known(&i).map_or_else(|| bare(i.clone()), shown))
            .collect())
    }

    /// What this controller itself has for an answer that is put together from everybody's.
    #[expect(clippy::wildcard_enum_match_arm, reason = "what is not put together is refused here")]
    pub(crate) fn answer_own(&self, request: &Request) -> Result<Answer, Fault> {
        match request {
            Request::PoolList(_) => Answer::of(&self.pool_views()),
            Request::PlacementList(filter) => Answer::of(&self.placement_views(filter.pool.as_ref())?),
            Request::InstanceList(_) => Answer::of(&self.live_instances(None)),
            Request::InstanceShow(which) => Answer::of(&self.instances_ending_in(&which.instance)?),
            Request::Status(_) => Answer::of(&self.status_view()),
            other => Err(Fault::new("internal", format!("{} is not put together", other.op()))),
        }
    }

    /// Those of its instances whose ids end so.
    fn instances_ending_in(&self, which: &str) -> Result<Vec<InstanceView>, Fault> {
        let which = ending(which)?;
        let members = self.pools.values().flat_map(|m| m.view.members());
        Ok(members.filter(|m| fits(m.instance.id, &which)).map(shown).collect())
    }

    pub(crate) async fn instance_show(&self, which: &str) -> Result<InstanceView, Fault> {
        let known = self.instances_ending_in(which)?;
        match one_of(known, which)? {
            Some(one) => Ok(one),
            // Ended, and not watched any more.
            None => stored_instance(self.parts.store.as_ref(), which).await,
        }
    }
}

/// The end of an id, as somebody wrote it.
fn ending(which: &str) -> Result<String, Fault> {
    let which = which.trim().to_ascii_lowercase();
    if which.len() < 4 {
        let text = "give an instance's id, or at least the last four characters of it";
        return Err(Fault::new("bad-request", text));
    }
    Ok(which)
}

fn fits(id: InstanceId, which: &str) -> bool {
    id.to_string().ends_with(which) || id.0.simple().to_string().ends_with(which)
}

/// The only one, if there is one.
pub(crate) fn one_of(fitting: Vec<InstanceView>, which: &str) -> Result<Option<InstanceView>, Fault> {
    if fitting.len() > 1 {
        let text = format!("{} instances end in {which:?}; give more of the id", fitting.len());
        return Err(Fault::new("bad-request", text));
    }
    Ok(fitting.into_iter().next())
}

/// An instance that only the store still knows.
pub(crate) async fn stored_instance(store: &dyn Store, which: &str) -> Result<InstanceView, Fault> {
    let which = ending(which)?;
    let stored = store.instances(false).await.map_err(|e| store_fault(&e))?;
    let fitting = stored.into_iter().filter(|i| fits(i.id, &which)).map(bare);
    one_of(fitting.collect(), &which)?.ok_or_else(|| {
        let text = format!("no instance is {which:?}; see `epumgmt instance list --all`");
        Fault::new("no-such-instance", text)
    })
}

fn wanted_slots(managed: &Managed) -> Vec<epu_core::SlotLabel> {
    let Some(engine) = &managed.engine else { return Vec::new() };
    let observation = managed
        .view
        .observation(epu_core::Timestamp::START, managed.target, None, managed.memory.clone());
    engine.decide(&observation).slots.into_keys().collect()
}

fn shown(member: &Member) -> InstanceView {
    InstanceView {
        instance: member.instance.as_ref().clone(),
        health: member.health,
        work: member.work,
        heard_at: member.heard_at,
    }
}

pub(crate) fn bare(instance: Instance) -> InstanceView {
    InstanceView {
        instance,
        health: epu_core::health::Health::Unknown,
        work: epu_core::instance::Work::Unknown,
        heard_at: None,
    }
}
