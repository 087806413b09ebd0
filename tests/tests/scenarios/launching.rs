//! Launches: each is one call, nothing is doubled, nothing is forgotten.

use epu_core::State;
use epu_core::fact::Kind;
use epu_core::instance::Cause;
use epu_core::journal::Event;
use epu_provisioner::iaas::Class;
use epu_simulator::cloud::{Call, Mishap};
use epu_simulator::{Service, Setup, World, hours, millis, minutes, seconds};

#[test]
fn a_lost_answer_gives_the_same_machines_again() {
    let mut world = World::keeping(0);
    world.cloud().next_call(Call::Launch, Mishap::AnswerLost);
    world.keep(3).elapse(minutes(3));
    assert_eq!((world.staying(), world.machines_ever()), (3, 3));
    assert!(world.cloud().calls(Call::Launch) >= 2);
}

#[test]
fn machines_of_a_launch_that_is_never_answered_are_adopted_from_the_list() {
    let mut world = World::keeping(0);
    world.cloud().every_call(Call::Launch, Some(Mishap::AnswerLost));
    world.keep(3).elapse(minutes(3));
    assert_eq!((world.staying(), world.machines_ever()), (3, 3));
    assert!(world.happened(|event| matches!(event, Event::SweepAdopted { .. })));
}

#[test]
fn a_provisioner_killed_before_its_call_reached_the_site_doubles_and_loses_nothing() {
    let mut world = World::keeping(0);
    world.cloud().calls_take(seconds(4));
    world
        .keep(3)
        .until("the launch is recorded", seconds(10), |world| world.count(State::Requested) == 3);
    world.crash(Service::Provisioner).elapse(minutes(1));
    assert_eq!(world.machines_ever(), 0);
    world.start(Service::Provisioner).elapse(minutes(3));
    assert_eq!((world.staying(), world.machines_ever()), (3, 3));
}

#[test]
fn a_provisioner_killed_after_its_call_reached_the_site_doubles_and_loses_nothing() {
    let mut world = World::keeping(0);
    world.cloud().calls_take(seconds(4));
    world
        .keep(3)
        .until("the machines are there", seconds(10), |world| world.machines_there() == 3);
    assert_eq!(world.count(State::Requested), 3, "nobody knows it yet");
    world
        .crash(Service::Provisioner)
        .elapse(minutes(1))
        .start(Service::Provisioner)
        .elapse(minutes(3));
    assert_eq!((world.staying(), world.machines_ever()), (3, 3));
}

#[test]
fn a_controller_killed_at_any_moment_of_a_launch_doubles_nothing() {
    for after in (0..3_000).step_by(250) {
        let mut world = World::keeping(3);
        world
            .elapse(millis(after))
            .crash(Service::Controller)
            .elapse(seconds(20))
            .start(Service::Controller);
        world.elapse(minutes(3));
        assert_eq!((world.staying(), world.machines_ever()), (3, 3), "killed after {after} ms");
    }
}

#[test]
fn a_lost_answer_to_the_controller_doubles_nothing() {
    let mut world = World::keeping(1);
    world.elapse(minutes(2)).net().lose_answers(3);
    world.keep(4).elapse(minutes(4));
    assert_eq!((world.staying(), world.machines_ever()), (4, 4));
}

#[test]
fn facts_that_do_not_arrive_for_minutes_double_nothing() {
    let mut world = Setup::keeping(3).with("max", 3).world();
    world.elapse(minutes(3)).silence_one();
    world.net().lose(Kind::Instances, true);
    world.elapse(minutes(6)).net().lose(Kind::Instances, false);
    world.elapse(minutes(5));
    assert_eq!((world.staying(), world.machines_ever()), (3, 4));
}

#[test]
fn a_provisioner_that_is_away_gets_the_commands_when_it_is_back() {
    let mut world = World::keeping(1);
    world.elapse(minutes(2)).crash(Service::Provisioner).keep(3).elapse(minutes(5));
    assert_eq!(world.machines_ever(), 1);
    world.start(Service::Provisioner).elapse(minutes(3));
    assert_eq!((world.staying(), world.machines_ever()), (3, 3));
}

