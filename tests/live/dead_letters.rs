//! Messages that no service can handle are answered, put aside, and dealt with by operators; nothing else is put aside.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use epu_bus::Bus;
use epu_bus::amqp::{AmqpBus, DeadLetters, Fate, Metrics};
use epu_bus::users::Role;
use epu_core::request::{Answer, Caller, Nothing, Request, Service};
use epu_tests::process;
use epu_tests::rabbit::{Rabbit, USER};
use epu_tests::wait::{eventually, until};
use serde_json::{Value, json};

use crate::bus_amqp::{Raw, guest_is, settings};

const SOON: Duration = Duration::from_secs(20);
const STATUS: &[u8] = br#"{"op":"status","args":{}}"#;

async fn service(rabbit: &Rabbit, sysname: &str) -> Arc<AmqpBus> {
    let settings = settings(&rabbit.url(), sysname, "service");
    let bus = AmqpBus::connect(settings, guest_is(Role::Service), Metrics::new().unwrap())
        .await
        .unwrap();
    let mut calls = bus.serve(Service::Controller);
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            call.answer(Ok(Answer::Json(json!("here"))));
        }
    });
    bus.settled(SOON).await.unwrap();
    bus
}

/// What an operator sees of the dead letters with the real program.
struct Operator {
    url: String,
    config: tempfile::TempDir,
}

impl Operator {
    fn new(rabbit: &Rabbit, sysname: &str) -> Self {
        let config = tempfile::tempdir().unwrap();
        let text = format!("amqp:\n  url: env:EPU_AMQP_URL\n  sysname: {sysname}\n");
        std::fs::write(config.path().join("epu.yaml"), text).unwrap();
        Self { url: rabbit.url(), config }
    }

