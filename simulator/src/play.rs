//! Pools played against a workload: what would happen to somebody's own pools, were these jobs to come.
//!
//! [`Play`] is everything that decides a run: pools with their templates as the config file's reader resolved them, what arrives for each
//! ([`workload`]), how machines come up ([`boot`]), what goes wrong ([`upsets`]), and a seed. [`Play::run`] makes a [`World`] of it, in which
//! the production services run as they are, lets the pools come up, feeds them their jobs at the very millisecond, and puts what happened
//! into numbers ([`outcome`]). The same play gives the same numbers.
//!
//! What is measured is the truth of the simulated world: when jobs came, began and were done, which workers took jobs, which machines had
//! power. What services believe is not asked. [`ideal`] says what the workload would need at least, and [`elasticity`] compares.

pub mod boot;
pub mod curve;
pub mod elasticity;
pub mod ideal;
pub mod outcome;
pub mod pools;
pub mod upsets;
pub mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use epu_core::code::Fault as Refusal;
use epu_core::id::{InstanceId, PoolName, SiteName};
use epu_core::instance::{Cause, Instance};
use epu_core::time::Timestamp;
use serde::Serialize;

use boot::Boot;
use outcome::{Billing, Interrupted, Measured, Outcome, Paid};
pub use pools::Pool;
use upsets::{Upset, Upsets};

use crate::fault::{Lift, Scene};
use crate::machines::Power;
use crate::process::Process;
use crate::setup::{Own, Setup};
use crate::world::{Broken, INSTALLATION, World};
use crate::{Service, minutes};

/// How long the world goes on between two looks at the machines and at whoever wants to end it.
const LOOK: Duration = minutes(1);
/// Most broken promises that are told.
const BROKEN_MAX: usize = 20;

/// Everything that decides a run.
#[derive(Debug, Clone)]
pub struct Play {
    /// The pools with their work; all of them share the world.
    pub pools: Vec<Pool>,
    /// The sites that they use, each with how many machines it has room for; none: no end of it.
    pub sites: BTreeMap<SiteName, Option<u32>>,
    /// How machines come up.
    pub boot: Boot,
    /// How long a worker's set-up takes once its machine is up.
    pub set_up: Duration,
    /// What goes wrong.
    pub upsets: Upsets,
    /// What chance goes by.
    pub seed: u64,
    /// How long the pools are there before the first job; not measured.
    pub before: Duration,
    /// How long the run goes on after the workload's end.
    pub after: Duration,
    /// How long jobs may wait in the ideal that is compared with.
    pub target_wait: Duration,
    /// What an hour costs where the placement does not say it.
    pub price: Option<f64>,
    /// How time is billed.
    pub billing: Billing,
    /// How many points a series has.
    pub points: usize,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Played {
    /// How long was measured, in seconds.
    pub measured_s: f64,
    /// Each pool.
    pub pools: Vec<Outcome>,
    /// What went wrong, as far as there was anything to go wrong.
    pub faults: Vec<Happened>,
    /// Promises that were broken: an invariant did not hold. There should be none.
    pub broken: Vec<String>,
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Happened {
    /// When, in seconds since the workload began.
    pub at_s: f64,
    /// For how long at the most, in seconds.
    pub lasts_s: f64,
    /// What.
    pub what: String,
}

/// Why it came to nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Unplayed {
    /// Whoever watched wanted it to end; so much of the run had been played.
    Ended(Duration),
    /// The controller refused the pools.
    Refused(Refusal),
    /// A service panicked, with these words.
    Panicked(String),
}

impl fmt::Display for Unplayed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(after) => write!(
                out,
                "ended after {} of simulated time",
                epu_core::Span(Duration::from_secs(after.as_secs()))
            ),
            Self::Refused(fault) => write!(out, "the controller refused the pools: {fault}"),
            Self::Panicked(words) => write!(out, "a service panicked: {words}"),
        }
    }
}

/// How far a run is, and whether it is to go on.
pub type Heed<'a> = &'a dyn Fn(Duration) -> bool;

impl Play {
    /// How long it is, in simulated time.
    #[must_use]
    pub fn lasts(&self) -> Duration {
        let work = self.pools.iter().map(|pool| pool.workload.lasts()).max().unwrap_or_default();
        self.before + work + self.after
    }

