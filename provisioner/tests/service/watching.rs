use std::time::Duration;

use epu_core::instance::Cause;
use epu_core::journal::Event;
use epu_core::launch::Outcome;
use epu_core::life::State;
use epu_core::random::Random;
use epu_core::request::{Nothing, Request, SiteStatus};
use epu_core::time::Span;
use epu_provisioner::iaas::{Capabilities, Iaas};
use epu_store::Store;

use crate::world::{Does, World};

#[tokio::test(start_paused = true)]
async fn one_that_vanished_is_recorded_gone_only_after_it_was_asked_for() {
    let world = World::new().await;
    let id = world.running_one().await;
    world.site.look().hidden.push("m-1".to_owned());
    world.elapse(30).await;
    assert_eq!(world.state(id).await, State::Running, "absence from a list condemned it");
    assert!(world.site.look().describes > 0);
    world.site.look().hidden.clear();
    world.site.look().list_fails = true;
    world.site.vanish("m-1");
    world.elapse(60).await;
    assert_eq!(world.state(id).await, State::Running, "a failed list condemned it");
    world.site.look().list_fails = false;
    world.elapse(80).await;
    assert_eq!((world.state(id).await, world.cause(id).await), (State::Terminated, Cause::Vanished));
}

#[tokio::test(start_paused = true)]
async fn where_lists_lag_absence_means_nothing_for_a_while_and_gone_is_heard_twice() {
    let world = World::on(Capabilities {
        driver: "lagging",
        consistency_grace: Span::secs(60),
        gone_confirmations: 2,
        look_fast: Span::secs(5),
        look_steady: Span::secs(5),
        sweep_grace: Span::secs(60),
        launch_most: 1_000,
    })
    .await;
    world.site.look().hidden.push("m-1".to_owned());
    let ids = world.launch(&world.request(1)).await;
    world.elapse(50).await;
    assert_eq!((world.state(ids[0]).await, world.site.look().describes), (State::Started, 0));
    world.site.vanish("m-1");
    let described = async |times: u32| {
        while world.site.look().describes < times {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    described(1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.state(ids[0]).await, State::Started, "gone was believed at the first word");
    described(2).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.state(ids[0]).await, State::Terminated);
}

#[tokio::test(start_paused = true)]
async fn a_machine_whose_launch_was_not_answered_is_taken_in() {
    let world = World::new().await;
    world.site.look().script.push_back(Does::LaunchesAndHangs);
    let ids = world.launch(&world.request(1)).await;
    world.elapse(2).await;
    assert_eq!((world.state(ids[0]).await, world.site.calls()), (State::Started, 1));
    assert_eq!(world.instance(ids[0]).await.machine.as_deref(), Some("m-1"));
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_a_machine_of_a_recorded_launch_is_adopted_even_when_calls_fail() {
    let mut world = World::new().await;
    world.site.look().script.push_back(Does::LaunchesAndHangs);
    world.site.look().always = Some(Does::Fails(epu_provisioner::iaas::Class::Retryable));
    let ids = world.launch(&world.request(1)).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    world.crash().await;
    world.start().await;
    world.elapse(5).await;
    assert_eq!(world.state(ids[0]).await, State::Started);
    assert_eq!(world.journal(|event| matches!(event, Event::SweepAdopted { .. })).await.len(), 1);
    assert_eq!(world.metrics.swept.with_label_values(&["here", "adopted"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_nothing_explains_is_ended_after_a_grace() {
    let world = World::new().await;
    let random = Random::seeded(99);
    let now = world.clock.now();
    world.site.put("stray", Some((random.launch(now), 0)), Some(random.instance(now)));
    world.elapse(9).await;
    assert_eq!(world.site.running(), 1, "it had no grace");
    world.elapse(10).await;
    assert_eq!(world.site.running(), 0);
    let swept = world.journal(|event| matches!(event, Event::SweepTerminated { .. })).await;
    assert_eq!(swept.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_machine_for_one_instance_is_ended_and_the_first_stays() {
    let world = World::new().await;
    let request = world.request(1);
    world.launch(&request).await;
    world.elapse(2).await;
    world.site.put("double", Some((request.launch, 0)), Some(request.instances[0].id));
    world.elapse(30).await;
    let inside = world.site.look();
    assert_eq!(inside.terminates, [vec!["double".to_owned()]]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_came_back_after_its_end_is_ended() {
    let world = World::new().await;
    let request = world.request(1);
    let id = world.launch(&request).await[0];
    world.elapse(2).await;
    world.terminate(id).await.unwrap();
    world.elapse(5).await;
    assert_eq!(world.state(id).await, State::Terminated);
    world.site.put("m-1", Some((request.launch, 0)), None);
    world.elapse(30).await;
    assert_eq!((world.site.running(), world.state(id).await), (0, State::Terminated));
}

#[tokio::test(start_paused = true)]
async fn the_sweep_ends_only_a_few_at_a_time() {
    let world = World::new().await;
    for number in 0..25 {
        world.site.put(&format!("stray-{number}"), None, None);
    }
    world.elapse(30).await;
    let inside = world.site.look();
    assert!(inside.terminates.iter().all(|ended| ended.len() <= 10), "{:?}", inside.terminates);
    let ended: usize = inside.terminates.iter().map(Vec::len).sum();
    assert_eq!(ended, 25);
}

#[tokio::test(start_paused = true)]
async fn a_machine_of_a_launch_that_failed_is_found_and_ended() {
    let world = World::new().await;
    world
        .site
        .look()
        .script
        .extend([Does::LosesAnswer, Does::Fails(epu_provisioner::iaas::Class::Permanent)]);
    world.site.look().list_fails = true;
    let request = world.request(1);
    let ids = world.launch(&request).await;
    world.elapse(5).await;
    let waiting = world.instance(ids[0]).await;
    assert_eq!(
        (waiting.state, world.site.running()),
        (State::ErrorRetrying, 1),
        "an error was taken for a list"
    );
    world.site.look().list_fails = false;
    world.elapse(120).await;
    assert_eq!((world.state(ids[0]).await, world.site.running()), (State::Started, 1));
    assert_eq!((world.site.calls(), world.site.look().terminates.len()), (2, 0));
    let launch = world.store.launch(request.launch).await.unwrap().unwrap();
    assert_eq!(launch.outcome, Some(Outcome::Launched { machines: 1 }));
}

#[tokio::test(start_paused = true)]
async fn a_machine_of_one_site_is_never_ended_by_another() {
    let mut world = World::new().await;
    world.crash().await;
    let other = world.another_site("there");
    world.start().await;
    let request = world.request(1);
    let id = world.launch(&request).await[0];
    world.site.look().script.push_back(Does::AllAfter(Duration::from_secs(40)));
    let coming = world.request(1);
    world.launch(&coming).await;
    // Both show the same machines: one that is recorded, and one whose launch is still being called on its own site.
    other.put("m-1", Some((request.launch, 0)), Some(id));
    other.put("m-2", Some((coming.launch, 0)), Some(coming.instances[0].id));
    other.put("stray", None, None);
    world.elapse(300).await;
    assert_eq!(other.look().terminates, [vec!["stray".to_owned()]]);
    assert_eq!(world.state(id).await, State::Started);
    assert_eq!(world.instance(coming.instances[0].id).await.machine.as_deref(), Some("m-2"));
    // Its own site alone ends it, and says when it is gone.
    world.terminate(id).await.unwrap();
    world.elapse(5).await;
    assert_eq!(world.state(id).await, State::Terminated);
}

#[tokio::test(start_paused = true)]
async fn of_a_site_that_is_no_more_nothing_is_written_again_and_again() {
    let mut world = World::new().await;
    let ending = world.running_one().await;
    world.site.look().always = Some(Does::Hangs);
    let coming = world.launch(&world.request(1)).await[0];
    world.site.look().ignores_terminate = true;
    world.terminate(ending).await.unwrap();
    world.elapse(1).await;
    world.crash().await;
    world.sites.clear();
    world.another_site("there");
    world.start().await;
    world.elapse(2 * 3_600).await;
    let before = (world.instance(ending).await, world.instance(coming).await);
    world.elapse(3_600).await;
    assert_eq!((world.instance(ending).await, world.instance(coming).await), before);
    assert!(before.0.version < 10, "{}", before.0.version);
    let sites = crate::world::CONTROLLER;
    let sites = world.ask(sites, Request::Sites(Nothing {})).await;
    let sites: Vec<SiteStatus> = sites.unwrap().read().unwrap();
    assert_eq!(
        sites.iter().map(|site| (site.site.as_str(), site.live)).collect::<Vec<_>>(),
        [("there", 0), ("here", 2)]
    );
    let fault = sites[1].fault.clone().unwrap();
    assert_eq!(fault.code, "no-such-site");
    assert!(fault.text.starts_with("2 instances live on site here"), "{}", fault.text);
    // It can still be told to go.
    world.terminate(coming).await.unwrap();
    assert_eq!(world.state(coming).await, State::Terminating);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_stuck_has_its_site_looked_at_ever_more_slowly_and_what_is_new_has_not() {
    let world = World::new().await;
    world.running_one().await;
    world.site.look().ignores_terminate = true;
    world.terminate(world.store.instances(true).await.unwrap()[0].id).await.unwrap();
    let lists = |seconds| {
        let world = &world;
        async move {
            let before = world.site.look().lists;
            world.elapse(seconds).await;
            world.site.look().lists - before
        }
    };
    assert!((18..=21).contains(&lists(10).await));
    world.elapse(1).await;
    assert!((18..=21).contains(&lists(20).await));
    world.elapse(60).await;
    assert!((48..=52).contains(&lists(100).await));
    world.site.look().script.push_back(Does::Hangs);
    world.launch(&world.request(1)).await;
    assert!((18..=21).contains(&lists(10).await));
}

#[tokio::test(start_paused = true)]
async fn ending_is_repeated_until_the_site_confirms() {
    let mut world = World::new().await;
    let id = world.running_one().await;
    world.site.look().ignores_terminate = true;
    world.terminate(id).await.unwrap();
    world.elapse(200).await;
    assert_eq!(world.state(id).await, State::Terminating);
    let asked = world.site.look().terminates.len();
    assert!((3..=5).contains(&asked), "asked {asked} times in 200 s");
    assert_eq!(world.metrics.deadlines.with_label_values(&["700-TERMINATING"]).get(), 3);
    world.crash().await;
    world.site.look().ignores_terminate = false;
    world.start().await;
    world.elapse(2).await;
    assert_eq!(
        (world.state(id).await, world.cause(id).await),
        (State::Terminated, Cause::Unhealthy)
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_machine_is_believed_without_waiting_for_lists_that_lag() {
    let world = World::on(Capabilities {
        driver: "lagging",
        consistency_grace: Span::secs(120),
        gone_confirmations: 2,
        look_fast: Span::secs(5),
        look_steady: Span::secs(60),
        sweep_grace: Span::secs(600),
        launch_most: 1_000,
    })
    .await;
    let id = world.running_one().await;
    world.terminate(id).await.unwrap();
    world.elapse(30).await;
    assert_eq!(world.state(id).await, State::Terminated);
}

/// As when it was asked so soon after the launch that the site did not know the machine yet, and knows no fault in that.
#[tokio::test(start_paused = true)]
async fn a_machine_that_runs_on_after_the_site_agreed_to_end_it_is_ended_again_soon() {
    let world = World::new().await;
    let id = world.running_one().await;
    world.site.look().ignores_terminate = true;
    world.terminate(id).await.unwrap();
    world.elapse(1).await;
    world.site.look().ignores_terminate = false;
    world.elapse(12).await;
    assert_eq!(world.state(id).await, State::Terminated);
    assert_eq!(world.site.look().terminates.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn when_ending_fails_it_is_tried_again_more_slowly() {
    let world = World::new().await;
    let id = world.running_one().await;
    world.site.look().terminate_fails = true;
    world.terminate(id).await.unwrap();
    world.elapse(60).await;
    let tried = world.site.look().terminates.len();
    assert!((4..10).contains(&tried), "tried {tried} times in a minute");
    let sites = world
        .ask(
            crate::world::CONTROLLER,
            epu_core::request::Request::Sites(epu_core::request::Nothing {}),
        )
        .await;
    let sites: Vec<epu_core::request::SiteStatus> = sites.unwrap().read().unwrap();
    assert_eq!(sites[0].fault.as_ref().unwrap().text, "not now");
    world.site.look().terminate_fails = false;
    world.elapse(70).await;
    assert_eq!(world.state(id).await, State::Terminated);
}

#[tokio::test(start_paused = true)]
async fn a_steady_site_is_looked_at_seldom_and_a_changing_one_often() {
    let world = World::new().await;
    world.running_one().await;
    world.elapse(10).await;
    let steady = world.site.look().lists;
    world.elapse(100).await;
    let steady = world.site.look().lists - steady;
    assert!((19..=21).contains(&steady), "{steady} looks in 100 s");
    world.site.look().ignores_terminate = true;
    world.launch(&world.request(1)).await;
    world.site.look().always = Some(Does::Hangs);
    world.launch(&world.request(1)).await;
    let changing = world.site.look().lists;
    world.elapse(10).await;
    assert!(world.site.look().lists - changing >= 18);
    assert_eq!(world.site.capabilities().driver, "scripted");
}

/// What the end of a few machines costs does not depend on how many others there are.
#[tokio::test(start_paused = true)]
async fn of_many_machines_the_few_that_change_are_asked_for_by_name() {
    let (world, ids) = with_many_machines().await;
    let before = world.site.look().lists;
    world.site.look().ignores_terminate = true;
    world.terminate(ids[0]).await.unwrap();
    world.terminate(ids[1]).await.unwrap();
    world.elapse(3).await;
    assert_eq!(
        world.state(ids[0]).await,
        State::Terminating,
        "the site has not said that it is gone"
    );
    world.site.look().ignores_terminate = false;
    world.elapse(17).await;
    let lists = world.site.look().lists - before;
    assert!(lists <= 1, "listed {lists} times for two machines of 600");
    assert_eq!(
        states(&world, &ids[..3]).await,
        [State::Terminated, State::Terminated, State::Running]
    );
    // The list that finds what nobody changed comes as ever.
    world.elapse(60).await;
    let before = world.site.look().lists;
    world.terminate(ids[2]).await.unwrap();
    world.elapse(130).await;
    let lists = world.site.look().lists - before;
    assert!((2..=3).contains(&lists), "listed {lists} times in 130 s");
}

/// 600 running machines on a site that is listed each minute while nothing changes.
async fn with_many_machines() -> (World, Vec<epu_core::id::InstanceId>) {
    let world = World::on(Capabilities {
        driver: "large",
        consistency_grace: Span::secs(5),
        gone_confirmations: 2,
        look_fast: Span::secs(1),
        look_steady: Span::secs(60),
        sweep_grace: Span::secs(60),
        launch_most: 1_000,
    })
    .await;
    let request = world.request(600);
    let ids = world.launch(&request).await;
    world.elapse(30).await;
    for index in 0..600 {
        world.becomes_ready(&request, index).await;
    }
    world.elapse(120).await;
    (world, ids)
}

/// Nor does what a launch costs: its reply says what came of it. A list is for one whose reply does not come.
#[tokio::test(start_paused = true)]
async fn where_there_are_many_machines_a_launch_is_told_of_by_its_reply() {
    let (world, _) = with_many_machines().await;
    let lists = || world.site.look().lists;
    let before = lists();
    for _ in 0..10 {
        world.site.look().script.push_back(Does::AllAfter(Duration::from_secs(3)));
        let ids = world.launch(&world.request(1)).await;
        world.elapse(4).await;
        assert_eq!(states(&world, &ids).await, [State::Started]);
    }
    assert!(lists() - before <= 1, "listed {} times in 40 s for ten launches", lists() - before);

    for does in [Does::LaunchesAndHangs, Does::LosesAnswer] {
        world.site.look().script.push_back(does.clone());
        // That it is not made again is not what finds them.
        world.site.look().always = Some(Does::Hangs);
        let ids = world.launch(&world.request(2)).await;
        world.elapse(8).await;
        assert_eq!(states(&world, &ids).await, [State::Started; 2], "{does:?}");
        world.site.look().always = None;
    }
}

/// A world with some running machines.
async fn with_machines(count: usize, account: Option<Option<&'static str>>) -> (World, Vec<epu_core::id::InstanceId>) {
    let mut world = World::new().await;
    world.site.look().account = account;
    world.crash().await;
    world.start().await;
    let request = world.request(count);
    let ids = world.launch(&request).await;
    world.elapse(2).await;
    for index in 0..u32::try_from(count).unwrap() {
        world.becomes_ready(&request, index).await;
    }
    (world, ids)
}

async fn states(world: &World, ids: &[epu_core::id::InstanceId]) -> Vec<State> {
    let mut states = Vec::new();
    for id in ids {
        states.push(world.state(*id).await);
    }
    states
}

#[tokio::test(start_paused = true)]
async fn another_account_under_the_same_name_condemns_nothing() {
    let (mut world, ids) = with_machines(6, Some(Some("1/r/"))).await;
    let machines = std::mem::take(&mut world.site.look().machines);
    world.site.look().account = Some(Some("2/r/"));
    world.elapse(25).await;
    assert_eq!(
        states(&world, &ids).await,
        [State::Running; 6],
        "the credentials are another account's"
    );
    let fault = world.site_status().await.fault.unwrap();
    assert_eq!(fault.code, "site-credentials");
    assert!(fault.text.contains("1/r/") && fault.text.contains("2/r/"), "{}", fault.text);
    // The next term asks before it looks.
    let lists = world.site.look().lists;
    world.crash().await;
    world.start().await;
    world.elapse(5).await;
    assert_eq!(world.site.look().lists, lists, "it was looked at all the same");
    assert_eq!(world.site_status().await.fault.unwrap().code, "site-credentials");
    world.site.look().account = Some(Some("1/r/"));
    world.site.look().machines = machines;
    world.elapse(70).await;
    assert!(world.site_status().await.fault.is_none());
    assert!(world.site.look().lists > lists);
}

#[tokio::test(start_paused = true)]
async fn in_the_same_account_all_that_are_gone_are_believed_gone() {
    let (world, ids) = with_machines(6, Some(Some("1/r/"))).await;
    world.site.look().machines.clear();
    world.elapse(25).await;
    assert_eq!(states(&world, &ids).await, [State::Terminated; 6]);
}

#[tokio::test(start_paused = true)]
async fn where_nobody_says_whose_account_it_is_many_are_gone_only_while_one_is_still_known() {
    let (world, ids) = with_machines(6, Some(None)).await;
    let mut machines = std::mem::take(&mut world.site.look().machines);
    world.elapse(25).await;
    assert_eq!(states(&world, &ids).await, [State::Running; 6]);
    let fault = world.site_status().await.fault.unwrap();
    assert!(fault.text.contains("not believed gone"), "{}", fault.text);
    machines.retain(|id, _| id == "m-1");
    world.site.look().machines = machines;
    world.elapse(100).await;
    let now = states(&world, &ids).await;
    assert_eq!(now.iter().filter(|state| **state == State::Terminated).count(), 5, "{now:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_ended_keeps_no_other_from_its_end_whatever_the_site_says_of_it() {
    use epu_provisioner::iaas::Class;
    for class in [Class::Credentials, Class::Retryable, Class::Permanent] {
        let world = World::new().await;
        let request = world.request(20);
        let ids = world.launch(&request).await;
        world.elapse(2).await;
        world.site.look().protected.push("m-3".to_owned());
        world.site.look().protects = Some(class);
        for id in ids {
            world.terminate(id).await.unwrap();
        }
        world.elapse(280).await;
        let left: Vec<String> = {
            let inside = world.site.look();
            let alive = inside
                .machines
                .values()
                .filter(|m| m.state != epu_provisioner::iaas::MachineState::Gone);
            alive.map(|machine| machine.id.clone()).collect()
        };
        assert_eq!(left, ["m-3"], "{class:?}");
    }
}
