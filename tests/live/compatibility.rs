//! Old clients: a suite in Python, on kombu, written from the description of dashi's wire. It runs against the real program, a real broker and
//! workers that are processes of this machine. `tests/compatibility/` has the suite and what makes its Python.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use epu_bus::amqp::dashi::wire::{Asked, Names, Problem};
use epu_bus::amqp::dashi::{Dashi, Failed, Fire, Handler, Served as Service};
use epu_bus::amqp::{Link, Metrics, Settings};
use epu_core::secret::SecretUrl;
use epu_tests::installation::Installation;
use epu_tests::keeper::{self, Kept};
use epu_tests::rabbit::Rabbit;
use epu_tests::tail_of;
use epu_tests::wait::eventually;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio_util::sync::CancellationToken;

/// How long one file of the suite may take on a busy machine; each takes under a minute on an idle one.
const SUITE: Duration = Duration::from_secs(600);
/// The variable in which the program and the suite find the broker.
const URL: &str = "EPU_DASHI_URL";
/// The variable with a secret that the suite sends, and that a permitted reference names.
const SECRET: &str = "EPU_TEST_SECRET";

fn config(sysname: Option<&str>) -> String {
    let sysname = sysname.map_or(String::new(), |sysname| format!("  sysname: {sysname}\n"));
    format!(
        "templates:\n\
         \x20 epu_work_consumer: {{run: [sleep, '1000'], heartbeat: 300ms, stop-grace: 1s}}\n\
         \x20 worker: {{run: [sleep, '1000'], heartbeat: 300ms, stop-grace: 1s}}\n\
         \x20 other-worker: {{run: [sleep, '1001'], heartbeat: 300ms, stop-grace: 1s}}\n\
         \x20 tells: {{run: [sleep, '1002'], heartbeat: 300ms, stop-grace: 1s}}\n\
         compatibility:\n\
         \x20 url: env:{URL}\n\
         {sysname}\
         \x20 default-user: default\n\
         \x20 callers: {{looker: read, outcast: none, '*': operate}}\n\
         \x20 instance-info-to: [info_listener]\n\
         \x20 references: ['env:{SECRET}', 'file:/run/epu/*']\n\
         \x20 most: 50\n\
         \x20 limits: {{cooldown-down: 0s, stabilization: 0s, replace-at-once: 10, replace-window: 1s, storm-at-least: 10}}\n\
         \x20 definitions: {{from-config: {{general: {{engine_class: epu.decisionengine.impls.simplest.SimplestEngine}}}}}}\n"
    )
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compatibility")
}

/// The suite's Python, made when it is not there.
async fn python() -> PathBuf {
    let made = tokio::task::spawn_blocking(|| Command::new(folder().join("environment")).stdin(Stdio::null()).output());
    let made = made.await.unwrap().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
}

/// An installation that answers old clients, and the environment that its suite needs.
struct Served {
    installation: Installation,
    variables: Vec<(&'static str, String)>,
}

impl Served {
    async fn on(rabbit: &Rabbit, sysname: Option<&str>) -> Self {
        let mut installation = Installation::new(&config(sysname));
        let url = rabbit.url();
        installation
            .start_through(&[], |command| {
                command.env(URL, &url);
            })
            .await;
        let variables = vec![(URL, url), ("EPU_DASHI_SYSNAME", sysname.unwrap_or_default().to_owned())];
        Self { installation, variables }
    }

    async fn start(&mut self) {
        let url = self.variables[0].1.clone();
        self.installation
            .start_through(&[], |command| {
                command.env(URL, &url);
            })
            .await;
    }

    fn suite(&self, python: &Path, file: &str) -> Command {
        let mut command = keeper::command(python);
        command.args(["-B", "-u"]).arg(folder().join(file)).arg("-v");
        command
            .current_dir(folder())
            .envs(self.variables.iter().map(|(name, value)| (*name, value)));
        command
    }

    /// Runs one file of the suite; it must pass.
    async fn passes(&self, file: &str) {
        let python = python().await;
        let output = self.installation.path("suite.log");
        let log = File::create(&output).unwrap();
        let mut command = self.suite(&python, file);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let ended = Kept::start(command).unwrap().wait(SUITE).await;
        let passed = ended.as_ref().is_ok_and(|status| status.success());
        assert!(passed, "{file}: {ended:?}\n{}\n{}", tail_of(&output, 200), self.log());
        // A suite that found no tests passes too.
        let said = std::fs::read_to_string(&output).unwrap();
        assert!(said.contains("... ok"), "{said}");
    }

