//! Launches and terminations that wait for their turn.

use std::sync::atomic::Ordering;

use epu_core::launch::{LaunchRequest, Purpose};
use epu_core::life::State;
use epu_core::request::Request;
use epu_core::time::Span;
use epu_provisioner::iaas::{Capabilities, Class};
use epu_store::Store;

use crate::world::{CONTROLLER, Does, World};

async fn paced() -> World {
    let world = World::new().await;
    world.site.is_paced.store(true, Ordering::Relaxed);
    world
}

async fn launch(world: &World, size: usize, purpose: Purpose) -> LaunchRequest {
    let request = LaunchRequest {
        purpose,
        ..world.request(size)
    };
    world.launch(&request).await;
    request
}

#[tokio::test(start_paused = true)]
async fn launches_wait_for_their_turn_in_the_order_of_what_they_are_for() {
    let world = paced().await;
    launch(&world, 1_000, Purpose::Grow).await;
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    let refresh = launch(&world, 4, Purpose::Refresh).await;
    let grow = launch(&world, 4, Purpose::Grow).await;
    let replace = launch(&world, 4, Purpose::Replace).await;
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    assert_eq!(world.site.calls(), 1);
    let status = world.site_status().await;
    assert_eq!(
        (status.waiting, status.launch_most, status.account.as_deref()),
        (3, 1_000, Some("123"))
    );
    assert_eq!(status.pace[0].waiting, 3);
    world.elapse(20).await;
    let called: Vec<_> = world.site.look().launches.iter().skip(1).map(|(_, launch)| launch.launch).collect();
    assert_eq!(called, [replace.launch, grow.launch, refresh.launch]);
    assert_eq!(world.site_status().await.waiting, 0);
    assert_eq!(world.state(refresh.instances[3].id).await, State::Started);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_call_begins_when_its_turn_has_come() {
    let world = paced().await;
    launch(&world, 1_000, Purpose::Grow).await;
    world.elapse(5).await;
    world
        .site
        .look()
        .script
        .push_back(Does::AllAfter(std::time::Duration::from_secs(50)));
    // It waits for longer than a call may take, and is called once.
    let late = launch(&world, 400, Purpose::Grow).await;
    world.elapse(300).await;
    assert_eq!((world.site.calls(), world.state(late.instances[0].id).await), (2, State::Started));
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_wants_any_more_when_its_turn_comes_is_not_called() {
    let world = paced().await;
    launch(&world, 1_000, Purpose::Grow).await;
    world.elapse(5).await;
    let unwanted = launch(&world, 500, Purpose::Grow).await;
    let partly = launch(&world, 100, Purpose::Grow).await;
    for wanted in &unwanted.instances {
        world.terminate(wanted.id).await.unwrap();
    }
    world.terminate(partly.instances[0].id).await.unwrap();
    world.elapse(1).await;
    // Nothing was ever asked of the site: there is nothing to wait for, and it left the line.
    for wanted in &unwanted.instances {
        let ended = world.instance(wanted.id).await;
        assert_eq!((ended.state, ended.fault.unwrap().code.as_ref()), (State::Failed, "launch-failed"));
    }
    assert!(world.store.launch(unwanted.launch).await.unwrap().unwrap().outcome.is_some());
    world.elapse(80).await;
    let called: Vec<_> = world.site.look().launches.iter().map(|(_, launch)| launch.launch).collect();
    assert_eq!(called.last(), Some(&partly.launch), "it kept its place in line");
    assert_eq!(called.len(), 2);
    assert_eq!(world.state(partly.instances[0].id).await, State::Terminated);
    assert_eq!(world.state(partly.instances[1].id).await, State::Started);
}

#[tokio::test(start_paused = true)]
async fn one_whose_turn_does_not_come_in_time_says_so() {
    let mut world = paced().await;
    world.crash().await;
    world.config.launch_window = Span::secs(60);
    world.start().await;
    launch(&world, 1_000, Purpose::Grow).await;
    world.elapse(5).await;
    let late = launch(&world, 500, Purpose::Grow).await;
    world.elapse(70).await;
    let ended = world.instance(late.instances[0].id).await;
    assert_eq!((ended.state, ended.fault.unwrap().code.as_ref()), (State::Failed, "site-throttled"));
    world.elapse(600).await;
    assert_eq!(world.site.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn terminations_wait_for_their_turn_too_and_lists_do_not() {
    let world = paced().await;
    let request = launch(&world, 1_000, Purpose::Grow).await;
    world.elapse(5).await;
    world.site.pace.throttled_by(
        epu_provisioner::pace::Action::TerminateInstances,
        epu_provisioner::pace::Limit::Machines,
    );
    let order = epu_core::request::Terminate {
        instances: request
            .instances
            .iter()
            .map(|wanted| (wanted.id, epu_core::instance::Work::Idle))
            .collect(),
        why: epu_core::instance::Cause::ScaleIn,
        epoch: 0,
    };
    world.ask(CONTROLLER, Request::Terminate(order)).await.unwrap();
    let lists = world.site.look().lists;
    world.elapse(20).await;
    assert!(world.site.look().terminates.is_empty());
    assert!(world.site.look().lists > lists + 10);
    world.elapse(100).await;
    assert_eq!(world.site.look().terminates.iter().map(Vec::len).collect::<Vec<_>>(), [500, 500]);
    world.elapse(5).await;
    assert_eq!(world.site.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn waiting_is_not_lost_with_the_process() {
    let mut world = paced().await;
    launch(&world, 1_000, Purpose::Grow).await;
    world.elapse(5).await;
    let waiting = launch(&world, 100, Purpose::Grow).await;
    world.elapse(5).await;
    world.crash().await;
    assert_eq!(world.site.pace.levels()[0].waiting, 0, "the dead stand in line");
    world.start().await;
    world.elapse(60).await;
    assert_eq!(
        (world.site.calls(), world.state(waiting.instances[0].id).await),
        (2, State::Started)
    );
}

#[tokio::test(start_paused = true)]
async fn more_than_the_site_takes_in_one_launch_is_refused_with_the_number() {
    let world = World::on(Capabilities {
        driver: "small",
        consistency_grace: Span::secs(0),
        gone_confirmations: 1,
        look_fast: Span::secs(1),
        look_steady: Span::secs(5),
        sweep_grace: Span::secs(10),
        launch_most: 20,
    })
    .await;
    let refused = world
        .ask(CONTROLLER, Request::Launch(Box::new(world.request(21))))
        .await
        .unwrap_err();
    assert_eq!(refused.code, "too-large");
    assert!(refused.text.contains("site here takes 20 in one launch"), "{}", refused.text);
    assert_eq!(world.site_status().await.launch_most, 20);
    world.launch(&world.request(20)).await;
    world.elapse(2).await;
    assert_eq!(world.site.running(), 20);
}

#[tokio::test(start_paused = true)]
async fn where_a_site_does_all_or_nothing_its_refusal_is_the_end_of_a_launch_at_once() {
    let world = World::on(Capabilities {
        driver: "whole",
        consistency_grace: Span::secs(120),
        gone_confirmations: 2,
        look_fast: Span::secs(5),
        look_steady: Span::secs(60),
        sweep_grace: Span::secs(600),
        launch_most: 1_000,
    })
    .await;
    world.site.look().refuses_whole = true;
    world.site.look().fails.insert("list", Class::Credentials);
    for (class, code) in [(Class::Capacity, "site-capacity"), (Class::Credentials, "site-credentials")] {
        world.site.look().script.extend([Does::Fails(Class::Throttled), Does::Fails(class)]);
        let ids = world.launch(&world.request(2)).await;
        world.elapse(10).await;
        assert_eq!(
            (world.state(ids[0]).await, world.fault_code(ids[1]).await.as_str()),
            (State::Failed, code)
        );
    }
    // One call of which nothing was heard may have come to something: only a list tells.
    world.site.look().script.extend([Does::LosesAnswer, Does::Fails(Class::Capacity)]);
    let ids = world.launch(&world.request(2)).await;
    world.elapse(200).await;
    assert_eq!(world.state(ids[0]).await, State::ErrorRetrying);
    world.site.look().fails.clear();
    world.elapse(130).await;
    assert_eq!(world.state(ids[0]).await, State::Started);
}
