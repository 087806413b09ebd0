//! Several aggregators: each takes any heartbeat, and the loss of one is nothing that an instance suffers from.

use epu_bus::Calls;
use epu_core::instance::{Cause, Drain};

use super::*;

/// Two that know running instances 1 to `count` from the same facts, and have listened for so long.
async fn two(count: u128, listening: Duration) -> (World, World) {
    let clock = Arc::new(Paused::start());
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let a = World::start_as("a", clock.clone(), store.clone()).await;
    let b = World::start_as("b", clock, store).await;
    for world in [&a, &b] {
        world.tell_instances((1..=count).map(|n| instance(n, State::Running, 1)), true);
    }
    sleep(listening).await;
    (a, b)
}

fn load() -> serde_json::Value {
    json!({"load": {"heartbeat": {"reading": "load", "combine": "sum"}, "every": "1s"}})
}

/// What controllers put together from both: for each instance the smallest age, and the longest listening.
fn newest(worlds: [&mut World; 2]) -> (BTreeMap<InstanceId, i64>, i64) {
    let (mut ages, mut listening) = (BTreeMap::new(), 0);
    for snapshot in worlds.into_iter().flat_map(World::snapshots) {
        listening = listening.max(snapshot.listening_for_ms);
        for heard in &snapshot.instances {
            let age = ages.entry(heard.instance).or_insert(heard.ago_ms);
            *age = heard.ago_ms.min(*age);
        }
    }
    (ages, listening)
}

