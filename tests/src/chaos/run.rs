//! One run: an installation of several processes, rounds of faults with operators and work going on, and then the judging.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use epu_core::id::{InstanceId, PoolName};
use epu_core::time::{Clock as _, SystemClock, Timestamp};
use epu_core::{Span, code::Chain};
use tokio::runtime::Builder;

use super::disk::Disk;
use super::faults::{Deck, Kind, Victims, Ways, Wrong};
use super::judge::{self, Broken};
use super::operators::{Operators, pool};
use super::seen::{self, Place, Seen};
use super::spool::Spool;
use super::watch::Watch;
use super::wire::{Aside, Wire};
use crate::cluster::Cluster;
use crate::installation::quoted;
use crate::{Result, Trouble, wait};

/// Once faults have stopped, everything settles within this: some lease ends, agents that were silent are condemned, what failed is
/// tried again, several processes start on a busy machine, each of which takes seconds.
pub const CONVERGES: Duration = Duration::from_secs(120);
/// How long teardown may take, drains of workers at work included.
const EMPTIES: &str = "90s";
/// The services, several of each kind but for what nobody is asked to survive the loss of.
const SERVICES: [&str; 6] = [
    "provisioner-1",
    "provisioner-2",
    "controller-1",
    "controller-2",
    "aggregator-1",
    "aggregator-2",
];
/// Pools that keep a number, which operators change; it may come up to the maximum.
const KEEPING: [(&str, u32); 2] = [("alpha", 2), ("beta", 3)];
const KEEPING_MAX: u32 = 4;
/// The pool that follows the work, and its size when there is none.
const FOLLOWING: (&str, u32) = ("following", 1);
/// The first state, before the first fault.
const BEGINS: Duration = Duration::from_secs(90);
/// Lines of logs and of the story that are shown when something was broken.
const SHOWN: usize = 60;

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// How often there was each kind of fault.
    pub faults: BTreeMap<&'static str, u32>,
    /// From the end of faults until all was settled.
    pub converged: Duration,
    /// Machines that there ever were.
    pub machines: usize,
    /// Launches that were recorded.
    pub launches: usize,
    /// Decisions that were shown again.
    pub decisions: usize,
    /// Jobs, all done.
    pub jobs: usize,
    /// Jobs that were put back because their worker was gone.
    pub put_back: usize,
    /// Requests of operators, and those that were acknowledged.
    pub asked: (u32, u32),
    /// Looks at the process table, and those with the database.
    pub looks: (u64, u64),
    /// What happened, in order.
    pub story: Vec<String>,
}

