use std::time::Duration;

use epu_core::launch::Outcome;
use epu_core::life::State;
use epu_core::request::Request;
use epu_provisioner::iaas::Class;
use epu_store::Store;

use crate::world::{CONTROLLER, Does, World};

#[tokio::test(start_paused = true)]
async fn a_launch_is_recorded_called_once_and_comes_up() {
    let mut world = World::new().await;
    world.site.look().script.push_back(Does::AllAfter(Duration::from_millis(300)));
    let request = world.request(3);
    let ids = world.launch(&request).await;
    // Answered when it is recorded, whatever the site does.
    for id in &ids {
        assert_eq!(world.state(*id).await, State::Requested);
    }
    world.elapse(1).await;
    for (index, id) in (0..).zip(&ids) {
        let instance = world.instance(*id).await;
        assert_eq!((instance.state, instance.index), (State::Started, index));
        assert_eq!(instance.machine, Some(format!("m-{}", index + 1)));
        assert_eq!(instance.address.as_deref(), Some("10.0.0.1"));
    }
    // Asked again, and the whole again after a restart, it is the same launch.
    world.launch(&request).await;
    world.crash().await;
    world.start().await;
    world.launch(&request).await;
    world.elapse(10).await;
    assert_eq!((world.site.calls(), world.site.running()), (1, 3));
    let launch = world.store.launch(request.launch).await.unwrap().unwrap();
    assert_eq!((launch.attempts, launch.outcome), (1, Some(Outcome::Launched { machines: 3 })));
}

#[tokio::test(start_paused = true)]
async fn one_that_died_before_the_call_makes_it_after_its_restart() {
    let mut world = World::new().await;
    world.site.look().script.push_back(Does::Hangs);
    let request = world.request(2);
    let ids = world.launch(&request).await;
    world.crash().await;
    assert_eq!(world.site.running(), 0);
    world.start().await;
    world.elapse(2).await;
    assert_eq!((world.site.running(), world.state(ids[1]).await), (2, State::Started));
}