#[test]
fn an_instance_ended_while_its_launch_is_in_flight_leaves_no_machine() {
    let mut world = World::keeping(2);
    world.elapse(minutes(2)).cloud().calls_take(seconds(20));
    world.keep(3).elapse(seconds(5));
    let requested = world.all_in(State::Requested);
    assert_eq!(requested.len(), 1);
    world.keep(2).kill(&requested[0]).elapse(minutes(5));
    assert!(world.state_of(&requested[0]).is_end(), "{}", world.state_of(&requested[0]));
    assert_eq!((world.staying(), world.machines_there()), (2, 2));
}

#[test]
fn one_that_never_becomes_ready_is_given_up_at_its_deadline_and_replaced() {
    let mut world = Setup::keeping(0).template("ready-within", "3m").world();
    world.cloud().next_are_stuck(1);
    world.keep(2).elapse(minutes(2));
    assert_eq!((world.count(State::Running), world.count(State::Started)), (1, 1));
    world.elapse(minutes(4));
    assert_eq!(world.staying(), 2);
    let failed = world.records().into_iter().find(|record| record.state.is_end()).unwrap();
    assert_eq!(failed.fault.as_ref().map(|fault| fault.code.as_ref()), Some("ready-unheard"));
    assert_eq!(world.machines_there(), 2);
}

#[test]
fn set_up_that_fails_is_running_failed_with_the_end_of_its_output() {
    let mut world = Setup::keeping(1).with("limits.launch-failures", 100).world();
    world.workers(|worker| worker.set_up_exit = 4).elapse(seconds(60));
    assert!(world.happened(
        |event| matches!(event, Event::Moved { to: State::RunningFailed, fault: Some(fault), .. }
        if fault.code == "set-up-failed" && fault.text.contains("something went wrong (4)"))
    ));
    assert!(!world.happened(|event| matches!(event, Event::Moved { to: State::Running, .. })));
    world.workers(|worker| worker.set_up_exit = 0).elapse(minutes(10));
    assert_eq!((world.staying(), world.machines_there()), (1, 1));
}

#[test]
fn launches_that_come_to_nothing_open_the_breaker_and_one_trial_closes_it() {
    let mut world = Setup::keeping(3).with("limits.launch-backoff", "2m").world();
    world.workers(|worker| worker.missing = true).elapse(minutes(10));
    assert!(world.happened(|event| matches!(event, Event::BreakerOpened { breaker, .. } if breaker == "launch")));
    assert!(world.ever("launch-breaker"));
    let tries = world.machines_ever();
    assert!(tries < 20, "it spins: {tries} machines");
    world.elapse(hours(2));
    let more = world.machines_ever() - tries;
    assert!((3..=12).contains(&more), "one trial after each pause: {more}");
    world.workers(|worker| worker.missing = false).elapse(hours(1));
    assert!(world.happened(|event| matches!(event, Event::BreakerClosed { breaker } if breaker == "launch")));
    assert_eq!((world.staying(), world.machines_there()), (3, 3));
}

#[test]
fn workers_that_end_as_soon_as_they_start_do_not_make_it_spin() {
    let mut world = World::keeping(3);
    world.workers(|worker| worker.ends = Some((seconds(2), 1))).elapse(hours(2));
    let ever = world.machines_ever();
    assert!(ever < 60, "{ever} machines in two hours");
    world.workers(|worker| worker.ends = None).elapse(hours(1));
    assert_eq!(world.staying(), 3);
}

