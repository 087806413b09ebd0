//! Workers that cannot be started: each says why, launching pauses instead of spinning, and goes on once the fault is mended.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use epu_core::State;
use epu_core::journal::Event;
use epu_core::request::InstanceView;
use epu_tests::installation::{Installation, brief, quoted};
use epu_tests::wait::always;
use rustix::process::Signal;

use crate::pools::HEALTH;

/// A pool of two whose template is `template`.
fn pool_of(template: &str) -> String {
    format!(
        "templates:\n  worker: {{{template}, heartbeat: 200ms, stop-grace: 1s}}\n\
         pools:\n  web:\n    template: worker\n    max: 4\n    engine: {{keep: {{n: 2}}}}\n    health: {HEALTH}\n\
         \x20   limits: {{replace-at-once: 10, replace-window: 1s, storm-at-least: 10, launch-failures: 3, launch-backoff: 4s}}\n"
    )
}

fn write_worker(path: &Path, mode: u32) {
    fs::write(path, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Waits until the launch breaker is open, and gives instances that came to nothing.
async fn until_launching_pauses(installation: &Installation) -> Vec<InstanceView> {
    installation
        .until("the launch breaker is open", async || {
            match installation
                .metric("epu_controller_breaker_open{breaker=\"launch\",pool=\"web\"}")
                .await
            {
                open if open > 0.0 => Ok(()),
                _ => Err(installation.ever().await.iter().map(brief).collect::<Vec<_>>().join(", ")),
            }
        })
        .await;
    let shown = installation.does(&["pool", "show", "web"]);
    assert!(shown.contains("launch-breaker") && shown.contains("pauses until"), "{shown}");
    let status = installation.does(&["status"]);
    assert!(status.contains("trouble"), "{status}");
    let ever = installation.ever().await;
    ever.into_iter()
        .filter(|view| view.instance.fault.is_some() && view.instance.ready_at.is_none())
        .collect()
}

/// Workers that cannot be run: the program goes missing, or may not be executed. The config was right when it was read.
async fn a_broken_program_is_reported(break_it: impl Fn(&Path), reason: &str) {
    let mut installation = Installation::new("");
    let program = installation.path("worker.sh");
    write_worker(&program, 0o755);
    installation.configure(&pool_of(&format!("run: [{}]", quoted(&program))));
    installation.start().await;
    let running = installation.until_running(2).await;

    break_it(&program);
    for view in &running {
        installation.worker_of(view.instance.id).unwrap().signal(Signal::KILL);
    }
    let failed = until_launching_pauses(&installation).await;
    let first = &failed.first().expect("some failed").instance;
    assert_eq!(first.fault.as_ref().unwrap().code, "worker-failed");
    let shown = installation.does(&["instance", "show", &first.id.to_string()]);
    assert!(shown.contains(reason) && shown.contains("worker.sh"), "{shown}");
    let went_there = installation.events().await.into_iter().any(|entry| {
        entry.instance == Some(first.id)
            && matches!(
                entry.event,
                Event::Moved {
                    to: State::RunningFailed,
                    ..
                }
            )
    });
    assert!(went_there, "it was RUNNING_FAILED");

    // Three that open the breaker, one more that was on its way, and one probe each time the pause is over: at 4 s and 12 s.
    let before = installation.ever().await.len();
    always(Duration::from_secs(8), "it does not spin", async || {
        installation.ever().await.len() <= before + 3
    })
    .await;

    fs::remove_file(&program).ok();
    write_worker(&program, 0o755);
    installation.until_running(2).await;
    let closed = installation
        .metric("epu_controller_breaker_open{breaker=\"launch\",pool=\"web\"}")
        .await;
    assert!(closed < 0.5, "the breaker is closed again");
}

#[tokio::test]
async fn a_worker_program_that_is_missing_is_reported_and_not_launched_in_a_spin() {
    a_broken_program_is_reported(|program| fs::remove_file(program).unwrap(), "does not exist").await;
}

#[tokio::test]
async fn a_worker_program_that_may_not_be_executed_is_reported_and_not_launched_in_a_spin() {
    let forbid = |program: &Path| fs::set_permissions(program, Permissions::from_mode(0o644)).unwrap();
    a_broken_program_is_reported(forbid, "is not executable").await;
}

#[tokio::test]
async fn a_failing_set_up_shows_its_output_and_a_mended_file_is_taken_over_by_sighup() {
    let broken = pool_of("run: [sleep, '1000'], set-up: [sh, -c, 'echo the disk is missing; exit 3']");
    let mut installation = Installation::serving(&broken).await;
    let failed = until_launching_pauses(&installation).await;
    let fault = failed.first().and_then(|view| view.instance.fault.clone()).unwrap();
    assert_eq!(fault.code, "set-up-failed");
    assert!(
        fault.text.contains("code 3") && fault.text.contains("the disk is missing"),
        "{fault}"
    );
    let id = failed[0].instance.id.to_string();
    let shown = installation.does(&["instance", "show", &id]);
    assert!(shown.contains("the disk is missing"), "{shown}");
    assert!(installation.does(&["instance", "logs", &id]).contains("the disk is missing"));

    installation.configure(&pool_of("run: [sleep, '1000'], set-up: [sh, -c, 'echo the disk is there']"));
    installation.control().process.signal(Signal::HUP);
    let running = installation.until_running(2).await;
    let output = installation.does(&["instance", "logs", &running[0].instance.id.to_string()]);
    assert!(output.contains("the disk is there"), "{output}");
}

#[tokio::test]
async fn a_set_up_that_never_ends_is_given_up_in_time() {
    let config = pool_of("run: [sleep, '1000'], set-up: [sh, -c, 'echo waiting for the network; sleep 1000'], ready-within: 2s");
    let installation = Installation::serving(&config).await;
    let failed = until_launching_pauses(&installation).await;
    assert!(!failed.is_empty(), "{:?}", installation.ever().await);
    installation.does(&["pool", "pause", "web"]);
    for view in &failed {
        installation.until_ended(view.instance.id).await;
    }
    installation
        .until("no set-up program is left running", async || {
            match installation.live().await.len() {
                0 if installation.processes().is_empty() => Ok(()),
                live => Err(format!("{live} live, {:?}", installation.processes())),
            }
        })
        .await;
}

/// Waits until launching pauses, sees that nothing spins, gives the pool a template that works, and waits until it has recovered.
async fn a_crash_loop_is_held_up(worker: &str) -> Vec<InstanceView> {
    let mut installation = Installation::serving("pools: {}\n").await;
    let file = installation.path("web.yaml");
    fs::write(&file, pool_of(worker)).unwrap();
    installation.does(&["pool", "add", "--file", file.to_str().unwrap()]);
    installation
        .until("launching pauses", async || {
            let open = installation
                .metric("epu_controller_breaker_open{breaker=\"launch\",pool=\"web\"}")
                .await;
            if open > 0.0 { Ok(()) } else { Err(open) }
        })
        .await;
    let before = installation.ever().await.len();
    always(Duration::from_secs(6), "it does not spin", async || {
        installation.ever().await.len() <= before + 4
    })
    .await;
    let failed = installation.ever().await;

    // An operator's pool takes its template from what the service knows by then; a reload brings one that works.
    installation.configure("templates: {good: {run: [sleep, '1000'], heartbeat: 200ms, stop-grace: 1s}}\npools: {}\n");
    installation.control().process.signal(Signal::HUP);
    installation
        .until("the new template is known", async || {
            let said = installation.run(&["pool", "reconfigure", "web", "template=good"]);
            if said.code == Some(0) { Ok(()) } else { Err(said.err) }
        })
        .await;
    installation.until_running(2).await;
    failed
}

#[tokio::test]
async fn a_worker_that_ends_at_once_was_never_running_and_is_not_launched_in_a_spin() {
    let ever = a_crash_loop_is_held_up("run: [sh, -c, 'echo out of order; exit 7']").await;
    let fault = ever.iter().find_map(|view| view.instance.fault.clone()).unwrap();
    assert_eq!(fault.code, "worker-failed");
    assert!(fault.text.contains("code 7") && fault.text.contains("out of order"), "{fault}");
    assert!(ever.iter().all(|view| view.instance.ready_at.is_none()));
}

#[tokio::test]
async fn a_worker_that_ends_soon_shows_how_and_is_not_launched_in_a_spin() {
    let ever = a_crash_loop_is_held_up("run: [sh, -c, 'sleep 2; echo out of order; exit 7']").await;
    let exit = ever.iter().find_map(|view| view.instance.exit.clone()).unwrap();
    assert_eq!((exit.code, exit.output.trim()), (Some(7), "out of order"));
    assert!(ever.iter().any(|view| view.instance.ready_at.is_some()));
}
