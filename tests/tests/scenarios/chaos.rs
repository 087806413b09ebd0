//! Everything goes wrong for a while, by a seed; then nothing does, and everything is as it should be.

use std::time::Duration;

use epu_core::fact::Kind;
use epu_core::random::Random;
use epu_core::{InstanceId, State};
use epu_provisioner::iaas::Class;
use epu_simulator::cloud::{Call, Mishap};
use epu_simulator::sensors::Mode;
use epu_simulator::{Process, Service, Setup, World, millis, minutes, seconds};

/// Chance, by a seed of its own.
struct Luck(Random);

impl Luck {
    fn below(&self, n: u64) -> u64 {
        self.0.number() % n
    }

    fn of<T: Copy>(&self, all: &[T]) -> Option<T> {
        let n = u64::try_from(all.len()).ok().filter(|n| *n > 0)?;
        all.get(usize::try_from(self.below(n)).ok()?).copied()
    }

    fn some_time(&self) -> Duration {
        millis(1 + self.below(120_000))
    }
}

/// Of each service one process.
const ONE_OF_EACH: [Process; 3] = [
    process(Service::Provisioner, 0),
    process(Service::Controller, 0),
    process(Service::Aggregator, 0),
];
/// Controllers that share the pools, and a provisioner that stands by.
const SEVERAL: [Process; 6] = [
    process(Service::Controller, 0),
    process(Service::Controller, 1),
    process(Service::Controller, 2),
    process(Service::Provisioner, 0),
    process(Service::Provisioner, 1),
    process(Service::Aggregator, 0),
];
const CALLS: [Call; 4] = [Call::Launch, Call::Terminate, Call::List, Call::Describe];

const fn process(service: Service, copy: u8) -> Process {
    Process { service, copy }
}

/// One thing goes wrong.
fn harm(world: &mut World, luck: &Luck, processes: &[Process], silenced: &mut Vec<InstanceId>) {
    let running: Vec<InstanceId> = world
        .running()
        .into_iter()
        .filter(|id| world.machines().of(*id).is_some())
        .collect();
    let one = luck.of(&running);
    let process = luck.of(processes).unwrap();
    let service = process.service;
    let call = luck.of(&CALLS).unwrap();
    match (luck.below(24), one) {
        (0, Some(id)) => {
            world.silence(&id);
            silenced.push(id);
        }
        (1, Some(id)) => drop(world.kill_worker(&id)),
        (2, Some(id)) => drop(world.lose_machine(&id)),
        (3, Some(id)) => drop(world.restart_agent(&id)),
        (4, Some(id)) => {
            world.freeze(&id);
            silenced.push(id);
        }
        (5, _) => drop(world.restart(process)),
        (6, _) => {
            world.crash(process).elapse(luck.some_time()).start(process);
        }
        (7, _) => world.cloud().next_call(call, Mishap::AnswerLost),
        (8, _) => world.cloud().next_call(call, Mishap::Refused(Class::Throttled)),
        (9, _) => world.cloud().next_call(call, Mishap::Nothing),
        (10, _) => {
            world
                .store_fails(Some("the disk is away"))
                .elapse(luck.some_time())
                .store_fails(None);
        }
        (11, _) => world.net().lose_answers(2),
        (12, _) => {
            world.cloud().next_are_stuck(1);
        }
        (13, _) => {
            world.suspend(process, true).elapse(luck.some_time()).suspend(process, false);
        }
        (14, _) => drop(world.lose_store_replies(1)),
        (15, _) => {
            let kind = luck.of(&[Kind::Instances, Kind::Snapshot, Kind::Pools, Kind::Listening]).unwrap();
            world.net().lose(kind, true);
            // Up to 40 s: what lasts beyond the minute after which orders are forgotten has a scenario of its own.
            world.elapse(luck.some_time() / 3).net().lose(kind, false);
        }
        (16, _) => {
            world.cut_off(service, true).elapse(luck.some_time()).cut_off(service, false);
        }
        (17, _) => {
            world.net().cut_agents_from(service, true);
            world.elapse(luck.some_time() * 3).net().cut_agents_from(service, false);
        }
        (18, _) => {
            world.cloud().goes_away(true);
            world.elapse(luck.some_time() * 3).cloud().goes_away(false);
        }
        // Not one that cannot be told to stop: that gap has a scenario of its own.
        (19, Some(id)) if !silenced.contains(&id) => {
            world.call_gone(&id);
            silenced.push(id);
        }
        (20, Some(id)) => drop(world.end_worker(&id, 0)),
        (21, Some(id)) => {
            // Refused when the store is in trouble just then, which an operator would see.
            drop(world.try_kill(&id));
        }
        (22, _) => {
            world.sensor(Mode::Fails).elapse(luck.some_time()).sensor(Mode::True);
        }
        (23, _) => {
            world.add_machine_of("simulated");
        }
        _ => {}
    }
}

