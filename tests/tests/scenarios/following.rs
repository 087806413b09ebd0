//! A queue is followed.

use epu_core::State;
use epu_core::instance::Cause;
use epu_simulator::sensors::Mode;
use epu_simulator::{Service, Setup, World, hours, minutes, seconds};

fn calm() -> Setup {
    Setup::following_queue(2, 8).without_cooldowns()
}

#[test]
fn a_pool_without_work_stays_empty() {
    let mut world = World::following_queue(2, 8);
    world.elapse(minutes(10));
    assert_eq!((world.live(), world.target()), (0, Some(0)));
}

#[test]
fn the_first_worker_comes_for_the_first_job_though_it_is_below_the_low_water() {
    let mut world = World::following_queue(2, 8);
    world.elapse(minutes(1)).submit(1, seconds(600)).elapse(minutes(2));
    assert_eq!(world.count(State::Running), 1);
    assert!(world.ever("work-waits"));
}

#[test]
fn above_the_high_water_it_grows_by_one_and_waits_for_that_one_to_come() {
    let mut world = calm().world();
    world.cloud().boots_in(seconds(60), 0.0);
    world.submit(100, minutes(60)).elapse(seconds(30));
    assert_eq!(world.live(), 1, "the first");
    world.elapse(seconds(60));
    assert_eq!(world.live(), 2, "the second once the first runs");
    world.elapse(seconds(30));
    assert_eq!(world.live(), 2, "no third before the second runs");
    assert!(world.ever("growth-pending"));
    world.elapse(seconds(60));
    assert_eq!(world.live(), 3);
}

#[test]
fn it_grows_to_its_maximum_and_no_further() {
    let mut world = calm().with("max", 4).world();
    world.submit(500, minutes(60)).elapse(minutes(15));
    assert_eq!((world.count(State::Running), world.live()), (4, 4));
    assert!(world.ever("at-maximum"));
}

#[test]
fn within_the_band_nothing_changes_both_marks_included() {
    for depth in [2, 5, 8] {
        let mut world = calm().with("min", 3).world();
        world.elapse(minutes(2)).sensor(Mode::Says(f64::from(depth)));
        world.elapse(minutes(10));
        assert_eq!((world.live(), world.target()), (3, Some(3)), "depth {depth}");
        assert_eq!(world.why(), ["within-band"]);
    }
}

#[test]
fn a_burst_is_worked_off_and_the_pool_shrinks_without_killing_a_job() {
    let mut world = Setup::following_queue(2, 8).with("min", 1).world();
    world.elapse(minutes(2)).submit(300, seconds(20)).elapse(minutes(10));
    assert!(world.count(State::Running) > 5, "it grew");
    world.elapse(minutes(40));
    assert_eq!(world.live(), 1, "it shrank to its minimum");
    let queue = world.queue();
    assert_eq!((queue.done_count(), queue.lost(), queue.done_twice()), (300, 0, 0));
}

#[test]
fn the_last_worker_stays_while_it_works_though_the_queue_is_empty() {
    let mut world = calm().world();
    world.submit(1, minutes(30)).elapse(minutes(20));
    assert_eq!(world.queue().waiting(), 0);
    assert_eq!(world.count(State::Running), 1);
    assert!(world.why().contains(&"last-worker".to_owned()), "{:?}", world.why());
    world.elapse(minutes(20));
    assert_eq!(world.live(), 0, "and goes when it is done");
    assert_eq!(world.queue().done_count(), 1);
}

#[test]
fn two_busy_workers_of_whom_one_is_too_many_are_one_that_drains() {
    let mut world = calm().with("min", 1).world();
    world.elapse(minutes(2)).submit(20, minutes(10)).elapse(minutes(4));
    let many = world.count(State::Running);
    assert!(many >= 2, "{many}");
    world.elapse(minutes(180));
    let records = world.records();
    let gone = records.iter().filter(|record| record.state == State::Terminated);
    assert!(gone.clone().count() > 0);
    for record in gone {
        let ending = record.ending.as_ref().unwrap();
        assert_eq!(
            (ending.why, ending.drained_for),
            (Cause::Drained, Some(Cause::ScaleIn)),
            "{record:?}"
        );
    }
    assert_eq!((world.queue().done_count(), world.queue().done_twice()), (20, 0));
}

