//! The program itself, over a real door: an `epu-agent` process against the bus's HTTP server.

#![expect(clippy::unwrap_used, reason = "tests")]

mod services;

use std::fs;
use std::process::Command;

use epu_core::Timestamp;
use epu_core::instance::{Cause, Drain, Work};
use epu_core::request::Happened;

use services::{Services, WORKER, exit_of, signal, term};

#[tokio::test]
async fn an_agent_claims_sets_up_runs_drains_and_ends() {
    let services = Services::start("echo setting up", WORKER).await;
    let agent = services.agent();
    services
        .until("idle", |seen| seen.beats.iter().any(|beat| beat.work == Work::Idle))
        .await;
    assert!(matches!(services.happened()[..], [Happened::Ready { .. }]));
    fs::write(services.home.path().join("run/status"), "busy").unwrap();
    services
        .until("busy", |seen| seen.beats.last().is_some_and(|beat| beat.work == Work::Busy))
        .await;
    services.seen.lock().unwrap().orders.drain = Some(Drain {
        since: Timestamp(1),
        deadline: Timestamp(2),
        why: Cause::ScaleIn,
    });
    assert_eq!(exit_of(agent).await.code(), Some(0), "{}", services.log());
    let happened = services.happened();
    let Some(Happened::Drained { exit }) = happened.last() else {
        panic!("{happened:?}");
    };
    assert_eq!((exit.code, exit.output.as_str()), (Some(0), "draining"));
    let kept = fs::read_to_string(services.home.path().join("exit.json")).unwrap();
    assert_eq!(&serde_json::from_str::<epu_core::instance::Exit>(&kept).unwrap(), exit);
    assert_eq!(
        fs::read_to_string(services.home.path().join("worker.log")).unwrap(),
        "setting up\ndraining\n"
    );
}

#[tokio::test]
async fn kill_nine_of_an_agent_and_its_restart_lose_nothing_and_double_nothing() {
    let services = Services::start("echo x >> set-ups", &format!("echo x >> starts; {WORKER}")).await;
    let mut first = services.agent();
    services.until("heard", |seen| !seen.beats.is_empty()).await;

    let beside = services.agent();
    assert_eq!(exit_of(beside).await.code(), Some(3));
    assert!(services.log().contains(&format!("another agent (process {}) runs in", first.id())));

    first.kill().unwrap();
    first.wait().unwrap();
    let heard = services.seen.lock().unwrap().beats.len();
    let second = services.agent();
    services.until("heard again", |seen| seen.beats.len() > heard + 2).await;
    signal(&second, rustix::process::Signal::HUP);
    term(&second);
    assert_eq!(exit_of(second).await.code(), Some(0), "{}", services.log());
    for once in ["set-ups", "starts"] {
        assert_eq!(fs::read_to_string(services.home.path().join(once)).unwrap(), "x\n", "{once}");
    }
    assert_eq!(services.seen.lock().unwrap().claims.len(), 1);
}

#[tokio::test]
async fn a_failed_set_up_is_reported_and_stop_is_obeyed() {
    let services = Services::start("echo no such package; exit 100", "true").await;
    let agent = services.agent();
    services.until("failed", |seen| !seen.happened.is_empty()).await;
    let happened = services.happened();
    let Happened::Failed { fault } = &happened[0] else {
        panic!("{happened:?}");
    };
    assert_eq!(fault.code, "set-up-failed");
    assert!(
        fault.text.contains("code 100") && fault.text.ends_with("no such package"),
        "{}",
        fault.text
    );
    services.seen.lock().unwrap().orders.stop = true;
    assert_eq!(exit_of(agent).await.code(), Some(0));
}

#[tokio::test]
async fn term_to_the_agent_ends_a_stubborn_worker_after_the_grace() {
    let services = Services::start(
        "true",
        "trap '' TERM; echo $$ > pid; echo idle > $EPU_DIR/status; for i in $(seq 999); do sleep 0.02; done",
    )
    .await;
    let agent = services.agent();
    services
        .until("idle", |seen| seen.beats.iter().any(|beat| beat.work == Work::Idle))
        .await;
    let pid = fs::read_to_string(services.home.path().join("pid")).unwrap().trim().to_owned();
    term(&agent);
    assert_eq!(exit_of(agent).await.code(), Some(0));
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "the worker outlived its agent");
}

#[tokio::test]
async fn a_second_claimant_is_refused_for_good() {
    let services = Services::start("true", "true").await;
    services.seen.lock().unwrap().claims.push("somebody else's".to_owned());
    assert_eq!(exit_of(services.agent()).await.code(), Some(4), "{}", services.log());
}

#[test]
fn missing_settings_are_all_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_epu-agent")).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    for name in ["EPU_HOME", "EPU_URL", "EPU_LAUNCH", "EPU_INDEX"] {
        assert!(said.contains(name), "{said}");
    }
}
