//! Instances without a pool: nobody decides for them and nobody replaces them.

use epu_core::fact::Fact;
use epu_core::id::UNPOOLED;
use epu_core::instance::{Cause, Instance};
use epu_core::launch::LaunchRequest;
use epu_core::life::State;
use epu_core::request::{Caller, Happened, Ids, Nothing, Request, Teardown};
use epu_core::{Fault, InstanceId, PoolName};

use crate::world::{CONTROLLER, World, exit};

fn unpooled(world: &World) -> LaunchRequest {
    LaunchRequest {
        pool: PoolName::new(UNPOOLED).unwrap(),
        ..world.request(1)
    }
}

async fn running(world: &World) -> InstanceId {
    let request = unpooled(world);
    let id = world.launch(&request).await[0];
    world.elapse(1).await;
    world.claim(&request, 0, "nonce").await.unwrap();
    world.report(id, Happened::Ready { address: None }).await.unwrap();
    assert_eq!(world.state(id).await, State::Running);
    id
}

#[tokio::test(start_paused = true)]
async fn one_whose_worker_fails_is_ended_and_one_that_is_silent_stays() {
    let mut world = World::new().await;
    let (failed, silent, done) = (running(&world).await, running(&world).await, running(&world).await);
    let orders = world.report(failed, Happened::Exited { exit: exit(9) }).await.unwrap();
    assert!(orders.stop, "nobody else would end it");
    world.report(done, Happened::Exited { exit: exit(0) }).await.unwrap();
    world.elapse(5).await;
    assert_eq!(
        (world.state(failed).await, world.cause(failed).await),
        (State::Terminated, Cause::Unhealthy)
    );
    assert_eq!(world.fault_code(failed).await, "worker-failed");
    assert_eq!(
        (world.state(done).await, world.cause(done).await),
        (State::Terminated, Cause::Finished)
    );
    world.elapse(86_400).await;
    assert_eq!(world.state(silent).await, State::Running, "its worker may well be at work");
    let machine = world.instance(silent).await.machine.unwrap();
    world.site.vanish(&machine);
    world.elapse(20).await;
    assert_eq!(
        (world.state(silent).await, world.cause(silent).await),
        (State::Terminated, Cause::Vanished)
    );
    assert_eq!(world.site.calls(), 3, "none was replaced");
    world.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_become_ready_is_told_of_and_ended_at_once() {
    let mut world = World::new().await;
    let request = unpooled(&world);
    let id = world.launch(&request).await[0];
    world.elapse(1).await;
    world.claim(&request, 0, "nonce").await.unwrap();
    world.told();
    let fault = Fault::new("set-up-failed", "no disk");
    world.report(id, Happened::Failed { fault }).await.unwrap();
    world.elapse(3).await;
    assert_eq!(
        (world.state(id).await, world.fault_code(id).await.as_str()),
        (State::Terminated, "set-up-failed")
    );
    let states: Vec<State> = std::iter::from_fn(|| world.facts.next_now())
        .filter_map(|fact| match fact {
            Fact::Instances(told) => Some(told),
            Fact::Pools(_) | Fact::Listening(_) | Fact::Snapshot(_) => None,
        })
        .flat_map(|told| told.changed.iter().map(|instance| instance.state).collect::<Vec<_>>())
        .collect();
    let failed = states.iter().position(|state| *state == State::RunningFailed);
    let ended = states.iter().position(|state| *state == State::Terminating);
    assert!(failed.is_some() && failed < ended, "{states:?}");
}

#[tokio::test(start_paused = true)]
async fn it_has_no_epoch_and_a_teardown_drains_it() {
    let world = World::new().await;
    world.lead_pools("c1").await;
    world.elapse(2).await;
    let pooled = world.request(1);
    let refused = world.ask(CONTROLLER, Request::Launch(Box::new(pooled))).await.unwrap_err();
    assert_eq!(refused.code, "stale-epoch", "a service that decides for a pool leads it");
    let id = running(&world).await;
    let operator = Caller::Operator("ann".to_owned());
    let teardown = Request::Teardown(Teardown {
        force: false,
        within: None,
    });
    world.ask(operator.clone(), teardown).await.unwrap();
    let instance = world.instance(id).await;
    assert_eq!((instance.state, instance.drain.unwrap().why), (State::Running, Cause::Teardown));
    world.report(id, Happened::Drained { exit: exit(0) }).await.unwrap();
    world.elapse(3).await;
    assert_eq!(world.state(id).await, State::Terminated);
    world.ask(operator, Request::Open(Nothing {})).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn records_are_of_any_pool_or_of_none_and_of_the_ended_when_named() {
    let world = World::new().await;
    let (pooled, of_none, ended) = (world.running_one().await, running(&world).await, running(&world).await);
    world.report(ended, Happened::Exited { exit: exit(0) }).await.unwrap();
    world.elapse(900).await;
    let records = async |instances: Vec<InstanceId>| -> Result<Vec<InstanceId>, Fault> {
        let reader = Caller::Reader("eve".to_owned());
        let answer = world.ask(reader, Request::Records(Ids { instances, epoch: 0 })).await?;
        Ok(answer.read::<Vec<Instance>>()?.into_iter().map(|instance| instance.id).collect())
    };
    assert_eq!(records(Vec::new()).await.unwrap(), [pooled, of_none]);
    let stranger = world.request(1).instances[0].id;
    assert_eq!(records(vec![ended, stranger, pooled]).await.unwrap(), [ended, pooled]);
    let too_many = (0..1_001).map(|_| stranger).collect();
    assert_eq!(records(too_many).await.unwrap_err().code, "bad-request");
}