/// The pools. Limits are short, so that a run takes minutes, and silence may last long enough for a busy machine.
fn pools(spool: &Spool) -> String {
    let keeping: String = KEEPING
        .iter()
        .map(|(name, n)| {
            format!("  {name}:\n    template: worker\n    max: {KEEPING_MAX}\n    engine: {{keep: {{n: {n}}}}}\n    health: *health\n    limits: *limits\n")
        })
        .collect();
    let (name, min) = FOLLOWING;
    let worker = quoted(&spool.path("worker.sh"));
    let dir = spool.path("");
    let dir = dir.display();
    format!(
        "templates:
  worker:
    run: [sh, {worker}, \"{dir}\"]
    heartbeat: 500ms
    stop-grace: 1s
    drain-signal: none
    ready-within: 20s
pools:
  {name}:
    template: worker
    min: {min}
    max: 4
    engine: {{queue-length: {{sensor: waiting, high-water: 5, low-water: 1}}}}
    sensors: {{waiting: {{directory: {{path: \"{dir}queue\", in-progress: \"{dir}taken\"}}, every: 1s}}}}
    health: &health {{boot: 20s, missing: 5s, really-missing: 1s, zombie: 10s}}
    limits: &limits {{cooldown-up: 1s, cooldown-down: 1s, stabilization: 0s, replace-at-once: 3, replace-window: 3s, storm-at-least: 4, storm-probe: 2s, launch-failures: 5, launch-backoff: 1s, drain: 45s}}
{keeping}"
    )
}

/// What a run is made of. Fields drop in this order: who watches, then the installation, then its wires and its disk.
struct Run {
    watch: Watch,
    cluster: Cluster,
    ways: BTreeMap<String, Ways>,
    disk: Disk,
    _aside: Aside,
    place: Place,
    spool: Spool,
    operators: Operators,
    harmed: BTreeSet<InstanceId>,
    engines: BTreeMap<PoolName, serde_json::Map<String, serde_json::Value>>,
    clock: SystemClock,
    began: Timestamp,
    random: fastrand::Rng,
    outcome: Outcome,
}

impl Run {
    fn say(&mut self, what: String) {
        let at = self.clock.now().since(self.began).as_secs_f64();
        self.outcome.story.push(format!("{at:7.1} s  {what}"));
    }

    async fn begin(seed: u64) -> Result<Self> {
        let aside = Aside::new()?;
        let mut cluster = Cluster::new("log: {level: info}\n").await;
        let (disk, without) = Disk::under(&cluster.path("data")).await?;
        let directory = cluster.path("");
        cluster.live_on(disk.words(&directory), disk.data().to_owned());
        let mut ways = BTreeMap::new();
        for name in SERVICES {
            let (broker, database) = (cluster.rabbit.url(), cluster.database_url());
            let (broker_port, database_port) = (port(&broker)?, port(&database)?);
            let way = Ways {
                broker: Wire::to(&aside, broker_port)?,
                database: Wire::to(&aside, database_port)?,
            };
            let urls = (way.broker.url(&broker, broker_port), way.database.url(&database, database_port));
            cluster.reach_through(name, urls.0, urls.1);
            ways.insert(name.to_owned(), way);
        }
        for name in SERVICES {
            cluster.start(name).await;
        }
        let mut spool = Spool::new(&cluster.path("jobs"))?;
        cluster.add(&pools(&spool));
        spool.give(500)?;
        let place = Place {
            installation: seen::installation(&cluster.database_url()).await?,
            database: cluster.database_url(),
            data: disk.data().to_owned(),
        };
        let engines = seen::look(&place, &spool).await?.pools;
        let engines = engines
            .into_iter()
            .map(|(name, pool)| (name, pool.spec.engine.into_iter().collect()));
        let keeping: Result<Vec<_>> = KEEPING.iter().map(|(name, n)| Ok((pool(name)?, *n))).collect();
        let clock = SystemClock::start();
        let mut run = Self {
            watch: Watch::over(&aside, place.clone()),
            cluster,
            ways,
            disk,
            _aside: aside,
            place,
            spool,
            operators: Operators::of(&keeping?, KEEPING_MAX),
            harmed: BTreeSet::new(),
            engines: engines.collect(),
            began: clock.now(),
            clock,
            random: fastrand::Rng::with_seed(seed),
            outcome: Outcome::default(),
        };
        if let Some(without) = without {
            run.say(format!(
                "without a small file system of its own, files are limited instead: {without}"
            ));
        }
        let first = keeping_targets(KEEPING.iter().copied())?;
        run.settles(BEGINS, &first).await?;
        run.say("all is settled for the first time".to_owned());
        Ok(run)
    }

    async fn look(&self) -> Result<Seen> {
        let seen = seen::look(&self.place, &self.spool).await?;
        Ok(Seen {
            harmed: self.harmed.clone(),
            engines: self.engines.clone(),
            ..seen
        })
    }

    /// Waits until every pool is as it is to be and every job is done.
    async fn settles(&mut self, within: Duration, targets: &BTreeMap<PoolName, u32>) -> Result<Seen> {
        let what = format!("every pool is as it is to be ({targets:?})");
        let looking = wait::until(within, &what, async || {
            self.spool.put_back(&self.place.installation)?;
            let seen = seen::look(&self.place, &self.spool).await?;
            let mut open = judge::unsettled(&seen, targets);
            open.extend(judge::undone(self.spool.given(), &self.spool.jobs()?));
            if open.is_empty() {
                return Ok(seen);
            }
            // Not the process table all the time: this machine has other things to do.
            tokio::time::sleep(Duration::from_millis(500)).await;
            Err(Trouble(joined(&open)))
        });
        looking.await
    }

    /// A round: some things go wrong, work comes, operators act, things are put right.
    async fn round(&mut self, round: u32, deck: &mut Deck) -> Result<()> {
        self.work()?;
        let count = self.random.usize(1..=3);
        let mut wrongs: Vec<(Timestamp, Wrong)> = Vec::new();
        for kind in deck.draw(count, &mut self.random) {
            let lasts = kind.lasts(&mut self.random);
            let (to, wrong) = self.harm(kind).await?;
            self.say(format!("round {round}: {} {to} for {}", kind.name(), Span(lasts)));
            let until = self.clock.now() + lasts;
            wrongs.extend(wrong.into_iter().map(|wrong| (until, wrong)));
            self.pause(800).await;
        }
        wrongs.sort_by_key(|(until, _)| *until);
        while !wrongs.is_empty() {
            let deaf: BTreeSet<String> = wrongs.iter().filter_map(|(_, wrong)| wrong.service().map(str::to_owned)).collect();
            let (now, until) = (self.clock.now(), wrongs[0].0);
            if now >= until {
                let (_, wrong) = wrongs.remove(0);
                let what = format!("round {round}: over: {wrong:?}");
                let mut victims = self.victims();
                victims.mend(wrong).await?;
                self.say(what);
                continue;
            }
            self.operate(&deaf).await;
            let left = until.since(self.clock.now());
            tokio::time::sleep(left.min(Duration::from_millis(self.random.u64(100..800)))).await;
        }
        // What could not begin while broker or database were away has ended; a service manager starts it again.
        self.start_the_dead();
        self.pause(2_500).await;
        self.spool.put_back(&self.place.installation)?;
        self.operate(&BTreeSet::new()).await;
        Ok(())
    }

    fn victims(&mut self) -> Victims<'_> {
        Victims {
            cluster: &mut self.cluster,
            ways: &self.ways,
            disk: &self.disk,
            harmed: &mut self.harmed,
        }
    }

    async fn harm(&mut self, kind: Kind) -> Result<(String, Vec<Wrong>)> {
        *self.outcome.faults.entry(kind.name()).or_default() += 1;
        let mut random = self.random.fork();
        self.victims().harm(kind, &mut random).await
    }

    async fn operate(&mut self, deaf: &BTreeSet<String>) {
        let mut random = self.random.fork();
        let harmed = self.operators.act(&self.cluster, deaf, &mut random).await;
        self.harmed.extend(harmed);
    }

    fn work(&mut self) -> Result<()> {
        for _ in 0..self.random.u8(2..9) {
            let takes = self.random.u64(100..2_500);
            self.spool.give(takes)?;
        }
        Ok(())
    }

    async fn pause(&mut self, up_to_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.random.u64(0..up_to_ms))).await;
    }

    fn start_the_dead(&mut self) {
        for name in SERVICES {
            if !self.cluster.is_alive(name) {
                self.cluster.start_unready(name);
                self.say(format!("{name} had ended and is started again"));
            }
        }
    }

    /// Once faults have stopped: everything settles, nothing was broken meanwhile, and teardown leaves nothing.
    async fn judge(&mut self) -> Result<()> {
        let stopped = self.clock.now();
        self.say("faults stop".to_owned());
        for name in SERVICES {
            if !self.cluster.is_alive(name) {
                self.cluster.start_unready(name);
            }
        }
        let stored = self.look().await?.pools;
        let mut random = self.random.fork();
        let targets = self.operators.settle(&self.cluster, &stored, &mut random).await?;
        let targets = keeping_targets(targets.iter().map(|(name, n)| (name.as_str(), *n)))?;
        self.settles(CONVERGES, &targets).await?;
        self.outcome.converged = self.clock.now().since(stopped);
        self.say(format!("all is settled {:.1} s later", self.outcome.converged.as_secs_f64()));

        let seen = self.look().await?;
        let mut found = judge::history(&seen);
        found.append(&mut self.operators.broken);
        found.extend(self.watch.found().broken);
        self.count(&seen);
        self.confirm(&found)?;

        let torn = self.cluster.run(&["teardown", "--yes", "--wait", EMPTIES]);
        if torn.code != Some(0) {
            return Err(Trouble::new("tear down", format!("{torn:?}")));
        }
        let left = wait::until(Duration::from_secs(10), "nothing is left", async || {
            let left = judge::left_over(&self.look().await?);
            if left.is_empty() { Ok(()) } else { Err(Trouble(joined(&left))) }
        });
        left.await?;
        // What the watch saw of the end, and whose jobs were cut off by it.
        let found: Vec<Broken> = self.watch.found().broken.into_iter().collect();
        self.confirm(&found)?;
        self.say("torn down; nothing is left".to_owned());
        Ok(())
    }

    fn confirm(&self, found: &[Broken]) -> Result<()> {
        if found.is_empty() {
            return Ok(());
        }
        Err(Trouble(format!("broken:\n{}", joined(found))))
    }

    fn count(&mut self, seen: &Seen) {
        let watched = self.watch.found();
        let decided = |entry: &&epu_core::journal::Entry| matches!(entry.event, epu_core::journal::Event::Decided(_));
        self.outcome.machines = seen.site.len();
        self.outcome.launches = seen.launches.len();
        self.outcome.decisions = seen.journal.iter().filter(decided).count();
        self.outcome.jobs = self.spool.given().len();
        self.outcome.put_back = seen.interrupted.values().map(BTreeSet::len).sum();
        self.outcome.asked = (self.operators.asked, self.operators.acknowledged);
        self.outcome.looks = (watched.looks, watched.whole);
    }

    /// What is needed to understand what happened, where somebody wants it: `EPU_TESTS_KEEP` names a directory.
    async fn keep(&self, seed: u64, why: &Trouble) -> String {
        let Some(directory) = std::env::var_os("EPU_TESTS_KEEP") else {
            return "EPU_TESTS_KEEP=DIRECTORY keeps all of its files".to_owned();
        };
        let to = Path::new(&directory).join(format!("chaos-{seed}"));
        let seen = self.look().await;
        let copied = std::fs::create_dir_all(&to).and_then(|()| {
            let mut copy = std::process::Command::new("cp");
            copy.arg("-r").arg(self.cluster.path("")).arg(self.disk.data()).arg(&to);
            copy.status()?;
            std::fs::write(to.join("seen"), format!("{seen:#?}\n"))?;
            std::fs::write(to.join("why"), format!("{why}\n\n{}\n", self.outcome.story.join("\n")))
        });
        match copied {
            Ok(()) => format!("its files are in {}", to.display()),
            Err(error) => format!("its files could not be kept: {error}"),
        }
    }
}

fn keeping_targets<'a>(keeping: impl Iterator<Item = (&'a str, u32)>) -> Result<BTreeMap<PoolName, u32>> {
    keeping.chain([FOLLOWING]).map(|(name, n)| Ok((pool(name)?, n))).collect()
}

fn joined(broken: &[Broken]) -> String {
    let lines: Vec<String> = broken.iter().take(SHOWN).map(ToString::to_string).collect();
    lines.join("\n")
}

fn port(url: &str) -> Result<u16> {
    let found = url
        .rsplit_once('@')
        .and_then(|(_, rest)| rest.split('/').next()?.rsplit_once(':')?.1.parse().ok());
    found.ok_or_else(|| Trouble::new("find the port", "an address without one"))
}

/// One run of so many rounds.
///
/// # Errors
/// What was broken, with the story and the end of what every process said.
pub async fn endure(seed: u64, rounds: u32) -> Result<Outcome> {
    let mut run = Run::begin(seed).await?;
    let ended = async {
        let mut deck = Deck::default();
        for round in 1..=rounds {
            run.round(round, &mut deck).await?;
        }
        run.judge().await
    };
    let ended = ended.await;
    match ended {
        Ok(()) => Ok(std::mem::take(&mut run.outcome)),
        Err(trouble) => {
            let seen = joined(&run.watch.found().broken.into_iter().collect::<Vec<_>>());
            let story = run.outcome.story.join("\n");
            let kept = run.keep(seed, &trouble).await;
            let logs = run.cluster.logs();
            Err(Trouble(format!(
                "seed {seed}: {trouble}\n{kept}\n== seen meanwhile\n{seen}\n== story\n{story}\n{logs}"
            )))
        }
    }
}

/// The same on a thread and in a runtime of its own, so that a run in which a part of the tests gave up is one that failed.
///
/// # Errors
/// As [`endure`], and when the run could not go on.
pub fn endure_alone(seed: u64, rounds: u32) -> Result<Outcome> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Trouble::new("start a runtime", Chain(&error)))?;
    let run = std::thread::spawn(move || runtime.block_on(endure(seed, rounds)));
    let gave_up = |panic: Box<dyn std::any::Any + Send>| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("it does not say why");
        Err(Trouble::new(format!("seed {seed}: the run could not go on"), said))
    };
    run.join().unwrap_or_else(gave_up)
}
