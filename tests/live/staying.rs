//! A pool stays as it is whatever happens to its control process: killed, stopped, frozen, or killed while it launches.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use epu_core::InstanceId;
use epu_core::health::Health;
use epu_core::instance::Cause;
use epu_core::journal::Event;
use epu_tests::installation::Installation;
use epu_tests::processes::Proc;
use epu_tests::wait::always;
use rustix::process::Signal;

use crate::pools::keeping;

/// Each running instance with the process of its worker.
async fn workers(installation: &Installation, count: usize) -> BTreeMap<InstanceId, Proc> {
    let running = installation.until_running(count).await;
    let of = |id| installation.worker_of(id).unwrap_or_else(|| panic!("{id} has no worker"));
    running.iter().map(|view| (view.instance.id, of(view.instance.id))).collect()
}

/// How many instances were ever asked for.
async fn launched(installation: &Installation) -> u32 {
    let counted = installation.events().await.into_iter().filter_map(|entry| match entry.event {
        Event::LaunchRecorded { instances, .. } => Some(instances),
        _ => None,
    });
    counted.sum()
}

#[tokio::test]
async fn a_pool_lives_through_kill_9_of_its_control_process() {
    let mut installation = Installation::serving(&keeping(3)).await;
    let before = workers(&installation, 3).await;
    let name = installation.status().await.unwrap().installation;

    installation.kill9();
    always(Duration::from_secs(1), "its workers work on", async || {
        before.values().all(|worker| worker.is_alive())
    })
    .await;

    installation.start().await;
    assert_eq!(
        workers(&installation, 3).await,
        before,
        "the same instances with the same processes"
    );
    assert_eq!(installation.status().await.unwrap().installation, name);
    // Long enough for the site to be listed, and for second thoughts.
    always(Duration::from_secs(3), "none is doubled, none goes", async || {
        installation.agents().len() == 3 && before.values().all(|worker| worker.is_alive())
    })
    .await;
    assert_eq!(launched(&installation).await, 3, "nothing was launched besides the first three");
}

#[tokio::test]
async fn sigterm_stops_it_in_seconds_and_what_died_meanwhile_is_replaced_after_the_restart() {
    let mut installation = Installation::serving(&keeping(3)).await;
    let before = workers(&installation, 3).await;

    #[expect(clippy::disallowed_methods, reason = "a real process is timed")]
    let asked = Instant::now();
    installation.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
    assert!(before.values().all(|worker| worker.is_alive()), "workers go on");
    let said = installation.run(&["status"]);
    assert_eq!(said.code, Some(3), "nobody answers: {said:?}");

    // One worker dies, another takes its agent along, while nobody looks.
    let mut each = before.iter();
    let (Some((failed, worker)), Some((vanished, _)), Some((kept, still))) = (each.next(), each.next(), each.next()) else {
        panic!("three were started");
    };
    worker.signal(Signal::KILL);
    installation.agent_of(*vanished).unwrap().signal_group(Signal::KILL);

    installation.start().await;
    installation.until_ended(*failed).await;
    installation.until_ended(*vanished).await;
    let after = workers(&installation, 3).await;
    assert_eq!(after.get(kept), Some(still), "the one that was well is not touched");
    assert_eq!(installation.agents().len(), 3);
    let why = |id: InstanceId| {
        let installation = &installation;
        async move { installation.instance(id).await.instance.ending.map(|ending| ending.why) }
    };
    assert_eq!(why(*failed).await, Some(Cause::Unhealthy));
    assert_eq!(why(*vanished).await, Some(Cause::Vanished));
}

#[tokio::test]
async fn killed_while_it_launches_it_neither_loses_nor_doubles_an_instance() {
    let mut installation = Installation::new(&keeping(6));
    for after in [0, 30, 150] {
        installation.start().await;
        tokio::time::sleep(Duration::from_millis(after)).await;
        installation.kill9();
    }
    installation.start().await;
    let running = workers(&installation, 6).await;
    always(Duration::from_secs(3), "one agent and one worker each", async || {
        installation.agents().len() == 6 && running.values().all(|worker| worker.is_alive())
    })
    .await;
    let mut homes: Vec<String> = installation
        .agents()
        .iter()
        .filter_map(|agent| agent.variable("EPU_HOME"))
        .collect();
    homes.dedup();
    assert_eq!(homes.len(), 6, "each in its own directory: {homes:?}");
}

/// Its own silence condemns nobody: while it was frozen it could not hear.
#[tokio::test]
async fn a_control_process_that_was_frozen_for_long_condemns_nobody() {
    let mut installation = Installation::serving(&keeping(2)).await;
    let before = workers(&installation, 2).await;
    installation.control().process.signal(Signal::STOP);
    // Longer than the pool's `missing` and `really-missing` together.
    tokio::time::sleep(Duration::from_secs(7)).await;
    installation.control().process.signal(Signal::CONT);
    assert_eq!(workers(&installation, 2).await, before);
    always(Duration::from_secs(3), "nobody is replaced", async || {
        before.values().all(|worker| worker.is_alive())
    })
    .await;
    let condemned = installation
        .events()
        .await
        .into_iter()
        .any(|entry| matches!(entry.event, Event::HealthChanged { to: Health::Missing, .. }));
    assert!(!condemned, "nobody was missing");
}
