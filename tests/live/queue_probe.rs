//! The queue sensor's source against a real broker: each thing that can be wrong is shown as what it is, recovered from, and never
//! read as zero.

use std::sync::Arc;
use std::time::Duration;

use epu_bus::amqp::QueueProbe;
use epu_core::Fault;
use epu_core::secret::SecretUrl;
use epu_core::time::SystemClock;
use epu_tests::rabbit::{PASSWORD, Rabbit, USER};
use epu_tests::wait::{eventually, until};

const SOON: Duration = Duration::from_secs(30);
/// A broker that was away is tried again after fifteen seconds at the latest.
const RECOVERED: Duration = Duration::from_secs(60);

fn probe_as(rabbit: &Rabbit, user: &str, password: &str) -> QueueProbe {
    probe_at(rabbit, SecretUrl::new(rabbit.url_as(user, password)))
}

fn probe_at(rabbit: &Rabbit, url: SecretUrl) -> QueueProbe {
    QueueProbe::new(url, Some(SecretUrl::new(rabbit.management_url())), Arc::new(SystemClock::start()))
}

fn code(answer: Result<u64, Fault>) -> String {
    match answer {
        Ok(count) => format!("{count} messages"),
        Err(fault) => fault.code.into_owned(),
    }
}

#[tokio::test]
async fn waiting_jobs_are_counted_by_the_queue_and_held_ones_too_by_management() {
    let rabbit = Rabbit::shared().await.unwrap();
    let mut probe = probe_as(&rabbit, USER, PASSWORD);
    rabbit.declare("counted").await.unwrap();
    assert_eq!(probe.ready("counted").await, Ok(0), "an empty queue is the one thing that is zero");
    rabbit.publish("counted", 5).await.unwrap();
    assert_eq!(probe.ready("counted").await, Ok(5));

    let held = rabbit.take("counted", 2).await.unwrap();
    assert_eq!(probe.ready("counted").await, Ok(3));
    let both = until(SOON, "management counts five", async || match probe.with_unacked("counted").await {
        Ok(5) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    both.await.unwrap();
    held.give_back().await.unwrap();
    eventually(SOON, "the held ones wait again", async || probe.ready("counted").await == Ok(5)).await;
}

#[tokio::test]
async fn a_queue_that_is_missing_or_deleted_is_said_to_be_and_found_again_when_it_is_back() {
    let rabbit = Rabbit::shared().await.unwrap();
    let mut probe = probe_as(&rabbit, USER, PASSWORD);
    assert_eq!(code(probe.ready("comes-and-goes").await), "queue-missing");
    rabbit.declare("comes-and-goes").await.unwrap();
    rabbit.publish("comes-and-goes", 2).await.unwrap();
    assert_eq!(probe.ready("comes-and-goes").await, Ok(2));

    rabbit.delete("comes-and-goes").await.unwrap();
    for _ in 0..3 {
        assert_eq!(code(probe.ready("comes-and-goes").await), "queue-missing");
    }
    eventually(SOON, "management misses it, too", async || {
        code(probe.with_unacked("comes-and-goes").await) == "queue-missing"
    })
    .await;

    rabbit.declare("comes-and-goes").await.unwrap();
    rabbit.publish("comes-and-goes", 1).await.unwrap();
    assert_eq!(probe.ready("comes-and-goes").await, Ok(1));
}

#[tokio::test]
async fn a_wrong_password_is_said_to_be_and_a_corrected_one_is_used_without_a_restart() {
    let rabbit = Rabbit::shared().await.unwrap();
    rabbit.declare("locked").await.unwrap();
    rabbit.publish("locked", 4).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker-url");
    std::fs::write(&file, rabbit.url_as(USER, "wrong")).unwrap();
    let mut probe = probe_at(&rabbit, SecretUrl::new(format!("file:{}", file.display())));

    let refused = probe.ready("locked").await.unwrap_err();
    assert_eq!(refused.code, "broker-refused");
    assert!(!refused.text.contains("wrong"), "a password is shown: {refused}");
    assert_eq!(code(probe.with_unacked("locked").await), "management-refused");

    std::fs::write(&file, rabbit.url()).unwrap();
    let found = until(RECOVERED, "the new password is used", async || probe.ready("locked").await);
    assert_eq!(found.await.unwrap(), 4);
    let found = until(SOON, "by management, too", async || probe.with_unacked("locked").await);
    assert_eq!(found.await.unwrap(), 4);
}

#[tokio::test]
async fn a_broker_that_is_killed_is_unreachable_and_counted_rightly_once_it_is_back() {
    let mut rabbit = Rabbit::start().await.unwrap();
    let mut probe = probe_as(&rabbit, USER, PASSWORD);
    rabbit.declare("survives").await.unwrap();
    rabbit.publish("survives", 6).await.unwrap();
    assert_eq!(probe.ready("survives").await, Ok(6));

    rabbit.kill9();
    for _ in 0..5 {
        assert_eq!(code(probe.ready("survives").await), "broker-unreachable");
        assert_eq!(code(probe.with_unacked("survives").await), "management-unreachable");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    rabbit.restart().await.unwrap();
    // Whatever is said first, the first number is the right one: nothing in between is read as zero.
    let first = until(RECOVERED, "the broker is found again", async || probe.ready("survives").await);
    assert_eq!(first.await.unwrap(), 6);
    let first = until(RECOVERED, "management has counted", async || probe.with_unacked("survives").await);
    assert_eq!(first.await.unwrap(), 6);
}

#[tokio::test]
async fn a_broker_that_does_not_answer_times_out_and_is_counted_rightly_once_it_does() {
    let rabbit = Rabbit::start().await.unwrap();
    let mut probe = probe_as(&rabbit, USER, PASSWORD);
    rabbit.declare("frozen").await.unwrap();
    rabbit.publish("frozen", 2).await.unwrap();
    assert_eq!(probe.ready("frozen").await, Ok(2));

    rabbit.freeze();
    // Opening a connection to a frozen broker may fail in either way; a frozen one never has a number.
    assert_eq!(code(probe.ready("frozen").await), "broker-timeout");
    assert_eq!(code(probe.with_unacked("frozen").await), "management-timeout");
    let again = probe.ready("frozen").await.unwrap_err();
    assert!(["broker-timeout", "broker-unreachable"].contains(&again.code.as_ref()), "{again}");

    rabbit.thaw();
    let first = until(RECOVERED, "the broker answers again", async || probe.ready("frozen").await);
    assert_eq!(first.await.unwrap(), 2);
}

#[tokio::test]
async fn a_user_without_rights_is_refused_and_not_told_a_number() {
    let rabbit = Rabbit::shared().await.unwrap();
    rabbit.declare("private").await.unwrap();
    rabbit.publish("private", 1).await.unwrap();
    let made = rabbit
        .management("PUT", "/api/users/reader", r#"{"password":"reader","tags":""}"#)
        .await
        .unwrap();
    assert!([201, 204].contains(&made.status), "{made:?}");

    // No right on the vhost at all: the connection is refused.
    let mut probe = probe_as(&rabbit, "reader", "reader");
    assert_eq!(code(probe.ready("private").await), "broker-refused");

    // A right on other queues only: the queue is.
    let rights = r#"{"configure":"^mine$","write":"^mine$","read":"^mine$"}"#;
    let given = rabbit.management("PUT", "/api/permissions/%2F/reader", rights).await.unwrap();
    assert!([201, 204].contains(&given.status), "{given:?}");
    // What the broker answers here differs between its versions: some ask for no right to a passive declare.
    let told = until(RECOVERED, "it may connect", async || match probe.ready("private").await {
        Err(fault) if fault.code == "broker-refused" => Err(fault),
        other => Ok(other),
    });
    let told = code(told.await.unwrap());
    assert!(["queue-refused", "1 messages"].contains(&told.as_str()), "{told}");
    assert_eq!(code(probe.with_unacked("private").await), "management-refused");
}
