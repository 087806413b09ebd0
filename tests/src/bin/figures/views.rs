//! A pool of 100,000 instances: taking in what changed, looking at deadlines, observing, deciding and planning, together.
//!
//! The world goes on in steps of one second. In each, 100 facts change something: 60 workers take up or finish work, 10 records
//! change in passing, 10 instances are launched, 10 come to run, 10 end. Health deadlines are spread evenly over the 120 s of
//! `missing`, so that some 830 of them pass in each step and are set anew because the instance has been heard meanwhile. What is
//! heard without news is taken in between the steps and shown in a note.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use epu_controller::guards::Guards;
use epu_controller::listening::Ears;
use epu_controller::plan::{Plan, Wish, plan};
use epu_controller::view::View;
use epu_core::code::Fault;
use epu_core::fact::{Heard, Snapshot};
use epu_core::heartbeat::Condition;
use epu_core::id::{InstanceId, PoolName, SensorName};
use epu_core::instance::{Instance, Work};
use epu_core::reading::SensorReport;
use epu_core::time::Timestamp;
use epu_core::{SiteName, State};
use epu_decision_engines::{Engine, Memory, Registry};
use epu_tests::{Result, Trouble};
use serde_json::json;

use crate::clock::{ThreadCpu, best_of_five, ms};
use crate::samples::{self, BEGIN, Instances};
use crate::{Goal, Report};

/// Members of the pool.
const SIZE: usize = 100_000;
/// The time in which every member's deadline passes once: `missing`, by default.
const ROUND: i64 = 120;
/// Steps of one measurement; five of them make a whole round of deadlines.
const STEPS: u32 = 24;
/// Members heard without news in one step: each speaks every 5 s.
const QUIET: usize = 20_000;
/// To be replaced at once.
const SICK: usize = 1_000;

struct World {
    view: View,
    engine: Box<dyn Engine>,
    sensors: Vec<SensorName>,
    guards: Guards,
    memory: Memory,
    ears: Ears,
    target: u32,
    now: Timestamp,
    name: PoolName,
    cpu: ThreadCpu,
    instances: Instances,
    /// Running, in no particular order.
    running: VecDeque<Arc<Instance>>,
    pending: VecDeque<Arc<Instance>>,
    quiet: Duration,
}

/// One step's facts.
struct News {
    snapshot: Snapshot,
    records: Vec<Arc<Instance>>,
}

pub(crate) fn measure() -> Result<Report> {
    let mut report = Report::default();
    let mut world = World::new()?;
    let mut worst = Duration::ZERO;
    let best = best_of_five(|| {
        let mut sum = Duration::ZERO;
        for _ in 0..STEPS {
            let took = world.step()?;
            sum += took;
            worst = worst.max(took);
        }
        Ok(sum / STEPS)
    })?;
    report.figure("observe-100k-changed-100", ms(best), "ms", Goal::Below(0.5));
    report.note(format!("the longest of {} steps: {:.3} ms", STEPS * 5, ms(worst)));
    report.note(format!(
        "taking in {QUIET} heartbeats without news, beside that: {:.3} ms",
        ms(world.quiet)
    ));

    let best = best_of_five(|| world.replace())?;
    report.figure("replace-1000-of-100k", ms(best), "ms", Goal::Below(10.0));
    let (counts, recounted) = (world.view.counts(), world.view.recount().0);
    if counts != recounted {
        return Err(Trouble::new(
            "check the view",
            format!("it counts {counts:?}, there are {recounted:?}"),
        ));
    }
    Ok(report)
}

