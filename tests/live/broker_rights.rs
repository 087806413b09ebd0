//! The rights on the broker that `docs/trust.md` gives to each role: everything works with them, and nothing more does. What the
//! broker cannot tell apart, the services do by the sender's role.

use std::sync::Arc;
use std::time::Duration;

use epu_bus::amqp::{AmqpBus, DeadLetters, Metrics, Why};
use epu_bus::users::{Role, User, Users};
use epu_bus::{Bus, Calls};
use epu_core::Fault;
use epu_core::fact::{Fact, Kind, Listener};
use epu_core::request::{Answer, Caller, Ids, Nothing, Request, Service};
use epu_tests::rabbit::Rabbit;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ErrorKind, ExchangeKind};
use serde_json::{Value, json};

use crate::bus_amqp::{Raw, settings};

const SOON: Duration = Duration::from_secs(20);
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/trust.md");

/// The patterns of a role in the document, with this installation's names put in.
fn rights(role: &str, sysname: &str, user: &str) -> [String; 3] {
    let text = std::fs::read_to_string(DOCUMENT).unwrap();
    let heading = format!("rabbitmqctl set_permissions -p VHOST {role} ");
    let (_, after) = text
        .split_once(&heading)
        .unwrap_or_else(|| panic!("docs/trust.md has no `{heading}`"));
    let command = after.split("```").next().unwrap();
    let patterns: Vec<String> = command
        .split('\'')
        .skip(1)
        .step_by(2)
        .map(|pattern| pattern.replace("SYSNAME", sysname).replace(role, user))
        .collect();
    patterns
        .try_into()
        .unwrap_or_else(|patterns| panic!("{role} has not three patterns: {patterns:?}"))
}

async fn add(rabbit: &Rabbit, role: &str, sysname: &str, user: &str) {
    let rights = rights(role, sysname, user);
    rabbit.add_user(user, "secret", [&rights[0], &rights[1], &rights[2]]).await.unwrap();
}

fn users() -> Users {
    let user = |role| User { role, owners: Vec::new() };
    Users::new([
        ("prov".to_owned(), user(Role::Service)),
        ("ctl".to_owned(), user(Role::Service)),
        ("agg".to_owned(), user(Role::Service)),
        ("ada".to_owned(), user(Role::Operator)),
        ("cy".to_owned(), user(Role::Reader)),
        ("gus".to_owned(), user(Role::Operator)),
    ])
}

async fn bus(rabbit: &Rabbit, user: &str) -> Arc<AmqpBus> {
    let settings = settings(&rabbit.url_as(user, "secret"), "rights", user);
    let users = if user == "ada" || user == "cy" { Users::default() } else { users() };
    AmqpBus::connect(settings, users, Metrics::new().unwrap()).await.unwrap()
}

/// Answers with who asks.
fn name_callers(mut calls: Calls) {
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            let caller = call.caller.name();
            call.answer(Ok(Answer::Json(json!(caller))));
        }
    });
}

fn status() -> Request {
    Request::Status(Nothing {})
}

fn sites() -> Request {
    Request::Sites(Nothing {})
}

fn command() -> Request {
    Request::WithdrawDrain(Ids {
        instances: Vec::new(),
        epoch: 0,
    })
}

async fn said(bus: &AmqpBus, caller: Caller, request: Request) -> Result<Value, Fault> {
    bus.ask(caller, request, SOON).await.map(Answer::into_json)
}