#[tokio::test(start_paused = true)]
async fn an_instance_whose_aggregator_died_is_heard_and_ordered_through_the_other() {
    let (mut a, mut b) = two(2, 60 * SECOND).await;
    for number in [1, 2] {
        a.beat(number, 6).await.unwrap();
    }
    sleep(SECOND).await;
    let (ages, _) = newest([&mut a, &mut b]);
    assert_eq!(ages.len(), 2);
    a.running.abort();
    // The facts that say what it is to do reach b as they reached a.
    let drain = Drain {
        since: Timestamp(0),
        deadline: Timestamp(9_000_000),
        why: Cause::ScaleIn,
    };
    let mut draining = instance(1, State::Running, 2);
    draining.drain = Some(drain.clone());
    b.tell_instances([draining, instance(2, State::Terminating, 2)], false);
    sleep(SECOND).await;
    let orders = |drain, stop| Ok(Answer::Orders(Orders { drain, stop }));
    assert_eq!(b.beat(1, 7).await, orders(Some(drain), false));
    assert_eq!(b.beat(2, 7).await, orders(None, true));
    sleep(2 * SECOND).await;
    let (ages, listening) = newest([&mut a, &mut b]);
    assert!(ages[&id(1)] <= 3_000 && ages[&id(2)] <= 3_000, "{ages:?}");
    assert!(
        listening >= 60_000,
        "b had listened all the while, so that silence before says what it said: {listening}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_has_just_begun_condemns_nobody_who_spoke_elsewhere() {
    let clock = Arc::new(Paused::start());
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let mut late = World::start_as("late", clock, store).await;
    late.tell_instances((1..=3).map(|n| instance(n, State::Running, 1)), true);
    sleep(5 * SECOND).await;
    for snapshot in late.snapshots() {
        assert!(snapshot.listening_for_ms <= 5_000, "silence counts from now on");
        assert!(snapshot.instances.is_empty(), "and of whom it has not heard it says nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn what_workers_report_is_told_by_the_one_that_hears_most_of_them() {
    let (mut a, mut b) = two(3, 12 * SECOND).await;
    for world in [&a, &b] {
        world.tell_pools(vec![pool(1, load())]);
    }
    for sequence in 1..20 {
        for instance in [1, 2] {
            a.beat(instance, sequence).await.unwrap();
        }
        b.beat(3, sequence).await.unwrap();
        sleep(SECOND).await;
    }
    let report = a.sensors().pop().unwrap();
    assert_eq!((report.value, report.reported, report.of), (Some(1.0), 2, 3));
    assert_eq!(b.sensors(), [], "one of three is not the sum of all");
    // a dies: its workers come to b, which then speaks for all.
    a.running.abort();
    for sequence in 20..60 {
        for instance in [1, 2, 3] {
            b.beat(instance, sequence).await.unwrap();
        }
        sleep(SECOND).await;
    }
    let report = b.sensors().pop().unwrap();
    assert_eq!((report.value, report.reported, report.of), (Some(1.5), 3, 3));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_left_speaks_for_all_it_hears_when_nobody_can_list_the_others() {
    let (mut a, b) = two(3, 12 * SECOND).await;
    a.tell_pools(vec![pool(1, load())]);
    let round = async |a: &mut World, sequence: u64| {
        a.beat(1, sequence).await.unwrap();
        sleep(SECOND).await;
    };
    for sequence in 1..10 {
        round(&mut a, sequence).await;
    }
    assert_eq!(a.sensors(), [], "one of three is left to the other");
    b.running.abort();
    a.store.fail_with(Some("away"));
    for sequence in 10..30 {
        round(&mut a, sequence).await;
    }
    let report = a.sensors().pop().expect("it is not mute for ever");
    assert_eq!((report.value, report.reported, report.of), (Some(0.5), 1, 3));
}

/// A bus that is in touch with others, or not.
struct Touching(Arc<LocalBus>, Arc<std::sync::atomic::AtomicBool>);

#[async_trait]
impl Bus for Touching {
    fn tell(&self, fact: Fact) {
        self.0.tell(fact);
    }
    async fn ask(&self, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        self.0.ask(caller, request, within).await
    }
    async fn ask_member(&self, member: &str, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        self.0.ask_member(member, caller, request, within).await
    }
    fn listen(&self, kinds: &[Kind]) -> Facts {
        self.0.listen(kinds)
    }
    fn serve(&self, service: Service) -> Calls {
        self.0.serve(service)
    }
    fn serve_member(&self, member: &str) -> Calls {
        self.0.serve_member(member)
    }
    fn in_touch(&self) -> Result<(), Fault> {
        let is = self.1.load(Ordering::Relaxed);
        if is { Ok(()) } else { Err(Fault::new("no-contact", "cut off")) }
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_was_cut_off_has_not_listened_meanwhile() {
    let clock = Arc::new(Paused::start());
    let (bus, is) = (LocalBus::new(), Arc::new(std::sync::atomic::AtomicBool::new(true)));
    let mut heard = bus.listen(&[Kind::Snapshot]);
    let parts = Parts {
        name: "one".to_owned(),
        member: member("one", clock.now()),
        store: None,
        bus: Arc::new(Touching(bus.clone(), is.clone())),
        clock: clock.clone(),
        sources: Arc::new(Played(Arc::new(Mutex::new((Play::Fail, 0, 0))))),
        config: Config::default(),
        metrics: Metrics::new().unwrap(),
    };
    let running = tokio::spawn(run(parts, CancellationToken::new()));
    sleep(SECOND).await;
    bus.tell(Fact::Instances(Arc::new(Instances {
        changed: Vec::new(),
        complete: true,
        ..Instances::default()
    })));
    let mut longest = async || {
        sleep(Duration::from_millis(1_500)).await;
        let mut longest = 0;
        while let Some(fact) = heard.next_now() {
            if let Fact::Snapshot(snapshot) = fact {
                longest = snapshot.listening_for_ms;
            }
        }
        longest
    };
    sleep(20 * SECOND).await;
    assert!(longest().await >= 19_000);
    is.store(false, Ordering::Relaxed);
    sleep(10 * SECOND).await;
    assert!(longest().await <= 1_000, "nobody is told that it listened");
    is.store(true, Ordering::Relaxed);
    assert!(longest().await <= 2_500, "it begins anew");
    sleep(10 * SECOND).await;
    assert!(longest().await >= 10_000);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn members_are_listed_with_their_doors_and_a_store_that_is_away_disturbs_nothing() {
    let (mut a, b) = two(1, 3 * SECOND).await;
    let listed = async |world: &World| -> Vec<String> {
        let standing = world.store.standing().await.unwrap();
        standing.of(Service::Aggregator).filter_map(|member| member.url.clone()).collect()
    };
    assert_eq!(listed(&a).await, ["http://a", "http://b"]);
    b.cancel.cancel();
    b.running.await.unwrap().unwrap();
    assert_eq!(listed(&a).await, ["http://a"], "it took itself off the list");
    a.store.fail_with(Some("away"));
    sleep(60 * SECOND).await;
    a.heard();
    assert!(a.beat(1, 1).await.is_ok());
    sleep(2 * SECOND).await;
    let snapshots = a.snapshots();
    assert!(snapshots.iter().any(|snapshot| snapshot.instances.len() == 1));
    assert!(snapshots[0].listening_for_ms > 60_000);
    assert_eq!(a.metrics.listening_gaps.get(), 0);
    a.store.fail_with(None);
    sleep(2 * SECOND).await;
    assert_eq!(listed(&a).await, ["http://a"]);
    a.running.abort();
    sleep(6 * SECOND).await;
    a.store
        .lease(epu_core::lease::LeaseAsk {
            member: member("c", a.clock.now()),
            want: [].into(),
            lasts: Span::secs(5),
        })
        .await
        .unwrap();
    assert_eq!(listed(&a).await, ["http://c"], "one that died is not listed for long");
}