impl World {
    fn new() -> Result<Self> {
        let limits = json!({"replace-at-once": 2 * SICK, "replace-window": "1s"});
        let pool = samples::pool("web", &samples::band(), &limits)?;
        let name = pool.name.clone();
        let engine = Registry::standard().make("queue-length", &samples::band()["queue-length"]);
        let engine = engine.map_err(|problems| Trouble::new("make an engine", format!("{problems:?}")))?;
        let begin = BEGIN + Duration::from_secs(3_600);
        let view = View::new(Arc::new(pool), begin);
        let mut world = Self {
            sensors: engine.sensors(),
            engine,
            guards: Guards {
                settings: view.settings(),
                ..Guards::default()
            },
            view,
            memory: Memory::default(),
            ears: Ears::default(),
            target: u32::try_from(SIZE).unwrap_or(u32::MAX),
            now: begin,
            instances: Instances::of(&name)?,
            name,
            cpu: ThreadCpu::here()?,
            running: VecDeque::new(),
            pending: VecDeque::new(),
            quiet: Duration::MAX,
        };
        world.fill();
        Ok(world)
    }

    /// Everybody runs, and is first heard in one of the seconds of a round, in no order.
    fn fill(&mut self) {
        let mut all: Vec<Arc<Instance>> = Vec::new();
        for n in 0..SIZE - 100 {
            let at = BEGIN + Duration::from_millis(u64::try_from(n).unwrap_or(0));
            let instance = Arc::new(self.instances.make(State::Running, at));
            self.view.instance(instance.clone(), self.now);
            all.push(instance);
        }
        for n in 0..all.len() {
            // 7,919 is prime and no divisor of the size, so each comes once.
            self.running.push_back(all[n * 7_919 % all.len()].clone());
        }
        let a_second = self.running.len().div_ceil(usize::try_from(ROUND).unwrap_or(1));
        for n in 0..self.running.len() {
            if n.is_multiple_of(a_second) {
                self.now = self.now + Duration::from_secs(1);
                let snapshot = self.snapshot(Vec::new(), true);
                let listening = self.ears.take(&snapshot, self.now);
                self.view.listened(listening, snapshot.complete, self.now);
            }
            let work = if n.is_multiple_of(2) { Work::Busy } else { Work::Idle };
            self.view.heard(&samples::heard(self.running[n].id, &self.name, work), self.now);
        }
        for _ in 0..100 {
            let instance = Arc::new(self.instances.make(State::Started, self.now));
            self.view.instance(instance.clone(), self.now);
            self.pending.push_back(instance);
        }
    }

    fn snapshot(&self, instances: Vec<Heard>, complete: bool) -> Snapshot {
        let sensors = vec![SensorReport {
            pool: self.name.clone(),
            sensor: self.sensors[0].clone(),
            value: Some(100.0),
            age_ms: Some(0),
            source: "/var/spool/jobs".to_owned(),
            fault: None,
            reported: 1,
            of: 1,
            covers_in_progress: false,
        }];
        Snapshot {
            aggregator: "a".to_owned(),
            listening_for_ms: 3_600_000,
            instances,
            sensors,
            complete,
        }
    }

    /// A second passes and 100 things change. Gives the time that the controller's part takes.
    fn step(&mut self) -> Result<Duration> {
        self.now = self.now + Duration::from_secs(1);
        self.hear_the_quiet()?;
        let news = self.news()?;
        let before = self.cpu.used()?;
        let plan = self.take_and_plan(&news);
        let took = self.cpu.used()?.saturating_sub(before);
        match (plan.acts(), plan.suppressed.as_slice()) {
            (false, []) => Ok(took),
            (_, _) => Err(Trouble::new(
                "plan when nothing is to be done",
                format!("{plan:?}").chars().take(2_000).collect::<String>(),
            )),
        }
    }

    /// A fifth of all speak and say what they said before.
    fn hear_the_quiet(&mut self) -> Result<()> {
        let mut said: Vec<Heard> = Vec::with_capacity(QUIET);
        for _ in 0..QUIET {
            self.running.rotate_left(1);
            let id = self.running[0].id;
            let work = self.view.member(id).map_or(Work::Unknown, |m| m.work);
            said.push(samples::heard(id, &self.name, work));
        }
        let before = self.cpu.used()?;
        for heard in &said {
            self.view.heard(heard, self.now);
        }
        self.quiet = self.quiet.min(self.cpu.used()?.saturating_sub(before));
        Ok(())
    }

