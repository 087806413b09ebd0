//! How often a site is asked, whatever it answers.

use epu_core::instance::Cause;
use epu_core::life::State;
use epu_core::request::{Ids, Request, SiteWord};
use epu_provisioner::iaas::{Class, MachineState};
use epu_store::Store;

use crate::world::{CONTROLLER, Does, World};

const CLASSES: [Class; 6] = [
    Class::Retryable,
    Class::Throttled,
    Class::Capacity,
    Class::Quota,
    Class::Credentials,
    Class::Permanent,
];

/// Calls so far: launches, terminations, lists, descriptions.
fn calls(world: &World) -> [usize; 4] {
    let inside = world.site.look();
    [
        inside.launches.len(),
        inside.terminates.len(),
        usize::try_from(inside.lists).unwrap(),
        usize::try_from(inside.describes).unwrap(),
    ]
}

async fn in_an_hour(world: &World) -> [usize; 4] {
    let before = calls(world);
    world.elapse(3_600).await;
    let after = calls(world);
    std::array::from_fn(|n| after[n] - before[n])
}

/// With one minute as the longest wait, and a fifth of jitter.
const MINUTELY: std::ops::RangeInclusive<usize> = 1..=90;

#[tokio::test(start_paused = true)]
async fn a_list_that_fails_is_asked_for_again_once_a_minute_whatever_happens_meanwhile() {
    for class in CLASSES {
        let world = World::new().await;
        let id = world.running_one().await;
        world.site.look().fails.insert("list", class);
        // Something changes there every few seconds, and asks for a look soon.
        let before = calls(&world)[2];
        for n in 0..100 {
            let request = world.request(1);
            world.site.look().script.push_back(Does::Fails(Class::Permanent));
            let other = world.launch(&request).await[0];
            world.elapse(6).await;
            world.terminate(other).await.unwrap();
            if n == 50 {
                let fault = world.site_status().await.fault.unwrap();
                assert_eq!(fault.text, format!("list: the site says {}", class.word()));
            }
            world.elapse(6).await;
        }
        let asked = calls(&world)[2] - before;
        assert!((10..=35).contains(&asked), "{class:?}: {asked} lists in twenty minutes");
        assert_eq!(world.state(id).await, State::Running, "something was concluded from that");
        world.site.look().fails.clear();
        world.elapse(400).await;
        assert_eq!(world.site_status().await.fault, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_description_that_fails_is_asked_for_again_once_a_minute() {
    for class in CLASSES {
        let world = World::new().await;
        let id = world.running_one().await;
        world.site.look().fails.insert("describe", class);
        world.site.vanish("m-1");
        let [_, _, lists, describes] = in_an_hour(&world).await;
        assert!(MINUTELY.contains(&describes), "{class:?}: {describes} in an hour");
        assert!(lists <= 100, "{class:?}: {lists} lists in an hour");
        assert_eq!(world.state(id).await, State::Running);
        world.site.look().fails.clear();
        world.elapse(400).await;
        assert_eq!(world.state(id).await, State::Terminated);
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_fails_is_asked_for_again_once_a_minute() {
    for class in CLASSES {
        let world = World::new().await;
        let ids = world.launch(&world.request(40)).await;
        world.elapse(2).await;
        world.site.look().fails.insert("terminate", class);
        for id in &ids {
            world.terminate(*id).await.unwrap();
        }
        // Halving finds out first whether one of them is to blame.
        world.elapse(20).await;
        let [_, ends, _, _] = in_an_hour(&world).await;
        assert!(MINUTELY.contains(&ends), "{class:?}: {ends} in an hour");
        assert_eq!(
            world.site_status().await.fault.unwrap().text,
            format!("terminate: the site says {}", class.word())
        );
        world.site.look().fails.clear();
        world.elapse(700).await;
        assert_eq!(world.site.running(), 0, "{class:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_fails_is_made_again_once_a_minute_or_never() {
    for class in CLASSES {
        let world = World::new().await;
        world.site.look().always = Some(Does::Fails(class));
        world.launch(&world.request(3)).await;
        let [launches, _, lists, _] = in_an_hour(&world).await;
        let most = if class.is_passing() { 80 } else { 1 };
        assert!(launches <= most, "{class:?}: {launches} in an hour");
        assert!(lists < 2_000, "{class:?}: {lists} lists in an hour");
    }
}

#[tokio::test(start_paused = true)]
async fn a_site_that_hangs_is_asked_once_at_a_time() {
    let world = World::new().await;
    let id = world.running_one().await;
    world.site.look().hangs.extend([("list", 1_000), ("terminate", 1_000)]);
    world.terminate(id).await.unwrap();
    let [_, ends, lists, _] = in_an_hour(&world).await;
    assert!(ends <= 60 && lists <= 60, "{ends} and {lists} in an hour");
}

#[tokio::test(start_paused = true)]
async fn other_peoples_questions_do_not_reach_a_site_that_refuses_us() {
    let world = World::new().await;
    let id = world.running_one().await;
    world
        .site
        .look()
        .fails
        .extend([("list", Class::Credentials), ("describe", Class::Credentials)]);
    world.elapse(10).await;
    let before = calls(&world)[3];
    for _ in 0..3_600 {
        let ids = Ids {
            instances: vec![id],
            epoch: 0,
        };
        let words = world.ask(CONTROLLER, Request::Look(ids)).await.unwrap();
        let words: Vec<(epu_core::InstanceId, SiteWord)> = words.read().unwrap();
        assert_eq!(words, [(id, SiteWord::NoAnswer)]);
        world.elapse(1).await;
    }
    let asked = calls(&world)[3] - before;
    assert!(asked <= 90, "{asked} in an hour");
}

#[tokio::test(start_paused = true)]
async fn one_machine_that_may_not_be_ended_keeps_no_other_from_its_end() {
    let world = World::new().await;
    let ids = world.launch(&world.request(300)).await;
    world.elapse(2).await;
    world.site.look().protected.push("m-150".to_owned());
    for id in &ids {
        world.terminate(*id).await.unwrap();
    }
    world.elapse(120).await;
    assert_eq!(world.site.running(), 1);
    let before = world.site.look().terminates.len();
    world.elapse(3_600).await;
    let again = world.site.look().terminates.len() - before;
    assert!((30..=90).contains(&again), "{again} in an hour");
    world.site.look().protected.clear();
    world.elapse(130).await;
    assert_eq!(world.site.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn where_nothing_changes_a_look_is_one_list_and_nothing_is_written() {
    let mut world = World::new().await;
    world.crash().await;
    let other = world.another_site("there");
    world.start().await;
    for pool in 0..50 {
        let mut request = world.request(20);
        request.pool = epu_core::PoolName::new(&format!("pool-{pool}")).unwrap();
        world.launch(&request).await;
    }
    world.elapse(2).await;
    for launch in world.site.look().launches.clone() {
        assert_eq!(launch.1.instances.len(), 20);
    }
    world.elapse(120).await;
    let (writes, before) = (world.metrics.writes.get(), calls(&world));
    let versions = world.store.instances(true).await.unwrap();
    let there = other.look().lists;
    assert_eq!(versions.len(), 1_000);
    world.elapse(100).await;
    let after = calls(&world);
    assert!(
        (19..=21).contains(&(after[2] - before[2])),
        "one list each five seconds, however many pools"
    );
    assert!((19..=21).contains(&(other.look().lists - there)));
    assert_eq!((after[3], world.metrics.writes.get()), (before[3], writes));
    assert_eq!(world.store.instances(true).await.unwrap(), versions);
    // A change is written.
    world.site.becomes("m-1", MachineState::Stopped);
    world.elapse(20).await;
    assert!(world.metrics.writes.get() > writes);
    let gone = world.store.instances(false).await.unwrap();
    let gone = gone.iter().find(|instance| instance.machine.as_deref() == Some("m-1")).unwrap();
    assert_eq!(gone.ending.as_ref().unwrap().why, Cause::Vanished);
}
