use std::time::Duration;

use epu_bus::Bus;
use epu_core::fact::{Fact, Listener};
use epu_core::instance::{Cause, Drain, Work};
use epu_core::journal::{Entry, Event};
use epu_core::life::State;
use epu_core::request::{Caller, DrainOrder, Happened, Ids, Logs, Nothing, Protect, Request, SiteStatus, SiteWord, Teardown, Terminate};
use epu_core::time::Span;
use epu_core::{InstanceId, Timestamp};
use epu_store::Store;

use crate::world::{CONTROLLER, Does, World, exit};

fn operator() -> Caller {
    Caller::Operator("ann".to_owned())
}

fn teardown(force: bool, within: Option<u64>) -> Request {
    Request::Teardown(Teardown {
        force,
        within: within.map(Span::secs),
    })
}

#[tokio::test(start_paused = true)]
async fn ending_is_confirmed_before_it_is_recorded_and_says_what_was_interrupted() {
    let world = World::new().await;
    let id = world.running_one().await;
    world.site.look().ignores_terminate = true;
    world.terminate(id).await.unwrap();
    world.terminate(id).await.unwrap();
    world.elapse(10).await;
    assert_eq!(world.state(id).await, State::Terminating);
    world.site.vanish("m-1");
    world.elapse(2).await;
    let ending = world.instance(id).await.ending.unwrap();
    assert_eq!(
        (world.state(id).await, ending.why, ending.work),
        (State::Terminated, Cause::Unhealthy, Work::Busy)
    );
    let moves = world
        .journal(|event| {
            matches!(
                event,
                Event::Moved {
                    to: State::Terminating,
                    ..
                }
            )
        })
        .await;
    assert_eq!((moves.len(), moves[0].who.as_ref()), (1, "controller"));
}

#[tokio::test(start_paused = true)]
async fn an_id_that_nobody_knows_is_an_operators_mistake_and_a_services_old_news() {
    let world = World::new().await;
    let stranger = world.request(1).instances[0].id;
    let order = Request::Terminate(Terminate {
        instances: vec![(stranger, Work::Unknown)],
        why: Cause::Operator,
        epoch: 0,
    });
    assert!(world.ask(CONTROLLER, order.clone()).await.is_ok());
    assert_eq!(world.ask(operator(), order).await.unwrap_err().code, "no-such-instance");
    let protect = Request::Protect(Protect {
        instances: vec![stranger],
        on: true,
    });
    assert_eq!(world.ask(operator(), protect).await.unwrap_err().code, "no-such-instance");
}

#[tokio::test(start_paused = true)]
async fn an_order_with_one_wrong_id_changes_nothing() {
    let world = World::new().await;
    let id = world.running_one().await;
    let order = |instances: Vec<InstanceId>| {
        Request::Terminate(Terminate {
            instances: instances.into_iter().map(|id| (id, Work::Unknown)).collect(),
            why: Cause::Operator,
            epoch: 0,
        })
    };
    let strangers: Vec<InstanceId> = world.request(3_000).instances.iter().map(|wanted| wanted.id).collect();
    let before = world.instance(id).await;
    let fault = world.ask(operator(), order(vec![id, strangers[0]])).await.unwrap_err();
    assert_eq!((fault.code.as_ref(), world.instance(id).await), ("no-such-instance", before));
    // A service's old news, however much of it there is, keep nothing from happening.
    let order = order(strangers.into_iter().chain([id]).collect());
    assert!(world.ask(CONTROLLER, order).await.is_ok());
    assert_eq!(world.state(id).await, State::Terminating);
}

#[tokio::test(start_paused = true)]
async fn a_drain_order_that_was_long_under_way_leaves_the_worker_its_time() {
    let world = World::new().await;
    let id = world.running_one().await;
    let since = world.clock.now();
    world.elapse(600).await;
    let order = Request::Drain(DrainOrder {
        instances: vec![id],
        drain: Drain {
            since,
            deadline: since + Duration::from_secs(300),
            why: Cause::ScaleIn,
        },
        epoch: 0,
    });
    world.ask(CONTROLLER, order.clone()).await.unwrap();
    world.elapse(200).await;
    world.ask(CONTROLLER, order).await.unwrap();
    assert_eq!(world.state(id).await, State::Running, "its time was up before it heard of it");
    world.elapse(110).await;
    assert_eq!(
        (world.state(id).await, world.cause(id).await),
        (State::Terminated, Cause::DrainDeadline)
    );
}

