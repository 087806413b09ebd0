//! What must always be true, broken under the controller's hands by an engine, a provisioner or facts that do not do as they should, and
//! counted by it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use epu_bus::Bus;
use epu_bus::local::LocalBus;
use epu_controller::service::FileConfig;
use epu_controller::spec::Known;
use epu_controller::{Config, Metrics, Parts};
use epu_core::fact::{Fact, Instances, Snapshot};
use epu_core::instance::{Cause, Ending, Instance, Work};
use epu_core::invariant::{ALL, Invariant, Violations};
use epu_core::launch::LaunchRequest;
use epu_core::lease::Member;
use epu_core::life::State;
use epu_core::random::Random;
use epu_core::request::{Answer, Caller, PoolFile, PoolView, Request, Service};
use epu_core::time::{Clock, Span, Timestamp};
use epu_core::{Reason, SiteName};
use epu_decision_engines::registry::Configured;
use epu_decision_engines::{Decision, Engine, Memory, Observation, Registry};
use epu_store::MemoryStore;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Tokio's paused clock as ours.
#[derive(Debug)]
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        Timestamp(1_763_840_236_000) + self.0.elapsed()
    }
}

/// An engine that wants something else each time it is asked, whatever it is shown.
#[derive(Debug)]
struct Moody(AtomicU32);

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Nothing {}

impl Configured for Moody {
    type Settings = Nothing;
    const NAME: &'static str = "moody";
    fn from_settings(_: Nothing) -> Self {
        Self(AtomicU32::new(0))
    }
}

impl Engine for Moody {
    fn decide(&self, _: &Observation) -> Decision {
        Decision {
            desired: 1 + self.0.fetch_add(1, Ordering::Relaxed) % 3,
            slots: BTreeMap::new(),
            stepwise: false,
            reasons: vec![Reason::new("keep", "it feels like it")],
            memory: Memory::default(),
            look_again_at: None,
        }
    }
    fn version(&self) -> &'static str {
        "moody/1"
    }
}

/// A controller, and a provisioner that agrees to everything.
struct Rig {
    bus: Arc<LocalBus>,
    clock: Arc<dyn Clock>,
    violations: Violations,
    launches: watch::Receiver<Vec<LaunchRequest>>,
}

