//! A pool that follows a queue of a real broker, and what it does when the broker, the queue or the password is not there: each is
//! shown as what it is, nobody is let go, and it goes on by itself.

use std::fs;

use epu_core::reading::Status;
use epu_core::request::ReadingView;
use epu_tests::installation::Installation;
use epu_tests::rabbit::{PASSWORD, Rabbit, USER};
use epu_tests::wait;
use std::time::Duration;

use crate::pools::{HEALTH, LIMITS};

/// A broker that was away is tried again after fifteen seconds at the latest, and starts in about ten.
const RECOVERED: Duration = Duration::from_secs(90);

/// A pool that follows the queue `queue` of the broker at `url`.
fn following(url: &str, queue: &str) -> String {
    format!(
        "templates:\n  sleeper: {{run: [sleep, '1000'], heartbeat: 200ms, stop-grace: 1s}}\n\
         pools:\n  web:\n    template: sleeper\n    min: 1\n    max: 4\n\
         \x20   engine: {{queue-length: {{sensor: jobs, high-water: 4, low-water: 2, step: 3}}}}\n\
         \x20   sensors: {{jobs: {{rabbitmq: {{url: {url}, queue: {queue}}}, every: 300ms, stale-after: 3s, missing-after: 8s}}}}\n\
         \x20   health: {HEALTH}\n    limits: {{{LIMITS}}}\n"
    )
}

async fn reading(installation: &Installation) -> Option<ReadingView> {
    installation.pool("web").await.ok()?.readings.into_values().next()
}

/// Waits until the reading is what is asked for, and its fault, if one is to be there.
async fn until_reading(installation: &Installation, what: &str, fault: Option<&str>) -> ReadingView {
    let look = async || {
        let Some(seen) = reading(installation).await else {
            return Err("no reading".to_owned());
        };
        let code = seen.reading.fault.as_ref().map(|fault| fault.code.to_string());
        if seen.status.word() == what && code.as_deref() == fault {
            return Ok(seen);
        }
        Err(format!("{} {code:?}", seen.status.word()))
    };
    let found = wait::until(RECOVERED, &format!("the reading is {what}, {fault:?}"), look).await;
    found.unwrap_or_else(|trouble| panic!("{trouble}\n{}", installation.log()))
}

/// Through stale and missing, with this fault, shown to people in these words, and nobody goes meanwhile.
async fn nobody_goes_while(installation: &Installation, fault: &str, words: &str, workers: usize) {
    let before = installation.processes();
    until_reading(installation, "stale", Some(fault)).await;
    let shown = installation.does(&["pool", "show", "web"]);
    assert!(shown.contains("stale") && shown.contains(words), "{shown}");
    let seen = until_reading(installation, "missing", Some(fault)).await;
    assert!(!matches!(seen.status, Status::Fresh { .. }), "it is never read as a number");
    let shown = installation.does(&["pool", "show", "web"]);
    assert!(shown.contains("missing") && shown.contains(words), "{shown}");
    let status = installation.does(&["status"]);
    assert!(status.contains("jobs") && status.contains(words), "{status}");
    let running = installation.until_running(workers).await;
    assert_eq!(running.len(), workers);
    assert_eq!(installation.processes(), before, "the very same processes");
}

#[tokio::test]
async fn a_pool_follows_a_queue_and_keeps_its_size_while_broker_or_queue_are_away() {
    let mut rabbit = Rabbit::start().await.unwrap();
    rabbit.declare("jobs").await.unwrap();
    let mut installation = Installation::new(&following("env:BROKER_URL", "jobs"));
    let url = rabbit.url();
    installation
        .start_through(&[], |command| {
            command.env("BROKER_URL", url);
        })
        .await;
    installation.until_running(1).await;
    until_reading(&installation, "fresh", None).await;

    // It grows with the queue and shrinks with it; jobs that are held by workers do not wait.
    rabbit.publish("jobs", 20).await.unwrap();
    installation.until_running(4).await;
    let held = rabbit.take("jobs", 20).await.unwrap();
    installation.until_running(1).await;
    held.give_back().await.unwrap();
    installation.until_running(4).await;

    // The broker dies, and comes back with its queue.
    rabbit.kill9();
    nobody_goes_while(&installation, "broker-unreachable", "is it running", 4).await;
    rabbit.restart().await.unwrap();
    let seen = until_reading(&installation, "fresh", None).await;
    assert_eq!(seen.reading.value, Some(20.0), "the first value is the right one");
    installation.until_running(4).await;

    // The queue is deleted, and declared again: only an empty queue is zero.
    rabbit.delete("jobs").await.unwrap();
    nobody_goes_while(&installation, "queue-missing", "no such queue", 4).await;
    rabbit.declare("jobs").await.unwrap();
    let seen = until_reading(&installation, "fresh", None).await;
    assert_eq!(seen.reading.value, Some(0.0));
    installation.until_running(1).await;
    let changes = installation
        .events()
        .await
        .into_iter()
        .filter(|entry| entry.event.kind() == "sensor-changed");
    assert!(changes.count() >= 4, "the journal tells of it");
}

#[tokio::test]
async fn a_wrong_password_is_shown_as_that_and_mended_in_its_file_while_running() {
    let rabbit = Rabbit::shared().await.unwrap();
    rabbit.declare("guarded").await.unwrap();
    rabbit.publish("guarded", 9).await.unwrap();
    let installation = Installation::new("");
    let file = installation.path("broker-url");
    fs::write(&file, rabbit.url_as(USER, "no-such-password")).unwrap();
    installation.configure(&following(&format!("'file:{}'", file.display()), "guarded"));
    let mut installation = installation;
    installation.start().await;
    installation.until_running(1).await;
    until_reading(&installation, "missing", Some("broker-refused")).await;
    for shown in [installation.does(&["pool", "show", "web"]), installation.does(&["status"])] {
        assert!(shown.contains("does not take the user or the password"), "{shown}");
        assert!(!shown.contains("no-such-password"), "the password is shown: {shown}");
    }
    assert!(!installation.log().contains("no-such-password"), "the password is logged");
    assert_eq!(installation.live().await.len(), 1);

    fs::write(&file, rabbit.url_as(USER, PASSWORD)).unwrap();
    until_reading(&installation, "fresh", None).await;
    installation.until_running(4).await;
}
