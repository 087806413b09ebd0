//! The agent as a whole, in virtual time, with services and a machine that exist only here.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use epu_agent::host::{Found, Host, Kept, Signal, Stage, WorkerMark};
use epu_agent::life::GivenUp;
use epu_agent::link::{Door, Link};
use epu_agent::status::Seen;
use epu_agent::{Ended, Error, Parts, run};
use epu_core::heartbeat::{Condition, Heartbeat, Orders};
use epu_core::instance::{Cause, Drain, Exit, Work};
use epu_core::pool::DrainSignal;
use epu_core::random::Random;
use epu_core::request::{Answer, Caller, Context, Happened, Request};
use epu_core::{Clock, Fault, InstanceId, LaunchId, PoolName, Span, Timestamp};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
struct VirtualClock(tokio::time::Instant);

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_000_000) + self.0.elapsed()
    }
}

/// The world as agent and test see it.
#[derive(Debug)]
struct Inner {
    up: bool,
    orders: Orders,
    set_up_takes: Duration,
    set_up: Exit,
    work: Work,
    kept: Option<Kept>,
    disk_full: bool,
    done: Vec<String>,
    beats: Vec<(Timestamp, Heartbeat)>,
    /// The door that each heartbeat came through.
    through: Vec<String>,
    /// Doors at which nobody answers.
    shut: Vec<String>,
    /// Those that the context names.
    doors: Vec<String>,
    attempts: Vec<Timestamp>,
    worker: watch::Sender<Option<Exit>>,
    taken_away: watch::Sender<Option<Timestamp>>,
}

#[derive(Clone)]
struct World {
    inner: Arc<Mutex<Inner>>,
    clock: Arc<VirtualClock>,
    stop: CancellationToken,
}

fn exit(code: i32) -> Exit {
    Exit {
        code: Some(code),
        signal: None,
        output: "last words".to_owned(),
    }
}

fn id() -> InstanceId {
    "01890000-0000-7000-8000-000000000001".parse().unwrap()
}

impl World {
    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the clock of the test")]
        let start = tokio::time::Instant::now();
        Self {
            inner: Arc::new(Mutex::new(Inner {
                up: true,
                orders: Orders::default(),
                set_up_takes: Duration::from_secs(3),
                set_up: exit(0),
                work: Work::Idle,
                kept: None,
                disk_full: false,
                done: Vec::new(),
                beats: Vec::new(),
                through: Vec::new(),
                shut: Vec::new(),
                doors: Vec::new(),
                attempts: Vec::new(),
                worker: watch::channel(None).0,
                taken_away: watch::channel(None).0,
            })),
            clock: Arc::new(VirtualClock(start)),
            stop: CancellationToken::new(),
        }
    }

    fn see(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn note(&self, what: impl Into<String>) {
        self.see().done.push(what.into());
    }

    fn begin(&self) -> JoinHandle<Result<Ended, Error>> {
        self.begin_at("")
    }

    fn begin_at(&self, doors: &str) -> JoinHandle<Result<Ended, Error>> {
        let parts = Parts {
            url: doors.to_owned(),
            launch: LaunchId(id().0),
            index: 0,
            launch_token: "l.token".to_owned(),
            link: self.clone(),
            host: self.clone(),
            clock: self.clock.clone(),
            random: Arc::new(Random::seeded(7)),
        };
        tokio::spawn(run(parts, self.stop.clone()))
    }

    fn worker_ends(&self, exit: Exit) {
        self.see().worker.send_replace(Some(exit));
    }
}

