//! What is shown to monitors.

use std::time::Duration;

use epu_tests::installation::{Installation, SOON};
use epu_tests::prometheus::{self, Prometheus};
use epu_tests::web;

use crate::pools::keeping;

#[test]
fn alert_rules_pass_their_tests() {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/../monitoring/epu.rules.test.yaml");
    prometheus::test_rules(tests.as_ref()).unwrap();
}

#[tokio::test]
async fn metrics_pass_promtool_and_are_scraped_by_prometheus() {
    let installation = Installation::serving(&keeping(2)).await;
    installation.until_running(2).await;
    // Some of what is only there once it happened.
    assert_eq!(installation.run(&["pool", "show", "nowhere"]).code, Some(5));
    web::get(&installation.url("/nowhere"), None).await.unwrap();
    let page = installation.metrics().await;
    prometheus::check(&page).unwrap();
    for name in [
        "epu_controller_pool_size",
        "epu_provisioner_instances",
        "epu_aggregator_heartbeats_total",
        "epu_store_",
        "epu_bus_requests_total",
        "process_resident_memory_bytes",
    ] {
        assert!(page.contains(name), "no {name} in\n{page}");
    }
    let ids: Vec<String> = installation.live().await.iter().map(|view| view.instance.id.to_string()).collect();
    assert!(!ids.iter().any(|id| page.contains(id.as_str())), "instance ids are no labels");

    let prometheus = Prometheus::scraping(&installation.address(), None).await.unwrap();
    assert_eq!(
        prometheus
            .value("epu_controller_pool_size{pool=\"web\",what=\"live\"}", SOON)
            .await
            .unwrap(),
        2.0
    );
    let beats = prometheus
        .value("epu_aggregator_heartbeats_total{outcome=\"taken\"}", SOON)
        .await
        .unwrap();
    assert!(beats >= 2.0, "{beats}");
    let kinds = page.lines().filter(|line| line.starts_with("epu_invariant_violations_total{"));
    assert_eq!(kinds.count(), epu_core::invariant::ALL.len(), "each is there from the start");
    let violations = prometheus.query("sum(epu_invariant_violations_total)").await.unwrap();
    assert!(violations.iter().all(|sample| sample.value == 0.0), "{violations:?}");
}

#[tokio::test]
async fn health_and_readiness_are_said_without_a_token_and_nothing_else_is() {
    let installation = Installation::serving(&keeping(1)).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(web::get(&installation.url(path), None).await.unwrap().status, 200, "{path}");
    }
    let page = web::ask(
        hyper::Method::POST,
        &installation.url("/v1/ask"),
        None,
        r#"{"op":"status","args":{}}"#.to_owned(),
    )
    .await
    .unwrap();
    assert_eq!(page.status, 401, "{page:?}");
    assert!(!page.body.contains("web"), "{page:?}");
    assert_eq!(web::get(&installation.url("/v1/ask"), None).await.unwrap().status, 405);
}

/// A log of JSON lines is JSON in every line, and shows no secret.
#[tokio::test]
async fn logs_are_json_when_wanted_and_show_no_secret() {
    let mut installation = Installation::serving(&format!("log: {{level: debug, format: json}}\n{}", keeping(1))).await;
    installation.until_running(1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    installation.stop().await;
    let log = std::fs::read_to_string(installation.path("serve.log")).unwrap();
    assert!(log.lines().count() > 3, "{log}");
    for line in log.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
    let key = std::fs::read_to_string(installation.data().join("installation.key")).unwrap();
    assert!(
        !log.contains(installation.token().trim()) && !log.contains(key.trim()),
        "a secret is logged"
    );
}
