//! The demo's story, scene by scene, and the promises that are checked at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use epu_core::health::Health;
use epu_core::instance::{Cause, Work};
use epu_core::journal::{Entry, Event};
use epu_core::life::State;
use epu_core::request::{EventsAfter, InstanceView, Request, Teardown};
use epu_core::time::{Clock, SystemClock, Timestamp};
use rustix::process::Signal;

use crate::cli;

use super::chart::{self, Mark, Sample};
use super::control::{Control, POOL};
use super::spool::Spool;
use super::table;

/// How many jobs arrive.
const JOBS: u32 = 80;
/// Most workers.
const MAX: u32 = 6;
/// After this the demo gives up and says which scene did not come to its end.
const AT_MOST: Duration = Duration::from_secs(58);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the demo remembers while it goes on.
struct Story {
    clock: Arc<dyn Clock>,
    began: Timestamp,
    control: Control,
    installation: String,
    spool: Spool,
    samples: Vec<Sample>,
    marks: Vec<Mark>,
    returned: BTreeSet<String>,
    last_line: String,
    broken: Vec<String>,
}

/// Tells it. True when every promise was kept.
///
/// # Errors
/// When a scene does not come to its end.
pub(crate) async fn tell(args: &cli::Demo) -> Result<bool, String> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let directory = match &args.dir {
        Some(path) => path.clone(),
        None => std::env::temp_dir().join(format!("epu-demo-{}", std::process::id())),
    };
    let spool =
        Spool::open(&directory.join("spool")).map_err(|e| format!("make {}: {e}; is there room and permission?", directory.display()))?;
    let directory = directory.canonicalize().map_err(|e| format!("find {}: {e}", directory.display()))?;
    put("A pool of sleeping workers, a queue of jobs, and what can happen to both. Everything here is a real process.\n");
    let control = Control::start(&directory, MAX)
        .await
        .map_err(|e| format!("start the control process: {e}"))?;
    let began = clock.now();
    let mut story = Story {
        clock,
        began,
        control,
        installation: String::new(),
        spool,
        samples: Vec::new(),
        marks: Vec::new(),
        returned: BTreeSet::new(),
        last_line: String::new(),
        broken: Vec::new(),
    };
    let told = tokio::select! {
        biased;
        told = tokio::time::timeout(AT_MOST, story.scenes()) => told.unwrap_or_else(|_| Err(format!("not done after {} s", AT_MOST.as_secs()))),
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    };
    let told = told.map_err(|why| format!("{why}\nThe control process last said:\n{}", story.control.last_words()));
    story.clean_up().await;
    if args.dir.is_some() || told.is_err() {
        put(&format!("\nConfig, database and logs are kept in {}", directory.display()));
    } else {
        drop(std::fs::remove_dir_all(&directory));
    }
    told
}

