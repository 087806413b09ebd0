//! What becomes of workers and agents that die or fall silent, each in its own way.

use epu_core::InstanceId;
use epu_core::State;
use epu_core::health::Health;
use epu_core::instance::Cause;
use epu_core::journal::Event;
use epu_tests::installation::Installation;
use rustix::process::Signal;

use crate::pools::{HEALTH, LIMITS, keeping};

/// What was believed of an instance's health, in order.
async fn health_of(installation: &Installation, id: InstanceId) -> Vec<Health> {
    let about = installation.events().await.into_iter().filter(|entry| entry.instance == Some(id));
    about
        .filter_map(|entry| match entry.event {
            Event::HealthChanged { to, .. } => Some(to),
            _ => None,
        })
        .collect()
}

/// Waits until nothing runs for an instance, and two others run.
async fn until_replaced(installation: &Installation, id: InstanceId) {
    installation.until_ended(id).await;
    let running = installation.until_running(2).await;
    assert!(running.iter().all(|view| view.instance.id != id));
    let left: Vec<String> = installation
        .processes()
        .into_iter()
        .filter(|proc| proc.variable("EPU_INSTANCE") == Some(id.to_string()))
        .map(|proc| proc.command_line())
        .collect();
    assert!(left.is_empty(), "processes of an ended instance: {left:?}");
    assert_eq!(installation.agents().len(), 2);
}

#[tokio::test]
async fn a_worker_that_is_killed_is_a_process_error_and_replaced() {
    let installation = Installation::serving(&keeping(2)).await;
    let id = installation.until_running(2).await[0].instance.id;
    installation.worker_of(id).unwrap().signal(Signal::KILL);
    until_replaced(&installation, id).await;

    let record = installation.instance(id).await.instance;
    assert_eq!(record.state, State::Terminated);
    assert_eq!(record.ending.unwrap().why, Cause::Unhealthy);
    assert_eq!(record.exit.unwrap().signal, Some(9));
    assert_eq!(record.fault.unwrap().code, "worker-failed");
    assert!(health_of(&installation, id).await.contains(&Health::ProcessError));
    let shown = installation.does(&["instance", "show", &id.to_string()]);
    assert!(shown.contains("worker-failed") && shown.contains("signal"), "{shown}");
}

#[tokio::test]
async fn a_whole_group_that_is_frozen_is_out_of_contact_then_missing_then_replaced() {
    let installation = Installation::serving(&keeping(2)).await;
    let id = installation.until_running(2).await[0].instance.id;
    let agent = installation.agent_of(id).unwrap();
    agent.signal_group(Signal::STOP);
    until_replaced(&installation, id).await;

    assert!(!agent.is_alive());
    let believed = health_of(&installation, id).await;
    let since_out: Vec<Health> = believed
        .into_iter()
        .skip_while(|health| *health != Health::OutOfContact)
        .take(2)
        .collect();
    assert_eq!(since_out, [Health::OutOfContact, Health::Missing]);
    assert_eq!(installation.instance(id).await.instance.ending.unwrap().why, Cause::Unhealthy);
}

/// A pause of the agent that is shorter than the pool allows is only noticed.
#[tokio::test]
async fn an_agent_that_comes_back_in_time_keeps_its_instance() {
    let installation = Installation::serving(&keeping(2).replace("really-missing: 1s", "really-missing: 30s")).await;
    let id = installation.until_running(2).await[0].instance.id;
    let agent = installation.agent_of(id).unwrap();
    agent.signal_group(Signal::STOP);
    installation
        .until("it is out of contact", async || match installation.instance(id).await.health {
            Health::OutOfContact => Ok(()),
            other => Err(other),
        })
        .await;
    agent.signal_group(Signal::CONT);
    let running = installation.until_running(2).await;
    assert!(
        running.iter().any(|view| view.instance.id == id && view.health == Health::Ok),
        "{running:?}"
    );
    assert_eq!(installation.ever().await.len(), 2);
}

#[tokio::test]
async fn an_agent_that_is_killed_alone_is_noticed_and_its_orphan_is_ended() {
    let installation = Installation::serving(&keeping(2)).await;
    let id = installation.until_running(2).await[0].instance.id;
    let worker = installation.worker_of(id).unwrap();
    installation.agent_of(id).unwrap().signal(Signal::KILL);
    until_replaced(&installation, id).await;
    assert!(!worker.is_alive(), "the orphan is gone");
}

#[tokio::test]
async fn a_worker_that_ends_well_has_finished_and_a_new_one_takes_its_place() {
    let config = format!(
        "templates:\n  once: {{run: [sh, -c, 'until [ -e \"$EPU_DIR/enough\" ]; do sleep 0.1; done'], heartbeat: 200ms, stop-grace: 1s}}\n\
         pools:\n  web: {{template: once, max: 10, engine: {{keep: {{n: 2}}}}, health: {HEALTH}, limits: {{{LIMITS}}}}}\n"
    );
    let installation = Installation::serving(&config).await;
    let id = installation.until_running(2).await[0].instance.id;
    std::fs::write(installation.home_of(id).join("run/enough"), "").unwrap();
    until_replaced(&installation, id).await;
    let record = installation.instance(id).await.instance;
    assert_eq!(record.ending.unwrap().why, Cause::Finished);
    assert!(record.exit.unwrap().is_success());
    assert!(!health_of(&installation, id).await.contains(&Health::ProcessError));
}

/// What a worker has started goes with it, whatever session and parent it has given itself.
#[tokio::test]
async fn what_a_worker_left_behind_is_ended_with_its_instance() {
    let config = keeping(2).replace(
        "[sleep, '1000']",
        "[sh, -c, 'setsid --fork sleep 2000; sleep 2000 & exec sleep 1000']",
    );
    let installation = Installation::serving(&config).await;
    let id = installation.until_running(2).await[0].instance.id;
    installation
        .until("three processes of two workers each", async || match installation.workers().len() {
            6 => Ok(()),
            other => Err(other),
        })
        .await;
    installation.does(&["instance", "kill", &id.to_string()]);
    until_replaced(&installation, id).await;
}