#[tokio::test(start_paused = true)]
async fn one_that_died_before_the_answer_finds_the_same_machines() {
    let mut world = World::new().await;
    world.site.look().script.push_back(Does::LaunchesAndHangs);
    let request = world.request(2);
    let ids = world.launch(&request).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    world.crash().await;
    assert_eq!(world.site.running(), 2);
    world.start().await;
    world.elapse(20).await;
    assert_eq!((world.site.running(), world.state(ids[0]).await), (2, State::Started));
    assert!(world.site.look().terminates.is_empty(), "its own machines were swept");
    let launch = world.store.launch(request.launch).await.unwrap().unwrap();
    assert_eq!(launch.outcome, Some(Outcome::Launched { machines: 2 }));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_with_the_same_words() {
    let world = World::new().await;
    world.site.look().script.push_back(Does::LosesAnswer);
    world.site.look().list_fails = true;
    let request = world.request(2);
    let ids = world.launch(&request).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let waiting = world.instance(ids[0]).await;
    assert_eq!(
        (waiting.state, waiting.fault.unwrap().code.as_ref()),
        (State::ErrorRetrying, "launch-failed")
    );
    world.elapse(3).await;
    assert_eq!((world.site.calls(), world.site.running()), (2, 2));
    let pending = world.instance(ids[0]).await;
    assert_eq!((pending.state, pending.fault), (State::Started, None));
    let inside = world.site.look();
    let [(_, first), (_, second)] = &inside.launches[..] else {
        panic!("two calls")
    };
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
    assert_eq!(first.launch_token, second.launch_token, "the retry is another request");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_the_order_to_end_leaks_nothing() {
    let world = World::new().await;
    world.site.look().script.push_back(Does::AllAfter(Duration::from_secs(10)));
    let ids = world.launch(&world.request(2)).await;
    world.elapse(1).await;
    world.terminate(ids[0]).await.unwrap();
    assert_eq!(world.state(ids[0]).await, State::Terminating);
    world.elapse(5).await;
    assert_eq!(
        world.state(ids[0]).await,
        State::Terminating,
        "it was settled while its call was under way"
    );
    world.elapse(10).await;
    assert_eq!(
        (world.state(ids[0]).await, world.state(ids[1]).await),
        (State::Terminated, State::Started)
    );
    assert_eq!(world.site.running(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_told_to_end_while_its_launch_failed_is_not_launched_again() {
    let world = World::new().await;
    world.site.look().always = Some(Does::Fails(Class::Retryable));
    let ids = world.launch(&world.request(1)).await;
    world.elapse(1).await;
    world.terminate(ids[0]).await.unwrap();
    let calls = world.site.calls();
    world.elapse(300).await;
    assert_eq!(world.site.calls(), calls);
    assert_eq!(
        (world.state(ids[0]).await, world.fault_code(ids[0]).await.as_str()),
        (State::Failed, "launch-timeout")
    );
}

#[tokio::test(start_paused = true)]
async fn of_a_launch_that_came_in_part_the_rest_has_failed() {
    let world = World::new().await;
    world.site.look().script.push_back(Does::Only(2));
    let ids = world.launch(&world.request(3)).await;
    world.elapse(1).await;
    assert_eq!(
        (world.state(ids[1]).await, world.state(ids[2]).await),
        (State::Started, State::Failed)
    );
    assert_eq!(world.fault_code(ids[2]).await, "capacity-short");

    world.site.look().script.push_back(Does::Only(1));
    let mut request = world.request(3);
    request.min = 2;
    let ids = world.launch(&request).await;
    world.elapse(5).await;
    assert_eq!(
        (world.state(ids[0]).await, world.state(ids[1]).await),
        (State::Terminated, State::Failed)
    );
    assert_eq!(world.site.running(), 2, "those of the first launch only");
}

#[tokio::test(start_paused = true)]
async fn an_error_that_will_not_pass_ends_the_launch_at_once() {
    let world = World::new().await;
    for class in [Class::Capacity, Class::Quota, Class::Credentials, Class::Permanent] {
        let before = world.site.calls();
        world.site.look().script.push_back(Does::Fails(class));
        let ids = world.launch(&world.request(2)).await;
        world.elapse(120).await;
        let ended = world.instance(ids[1]).await;
        assert_eq!((ended.state, world.site.calls() - before), (State::Failed, 1), "{class:?}");
        assert_eq!(ended.fault.unwrap().text, format!("the site says {}", class.word()));
    }
    let none = world.metrics.launches.with_label_values(&["here", "none"]).get();
    assert_eq!(none, 4);
}

#[tokio::test(start_paused = true)]
async fn one_that_may_pass_is_repeated_ever_more_slowly_until_the_window_ends() {
    let world = World::new().await;
    world.site.look().always = Some(Does::Fails(Class::Retryable));
    let ids = world.launch(&world.request(1)).await;
    world.elapse(3_500).await;
    assert_eq!(world.state(ids[0]).await, State::ErrorRetrying);
    world.elapse(200).await;
    assert_eq!(
        (world.state(ids[0]).await, world.fault_code(ids[0]).await.as_str()),
        (State::Failed, "launch-timeout")
    );
    let times: Vec<_> = world.site.look().launches.iter().map(|(at, _)| *at).collect();
    assert!(times[1].since(times[0]) < Duration::from_secs(2));
    assert!((55..100).contains(&times.len()), "{} calls in an hour", times.len());
    assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) <= Duration::from_secs(72)));
    world.elapse(600).await;
    assert_eq!(world.site.calls(), times.len());
}

#[tokio::test(start_paused = true)]
async fn throttled_calls_wait_longer() {
    let world = World::new().await;
    world.site.look().script.extend([Does::Fails(Class::Throttled)]);
    world.launch(&world.request(1)).await;
    world.elapse(30).await;
    let times: Vec<_> = world.site.look().launches.iter().map(|(at, _)| *at).collect();
    assert!(times[1].since(times[0]) >= Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_answered_is_given_up_and_made_again() {
    let world = World::new().await;
    world.site.look().script.push_back(Does::Hangs);
    let ids = world.launch(&world.request(1)).await;
    world.elapse(59).await;
    assert_eq!(world.state(ids[0]).await, State::Requested);
    world.elapse(5).await;
    assert_eq!(world.state(ids[0]).await, State::Started);
    assert_eq!(
        world.metrics.iaas_calls.with_label_values(&["here", "launch", "retryable"]).get(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_launch_holds_up_nobody() {
    let world = World::new().await;
    world.site.look().always = Some(Does::Hangs);
    for _ in 0..20 {
        world.launch(&world.request(1)).await;
    }
    world.site.look().always = None;
    let before = world.clock.now();
    let answer = world.ask(CONTROLLER, Request::Sites(epu_core::request::Nothing {})).await;
    assert!(answer.is_ok());
    assert!(world.clock.now().since(before) < Duration::from_millis(5));
    let lists = world.site.look().lists;
    world.elapse(5).await;
    assert!(world.site.look().lists > lists, "looking waits for launching");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_makes_no_sense_changes_nothing() {
    let mut world = World::new().await;
    let mut requests = vec![world.request(0), world.request(1), world.request(1), world.request(2)];
    requests[1].site = epu_core::SiteName::new("elsewhere").unwrap();
    requests[2].min = 2;
    requests[3].instances[1] = requests[3].instances[0].clone();
    let codes = ["bad-request", "no-such-site", "bad-request", "bad-request"];
    for (request, code) in requests.into_iter().zip(codes) {
        let fault = world.ask(CONTROLLER, Request::Launch(Box::new(request))).await.unwrap_err();
        assert_eq!(fault.code, code);
    }
    assert_eq!(world.store.instances(false).await.unwrap(), []);
    assert_eq!(world.site.calls(), 0);
    // Whoever counts them as asked for hears that they will never be, but of those that are sent again it hears nothing.
    let rejected = world
        .told()
        .iter()
        .flat_map(|fact| fact.changed.clone())
        .filter(|i| i.state == State::Rejected)
        .count();
    assert_eq!(rejected, 1);
}

#[tokio::test(start_paused = true)]
async fn the_old_leader_is_refused() {
    let mut world = World::new().await;
    world.lead_pools("c1").await;
    world.lead_pools("c2").await;
    world.elapse(2).await;
    let mut new = world.request(1);
    new.epoch = 2;
    world.launch(&new).await;
    let mut old = world.request(1);
    old.epoch = 1;
    let refused = async |world: &World| {
        world
            .ask(CONTROLLER, Request::Launch(Box::new(old.clone())))
            .await
            .unwrap_err()
            .code
    };
    assert_eq!(refused(&world).await, "stale-epoch");
    world.crash().await;
    world.start().await;
    assert_eq!(refused(&world).await, "stale-epoch");
    assert_eq!(world.site.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_the_store_fails_nothing_is_called_and_afterwards_all_goes_on() {
    let world = World::new().await;
    let request = world.request(1);
    world.store.fail_with(Some("disk full"));
    let fault = world.ask(CONTROLLER, Request::Launch(Box::new(request.clone()))).await.unwrap_err();
    assert_eq!(fault.code, "store-failed");
    assert_eq!(world.site.calls(), 0);
    world.elapse(10).await;
    world.store.fail_with(None);
    world.elapse(3).await;
    let ids = world.launch(&request).await;
    // The answer of the site cannot be written down: it is asked for again.
    world.store.fail_with(Some("disk full"));
    world.elapse(10).await;
    world.store.fail_with(None);
    world.elapse(5).await;
    assert_eq!((world.state(ids[0]).await, world.site.running()), (State::Started, 1));
}

#[tokio::test(start_paused = true)]
async fn stopping_leaves_everything_running() {
    let mut world = World::new().await;
    world.launch(&world.request(2)).await;
    world.elapse(5).await;
    world.stop().await.unwrap();
    world.elapse(60).await;
    assert_eq!(world.site.running(), 2);
}

#[tokio::test(start_paused = true)]
async fn of_two_on_one_bus_the_older_one_ends() {
    let mut world = World::new().await;
    let calls = epu_bus::Bus::serve(&*world.bus, epu_core::request::Service::Provisioner);
    world.elapse(1).await;
    assert!(matches!(world.ended().await, Err(epu_provisioner::Error::Replaced)));
    drop(calls);
}

/// A life with a bit of everything; what is recorded of it at its end.
async fn recorded_life() -> String {
    let mut world = World::new().await;
    world.site.look().script.extend([
        Does::LosesAnswer,
        Does::Only(2),
        Does::AllAfter(Duration::from_secs(7)),
        Does::Fails(Class::Throttled),
        Does::Fails(Class::Quota),
    ]);
    for size in [1, 3, 20, 2, 1] {
        world.launch(&world.request(size)).await;
    }
    world.elapse(30).await;
    for instance in world.store.instances(true).await.unwrap().into_iter().step_by(3) {
        world.terminate(instance.id).await.unwrap();
    }
    world.site.put("stray", None, None);
    world.site.vanish("m-4");
    world.elapse(20).await;
    world.crash().await;
    world.start().await;
    world.elapse(3_600).await;
    let journal = world.journal(|_| true).await;
    serde_json::to_string(&(journal, world.store.instances(false).await.unwrap())).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_same_life_is_lived_the_same_way_again() {
    let first = recorded_life().await;
    assert!(first.len() > 10_000);
    assert_eq!(first, recorded_life().await);
}