impl Story {
    async fn scenes(&mut self) -> Result<bool, String> {
        let max = usize::try_from(MAX).unwrap_or(usize::MAX);
        self.say("1. the pool starts at its minimum of one worker");
        self.until("one worker runs", |s| s.running == 1).await?;
        let installation = self.control.status().await.map_err(|f| f.to_string())?.installation;
        self.installation.clone_from(&installation);

        self.say(&format!("2. {} jobs arrive at once", JOBS));
        let submitted_at = self.clock.now();
        self.mark('J', "jobs arrive");
        for n in 0..JOBS {
            // Between 0.4 and 1.2 s, the same in every run.
            let takes = Duration::from_millis(400 + u64::from(n) * 7_919 % 800);
            self.spool
                .submit(&format!("job-{n:04}"), takes)
                .map_err(|e| format!("submit a job: {e}"))?;
        }
        self.until("the pool has grown by its own decision", |s| s.live > 1).await?;
        let react = self.clock.now().since(submitted_at);
        self.until("the pool is near its maximum and at work", |s| s.busy + 1 >= max)
            .await?;

        self.say("3. a busy worker is killed, and the whole process group of another busy one is frozen");
        let [killed, frozen] = self.two_busy(&installation).await?;
        let hurt_at = self.clock.now();
        self.mark('K', "SIGKILL");
        table::send(killed.pid, Signal::KILL);
        self.mark('F', "SIGSTOP");
        table::send_group(frozen.group, Signal::STOP);
        let killed_after = self.replaced(&killed.instance, hurt_at, "the killed worker").await?;
        let frozen_after = self.replaced(&frozen.instance, hurt_at, "the frozen worker").await?;

        self.say("4. the control process itself is killed with -9; the workers go on without it");
        let done_before = self.spool.finished().map_err(|e| e.to_string())?.len();
        let agents_before = table::agents(&installation);
        self.mark('C', "control process killed");
        self.control.kill().await.map_err(|e| format!("kill the control process: {e}"))?;
        self.watch_alone(Duration::from_millis(1_500), &installation).await;
        let done_alone = self.spool.finished().map_err(|e| e.to_string())?.len() - done_before;
        self.promise(done_alone > 0, "workers kept working without the control process");
        self.control
            .restart()
            .map_err(|e| format!("start the control process again: {e}"))?;
        self.mark('R', "started again");
        self.say(&format!("   {done_alone} jobs were done meanwhile; it is started again"));
        self.until("it has found its workers again", |s| s.running > 0).await?;
        let found: BTreeSet<String> = self.instances().await?.iter().map(|i| i.instance.id.to_string()).collect();
        let agents_after = table::agents(&installation);
        let lost: Vec<&String> = agents_before.keys().filter(|id| !found.contains(*id)).collect();
        self.promise(lost.is_empty(), "every running worker was found again");
        self.promise(agents_after.values().all(|pids| pids.len() == 1), "none was doubled");

        self.say("5. the queue drains and the pool shrinks to its minimum");
        let jobs = usize::try_from(JOBS).unwrap_or(usize::MAX);
        self.until("every job is done and one worker is left", |s| s.done == jobs && s.live == 1)
            .await?;

        self.say("6. teardown");
        self.mark('T', "teardown");
        let closed: Result<u32, _> = self
            .control
            .ask(Request::Teardown(Teardown {
                force: false,
                within: None,
            }))
            .await;
        closed.map_err(|f| format!("tear down: {f}"))?;
        self.until("nothing lives", |s| s.live == 0).await?;
        let instances = self.instances().await?;
        let stopped = self.control.stop().await.map_err(|e| format!("stop the control process: {e}"))?;
        self.promise(stopped, "the control process stopped cleanly when asked to");
        self.tell_end(
            &installation,
            &instances,
            Figures {
                react,
                killed_after,
                frozen_after,
            },
        )
    }

    fn tell_end(&mut self, installation: &str, instances: &[InstanceView], figures: Figures) -> Result<bool, String> {
        let finished = self.spool.finished().map_err(|e| e.to_string())?;
        let distinct = finished.len();
        let lost = usize::try_from(JOBS).unwrap_or(usize::MAX).saturating_sub(distinct);
        let twice = finished.values().filter(|times| **times > 1).count();
        let busy_killed = instances.iter().filter(|i| ended_busy_by_us(i)).count();
        let leaked = table::processes(installation).len();
        self.promise(lost == 0, "no job was lost");
        self.promise(twice == 0, "no job was done twice");
        self.promise(busy_killed == 0, "no busy worker was killed by us");
        self.promise(leaked == 0, "no process was left running");
        put(&format!("\n{}", chart::draw(&self.samples, &self.marks)));
        let seconds = |d: Duration| format!("{:.1} s", d.as_secs_f64());
        let rows = [
            ("jobs submitted", JOBS.to_string()),
            ("distinct jobs done", distinct.to_string()),
            ("lost", lost.to_string()),
            ("done twice", twice.to_string()),
            ("time to react to the burst", seconds(figures.react)),
            (
                "killed worker: noticed, replaced after",
                format!("{}, {}", seconds(figures.killed_after.0), seconds(figures.killed_after.1)),
            ),
            (
                "frozen worker: noticed, replaced after",
                format!("{}, {}", seconds(figures.frozen_after.0), seconds(figures.frozen_after.1)),
            ),
            ("instances launched in all", instances.len().to_string()),
            ("busy workers killed by us", busy_killed.to_string()),
            ("processes leaked", leaked.to_string()),
            ("time in all", seconds(self.clock.now().since(self.began))),
        ];
        for (what, value) in rows {
            put(&format!("{what:>40}  {value}"));
        }
        if self.broken.is_empty() {
            put("\nEvery promise was kept.");
            return Ok(true);
        }
        put("\nBROKEN PROMISES:");
        for promise in &self.broken {
            put(&format!("  not true: {promise}"));
        }
        Ok(false)
    }

