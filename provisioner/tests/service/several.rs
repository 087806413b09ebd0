//! Several provisioners over one store: one acts, and whoever lost the lead makes no call and changes nothing.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use epu_bus::Bus;
use epu_core::instance::{Cause, Drain, Instance, Work};
use epu_core::lease::{Domain, LeaseAsk, Member};
use epu_core::life::State;
use epu_core::request::{Caller, DrainOrder, Happened, Ids, Protect, Request, Service, Terminate};
use epu_core::time::{Clock, Span, Timestamp};
use epu_core::{InstanceId, PoolName};
use epu_provisioner::iaas::{Capabilities, Iaas, IaasError, IaasLaunch, Machine, MachineState};
use epu_provisioner::sites::fixed;
use epu_provisioner::{Config, Error, Metrics, Parts, run};
use epu_store::Store;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::world::{CONTROLLER, Does, Site, World, member, site_name};

/// The site as one process reaches it: notes what that process calls, and when.
struct Reached {
    site: Arc<Site>,
    clock: Arc<dyn Clock>,
    calls: Arc<Mutex<Vec<(Timestamp, &'static str)>>>,
}

impl Reached {
    fn note(&self, call: &'static str) {
        self.calls.lock().unwrap().push((self.clock.now(), call));
    }
}

#[async_trait]
impl Iaas for Reached {
    fn capabilities(&self) -> Capabilities {
        self.site.capabilities()
    }
    async fn launch(&self, launch: &IaasLaunch) -> Result<Vec<Machine>, IaasError> {
        self.note("launch");
        self.site.launch(launch).await
    }
    async fn check(&self, templates: &[epu_core::request::NamedTemplate]) -> Vec<epu_core::request::Finding> {
        self.site.check(templates).await
    }
    async fn terminate(&self, machines: &[String]) -> Result<(), IaasError> {
        self.note("terminate");
        self.site.terminate(machines).await
    }
    async fn list(&self) -> Result<Vec<Machine>, IaasError> {
        self.note("list");
        self.site.list().await
    }
    async fn describe(&self, machines: &[String]) -> Result<Vec<(String, Option<MachineState>)>, IaasError> {
        self.note("describe");
        self.site.describe(machines).await
    }
    async fn output(&self, instance: InstanceId, machine: Option<&str>, lines: u32) -> Result<Option<String>, IaasError> {
        self.note("output");
        self.site.output(instance, machine, lines).await
    }
    async fn tidy(&self, before: Timestamp) -> Result<u32, IaasError> {
        self.note("tidy");
        self.site.tidy(before).await
    }
}

/// SIGSTOP and SIGCONT for a future.
#[derive(Clone, Default)]
struct Gate(Arc<(AtomicBool, Mutex<Option<Waker>>)>);

impl Gate {
    fn hold(&self) {
        self.0.0.store(true, Ordering::SeqCst);
    }
    fn let_go(&self) {
        self.0.0.store(false, Ordering::SeqCst);
        if let Some(waker) = self.0.1.lock().unwrap().take() {
            waker.wake();
        }
    }
}

struct Gated<F>(Gate, Pin<Box<F>>);

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.0.0.0.load(Ordering::SeqCst) {
            *self.0.0.1.lock().unwrap() = Some(context.waker().clone());
            return Poll::Pending;
        }
        self.1.as_mut().poll(context)
    }
}

