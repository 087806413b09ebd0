use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use epu_bus::local::LocalBus;
use epu_core::fact::Instances;
use epu_core::heartbeat::Condition;
use epu_core::instance::{Instance, Work};
use epu_core::pool::SensorSpec;
use epu_core::reading::SensorReport;
use epu_core::request::Nothing;
use epu_core::{InstanceId, SensorName, Span, State};
use epu_store::MemoryStore;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::*;
use crate::sensors::{Source, Value, describe};

mod several;

const SECOND: Duration = Duration::from_secs(1);

/// Goes with tokio's paused time, and jumps when told.
#[derive(Debug)]
struct Paused {
    start: Instant,
    jumped: AtomicI64,
}

#[expect(clippy::disallowed_methods, reason = "this clock is the tests' own")]
impl Paused {
    fn start() -> Self {
        Self {
            start: Instant::now(),
            jumped: AtomicI64::new(1_000_000),
        }
    }
}

impl Clock for Paused {
    fn now(&self) -> Timestamp {
        Timestamp(self.jumped.load(Ordering::Relaxed)) + self.start.elapsed()
    }
}

#[derive(Debug, Clone, Copy)]
enum Play {
    Amount(f64),
    Fail,
    Hang,
    Panic,
}

/// Sources that do as they are told, and count how often they were opened and read.
#[derive(Debug, Clone)]
struct Played(Arc<Mutex<(Play, u32, u32)>>);

impl Played {
    fn set(&self, play: Play) {
        self.0.lock().unwrap().0 = play;
    }
    fn opened(&self) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
    fn read(&self) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).2
    }
}

struct PlayedSource(Played, String);

impl Sources for Played {
    fn open(&self, _: &PoolName, _: &SensorName, spec: &SensorSpec) -> Box<dyn Source> {
        self.0.lock().unwrap().1 += 1;
        Box::new(PlayedSource(self.clone(), describe(spec)))
    }
}

#[async_trait]
impl Source for PlayedSource {
    async fn read(&mut self) -> Result<Value, Fault> {
        let play = {
            let mut played = self.0.0.lock().unwrap();
            played.2 += 1;
            played.0
        };
        match play {
            Play::Amount(amount) => Ok(Value {
                amount,
                covers_in_progress: false,
                source: self.1.clone(),
            }),
            Play::Fail => Err(Fault::new("no-contact", "the broker does not answer")),
            Play::Hang => std::future::pending().await,
            Play::Panic => panic!("as the test wishes"),
        }
    }
}

struct World {
    bus: Arc<LocalBus>,
    clock: Arc<Paused>,
    metrics: Metrics,
    sources: Played,
    store: Arc<MemoryStore>,
    heard: Facts,
    cancel: CancellationToken,
    running: JoinHandle<Result<(), Error>>,
}

impl World {
    async fn start() -> Self {
        let clock = Arc::new(Paused::start());
        let store = Arc::new(MemoryStore::with_clock(clock.clone()));
        Self::start_as("one", clock, store).await
    }

    /// One more process of the installation that this store is of, with a bus of its own.
    async fn start_as(name: &str, clock: Arc<Paused>, store: Arc<MemoryStore>) -> Self {
        let bus = LocalBus::new();
        let metrics = Metrics::new().unwrap();
        let sources = Played(Arc::new(Mutex::new((Play::Amount(0.0), 0, 0))));
        let heard = bus.listen(&[Kind::Snapshot, Kind::Listening]);
        let cancel = CancellationToken::new();
        let parts = Parts {
            name: name.to_owned(),
            member: member(name, clock.now()),
            store: Some(store.clone()),
            bus: bus.clone(),
            clock: clock.clone(),
            sources: Arc::new(sources.clone()),
            config: Config::default(),
            metrics: metrics.clone(),
        };
        let running = tokio::spawn(run(parts, cancel.clone()));
        tokio::time::sleep(Duration::from_millis(1)).await;
        Self {
            bus,
            clock,
            metrics,
            sources,
            store,
            heard,
            cancel,
            running,
        }
    }

    /// One that knows running instances 1 to `count`, and has listened long enough to say so.
    async fn knowing(count: u128) -> Self {
        let mut world = Self::start().await;
        world.tell_instances((1..=count).map(|n| instance(n, State::Running, 1)), true);
        sleep(12 * SECOND).await;
        world.heard();
        world
    }

    fn tell_instances(&self, instances: impl IntoIterator<Item = Instance>, complete: bool) {
        let changed = instances.into_iter().map(Arc::new).collect();
        self.bus.tell(Fact::Instances(Arc::new(Instances {
            changed,
            complete,
            ..Instances::default()
        })));
    }