    /// Looks until something is so.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Seen) -> bool) -> Result<(), String> {
        loop {
            if self.control.has_ended() {
                return Err(format!("waiting until {what}: the control process ended by itself"));
            }
            if let Ok(seen) = self.look().await
                && is_so(&seen)
            {
                self.say(&format!("   {what}"));
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// One look at everything: also gives back what workers that are confirmed gone had claimed.
    async fn look(&mut self) -> Result<Seen, String> {
        let brief = self.control.pool().await.map_err(|f| f.to_string())?;
        self.give_back().await?;
        let (waiting, claimed) = self.spool.depth().map_err(|e| e.to_string())?;
        let done = self.spool.finished().map_err(|e| e.to_string())?.len();
        let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let seen = Seen {
            running: size(brief.counts.running),
            live: size(brief.counts.live),
            busy: size(brief.counts.busy),
            done,
        };
        self.sample(waiting + claimed, seen.running);
        let line = format!(
            "   queue {:>3}   done {done:>3}   {} run, {} come, {} drain, {} go   {}: {}",
            waiting + claimed,
            brief.counts.running,
            brief.counts.booting,
            brief.counts.draining,
            brief.counts.ending,
            brief.condition,
            brief.why
        );
        let gist = format!(
            "{:?}{}",
            (
                brief.counts.running,
                brief.counts.booting,
                brief.counts.draining,
                brief.counts.unhealthy
            ),
            brief.condition
        );
        if gist != self.last_line {
            self.last_line = gist;
            self.say(&line);
        }
        Ok(seen)
    }

    async fn give_back(&mut self) -> Result<(), String> {
        let claimants = self.spool.claimants().map_err(|e| e.to_string())?;
        if claimants.is_empty() {
            return Ok(());
        }
        let gone: BTreeMap<String, State> = self
            .instances()
            .await?
            .into_iter()
            .filter(|i| i.instance.state.is_end())
            .map(|i| (i.instance.id.to_string(), i.instance.state))
            .collect();
        for worker in claimants.iter().filter(|w| gone.contains_key(*w)) {
            let jobs = self.spool.give_back(worker).map_err(|e| e.to_string())?;
            if self.returned.insert(worker.clone()) {
                self.say(&format!("   {jobs} job of a worker confirmed gone is back in the queue"));
            }
        }
        Ok(())
    }

    /// Waits until an instance that was hurt is being ended and another runs in its place. Gives when the first was noticed and
    /// when the second ran, both from `hurt_at`.
    async fn replaced(&mut self, instance: &str, hurt_at: Timestamp, what: &str) -> Result<(Duration, Duration), String> {
        let mut noticed: Option<Duration> = None;
        let mut told = 0;
        loop {
            self.look().await?;
            let since_hurt = self.clock.now().since(hurt_at);
            for (health, why) in self.health_of(instance).await?.into_iter().skip(told) {
                told += 1;
                self.say(&format!("   {what}: {health}, {why}"));
                noticed = noticed.or(Some(since_hurt));
            }
            let instances = self.instances().await?;
            let gone = instances
                .iter()
                .any(|i| i.instance.id.to_string() == instance && i.instance.state >= State::Terminating);
            let heir = instances
                .iter()
                .any(|i| i.instance.created_at > hurt_at && i.instance.state == State::Running);
            if gone && heir {
                self.say(&format!("   {what} is replaced"));
                return Ok((noticed.unwrap_or(since_hurt), since_hurt));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What was believed of an instance's health, in order, from the journal.
    async fn health_of(&self, instance: &str) -> Result<Vec<(Health, String)>, String> {
        let asked = EventsAfter {
            after: None,
            pool: None,
            limit: Some(500),
        };
        let entries: Vec<Entry> = self
            .control
            .ask(Request::Events(asked))
            .await
            .map_err(|f| format!("read the journal: {f}"))?;
        let about = entries
            .into_iter()
            .filter(|e| e.instance.is_some_and(|id| id.to_string() == instance));
        let health = |entry: Entry| {
            let Event::HealthChanged { to, why, .. } = entry.event else {
                return None;
            };
            (to != Health::Ok).then_some((to, why))
        };
        Ok(about.filter_map(health).collect())
    }

    /// Two workers that are busy and not the same.
    async fn two_busy(&mut self, installation: &str) -> Result<[table::Process; 2], String> {
        loop {
            self.look().await?;
            let busy: BTreeSet<String> = self
                .instances()
                .await?
                .iter()
                .filter(|i| i.work == Work::Busy && i.instance.state == State::Running && i.instance.drain.is_none())
                .map(|i| i.instance.id.to_string())
                .collect();
            let claimants: BTreeSet<String> = self.spool.claimants().map_err(|e| e.to_string())?.into_iter().collect();
            let mut workers = table::processes(installation)
                .into_iter()
                .filter(|p| p.is_worker && busy.contains(&p.instance) && claimants.contains(&p.instance));
            if let (Some(one), Some(other)) = (workers.next(), workers.next()) {
                return Ok([one, other]);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Watches without the control process: what the spool and the process table say.
    async fn watch_alone(&mut self, length: Duration, installation: &str) {
        let until = self.clock.now() + length;
        while self.clock.now() < until {
            let depth = self.spool.depth().unwrap_or_default();
            let workers = table::processes(installation).iter().filter(|p| p.is_worker).count();
            self.sample(depth.0 + depth.1, workers);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn instances(&self) -> Result<Vec<InstanceView>, String> {
        self.control.instances().await.map_err(|f| format!("list instances: {f}"))
    }

    fn sample(&mut self, queue: usize, workers: usize) {
        self.samples.push(Sample {
            at: self.clock.now().since(self.began),
            queue,
            workers,
        });
    }

    fn mark(&mut self, letter: char, meaning: &'static str) {
        self.marks.push(Mark {
            at: self.clock.now().since(self.began),
            letter,
            meaning,
        });
    }

    fn promise(&mut self, kept: bool, what: &str) {
        if !kept {
            self.broken.push(what.to_owned());
        }
    }

    fn say(&self, line: &str) {
        let line: String = line.chars().take(150).collect();
        put(&format!("{:6.1} s  {line}", self.clock.now().since(self.began).as_secs_f64()));
    }

    /// Ends whatever of the demo still runs, however it ended.
    async fn clean_up(&mut self) {
        drop(self.control.kill().await);
        if !self.installation.is_empty() {
            for process in table::processes(&self.installation) {
                table::send(process.pid, Signal::KILL);
            }
        }
    }
}

/// Prints a line. Whoever read the output has perhaps seen enough; the demo goes on and cleans up all the same.
fn put(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}

/// The figures that are measured on the way.
struct Figures {
    react: Duration,
    killed_after: (Duration, Duration),
    frozen_after: (Duration, Duration),
}

/// One look.
#[derive(Debug)]
struct Seen {
    running: usize,
    live: usize,
    busy: usize,
    done: usize,
}

/// Whether we ended it while it was not known to be idle, and not because it was broken.
fn ended_busy_by_us(view: &InstanceView) -> bool {
    let instance = &view.instance;
    let Some(ending) = &instance.ending else { return false };
    let ours = matches!(
        ending.why,
        Cause::ScaleIn
            | Cause::SlotRemoved
            | Cause::PlacementLeft
            | Cause::Refresh
            | Cause::PoolRemoved
            | Cause::Operator
            | Cause::Teardown
            | Cause::DrainDeadline
    );
    ours && instance.ready_at.is_some() && ending.work != Work::Idle && instance.pool.as_str() == POOL
}