    /// Plays it. `heed` is told every simulated minute how far it is, and says whether to go on.
    ///
    /// # Errors
    /// Why it came to nothing.
    pub fn run(&self, heed: Heed<'_>) -> Result<Played, Unplayed> {
        let mut world = World::try_new(&self.setup()).map_err(Unplayed::Refused)?;
        let began = world.now();
        let (from, to) = (began + self.before, began + self.lasts());
        for pool in &self.pools {
            world.feed(&pool.name, pool.workload.clone(), from);
        }
        let mut plan = self.upsets.plan(
            &self.scene(),
            self.before,
            self.lasts().saturating_sub(self.after),
            self.seed ^ 0x5e7b_acc5,
        );
        plan.reverse();
        let mut course = Course {
            play: self,
            from,
            lifts: BTreeMap::new(),
            happened: Vec::new(),
            broken: Vec::new(),
            machines: BTreeMap::new(),
            open: BTreeSet::new(),
            interrupted: self
                .pools
                .iter()
                .map(|pool| (pool.name.clone(), (0, Interrupted::default())))
                .collect(),
        };
        while world.now() < to {
            if !heed(world.now().since(began)) {
                return Err(Unplayed::Ended(world.now().since(began)));
            }
            let due = plan.last().map_or(to, |upset| began + upset.at);
            let lifted = course.lifts.keys().next().map_or(to, |(at, _)| *at);
            let next = [world.now() + LOOK, due, lifted, to].into_iter().min().unwrap_or(to);
            course.pass(&mut world, next)?;
            course.lift(&mut world);
            while let Some(upset) = plan.pop_if(|upset| began + upset.at <= world.now()) {
                course.upset(&mut world, &upset);
            }
            course.look(&world);
        }
        Ok(course.outcome(&world, to))
    }

    fn setup(&self) -> Setup {
        let own = Own {
            pools: self.pools.iter().map(|pool| (pool.name.to_string(), pool.written())).collect(),
            templates: self.pools.iter().map(Pool::written_template).collect(),
            following: self.pools.iter().map(|pool| (pool.name.clone(), pool.following.clone())).collect(),
            held: self.pools.iter().flat_map(Pool::held).collect(),
            boot: self.boot,
            set_up: self.set_up,
            room: self.sites.clone(),
        };
        Setup::own(own, self.seed)
    }

    fn scene(&self) -> Scene {
        let name = |pool: &Pool| pool.name.to_string();
        Scene {
            pools: self.pools.iter().map(name).collect(),
            following: self.pools.iter().filter(|pool| !pool.following.is_empty()).map(name).collect(),
            sites: self.sites.keys().map(ToString::to_string).collect(),
            processes: [Service::Controller, Service::Provisioner, Service::Aggregator]
                .map(Process::from)
                .to_vec(),
            most: self.pools.iter().map(|pool| pool.spec.max).max().unwrap_or(1),
        }
    }
}

/// A machine of a pool, with what is still to be learned of it.
struct Known {
    pool: PoolName,
    instance: Option<InstanceId>,
    placement: Option<String>,
    paid: Paid,
}

/// A run under way.
struct Course<'a> {
    play: &'a Play,
    from: Timestamp,
    /// What lasts, by when it ends and in which order it began.
    lifts: BTreeMap<(Timestamp, usize), Lift>,
    happened: Vec<Happened>,
    broken: Vec<String>,
    machines: BTreeMap<String, Known>,
    /// Those that have not been seen to be gone.
    open: BTreeSet<String>,
    /// How many interruptions of each pool have been looked at, and what came of them.
    interrupted: BTreeMap<PoolName, (usize, Interrupted)>,
}