    fn news(&mut self) -> Result<News> {
        let mut heard = Vec::new();
        let mut records = Vec::new();
        for n in 0..60 {
            let id = self.one_running(n)?.id;
            let work = self.view.member(id).map(|m| m.work);
            let work = if work == Some(Work::Busy) { Work::Idle } else { Work::Busy };
            heard.push(samples::heard(id, &self.name, work));
        }
        for n in 100..110 {
            let at = self.place(n);
            let changed = samples::next(&self.running[at], |i| i.protected = !i.protected);
            self.running[at] = changed.clone();
            records.push(changed);
        }
        for _ in 0..10 {
            let launched = Arc::new(self.instances.make(State::Started, self.now));
            self.pending.push_back(launched.clone());
            records.push(launched);
            let now = self.now;
            let came = self
                .pending
                .pop_front()
                .ok_or_else(|| Trouble::new("make news", "nothing is pending"))?;
            let runs = samples::next(&came, |i| (i.state, i.state_since, i.ready_at) = (State::Running, now, Some(now)));
            self.running.push_back(runs.clone());
            records.push(runs);
            let gone = self.running.pop_front().ok_or_else(|| Trouble::new("make news", "nothing runs"))?;
            records.push(samples::next(&gone, |i| (i.state, i.state_since) = (State::Terminated, now)));
        }
        Ok(News {
            snapshot: self.snapshot(heard, false),
            records,
        })
    }

    fn place(&self, n: usize) -> usize {
        20_000 + n * 331 % 60_000
    }

    fn one_running(&self, n: usize) -> Result<&Arc<Instance>> {
        self.running
            .get(self.place(n))
            .ok_or_else(|| Trouble::new("make news", "too few run"))
    }

    /// What the controller does with facts, in the order in which it does it.
    fn take_and_plan(&mut self, news: &News) -> Plan {
        let (view, now) = (&mut self.view, self.now);
        for heard in &news.snapshot.instances {
            view.heard(heard, now);
        }
        view.listened(self.ears.take(&news.snapshot, now), news.snapshot.complete, now);
        for report in &news.snapshot.sensors {
            view.sensor(report, now);
        }
        for record in &news.records {
            view.instance(record.clone(), now);
        }
        view.look(now);
        let observation = view.observation(now, Some(self.target), None, self.memory.clone());
        let decision = self.engine.decide(&observation);
        let plan = plan(&Wish {
            now,
            view,
            decision: &decision,
            sensors: &self.sensors,
            target: Some(self.target),
            guards: &self.guards,
            closed: false,
        });
        std::hint::black_box(plan)
    }

    /// 1,000 workers fail at once: from hearing of it to the plan that replaces them.
    fn replace(&mut self) -> Result<Duration> {
        self.now = self.now + Duration::from_secs(1);
        self.hear_the_quiet()?;
        let sick: Vec<InstanceId> = (0..SICK).map(|n| self.one_running(n).map(|i| i.id)).collect::<Result<_>>()?;
        let fault = Fault::new("worker-failed", "the worker ended with exit code 3");
        let failed = |id: &InstanceId| Heard {
            condition: Condition::ProcessError(Box::new(fault.clone())),
            ..samples::heard(*id, &self.name, Work::Busy)
        };
        let news = News {
            snapshot: self.snapshot(sick.iter().map(failed).collect(), false),
            records: Vec::new(),
        };
        let before = self.cpu.used()?;
        let plan = self.take_and_plan(&news);
        let took = self.cpu.used()?.saturating_sub(before);
        let here = SiteName::new("here").map_err(|e| Trouble::new("name a site", e))?;
        let ended: usize = plan.terminate.iter().map(|(_, ids)| ids.len()).sum();
        let launched: usize = plan.launches.iter().filter(|b| b.site == here).map(|b| b.wanted.len()).sum();
        if (ended, launched) != (SICK, SICK) {
            return Err(Trouble::new(
                "replace 1,000",
                format!("{ended} are ended and {launched} launched: {:?}", plan.suppressed),
            ));
        }
        let well: Vec<Heard> = sick.iter().map(|id| samples::heard(*id, &self.name, Work::Busy)).collect();
        for heard in &well {
            self.view.heard(heard, self.now);
        }
        Ok(took)
    }
}
