//! A store that cannot be used: held by another, read-only, damaged, full. It is said, nothing is half done, and workers go on.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use epu_tests::installation::Installation;
use epu_tests::web;
use rustix::process::Signal;

use crate::pools::keeping;

/// Root may write whatever the mode says; without these capabilities it may not. Nothing is needed for anybody else.
fn bound_by_modes() -> Vec<&'static str> {
    if rustix::process::geteuid().is_root() {
        return vec!["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"];
    }
    Vec::new()
}

#[tokio::test]
async fn a_second_serve_on_the_same_data_is_refused_and_named_the_holder() {
    let mut installation = Installation::serving(&keeping(1)).await;
    let running = installation.until_running(1).await;
    let holder = installation.control().process.pid();
    let said = installation.refuses_to_serve().await;
    assert_eq!(said.code, Some(6), "{said:?}");
    assert!(said.err.contains(&holder.to_string()) && said.err.contains("data"), "{said:?}");
    assert_eq!(installation.until_running(1).await[0].instance.id, running[0].instance.id);
    assert_eq!(installation.agents().len(), 1);

    // kill -9 frees it.
    installation.kill9();
    installation.start().await;
}

#[tokio::test]
async fn a_read_only_store_is_refused_with_its_path_and_served_again_once_it_is_writable() {
    let mut installation = Installation::serving(&keeping(1)).await;
    let id = installation.until_running(1).await[0].instance.id;
    installation.stop().await;
    let (data, database) = (installation.data(), installation.data().join("epu.db"));
    let mode = |path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(&database, 0o400);
    mode(&data, 0o500);
    let said = installation.refuses_to_serve_through(&bound_by_modes()).await;
    mode(&data, 0o700);
    mode(&database, 0o600);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.err.contains("store-failed") && said.err.contains(data.to_str().unwrap()),
        "{said:?}"
    );
    assert!(said.err.contains("what to do"), "{said:?}");

    installation.start().await;
    assert_eq!(installation.until_running(1).await[0].instance.id, id);
}

#[tokio::test]
async fn a_damaged_store_is_refused_and_never_overwritten() {
    let mut installation = Installation::serving(&keeping(1)).await;
    let id = installation.until_running(1).await[0].instance.id;
    installation.stop().await;
    let database = installation.data().join("epu.db");
    let good = fs::read(&database).unwrap();
    let logs = ["epu.db-wal", "epu.db-shm"].map(|name| installation.data().join(name));
    let logged = logs.each_ref().map(|log| fs::read(log).ok());
    for log in &logs {
        fs::remove_file(log).ok();
    }
    let damaged = b"this is no database, whatever it is called".repeat(1_000);
    fs::write(&database, &damaged).unwrap();

    let said = installation.refuses_to_serve().await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("epu.db") && said.err.contains("not a database"), "{said:?}");
    assert_eq!(fs::read(&database).unwrap(), damaged, "it is left for whoever repairs it");
    assert_eq!(installation.agents().len(), 1, "the worker goes on");

    fs::write(&database, good).unwrap();
    for (log, content) in logs.iter().zip(logged) {
        match content {
            Some(content) => fs::write(log, content).unwrap(),
            None => drop(fs::remove_file(log)),
        }
    }
    installation.start().await;
    assert_eq!(installation.until_running(1).await[0].instance.id, id);
}

/// Sets how large a file of the control process may become, as a disk would that has no room for more.
fn limit_files(installation: &mut Installation, bytes: &str) {
    let pid = installation.control().process.pid().to_string();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")])
        .status()
        .unwrap();
    assert!(limited.success());
}

#[tokio::test]
async fn a_store_without_room_is_shown_and_nothing_is_half_done_and_all_goes_on_once_there_is_room() {
    let mut installation = Installation::new(&keeping(2));
    // Too large a file is an error to the program rather than its end.
    let ignoring = ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"];
    installation.start_through(&ignoring, |_| {}).await;
    let before = installation.until_running(2).await;
    let revision = installation.pool("web").await.unwrap().pool.revision;

    limit_files(&mut installation, "4096");
    let said = installation.run(&["pool", "pause", "web"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("store-failed"), "{said:?}");
    let shown = installation.pool("web").await.unwrap().pool;
    assert!(
        !shown.paused.any() && shown.revision == revision,
        "nothing of it was done: {shown:?}"
    );
    installation
        .until("it says that it is not ready, and why", async || {
            let page = web::get(&installation.url("/readyz"), None).await?;
            if page.status == 503 && page.body.contains("store-failed") {
                return Ok(());
            }
            Err(epu_tests::Trouble::new("readyz", format!("{page:?}")))
        })
        .await;
    assert_eq!(web::get(&installation.url("/healthz"), None).await.unwrap().status, 200, "it lives");

    // A worker dies meanwhile. What cannot be recorded is not done: nobody is launched.
    let dead = before[0].instance.id;
    installation.worker_of(dead).unwrap().signal(Signal::KILL);
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(installation.agents().len() <= 2);
    assert!(installation.worker_of(before[1].instance.id).unwrap().is_alive());

    limit_files(&mut installation, "unlimited");
    installation.until_ended(dead).await;
    let after = installation.until_running(2).await;
    assert!(after.iter().any(|view| view.instance.id == before[1].instance.id));
    assert_eq!(installation.agents().len(), 2);
    assert_eq!(installation.ever().await.len(), 3, "one replacement");
    installation
        .until("it is ready again", async || {
            match web::get(&installation.url("/readyz"), None).await?.status {
                200 => Ok(()),
                status => Err(epu_tests::Trouble::new("readyz", status)),
            }
        })
        .await;
    installation.does(&["pool", "pause", "web"]);
}
