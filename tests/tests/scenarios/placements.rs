//! Several ways to launch, best first: overflow, the way back, moving, parking, and machines that a site takes back.

use epu_core::instance::Cause;
use epu_core::journal::Event;
use epu_core::request::{Caller, Happened, PlacementFilter, PlacementReset, PlacementView, Report, Request};
use epu_core::{InstanceId, PoolName, Span, State};
use epu_provisioner::iaas::Class;
use epu_simulator::cloud::{Call, Mishap};
use epu_simulator::{Service, Setup, World, hours, minutes, seconds};
use serde_json::json;

/// Two sites, the first of which is better.
fn two(n: u32) -> World {
    Setup::keeping(n).on(&["here", "there"]).without_cooldowns().world()
}

fn running_on(world: &World, placement: &str) -> usize {
    let on = |id: &InstanceId| world.record(id).placed_by() == placement;
    world
        .running()
        .iter()
        .filter(|id| on(id) && world.record(id).drain.is_none())
        .count()
}

fn placements(world: &mut World) -> Vec<PlacementView> {
    let list = Request::PlacementList(PlacementFilter { pool: None });
    serde_json::from_value(world.ask(list).unwrap()).unwrap()
}

fn gates(world: &mut World) -> Vec<(String, String)> {
    placements(world).into_iter().map(|view| (view.placement, view.gate)).collect()
}

fn reset(world: &mut World) -> Vec<String> {
    let reset = Request::PlacementReset(PlacementReset {
        pool: PoolName::new("pool").unwrap(),
        placement: None,
    });
    serde_json::from_value(world.ask(reset).unwrap()).unwrap()
}

fn is(placement: &str, gate: &str) -> (String, String) {
    (placement.to_owned(), gate.to_owned())
}

#[test]
fn when_the_first_placement_is_full_the_next_one_is_used_within_one_decision() {
    let mut world = two(0);
    world.elapse(minutes(1)).cloud().has_room_for(Some(2));
    world.keep(5);
    world.until("the site says that it is full", minutes(2), |world| {
        world.happened(|event| matches!(event, Event::BreakerOpened { reason, .. } if reason.code == "no-capacity"))
    });
    world.elapse(seconds(3));
    let elsewhere = world.records().iter().filter(|record| record.site.as_str() == "there").count();
    assert_eq!(elsewhere, 3, "at once");
    world.elapse(minutes(2));
    assert_eq!(
        (running_on(&world, "here"), running_on(&world, "there"), world.machines_there()),
        (2, 3, 5)
    );
    assert!(gates(&mut world).contains(&is("here", "paused")));
    assert!(world.status().concerns.iter().any(|concern| concern.contains("here had no room")));
    let board = placements(&mut world).remove(0).score;
    assert_eq!((board.ready, board.capacity, board.failed), (2, 3, 3));
    assert!(board.boot_p50_ms.is_some_and(|ms| (10_000..60_000).contains(&ms)), "{board:?}");
}

#[test]
fn when_the_first_placement_has_room_again_one_tries_it_and_then_new_ones_go_there() {
    let mut world = two(0);
    world.elapse(minutes(1)).cloud().has_room_for(Some(0));
    world.keep(3).elapse(minutes(3));
    assert_eq!((running_on(&world, "here"), running_on(&world, "there")), (0, 3));
    world.cloud().has_room_for(None);
    world.elapse(minutes(10));
    assert_eq!(running_on(&world, "there"), 3, "nobody moves to the better place");
    assert!(gates(&mut world).contains(&is("here", "trying")));
    world.keep(6).elapse(seconds(10));
    let came: usize = world
        .records()
        .iter()
        .filter(|record| record.site.as_str() == "here" && record.is_live())
        .count();
    assert_eq!(came, 1, "one to try");
    world.elapse(minutes(2));
    assert!(gates(&mut world).contains(&is("here", "open")));
    world.keep(9).elapse(minutes(2));
    assert_eq!((running_on(&world, "here"), running_on(&world, "there")), (4, 5));
    world.keep(4).elapse(minutes(2));
    assert_eq!(
        (running_on(&world, "here"), running_on(&world, "there")),
        (4, 0),
        "the last rank shrinks first"
    );
}

