//! A provisioner that dies before, during and after each call, on a site that loses answers.

use std::time::Duration;

use epu_core::life::State;
use epu_core::random::Random;
use epu_core::time::Span;
use epu_provisioner::iaas::{Class, MachineState};
use epu_store::Store;

use crate::world::{Does, World};

/// Everything that a driver is told, as text, with the token that is otherwise hidden.
fn told(world: &World) -> Vec<String> {
    let inside = world.site.look();
    let launches = inside.launches.iter();
    launches
        .map(|(_, launch)| format!("{launch:?} {}", launch.launch_token.0))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_launch_called_again_after_a_restart_is_the_same_whatever_changed_meanwhile() {
    let mut world = World::new().await;
    world
        .site
        .look()
        .script
        .extend([Does::LosesAnswer, Does::LaunchesAndHangs, Does::LosesAnswer]);
    world.site.look().list_fails = true;
    let mut request = world.request(3);
    request.min = 2;
    world.launch(&request).await;
    world.elapse(3).await;
    world.crash().await;
    // Other doors, another time, another window, another process.
    world.url = "http://elsewhere:99".to_owned();
    world.config.launch_window = Span::secs(7_200);
    world.config.call_within = Span::secs(10);
    world.elapse(200).await;
    world.start().await;
    world.elapse(30).await;
    world.crash().await;
    world.start().await;
    world.elapse(60).await;
    let told = told(&world);
    assert!(told.len() >= 4, "{}", told.len());
    assert!(told.iter().all(|call| *call == told[0]), "{told:#?}");
    assert!(told[0].contains("http://127.0.0.1:1"));
    assert_eq!(world.site.running(), 3);
    assert_eq!(world.state(request.instances[2].id).await, State::Started);
    // A launch after that names the doors of now.
    let new = world.request(1);
    world.launch(&new).await;
    world.elapse(1).await;
    assert_eq!(
        world.site.look().launches.last().unwrap().1.url,
        "http://elsewhere:99 http://127.0.0.1:2"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_died_before_during_or_after_a_termination_ends_the_machine() {
    // The order is recorded and not yet called; called and never answered; called, had its effect and was not heard of.
    for (name, hangs, loses) in [("before", 0, 0), ("during", 1, 0), ("after", 0, 1)] {
        let mut world = World::new().await;
        let id = world.running_one().await;
        world.site.look().hangs.insert("terminate", hangs);
        world.site.look().loses.insert("terminate", loses);
        world.terminate(id).await.unwrap();
        if name != "before" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.crash().await;
        assert_eq!(world.state(id).await, State::Terminating);
        world.start().await;
        world.elapse(5).await;
        assert_eq!((world.state(id).await, world.site.running()), (State::Terminated, 0), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_died_in_the_middle_of_a_look_concludes_nothing_from_it() {
    let mut world = World::new().await;
    let id = world.running_one().await;
    world.site.look().hidden.push("m-1".to_owned());
    world.site.look().hangs.insert("list", 1);
    world.elapse(6).await;
    world.crash().await;
    world.start().await;
    world.elapse(60).await;
    assert_eq!(world.state(id).await, State::Running);
}

#[tokio::test(start_paused = true)]
async fn an_order_to_end_that_comes_while_a_launch_is_in_flight_survives_a_restart() {
    let mut world = World::new().await;
    world.site.look().script.push_back(Does::LaunchesAndHangs);
    world.site.look().list_fails = true;
    let ids = world.launch(&world.request(3)).await;
    world.elapse(1).await;
    for id in &ids {
        world.terminate(*id).await.unwrap();
    }
    world.crash().await;
    assert_eq!(world.site.running(), 3);
    world.start().await;
    world.site.look().list_fails = false;
    world.elapse(120).await;
    assert_eq!(world.site.running(), 0);
    for id in &ids {
        assert!(!world.instance(*id).await.is_live());
    }
    assert_eq!(world.site.calls(), 1, "what nobody wants is not launched again");
}

/// A site that loses answers and hangs now and then, and a provisioner that is killed again and again. In the end each machine is an
/// instance's and each instance has one.
async fn a_hard_life(seed: u64) {
    let random = Random::seeded(seed);
    let mut world = World::new().await;
    let one_of = |most: u64| random.number() % most;
    let mut ids = Vec::new();
    for _ in 0..25 {
        {
            let mut inside = world.site.look();
            let does = match one_of(6) {
                0 => Does::LosesAnswer,
                1 => Does::LaunchesAndHangs,
                2 => Does::Hangs,
                3 => Does::Fails(Class::Throttled),
                4 => Does::AllAfter(Duration::from_millis(one_of(20_000))),
                _ => Does::All,
            };
            inside.script.push_back(does);
            match one_of(4) {
                0 => drop(inside.loses.insert("terminate", 1)),
                1 => drop(inside.hangs.insert("terminate", 1)),
                2 => drop(inside.hangs.insert("list", 1)),
                _ => drop(inside.loses.insert("list", 2)),
            }
        }
        let size = usize::try_from(1 + one_of(5)).unwrap();
        let request = world.request(size);
        ids.extend(world.launch(&request).await);
        tokio::time::sleep(Duration::from_millis(one_of(3_000))).await;
        if one_of(2) == 0 {
            let chosen = ids[usize::try_from(one_of(u64::try_from(ids.len()).unwrap())).unwrap()];
            if world.instance(chosen).await.is_live() {
                world.terminate(chosen).await.unwrap();
            }
        }
        tokio::time::sleep(Duration::from_millis(one_of(3_000))).await;
        if one_of(3) == 0 {
            world.crash().await;
            tokio::time::sleep(Duration::from_millis(one_of(5_000))).await;
            world.start().await;
        }
    }
    {
        let mut inside = world.site.look();
        inside.script.clear();
        inside.loses.clear();
        inside.hangs.clear();
    }
    // Not so long that those that nobody makes ready are given up.
    world.elapse(300).await;
    let mut machines = Vec::new();
    for id in &ids {
        let instance = world.instance(*id).await;
        if instance.state == State::Started {
            machines.push(instance.machine.unwrap());
        } else {
            assert!(!instance.is_live(), "seed {seed}: {id} is in {}", instance.state);
        }
    }
    machines.sort();
    let there = world.site.look().machines.clone();
    let there = there.values().filter(|machine| machine.state != MachineState::Gone);
    let mut there: Vec<String> = there.map(|machine| machine.id.clone()).collect();
    there.sort();
    assert_eq!(machines, there, "seed {seed}");
    let mut launches: Vec<_> = world.site.look().launches.iter().map(|(_, launch)| launch.clone()).collect();
    launches.sort_by_key(|launch| launch.launch);
    for pair in launches.windows(2).filter(|pair| pair[0].launch == pair[1].launch) {
        assert_eq!(format!("{:?}", pair[0]), format!("{:?}", pair[1]), "seed {seed}");
        assert_eq!(pair[0].launch_token, pair[1].launch_token, "seed {seed}");
    }
    let open = world.store.open_launches().await.unwrap();
    assert!(
        open.iter().all(|launch| launch.outcome.is_some()),
        "seed {seed}: a launch came to nothing anybody knows"
    );
}

#[tokio::test(start_paused = true)]
async fn whenever_it_dies_nothing_is_leaked_doubled_or_lost() {
    for seed in 0..20 {
        a_hard_life(seed).await;
    }
}
