//! Sites that are added, changed and removed while the installation serves: by command and in the config file.

use std::fs;

use epu_core::life::State;
use epu_tests::installation::Installation;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::pools::sleeping;

async fn until_live(installation: &Installation, site: &str, count: usize) {
    installation
        .until(&format!("{count} instances run on {site}"), async || {
            let live = installation.live().await;
            let running = live
                .iter()
                .filter(|view| view.instance.site.as_str() == site && view.instance.state == State::Running);
            let running = running.count();
            if running == count && (count > 0 || live.is_empty()) {
                Ok(())
            } else {
                Err(format!("{running} of {}", live.len()))
            }
        })
        .await;
}

/// The site as `site list` has it; null: it is not there.
fn site(installation: &Installation, name: &str) -> Value {
    let all = installation.json(&["site", "list"]);
    let found = all.as_array().unwrap().iter().find(|site| site["site"] == name).cloned();
    found.unwrap_or_default()
}

async fn until_site(installation: &Installation, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    installation
        .until(what, async || {
            let seen = site(installation, name);
            if is_so(&seen) { Ok(seen) } else { Err(seen.to_string()) }
        })
        .await
}

fn reload(installation: &mut Installation, rest: &str) {
    installation.configure(rest);
    installation.control().process.signal(Signal::HUP);
}

fn happened(installation: &Installation, kind: &str) -> Vec<(String, String)> {
    let events = installation.json(&["events", "--limit", "1000"]);
    let of_kind = |entry: &&Value| entry["event"]["event"] == kind;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = events.as_array().unwrap().iter().filter(of_kind);
    all.map(|entry| (text(&entry["event"]["site"]), text(&entry["who"]))).collect()
}

fn pair(site: &str, who: &str) -> (String, String) {
    (site.to_owned(), who.to_owned())
}

