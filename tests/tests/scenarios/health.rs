//! The health ladder.

use epu_core::State;
use epu_core::health::Health;
use epu_core::instance::Cause;
use epu_core::journal::Event;
use epu_core::pool::Paused;
use epu_simulator::cloud::{Call, Mishap};
use epu_simulator::{Service, Setup, World, hours, minutes, seconds};

#[test]
fn one_that_was_never_heard_from_gets_the_boot_time() {
    let mut world = World::keeping(2);
    world.net().cut_agents_from(Service::Aggregator, true);
    world.elapse(minutes(5));
    let first = world.running();
    assert_eq!(first.len(), 2, "they reported ready to the provisioner");
    assert!(world.healths_of(&first[0]).is_empty());
    world.elapse(minutes(1));
    assert_eq!(world.healths_of(&first[0])[0], Health::OutOfContact);
    world.net().cut_agents_from(Service::Aggregator, false);
    world.elapse(minutes(3));
    assert_eq!(world.staying(), 2);
}

#[test]
fn one_that_was_heard_before_gets_the_missing_time_and_a_second_opinion() {
    let mut world = World::keeping(3);
    let silenced = world.elapse(minutes(3)).silence_one();
    world.elapse(seconds(115));
    assert!(world.healths_of(&silenced).is_empty(), "not yet");
    world.elapse(seconds(12));
    assert_eq!(world.healths_of(&silenced), [Health::OutOfContact]);
    assert!(
        world.state_of(&silenced) == State::Running,
        "the site says that it runs: that buys it the really-missing time"
    );
    world.elapse(seconds(16));
    assert_eq!(world.healths_of(&silenced), [Health::OutOfContact, Health::Missing]);
    world.elapse(minutes(2));
    assert_eq!(world.state_of(&silenced), State::Terminated);
}

#[test]
fn one_that_speaks_again_in_time_is_kept() {
    let mut world = World::keeping(3);
    let silenced = world.elapse(minutes(3)).silence_one();
    world.elapse(seconds(125)).let_speak(&silenced).elapse(minutes(20));
    assert_eq!(world.healths_of(&silenced), [Health::OutOfContact, Health::Ok]);
    assert_eq!((world.state_of(&silenced), world.machines_ever()), (State::Running, 3));
}

#[test]
fn a_machine_that_the_site_lost_is_replaced_without_waiting_for_silence() {
    let mut world = World::keeping(3);
    let lost = world.elapse(minutes(3)).any();
    world.lose_machine(&lost).elapse(minutes(2));
    assert_eq!(world.state_of(&lost), State::Terminated);
    assert_eq!(world.record(&lost).ending.as_ref().map(|ending| ending.why), Some(Cause::Vanished));
    assert_eq!(world.staying(), 3);
}

#[test]
fn the_sites_word_gone_condemns_at_once() {
    // Lists fail, so that only the question about this one machine tells.
    let mut world = Setup::keeping(3).with("health.really-missing", "1h").world();
    let lost = world.elapse(minutes(3)).any();
    world
        .cloud()
        .every_call(Call::List, Some(Mishap::Refused(epu_provisioner::iaas::Class::Retryable)));
    world.lose_machine(&lost).elapse(seconds(140));
    assert_eq!(world.healths_of(&lost), [Health::OutOfContact, Health::Missing]);
    world.cloud().every_call(Call::List, None);
    world.elapse(minutes(5));
    assert_eq!((world.state_of(&lost), world.staying()), (State::Terminated, 3));
}

#[test]
fn a_site_that_does_not_answer_delays_no_judgement_beyond_the_really_missing_time() {
    let mut world = World::keeping(3);
    let silenced = world.elapse(minutes(3)).silence_one();
    world.cloud().goes_away(true);
    world.elapse(minutes(4));
    assert_eq!(world.healths_of(&silenced), [Health::OutOfContact, Health::Missing]);
    world.cloud().goes_away(false);
    world.elapse(minutes(5));
    assert_eq!((world.state_of(&silenced), world.staying()), (State::Terminated, 3));
}