    fn tell_pools(&self, pools: Vec<Pool>) {
        self.bus.tell(Fact::Pools(Arc::new(pools)));
    }

    async fn ask(&self, caller: Caller, request: Request) -> Result<Answer, Fault> {
        self.bus.ask(caller, request, 10 * SECOND).await
    }

    async fn beat(&self, number: u128, sequence: u64) -> Result<Answer, Fault> {
        let request = Request::Heartbeat(Box::new(beat(number, sequence)));
        self.ask(Caller::Instance(id(number)), request).await
    }

    /// What has been told since this was last asked.
    fn heard(&mut self) -> Vec<Fact> {
        std::iter::from_fn(|| self.heard.next_now()).collect()
    }

    fn snapshots(&mut self) -> Vec<Arc<Snapshot>> {
        let snapshot = |fact| {
            if let Fact::Snapshot(snapshot) = fact {
                Some(snapshot)
            } else {
                None
            }
        };
        self.heard().into_iter().filter_map(snapshot).collect()
    }

    fn sensors(&mut self) -> Vec<SensorReport> {
        self.snapshots().iter().flat_map(|snapshot| snapshot.sensors.clone()).collect()
    }

    fn counted(&self, outcome: &str) -> u64 {
        self.metrics.heartbeats.with_label_values(&[outcome]).get()
    }
}

fn member(name: &str, since: Timestamp) -> Member {
    Member {
        name: name.to_owned(),
        service: Service::Aggregator,
        url: Some(format!("http://{name}")),
        since,
    }
}

fn id(number: u128) -> InstanceId {
    InstanceId(Uuid::from_u128(number))
}

fn instance(number: u128, state: State, version: u64) -> Instance {
    serde_json::from_value(json!({
        "id": id(number), "pool": "web", "launch": Uuid::from_u128(7), "index": 0, "site": "here",
        "state": state, "version": version, "created_at": 0, "state_since": 0,
    }))
    .unwrap()
}

fn beat(number: u128, sequence: u64) -> Heartbeat {
    Heartbeat {
        instance: id(number),
        sequence,
        started_at_ms: 0,
        sent_at_ms: 0,
        condition: Condition::Ok,
        work: Work::Busy,
        work_for_ms: 0,
        draining: false,
        readings: BTreeMap::from([(SensorName::new("load").unwrap(), 0.5)]),
    }
}

fn pool(revision: u64, sensors: serde_json::Value) -> Pool {
    serde_json::from_value(json!({
        "name": "web", "revision": revision, "added_at": 0, "template_version": "t", "origin": {"is": "operator"},
        "template": {"run": ["true"]},
        "spec": {"template": "t", "max": 5, "engine": {"keep": {"n": 1}}, "sensors": sensors},
    }))
    .unwrap()
}

