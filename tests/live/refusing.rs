//! Bad input from operators: everything wrong is said at once and with its place, and changes nothing.

use std::fs;
use std::net::TcpListener;

use epu_tests::installation::Installation;
use rustix::process::Signal;

use crate::pools::keeping;

/// A config with six faults of different kinds.
const FAULTS: &str = "\
retentoin: 1d
templates:
  sleeper: {run: [sleep, '1000'], heartbeat: 5}
pools:
  web:
    template: sleepr
    min: 4
    max: 3
    engine: {keep: {n: two}}
  mail:
    template: sleeper
    max: 3
    engine: {queue-length: {sensor: jobs, high-water: 1, low-water: 5}}
";

#[tokio::test]
async fn every_fault_of_a_config_is_shown_at_once_with_its_place_and_nothing_is_served() {
    let installation = Installation::new(FAULTS);
    let config = installation.config();
    let checked = installation.run(&["config", "check", config.to_str().unwrap()]);
    let served = installation.refuses_to_serve().await;
    for said in [checked, served] {
        assert_eq!(said.code, Some(2), "{said:?}");
        let said = said.out + &said.err;
        // The first three lines of the file are the harness's.
        for place in ["epu.yaml:4:1", "epu.yaml:6:", "epu.yaml:9:", "epu.yaml:12:", "epu.yaml:16:"] {
            assert!(said.contains(place), "no fault at {place}:\n{said}");
        }
        assert!(said.contains("retention"), "the nearest key is named:\n{said}");
        assert!(said.contains("sleeper"), "the nearest template is named:\n{said}");
    }
    assert!(!installation.data().exists(), "nothing was made");
}

#[tokio::test]
async fn a_file_that_is_no_yaml_or_not_there_is_refused() {
    let installation = Installation::new("pools: {web: [}\n");
    let said = installation.refuses_to_serve().await;
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("epu.yaml:4:"), "{said:?}");
    let said = installation.run(&["config", "check", "nowhere.yaml"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!((said.out + &said.err).contains("nowhere.yaml"));
}

#[tokio::test]
async fn a_reload_with_faults_changes_nothing() {
    let mut installation = Installation::serving(&keeping(1)).await;
    let id = installation.until_running(1).await[0].instance.id;
    let revision = installation.pool("web").await.unwrap().pool.revision;
    installation.configure(&keeping(2).replace("max: 10", "max: ten"));
    installation.control().process.signal(Signal::HUP);
    installation
        .until("the log says so", async || {
            let log = installation.log();
            if log.contains("not reloaded") && log.contains("max") {
                Ok(())
            } else {
                Err(log)
            }
        })
        .await;
    assert_eq!(installation.pool("web").await.unwrap().pool.revision, revision);
    assert_eq!(installation.until_running(1).await[0].instance.id, id);
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_and_the_nearest_name_is_offered() {
    let installation = Installation::serving(&keeping(1)).await;
    installation.until_running(1).await;
    for arguments in [["pool", "show", "wbe"], ["pool", "pause", "wbe"], ["pool", "remove", "wbe"]] {
        let said = installation.run(&arguments);
        assert_eq!(said.code, Some(5), "{said:?}");
        assert!(said.err.contains("no-such-pool") && said.err.contains("web"), "{said:?}");
    }
    for id in ["01890000-0000-7000-8000-000000000001", "0123456789ab"] {
        for what in ["show", "logs", "drain", "kill", "protect"] {
            let said = installation.run(&["instance", what, id]);
            assert_eq!(said.code, Some(5), "instance {what} {id}: {said:?}");
            assert!(said.err.contains("no-such-instance"), "{said:?}");
        }
    }
    let said = installation.run(&["pool", "show", "web", "--output", "xml"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert_eq!(installation.live().await.len(), 1);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_nothing_is_launched() {
    let installation = Installation::new(&keeping(1));
    let taken = TcpListener::bind(installation.address()).unwrap();
    let said = installation.refuses_to_serve().await;
    assert_eq!(said.code, Some(6), "{said:?}");
    assert!(
        said.err.contains(&installation.address()) && said.err.contains("port is taken"),
        "{said:?}"
    );
    assert!(said.err.contains("what to do"), "{said:?}");
    assert!(installation.processes().is_empty());
    drop(taken);
}

#[tokio::test]
async fn pools_with_faults_are_refused_whole() {
    let installation = Installation::serving("pools: {}\n").await;
    let file = installation.path("web.yaml");
    let text = keeping(1) + "  mail: {template: slepeer, max: 3, engine: {keep: {n: 1}}}\n";
    fs::write(&file, text).unwrap();
    let said = installation.run(&["pool", "add", "--file", file.to_str().unwrap()]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("web.yaml:") && said.err.contains("sleeper"), "{said:?}");
    assert_eq!(
        installation.json(&["pool", "list"]),
        serde_json::json!([]),
        "the good one was not added either"
    );
    assert!(installation.ever().await.is_empty());
}