    fn log(&self) -> String {
        tail_of(&self.installation.path("serve.log"), 60)
    }
}

#[tokio::test]
async fn the_wire_of_dashi_is_spoken_with_a_sysname() {
    let rabbit = Rabbit::shared().await.unwrap();
    Served::on(&rabbit, Some("wire")).await.passes("test_wire.py").await;
}

#[tokio::test]
async fn domains_and_definitions_are_kept_for_old_clients() {
    let rabbit = Rabbit::shared().await.unwrap();
    Served::on(&rabbit, Some("domains")).await.passes("test_management.py").await;
}

#[tokio::test]
async fn nodes_are_launched_and_ended_for_old_clients() {
    let rabbit = Rabbit::shared().await.unwrap();
    let mut served = Served::on(&rabbit, Some("nodes")).await;
    served.passes("test_provisioner.py").await;
    served.installation.stop().await;
}

#[tokio::test]
async fn types_sites_and_credentials_are_kept_for_old_clients_and_no_secret_is_anywhere_else() {
    let rabbit = Rabbit::shared().await.unwrap();
    let mut served = Served::on(&rabbit, Some("dtrs")).await;
    let secret = "wJalrXUtnFEMI/K7MDENG-not-a-real-one";
    served.variables.push((SECRET, secret.to_owned()));
    served.passes("test_dtrs.py").await;
    served.installation.stop().await;

    let (data, log) = (served.installation.data(), served.installation.path("serve.log"));
    let drawer = data.join("credentials");
    let holds = |path: &Path, text: &str| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    let records: Vec<PathBuf> = files_below(&data).into_iter().filter(|path| !path.starts_with(&drawer)).collect();
    assert!(
        records.iter().any(|path| holds(path, r#""by":"dtrs""#)),
        "there is a site of ours: {records:?}"
    );
    assert!(records.iter().any(|path| holds(path, "stays.keeper")));
    for path in records.iter().chain([&log]) {
        assert!(!holds(path, secret), "the secret is in {}", path.display());
    }
    assert!(!holds(&served.installation.path("suite.log"), secret));

    let kept = files_below(&drawer.join("keeper/site"));
    let fields: Vec<&str> = kept
        .iter()
        .filter_map(|path| path.file_name()?.to_str()?.rsplit_once('.'))
        .map(|(field, _)| field)
        .collect();
    assert_eq!(
        fields,
        ["stays.access_key", "stays.secret_key"],
        "what is replaced or removed goes: {kept:?}"
    );
    assert_eq!(std::fs::read_to_string(&kept[1]).unwrap(), format!("new {secret}"));
    for path in files_below(&drawer) {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
    assert_eq!(std::fs::metadata(&drawer).unwrap().permissions().mode() & 0o777, 0o700);
}

/// Every file below a directory, in order.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn old_subscribers_are_told_and_old_agents_are_heard() {
    let rabbit = Rabbit::shared().await.unwrap();
    Served::on(&rabbit, Some("telling")).await.passes("test_telling.py").await;
}

#[tokio::test]
async fn old_clients_get_over_a_restart_of_the_broker_and_of_the_service() {
    let mut rabbit = Rabbit::start().await.unwrap();
    let mut served = Served::on(&rabbit, None).await;
    let python = python().await;
    let output = served.installation.path("suite.log");
    let mut command = tokio::process::Command::from(served.suite(&python, "outage.py"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(&output).unwrap());
    let mut suite = command.kill_on_drop(true).spawn().unwrap();
    let mut told = suite.stdin.take().unwrap();
    let mut lines = BufReader::new(suite.stdout.take().unwrap()).lines();
    let mut done = 0;
    let ended = tokio::time::timeout(SUITE, async {
        while let Some(wanted) = lines.next_line().await.unwrap() {
            match wanted.as_str() {
                "broker: restart" => {
                    rabbit.kill9();
                    rabbit.restart().await.unwrap();
                }
                "service: stop" => served.installation.stop().await,
                "service: start" => served.start().await,
                other => panic!("the suite wants {other:?}"),
            }
            done += 1;
            told.write_all(b"done\n").await.unwrap();
        }
        suite.wait().await.unwrap()
    });
    let ended = ended.await;
    let passed = ended.as_ref().is_ok_and(|status| status.success());
    assert!(passed, "{ended:?}\n{}\n{}", tail_of(&output, 200), served.log());
    assert_eq!(done, 5);
}

/// A service whose own services do not answer at first.
struct Stubborn {
    refuses: Arc<Mutex<u32>>,
    did: Arc<Mutex<Vec<Value>>>,
}

#[async_trait]
impl Handler for Stubborn {
    async fn handle(&self, asked: Asked) -> Result<Value, Failed> {
        let mut refuses = self.refuses.lock().unwrap();
        if *refuses > 0 {
            *refuses -= 1;
            return Err(Failed {
                problem: Problem::new("Exception", "nobody answers"),
                passing: true,
            });
        }
        self.did.lock().unwrap().push(asked.args["n"].clone());
        Ok(Value::Null)
    }

    fn in_order(&self, _: &str) -> bool {
        true
    }
}

#[tokio::test]
async fn a_fire_that_cannot_be_done_yet_is_given_back_and_both_ends_outlive_the_broker() {
    let mut rabbit = Rabbit::start().await.unwrap();
    let settings = Settings::new(SecretUrl::new(rabbit.url()), "epu", "stubborn");
    let names = Names {
        exchange: "fires".to_owned(),
        sysname: Some("live".to_owned()),
    };
    let dashi = Dashi::new(Link::start(settings, Metrics::new().unwrap()), names);
    let (did, cancel) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
    let refused = Arc::new(Mutex::new(2));
    let service = Service {
        topic: "stubborn".to_owned(),
        handler: Arc::new(Stubborn {
            refuses: refused.clone(),
            did: did.clone(),
        }),
    };
    let (serving, stop) = (dashi.clone(), cancel.clone());
    let serving = tokio::spawn(async move { serving.run(vec![service], stop).await });
    let fire = |n: u32| {
        let fire = Fire {
            from: "test".to_owned(),
            to: "stubborn".to_owned(),
            op: "work".to_owned(),
            args: Map::from_iter([("n".to_owned(), json!(n))]),
        };
        assert!(dashi.fire(fire));
    };
    // As with any peer of dashi's, what is fired before the service has bound its queue is dropped by the broker: it is fired until it is done.
    let done = |n: u32| {
        let did = did.clone();
        let fire = &fire;
        eventually(Duration::from_secs(60), "it is done", async move || {
            fire(n);
            tokio::time::sleep(Duration::from_millis(500)).await;
            did.lock().unwrap().contains(&json!(n))
        })
    };
    done(1).await;
    assert_eq!(*refused.lock().unwrap(), 0, "it was given back until it could be done");

    rabbit.kill9();
    fire(2);
    rabbit.restart().await.unwrap();
    done(3).await;
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap();
}
