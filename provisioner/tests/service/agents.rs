use std::time::Duration;

use epu_core::Fault;
use epu_core::instance::Cause;
use epu_core::journal::Event;
use epu_core::life::State;
use epu_core::request::{Caller, ContextClaim, Happened, Ids, Nothing, Report, Request};

use crate::world::{CONTROLLER, World, exit};

fn ready() -> Happened {
    Happened::Ready { address: None }
}

#[tokio::test(start_paused = true)]
async fn the_first_nonce_has_the_instance_and_no_other() {
    let mut world = World::new().await;
    let request = world.request(2);
    let ids = world.launch(&request).await;
    world.elapse(1).await;
    let context = world.claim(&request, 1, "mine").await.unwrap();
    assert_eq!((context.instance, context.run.join(" ")), (ids[1], "work q1".to_owned()));
    assert_eq!(context.variables["EPU_INSTANCE"], ids[1].to_string());
    assert_eq!(context.aggregators, ["http://127.0.0.1:2"]);

    world.crash().await;
    world.start().await;
    let again = world.claim(&request, 1, "mine").await.unwrap();
    assert_eq!((again.instance, again.token), (context.instance, context.token));
    for _ in 0..3 {
        assert_eq!(world.claim(&request, 1, "yours").await.unwrap_err().code, "claim-refused");
    }
    assert_eq!(world.metrics.claims_refused.get(), 3);
    assert_eq!(world.journal(|event| matches!(event, Event::ClaimRefused { .. })).await.len(), 1);
    let kept = serde_json::to_string(&world.instance(ids[1]).await).unwrap();
    assert!(!kept.contains("mine"), "the nonce itself is kept");
    assert_eq!(world.claim(&request, 2, "n").await.unwrap_err().code, "unknown-instance");
    assert_eq!(world.claim(&request, 0, "").await.unwrap_err().code, "bad-request");
}

#[tokio::test(start_paused = true)]
async fn an_agent_may_be_faster_than_the_answer_to_its_launch() {
    let world = World::new().await;
    world
        .site
        .look()
        .script
        .push_back(crate::world::Does::AllAfter(Duration::from_secs(10)));
    let request = world.request(1);
    let id = world.launch(&request).await[0];
    world.claim(&request, 0, "n").await.unwrap();
    world.report(id, ready()).await.unwrap();
    assert_eq!(world.state(id).await, State::Running);
    world.elapse(20).await;
    let instance = world.instance(id).await;
    assert_eq!((instance.state, instance.machine.as_deref()), (State::Running, Some("m-1")));
}

