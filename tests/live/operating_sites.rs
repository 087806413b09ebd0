//! What operators do about placements, sites and templates: list, check, reset, sweep, refresh.

use std::fs;

use epu_core::request::{PlacementFilter, PlacementView, Request};
use epu_tests::installation::Installation;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::pools::keeping;

/// The same pool with another content for its template.
fn changed(n: u32) -> String {
    keeping(n).replace("'1000'", "'2000'")
}

async fn placements(installation: &Installation) -> Vec<PlacementView> {
    let asked = Request::PlacementList(PlacementFilter::default());
    installation.ask(asked).await.unwrap_or_default()
}

#[tokio::test]
async fn placements_and_sites_are_listed_and_checked() {
    let installation = Installation::serving(&keeping(2)).await;
    installation.until_running(2).await;

    let listed = installation.json(&["placement", "list", "--pool", "web"]);
    let only = &listed[0];
    assert_eq!(
        (&only["placement"], &only["site"], &only["rank"], &only["live"], &only["gate"]),
        (&json!("local"), &json!("local"), &json!(1), &json!(2), &json!("open")),
        "{listed}"
    );
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let table = installation.does(&["placement", "list"]);
    assert!(table.starts_with("POOL") && table.contains("open"), "{table}");
    assert_eq!(
        installation.json(&["placement", "reset", "web"]),
        json!({"pool": "web", "reset": []})
    );
    for missing in [
        &["placement", "reset", "web", "nowhere"][..],
        &["placement", "reset", "nowhere"],
        &["placement", "list", "--pool", "nowhere"],
        &["site", "check", "nowhere"],
        &["site", "check", "local", "--pool", "nowhere"],
        &["template", "show", "nowhere"],
    ] {
        let said = installation.run(missing);
        assert_eq!(said.code, Some(5), "{missing:?}: {said:?}");
    }

    let sites = installation.json(&["site", "list"]);
    assert_eq!((&sites[0]["site"], &sites[0]["live"]), (&json!("local"), &json!(2)), "{sites}");
    let report = installation.json(&["site", "check", "local"]);
    assert_eq!((&report["site"], &report["driver"]), (&json!("local"), &json!("local")), "{report}");
    assert!(report["findings"].is_array());
    assert!(
        installation
            .does(&["site", "check", "local", "--pool", "web"])
            .contains("all is well")
    );

    let shown = installation.does(&["pool", "show", "web"]);
    assert!(shown.contains("RANK") && shown.contains("(2 live)"), "{shown}");
    assert_eq!(installation.json(&["pool", "show", "web"])["placements"][0]["placement"], "local");
    assert!(installation.does(&["instance", "list"]).contains("PLACEMENT"));
    assert!(!installation.does(&["status"]).contains("placements that do not launch"));
    assert_eq!(installation.json(&["status"])["placements"], json!([]));
}

#[tokio::test]
async fn a_placement_without_room_says_so_and_is_tried_again_when_it_is_reset() {
    let rest = format!("sites: {{local: {{local: {{max-instances: 1}}}}}}\n{}", keeping(2));
    let installation = Installation::serving(&rest).await;
    installation.until_running(1).await;
    let held = installation
        .until("the placement waits for room", async || {
            let all = placements(&installation).await;
            let held = all.iter().find(|place| !matches!(place.gate.as_str(), "open" | "full"));
            held.cloned().ok_or_else(|| format!("{all:?}"))
        })
        .await;
    let why = held.fault.as_ref().map(|fault| fault.code.as_ref());
    assert!(matches!(why, Some("site-capacity" | "capacity-short")), "{held:?}");
    assert!(installation.does(&["status"]).contains("placements that do not launch"));
    assert!(installation.does(&["placement", "list"]).contains(held.gate.as_str()));
    let reset = installation.json(&["placement", "reset", "web", "local"]);
    assert_eq!(reset, json!({"pool": "web", "reset": ["local"]}));
}