fn grown() -> World {
    let mut world = calm().with("min", 1).world();
    world.elapse(minutes(1)).submit(60, minutes(20)).elapse(minutes(10));
    assert!(world.count(State::Running) > 4);
    world
}

#[test]
fn a_sensor_that_fails_shrinks_nothing_and_says_stale_then_missing() {
    for mode in [Mode::Fails, Mode::Hangs] {
        let mut world = grown();
        let before = world.staying();
        world.sensor(mode).elapse(seconds(30));
        assert_eq!(world.pool().readings.values().next().unwrap().status.word(), "stale");
        world.elapse(minutes(5));
        assert_eq!(world.pool().readings.values().next().unwrap().status.word(), "missing");
        assert_eq!(world.why(), ["no-reading"]);
        world.elapse(minutes(50));
        assert_eq!(world.staying(), before, "{mode:?}");
        world.sensor(Mode::True).elapse(hours(3));
        assert_eq!(world.live(), 1, "it goes on once the sensor is back");
    }
}

#[test]
fn what_is_no_amount_changes_nothing() {
    for wrong in [f64::NAN, f64::INFINITY, -3.0] {
        let mut world = grown();
        let before = world.staying();
        world.sensor(Mode::Says(wrong)).elapse(minutes(50));
        assert_eq!(world.staying(), before, "{wrong}");
    }
}

#[test]
fn a_dead_sensor_is_never_zero_for_a_pool_that_was_just_started() {
    let mut world = calm().with("min", 2).world();
    world.sensor(Mode::Fails).elapse(minutes(10));
    assert_eq!(world.staying(), 2, "the minimum needs no reading");
    world.restart(Service::Controller).restart(Service::Aggregator).elapse(minutes(10));
    assert_eq!(world.staying(), 2);
}

#[test]
fn a_raised_minimum_is_kept_at_once_whatever_is_read() {
    let mut world = Setup::following_queue(2, 8).with("limits.cooldown-up", "1h").world();
    world.elapse(minutes(1)).sensor(Mode::Fails).elapse(minutes(5));
    world.reconfigure("min", 4).elapse(seconds(2));
    assert_eq!(world.live(), 4);
    assert!(world.ever("below-minimum"));
}

#[test]
fn a_lowered_maximum_is_kept_by_draining() {
    let mut world = grown();
    world.reconfigure("max", 2).elapse(minutes(1));
    assert_eq!(world.staying(), 2);
    world.elapse(minutes(60));
    assert_eq!(world.queue().done_twice(), 0);
    assert_eq!(world.queue().lost(), 0);
}

#[test]
fn an_absent_aggregator_shrinks_nothing() {
    let mut world = grown();
    let before = world.staying();
    world.crash(Service::Aggregator).elapse(minutes(40));
    assert_eq!(world.staying(), before);
    world.start(Service::Aggregator).elapse(minutes(5));
    assert!(world.staying() <= before);
}

#[test]
fn a_failed_worker_is_replaced_though_the_sensor_is_dead() {
    let mut world = grown();
    let before = world.staying();
    world.sensor(Mode::Fails).elapse(minutes(5));
    let killed = world.any();
    world.kill_worker(&killed).elapse(minutes(3));
    assert_eq!(world.staying(), before);
}

#[test]
fn water_marks_are_changed_while_it_runs_and_nonsense_is_refused() {
    let mut world = calm().with("min", 1).world();
    world.elapse(minutes(1)).sensor(Mode::Says(5.0)).elapse(minutes(5));
    assert_eq!(world.live(), 1);
    let refused = world.try_reconfigure("engine.queue-length.low-water", 9).unwrap_err();
    assert_eq!(refused.code, "bad-config", "{refused}");
    assert_eq!(world.pool().pool.revision, 1, "what is refused changes nothing");
    world.reconfigure("engine.queue-length.high-water", 4).elapse(minutes(3));
    assert!(world.live() > 1);
}