#[test]
fn passing_errors_are_retried_with_the_same_launch() {
    for class in [Class::Retryable, Class::Throttled] {
        let mut world = World::keeping(0);
        for _ in 0..3 {
            world.cloud().next_call(Call::Launch, Mishap::Refused(class));
        }
        world.keep(2).elapse(minutes(3));
        assert_eq!((world.staying(), world.machines_ever()), (2, 2), "{class:?}");
        assert_eq!(world.records().len(), 2, "no new ids for a repeated call");
        assert!(world.happened(|event| matches!(
            event,
            Event::Moved {
                to: State::ErrorRetrying,
                ..
            }
        )));
    }
}

#[test]
fn what_the_site_has_no_room_for_is_asked_for_again_with_new_ids() {
    let mut world = World::keeping(0);
    world.cloud().has_room_for(Some(3));
    world.keep(4).elapse(minutes(2));
    assert_eq!(world.staying(), 3);
    let failed = world.records().into_iter().find(|record| record.state == State::Failed).unwrap();
    assert_eq!(failed.fault.as_ref().map(|fault| fault.code.as_ref()), Some("capacity-short"));
    world.cloud().has_room_for(None);
    world.elapse(minutes(20));
    assert_eq!((world.staying(), world.machines_there()), (4, 4));
}

#[test]
fn a_full_site_is_followed_by_the_next_one() {
    let mut world = Setup::keeping(0).on(&["here", "there"]).world();
    world.cloud().has_room_for(Some(0));
    world.keep(3).elapse(minutes(10));
    assert_eq!(world.staying(), 3);
    assert!(
        world
            .records()
            .iter()
            .filter(|record| record.state == State::Running)
            .all(|record| record.site.as_str() == "there")
    );
}

#[test]
fn a_machine_that_nobody_asked_for_is_swept() {
    let mut world = World::keeping(2);
    let stray = world.elapse(minutes(2)).add_machine_of("simulated");
    world.elapse(seconds(30));
    assert!(world.is_there(&stray), "not before the grace");
    world.elapse(minutes(3));
    assert!(!world.is_there(&stray));
    assert!(world.happened(|event| matches!(event, Event::SweepTerminated { .. })));
    assert_eq!(world.staying(), 2);
}

#[test]
fn another_installations_machine_is_left_alone() {
    let mut world = World::keeping(2);
    let theirs = world.elapse(minutes(2)).add_machine_of("somebody-else");
    world.elapse(hours(1)).tear_down(true).elapse(minutes(10));
    assert!(world.is_there(&theirs));
    assert_eq!(world.machines_there(), 0);
}

#[test]
fn a_site_that_answers_nothing_for_an_hour_loses_and_doubles_nothing() {
    let mut world = World::keeping(3);
    let before = world.elapse(minutes(3)).running();
    world.cloud().goes_away(true);
    world.elapse(hours(1));
    assert_eq!(world.running(), before);
    world.cloud().goes_away(false);
    world.elapse(minutes(10));
    assert_eq!((world.running(), world.machines_ever()), (before, 3));
}

#[test]
fn a_launch_at_a_site_that_answers_nothing_comes_when_it_answers() {
    let mut world = World::keeping(0);
    world.cloud().goes_away(true);
    world.keep(2).elapse(minutes(30)).cloud().goes_away(false);
    world.elapse(minutes(5));
    assert_eq!((world.staying(), world.machines_ever()), (2, 2));
}

#[test]
fn a_machine_that_will_not_end_is_told_again_and_again() {
    let mut world = Setup::keeping(2).without_cooldowns().world();
    world.elapse(minutes(2)).cloud().every_call(Call::Terminate, Some(Mishap::Nothing));
    world.keep(1).elapse(minutes(10));
    assert_eq!(world.count(State::Terminating), 1);
    world.cloud().every_call(Call::Terminate, None);
    world.elapse(minutes(3));
    assert_eq!((world.count(State::Terminated), world.machines_there()), (1, 1));
    let gone = world
        .records()
        .into_iter()
        .find(|record| record.state == State::Terminated)
        .unwrap();
    assert_eq!(gone.ending.as_ref().map(|ending| ending.why), Some(Cause::Drained));
}
