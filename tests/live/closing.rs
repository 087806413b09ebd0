//! Teardown, by hand and by force, and who may ask for it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use epu_core::instance::Cause;
use epu_tests::installation::Installation;
use epu_tests::process::program;
use epu_tests::web;
use hyper::Method;

use crate::pools::keeping;

#[tokio::test]
async fn teardown_drains_everything_leaves_no_process_and_open_undoes_it() {
    let mut installation = Installation::serving(&keeping(3)).await;
    let before = installation.until_running(3).await;
    let said = installation.does(&["teardown", "--yes"]);
    assert!(said.contains("closed"), "{said}");
    assert!(installation.live().await.is_empty());
    assert!(installation.processes().is_empty(), "{:?}", installation.processes());
    for view in &before {
        let ending = installation.instance(view.instance.id).await.instance.ending.unwrap();
        assert_eq!((ending.why, ending.drained_for), (Cause::Drained, Some(Cause::Teardown)));
    }
    assert!(installation.does(&["status"]).contains("closed"));

    // It stays closed over a restart, and nothing is launched meanwhile.
    installation.stop().await;
    installation.start().await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(installation.status().await.unwrap().closed);
    assert!(installation.processes().is_empty());
    assert_eq!(installation.ever().await.len(), 3);

    installation.does(&["open"]);
    installation.until_running(3).await;
    assert_eq!(installation.ever().await.len(), 6);
}

#[tokio::test]
async fn a_forced_teardown_waits_for_nobody() {
    // A worker that hears nothing.
    let config = keeping(2).replace(
        "[sleep, '1000']",
        "[sh, -c, 'trap : TERM; echo busy >$EPU_DIR/status; while :; do sleep 0.2; done']",
    );
    let installation = Installation::serving(&config).await;
    let before = installation.until_running(2).await;
    installation.does(&["teardown", "--yes", "--no-wait"]);
    installation
        .until("they drain and go on with their work", async || {
            let draining = installation
                .live()
                .await
                .iter()
                .filter(|view| view.instance.drain.is_some())
                .count();
            if draining == 2 { Ok(()) } else { Err(draining) }
        })
        .await;
    let said = installation.run(&["teardown", "--yes", "--wait", "1s"]);
    assert_eq!(said.code, Some(7), "they are left over: {said:?}");

    installation.does(&["teardown", "--yes", "--force"]);
    assert!(installation.processes().is_empty(), "{:?}", installation.processes());
    for view in &before {
        let why = installation.instance(view.instance.id).await.instance.ending.unwrap().why;
        assert!(matches!(why, Cause::Teardown), "{why:?}");
    }
}

#[tokio::test]
async fn teardown_asks_first_and_takes_no_answer_from_a_pipe() {
    let installation = Installation::serving(&keeping(1)).await;
    installation.until_running(1).await;
    let mut command = Command::new(program().unwrap());
    command
        .args(["teardown"])
        .env("EPU_URL", installation.url(""))
        .current_dir(installation.path("."));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"yes\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--yes"), "{output:?}");
    assert!(!installation.status().await.unwrap().closed);
    assert_eq!(installation.until_running(1).await.len(), 1);
}

#[tokio::test]
async fn who_has_no_token_or_a_wrong_one_changes_nothing() {
    let installation = Installation::serving(&keeping(1)).await;
    let id = installation.until_running(1).await[0].instance.id.to_string();
    for secret in ["operator.token", "installation.key"] {
        let mode = fs::metadata(installation.data().join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let home = fs::metadata(installation.data()).unwrap().permissions().mode();
    assert_eq!(home & 0o077, 0, "others may not enter the data directory");

    for arguments in [
        &["teardown", "--yes"][..],
        &["instance", "kill", &id],
        &["pool", "remove", "web"],
        &["status"],
    ] {
        let said = installation.run_with(arguments, |command| {
            command.env("EPU_TOKEN", "0000000000000000000000000000000000000000000000000000000000000000");
        });
        assert_eq!(said.code, Some(4), "{arguments:?}: {said:?}");
        let said = installation.run_with(arguments, |command| {
            command.env("EPU_TOKEN_FILE", "/nonexistent/token");
        });
        assert_eq!(said.code, Some(4), "{arguments:?}: {said:?}");
        assert!(said.err.contains("--token-file"), "{said:?}");
    }
    for authorization in [
        None,
        Some("Bearer "),
        Some("Basic b3BlcmF0b3I6"),
        Some("Bearer l.x.y.z"),
        Some("Bearer i.x.y"),
    ] {
        let body = r#"{"op":"teardown","args":{"force":true}}"#.to_owned();
        let page = web::ask(Method::POST, &installation.url("/v1/ask"), authorization, body)
            .await
            .unwrap();
        assert_eq!(page.status, 401, "{authorization:?}: {page:?}");
    }
    assert!(!installation.status().await.unwrap().closed);
    assert_eq!(installation.until_running(1).await[0].instance.id.to_string(), id);
}