fn queue() -> serde_json::Value {
    json!({"queue": {"rabbitmq": {"url": "env:AMQP_URL", "queue": "jobs"}, "every": "5s"}})
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_is_answered_with_orders_and_told_within_a_second() {
    let mut world = World::knowing(1).await;
    assert_eq!(world.beat(1, 1).await, Ok(Answer::Orders(Orders::default())));
    world.tell_instances([instance(1, State::Terminating, 2)], false);
    sleep(SECOND).await;
    let snapshots = world.snapshots();
    let heard: Vec<_> = snapshots.iter().flat_map(|snapshot| &snapshot.instances).collect();
    assert_eq!((heard.len(), heard[0].instance, heard[0].work), (1, id(1), Work::Busy));
    assert_eq!(snapshots[0].aggregator, "one");
    assert_eq!(world.beat(1, 2).await, Ok(Answer::Orders(Orders { drain: None, stop: true })));
    assert_eq!(world.counted("taken"), 2);
}

#[tokio::test(start_paused = true)]
async fn until_everything_was_told_unknown_instances_are_refused_and_counted_apart() {
    let mut world = World::start().await;
    assert!(world.heard().contains(&Fact::Listening(Listener::Aggregator)));
    assert_eq!(world.beat(1, 1).await.unwrap_err().code, "unknown-instance");
    sleep(100 * SECOND).await;
    let asked = world
        .heard()
        .iter()
        .filter(|fact| **fact == Fact::Listening(Listener::Aggregator))
        .count();
    assert!((9..=12).contains(&asked), "asked {asked} times in 100 s");
    world.tell_instances([], true);
    sleep(SECOND).await;
    assert!(world.snapshots().iter().all(|snapshot| snapshot.listening_for_ms <= 1_000));
    assert_eq!(world.beat(1, 2).await.unwrap_err().code, "unknown-instance");
    assert_eq!((world.counted("not-yet-known"), world.counted("unknown-instance")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_stays_unknown_has_everything_asked_for_ever_more_rarely() {
    let mut world = World::knowing(1).await;
    let mut asked = Vec::new();
    for sequence in 0..600 {
        assert!(world.beat(9, sequence).await.is_err());
        sleep(SECOND).await;
        let told = world.heard();
        asked.push(told.iter().filter(|fact| **fact == Fact::Listening(Listener::Aggregator)).count());
    }
    assert_eq!(asked[..10].iter().sum::<usize>(), 2);
    assert!((5..=9).contains(&asked.iter().sum::<usize>()), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn an_instance_speaks_for_itself_only() {
    let world = World::knowing(2).await;
    let other = Request::Heartbeat(Box::new(beat(2, 1)));
    let refused = world.ask(Caller::Instance(id(1)), other.clone()).await.unwrap_err();
    assert_eq!(refused.code, "forbidden");
    assert!(world.ask(Caller::Service("http"), other.clone()).await.is_ok());
    assert_eq!((world.counted("forbidden"), world.counted("taken")), (1, 1));
    for operator in [
        Caller::Operator("ada".into()),
        Caller::OwnersOperator("ada".into(), vec!["web".into()]),
    ] {
        assert_eq!(world.ask(operator, other.clone()).await.unwrap_err().code, "forbidden");
    }
}

#[tokio::test(start_paused = true)]
async fn several_heartbeats_are_answered_in_their_order() {
    let world = World::knowing(2).await;
    let several = Request::Heartbeats(vec![beat(1, 1), beat(9, 1), beat(2, 1), beat(2, 1)]);
    let outcomes: Vec<Outcome> = world.ask(Caller::Service("amqp"), several).await.unwrap().read().unwrap();
    let codes: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Taken(orders) => format!("stop {}", orders.stop),
            Outcome::Refused(fault) => fault.code.to_string(),
        })
        .collect();
    assert_eq!(codes, ["stop false", "unknown-instance", "stop false", "conflict"]);
    let too_many = Request::Heartbeats(vec![beat(1, 2); HEARTBEATS_MAX + 1]);
    assert_eq!(world.ask(Caller::Service("amqp"), too_many).await.unwrap_err().code, "bad-request");
    let wrong_door = world.bus.ask(Caller::Service("x"), Request::Status(Nothing {}), SECOND).await;
    assert_eq!(wrong_door.unwrap_err().code, "no-contact");
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_begins_to_listen_is_told_everything_at_once() {
    let mut world = World::knowing(3).await;
    for number in 1..=3 {
        world.beat(number, 1).await.unwrap();
    }
    sleep(15 * SECOND).await;
    world.heard();
    world.bus.tell(Fact::Listening(Listener::Controller));
    sleep(Duration::from_millis(1)).await;
    let snapshots = world.snapshots();
    assert_eq!((snapshots.len(), snapshots[0].instances.len(), snapshots[0].complete), (1, 3, true));
    assert!(snapshots[0].instances.iter().all(|heard| (15_000..15_100).contains(&heard.ago_ms)));
    sleep(65 * SECOND).await;
    assert_eq!(
        world.snapshots().iter().filter(|snapshot| snapshot.complete).count(),
        2,
        "and every 30 s"
    );
}

/// When complete snapshots came, in seconds, within so many seconds.
async fn complete_at(world: &mut World, seconds: u64) -> Vec<u64> {
    let mut at = Vec::new();
    for second in 1..=seconds {
        sleep(SECOND).await;
        at.extend(world.snapshots().iter().filter(|snapshot| snapshot.complete).map(|_| second));
    }
    at
}

fn speaking_every(every: Span) -> Pool {
    let mut pool = pool(1, json!({}));
    pool.template.heartbeat = every;
    pool
}

#[tokio::test(start_paused = true)]
async fn nothing_is_called_complete_before_everybody_had_the_time_to_speak() {
    let mut world = World::start().await;
    world.tell_pools(vec![speaking_every(Span::secs(8))]);
    assert!(complete_at(&mut world, 40).await.is_empty(), "the instances are not known");
    world.tell_instances([instance(1, State::Running, 1)], true);
    world.bus.tell(Fact::Listening(Listener::Controller));
    world.beat(1, 1).await.unwrap();
    let asked = world.snapshots();
    assert!(asked.iter().all(|snapshot| !snapshot.complete));
    // At once when it can be, without being asked, and from then on as usual.
    let complete = complete_at(&mut world, 60).await;
    assert!(complete.len() == 2 && (16..=17).contains(&complete[0]), "{complete:?}");
    // After a gap it is not, until everybody had the time again.
    world.clock.jumped.fetch_add(60_000, Ordering::Relaxed);
    let complete = complete_at(&mut world, 30).await;
    assert!(complete.len() == 1 && (17..=18).contains(&complete[0]), "{complete:?}");
}

#[tokio::test(start_paused = true)]
async fn pools_that_speak_often_are_complete_soon_and_nobody_is_waited_for_too_long() {
    for (every, expected) in [(Span::millis(300), 1..=2), (Span::secs(3_600), 120..=121)] {
        let mut world = World::start().await;
        world.tell_pools(vec![speaking_every(every)]);
        world.tell_instances([], true);
        let complete = complete_at(&mut world, 125).await;
        assert!(expected.contains(&complete[0]), "{every}: {complete:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sensors_new_value_is_told_at_once() {
    let mut world = World::knowing(0).await;
    world.sources.set(Play::Amount(7.0));
    world.tell_pools(vec![pool(1, queue())]);
    sleep(Duration::from_millis(1)).await;
    let sensors = world.sensors();
    assert_eq!(sensors.len(), 1);
    assert_eq!((sensors[0].value, sensors[0].age_ms), (Some(7.0), Some(0)));
    assert_eq!(sensors[0].source, "rabbitmq queue jobs (ready)");
    sleep(21 * SECOND).await;
    let sensors = world.sensors();
    assert_eq!(sensors.len(), 4, "told once a reading, changed or not");
    assert!(sensors.iter().all(|report| report.age_ms < Some(1_001)));
    assert_eq!(world.metrics.sensor_value.with_label_values(&["web", "queue"]).get(), 7.0);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_or_hangs_leaves_the_old_value_to_age() {
    let mut world = World::knowing(0).await;
    world.sources.set(Play::Amount(7.0));
    world.tell_pools(vec![pool(1, queue())]);
    sleep(SECOND).await;
    world.sources.set(Play::Fail);
    sleep(5 * SECOND).await;
    let report = world.sensors().pop().unwrap();
    assert_eq!((report.value, report.fault.unwrap().code.as_ref()), (Some(7.0), "no-contact"));
    assert!(report.age_ms >= Some(5_000));
    world.sources.set(Play::Hang);
    sleep(30 * SECOND).await;
    let report = world.sensors().pop().unwrap();
    assert_eq!((report.value, report.fault.unwrap().code.as_ref()), (Some(7.0), "timeout"));
    assert!(report.age_ms >= Some(35_000));
    world.sources.set(Play::Amount(0.0));
    sleep(10 * SECOND).await;
    let report = world.sensors().pop().unwrap();
    assert_eq!((report.value, report.fault), (Some(0.0), None));
    let reads = |outcome| world.metrics.sensor_reads.with_label_values(&[outcome]).get();
    assert_eq!((reads("failed"), reads("timeout")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_sensor_without_a_value_is_not_among_the_metrics() {
    let world = World::knowing(0).await;
    world.sources.set(Play::Fail);
    world.tell_pools(vec![pool(1, queue())]);
    sleep(10 * SECOND).await;
    assert!(world.sources.read() >= 2);
    let families = prometheus::core::Collector::collect(&world.metrics.sensor_value);
    assert_eq!(families.iter().map(|family| family.get_metric().len()).sum::<usize>(), 0);
}

#[tokio::test(start_paused = true)]
async fn sensors_follow_their_pools() {
    let mut world = World::knowing(0).await;
    world.sources.set(Play::Amount(7.0));
    world.tell_pools(vec![pool(1, queue())]);
    sleep(SECOND).await;
    world.tell_pools(vec![pool(1, queue())]);
    sleep(SECOND).await;
    assert_eq!(world.sources.opened(), 1, "the same again changes nothing");

    let mut slower = queue();
    slower["queue"]["every"] = json!("20s");
    world.sources.set(Play::Hang);
    world.tell_pools(vec![pool(2, slower)]);
    sleep(SECOND).await;
    world.heard();
    world.bus.tell(Fact::Listening(Listener::Controller));
    sleep(SECOND).await;
    assert_eq!(world.sources.opened(), 2);
    assert_eq!(world.sensors()[0].value, Some(7.0), "another pace keeps the word");

    let mut other = queue();
    other["queue"]["rabbitmq"]["queue"] = json!("other");
    world.tell_pools(vec![pool(3, other), pool(2, json!({}))]); // the second is old news
    sleep(SECOND).await;
    world.heard();
    world.bus.tell(Fact::Listening(Listener::Controller));
    sleep(Duration::from_millis(1)).await;
    let sensors = world.sensors();
    assert_eq!(
        (sensors[0].value, sensors[0].source.as_str()),
        (None, "rabbitmq queue other (ready)")
    );

    let removed = Pool {
        removed: true,
        ..pool(4, queue())
    };
    world.sources.set(Play::Amount(1.0));
    world.tell_pools(vec![removed]);
    sleep(SECOND).await;
    let reads = world.sources.read();
    world.heard();
    sleep(100 * SECOND).await;
    assert_eq!(
        (world.sources.read(), world.sensors().len()),
        (reads, 0),
        "a removed pool's sensors are not read"
    );

    let again = Pool {
        added_at: Timestamp(1),
        ..pool(1, queue())
    };
    world.tell_pools(vec![again]);
    sleep(SECOND).await;
    assert_eq!(
        world.sensors().pop().unwrap().value,
        Some(1.0),
        "a pool of the same name can be added again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_nobody_mentions_any_more_is_not_read_for_ever() {
    let world = World::knowing(0).await;
    world.tell_pools(vec![pool(1, queue())]);
    sleep(700 * SECOND).await;
    let reads = world.sources.read();
    assert!((120..=135).contains(&reads), "{reads}");
    sleep(700 * SECOND).await;
    assert_eq!(world.sources.read(), reads);
}

#[tokio::test(start_paused = true)]
async fn a_sensor_whose_task_panicked_is_started_again() {
    let mut world = World::knowing(0).await;
    world.sources.set(Play::Panic);
    world.tell_pools(vec![pool(1, queue())]);
    sleep(SECOND).await;
    world.sources.set(Play::Amount(3.0));
    sleep(60 * SECOND).await;
    assert_eq!(world.sensors().pop().unwrap().value, Some(3.0));
}

#[tokio::test(start_paused = true)]
async fn readings_of_heartbeats_are_put_together_and_end_with_their_senders() {
    let mut world = World::knowing(2).await;
    let sensor = json!({"load": {"heartbeat": {"reading": "load", "combine": "sum"}, "every": "2s"}});
    world.tell_pools(vec![pool(1, sensor)]);
    for sequence in 1..5 {
        world.beat(1, sequence).await.unwrap();
        sleep(SECOND).await;
    }
    let report = world.sensors().pop().unwrap();
    assert_eq!((report.value, report.reported, report.of), (Some(0.5), 1, 2));
    assert_eq!(world.sources.opened(), 0);
    sleep(20 * SECOND).await;
    let report = world.sensors().pop().unwrap();
    assert_eq!((report.value, report.reported, report.of), (None, 0, 2));
    assert_eq!(report.fault.unwrap().code, "no-reports");
}

#[tokio::test(start_paused = true)]
async fn silence_before_a_gap_counts_against_nobody() {
    let mut world = World::knowing(1).await;
    sleep(100 * SECOND).await;
    assert!(world.snapshots().pop().unwrap().listening_for_ms > 100_000);
    world.clock.jumped.fetch_add(60_000, Ordering::Relaxed); // the process was stopped for a minute
    sleep(SECOND).await;
    assert!(world.snapshots().pop().unwrap().listening_for_ms < 2_000);
    assert_eq!(world.metrics.listening_gaps.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_facts_were_lost_all_are_asked_for_and_told() {
    let mut world = World::knowing(1).await;
    world.beat(1, 1).await.unwrap();
    sleep(5 * SECOND).await;
    world.heard();
    let nothing = Arc::new(Vec::new());
    for _ in 0..70_000 {
        world.bus.tell(Fact::Pools(nothing.clone()));
    }
    sleep(2 * SECOND).await;
    let told = world.heard();
    assert!(told.contains(&Fact::Listening(Listener::Aggregator)));
    let complete = |fact: &Fact| matches!(fact, Fact::Snapshot(snapshot) if snapshot.complete && snapshot.instances.len() == 1);
    assert!(told.iter().any(complete));
    assert!(world.metrics.facts_lost.get() > 0);
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_told_to_and_when_replaced() {
    let world = World::start().await;
    world.cancel.cancel();
    assert_eq!(world.running.await.unwrap(), Ok(()));
    let world = World::start().await;
    let _calls = world.bus.serve(Service::Aggregator);
    assert_eq!(world.running.await.unwrap(), Err(Error::Replaced));
}
