//! The way between processes: whatever becomes of messages there, things are done once, in order, and a little later.

use epu_core::State;
use epu_core::fact::Kind;
use epu_core::health::Health;
use epu_core::journal::Event;
use epu_simulator::cloud::Call;
use epu_simulator::net::rules::{Effect, Message, Place, Rule};
use epu_simulator::{Process, Service, Setup, World, minutes, seconds};

const CONTROLLER: Place = Place::Process(process(Service::Controller));
const PROVISIONER: Place = Place::Process(process(Service::Provisioner));

const fn process(service: Service) -> Process {
    Process { service, copy: 0 }
}

fn quiet(n: u32) -> World {
    let mut world = Setup::keeping(n).without_cooldowns().world();
    world.elapse(minutes(2));
    world
}

#[test]
fn launches_doubled_on_the_wire_launch_once() {
    for provisioners in [1, 2] {
        let mut world = Setup::keeping(2).provisioners(provisioners).without_cooldowns().world();
        world.elapse(minutes(2)).disturb(Rule::new(Effect::Doubled));
        world.keep(5).elapse(minutes(3)).keep(3).elapse(minutes(5));
        assert_eq!((world.staying(), world.machines_ever()), (3, 5), "{provisioners} provisioners");
        assert_eq!(world.machines_there(), 3);
    }
}

#[test]
fn an_end_that_nobody_heard_of_is_heard_of_once_facts_arrive_again() {
    let mut world = quiet(3);
    // What is out of contact while it runs is asked about anyway; of what is being ended only word of its end is awaited.
    world
        .remove(false)
        .until("they end", minutes(1), |world| world.count(State::Terminating) == 3);
    let deaf = world.disturb(
        Rule::new(Effect::Lost)
            .only(Message::Fact(Kind::Instances))
            .between(PROVISIONER, CONTROLLER),
    );
    world.elapse(minutes(20));
    assert_eq!(world.machines_there(), 0, "they drained and ended");
    assert_eq!(world.status().pools.len(), 1, "of which the controller knows nothing");
    // Whoever succeeds it does not know which instances ended a moment ago.
    world.restart(Service::Provisioner).elapse(minutes(1));
    world.undisturb(deaf).elapse(seconds(15));
    assert_eq!(world.status().pools.len(), 0, "what a telling leaves out is asked about");
}

#[test]
fn a_launch_that_arrives_minutes_after_it_was_sent_again_launches_nothing() {
    let mut world = quiet(1);
    let late = world.disturb(Rule::new(Effect::Late(minutes(2), minutes(2))).only(Message::Request("launch")));
    world.keep(3).elapse(seconds(5));
    assert_eq!(world.machines_ever(), 1, "it is on its way");
    world.undisturb(late).elapse(seconds(100));
    assert_eq!(
        (world.staying(), world.machines_ever()),
        (3, 3),
        "the one sent again was there first"
    );
    let calls = world.cloud().calls(Call::Launch);
    world.elapse(minutes(3));
    assert_eq!((world.staying(), world.machines_ever()), (3, 3));
    assert_eq!(world.cloud().calls(Call::Launch), calls, "the late one was known already");
}

#[test]
fn a_launch_that_arrives_after_its_instances_have_ended_launches_nothing() {
    let mut world = quiet(1);
    let late = world.disturb(Rule::new(Effect::Late(minutes(8), minutes(8))).only(Message::Request("launch")));
    world.keep(3).elapse(seconds(5)).undisturb(late);
    world.elapse(minutes(2)).keep(1).elapse(minutes(4));
    assert_eq!((world.staying(), world.machines_ever()), (1, 3), "come and gone");
    world.elapse(minutes(5));
    assert_eq!((world.staying(), world.machines_ever(), world.machines_there()), (1, 3, 1));
}

#[test]
fn instance_facts_that_overtake_each_other_do_not_move_a_view_backwards() {
    for seed in 0..4 {
        let mut world = Setup::keeping(2).without_cooldowns().seed(seed).world();
        world.disturb(Rule::new(Effect::Overtaken).only(Message::Fact(Kind::Instances)));
        world.disturb(Rule::new(Effect::Doubled).only(Message::Fact(Kind::Instances)));
        for n in [6, 1, 4, 0, 3] {
            world.keep(n).elapse(minutes(4));
            assert_eq!(world.staying(), usize::try_from(n).unwrap(), "seed {seed}");
            assert_eq!(world.machines_there(), world.live(), "seed {seed}");
        }
        assert_eq!(
            world.machines_ever(),
            12,
            "seed {seed}: nothing was launched for one that was thought to be gone"
        );
    }
}