/// Everything works again.
fn calm(world: &mut World, silenced: &[InstanceId]) {
    for id in silenced {
        world.let_speak(id);
        if world.machines().of(*id).is_some() {
            world.thaw(id);
        }
    }
    world.net().lose_answers(0);
    world.cloud().next_are_stuck(0);
    world.lose_store_replies(0);
}

#[test]
fn a_pool_that_keeps_a_number_comes_back_whatever_happened() {
    for seed in 0..12 {
        let luck = Luck(Random::seeded(seed));
        let mut world = Setup::keeping(6)
            .without_cooldowns()
            .template("ready-within", "5m")
            .seed(seed)
            .world();
        world.elapse(minutes(2));
        let mut silenced = Vec::new();
        for _ in 0..15 {
            harm(&mut world, &luck, &ONE_OF_EACH, &mut silenced);
            if luck.below(4) == 0 && world.try_reconfigure("engine.keep.n", luck.below(9)).is_err() {
                world.elapse(seconds(1));
            }
            world.elapse(luck.some_time());
        }
        calm(&mut world, &silenced);
        world.elapse(minutes(2));
        world.keep(5).elapse(minutes(90));
        assert_eq!(
            (world.staying(), world.machines_there()),
            (5, 5),
            "seed {seed}: {:?}",
            world.status().concerns
        );
    }
}

#[test]
fn a_pool_that_follows_a_queue_loses_no_job_whatever_happened() {
    for seed in 100..108 {
        let luck = Luck(Random::seeded(seed));
        let mut world = Setup::following_queue(2, 8)
            .with("min", 1)
            .template("ready-within", "5m")
            .seed(seed)
            .world();
        world.elapse(minutes(2));
        let mut silenced = Vec::new();
        for _ in 0..12 {
            world.submit(luck.below(40), seconds(10 + luck.below(60)));
            harm(&mut world, &luck, &ONE_OF_EACH, &mut silenced);
            world.elapse(luck.some_time());
        }
        calm(&mut world, &silenced);
        world.elapse(minutes(180));
        assert_eq!(
            (world.queue().waiting(), world.queue().in_progress(), world.queue().lost()),
            (0, 0, 0),
            "seed {seed}"
        );
        assert_eq!(
            (world.live(), world.count(State::Running), world.machines_there()),
            (1, 1, 1),
            "seed {seed}"
        );
    }
}

#[test]
fn a_worker_that_begins_to_work_in_the_moment_it_is_given_up_is_not_interrupted() {
    // Machines of this site come up after exactly 20 s, set-up takes 3 s, and the rest some milliseconds.
    for at in (22_900..23_400).step_by(10) {
        let mut world = Setup::keeping(0).without_cooldowns().world();
        world.cloud().boots_in(seconds(20), 0.0);
        world.submit(10, minutes(5)).keep(4).elapse(millis(at)).keep(1).elapse(minutes(12));
        assert_eq!(
            (world.staying(), world.queue().done_count(), world.queue().done_twice()),
            (1, world.queue().done_count(), 0),
            "at {at}"
        );
    }
}

#[test]
fn several_controllers_and_provisioners_do_everything_once_whatever_happens_to_them() {
    let pools = ["pool", "alpha", "beta", "gamma", "delta"];
    for seed in 300..304 {
        let luck = Luck(Random::seeded(seed));
        let mut world = Setup::keeping(3)
            .without_cooldowns()
            .template("ready-within", "5m")
            .controllers(3)
            .provisioners(2)
            .seed(seed)
            .world();
        world.elapse(seconds(5)).add_keeping(&pools[1..], 2).elapse(minutes(2));
        let mut silenced = Vec::new();
        for _ in 0..15 {
            harm(&mut world, &luck, &SEVERAL, &mut silenced);
            if luck.below(3) == 0 {
                // Refused while nobody leads it.
                let asked = world.try_reconfigure("engine.keep.n", luck.below(7));
                world.elapse(if asked.is_ok() { millis(luck.below(3_000)) } else { seconds(1) });
            }
            if luck.below(3) == 0 {
                let leaving = process(Service::Controller, 0);
                world.restart(leaving);
            }
            world.elapse(luck.some_time());
        }
        calm(&mut world, &silenced);
        world.elapse(minutes(2));
        world.keep(5).elapse(minutes(90));
        let staying: Vec<usize> = pools.iter().map(|pool| world.staying_of(pool)).collect();
        assert_eq!(
            (staying, world.machines_there()),
            (vec![5, 2, 2, 2, 2], 13),
            "seed {seed}: {:?}",
            world.status().concerns
        );
    }
}