impl Course<'_> {
    fn pass(&mut self, world: &mut World, until: Timestamp) -> Result<(), Unplayed> {
        while world.now() < until {
            match world.pass(until.since(world.now())) {
                Ok(()) => {}
                Err(Broken::Violated(violation)) => {
                    if self.broken.len() < BROKEN_MAX {
                        self.broken.push(format!("{} at {:.0} s", violation, self.seconds(world.now())));
                    }
                }
                Err(broken @ (Broken::Panicked(..) | Broken::AgentPanicked(..))) => return Err(Unplayed::Panicked(broken.to_string())),
            }
        }
        Ok(())
    }

    /// Since the workload began; 0 before.
    fn seconds(&self, at: Timestamp) -> f64 {
        at.since(self.from).as_secs_f64()
    }

    fn lift(&mut self, world: &mut World) {
        while let Some(first) = self.lifts.first_entry().filter(|first| first.key().0 <= world.now()) {
            first.remove()(world);
        }
    }

    fn upset(&mut self, world: &mut World, upset: &Upset) {
        let at = world.now();
        let begun = upset.fault.begin(world);
        if !begun.bit {
            return;
        }
        let lasts = begun.lift.as_ref().map_or(Duration::ZERO, |_| upset.lasts);
        if let Some(lift) = begun.lift {
            self.lifts.insert((at + upset.lasts, self.happened.len()), lift);
        }
        self.happened.push(Happened {
            at_s: self.seconds(at),
            lasts_s: lasts.as_secs_f64(),
            what: upset.fault.to_string(),
        });
    }

    /// Learns of machines that came and went, and why jobs lost their workers, while records of them are at hand.
    fn look(&mut self, world: &World) {
        let now = world.now();
        world.machines().look(|all| {
            for (id, machine) in all {
                let (true, Some(pool)) = (machine.installation == INSTALLATION, &machine.pool) else {
                    continue;
                };
                if self.machines.contains_key(id) {
                    continue;
                }
                let paid = Paid {
                    launched: machine.launched_at,
                    off: None,
                    launch: machine.launch.map(|launch| launch.to_string()),
                    was_ready: false,
                    price: None,
                };
                let known = Known {
                    pool: pool.clone(),
                    instance: machine.instance,
                    placement: None,
                    paid,
                };
                self.machines.insert(id.clone(), known);
                self.open.insert(id.clone());
            }
            for id in &self.open {
                let Some(known) = self.machines.get_mut(id) else { continue };
                known.paid.off = match all.get(id) {
                    Some(machine) if machine.power == Power::Off => machine.off_at,
                    Some(_) => None,
                    // Whoever keeps machines has forgotten it since the last look.
                    None => Some(now),
                };
            }
        });
        for id in &self.open {
            let Some(known) = self.machines.get_mut(id) else { continue };
            if known.placement.is_some() && known.paid.was_ready {
                continue;
            }
            let record = known.instance.and_then(|id| world.watch().record(id));
            if let Some(record) = record {
                known.learn(&record, self.play);
            }
        }
        self.open
            .retain(|id| self.machines.get(id).is_some_and(|known| known.paid.off.is_none()));
        for (pool, (seen, counts)) in &mut self.interrupted {
            for lost in world.queue_of(pool).interrupted_after(*seen) {
                *seen += 1;
                let instance = self.machines.get(&lost.worker).and_then(|known| known.instance);
                let record = instance.and_then(|id| world.watch().record(id));
                if record.is_some_and(|record| is_chosen(&record)) {
                    counts.by_choice += 1;
                } else {
                    counts.by_fault += 1;
                }
            }
        }
    }

    fn outcome(self, world: &World, to: Timestamp) -> Played {
        let pools = self.play.pools.iter().map(|pool| {
            let queue = world.queue_of(&pool.name);
            let recorded = queue.recorded().unwrap_or_default();
            let of_pool = self.machines.values().filter(|known| known.pool == pool.name);
            let paid: Vec<Paid> = of_pool.map(|known| known.paid.clone()).collect();
            outcome::measure(&Measured {
                pool: pool.name.as_str(),
                workload: &pool.workload,
                max: pool.spec.max,
                recorded: &recorded,
                paid: &paid,
                interrupted: self.interrupted.get(&pool.name).map(|(_, counts)| *counts).unwrap_or_default(),
                lost: queue.lost(),
                done_twice: queue.done_twice(),
                from: self.from,
                to,
                target_wait: self.play.target_wait,
                billing: self.play.billing,
                points: self.play.points,
            })
        });
        Played {
            measured_s: to.since(self.from).as_secs_f64(),
            pools: pools.collect(),
            faults: self.happened,
            broken: self.broken,
        }
    }
}

impl Known {
    fn learn(&mut self, record: &Instance, play: &Play) {
        self.paid.was_ready |= record.ready_at.is_some();
        if self.placement.is_none() {
            let called = record
                .placement
                .as_ref()
                .map_or_else(|| record.site.to_string(), ToString::to_string);
            let pool = play.pools.iter().find(|pool| pool.name == self.pool);
            self.paid.price = pool.and_then(|pool| pool.price(&called)).or(play.price);
            self.placement = Some(called);
        }
    }
}

/// Whether an instance that was ended under its job had been chosen to go.
fn is_chosen(record: &Instance) -> bool {
    let Some(ending) = &record.ending else { return false };
    let drained_for = ending.drained_for.or(record.drain.as_ref().map(|drain| drain.why));
    ending.why.is_choice() || (ending.why == Cause::DrainDeadline && drained_for.is_some_and(Cause::is_choice))
}

#[cfg(test)]
mod tests;