impl Rig {
    #[expect(clippy::disallowed_methods, reason = "the clock that the rest is told to ask")]
    async fn new(engine: &Value) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(Virtual(Instant::now()));
        let bus = LocalBus::new();
        let violations = Violations::new().unwrap();
        let (asked, launches) = watch::channel(Vec::new());
        let mut calls = bus.serve(Service::Provisioner);
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                let (_, request, answering) = call.into_parts();
                if let Request::Launch(request) = request {
                    asked.send_modify(|all: &mut Vec<LaunchRequest>| all.push(*request));
                }
                answering.answer(Ok(Answer::Json(Value::Null)));
            }
        });
        let engines = Registry::standard().with::<Moody>();
        let known = Known {
            engines: engines.clone(),
            sites: [SiteName::new("here").unwrap()].into(),
            owned: std::collections::BTreeSet::new(),
            templates: BTreeMap::new(),
            tick: Span::secs(1),
            search: None,
        };
        let file = FileConfig {
            path: String::new(),
            pools: Vec::new(),
            known,
            sites: epu_controller::config::Sites::default(),
        };
        let parts = Parts {
            member: Member {
                name: "one".to_owned(),
                service: Service::Controller,
                url: None,
                since: clock.now(),
            },
            bus: bus.clone(),
            store: Arc::new(MemoryStore::with_clock(clock.clone())),
            clock: clock.clone(),
            random: Arc::new(Random::seeded(1)),
            engines: Arc::new(engines),
            config: Config::default(),
            metrics: Metrics::with(violations.clone()).unwrap(),
            file: watch::channel(Arc::new(file)).1,
        };
        tokio::spawn(epu_controller::run(parts, CancellationToken::new()));
        let rig = Self {
            bus,
            clock,
            violations,
            launches,
        };
        rig.elapse(2).await;
        let pool = json!({ "template": "worker", "max": 10, "engine": engine, "limits": { "stabilization": "0s", "cooldown-down": "0s" } });
        let template = json!({ "run": ["work"], "ready-within": "1m" });
        let text = json!({ "templates": { "worker": template }, "pools": { "web": pool } }).to_string();
        let file = "pools.yaml".to_owned();
        rig.ask(Request::PoolAdd(PoolFile { file, text })).await;
        rig.elapse(1).await;
        rig
    }

    /// Time passes, an aggregator saying every second that it listens and that nothing was heard.
    async fn elapse(&self, seconds: u32) {
        for _ in 0..seconds {
            self.bus.tell(Fact::Snapshot(Arc::new(Snapshot {
                aggregator: "a".to_owned(),
                listening_for_ms: 0,
                instances: Vec::new(),
                sensors: Vec::new(),
                complete: true,
            })));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn ask(&self, request: Request) -> Value {
        let asking = self.bus.ask(Caller::Operator("me".to_owned()), request, Duration::from_secs(30));
        asking.await.unwrap().into_json()
    }

    /// The record of the first instance that was asked for, as the provisioner would tell it.
    async fn tell(&self, state: State, version: u64, change: impl FnOnce(&mut Instance)) {
        let request = self.launches.borrow()[0].clone();
        let mut instance = request.instance(0, &request.instances[0], self.clock.now());
        (instance.state, instance.version) = (state, version);
        change(&mut instance);
        self.bus.tell(Fact::Instances(Arc::new(Instances {
            changed: vec![Arc::new(instance)],
            ..Instances::default()
        })));
        self.elapse(1).await;
    }

    /// What was counted.
    fn counted(&self) -> Vec<(Invariant, u64)> {
        let all = ALL.into_iter().map(|invariant| (invariant, self.violations.of(invariant)));
        all.filter(|(_, n)| *n > 0).collect()
    }
}

fn keep(n: u32) -> Value {
    json!({ "keep": { "n": n } })
}

#[tokio::test(start_paused = true)]
async fn i3_a_busy_worker_that_was_chosen_to_go() {
    let rig = Rig::new(&keep(1)).await;
    rig.tell(State::Running, 3, |instance| instance.ready_at = Some(rig.clock.now()))
        .await;
    assert_eq!(rig.counted(), []);
    rig.tell(State::Terminating, 4, |instance| {
        instance.ready_at = Some(rig.clock.now());
        instance.ending = Some(Ending {
            since: rig.clock.now(),
            why: Cause::ScaleIn,
            work: Work::Busy,
            drained_for: None,
        });
    })
    .await;
    assert_eq!(rig.counted(), [(Invariant::I3, 1)]);
}

#[tokio::test(start_paused = true)]
async fn i6_a_pool_of_which_nothing_is_heard_any_more() {
    let rig = Rig::new(&keep(2)).await;
    // Ready, stop, boot, really missing, window, cooldown, stabilization, and the rest; see `converge_within`.
    let within = 60 + 10 + 300 + 15 + 60 + 300;
    rig.elapse(within - 30).await;
    assert_eq!(rig.counted(), [], "it still has time");
    rig.elapse(90).await;
    assert_eq!(rig.counted(), [(Invariant::I6, 1)]);
}

#[tokio::test(start_paused = true)]
async fn i6_says_nothing_while_a_site_or_an_operator_holds_it_up() {
    let rig = Rig::new(&keep(1)).await;
    // The site has not accepted it, and there is a deadline for that.
    rig.tell(State::ErrorRetrying, 2, |_| {}).await;
    rig.elapse(2_000).await;
    assert_eq!(rig.counted(), []);
}

#[tokio::test(start_paused = true)]
async fn i8_an_engine_that_does_not_decide_the_same_again() {
    let rig = Rig::new(&json!({ "moody": {} })).await;
    rig.elapse(40).await;
    assert!(rig.violations.of(Invariant::I8) > 0);
    let steady = Rig::new(&keep(3)).await;
    steady.elapse(40).await;
    assert_eq!(steady.counted(), []);
}

#[tokio::test(start_paused = true)]
async fn i11_what_is_refused_is_not_counted_when_it_changes_nothing() {
    let rig = Rig::new(&keep(1)).await;
    let text = json!({ "pools": { "web": {} } }).to_string();
    let file = "pools.yaml".to_owned();
    let asking = rig.bus.ask(
        Caller::Operator("me".to_owned()),
        Request::PoolAdd(PoolFile { file, text }),
        Duration::from_secs(30),
    );
    assert!(asking.await.is_err_and(|fault| fault.is_refusal()));
    assert_eq!(rig.counted(), []);
}

#[tokio::test(start_paused = true)]
async fn i12_a_record_that_goes_back() {
    let rig = Rig::new(&keep(1)).await;
    rig.tell(State::Running, 3, |_| {}).await;
    rig.tell(State::Pending, 4, |_| {}).await;
    assert_eq!(rig.counted(), [(Invariant::I12, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_launch_says_its_pools_maximum_and_a_budget_holds_it_back() {
    let rig = Rig::new(&keep(1)).await;
    assert_eq!(rig.launches.borrow()[0].max, Some(10));
    let pool = json!({
        "template": "worker", "min": 2, "max": 10, "engine": keep(6), "limits": { "budget": 1.0 },
        "placements": [{ "site": "here", "machine": { "price": 0.3 } }],
    });
    let text = json!({ "templates": { "worker": { "run": ["work"] } }, "pools": { "dear": pool } }).to_string();
    let file = "pools.yaml".to_owned();
    rig.ask(Request::PoolAdd(PoolFile { file, text })).await;
    rig.elapse(5).await;
    let launched: usize = rig.launches.borrow().iter().skip(1).map(|request| request.instances.len()).sum();
    assert_eq!(launched, 3, "0.9 an hour of 1.0");
    let views: Vec<PoolView> = serde_json::from_value(rig.ask(Request::PoolList(epu_core::request::Nothing {})).await).unwrap();
    let dear = views.into_iter().find(|view| view.pool.name.as_str() == "dear").unwrap();
    assert_eq!(
        dear.concerns,
        ["3 more on here would cost more than the budget: 0.90 an hour of 1.00 are spent"]
    );
    rig.elapse(3_600).await;
    // Nothing is heard of the instances of either pool; what the budget holds up is explained.
    let stuck = rig.violations.take_kept();
    let is_of_web = |what: &str| what.contains("pool web ");
    assert!(
        !stuck.is_empty() && stuck.iter().all(|violation| is_of_web(&violation.what)),
        "{stuck:?}"
    );
}