#[tokio::test]
async fn the_sweep_is_looked_at_and_not_started() {
    let installation = Installation::serving(&keeping(1)).await;
    installation.until_running(1).await;
    let view = installation.json(&["sweep", "--dry-run"]);
    assert_eq!(view["machines"], json!([]), "{view}");
    assert!(installation.does(&["sweep", "--dry-run", "--site", "local"]).contains("explained"));
    assert_eq!(installation.run(&["sweep", "--dry-run", "--site", "nowhere"]).code, Some(5));
    let refused = installation.run(&["sweep"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("--dry-run"), "{refused:?}");
    installation.until_running(1).await;
}

#[tokio::test]
async fn a_changed_template_is_for_new_instances_until_a_refresh_replaces_the_old_ones() {
    let mut installation = Installation::serving(&keeping(3)).await;
    let before = installation.until_running(3).await;
    let old = before[0].instance.template.clone();
    assert_eq!(installation.json(&["pool", "refresh", "web", "--show"])["outdated"], json!(0));

    installation.configure(&changed(3));
    installation.control().process.signal(Signal::HUP);
    let new = installation
        .until("the pool launches another version", async || {
            let view = installation.pool("web").await.map_err(|fault| fault.to_string())?;
            let version = view.pool.template_version;
            if version == old { Err(version) } else { Ok(version) }
        })
        .await;
    let mut same: Vec<_> = installation.live().await.iter().map(|view| view.instance.id).collect();
    let mut ids: Vec<_> = before.iter().map(|view| view.instance.id).collect();
    same.sort_unstable();
    ids.sort_unstable();
    assert_eq!(same, ids, "a changed template ends nobody");
    let far = installation.json(&["pool", "refresh", "web", "--show"]);
    assert_eq!(
        (&far["version"], &far["outdated"], &far["refresh"]),
        (&json!(new), &json!(3), &Value::Null),
        "{far}"
    );
    let listed = installation.json(&["template", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    assert!(installation.does(&["template", "show", "sleeper"]).contains("2000"));

    let said = installation.does(&["pool", "refresh", "web", "--wait=2m", "--why", "a new release"]);
    assert!(said.contains("every instance is of this version"), "{said}");
    let after = installation.until_running(3).await;
    assert!(after.iter().all(|view| view.instance.template == new), "{after:#?}");
    let events = installation.does(&["events", "--limit", "1000"]);
    assert!(events.contains("a new release") && events.contains("refresh"), "{events}");

    // Back again, as JSON: nothing but the answer is written.
    let back = installation.json(&["pool", "refresh", "web", "--rollback", "--wait"]);
    assert_eq!((&back["version"], &back["outdated"]), (&json!(old), &json!(0)), "{back}");
    let after = installation.until_running(3).await;
    assert!(after.iter().all(|view| view.instance.template == old), "{after:#?}");
}

#[tokio::test]
async fn a_refresh_is_held_and_stopped() {
    let mut installation = Installation::serving(&keeping(3)).await;
    installation.until_running(3).await;
    let refused = installation.run(&["pool", "refresh", "web", "--resume"]);
    assert_eq!(refused.code, Some(6), "there is none to resume: {refused:?}");
    // Workers that hear nothing and never finish, so that the refresh does not either.
    let stubborn = keeping(3).replace(
        "[sleep, '1000']",
        "[sh, -c, 'trap : TERM; echo busy >$EPU_DIR/status; while :; do sleep 0.2; done']",
    );
    installation.configure(&stubborn);
    installation.control().process.signal(Signal::HUP);
    installation
        .until("the pool launches another version", async || {
            let far = installation.json(&["pool", "refresh", "web", "--show"]);
            if far["outdated"] == json!(3) { Ok(()) } else { Err(far) }
        })
        .await;
    installation.does(&["pool", "refresh", "web"]);
    installation.does(&["pool", "refresh", "web", "--pause", "--why", "the night is quiet"]);
    let shown = installation.does(&["pool", "refresh", "web", "--show"]);
    assert!(shown.contains("the night is quiet"), "{shown}");
    let left = installation.run(&["pool", "refresh", "web", "--resume", "--wait=1ms"]);
    assert!(matches!(left.code, Some(0 | 7)), "{left:?}");
    installation.does(&["pool", "refresh", "web", "--pause"]);
    let stopped = installation.json(&["pool", "refresh", "web", "--stop"]);
    assert_eq!(stopped["refresh"], Value::Null, "{stopped}");
}

#[tokio::test]
async fn a_site_of_a_driver_that_is_not_there_is_told_and_not_served() {
    let rest = "advertise: https://epu.example.org:8650\nadvertise-ca: system\n\
                sites:\n  local: {local: {}}\n  aws: {ec2: {region: us-east-1, credentials: {profile: epu}}}\npools: {}\n";
    let installation = Installation::new(rest);
    let said = installation.does(&["config", "check"]);
    assert!(said.contains("no faults"), "{said}");
    if cfg!(feature = "ec2") {
        assert!(!said.contains("note:"), "this program has the driver: {said}");
        return;
    }
    assert!(said.contains("note: site aws") && said.contains("--features ec2"), "{said}");
    assert_eq!(installation.json(&["config", "check"])["notes"].as_array().unwrap().len(), 1);
    let refused = installation.refuses_to_serve().await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.err.contains("driver-missing") && refused.err.contains("release package"),
        "{refused:?}"
    );
    assert!(fs::read_dir(installation.data()).is_err(), "nothing was begun");
}

#[tokio::test]
async fn other_sites_are_taken_with_the_pools_and_the_log_names_them() {
    let mut installation = Installation::serving(&keeping(1)).await;
    let before = installation.until_running(1).await;
    installation.configure(&format!("sites: {{local: {{local: {{max-instances: 5}}}}}}\n{}", keeping(2)));
    installation.control().process.signal(Signal::HUP);
    let after = installation.until_running(2).await;
    assert!(installation.log().contains("local is changed"), "{}", installation.log());
    assert!(after.iter().any(|view| view.instance.id == before[0].instance.id));
}