#[test]
fn a_missing_one_that_is_heard_again_before_it_was_replaced_is_kept() {
    let mut world = World::keeping(3);
    world.elapse(minutes(3)).pause(Paused {
        replace: true,
        ..Paused::default()
    });
    let silenced = world.silence_one();
    world.elapse(minutes(10));
    assert_eq!(world.health_of(&silenced), Health::Missing);
    world.let_speak(&silenced).elapse(minutes(1));
    assert_eq!(world.health_of(&silenced), Health::Ok);
    world.resume().elapse(minutes(10));
    assert_eq!((world.state_of(&silenced), world.machines_ever()), (State::Running, 3));
}

#[test]
fn one_that_speaks_long_after_its_end_is_a_zombie_and_is_told_to_stop() {
    let mut world = World::keeping(3);
    let zombie = world.elapse(minutes(3)).silence_one();
    world.call_gone(&zombie).elapse(minutes(5));
    assert_eq!(world.state_of(&zombie), State::Terminated);
    assert!(world.body(&zombie).worker_lives(), "the site is wrong: it runs");
    world.let_speak(&zombie).elapse(seconds(30));
    assert!(
        world.healths_of(&zombie).contains(&Health::Zombie),
        "{:?}",
        world.healths_of(&zombie)
    );
    assert!(!world.body(&zombie).worker_lives(), "it was told to stop");
    assert_eq!(world.staying(), 3);
}

#[test]
fn one_that_speaks_hours_after_its_end_is_told_to_stop_too() {
    let mut world = World::keeping(3);
    let zombie = world.elapse(minutes(3)).silence_one();
    world.call_gone(&zombie).elapse(hours(1));
    // Others come and go meanwhile, so that it is no longer among those that ended lately.
    let other = world.any();
    world.kill_worker(&other).elapse(hours(2)).let_speak(&zombie).elapse(minutes(5));
    assert!(!world.body(&zombie).worker_lives());
}

#[test]
fn a_frozen_machine_is_noticed_and_replaced() {
    let mut world = World::keeping(3);
    let frozen = world.elapse(minutes(3)).any();
    world.freeze(&frozen).elapse(minutes(5));
    assert_eq!((world.state_of(&frozen), world.staying()), (State::Terminated, 3));
}

#[test]
fn a_short_freeze_harms_nobody() {
    let mut world = World::keeping(3);
    let frozen = world.elapse(minutes(3)).any();
    world.freeze(&frozen).elapse(seconds(60)).thaw(&frozen).elapse(minutes(10));
    assert_eq!((world.state_of(&frozen), world.machines_ever()), (State::Running, 3));
}

#[test]
fn a_restarted_agent_finds_its_worker_and_disturbs_nothing() {
    let mut world = World::keeping(2);
    let one = world.elapse(minutes(3)).any();
    world.restart_agent(&one).elapse(minutes(10));
    assert_eq!((world.state_of(&one), world.machines_ever()), (State::Running, 2));
    assert_eq!(world.body(&one).runs(), (1, 1), "set-up and worker ran once");
}

#[test]
fn a_controller_that_was_away_for_long_condemns_nobody() {
    let mut world = World::keeping(5);
    let before = world.elapse(minutes(3)).running();
    world
        .crash(Service::Controller)
        .elapse(hours(1))
        .start(Service::Controller)
        .elapse(minutes(20));
    assert_eq!((world.running(), world.machines_ever()), (before, 5));
    assert!(!world.happened(|event| matches!(event, Event::HealthChanged { .. })));
}

#[test]
fn an_aggregator_that_was_away_for_long_condemns_nobody() {
    let mut world = World::keeping(5);
    let before = world.elapse(minutes(3)).running();
    world
        .crash(Service::Aggregator)
        .elapse(hours(1))
        .start(Service::Aggregator)
        .elapse(minutes(20));
    assert_eq!((world.running(), world.machines_ever()), (before, 5));
}

#[test]
fn everything_restarted_at_once_condemns_nobody() {
    let mut world = World::keeping(5);
    let before = world.elapse(minutes(3)).running();
    for service in [Service::Controller, Service::Aggregator, Service::Provisioner] {
        world.crash(service);
    }
    world.elapse(minutes(30));
    for service in [Service::Aggregator, Service::Controller, Service::Provisioner] {
        world.start(service);
    }
    world.elapse(minutes(20));
    assert_eq!((world.running(), world.machines_ever()), (before, 5));
}