#[async_trait]
impl Link for World {
    async fn ask(&self, door: &Door, caller: &Caller, request: &Request, _: Duration) -> Result<Answer, Fault> {
        sleep(Duration::from_millis(5)).await;
        let now = self.clock.now();
        let mut inner = self.see();
        inner.attempts.push(now);
        if !inner.up || inner.shut.contains(&door.url) {
            return Err(Fault::new("no-contact", "nobody there"));
        }
        match request {
            Request::Context(_) => {
                assert_eq!((door.token.as_str(), caller), ("l.token", &Caller::Launch(LaunchId(id().0))));
                Answer::of(&Context {
                    instance: id(),
                    pool: PoolName::new("web").unwrap(),
                    token: "i.token".to_owned(),
                    run: vec!["worker".to_owned()],
                    set_up: vec!["set-up".to_owned()],
                    variables: BTreeMap::new(),
                    directory: None,
                    drain_signal: DrainSignal::TERM,
                    stop_grace: Span::secs(10),
                    heartbeat: Span::secs(5),
                    ready_within: Span::secs(60),
                    aggregators: Vec::new(),
                    doors: inner.doors.clone(),
                })
            }
            Request::Report(report) => {
                assert_eq!((door.token.as_str(), caller), ("i.token", &Caller::Instance(id())));
                let word = match &report.happened {
                    Happened::Ready { .. } => "ready".to_owned(),
                    Happened::Failed { fault } => format!("failed {}", fault.code),
                    Happened::Drained { exit } => format!("drained {:?}", exit.code),
                    Happened::Exited { exit } => format!("exited {:?}", exit.code),
                    Happened::Interruption { within } => format!("interrupted within {within}"),
                };
                inner.done.push(word);
                Ok(Answer::Orders(inner.orders.clone()))
            }
            Request::Heartbeat(beat) => {
                assert_eq!(door.token, "i.token");
                inner.beats.push((now, (**beat).clone()));
                inner.through.push(door.url.clone());
                Ok(Answer::Orders(inner.orders.clone()))
            }
            other => panic!("{other:?}"),
        }
    }

    fn asks_at(&self, url: &str) -> bool {
        !url.contains("unfit")
    }
}

#[async_trait]
impl Host for World {
    fn find(&self) -> Result<Found, Error> {
        let inner = self.see();
        Ok(Found {
            kept: inner.kept.clone(),
            exit: None,
            worker_lives: inner.worker.borrow().is_none(),
            told: inner.done.iter().any(|what| what.starts_with("tell drain")),
        })
    }
    fn nonce(&self) -> Result<String, Error> {
        Ok("nonce".to_owned())
    }
    fn keep(&self, kept: &Kept) -> Result<(), Error> {
        let mut inner = self.see();
        if inner.disk_full {
            return Err(Error::System {
                doing: "write",
                source: std::io::Error::other("disk full"),
            });
        }
        inner.kept = Some(kept.clone());
        Ok(())
    }
    fn keep_exit(&self, exit: &Exit) -> Result<(), Error> {
        self.note(format!("keep exit {:?}", exit.code));
        Ok(())
    }
    async fn set_up(&self, _: &Context) -> Result<Exit, Fault> {
        self.note("set-up");
        let takes = self.see().set_up_takes;
        sleep(takes).await;
        self.note("set-up ended");
        Ok(self.see().set_up.clone())
    }
    async fn start(&self, _: &Context) -> Result<WorkerMark, Fault> {
        self.note("start");
        Ok(WorkerMark {
            pid: 7,
            started: 1,
            boot: String::new(),
        })
    }
    async fn ended(&self) -> Exit {
        let mut ended = self.see().worker.subscribe();
        ended.wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }
    async fn taken_away(&self) -> Timestamp {
        let mut taken = self.see().taken_away.subscribe();
        taken.wait_for(Option::is_some).await.unwrap().unwrap()
    }
    fn output(&self) -> String {
        "so far".to_owned()
    }
    fn look(&self) -> Seen {
        Seen {
            work: self.see().work,
            ..Seen::default()
        }
    }
    fn tell_drain(&self, deadline: Timestamp, _: DrainSignal) -> Result<(), Error> {
        self.note(format!("tell drain {}", deadline.0));
        Ok(())
    }
    fn signal(&self, signal: Signal) {
        self.note(format!("{signal:?}"));
        if signal == Signal::Kill {
            self.worker_ends(Exit {
                code: None,
                signal: Some(9),
                output: String::new(),
            });
        }
    }
}

fn drain() -> Orders {
    Orders {
        drain: Some(Drain {
            since: Timestamp(1),
            deadline: Timestamp(99),
            why: Cause::ScaleIn,
        }),
        stop: false,
    }
}

