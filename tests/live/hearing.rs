//! Bad input at the door, as agents send it: each is refused with a reason, counted, and changes nothing.

use std::collections::BTreeMap;
use std::fs;

use epu_bus::token::Keyring;
use epu_core::InstanceId;
use epu_core::health::Health;
use epu_core::time::{Clock, SystemClock};
use epu_tests::installation::Installation;
use epu_tests::web::{self, Page};
use hyper::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::pools::keeping;

/// The installation's keys, which make any agent's token.
fn keys(installation: &Installation) -> Keyring {
    Keyring::new(
        fs::read_to_string(installation.data().join("installation.key"))
            .unwrap()
            .trim()
            .as_bytes(),
    )
    .unwrap()
}

async fn ask(installation: &Installation, token: &str, body: String) -> Page {
    web::ask(Method::POST, &installation.url("/v1/ask"), Some(&format!("Bearer {token}")), body)
        .await
        .unwrap()
}

fn heartbeat(id: InstanceId, change: Value) -> String {
    let mut beat = json!({
        "instance": id, "sequence": 1, "started_at_ms": 1, "sent_at_ms": 1, "condition": {"is": "ok"}, "work": "busy", "work_for_ms": 0
    });
    if let (Some(beat), Value::Object(change)) = (beat.as_object_mut(), change) {
        beat.extend(change);
    }
    json!({"op": "heartbeat", "args": beat}).to_string()
}

const HEARTBEATS: &str = "epu_aggregator_heartbeats_total{outcome=\"";
const REFUSED: &str = "epu_bus_refused_total{why=\"";

#[tokio::test]
async fn whatever_is_wrong_with_a_heartbeat_is_said_counted_and_changes_nothing() {
    let installation = Installation::serving(&keeping(1)).await;
    let id = installation.until_running(1).await[0].instance.id;
    let (keys, stranger) = (keys(&installation), InstanceId(uuid::Uuid::from_u128(7)));
    let (token, strange) = (keys.mint_instance(id), keys.mint_instance(stranger));
    let forged = Keyring::new(b"a key of somebody else, long enough to be one")
        .unwrap()
        .mint_instance(id);
    let many: BTreeMap<String, f64> = (0..33).map(|n| (format!("r{n}"), 1.0)).collect();
    let huge = heartbeat(id, json!({"readings": {"load": 1}})).replace("\"load\":1", "\"load\":1e999");
    let fault = json!({"is": "process-error", "fault": {"code": "worker-failed", "text": "x".repeat(5_000)}});

    let cases: Vec<(&str, String, String, u16, String)> = vec![
        (
            "an empty token",
            String::new(),
            heartbeat(id, json!({})),
            401,
            format!("{REFUSED}malformed-token\"}}"),
        ),
        (
            "a wrong token",
            forged,
            heartbeat(id, json!({})),
            401,
            format!("{REFUSED}instance-token\"}}"),
        ),
        (
            "another's token",
            strange.clone(),
            heartbeat(id, json!({})),
            403,
            format!("{REFUSED}forbidden\"}}"),
        ),
        (
            "an unknown instance",
            strange,
            heartbeat(stranger, json!({})),
            404,
            format!("{HEARTBEATS}unknown-instance\"}}"),
        ),
        (
            "out of order",
            token.clone(),
            heartbeat(id, json!({})),
            409,
            format!("{HEARTBEATS}out-of-order\"}}"),
        ),
        (
            "a megabyte",
            token.clone(),
            heartbeat(id, json!({"note": "x".repeat(1 << 20)})),
            413,
            format!("{REFUSED}too-large\"}}"),
        ),
        (
            "no JSON",
            token.clone(),
            "\u{0}garbage{".to_owned(),
            400,
            format!("{REFUSED}bad-json\"}}"),
        ),
        (
            "no request",
            token.clone(),
            json!({"op": "heartbaet", "args": {}}).to_string(),
            400,
            format!("{REFUSED}bad-json\"}}"),
        ),
        (
            "too many readings",
            token.clone(),
            heartbeat(id, json!({"readings": many})),
            400,
            format!("{HEARTBEATS}malformed\"}}"),
        ),
        (
            "a huge fault",
            token.clone(),
            heartbeat(id, json!({"condition": fault})),
            400,
            format!("{HEARTBEATS}malformed\"}}"),
        ),
        ("a number that is none", token.clone(), huge, 400, format!("{REFUSED}bad-json\"}}")),
        (
            "a negative sequence",
            token.clone(),
            heartbeat(id, json!({"sequence": -1})),
            400,
            format!("{REFUSED}bad-json\"}}"),
        ),
        (
            "an operator's wish",
            token,
            json!({"op": "teardown", "args": {}}).to_string(),
            403,
            format!("{REFUSED}forbidden\"}}"),
        ),
    ];
    for (what, token, body, status, metric) in cases {
        let before = installation.metric(&metric).await;
        let page = ask(&installation, &token, body).await;
        assert_eq!(page.status, status, "{what}: {page:?}");
        let said: Value = serde_json::from_str(&page.body).unwrap_or_else(|_| panic!("{what}: {page:?}"));
        assert!(said["result"].is_null() && said["error"]["code"].is_string(), "{what}: {page:?}");
        assert!(page.body.len() < 2_000, "{what}: an answer does not repeat all it was sent");
        assert!(installation.metric(&metric).await > before, "{what} is counted in {metric}");
    }
    let running = installation.until_running(1).await;
    assert_eq!(
        (running[0].instance.id, running[0].work),
        (id, epu_core::instance::Work::Unknown),
        "nothing changed"
    );
    assert!(!installation.status().await.unwrap().closed);
}

/// What a sender says of its own time is shown at most: the time of arrival counts.
#[tokio::test]
async fn a_heartbeat_from_the_future_is_taken_and_keeps_nobody_alive() {
    let installation = Installation::serving(&keeping(1)).await;
    let id = installation.until_running(1).await[0].instance.id;
    let token = keys(&installation).mint_instance(id);
    // The agent falls silent; in its place somebody speaks who lives in the year 2200, and then nobody.
    installation.agent_of(id).unwrap().signal_group(Signal::STOP);
    let now = SystemClock::start().now().0;
    let in_2200 = 7_258_118_400_000_i64;
    let beat = heartbeat(
        id,
        json!({"started_at_ms": now + 1, "sent_at_ms": in_2200, "readings": {"load": 1e308}}),
    );
    let page = ask(&installation, &token, beat.clone()).await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(installation.metric(&format!("{HEARTBEATS}taken\"}}")).await.min(1.0), 1.0);
    let again = ask(&installation, &token, beat).await;
    assert_eq!(again.status, 409, "the same once more is old news: {again:?}");
    installation
        .until("it is heard", async || match installation.instance(id).await.work {
            epu_core::instance::Work::Busy => Ok(()),
            other => Err(other.word()),
        })
        .await;
    let view = installation.instance(id).await;
    assert!(view.heard_at.unwrap().0 < in_2200, "it was heard when it arrived: {view:?}");
    installation
        .until("its silence is noticed all the same", async || {
            match installation.instance(id).await {
                view if view.health == Health::OutOfContact || view.instance.ending.is_some() => Ok(()),
                view => Err(view.health),
            }
        })
        .await;
}