async fn everybody(rabbit: &Rabbit) {
    for (role, user) in [
        ("PROVISIONER", "prov"),
        ("CONTROLLER", "ctl"),
        ("AGGREGATOR", "agg"),
        ("OPERATOR", "ada"),
        ("OPERATOR", "cy"),
        ("GRAVEKEEPER", "gus"),
    ] {
        add(rabbit, role, "rights", user).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_role_works_with_the_rights_that_are_documented_for_it_and_may_do_nothing_more() {
    let rabbit = Rabbit::start().await.unwrap();
    everybody(&rabbit).await;
    let (provisioner, controller, aggregator) = (bus(&rabbit, "prov").await, bus(&rabbit, "ctl").await, bus(&rabbit, "agg").await);
    let services = [&provisioner, &controller, &aggregator];
    name_callers(provisioner.serve(Service::Provisioner));
    name_callers(controller.serve(Service::Controller));
    name_callers(aggregator.serve(Service::Aggregator));
    for (bus, name) in services.iter().zip(["p1", "c1", "a1"]) {
        name_callers(bus.serve_member(name));
    }
    let mut heard = Vec::new();
    for bus in services {
        heard.push(bus.listen(&[Kind::Listening]));
    }
    for bus in services {
        bus.settled(SOON).await.unwrap();
    }

    // What services do.
    let me = Caller::Service("controller");
    assert_eq!(said(&controller, me.clone(), command()).await, Ok(json!("controller")));
    assert_eq!(said(&aggregator, me.clone(), status()).await, Ok(json!("controller")));
    assert_eq!(
        said(&provisioner, me.clone(), Request::Heartbeats(Vec::new())).await,
        Ok(json!("controller"))
    );
    for member in ["p1", "c1", "a1"] {
        for bus in services {
            let answer = bus.ask_member(member, me.clone(), status(), SOON).await.map(Answer::into_json);
            assert_eq!(answer, Ok(json!("controller")), "{member}");
        }
    }
    let ada = Caller::Operator("ada@http".to_owned());
    assert_eq!(
        said(&controller, ada, sites()).await,
        Ok(json!("ada@http")),
        "a service asks for whom it says"
    );
    for bus in services {
        bus.tell(Fact::Listening(Listener::Controller));
    }
    for facts in &mut heard {
        for _ in 0..3 {
            tokio::time::timeout(SOON, facts.next()).await.unwrap().unwrap();
        }
    }

    // What operators and readers do.
    let (ada, cy) = (bus(&rabbit, "ada").await, bus(&rabbit, "cy").await);
    let anybody = || Caller::Operator("whoever I say I am".to_owned());
    assert_eq!(
        said(&ada, anybody(), command()).await,
        Ok(json!("ada")),
        "who asks, the broker says"
    );
    assert_eq!(said(&ada, anybody(), status()).await, Ok(json!("ada")));
    assert_eq!(said(&cy, anybody(), status()).await, Ok(json!("cy")));
    assert_eq!(said(&cy, anybody(), sites()).await, Ok(json!("cy")));
    let refused = said(&cy, anybody(), command()).await.unwrap_err();
    assert!(refused.code == "forbidden" && refused.text.contains("reader"), "{refused}");

    // Dead letters are for those who may.
    let mut raw = Raw::new(&rabbit.url_as("ada", "secret"), "rights").await;
    assert_eq!(raw.ask("controller", b"nonsense", raw.properties(Some("ada"))).await, "bad-request");
    let gus = bus(&rabbit, "gus").await;
    assert_eq!(DeadLetters::new(gus.link().clone()).list(10).await.unwrap().len(), 1);
    let none = DeadLetters::new(ada.link().clone()).list(10).await.unwrap_err();
    assert!(
        none.why() == Why::NotPermitted && none.to_string().contains("docs/trust.md"),
        "{none}"
    );

    for user in ["prov", "ctl", "agg", "ada", "cy", "gus"] {
        may_do_no_more(&rabbit, user).await;
    }
    // And all that was tried has changed nothing.
    assert_eq!(said(&ada, anybody(), status()).await, Ok(json!("ada")));
    assert_eq!(said(&ada, anybody(), command()).await, Ok(json!("ada")));
}

/// Tries what this user has no right to.
async fn may_do_no_more(rabbit: &Rabbit, user: &str) {
    let connection = Connection::connect(&rabbit.url_as(user, "secret"), ConnectionProperties::default())
        .await
        .unwrap();
    let own = match user {
        "prov" => "rights.epu.provisioner",
        "ctl" => "rights.epu.controller",
        "agg" => "rights.epu.aggregator",
        _ => "",
    };
    let mut tried = 0;
    let mut refused = async |what: String, attempt: &dyn Fn(Channel) -> Attempt| {
        let channel = connection.create_channel().await.unwrap();
        tried += 1;
        let outcome = tokio::time::timeout(SOON, attempt(channel)).await.unwrap();
        let denied = outcome.as_ref().err().is_some_and(|error| {
            matches!(error.kind(), ErrorKind::ProtocolError(refusal)
                if *refusal.kind() == AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED))
        });
        assert!(denied, "{user} may {what}: {outcome:?}");
    };
    for queue in [
        "rights.epu.provisioner",
        "rights.epu.controller",
        "rights.epu.aggregator",
        "rights.epu.dead",
    ] {
        if queue == own {
            continue;
        }
        if !(queue == "rights.epu.dead" && user == "gus") {
            refused(format!("read {queue}"), &|channel| {
                Box::pin(async move { channel.basic_get(queue.into(), BasicGetOptions::default()).await.map(drop) })
            })
            .await;
            refused(format!("consume {queue}"), &|channel| {
                let consuming = async move {
                    channel
                        .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
                        .await
                };
                Box::pin(async move { consuming.await.map(drop) })
            })
            .await;
            refused(format!("purge {queue}"), &|channel| {
                Box::pin(async move { channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.map(drop) })
            })
            .await;
        }
        let declares_dead = queue == "rights.epu.dead" && !own.is_empty();
        if !declares_dead {
            refused(format!("delete {queue}"), &|channel| {
                Box::pin(async move { channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map(drop) })
            })
            .await;
        }
    }
    refused("publish to any queue by the default exchange".to_owned(), &|channel| {
        Box::pin(async move {
            channel.confirm_select(Default::default()).await?;
            let publishing = channel.basic_publish(
                "".into(),
                "rights.epu.provisioner".into(),
                BasicPublishOptions::default(),
                b"{}",
                BasicProperties::default(),
            );
            publishing.await?.await.map(drop)
        })
    })
    .await;
    refused("declare a queue of another name".to_owned(), &|channel| {
        Box::pin(async move {
            let declaring = channel.queue_declare("rights.epu.other".into(), QueueDeclareOptions::default(), FieldTable::default());
            declaring.await.map(drop)
        })
    })
    .await;
    refused("have somebody else's reply queue".to_owned(), &|channel| {
        Box::pin(async move {
            let declaring = channel.queue_declare(
                "rights.epu.reply.nobody.1".into(),
                QueueDeclareOptions::default(),
                FieldTable::default(),
            );
            declaring.await.map(drop)
        })
    })
    .await;
    refused("declare an exchange of another name".to_owned(), &|channel| {
        Box::pin(async move {
            let options = ExchangeDeclareOptions::default();
            channel
                .exchange_declare("rights.other".into(), ExchangeKind::Direct, options, FieldTable::default())
                .await
        })
    })
    .await;
    if own.is_empty() {
        refused("delete the exchange".to_owned(), &|channel| {
            Box::pin(async move { channel.exchange_delete("rights.epu".into(), ExchangeDeleteOptions::default()).await })
        })
        .await;
        refused("bind a service's queue elsewhere".to_owned(), &|channel| {
            Box::pin(async move {
                let options = QueueBindOptions::default();
                channel
                    .queue_bind(
                        "rights.epu.controller".into(),
                        "rights.epu".into(),
                        "provisioner".into(),
                        options,
                        FieldTable::default(),
                    )
                    .await
            })
        })
        .await;
    }
    assert!(tried > 10);
}

type Attempt = std::pin::Pin<Box<dyn Future<Output = lapin::Result<()>> + Send>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_and_replies_of_those_who_are_no_service_do_not_count() {
    let rabbit = Rabbit::start().await.unwrap();
    everybody(&rabbit).await;
    let (controller, provisioner) = (bus(&rabbit, "ctl").await, bus(&rabbit, "prov").await);
    let mut facts = controller.listen(&[Kind::Listening]);
    let mut calls = provisioner.serve(Service::Provisioner);
    controller.settled(SOON).await.unwrap();
    provisioner.settled(SOON).await.unwrap();
    let ada = Raw::new(&rabbit.url_as("ada", "secret"), "rights").await;

    let forged = serde_json::to_vec(&Fact::Listening(Listener::Aggregator)).unwrap();
    assert!(ada.publish("fact.listening", &forged, ada.properties(Some("ada"))).await.unwrap());
    assert!(ada.publish("fact.listening", &forged, ada.properties(None)).await.unwrap());
    provisioner.tell(Fact::Listening(Listener::Controller));
    let heard = tokio::time::timeout(SOON, facts.next()).await.unwrap();
    assert_eq!(heard, Some(Fact::Listening(Listener::Controller)), "a forged fact was heard");

    let asker = controller.clone();
    let asking = tokio::spawn(async move { said(&asker, Caller::Service("controller"), command()).await });
    let call = tokio::time::timeout(SOON, calls.recv()).await.unwrap().unwrap();
    let page = rabbit.management("GET", "/api/queues/%2F", "").await.unwrap();
    let queues: Vec<Value> = serde_json::from_str(&page.body).unwrap();
    let names = queues.iter().filter_map(|queue| queue["name"].as_str());
    let reply_queue = names
        .into_iter()
        .find(|name| name.starts_with("rights.epu.reply.ctl."))
        .expect("a reply queue");
    for number in 0..20 {
        for user in [Some("ada"), None] {
            let properties = ada.properties(user).with_correlation_id(format!("{number:x}").as_str().into());
            assert!(
                ada.publish(reply_queue, br#"{"result":"forged","error":null}"#, properties)
                    .await
                    .unwrap()
            );
        }
    }
    call.answer(Ok(Answer::Json(json!("true"))));
    assert_eq!(asking.await.unwrap(), Ok(json!("true")));

    // A reply is sent to where replies are and nowhere else: nobody can make a service speak to another.
    let elsewhere = ada.properties(Some("ada")).with_reply_to("fact.listening".into());
    let sites = br#"{"op":"sites","args":{}}"#;
    assert!(ada.publish("provisioner", sites, elsewhere).await.unwrap());
    tokio::time::timeout(SOON, calls.recv())
        .await
        .unwrap()
        .unwrap()
        .answer(Ok(Answer::Json(Value::Null)));
    provisioner.tell(Fact::Listening(Listener::Aggregator));
    let heard = tokio::time::timeout(SOON, facts.next()).await.unwrap();
    assert_eq!(heard, Some(Fact::Listening(Listener::Aggregator)));
    assert_eq!(
        controller.metrics().refused.with_label_values(&["bad-json"]).get(),
        0,
        "an answer came as a fact"
    );
}
