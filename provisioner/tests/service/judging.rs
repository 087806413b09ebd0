//! Launches that are not worth having.

use epu_core::instance::{Cause, Work};
use epu_core::launch::LaunchRequest;
use epu_core::life::State;
use epu_core::request::{Caller, Happened, Request, Terminate};
use epu_core::time::Span;

use crate::world::{CONTROLLER, Does, World, exit};

fn worth(world: &World, size: usize, min: u32) -> LaunchRequest {
    LaunchRequest {
        min,
        ..world.request(size)
    }
}

/// A launch of which these become ready.
async fn launched(world: &World, size: usize, min: u32, ready: &[u32]) -> LaunchRequest {
    let request = worth(world, size, min);
    world.launch(&request).await;
    world.elapse(1).await;
    for index in ready {
        world.becomes_ready(&request, *index).await;
    }
    request
}

async fn states(world: &World, request: &LaunchRequest) -> Vec<State> {
    let mut states = Vec::new();
    for wanted in &request.instances {
        states.push(world.state(wanted.id).await);
    }
    states
}

#[tokio::test(start_paused = true)]
async fn when_too_few_are_ready_in_time_the_rest_is_ended() {
    let world = World::new().await;
    let request = launched(&world, 4, 3, &[0, 2]).await;
    world.elapse(590).await;
    assert_eq!(states(&world, &request).await[0], State::Running);
    world.elapse(20).await;
    assert_eq!(states(&world, &request).await, [State::Terminated; 4]);
    let undone = request.instances[0].id;
    assert_eq!(
        (world.fault_code(undone).await.as_str(), world.cause(undone).await),
        ("launch-undone", Cause::NotReady)
    );
    let text = world.instance(undone).await.fault.unwrap().text;
    assert!(text.contains("2 of 4 instances became ready in time"), "{text}");
    assert_eq!(
        world.fault_code(request.instances[1].id).await,
        "ready-unheard",
        "its own fault says more"
    );
    assert_eq!(world.site.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_had_enough_at_some_time_is_never_undone() {
    let world = World::new().await;
    let request = launched(&world, 4, 3, &[0, 1, 2]).await;
    for index in [0, 1] {
        let id = request.instances[index].id;
        world.report(id, Happened::Exited { exit: exit(0) }).await.unwrap();
    }
    world.elapse(3_600).await;
    let states = states(&world, &request).await;
    assert_eq!(states[2], State::Running);
    assert_eq!(world.site.running(), 1, "the one that never was ready went by itself: {states:?}");
}

#[tokio::test(start_paused = true)]
async fn a_launch_of_any_worth_is_left_alone() {
    let world = World::new().await;
    let request = launched(&world, 4, 1, &[3]).await;
    world.elapse(1_300).await;
    assert_eq!(states(&world, &request).await[3], State::Running);
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_between_changes_nothing() {
    let mut world = World::new().await;
    let few = launched(&world, 3, 3, &[0]).await;
    let enough = launched(&world, 3, 2, &[0, 1]).await;
    let once = enough.instances[0].id;
    world.report(once, Happened::Exited { exit: exit(0) }).await.unwrap();
    world.elapse(300).await;
    world.crash().await;
    world.start().await;
    assert_eq!(states(&world, &few).await[0], State::Running);
    world.elapse(320).await;
    assert_eq!(states(&world, &few).await, [State::Terminated; 3]);
    assert_eq!(world.fault_code(few.instances[0].id).await, "launch-undone");
    assert_eq!(
        states(&world, &enough).await[1],
        State::Running,
        "it is remembered that one more was ready"
    );
}

#[tokio::test(start_paused = true)]
async fn what_fails_while_nobody_acts_is_judged_afterwards() {
    let mut world = World::new().await;
    let request = launched(&world, 3, 2, &[0]).await;
    world.crash().await;
    world.elapse(1_000).await;
    world.start().await;
    world.elapse(5).await;
    assert_eq!(states(&world, &request).await, [State::Terminated; 3]);
}

#[tokio::test(start_paused = true)]
async fn when_the_store_fails_it_is_judged_later() {
    let world = World::new().await;
    let request = launched(&world, 3, 2, &[0]).await;
    world.elapse(595).await;
    world.store.fail_with(Some("disk full"));
    world.elapse(20).await;
    world.store.fail_with(None);
    world.elapse(10).await;
    assert_eq!(states(&world, &request).await, [State::Terminated; 3]);
}

#[tokio::test(start_paused = true)]
async fn those_that_were_told_to_go_are_not_missed() {
    let world = World::new().await;
    let request = launched(&world, 4, 3, &[0, 1]).await;
    let order = Terminate {
        instances: vec![(request.instances[2].id, Work::Idle), (request.instances[3].id, Work::Idle)],
        why: Cause::ScaleIn,
        epoch: 0,
    };
    world.ask(CONTROLLER, Request::Terminate(order)).await.unwrap();
    world.elapse(1_000).await;
    let states = states(&world, &request).await;
    assert_eq!(states, [State::Running, State::Running, State::Terminated, State::Terminated]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_drains_is_left_to_finish() {
    let world = World::new().await;
    let request = launched(&world, 3, 3, &[0, 1]).await;
    world.drain(request.instances[1].id, 3_000).await.unwrap();
    world.elapse(700).await;
    assert_eq!(
        states(&world, &request).await,
        [State::Terminated, State::Running, State::Terminated]
    );
}

#[tokio::test(start_paused = true)]
async fn fewer_machines_than_are_worth_having_are_ended_when_they_come() {
    let world = World::new().await;
    world.site.look().script.push_back(Does::Only(2));
    let request = worth(&world, 4, 3);
    world.launch(&request).await;
    world.elapse(5).await;
    let expected = [State::Terminated, State::Terminated, State::Failed, State::Failed];
    assert_eq!(states(&world, &request).await, expected);
    assert_eq!(world.fault_code(request.instances[0].id).await, "launch-undone");
    assert_eq!(world.fault_code(request.instances[3].id).await, "capacity-short");
}

// ---- interruptions

#[tokio::test(start_paused = true)]
async fn an_interruption_drains_and_is_remembered_once() {
    let mut world = World::new().await;
    let id = world.running_one().await;
    let operator = Caller::Operator("ann".to_owned());
    let protect = epu_core::request::Protect {
        instances: vec![id],
        on: true,
    };
    world.ask(operator, Request::Protect(protect)).await.unwrap();
    let notice = Happened::Interruption { within: Span::secs(120) };
    let told_at = world.clock.now();
    let orders = world.report(id, notice.clone()).await.unwrap();
    let drain = orders.drain.unwrap();
    assert_eq!(
        (drain.why, drain.deadline),
        (Cause::Interrupted, told_at + std::time::Duration::from_secs(120))
    );
    let version = world.instance(id).await.version;
    world.elapse(10).await;
    world.report(id, notice.clone()).await.unwrap();
    world.crash().await;
    world.start().await;
    world.report(id, notice).await.unwrap();
    assert_eq!(world.instance(id).await.version, version, "repeating it changed something");
    let remembered = world
        .journal(|event| matches!(event, epu_core::journal::Event::Interruption { .. }))
        .await;
    assert_eq!(remembered.len(), 1);
    assert_eq!(remembered[0].event, epu_core::journal::Event::Interruption { by: drain.deadline });
    // Nobody takes it back.
    let ids = epu_core::request::Ids {
        instances: vec![id],
        epoch: 0,
    };
    let withdrawn = world.ask(CONTROLLER, Request::WithdrawDrain(ids)).await.unwrap();
    assert_eq!(withdrawn.read::<Vec<epu_core::InstanceId>>().unwrap(), []);
    world.elapse(120).await;
    let ended = world.instance(id).await;
    assert_eq!(ended.state, State::Terminated);
    let ending = ended.ending.unwrap();
    assert_eq!((ending.why, ending.drained_for), (Cause::DrainDeadline, Some(Cause::Interrupted)));
}

#[tokio::test(start_paused = true)]
async fn of_two_drains_the_earlier_deadline_holds_and_the_interruption_stays() {
    let world = World::new().await;
    let (first, second) = (world.running_one().await, {
        let request = world.request(1);
        world.launch(&request).await;
        world.elapse(1).await;
        world.becomes_ready(&request, 0).await;
        request.instances[0].id
    });
    let began = world.clock.now();
    let at = |seconds| began + std::time::Duration::from_secs(seconds);
    let drain = async |id| {
        let drain = world.instance(id).await.drain.unwrap();
        (drain.why, drain.deadline)
    };
    let notice = |seconds| Happened::Interruption {
        within: Span::secs(seconds),
    };
    world.drain(first, 60).await.unwrap();
    world.report(first, notice(120)).await.unwrap();
    assert_eq!(drain(first).await, (Cause::Interrupted, at(60)));
    world.report(second, notice(120)).await.unwrap();
    world.drain(second, 30).await.unwrap();
    assert_eq!(drain(second).await, (Cause::Interrupted, at(30)));
    let remembered = world
        .journal(|event| matches!(event, epu_core::journal::Event::Interruption { .. }))
        .await;
    assert_eq!(remembered.len(), 2);
}