#[test]
fn a_full_site_is_asked_again_more_and_more_rarely_whatever_happens_to_the_controller() {
    let mut world = two(0);
    world
        .reconfigure("placements", json!([{"site": "here"}, {"site": "there", "max": 2}]))
        .elapse(minutes(1));
    world.cloud().has_room_for(Some(0));
    world.keep(4).elapse(minutes(3));
    let before = world.cloud().calls(Call::Launch);
    world.restart(Service::Controller).elapse(minutes(1));
    assert!(gates(&mut world).contains(&is("here", "paused")));
    world.elapse(minutes(30));
    let tries = world.cloud().calls(Call::Launch) - before;
    assert_eq!(
        (tries, running_on(&world, "there")),
        (2, 2),
        "after 5 and after 10 minutes more; then 20 are waited"
    );
    world.cloud().has_room_for(None);
    world.elapse(minutes(15));
    assert_eq!(
        (running_on(&world, "here"), running_on(&world, "there")),
        (2, 2),
        "one, then the other"
    );
}

#[test]
fn a_lowered_maximum_moves_the_excess_and_no_worker_is_missing_meanwhile() {
    let mut world = two(4);
    world.elapse(minutes(3));
    assert_eq!(running_on(&world, "here"), 4);
    world.reconfigure("placements", json!([{"site": "here", "max": 1}, {"site": "there"}]));
    for _ in 0..60 {
        world.elapse(seconds(10));
        let staying = running_on(&world, "here") + running_on(&world, "there");
        assert!(staying >= 4, "{staying} run");
    }
    assert_eq!(
        (running_on(&world, "here"), running_on(&world, "there"), world.machines_there()),
        (1, 3, 4)
    );
    let moved = |event: &Event| {
        matches!(
            event,
            Event::DrainOrdered {
                why: Cause::PlacementLeft,
                ..
            }
        )
    };
    assert!(world.happened(moved));
    world.reconfigure("placements", json!([{"site": "there"}])).elapse(minutes(10));
    assert_eq!(
        (running_on(&world, "here"), running_on(&world, "there"), world.machines_there()),
        (0, 4, 4)
    );
}

#[test]
fn several_placements_on_one_site_are_kept_apart() {
    let spot = json!({"market": {"spot": {"max-price": 0.1}}, "price": 0.03});
    let placements = json!([{"site": "here", "name": "spot", "max": 2, "machine": spot}, {"site": "here", "name": "sure"}]);
    let mut world = Setup::keeping(5).with("placements", placements).without_cooldowns().world();
    world.elapse(minutes(3));
    assert_eq!((running_on(&world, "spot"), running_on(&world, "sure")), (2, 3));
    let shown = self::placements(&mut world);
    let lines: Vec<_> = shown
        .iter()
        .map(|view| {
            (
                view.rank,
                view.placement.as_str(),
                view.machine.as_str(),
                view.live,
                view.gate.as_str(),
            )
        })
        .collect();
    assert_eq!(
        lines,
        [(Some(1), "spot", "spot up to 0.1", 2, "full"), (Some(2), "sure", "", 3, "open")]
    );
    assert_eq!(shown[0].score.price, Some(0.03));
    let versions: std::collections::BTreeSet<String> = world.records().iter().map(|record| record.template.clone()).collect();
    assert_eq!(
        versions.len(),
        2,
        "what differs in what it launches is another version: {versions:?}"
    );
}

#[test]
fn a_placement_that_is_refused_is_parked_for_ever_until_a_person_resets_it() {
    for class in [Class::Permanent, Class::Credentials] {
        let mut world = two(0);
        world
            .elapse(minutes(1))
            .cloud()
            .every_call(Call::Launch, Some(Mishap::Refused(class)));
        world.keep(3).elapse(minutes(3));
        assert_eq!(running_on(&world, "there"), 3, "the next one is used");
        assert!(world.happened(|event| matches!(event, Event::PlacementParked { placement, .. } if placement == "here")));
        let calls = world.cloud().calls(Call::Launch);
        world.cloud().every_call(Call::Launch, None);
        world.restart(Service::Controller).elapse(hours(3));
        assert!(
            gates(&mut world).contains(&is("here", "parked")),
            "a restart, and time, change nothing"
        );
        let concerns = world.status().concerns;
        assert!(
            concerns.iter().any(|concern| concern.contains("placement reset pool here")),
            "{concerns:?}"
        );
        world.keep(4).elapse(minutes(3));
        assert_eq!((world.cloud().calls(Call::Launch), running_on(&world, "there")), (calls, 4));
        assert_eq!(reset(&mut world), ["here"]);
        assert_eq!(reset(&mut world), [""; 0], "once");
        assert!(world.happened(|event| matches!(event, Event::PlacementReset { placement } if placement == "here")));
        world.restart(Service::Controller).elapse(seconds(10)).keep(6).elapse(minutes(3));
        assert_eq!((running_on(&world, "here"), running_on(&world, "there")), (2, 4));
    }
}