    fn file(&self) -> std::path::PathBuf {
        self.config.path().join("epu.yaml")
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let file: &Path = &self.file();
        let output = process::run(arguments, |command| {
            command.env("EPU_AMQP_URL", &self.url).env("EPU_CONFIG", file);
        });
        let output = output.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    fn list(&self) -> Vec<Value> {
        let (code, said) = self.run(&["dead", "list", "--output", "json"]);
        assert_eq!(code, Some(0), "{said}");
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_understood_is_answered_put_aside_shown_replayed_and_dropped() {
    let rabbit = Rabbit::shared().await.unwrap();
    let _service = service(&rabbit, "letters").await;
    let mut raw = Raw::new(&rabbit.url(), "letters").await;
    let operator = Operator::new(&rabbit, "letters");
    let (code, said) = operator.run(&["dead", "list"]);
    assert_eq!((code, said.as_str()), (Some(0), "there are no dead letters\n"));

    let guest = raw.properties(Some(USER));
    assert_eq!(raw.ask("controller", STATUS, guest.clone()).await, "\"here\"");
    assert_eq!(
        raw.ask("controller", b"{\"op\":\"dance\",\"args\":{}}", guest.clone()).await,
        "bad-request"
    );
    assert_eq!(raw.ask("controller", b"\xff\xfe not JSON", guest.clone()).await, "bad-request");
    let pickled = guest.clone().with_content_type("application/x-python-serialize".into());
    assert_eq!(raw.ask("controller", STATUS, pickled).await, "bad-request");

    let letters = operator.list();
    assert_eq!(letters.len(), 3, "{letters:?}");
    for letter in &letters {
        assert_eq!(letter["reason"], "bad-request");
        assert_eq!(letter["user"], USER);
        assert_eq!(letter["queue"], "letters.epu.controller");
        assert_eq!(letter["key"], "controller");
        assert!(
            letter["at"].as_i64().is_some_and(|at| at > 1_700_000_000_000) || letter["at"].is_string(),
            "{letter}"
        );
    }
    assert!(letters[0]["text"].as_str().unwrap().contains("dance"), "{letters:?}");
    assert_eq!(letters, operator.list(), "looking changes nothing");
    let id = |at: usize| letters[at]["id"].as_str().unwrap().to_owned();
    let (code, said) = operator.run(&["dead", "show", &id(0)]);
    assert!(
        code == Some(0) && said.contains("\"op\": \"dance\"") && said.contains("letters.epu.controller"),
        "{said}"
    );
    let (_, said) = operator.run(&["dead", "list"]);
    assert!(said.lines().count() == 3 && said.contains(&id(2)), "{said}");

    // What was wrong with it is wrong still: replayed, it comes back as another letter.
    let (code, said) = operator.run(&["dead", "replay", &id(0)]);
    assert_eq!(code, Some(0), "{said}");
    eventually(SOON, "it is put aside again", async || operator.list().len() == 3).await;
    let again = operator.list();
    assert!(again.iter().all(|letter| letter["id"] != letters[0]["id"]), "{again:?}");

    let (code, said) = operator.run(&["dead", "drop", &id(1)]);
    assert!(code == Some(2) && said.contains("--yes"), "{said}");
    let (code, said) = operator.run(&["dead", "drop", &id(1), "none-such", "--yes"]);
    assert!(code == Some(2) && said.contains("none-such"), "{said}");
    assert_eq!(operator.list().len(), 2);
    let (code, said) = operator.run(&["dead", "drop", "--all", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(operator.list(), [] as [Value; 0]);
    let (code, said) = operator.run(&["dead", "show", &id(1)]);
    assert!(code == Some(2) && said.contains("dead list"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_kills_whoever_handles_it_is_put_aside_and_others_are_answered() {
    let rabbit = Rabbit::shared().await.unwrap();
    let first = service(&rabbit, "poison").await;
    first.close().await;
    let raw = Raw::new(&rabbit.url(), "poison").await;
    let body = br#"{"op":"pool_pause","args":{"pool":"killer","paused":{}}}"#;
    assert!(raw.publish("controller", body, raw.properties(Some(USER))).await.unwrap());
    let mut deaths = 0;
    let letters = loop {
        let settings = settings(&rabbit.url(), "poison", &format!("victim-{deaths}"));
        let bus = AmqpBus::connect(settings, guest_is(Role::Service), Metrics::new().unwrap())
            .await
            .unwrap();
        let mut calls = bus.serve(Service::Controller);
        let killed = tokio::time::timeout(Duration::from_secs(5), calls.recv()).await;
        if let Ok(Some(call)) = killed {
            // The process dies of it: the socket closes with nothing said, and nobody answers.
            deaths += 1;
            assert!(deaths < 20, "it is never put aside");
            bus.link().now().unwrap().end();
            drop(call);
            continue;
        }
        break DeadLetters::new(bus.link().clone()).list(10).await.unwrap();
    };
    assert_eq!(deaths, 5);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((letters[0].reason.as_str(), letters[0].body.as_bytes()), ("poison", &body[..]));

    // The process that does not die of it gets it again.
    let bus = service(&rabbit, "poison").await;
    let dead = DeadLetters::new(bus.link().clone());
    assert_eq!(dead.settle(Fate::Replay, |_| true).await.unwrap().len(), 1);
    until(SOON, "it was handled", async || {
        let left = rabbit.ready("poison.epu.controller").await.map_err(|e| e.to_string())?;
        let letters = dead.list(10).await.map_err(|e| e.to_string())?;
        if left == 0 && letters.is_empty() {
            Ok(())
        } else {
            Err(format!("{left} wait, {letters:?}"))
        }
    })
    .await
    .unwrap();
    let answer = bus.ask(Caller::Service("controller"), Request::Status(Nothing {}), SOON).await;
    assert!(answer.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_what_merely_expired_are_not_put_aside() {
    let rabbit = Rabbit::shared().await.unwrap();
    let bus = service(&rabbit, "stranger").await;
    let mut raw = Raw::new(&rabbit.url(), "stranger").await;
    let nobody = raw.properties(None);
    assert_eq!(raw.ask("controller", STATUS, nobody.clone()).await, "unauthorized");
    assert_eq!(raw.ask("controller", b"nonsense", nobody).await, "unauthorized");

    rabbit.add_user("stranger", "stranger", [".*", ".*", ".*"]).await.unwrap();
    let mut stranger = Raw::new(&rabbit.url_as("stranger", "stranger"), "stranger").await;
    let properties = stranger.properties(Some("stranger"));
    assert_eq!(stranger.ask("controller", b"nonsense", properties).await, "forbidden");
    // The broker itself refuses who claims to be somebody else.
    let claimed = stranger.properties(Some(USER));
    assert!(stranger.publish("controller", STATUS, claimed).await.is_err());

    bus.close().await;
    let expiring = raw.properties(Some(USER)).with_expiration("50".into());
    assert!(raw.publish("controller", STATUS, expiring).await.unwrap());
    let bus = service(&rabbit, "stranger").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(DeadLetters::new(bus.link().clone()).list(10).await.unwrap(), []);
}