#[tokio::test(start_paused = true)]
async fn from_set_up_to_drained() {
    let world = World::new();
    let agent = world.begin();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.see().done, ["set-up", "set-up ended", "start", "ready"]);
    {
        let inner = world.see();
        let gaps: Vec<_> = inner.beats.windows(2).map(|pair| pair[1].0.since(pair[0].0).as_millis()).collect();
        assert!((10..=13).contains(&gaps.len()), "{gaps:?}");
        assert!(gaps.iter().all(|gap| (4_490..=5_520).contains(gap)), "{gaps:?}");
        assert!(gaps.windows(2).any(|pair| pair[0] != pair[1]), "without jitter: {gaps:?}");
    }
    world.see().orders = drain();
    sleep(Duration::from_secs(6)).await;
    assert_eq!(world.see().done.last().unwrap(), "tell drain 99");
    assert!(world.see().beats.last().unwrap().1.draining);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(
        world.see().done.last().unwrap(),
        "tell drain 99",
        "told once, and a busy worker is left alone"
    );
    world.worker_ends(exit(0));
    assert!(matches!(agent.await.unwrap(), Ok(Ended::Drained)));
    assert_eq!(world.see().done[5..], ["keep exit Some(0)", "drained Some(0)"]);
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_any_one_door_is_not_noticed() {
    let doors = ["http://a", "http://b", "http://c"];
    for lost in doors {
        let world = World::new();
        world.see().shut = vec![lost.to_owned()];
        let agent = world.begin_at(&doors.join(" "));
        sleep(Duration::from_secs(4)).await;
        assert_eq!(world.see().done.last().unwrap(), "ready", "without {lost}");
        sleep(Duration::from_secs(20)).await;
        let used = world.see().through.last().unwrap().clone();
        assert_ne!(used, lost);
        // The one that is used goes, and comes back.
        world.see().shut = vec![used.clone()];
        sleep(Duration::from_secs(60)).await;
        {
            let inner = world.see();
            let gaps = inner.beats.windows(2).map(|pair| pair[1].0.since(pair[0].0).as_millis());
            assert!(gaps.max().unwrap() <= 5_600, "a heartbeat was missing");
            assert_ne!(inner.through.last(), Some(&used));
        }
        world.see().shut.clear();
        sleep(Duration::from_secs(60)).await;
        let inner = world.see();
        assert!(
            inner.through[inner.through.len() - 3..]
                .iter()
                .all(|door| *door == inner.through[inner.through.len() - 1])
        );
        assert_eq!(inner.done.iter().filter(|done| *done == "ready").count(), 1);
        agent.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn services_away_for_an_hour_leave_the_worker_alone_and_do_not_make_the_agent_spin() {
    let world = World::new();
    let agent = world.begin();
    sleep(Duration::from_secs(10)).await;
    world.see().up = false;
    let before = world.see().attempts.len();
    sleep(Duration::from_secs(4_000)).await;
    let tries = world.see().attempts.len() - before;
    assert!((700..=900).contains(&tries), "{tries} heartbeats in 4,000 s");
    assert!(!agent.is_finished());
    assert_eq!(world.see().done, ["set-up", "set-up ended", "start", "ready"]);
    world.see().up = true;
    let heard = world.see().beats.len();
    sleep(Duration::from_secs(6)).await;
    assert!(world.see().beats.len() > heard, "it is heard again by itself");
    agent.abort();
}

#[tokio::test(start_paused = true)]
async fn an_end_during_an_outage_is_reported_after_it() {
    let world = World::new();
    let agent = world.begin();
    sleep(Duration::from_secs(10)).await;
    world.see().up = false;
    world.worker_ends(exit(1));
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.see().done.last().unwrap(), "keep exit Some(1)");
    world.see().up = true;
    sleep(Duration::from_secs(15)).await;
    assert_eq!(world.see().done.last().unwrap(), "exited Some(1)");
    assert!(matches!(world.see().beats.last().unwrap().1.condition, Condition::ProcessError(_)));
    world.see().orders.stop = true;
    assert!(matches!(agent.await.unwrap(), Ok(Ended::Stopped)));
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_worker_and_contact_ends_the_agent() {
    let world = World::new();
    let agent = world.begin();
    sleep(Duration::from_secs(10)).await;
    world.see().up = false;
    world.worker_ends(exit(1));
    sleep(Duration::from_secs(3_500)).await;
    assert!(!agent.is_finished());
    sleep(Duration::from_secs(200)).await;
    assert!(matches!(agent.await.unwrap(), Err(Error::GivenUp(GivenUp::Forgotten))));
}

#[tokio::test(start_paused = true)]
async fn a_change_from_idle_to_busy_is_heard_within_a_second() {
    let world = World::new();
    let agent = world.begin();
    sleep(Duration::from_secs(9)).await;
    world.see().work = Work::Busy;
    let heard = world.see().beats.len();
    sleep(Duration::from_millis(1_100)).await;
    let inner = world.see();
    assert_eq!(inner.beats.len(), heard + 1);
    assert_eq!(inner.beats.last().unwrap().1.work, Work::Busy);
    agent.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stubborn_worker_is_killed_after_the_grace() {
    let world = World::new();
    let agent = world.begin();
    sleep(Duration::from_secs(10)).await;
    let asked = world.clock.now();
    world.stop.cancel();
    assert!(matches!(agent.await.unwrap(), Ok(Ended::Stopped)));
    assert_eq!(world.see().done[4..], ["Term", "Kill", "keep exit None"]);
    assert_eq!(world.clock.now().since(asked).as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn set_up_that_hangs_is_killed_and_reported() {
    let world = World::new();
    world.see().set_up_takes = Duration::from_secs(9_999);
    let agent = world.begin();
    sleep(Duration::from_secs(70)).await;
    assert_eq!(world.see().done, ["set-up", "failed not-ready"]);
    world.see().orders.stop = true;
    assert!(matches!(agent.await.unwrap(), Ok(Ended::Stopped)));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_leaves_its_worker_to_the_next() {
    let world = World::new();
    let first = world.begin();
    sleep(Duration::from_secs(10)).await;
    first.abort();
    sleep(Duration::from_secs(60)).await;
    assert!(matches!(world.see().kept.as_ref().unwrap().stage, Stage::Running(_)));
    let second = world.begin();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(
        world.see().done,
        ["set-up", "set-up ended", "start", "ready", "ready"],
        "nothing is run again"
    );
    let inner = world.see();
    let (of_first, of_second) = (&inner.beats[0].1, &inner.beats.last().unwrap().1);
    assert!(of_second.started_at_ms > of_first.started_at_ms);
    second.abort();
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_is_taken_away_while_nobody_answers_drains_by_itself() {
    let world = World::new();
    let agent = world.begin();
    sleep(Duration::from_secs(10)).await;
    world.see().up = false;
    let at = world.clock.now() + Duration::from_secs(120);
    world.see().taken_away.send_replace(Some(at));
    sleep(Duration::from_secs(9)).await;
    assert_eq!(world.see().done[4..], [] as [&str; 0]);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(world.see().done[4..], [format!("tell drain {}", at.0)]);
    world.worker_ends(exit(0));
    world.see().up = true;
    assert!(matches!(agent.await.unwrap(), Ok(Ended::Drained)));
    let inner = world.see();
    let said = inner.done.iter().skip(5).map(String::as_str).collect::<Vec<_>>();
    let [kept, interrupted, drained] = said[..] else {
        panic!("{said:?}");
    };
    assert_eq!((kept, drained), ("keep exit Some(0)", "drained Some(0)"));
    assert!(interrupted.starts_with("interrupted within 1m "), "{interrupted}");
}

#[tokio::test(start_paused = true)]
async fn doors_that_the_link_does_not_ask_at_are_none() {
    let world = World::new();
    world.see().doors = vec!["http://unfit".to_owned(), "http://fit".to_owned()];
    let agent = world.begin_at("http://first");
    sleep(Duration::from_secs(10)).await;
    world.see().shut.push("http://first".to_owned());
    sleep(Duration::from_secs(60)).await;
    let through = world.see().through.clone();
    assert_eq!(through.last().unwrap(), "http://fit");
    assert!(!through.contains(&"http://unfit".to_owned()), "{through:?}");
    agent.abort();
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_before_the_claim_claims_nothing() {
    let world = World::new();
    world.see().disk_full = true;
    let ended = world.begin().await.unwrap();
    assert!(matches!(&ended, Err(error @ Error::GivenUp(GivenUp::NotKept(_))) if error.exit_code() == 1));
    assert!(world.see().attempts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_kept_is_not_begun_but_reported() {
    let world = World::new();
    let agent = world.begin();
    sleep(Duration::from_millis(1)).await;
    world.see().disk_full = true;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.see().done, ["failed set-up-failed"]);
    agent.abort();
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_life() {
    let mut lives = Vec::new();
    for _ in 0..2 {
        let world = World::new();
        let agent = world.begin();
        sleep(Duration::from_secs(300)).await;
        agent.abort();
        lives.push(world.see().attempts.clone());
    }
    assert!(lives[0].len() > 50);
    assert_eq!(lives[0], lives[1]);
}