#[test]
fn an_aggregator_that_stood_still_condemns_nobody() {
    let mut world = World::keeping(5);
    let before = world.elapse(minutes(3)).running();
    world
        .suspend(Service::Aggregator, true)
        .elapse(minutes(10))
        .suspend(Service::Aggregator, false)
        .elapse(minutes(20));
    assert_eq!((world.running(), world.machines_ever()), (before, 5));
}

#[test]
fn a_controller_that_stood_still_condemns_nobody() {
    let mut world = World::keeping(5);
    let before = world.elapse(minutes(3)).running();
    world
        .suspend(Service::Controller, true)
        .elapse(minutes(10))
        .suspend(Service::Controller, false)
        .elapse(minutes(20));
    assert_eq!((world.running(), world.machines_ever()), (before, 5));
}

#[test]
fn one_that_fell_silent_while_the_controller_was_away_is_found_after_it_is_back() {
    let mut world = World::keeping(3);
    world.elapse(minutes(3)).crash(Service::Controller);
    let silenced = world.silence_one();
    world.elapse(minutes(10)).start(Service::Controller).elapse(minutes(10));
    assert_eq!((world.state_of(&silenced), world.staying()), (State::Terminated, 3));
}

#[test]
fn several_are_replaced_within_the_limit_one_window_after_the_other() {
    let mut world = Setup::keeping(10)
        .with("limits.replace-at-once", 2)
        .with("limits.replace-window", "5m")
        .world();
    world.elapse(minutes(3));
    for id in world.running().into_iter().take(4) {
        world.kill_worker(&id);
    }
    world.elapse(minutes(1));
    assert_eq!(
        world.records().iter().filter(|record| record.state >= State::Terminating).count(),
        2
    );
    assert!(world.ever("replacement-limit"));
    world.elapse(minutes(10));
    assert_eq!(world.staying(), 10);
    assert_eq!(world.machines_ever(), 14);
}

#[test]
fn a_storm_stops_replacing_but_for_probes_and_ends_when_the_fault_does() {
    let mut world = World::keeping(10);
    world.elapse(minutes(3));
    let before = world.running();
    for id in &before {
        world.silence(id);
    }
    world.elapse(minutes(4));
    assert!(world.ever("storm"));
    assert!(world.happened(|event| matches!(event, Event::BreakerOpened { breaker, .. } if breaker == "storm")));
    let gone = |world: &World| before.iter().filter(|id| world.state_of(id) >= State::Terminating).count();
    assert!(gone(&world) <= 2, "{} are replaced", gone(&world));
    let early = gone(&world);
    world.elapse(minutes(11));
    assert!((early + 1..=early + 3).contains(&gone(&world)), "probes go on: {}", gone(&world));
    for id in &before {
        world.let_speak(id);
    }
    world.elapse(minutes(15));
    assert!(world.happened(|event| matches!(event, Event::BreakerClosed { breaker } if breaker == "storm")));
    assert_eq!(world.staying(), 10);
}

#[test]
fn a_worker_that_crashes_is_replaced_and_its_exit_is_kept() {
    let mut world = World::keeping(2);
    let crashed = world.elapse(minutes(3)).any();
    world.end_worker(&crashed, 3).elapse(minutes(3));
    let record = world.record(&crashed);
    assert_eq!(record.state, State::Terminated);
    assert_eq!(record.exit.as_ref().and_then(|exit| exit.code), Some(3));
    assert_eq!(world.healths_of(&crashed), [Health::ProcessError]);
    assert_eq!(world.staying(), 2);
}

#[test]
fn a_worker_that_is_done_ends_its_instance_and_is_followed_by_another() {
    let mut world = World::keeping(2);
    let done = world.elapse(minutes(3)).any();
    world.end_worker(&done, 0).elapse(minutes(3));
    assert_eq!(world.record(&done).ending.as_ref().map(|ending| ending.why), Some(Cause::Finished));
    assert!(world.healths_of(&done).is_empty());
    assert_eq!(world.staying(), 2);
}
