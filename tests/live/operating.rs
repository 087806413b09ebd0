//! A day of an operator: pools are added, changed, paused, resumed and removed, from the command line and from the config file.

use std::fs;

use epu_tests::installation::Installation;
use epu_tests::wait::always;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;

use crate::pools::{HEALTH, LIMITS, keeping};

async fn with_a_pool_of_two() -> Installation {
    let installation = Installation::serving("pools: {}\n").await;
    fs::write(installation.path("web.yaml"), keeping(2)).unwrap();
    let added = installation.json(&["pool", "add", "--file", "web.yaml"]);
    assert_eq!(added, json!(["web"]));
    installation.until_running(2).await;
    installation
}

#[tokio::test]
async fn a_pool_is_added_changed_and_removed_from_the_command_line() {
    let installation = with_a_pool_of_two().await;
    let again = installation.run(&["pool", "add", "--file", "web.yaml"]);
    assert_eq!(again.code, Some(6), "it is there already: {again:?}");

    let changed = installation.json(&["pool", "reconfigure", "web", "engine.keep.n=3"]);
    let revision = changed["revision"].as_u64().unwrap();
    installation.until_running(3).await;
    installation.does(&["pool", "resize", "web", "--n", "1", "--max", "4"]);
    installation.until_running(1).await;
    let spec = &installation.json(&["pool", "show", "web"])["pool"]["spec"];
    assert_eq!((&spec["max"], &spec["engine"]["keep"]["n"]), (&json!(4), &json!(1)));

    // What is refused changes nothing: an old revision, a key that is none, bounds that contradict each other.
    let stale = installation.run(&["pool", "reconfigure", "web", "max=9", "--if-revision", &revision.to_string()]);
    assert_eq!(stale.code, Some(6), "{stale:?}");
    let unknown = installation.run(&["pool", "reconfigure", "web", "limits.cooldown-dwon=1s"]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.err.contains("cooldown-down"), "{unknown:?}");
    let bounds = installation.run(&["pool", "resize", "web", "--min", "5"]);
    assert_eq!(bounds.code, Some(2), "{bounds:?}");
    assert_eq!(&installation.json(&["pool", "show", "web"])["pool"]["spec"]["max"], &json!(4));

    let removed = installation.json(&["pool", "remove", "web"]);
    assert_eq!(removed, json!({"pool": "web", "live": 1}));
    installation
        .until("it is drained, then forgotten", async || {
            let said = installation.run(&["pool", "show", "web"]);
            if said.code == Some(5) { Ok(()) } else { Err(format!("{said:?}")) }
        })
        .await;
    assert!(installation.processes().is_empty());
    // The name is free again.
    installation.does(&["pool", "add", "--file", "web.yaml"]);
    installation.until_running(2).await;
    installation.does(&["pool", "remove", "web", "--force"]);
    installation
        .until("nobody is left", async || {
            let left = installation.processes();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
}

#[tokio::test]
async fn a_paused_pool_does_nothing_until_it_is_resumed() {
    let installation = with_a_pool_of_two().await;
    let id = installation.live().await[0].instance.id;
    installation.does(&["pool", "pause", "web", "--why", "the night is quiet"]);
    let shown = installation.does(&["pool", "show", "web"]);
    assert!(shown.contains("the night is quiet"), "{shown}");
    assert!(installation.does(&["status"]).contains("paused"));

    installation.does(&["pool", "resize", "web", "--n", "4"]);
    installation.worker_of(id).unwrap().signal(Signal::KILL);
    always(Duration::from_secs(3), "nobody is launched", async || {
        installation.ever().await.len() == 2
    })
    .await;

    installation.does(&["pool", "resume", "web"]);
    installation.until_ended(id).await;
    installation.until_running(4).await;

    installation.does(&["pool", "pause", "web", "--shrink"]);
    installation.does(&["pool", "resize", "web", "--n", "1"]);
    always(Duration::from_secs(2), "nobody is let go", async || {
        installation.live().await.len() == 4
    })
    .await;
    installation.does(&["pool", "resume", "web"]);
    installation.until_running(1).await;
}

#[tokio::test]
async fn every_answer_is_a_table_for_people_and_json_for_programs() {
    let installation = with_a_pool_of_two().await;
    let id = installation.live().await[0].instance.id.to_string();
    let commands: [&[&str]; 12] = [
        &["pool", "list"],
        &["pool", "show", "web"],
        &["pool", "pause", "web"],
        &["pool", "resume", "web"],
        &["instance", "list"],
        &["instance", "list", "--pool", "web", "--all"],
        &["instance", "show", &id],
        &["instance", "logs", &id],
        &["instance", "protect", &id],
        &["status"],
        &["events", "--limit", "5"],
        &["config", "check", "web.yaml"],
    ];
    for command in commands {
        let table = installation.does(command);
        assert!(
            serde_json::from_str::<Value>(&table).is_err() || table.trim().is_empty(),
            "{command:?}: {table}"
        );
        drop(installation.json(command));
    }
    // Errors too, on standard error, with their code.
    let said = installation.run(&["pool", "show", "nowhere", "--output", "json"]);
    let error: Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!(
        (said.code, &error["error"]["code"], said.out.as_str()),
        (Some(5), &json!("no-such-pool"), "")
    );
    for line in installation.does(&["events", "--limit", "1000"]).lines() {
        assert!(line.starts_with("20"), "one line an event: {line}");
    }
    assert!(installation.does(&["completions", "bash"]).contains("epumgmt"));
    serde_json::from_str::<Value>(&installation.does(&["config", "schema"])).unwrap();
}

#[tokio::test]
async fn events_can_be_followed() {
    let installation = with_a_pool_of_two().await;
    let log = installation.path("events.log");
    let url = installation.url("");
    let token = installation.data().join("operator.token");
    let arguments = [
        "events",
        "--follow",
        "--output",
        "json",
        "--url",
        &url,
        "--token-file",
        token.to_str().unwrap(),
    ];
    let following = epu_tests::process::Running::start(&arguments, &log, |_| {}).unwrap();
    installation.does(&["pool", "pause", "web", "--why", "to be seen"]);
    installation
        .until("the event is shown while it follows", async || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let seen = text
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .any(|entry| entry["event"]["why"] == "to be seen");
            if seen { Ok(()) } else { Err(text) }
        })
        .await;
    drop(following);
}

#[tokio::test]
async fn a_pool_of_the_file_belongs_to_the_file() {
    let mut installation = Installation::serving(&keeping(1)).await;
    installation.until_running(1).await;
    // `data-dir`, `listen`, `tick`, `templates`, its template, `pools`, and then the pool.
    let place = format!("{}, line 7", installation.config().display());
    for arguments in [&["pool", "reconfigure", "web", "max=9"][..], &["pool", "resize", "web", "--n", "2"]] {
        let said = installation.run(arguments);
        assert_eq!(said.code, Some(6), "{said:?}");
        assert!(
            said.err.contains("from-file") && said.err.contains(&place),
            "{arguments:?}: {said:?}"
        );
    }
    installation.does(&["pool", "pause", "web"]);
    installation.does(&["pool", "resume", "web"]);

    // A reload adds a pool and changes one.
    let more = format!(
        "{}  mail: {{template: sleeper, max: 3, engine: {{keep: {{n: 1}}}}, health: {HEALTH}, limits: {{{LIMITS}}}}}\n",
        keeping(2)
    );
    installation.configure(&more);
    installation.control().process.signal(Signal::HUP);
    installation.until_running(3).await;
    let mail = installation.pool("mail").await.unwrap();
    assert_eq!(mail.counts.running, 1);

    // Taken out of the file it stays, also over a restart, until somebody removes it.
    let before = installation.processes();
    installation.configure("pools: {}\n");
    installation.control().process.signal(Signal::HUP);
    always(Duration::from_secs(2), "all stay", async || installation.processes() == before).await;
    installation.stop().await;
    installation.start().await;
    installation.until_running(3).await;
    assert_eq!(installation.processes(), before);
    installation.does(&["pool", "remove", "mail"]);
    installation.until_running(2).await;
    installation.does(&["pool", "remove", "web"]);
    installation
        .until("both are gone", async || match installation.json(&["pool", "list"]) {
            list if list == json!([]) => Ok(()),
            list => Err(list),
        })
        .await;
    assert!(installation.processes().is_empty());
}
