//! Machines that somebody else halted.

use epu_core::instance::Cause;
use epu_core::life::State;
use epu_core::request::{Ids, Request, SiteWord};
use epu_core::time::Span;
use epu_provisioner::iaas::{Capabilities, MachineState};

use crate::world::{CONTROLLER, World};

#[tokio::test(start_paused = true)]
async fn one_that_is_halted_is_ended_and_has_ended_only_when_the_site_says_so() {
    let world = World::on(Capabilities {
        driver: "careful",
        consistency_grace: Span::secs(20),
        gone_confirmations: 2,
        look_fast: Span::secs(2),
        look_steady: Span::secs(5),
        sweep_grace: Span::secs(10),
        launch_most: 1_000,
    })
    .await;
    let id = world.running_one().await;
    world.elapse(30).await;
    world.site.look().ignores_terminate = true;
    world.site.becomes("m-1", MachineState::Stopped);
    while world.site.look().describes < 1 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(world.state(id).await, State::Running, "halted was believed at the first word");
    world.elapse(10).await;
    let ending = world.instance(id).await;
    assert_eq!((ending.state, ending.ending.unwrap().why), (State::Terminating, Cause::Vanished));
    assert_eq!(ending.fault.unwrap().code, "machine-stopped");
    assert_eq!(world.site.look().terminates[0], ["m-1"]);
    world.elapse(200).await;
    assert_eq!(
        world.state(id).await,
        State::Terminating,
        "it still is a machine that somebody pays for"
    );
    assert!(world.site.look().terminates.len() > 2, "it is asked for again");
    world.site.becomes("m-1", MachineState::Gone);
    world.elapse(10).await;
    assert_eq!((world.state(id).await, world.cause(id).await), (State::Terminated, Cause::Vanished));
}

#[tokio::test(start_paused = true)]
async fn one_that_only_lists_show_as_halted_stays() {
    let world = World::new().await;
    let id = world.running_one().await;
    let describes = world.site.look().describes;
    world.site.look().listed_as.insert("m-1".to_owned(), MachineState::Stopped);
    world.elapse(30).await;
    assert!(world.site.look().describes > describes);
    assert_eq!(world.state(id).await, State::Running);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_halted_before_it_is_ready_is_ended_too() {
    let world = World::new().await;
    let id = world.launch(&world.request(1)).await[0];
    world.elapse(2).await;
    world.site.becomes("m-1", MachineState::Stopped);
    world.elapse(10).await;
    assert_eq!((world.state(id).await, world.cause(id).await), (State::Terminated, Cause::Vanished));
}

#[tokio::test(start_paused = true)]
async fn a_stray_that_is_halted_is_ended_like_any_other() {
    let world = World::new().await;
    world.site.put("stray", None, None);
    world.site.becomes("stray", MachineState::Stopped);
    world.elapse(30).await;
    assert_eq!(world.site.look().terminates, [["stray".to_owned()]]);
}

#[tokio::test(start_paused = true)]
async fn the_second_opinion_on_one_that_is_halted_is_that_it_is_gone() {
    let world = World::new().await;
    let id = world.running_one().await;
    world.site.becomes("m-1", MachineState::Stopped);
    let ids = Ids {
        instances: vec![id],
        epoch: 0,
    };
    let words = world.ask(CONTROLLER, Request::Look(ids)).await.unwrap();
    assert_eq!(
        words.read::<Vec<(epu_core::InstanceId, SiteWord)>>().unwrap(),
        [(id, SiteWord::Gone)]
    );
}

#[tokio::test(start_paused = true)]
async fn an_address_that_becomes_known_later_is_taken_in_once() {
    let world = World::new().await;
    let request = world.request(1);
    // Listed before its launch is answered, and without an address.
    world
        .site
        .look()
        .script
        .push_back(crate::world::Does::AllAfter(std::time::Duration::from_secs(3_000)));
    world.site.put("m-9", Some((request.launch, 0)), None);
    let id = world.launch(&request).await[0];
    world.elapse(2).await;
    let before = world.instance(id).await;
    assert_eq!((before.machine.as_deref(), before.address), (Some("m-9"), None));
    world.site.look().machines.get_mut("m-9").unwrap().address = Some("10.0.0.9".to_owned());
    world.elapse(6).await;
    let after = world.instance(id).await;
    assert_eq!((after.address.as_deref(), after.version), (Some("10.0.0.9"), before.version + 1));
    world.elapse(10).await;
    assert_eq!(world.instance(id).await.version, after.version);
}