#[tokio::test(start_paused = true)]
async fn a_teardown_that_was_cut_short_goes_on() {
    let mut world = World::new().await;
    let working = world.running_one().await;
    let drained = world.running_one().await;
    let booting = world.launch(&world.request(1)).await[0];
    world.elapse(1).await;
    world.drain(drained, 3_000).await.unwrap();
    let standing = world.instance(drained).await.drain;
    world.crash().await;
    world.store.set_closed(true, None, Vec::new()).await.unwrap();
    world.start().await;
    world.elapse(5).await;
    let drain = world.instance(working).await.drain.expect("a drain");
    assert_eq!(
        (drain.why, drain.deadline.since(drain.since)),
        (Cause::Teardown, *world.config.teardown_drain)
    );
    assert_eq!(world.instance(drained).await.drain, standing);
    assert_eq!(
        (world.state(booting).await, world.cause(booting).await),
        (State::Terminated, Cause::Teardown)
    );
    world.elapse(3_700).await;
    assert_eq!(world.store.instances(true).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn teardown_drains_what_works_and_ends_the_rest() {
    let mut world = World::new().await;
    let working = world.running_one().await;
    let booting = world.launch(&world.request(1)).await[0];
    world.elapse(1).await;
    assert_eq!(
        world.ask(operator(), teardown(false, None)).await.unwrap().read::<u32>().unwrap(),
        2
    );
    world.elapse(30).await;
    assert_eq!(
        (world.state(working).await, world.state(booting).await),
        (State::Running, State::Terminated)
    );

    let refused = world.request(2);
    let stays = Request::WithdrawDrain(Ids {
        instances: vec![working],
        epoch: 0,
    });
    for late in [Request::Launch(Box::new(refused.clone())), stays] {
        let fault = world.ask(CONTROLLER, late).await.unwrap_err();
        assert_eq!(fault.code, "closed");
    }
    assert!(
        world.instance(working).await.drain.is_some(),
        "a controller that has not heard of it keeps nobody"
    );
    assert!(world.store.launch(refused.launch).await.unwrap().is_none());
    let told = world.told();
    let rejected = told
        .iter()
        .flat_map(|fact| &fact.changed)
        .filter(|i| i.state == State::Rejected)
        .count();
    assert_eq!((rejected, told.last().unwrap().closed), (2, true));

    world.report(working, Happened::Drained { exit: exit(0) }).await.unwrap();
    world.elapse(5).await;
    assert_eq!((world.state(working).await, world.site.running()), (State::Terminated, 0));
    assert_eq!(
        world.ask(operator(), teardown(false, None)).await.unwrap().read::<u32>().unwrap(),
        0
    );

    world.crash().await;
    world.start().await;
    let still = world
        .ask(CONTROLLER, Request::Launch(Box::new(world.request(1))))
        .await
        .unwrap_err();
    assert_eq!(still.code, "closed");
    let late = world.request(1);
    world.ask(CONTROLLER, Request::Launch(Box::new(late.clone()))).await.unwrap_err();
    world.ask(operator(), Request::Open(Nothing {})).await.unwrap();
    // Another copy of one that was refused: its asker has planned anew since.
    let again = world.ask(CONTROLLER, Request::Launch(Box::new(late))).await.unwrap_err();
    assert_eq!(again.code, "closed");
    world.launch(&world.request(1)).await;
    world.elapse(2).await;
    assert_eq!(world.site.running(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_forced_teardown_ends_everything_also_what_is_still_being_launched() {
    let world = World::new().await;
    world.running_one().await;
    world
        .site
        .look()
        .script
        .push_back(Does::AllAfter(std::time::Duration::from_secs(20)));
    world.launch(&world.request(3)).await;
    world.ask(operator(), teardown(true, None)).await.unwrap();
    world.elapse(60).await;
    let live = world.store.instances(true).await.unwrap();
    assert_eq!((live.len(), world.site.running()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_teardown_has_an_end() {
    let world = World::new().await;
    let id = world.running_one().await;
    world.drain(id, 3_000).await.unwrap();
    world.ask(operator(), teardown(false, Some(60))).await.unwrap();
    world.elapse(70).await;
    let ending = world.instance(id).await.ending.unwrap();
    assert_eq!((ending.why, ending.drained_for), (Cause::DrainDeadline, Some(Cause::Teardown)));
}

#[tokio::test(start_paused = true)]
async fn the_second_opinion_is_the_sites() {
    let world = World::new().await;
    let (up, gone) = (world.running_one().await, world.running_one().await);
    world.site.look().script.push_back(Does::Hangs);
    let coming = world.launch(&world.request(1)).await[0];
    let ended = world.running_one().await;
    world.terminate(ended).await.unwrap();
    world.elapse(5).await;
    world.site.look().list_fails = true;
    world.site.vanish("m-2");
    let stranger = world.request(1).instances[0].id;
    let ids = Ids {
        instances: vec![up, gone, coming, ended, stranger, up],
        epoch: 0,
    };
    let words: Vec<(InstanceId, SiteWord)> = world.ask(CONTROLLER, Request::Look(ids)).await.unwrap().read().unwrap();
    let expected = [
        (up, SiteWord::Running),
        (gone, SiteWord::Gone),
        (coming, SiteWord::NoAnswer),
        (ended, SiteWord::Gone),
        (stranger, SiteWord::NoAnswer),
    ];
    assert_eq!(words, expected);
}

#[tokio::test(start_paused = true)]
async fn protection_output_and_sites_are_for_operators() {
    let world = World::new().await;
    let id = world.running_one().await;
    let protect = |on| Request::Protect(Protect { instances: vec![id], on });
    world.ask(operator(), protect(true)).await.unwrap();
    assert!(world.instance(id).await.protected);
    world.ask(operator(), protect(false)).await.unwrap();
    assert!(!world.instance(id).await.protected);
    let noted = world.journal(|event| matches!(event, Event::Protected { .. })).await;
    assert_eq!((noted.len(), noted[0].who.as_ref()), (2, "ann"));

    let logs = Request::Logs(Logs { instance: id, lines: 7 });
    let text: String = world.ask(operator(), logs).await.unwrap().read().unwrap();
    assert_eq!(text, format!("7 lines of {id} on m-1"));

    let sites: Vec<SiteStatus> = world.ask(operator(), Request::Sites(Nothing {})).await.unwrap().read().unwrap();
    assert_eq!(
        (sites[0].driver.as_str(), sites[0].live, sites[0].fault.clone()),
        ("scripted", 1, None)
    );
    assert!(sites[0].listed_at > Some(Timestamp::START));
}

#[tokio::test(start_paused = true)]
async fn who_begins_to_listen_is_told_everything_and_a_lost_fact_is_told_again() {
    let mut world = World::new().await;
    for _ in 0..3 {
        world.launch(&world.request(200)).await;
    }
    world.elapse(5).await;
    let first = world.store.instances(true).await.unwrap()[0].id;
    world.terminate(first).await.unwrap();
    world.elapse(5).await;
    world.told();
    world.bus.tell(Fact::Listening(Listener::Controller));
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    let told = world.told();
    assert_eq!(told.iter().map(|fact| fact.changed.len()).collect::<Vec<_>>(), [500, 100]);
    assert_eq!(told.iter().map(|fact| fact.complete).collect::<Vec<_>>(), [false, true]);
    let end = told.iter().flat_map(|fact| &fact.changed).find(|instance| instance.id == first);
    assert_eq!(end.unwrap().state, State::Terminated);

    // Slowly, without being asked: no page of several claims to be everything.
    world.elapse(25).await;
    let pages = world.told();
    assert!(pages.len() >= 2 && pages.iter().all(|page| !page.complete && page.changed.len() <= 501));
    let named: usize = pages.iter().map(|page| page.changed.len()).sum();
    assert!(named >= 599, "{named} instances in {} pages", pages.len());
}

#[tokio::test(start_paused = true)]
async fn every_change_is_told_with_a_growing_version() {
    let mut world = World::new().await;
    let id = world.running_one().await;
    world.terminate(id).await.unwrap();
    world.elapse(5).await;
    let mut last = 0;
    let mut states = Vec::new();
    for fact in world.told() {
        for instance in fact.changed.iter().filter(|instance| instance.id == id) {
            assert!(instance.version >= last);
            if instance.version > last {
                states.push(instance.state);
            }
            last = instance.version;
        }
    }
    states.dedup();
    assert_eq!(states.first(), Some(&State::Requested));
    assert_eq!(states.last(), Some(&State::Terminated));
    assert!(states.is_sorted());
}

#[tokio::test(start_paused = true)]
async fn however_much_there_is_to_forget_it_is_forgotten_soon() {
    let mut world = World::new().await;
    world.crash().await;
    world.config.retention = Span::secs(60);
    world.config.retire_every = Span::secs(600);
    let old = (0..11_000).map(|_| Entry::new(world.clock.now(), "test", Event::Stopped));
    world.store.append(old.collect()).await.unwrap();
    world.start().await;
    world.elapse(610).await;
    assert!(world.store.size().await.unwrap().journal < 1_000);
}

#[tokio::test(start_paused = true)]
async fn old_records_go() {
    let world = World::new().await;
    let id = world.running_one().await;
    world.terminate(id).await.unwrap();
    world.elapse(5).await;
    let site = &world.site;
    site.look().list_fails = true;
    world.elapse(8 * 86_400).await;
    assert!(world.store.instance(id).await.unwrap().is_none());
    assert!(world.metrics.retired.get() > 0);
}