#[tokio::test(start_paused = true)]
async fn agents_speak_for_themselves_only_and_nobody_else_does() {
    let world = World::new().await;
    let request = world.request(2);
    let ids = world.launch(&request).await;
    let claim = Request::Context(ContextClaim {
        launch: request.launch,
        index: 0,
        nonce: "n".to_owned(),
    });
    let report = Request::Report(Report {
        instance: ids[0],
        happened: ready(),
    });
    let other = world.request(1).launch;
    for (caller, request) in [
        (Caller::Launch(other), claim.clone()),
        (Caller::Instance(ids[0]), claim.clone()),
        (Caller::Operator("eve".to_owned()), claim),
        (Caller::Instance(ids[1]), report.clone()),
        (Caller::Launch(request.launch), report.clone()),
        (CONTROLLER, report),
        (Caller::Instance(ids[0]), Request::Open(Nothing {})),
    ] {
        assert_eq!(
            world.ask(caller.clone(), request).await.unwrap_err().code,
            "forbidden",
            "{caller:?}"
        );
    }
    assert!(world.instance(ids[0]).await.claim.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_template_that_names_what_there_is_not_fails_its_instances_clearly() {
    let world = World::new().await;
    let mut request = world.request(1);
    request.template.run.push("${NOWHERE}".to_owned());
    let id = world.launch(&request).await[0];
    world.elapse(1).await;
    let fault = world.claim(&request, 0, "n").await.unwrap_err();
    assert!(fault.text.contains("${NOWHERE}"), "{fault}");
    assert_eq!(
        (world.state(id).await, world.fault_code(id).await.as_str()),
        (State::RunningFailed, "bad-config")
    );
}

#[tokio::test(start_paused = true)]
async fn what_does_not_become_ready_fails_and_is_ended_when_nobody_else_does() {
    let world = World::new().await;
    let id = world.launch(&world.request(1)).await[0];
    world.elapse(590).await;
    assert_eq!(world.state(id).await, State::Started);
    world.elapse(20).await;
    assert_eq!(
        (world.state(id).await, world.fault_code(id).await.as_str()),
        (State::RunningFailed, "ready-unheard")
    );
    assert!(world.report(id, ready()).await.unwrap().stop, "a late one must take no work");
    world.elapse(600).await;
    assert_eq!((world.state(id).await, world.cause(id).await), (State::Terminated, Cause::NotReady));
    assert_eq!(world.metrics.deadlines.with_label_values(&["500-STARTED"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_set_up_keeps_its_words_within_bounds() {
    let world = World::new().await;
    let request = world.request(1);
    let id = world.launch(&request).await[0];
    world.elapse(1).await;
    let text = format!("{}äöü the end", "x".repeat(100_000));
    let fault = Fault {
        code: "of-its-own-making".into(),
        text,
    };
    world.report(id, Happened::Failed { fault }).await.unwrap();
    let kept = world.instance(id).await;
    let fault = kept.fault.unwrap();
    assert_eq!((kept.state, fault.code.as_ref()), (State::RunningFailed, "set-up-failed"));
    assert!(fault.text.len() <= 4_096 && fault.text.ends_with("the end"));
}

#[tokio::test(start_paused = true)]
async fn draining_ends_when_the_worker_is_done() {
    let world = World::new().await;
    let id = world.running_one().await;
    world.drain(id, 600).await.unwrap();
    world.drain(id, 600).await.unwrap();
    assert_eq!(world.journal(|event| matches!(event, Event::DrainOrdered { .. })).await.len(), 1);
    // The order comes with the answer to whatever the agent says next.
    assert!(world.report(id, ready()).await.unwrap().drain.is_some());
    world.elapse(60).await;
    assert_eq!(world.state(id).await, State::Running);
    assert!(world.report(id, Happened::Drained { exit: exit(0) }).await.unwrap().stop);
    world.elapse(5).await;
    let ended = world.instance(id).await;
    let ending = ended.ending.unwrap();
    assert_eq!(
        (ended.state, ending.why, ending.drained_for),
        (State::Terminated, Cause::Drained, Some(Cause::ScaleIn))
    );
    assert!(world.report(id, Happened::Drained { exit: exit(0) }).await.unwrap().stop);
}

#[tokio::test(start_paused = true)]
async fn draining_has_a_deadline_also_across_a_restart() {
    let mut world = World::new().await;
    let id = world.running_one().await;
    world.drain(id, 60).await.unwrap();
    world.elapse(30).await;
    world.crash().await;
    world.elapse(20).await;
    world.start().await;
    assert_eq!(world.state(id).await, State::Running);
    world.elapse(20).await;
    assert_eq!(
        (world.state(id).await, world.cause(id).await),
        (State::Terminated, Cause::DrainDeadline)
    );
    assert_eq!(world.metrics.drains_cut_short.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_drain_is_over() {
    let world = World::new().await;
    let (draining, other) = (world.running_one().await, world.running_one().await);
    world.drain(draining, 60).await.unwrap();
    let ids = Ids {
        instances: vec![draining, other],
        epoch: 0,
    };
    let withdrawn = world.ask(CONTROLLER, Request::WithdrawDrain(ids)).await.unwrap();
    assert_eq!(withdrawn.read::<Vec<epu_core::InstanceId>>().unwrap(), [draining]);
    world.elapse(600).await;
    assert_eq!(world.state(draining).await, State::Running);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_ended_well_is_finished_and_one_that_failed_is_its_pools_to_replace() {
    let world = World::new().await;
    let (well, badly) = (world.running_one().await, world.running_one().await);
    world.report(well, Happened::Exited { exit: exit(0) }).await.unwrap();
    world.report(badly, Happened::Exited { exit: exit(9) }).await.unwrap();
    world.elapse(5).await;
    assert_eq!(
        (world.state(well).await, world.cause(well).await),
        (State::Terminated, Cause::Finished)
    );
    let kept = world.instance(badly).await;
    assert_eq!((kept.state, kept.exit.unwrap().code), (State::Running, Some(9)));
    assert_eq!(world.fault_code(badly).await, "worker-failed");
}

#[tokio::test(start_paused = true)]
async fn a_report_that_could_not_be_written_is_not_accepted() {
    let world = World::new().await;
    let request = world.request(1);
    let id = world.launch(&request).await[0];
    world.elapse(1).await;
    world.store.fail_with(Some("disk full"));
    assert_eq!(world.report(id, ready()).await.unwrap_err().code, "store-failed");
    world.store.fail_with(None);
    world.elapse(2).await;
    assert_eq!(world.state(id).await, State::Started);
    world.report(id, ready()).await.unwrap();
    assert_eq!(world.state(id).await, State::Running);
    let stranger = world.request(1).instances[0].id;
    assert_eq!(world.report(stranger, ready()).await.unwrap_err().code, "unknown-instance");
}