/// One provisioner process.
struct Process {
    metrics: Arc<Metrics>,
    calls: Arc<Mutex<Vec<(Timestamp, &'static str)>>>,
    gate: Gate,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Process {
    fn start(world: &World, name: &str) -> Self {
        let calls: Arc<Mutex<Vec<_>>> = Arc::default();
        let reached = Reached {
            site: world.site.clone(),
            clock: world.clock.clone(),
            calls: calls.clone(),
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        let parts = Parts {
            member: Member {
                url: Some(format!("http://{name}")),
                ..member(name, world.clock.now())
            },
            sites: fixed(BTreeMap::from([(site_name(), Arc::new(reached) as Arc<dyn Iaas>)])),
            metrics: metrics.clone(),
            ..world.parts(name)
        };
        let (gate, cancel) = (Gate::default(), CancellationToken::new());
        let task = tokio::spawn(Gated(gate.clone(), Box::pin(run(parts, cancel.clone()))));
        Self {
            metrics,
            calls,
            gate,
            cancel,
            task,
        }
    }

    fn leads(&self) -> bool {
        self.metrics.leader.get() == 1
    }

    fn calls(&self, name: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|(_, call)| *call == name).count()
    }

    fn called_since(&self, at: Timestamp) -> Vec<&'static str> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(then, _)| *then >= at).map(|(_, call)| *call).collect()
    }

    async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// A world whose first provisioner gave way to these two, of which the first leads.
async fn two() -> (World, Process, Process) {
    let mut world = World::new().await;
    world.stop().await.unwrap();
    let one = Process::start(&world, "p1");
    world.elapse(1).await;
    let two = Process::start(&world, "p2");
    world.elapse(2).await;
    assert!(one.leads() && !two.leads());
    (world, one, two)
}

/// So long until this one leads.
async fn takes_over(world: &World, process: &Process) -> Duration {
    let began = world.clock.now();
    while !process.leads() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(world.clock.now().since(began) < Duration::from_secs(60), "nobody takes over");
    }
    world.clock.now().since(began)
}

fn drain(world: &World, id: InstanceId, epoch: u64) -> Request {
    let now = world.clock.now();
    Request::Drain(DrainOrder {
        instances: vec![id],
        drain: Drain {
            since: now,
            deadline: now + Duration::from_secs(600),
            why: Cause::ScaleIn,
        },
        epoch,
    })
}

fn terminate(id: InstanceId, epoch: u64) -> Request {
    Request::Terminate(Terminate {
        instances: vec![(id, Work::Idle)],
        why: Cause::ScaleIn,
        epoch,
    })
}

#[tokio::test(start_paused = true)]
async fn one_acts_and_the_other_stands_by() {
    let (world, one, two) = two().await;
    world.running_one().await;
    world.elapse(60).await;
    assert!(one.calls("list") > 5);
    assert_eq!(two.called_since(Timestamp(0)), [""; 0], "a stand-by calls nobody");
    assert_eq!((one.metrics.leadership_changes.get(), two.metrics.leadership_changes.get()), (1, 0));
    assert_eq!(two.metrics.instances.with_label_values(&["600-RUNNING"]).get(), 0);
    // It joins without taking anything, and goes without anybody noticing.
    two.stop().await;
    world.elapse(10).await;
    assert!(one.leads() && one.metrics.leadership_changes.get() == 1);
}

#[tokio::test(start_paused = true)]
async fn alone_it_leads_at_once_and_when_one_is_stopped_the_other_acts_within_seconds() {
    let (world, one, two) = two().await;
    let id = world.running_one().await;
    one.stop().await;
    let took = takes_over(&world, &two).await;
    assert!(took <= Duration::from_secs(2), "{took:?}");
    assert!(world.terminate(id).await.is_ok());
    world.elapse(3).await;
    assert_eq!(world.state(id).await, State::Terminated);
    two.stop().await;
    let three = Process::start(&world, "p3");
    let took = takes_over(&world, &three).await;
    assert!(took <= Duration::from_millis(20), "nobody was there to wait for: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_under_way_when_its_caller_died_is_made_again_alike_and_launches_nothing_twice() {
    for does in [Does::LaunchesAndHangs, Does::Hangs] {
        let (world, one, two) = two().await;
        world.site.look().script.push_back(does);
        let request = world.request(3);
        let ids = world.launch(&request).await;
        world.elapse(1).await;
        one.kill().await;
        let took = takes_over(&world, &two).await;
        assert!(took < Duration::from_secs(8), "{took:?}");
        world.elapse(3).await;
        assert_eq!(world.site.running(), 3);
        for id in ids {
            assert_eq!(world.state(id).await, State::Started);
        }
        let launches: Vec<IaasLaunch> = world.site.look().launches.iter().map(|(_, launch)| launch.clone()).collect();
        assert_eq!(launches.len(), 2);
        // Byte for byte, though the doors are others now.
        assert_eq!(format!("{:?}", launches[0]), format!("{:?}", launches[1]));
        assert_eq!(launches[0].launch_token.0, launches[1].launch_token.0);
        assert_eq!(launches[0].url, "http://p1 http://p2 http://127.0.0.1:2");
        let context = world.claim(&request, 0, "nonce").await.unwrap();
        assert_eq!(
            context.doors,
            ["http://p2", "http://127.0.0.1:2"],
            "agents are told of those that live"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_was_frozen_while_another_took_over_makes_no_call_and_changes_nothing() {
    let (world, one, two) = two().await;
    let (id, other) = (world.running_one().await, world.running_one().await);
    // It is frozen with work at hand: a launch that is being called, machines to be ended.
    world.site.look().script.push_back(Does::AllAfter(Duration::from_secs(2)));
    let request = world.request(1);
    world.launch(&request).await;
    world.ask(CONTROLLER, terminate(other, 0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    one.gate.hold();
    let frozen_at = world.clock.now();
    takes_over(&world, &two).await;
    world.elapse(1).await;
    let epoch = world.store.standing().await.unwrap().lease(Domain::Provisioner).unwrap().epoch;
    // Orders given to the new one; one of them twice.
    let order = drain(&world, id, 0);
    world.ask(CONTROLLER, order.clone()).await.unwrap();
    let drained = world.instance(id).await;
    world.ask(CONTROLLER, order).await.unwrap();
    assert_eq!(world.instance(id).await, drained, "the same order again changes nothing");
    world.elapse(30).await;
    let thawed_at = world.clock.now();
    let before: Vec<Instance> = world.store.instances(false).await.unwrap();
    one.gate.let_go();
    world.elapse(30).await;
    assert_eq!(one.called_since(thawed_at), [""; 0]);
    assert!(
        one.called_since(frozen_at).iter().all(|call| *call != "launch"),
        "not a second time"
    );
    assert!(!one.leads() && two.leads());
    assert_eq!(world.store.instances(false).await.unwrap(), before);
    let standing = world.store.standing().await.unwrap();
    assert_eq!(standing.lease(Domain::Provisioner).unwrap().epoch, epoch);
    assert_eq!(standing.leader(Domain::Provisioner), Some("p2"));
    assert_eq!(world.state(other).await, State::Terminated);
    assert_eq!(
        (world.site.running(), world.site.calls()),
        (2, 4),
        "the last launch was called once by each"
    );
    assert_eq!(world.state(request.instances[0].id).await, State::Started);
    // And back: what it stood by for comes to it.
    two.kill().await;
    takes_over(&world, &one).await;
    world
        .report(
            id,
            Happened::Drained {
                exit: crate::world::exit(0),
            },
        )
        .await
        .unwrap();
    world.elapse(3).await;
    assert_eq!(world.state(id).await, State::Terminated);
    assert_eq!(world.instance(id).await.ending.unwrap().drained_for, Some(Cause::ScaleIn));
}

/// The call has waited for its turn, and when that comes this process leads no longer.
#[tokio::test(start_paused = true)]
async fn a_call_that_waited_is_not_made_once_the_term_is_over() {
    let mut world = World::new().await;
    world.stop().await.unwrap();
    world.config = Config {
        calls_at_once: 1,
        call_within: Span::secs(20),
        ..Config::default()
    };
    let one = Process::start(&world, "p1");
    world.elapse(1).await;
    world.site.look().script.push_back(Does::Hangs);
    world.launch(&world.request(1)).await;
    world.launch(&world.request(1)).await;
    world.elapse(1).await;
    assert_eq!(one.calls("launch"), 1, "the second waits for the first");
    // Only the loop is frozen: what it had begun goes on, and the first call's time-out gives way to the second.
    one.gate.hold();
    world.elapse(60).await;
    assert_eq!(one.calls("launch"), 1);
}

/// The store is asked by everybody and is the one to know: a term it calls over is over, whatever the holder's clock says.
#[tokio::test(start_paused = true)]
async fn what_a_deposed_one_records_is_refused_and_nothing_is_called() {
    let (world, one, two) = two().await;
    two.kill().await;
    let id = world.running_one().await;
    let before = world.instance(id).await;
    // Between two renewals somebody else takes the lease.
    world.store.leave("p1").await.unwrap();
    let ask = LeaseAsk {
        member: member("thief", world.clock.now()),
        want: [Domain::Provisioner].into(),
        lasts: Span::secs(5),
    };
    world.store.lease(ask).await.unwrap();
    assert!(one.leads(), "it does not know yet");
    let (launches, terminates) = (one.calls("launch"), one.calls("terminate"));
    let request = world.request(1);
    let asked = world.ask(CONTROLLER, Request::Launch(Box::new(request.clone()))).await;
    assert_eq!(asked.unwrap_err().code, "no-contact", "to be asked of whoever leads");
    assert!(!one.leads());
    assert_eq!(one.metrics.deposed.get(), 1);
    assert!(world.ask(CONTROLLER, terminate(id, 0)).await.is_err());
    assert_eq!((one.calls("launch"), one.calls("terminate")), (launches, terminates));
    assert_eq!(world.instance(id).await, before);
    assert!(world.store.launch(request.launch).await.unwrap().is_none());
    // The other never comes; once its lease has run out, this one goes on.
    takes_over(&world, &one).await;
    world.launch(&request).await;
    world.elapse(2).await;
    assert_eq!(world.state(request.instances[0].id).await, State::Started);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_nobody_acts_and_afterwards_one_does() {
    let (world, one, two) = two().await;
    let id = world.running_one().await;
    world.store.fail_with(Some("away"));
    world.elapse(5).await;
    assert!(!one.leads() && !two.leads());
    let since = world.clock.now();
    let asked = world.bus.ask(CONTROLLER, terminate(id, 0), Duration::from_secs(1)).await;
    assert_eq!(asked.unwrap_err().code, "no-contact");
    world.elapse(60).await;
    assert_eq!((one.called_since(since).len(), two.called_since(since).len()), (0, 0));
    world.store.fail_with(None);
    world.elapse(2).await;
    assert!(one.leads() ^ two.leads());
    world.terminate(id).await.unwrap();
    world.elapse(3).await;
    assert_eq!(world.state(id).await, State::Terminated);
}

#[tokio::test(start_paused = true)]
async fn again_and_again_killed_at_any_moment_nothing_is_launched_twice_or_lost() {
    let (world, mut one, mut two) = two().await;
    let mut ids = Vec::new();
    for round in 0..12_u64 {
        world
            .site
            .look()
            .script
            .extend([Does::AllAfter(Duration::from_millis(700)), Does::LosesAnswer]);
        for _ in 0..2 {
            let request = world.request(2);
            ids.extend(request.instances.iter().map(|wanted| wanted.id));
            // As controllers do: asked until it is accepted.
            while world.ask(CONTROLLER, Request::Launch(Box::new(request.clone()))).await.is_err() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(round * 130)).await;
        let name = format!("next-{round}");
        if one.leads() {
            one.kill().await;
            one = Process::start(&world, &name);
        } else {
            two.kill().await;
            two = Process::start(&world, &name);
        }
    }
    world.elapse(60).await;
    assert_eq!(world.site.running(), ids.len());
    let mut machines: Vec<_> = Vec::new();
    for id in ids {
        let instance = world.instance(id).await;
        assert_eq!(instance.state, State::Started);
        machines.push(instance.machine.unwrap());
    }
    machines.sort();
    machines.dedup();
    assert_eq!(machines.len(), world.site.running());
    assert_eq!(u32::from(one.leads()) + u32::from(two.leads()), 1);
}

// ---- the terms of controllers

fn of_pool(world: &World, pool: &str) -> epu_core::launch::LaunchRequest {
    epu_core::launch::LaunchRequest {
        pool: PoolName::new(pool).unwrap(),
        ..world.request(1)
    }
}

#[tokio::test(start_paused = true)]
async fn an_epoch_is_of_a_shard_and_an_old_one_changes_nothing() {
    let world = World::new().await;
    world.lead_pools("c1").await;
    world.elapse(2).await;
    let mut mine = of_pool(&world, "web");
    mine.epoch = 1;
    let id = world.launch(&mine).await[0];
    world.elapse(1).await;
    // Another controller takes the shards over; this is known from the store, before it has said anything.
    world.lead_pools("c2").await;
    world.elapse(2).await;
    let before = world.instance(id).await;
    let ids = Ids {
        instances: vec![id],
        epoch: 1,
    };
    let old = [
        drain(&world, id, 1),
        terminate(id, 1),
        terminate(id, 0),
        Request::WithdrawDrain(ids.clone()),
        Request::Look(ids),
        Request::Launch(Box::new(mine.clone())),
    ];
    for request in old {
        let refused = world.ask(CONTROLLER, request.clone()).await.unwrap_err();
        assert_eq!(refused.code, "stale-epoch", "{request:?}");
    }
    assert_eq!(world.metrics.stale_epochs.get(), 6);
    assert_eq!(world.instance(id).await, before);
    world.ask(CONTROLLER, drain(&world, id, 2)).await.unwrap();
    world
        .ask(Caller::Operator("ann".to_owned()), terminate(id, 0))
        .await
        .expect("operators have no terms");
}

#[tokio::test(start_paused = true)]
async fn a_new_term_of_one_shard_says_nothing_of_another() {
    let world = World::new().await;
    world.lead_pools("c1").await;
    let [web, jobs] = ["web", "jobs"].map(|pool| Domain::of(&PoolName::new(pool).unwrap()));
    assert_ne!(web, jobs);
    // c2 takes one shard only, from c1, which leaves it.
    let ask = |name: &str, want: Domain| LeaseAsk {
        member: Member {
            service: Service::Controller,
            ..member(name, world.clock.now())
        },
        want: [want].into(),
        lasts: Span::secs(3_600),
    };
    world.store.lease(ask("c1", jobs)).await.unwrap();
    world.store.lease(ask("c2", web)).await.unwrap();
    let launch = async |pool: &str, epoch: u64| {
        let mut request = of_pool(&world, pool);
        request.epoch = epoch;
        world.ask(CONTROLLER, Request::Launch(Box::new(request))).await
    };
    let early = launch("web", 2).await.unwrap_err();
    assert_eq!(early.code, "no-contact", "a term is not believed before the store says so");
    assert!(launch("web", 2).await.is_ok(), "and it is asked at once");
    assert_eq!(launch("web", 1).await.unwrap_err().code, "stale-epoch");
    assert!(launch("jobs", 1).await.is_ok());
    for _ in 0..2 {
        assert_eq!(launch("jobs", 9).await.unwrap_err().code, "no-contact", "there is no such term");
    }
    assert!(launch("jobs", 1).await.is_ok(), "whoever leads is not locked out by it");
}

#[tokio::test(start_paused = true)]
async fn an_order_under_a_term_that_ended_just_now_is_refused_by_the_store_and_harms_no_other() {
    let world = World::new().await;
    let id = world.running_one().await;
    world.lead_pools("c1").await;
    world.elapse(2).await;
    let ids = Ids {
        instances: vec![id],
        epoch: 1,
    };
    world.ask(CONTROLLER, drain(&world, id, 1)).await.unwrap();
    // Nobody has told the provisioner yet.
    world.lead_pools("c2").await;
    let before = world.instance(id).await;
    assert!(before.state == State::Running && before.drain.is_some());
    let ann = Caller::Operator("ann".to_owned());
    let protect = Request::Protect(Protect {
        instances: vec![id],
        on: true,
    });
    for order in [terminate(id, 1), Request::WithdrawDrain(ids)] {
        let refused = world.metrics.stale_epochs.get();
        let (stale, other) = tokio::join!(world.ask(CONTROLLER, order.clone()), world.ask(ann.clone(), protect.clone()));
        assert_eq!(stale.unwrap_err().code, "stale-epoch", "{order:?}");
        assert_eq!(world.metrics.stale_epochs.get(), refused + 1);
        if let Err(fault) = other {
            assert_eq!(fault.code, "no-contact", "it may be asked again: {fault:?}");
        }
        assert_eq!(world.instance(id).await.state, before.state);
        assert_eq!(world.instance(id).await.drain, before.drain);
        // While the records are read anew everybody is told to repeat.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    world.elapse(1).await;
    world.ask(ann, protect).await.expect("nothing is wrong with it");
    assert!(world.instance(id).await.protected);
    world.ask(CONTROLLER, terminate(id, 2)).await.expect("of whoever leads");
    world.elapse(3).await;
    assert_eq!(world.state(id).await, State::Terminated);
}