#[test]
fn an_agent_whose_heartbeats_overtake_each_other_is_in_contact_and_has_work_when_it_says_so() {
    let mut world = quiet(3);
    let one = world.any();
    let agent = Place::Agent(one);
    world.disturb(Rule::new(Effect::Overtaken).between(agent, Place::Anywhere));
    world.disturb(Rule::new(Effect::Late(seconds(0), seconds(40))).between(agent, Place::Anywhere));
    world.occupy(&one).elapse(minutes(10));
    assert_eq!(world.health_of(&one), Health::Ok);
    world.keep(0).elapse(minutes(2));
    assert!(world.state_of(&one) == State::Running, "it has work");
    world.release(&one).elapse(minutes(12));
    assert_eq!((world.live(), world.machines_there()), (0, 0));
}

#[test]
fn a_partition_between_controller_and_provisioner_heals() {
    for one_way in [None, Some(true), Some(false)] {
        let mut world = quiet(3);
        let lost = |from, to| Rule::new(Effect::Lost).between(from, to);
        let mut rules = Vec::new();
        if one_way != Some(false) {
            rules.push(world.disturb(lost(CONTROLLER, PROVISIONER)));
        }
        if one_way != Some(true) {
            rules.push(world.disturb(lost(PROVISIONER, CONTROLLER)));
        }
        world.lose_machine(&world.any()).keep(5).elapse(minutes(10));
        for rule in rules {
            world.undisturb(rule);
        }
        world.elapse(minutes(4));
        assert_eq!((world.staying(), world.machines_there()), (5, 5), "{one_way:?}");
        assert_eq!(world.machines_ever(), 6, "{one_way:?}: each was launched once");
    }
}

#[test]
fn a_partition_between_controller_and_aggregator_condemns_nobody() {
    let mut world = quiet(4);
    let aggregator = Place::Process(process(Service::Aggregator));
    let cut = world.disturb(Rule::new(Effect::Lost).between(aggregator, CONTROLLER));
    world.elapse(minutes(15)).undisturb(cut).elapse(minutes(5));
    assert_eq!((world.staying(), world.machines_ever()), (4, 4));
    for id in world.running() {
        // What was said meanwhile is told again within half a minute; until then one may seem to be out of contact.
        assert_eq!(world.health_of(&id), Health::Ok);
        assert!(!world.healths_of(&id).contains(&Health::Missing));
    }
}

#[test]
fn an_operators_change_that_arrives_twice_is_made_once() {
    let mut world = quiet(2);
    let doubled = Rule::new(Effect::Doubled).between(Place::Operators, CONTROLLER);
    world.disturb(doubled);
    world.keep(4).elapse(minutes(3));
    assert_eq!((world.staying(), world.machines_ever(), world.pool().pool.revision), (4, 4, 2));
}

#[test]
fn a_broker_that_is_away_for_long_condemns_nobody_and_doubles_nothing() {
    for away in [seconds(5), minutes(1), minutes(12)] {
        let mut world = quiet(4);
        let lost = world.any();
        world.broker_away(true).lose_machine(&lost).elapse(away).broker_away(false);
        world.elapse(minutes(6));
        assert_eq!(
            (world.staying(), world.machines_there(), world.machines_ever()),
            (4, 4, 5),
            "{away:?}"
        );
        let silent = world.happened(|event| {
            matches!(
                event,
                Event::HealthChanged {
                    to: Health::OutOfContact,
                    ..
                }
            )
        });
        assert!(!silent, "{away:?}: what was not heard meanwhile counts for nothing");
    }
}

#[test]
fn under_every_trouble_at_once_a_pool_does_everything_once_and_comes_back() {
    for seed in 0..4 {
        let mut world = Setup::keeping(4)
            .without_cooldowns()
            .provisioners(2)
            .controllers(2)
            .seed(seed)
            .world();
        world.elapse(minutes(2));
        let troubles = [
            Rule::new(Effect::Lost).share(0.3),
            Rule::new(Effect::Late(seconds(0), minutes(2))).share(0.3),
            Rule::new(Effect::Doubled).share(0.5),
            Rule::new(Effect::Overtaken).share(0.5),
            Rule::new(Effect::Corrupted).share(0.2),
        ];
        let rules = troubles.map(|rule| world.disturb(rule));
        for n in [7, 2, 6] {
            // An operator repeats what was not answered.
            for _ in 0..20 {
                if world.try_reconfigure("engine.keep.n", n).is_ok() {
                    break;
                }
            }
            world.elapse(minutes(10));
        }
        for rule in rules {
            world.undisturb(rule);
        }
        world.elapse(minutes(4)).keep(5).elapse(minutes(15));
        assert_eq!((world.staying(), world.machines_there()), (5, 5), "seed {seed}");
    }
}