#[test]
fn a_machine_that_the_site_takes_back_is_replaced_before_it_is_gone() {
    let mut world = two(3);
    world.elapse(minutes(3));
    let taken = world.running()[0];
    let report = Request::Report(Report {
        instance: taken,
        happened: Happened::Interruption { within: Span::secs(120) },
    });
    world.ask_as(Caller::Instance(taken), report).unwrap();
    world.elapse(seconds(60));
    assert_eq!(
        world.running().iter().filter(|id| **id != taken).count(),
        3,
        "its replacement runs before it is gone"
    );
    world.elapse(minutes(5));
    assert!(world.state_of(&taken).is_end());
    assert_eq!((world.count(State::Running), world.machines_there()), (3, 3));
    assert_eq!(placements(&mut world)[0].score.interrupted, 1);
    assert!(!world.ever("storm"));
}

#[test]
fn what_one_pool_finds_out_holds_no_other_pool_up() {
    let mut world = Setup::keeping(0).without_cooldowns().world();
    world
        .elapse(minutes(1))
        .cloud()
        .next_call(Call::Launch, Mishap::Refused(Class::Permanent));
    world.keep(2).elapse(minutes(2));
    assert_eq!(world.staying(), 0);
    world.add_keeping(&["other"], 2).elapse(minutes(3));
    assert_eq!((world.staying_of("other"), world.staying_of("pool")), (2, 0));
    assert_eq!(
        gates(&mut world),
        [is("here", "open"), is("here", "parked")],
        "of other, and of pool"
    );
}

#[test]
fn lists_are_put_together_from_all_controllers_and_from_what_nobody_leads() {
    let mut world = Setup::keeping(2).controllers(2).without_cooldowns().world();
    world
        .elapse(seconds(5))
        .add_keeping(&["alpha", "beta", "gamma", "delta"], 1)
        .elapse(minutes(3));
    let all = [("alpha", 1), ("beta", 1), ("delta", 1), ("gamma", 1), ("pool", 2)];
    let list = |world: &mut World| -> Vec<(String, u32)> {
        placements(world)
            .into_iter()
            .map(|view| (view.pool.to_string(), view.live))
            .collect()
    };
    let all = all.map(|(pool, live)| (pool.to_owned(), live));
    assert_eq!(list(&mut world), all);
    world.crash((Service::Controller, 0)).elapse(seconds(1));
    assert_eq!(list(&mut world), all, "from what is recorded");
}

#[test]
fn only_who_may_change_a_pool_resets_its_placements_and_a_mistyped_one_is_named() {
    let mut world = two(1);
    world.elapse(minutes(1));
    let reset = |placement: &str| {
        Request::PlacementReset(PlacementReset {
            pool: PoolName::new("pool").unwrap(),
            placement: Some(placement.parse().unwrap()),
        })
    };
    let fault = world.ask(reset("ther")).unwrap_err();
    assert_eq!(fault.code, "no-such-placement");
    assert!(
        fault.text.contains("did you mean \"there\"?") && fault.text.contains("here, there"),
        "{fault}"
    );
    for caller in [
        Caller::Reader("anna".to_owned()),
        Caller::OwnersOperator("anna".to_owned(), vec!["a".to_owned()]),
    ] {
        assert_eq!(world.ask_as(caller, reset("here")).unwrap_err().code, "forbidden");
    }
    assert_eq!(world.ask(reset("here")).unwrap(), json!([]), "it launches as it is");
}
