use std::sync::Mutex as Held;

use tokio::time::Instant;

use super::*;

/// Tokio's paused clock as ours.
#[derive(Debug)]
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        Timestamp(1_763_840_236_000) + self.0.elapsed()
    }
}

#[expect(clippy::disallowed_methods, reason = "the clock that the rest is told to ask")]
fn pacers() -> Arc<Pacers> {
    Pacers::new(Arc::new(Virtual(Instant::now())), Arc::new(Metrics::new().unwrap()))
}

fn spec(capacity: f64, refill: f64) -> BucketSpec {
    BucketSpec { capacity, refill }
}

async fn elapse(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Who was served, in which order.
#[derive(Clone, Default)]
struct Served(Arc<Held<Vec<String>>>);

impl Served {
    fn wait(&self, pace: &Arc<Pace>, name: &str, machines: u32, purpose: Purpose) -> tokio::task::JoinHandle<()> {
        let (pace, served, name) = (pace.clone(), self.clone(), name.to_owned());
        tokio::spawn(async move {
            pace.turn(Action::RunInstances, machines, purpose).await;
            served.0.lock().unwrap().push(name);
        })
    }

    fn so_far(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn calls_go_at_once_until_the_bucket_is_empty_and_then_as_it_fills() {
    let pacers = pacers();
    let pace = pacers.account("1", "r");
    let began = pacers.clock.now();
    for _ in 0..5 {
        pace.turn(Action::RunInstances, 1, Purpose::Grow).await;
    }
    assert_eq!(pacers.clock.now(), began);
    for _ in 0..10 {
        pace.turn(Action::RunInstances, 1, Purpose::Grow).await;
    }
    assert_eq!(
        pacers.clock.now().since(began).as_secs(),
        6,
        "two each second, and a second to be sure"
    );
    // Machines are counted besides.
    elapse(100).await;
    let began = pacers.clock.now();
    pace.turn(Action::RunInstances, 1_000, Purpose::Grow).await;
    pace.turn(Action::RunInstances, 20, Purpose::Grow).await;
    assert_eq!(pacers.clock.now().since(began).as_secs(), 11);
    // Another kind of request, and another region, are counted by themselves.
    pace.turn(Action::TerminateInstances, 1_000, Purpose::Grow).await;
    pacers.account("1", "s").turn(Action::RunInstances, 1_000, Purpose::Grow).await;
    assert_eq!(pacers.clock.now().since(began).as_secs(), 11);
}

#[tokio::test(start_paused = true)]
async fn an_account_has_one_set_of_buckets_whoever_asks() {
    let pacers = pacers();
    pacers.account("1", "r").turn(Action::RunInstances, 400, Purpose::Grow).await;
    let levels = pacers.account("1", "r").levels();
    let seen: Vec<_> = levels.iter().map(|view| (view.what.as_str(), view.level, view.waiting)).collect();
    assert_eq!(seen, [("RunInstances", 4.0, 0), ("RunInstances machines", 600.0, 0)]);
    assert_eq!(pacers.account("2", "r").levels(), []);
    let shown = pacers
        .metrics
        .pace_tokens
        .with_label_values(&["1", "r", "run-instances-machines"])
        .get();
    assert!((shown - 600.0).abs() < 1e-9);
}

#[tokio::test(start_paused = true)]
async fn replacing_goes_before_growing_before_refreshing_and_each_in_the_order_they_came() {
    let pace = pacers().account("1", "r");
    pace.turn(Action::RunInstances, 1_000, Purpose::Grow).await;
    let served = Served::default();
    let order = [
        ("f1", Purpose::Refresh),
        ("g1", Purpose::Grow),
        ("g2", Purpose::Grow),
        ("r1", Purpose::Replace),
        ("f2", Purpose::Refresh),
        ("r2", Purpose::Replace),
    ];
    for (name, purpose) in order {
        served.wait(&pace, name, 10, purpose);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(pace.levels()[0].waiting, 6);
    elapse(33).await;
    assert_eq!(served.so_far(), ["r1", "r2", "g1", "g2", "f1", "f2"]);
}

#[tokio::test(start_paused = true)]
async fn a_small_call_that_is_more_urgent_overtakes_a_large_one_that_waits() {
    let pace = pacers().account("1", "r");
    pace.turn(Action::RunInstances, 1_000, Purpose::Grow).await;
    let served = Served::default();
    served.wait(&pace, "large", 900, Purpose::Grow);
    elapse(100).await;
    served.wait(&pace, "replacement", 1, Purpose::Replace);
    served.wait(&pace, "small", 1, Purpose::Grow);
    elapse(1).await;
    assert_eq!(served.so_far(), ["replacement"]);
    elapse(340).await;
    assert_eq!(
        served.so_far(),
        ["replacement"],
        "the large one is not starved by small ones after it"
    );
    elapse(60).await;
    assert_eq!(served.so_far(), ["replacement", "large", "small"]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_not_kept_waiting_for_ever_by_growth() {
    let pace = pacers().account("1", "r");
    pace.turn(Action::RunInstances, 1_000, Purpose::Grow).await;
    let served = Served::default();
    served.wait(&pace, "refresh", 10, Purpose::Refresh);
    // More growth than the bucket lets through, all the time.
    for n in 0..600 {
        served.wait(&pace, &format!("g{n}"), 10, Purpose::Grow);
        elapse(4).await;
        if served.so_far().contains(&"refresh".to_owned()) {
            panic!("served after {n}: growth that came within twenty minutes goes first, and there was more than enough of it");
        }
        if n == 299 {
            break;
        }
    }
    let (mut asked, mut waited) = (300, 0);
    while !served.so_far().contains(&"refresh".to_owned()) {
        served.wait(&pace, &format!("g{asked}"), 10, Purpose::Grow);
        asked += 1;
        waited += 4;
        elapse(4).await;
        assert!(waited < 600, "growth that came later than twenty minutes after it went first");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_frees_its_place_and_takes_nothing() {
    let pace = pacers().account("1", "r");
    pace.turn(Action::RunInstances, 1_000, Purpose::Grow).await;
    let served = Served::default();
    let first = served.wait(&pace, "first", 1_000, Purpose::Replace);
    elapse(1).await;
    served.wait(&pace, "second", 10, Purpose::Grow);
    elapse(20).await;
    assert_eq!(served.so_far(), [] as [String; 0]);
    first.abort();
    elapse(1).await;
    assert_eq!(served.so_far(), ["second"]);
    let levels = pace.levels();
    assert_eq!(levels[1].waiting, 0);
    assert!(levels[1].level > 30.0, "{levels:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_for_more_than_the_bucket_holds_goes_when_it_is_full() {
    let pace = pacers().account("1", "r");
    pace.limit("a", &BTreeMap::from([("run-instances-machines".to_owned(), spec(100.0, 10.0))]));
    pace.turn(Action::RunInstances, 10, Purpose::Grow).await;
    let served = Served::default();
    served.wait(&pace, "large", 300, Purpose::Grow);
    elapse(1).await;
    served.wait(&pace, "next", 10, Purpose::Grow);
    elapse(2).await;
    assert_eq!(served.so_far(), ["large"]);
    elapse(20).await;
    assert_eq!(served.so_far(), ["large"], "what was owed is paid first");
    elapse(3).await;
    assert_eq!(served.so_far(), ["large", "next"]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_slows_what_was_refused_and_passes() {
    let pacers = pacers();
    let pace = pacers.account("1", "r");
    pace.turn(Action::DescribeInstances, 0, Purpose::Grow).await;
    pace.throttled(Action::DescribeInstances);
    let began = pacers.clock.now();
    pace.turn(Action::DescribeInstances, 0, Purpose::Grow).await;
    assert_eq!(pacers.clock.now().since(began).as_millis() / 10, 10);
    assert_eq!(pace.levels()[0].refill, 10.0);
    pace.turn(Action::RunInstances, 1, Purpose::Grow).await;
    assert_eq!(
        pacers.clock.now().since(began).as_millis() / 10,
        10,
        "another kind of request was not refused"
    );
    elapse(60).await;
    let views = pace.levels();
    let view = views.iter().find(|view| view.what == "DescribeInstances").unwrap();
    assert_eq!((view.level, view.refill), (100.0, 20.0));
    let counted = pacers
        .metrics
        .pace_throttled
        .with_label_values(&["1", "r", "describe-instances"])
        .get();
    assert_eq!(counted, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_machines_leaves_requests_alone_and_the_other_way_round() {
    let pace = pacers().account("1", "r");
    pace.throttled_by(Action::RunInstances, Limit::Machines);
    let levels = |pace: &Pace| pace.levels().iter().map(|view| view.level).collect::<Vec<_>>();
    assert_eq!(levels(&pace), [5.0, 0.0]);
    elapse(1_000).await;
    pace.throttled_by(Action::RunInstances, Limit::Requests);
    assert_eq!(levels(&pace), [0.0, 1_000.0]);
    pace.throttled(Action::RunInstances);
    assert_eq!(levels(&pace), [0.0, 500.0]);
}

#[tokio::test(start_paused = true)]
async fn sites_of_one_account_keep_to_the_lower_of_their_limits() {
    let pace = pacers().account("1", "r");
    pace.limit(
        "a",
        &BTreeMap::from([
            ("run-instances".to_owned(), spec(50.0, 20.0)),
            ("nothing".to_owned(), spec(1.0, 1.0)),
        ]),
    );
    pace.limit("b", &BTreeMap::from([("run-instances".to_owned(), spec(80.0, 10.0))]));
    pace.turn(Action::RunInstances, 1, Purpose::Grow).await;
    let view = pace.levels().swap_remove(0);
    assert_eq!((view.capacity, view.refill, view.level), (50.0, 10.0, 49.0));
}

#[test]
fn every_bucket_has_a_name_and_every_name_a_bucket() {
    let actions = [
        Action::RunInstances,
        Action::TerminateInstances,
        Action::DescribeInstances,
        Action::DescribeInstancesById,
        Action::DescribeInstanceStatus,
        Action::CreateTags,
        Action::Question,
        Action::Change,
    ];
    let mut names: Vec<&str> = actions.iter().map(|action| action.requests().0).collect();
    names.extend(actions.iter().filter_map(|action| Some(action.machines()?.0)));
    names.sort_unstable();
    assert_eq!(names, NAMES);
    let written = BTreeMap::from([
        ("run-instances".to_owned(), spec(1.0, 1.0)),
        ("runinstances".to_owned(), spec(1.0, 1.0)),
    ]);
    assert_eq!(unknown_names(&written).collect::<Vec<_>>(), ["runinstances"]);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_raised_or_taken_away_holds_no_longer() {
    let pacers = pacers();
    let pace = pacers.account("1", "r");
    pace.turn(Action::RunInstances, 1, Purpose::Grow).await;
    let of = |capacity| BTreeMap::from([("run-instances-machines".to_owned(), spec(capacity, 2.0))]);
    let capacity = || pace.levels()[1].capacity;
    pace.limit("a", &of(10.0));
    pace.limit("b", &of(30.0));
    assert!((capacity() - 10.0).abs() < 1e-9);
    pace.limit("a", &of(20.0));
    assert!((capacity() - 20.0).abs() < 1e-9, "raised");
    pace.limit("a", &BTreeMap::new());
    assert!((capacity() - 30.0).abs() < 1e-9, "the other's holds");
    pace.limit("b", &BTreeMap::new());
    assert!((capacity() - 1_000.0).abs() < 1e-9, "what is published holds");
}

#[test]
fn no_call_asks_for_more_machines_than_the_bucket_holds() {
    for (set, most) in [(1.0, 1), (7.9, 7), (100.0, 100), (1_000_000.0, 1_000_000)] {
        let specs = BTreeMap::from([("terminate-instances-machines".to_owned(), spec(set, 1.0))]);
        assert_eq!(capacity(&specs, Action::TerminateInstances), most);
    }
    assert_eq!(capacity(&BTreeMap::new(), Action::RunInstances), 1_000);
}
