//! What must always be true, broken by a site, a store or a controller that do not do as they should, and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use epu_core::invariant::{ALL, Invariant};
use epu_core::launch::LaunchRequest;
use epu_core::life::State;
use epu_core::request::Request;
use epu_provisioner::iaas::{Class, MachineState};
use epu_store::Store as _;

use crate::forgetful::Forgetful;
use crate::world::{CONTROLLER, World};

fn counted(world: &World) -> Vec<(Invariant, u64)> {
    let all = ALL.into_iter().map(|invariant| (invariant, world.metrics.violations.of(invariant)));
    all.filter(|(_, n)| *n > 0).collect()
}

#[tokio::test(start_paused = true)]
async fn i1_a_second_machine_for_one_instance() {
    let world = World::new().await;
    let request = world.request(1);
    let id = world.launch(&request).await[0];
    world.elapse(5).await;
    world.site.put("second", Some((request.launch, 0)), Some(id));
    world.elapse(20).await;
    assert_eq!(counted(&world), [(Invariant::I1, 1)]);
    // It is ended as one that no record explains; the instance's own stays.
    world.elapse(60).await;
    assert_eq!((world.site.running(), counted(&world)), (1, vec![(Invariant::I1, 1)]));
}

#[tokio::test(start_paused = true)]
async fn i1_a_machine_without_a_record_that_the_site_does_not_end() {
    let world = World::new().await;
    world.site.put("stray", None, None);
    world.site.look().ignores_terminate = true;
    // Twice the sweep's grace, a few looks, and the time that ending takes.
    world.elapse(60).await;
    assert_eq!(counted(&world), []);
    world.elapse(120).await;
    assert_eq!(counted(&world), [(Invariant::I1, 1)]);
    world.elapse(600).await;
    assert_eq!(counted(&world), [(Invariant::I1, 1)], "each machine once");
}

#[tokio::test(start_paused = true)]
async fn i1_says_nothing_of_a_site_that_does_not_answer() {
    let world = World::new().await;
    world.site.put("stray", None, None);
    world.site.look().fails.insert("terminate", Class::Retryable);
    world.elapse(600).await;
    world.site.look().list_fails = true;
    world.elapse(600).await;
    world.site.look().list_fails = false;
    world.site.look().fails.clear();
    world.elapse(400).await;
    assert_eq!((world.site.running(), counted(&world)), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn i2_a_launch_above_its_pools_maximum_is_refused_and_leaves_nothing() {
    let world = World::new().await;
    let of = |instances: usize, max: Option<u32>| LaunchRequest {
        max,
        ..world.request(instances)
    };
    world.launch(&of(2, Some(2))).await;
    world.launch(&of(2, None)).await;
    assert_eq!(counted(&world), [], "who does not say a maximum has none");
    let above = of(1, Some(4));
    let fault = world.ask(CONTROLLER, Request::Launch(Box::new(above.clone()))).await.unwrap_err();
    assert_eq!((fault.code.as_ref(), fault.is_final()), ("above-max", true));
    assert!(world.store.launch(above.launch).await.unwrap().is_none());
    world.launch(&of(1, Some(5))).await;
    world.elapse(2).await;
    assert_eq!((world.site.running(), counted(&world)), (5, vec![]));
}

#[tokio::test(start_paused = true)]
async fn i2_those_that_leave_do_not_count() {
    let world = World::new().await;
    let id = world.running_one().await;
    world.drain(id, 600).await.unwrap();
    let request = LaunchRequest {
        max: Some(1),
        ..world.request(1)
    };
    world.launch(&request).await;
    assert_eq!(counted(&world), []);
}

#[tokio::test(start_paused = true)]
async fn i7_a_launch_that_the_store_does_not_have_is_not_called() {
    let mut world = World::new().await;
    world.stop().await.unwrap();
    let store = Arc::new(Forgetful {
        inner: world.store.clone(),
        forgets: AtomicBool::new(true),
    });
    world.through = Some(store.clone());
    world.start().await;
    let request = world.request(1);
    world.launch(&request).await;
    world.elapse(2).await;
    assert_eq!(world.site.calls(), 0);
    assert!(world.metrics.violations.of(Invariant::I7) > 0);
    store.forgets.store(false, Ordering::Relaxed);
    let counted_then = counted(&world);
    world.elapse(120).await;
    assert_eq!(
        (world.site.calls(), world.site.running()),
        (1, 1),
        "once the store has it, it is called"
    );
    assert_eq!(counted(&world), counted_then);
}

#[tokio::test(start_paused = true)]
async fn i12_a_machine_that_its_site_calls_gone_is_confirmed() {
    let world = World::new().await;
    let id = world.running_one().await;
    let machine = world.instance(id).await.machine.unwrap();
    world.site.becomes(&machine, MachineState::Gone);
    world.elapse(30).await;
    assert_eq!(world.state(id).await, State::Terminated);
    let other = world.running_one().await;
    world.terminate(other).await.unwrap();
    world.elapse(30).await;
    assert_eq!(world.state(other).await, State::Terminated);
    assert_eq!(counted(&world), []);
}

#[tokio::test(start_paused = true)]
async fn i11_an_order_that_is_refused_changes_nothing() {
    let world = World::new().await;
    let id = world.running_one().await;
    let unknown = world.random.instance(world.clock.now());
    let order = epu_core::request::Protect {
        instances: vec![id, unknown],
        on: true,
    };
    let refused = world.ask(CONTROLLER, Request::Protect(order)).await;
    assert!(refused.is_err_and(|fault| fault.is_refusal()));
    assert!(!world.instance(id).await.protected);
    assert_eq!(counted(&world), []);
}