#[tokio::test]
async fn a_site_is_added_used_and_removed_by_command() {
    let mut installation = Installation::serving("sites: {}\n").await;
    assert_eq!(installation.json(&["site", "list"]), json!([]));
    let write = |name: &str, text: &str| {
        let path = installation.path(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let pools = write("pools.yaml", &sleeping(&[("jobs", 2)]));
    let nowhere = installation.run(&["pool", "add", "-f", &pools]);
    assert!(nowhere.code == Some(2) && nowhere.err.contains("there is no site"), "{nowhere:?}");

    // Every fault at once, each with its place and what was probably meant; a secret in the open is none.
    let wrong = write(
        "wrong.yaml",
        "sites:\n  here: {locl: {}}\n  west:\n    ec2: {regin: r, credentials: {access-key-id: AKIA123, secret-access-key: sesame}}\n",
    );
    let refused = installation.run(&["site", "add", "-f", &wrong]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for said in [
        "wrong.yaml:2",
        "\"local\"",
        "wrong.yaml:4",
        "\"region\"",
        "one is added at a time",
        "env:NAME",
    ] {
        assert!(refused.err.contains(said), "{said}: {}", refused.err);
    }
    assert!(!refused.err.contains("sesame"), "a secret is shown: {}", refused.err);

    let good = write("here.yaml", "local: {max-instances: 5}\n");
    assert_eq!(installation.run(&["site", "add", "-f", &good]).code, Some(2), "it has no name");
    assert_eq!(
        installation.json(&["site", "add", "-f", &good, "--name", "here"]),
        json!({"site": "here"})
    );
    let there = site(&installation, "here");
    assert_eq!(
        (&there["driver"], &there["origin"]),
        (&json!("local"), &json!({"is": "record", "by": "operator"}))
    );
    assert!(installation.does(&["site", "list"]).contains("FROM"));
    let second = installation.run(&["site", "add", "-f", &good, "--name", "there"]);
    assert!(
        second.code != Some(0) && second.err.contains("this machine is one site"),
        "{second:?}"
    );

    installation.does(&["pool", "add", "-f", &pools]);
    until_live(&installation, "here", 2).await;
    let used = installation.run(&["site", "remove", "here"]);
    assert!(used.code != Some(0) && used.err.contains("jobs"), "{used:?}");

    // A changed one is used by the next launch, and a restart keeps it.
    let less = write("less.yaml", "sites: {here: {local: {max-instances: 3}}}\n");
    installation.does(&["site", "add", "-f", &less]);
    installation.stop().await;
    installation.start().await;
    until_live(&installation, "here", 2).await;
    installation.does(&["pool", "resize", "jobs", "--n", "5"]);
    until_live(&installation, "here", 3).await;

    installation.does(&["pool", "remove", "jobs"]);
    until_live(&installation, "here", 0).await;
    assert_eq!(installation.json(&["site", "remove", "here"]), json!({"site": "here", "live": 0}));
    assert_eq!(installation.json(&["site", "list"]), json!([]));
    assert_eq!(installation.run(&["site", "remove", "here"]).code, Some(5));
    for kind in ["site-added", "site-changed", "site-removed"] {
        assert_eq!(happened(&installation, kind), [pair("here", "operator")], "{kind}");
    }
}

#[tokio::test]
async fn sites_of_the_config_file_come_and_go_with_sighup() {
    let mut installation = Installation::serving("sites: {}\n").await;
    reload(&mut installation, "sites:\n  mine: {local: {}}\n");
    let mine = until_site(&installation, "mine", "the new site is there", |seen| !seen.is_null()).await;
    assert_eq!(
        (&mine["origin"]["is"], &mine["origin"]["line"]),
        (&json!("file"), &json!(5)),
        "{mine}"
    );
    let refused = installation.run(&["site", "remove", "mine"]);
    assert!(refused.code != Some(0) && refused.err.contains("line 5"), "{refused:?}");

    let pools = installation.path("pools.yaml");
    fs::write(&pools, sleeping(&[("jobs", 1)])).unwrap();
    let pools = pools.display().to_string();
    installation.does(&["pool", "add", "-f", &pools]);
    until_live(&installation, "mine", 1).await;

    // One with faults changes nothing.
    reload(&mut installation, "sites: {mine: {locl: {}}}\n");
    reload(&mut installation, "sites:\n  mine: {local: {max-instances: 2}}\n");
    installation
        .until("the change is remembered", async || match happened(&installation, "site-changed") {
            seen if seen == [pair("mine", "config")] => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
        .await;

    reload(&mut installation, "sites: {}\n");
    let leaving = until_site(&installation, "mine", "the site leaves", |seen| !seen["fault"].is_null()).await;
    assert_eq!(
        (&leaving["fault"]["code"], &leaving["live"]),
        (&json!("no-such-site"), &json!(1)),
        "{leaving}"
    );
    until_live(&installation, "mine", 1).await;
    installation.does(&["pool", "remove", "jobs"]);
    until_live(&installation, "mine", 0).await;
    until_site(&installation, "mine", "the site is dropped", Value::is_null).await;
    assert_eq!(happened(&installation, "site-added"), [pair("mine", "config")]);
    assert_eq!(happened(&installation, "site-removed"), [pair("mine", "config")]);
}

#[tokio::test]
async fn a_template_is_kept_for_pools_that_are_added_later() {
    let mut installation = Installation::serving("pools: {}\n").await;
    let write = |name: &str, text: &str| {
        let path = installation.path(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let pool = write("pool.yaml", "pools: {nap: {template: napper, max: 2, engine: {keep: {n: 1}}}}\n");
    assert_eq!(
        installation.run(&["pool", "add", "-f", &pool]).code,
        Some(2),
        "nobody has the template"
    );
    let wrong = write("wrong.yaml", "templates: {napper: {rum: [sleep], heartbeat: 1ms}}\n");
    let refused = installation.run(&["template", "add", "-f", &wrong]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("\"run\"") && refused.err.contains("heartbeat"), "{refused:?}");
    let good = write(
        "napper.yaml",
        "templates: {napper: {run: [sleep, '1000'], heartbeat: 200ms, stop-grace: 1s}}\n",
    );
    assert_eq!(installation.json(&["template", "add", "-f", &good]), json!({"template": "napper"}));
    assert!(installation.does(&["template", "list"]).contains("ADDED BY"));
    installation.stop().await;
    installation.start().await;
    installation.does(&["pool", "add", "-f", &pool]);
    until_live(&installation, "local", 1).await;
    installation.does(&["template", "remove", "napper"]);
    assert_eq!(installation.run(&["template", "remove", "napper"]).code, Some(5));
    assert_eq!(
        installation.json(&["template", "show", "napper"])[0]["live"],
        json!(1),
        "the pool has its own"
    );
    until_live(&installation, "local", 1).await;
}
