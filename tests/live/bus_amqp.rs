//! The AMQP bus against a real broker: the contract of every bus, and what only a broker can do to one.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epu_bus::amqp::{AmqpBus, DeadLetters, FACTS_WAITING, Metrics, Settings, Why};
use epu_bus::contract::{self, Ends, Settle};
use epu_bus::users::{Role, User, Users};
use epu_bus::{Bus, Calls};
use epu_core::Fault;
use epu_core::fact::{Fact, Kind, Listener};
use epu_core::request::{Answer, Caller, Ids, Nothing, PoolFile, Request, Service};
use epu_core::secret::SecretUrl;
use epu_core::time::{Clock, SystemClock};
use epu_tests::rabbit::{Rabbit, USER};
use epu_tests::wait::{eventually, until};
use futures::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::several::relay::{Relay, port_of};

/// How long anything may take to come into effect.
const SOON: Duration = Duration::from_secs(20);

/// The one user of a new node is everything here.
pub(crate) fn guest_is(role: Role) -> Users {
    Users::new([(USER.to_owned(), User { role, owners: Vec::new() })])
}

pub(crate) fn settings(url: &str, sysname: &str, name: &str) -> Settings {
    Settings::new(SecretUrl::new(url), sysname, name)
}

async fn bus(rabbit: &Rabbit, sysname: &str, name: &str) -> Arc<AmqpBus> {
    let settings = settings(&rabbit.url(), sysname, name);
    AmqpBus::connect(settings, guest_is(Role::Service), Metrics::new().unwrap())
        .await
        .unwrap()
}

fn settle(buses: &[&Arc<AmqpBus>]) -> Settle {
    let buses: Vec<Arc<AmqpBus>> = buses.iter().map(|&bus| bus.clone()).collect();
    Arc::new(move || -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let buses = buses.clone();
        Box::pin(async move {
            // What one says may have to reach the other first.
            for bus in buses.iter().chain(&buses) {
                bus.settled(SOON).await.unwrap();
            }
        })
    })
}

/// A sysname for each bus of a suite, so that none sees what another left.
fn names(prefix: &'static str) -> impl Fn() -> String {
    let count = std::sync::atomic::AtomicUsize::new(0);
    move || format!("{prefix}-{}", count.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_amqp_bus_keeps_the_contract_between_two_processes() {
    let rabbit = Rabbit::shared().await.unwrap();
    let name = names("contract");
    contract::all(|| async {
        let sysname = name();
        let (near, far) = (bus(&rabbit, &sysname, "near").await, bus(&rabbit, &sysname, "far").await);
        Ends {
            settle: settle(&[&near, &far]),
            near,
            far,
            facts_waiting: FACTS_WAITING,
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_amqp_bus_keeps_the_contract_within_one_process() {
    let rabbit = Rabbit::shared().await.unwrap();
    let name = names("alone");
    contract::all(|| async {
        let bus = bus(&rabbit, &name(), "alone").await;
        Ends {
            settle: settle(&[&bus]),
            ..Ends::same(bus, FACTS_WAITING)
        }
    })
    .await;
}

/// A command with a number, which only services may give and which needs nothing to be there.
fn numbered(number: u64) -> Request {
    Request::WithdrawDrain(Ids {
        instances: Vec::new(),
        epoch: number,
    })
}

fn number_of(request: &Request) -> u64 {
    match request {
        Request::WithdrawDrain(ids) => ids.epoch,
        other => panic!("{other:?} was not asked"),
    }
}

fn status() -> Request {
    Request::Status(Nothing {})
}

fn code(answer: &Result<Answer, Fault>) -> &str {
    answer.as_ref().map_or_else(|fault| &*fault.code, |_| "an answer")
}

const CONTROLLER: Caller = Caller::Service("controller");

/// Answers every call with null, and keeps the numbers that it saw.
fn keep_numbers(mut calls: Calls) -> (Arc<Mutex<BTreeSet<u64>>>, JoinHandle<()>) {
    let kept = Arc::new(Mutex::new(BTreeSet::new()));
    let keeping = kept.clone();
    let serving = tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            keeping.lock().unwrap().insert(number_of(&call.request));
            call.answer(Ok(Answer::Json(Value::Null)));
        }
    });
    (kept, serving)
}

/// Answers every call with the same text.
fn say(mut calls: Calls, text: &'static str) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            call.answer(Ok(Answer::Json(json!(text))));
        }
    })
}

async fn asked(bus: &AmqpBus, request: Request) -> Result<Value, Fault> {
    bus.ask(CONTROLLER, request, SOON).await.map(Answer::into_json)
}

/// Whoever publishes past the bus, as another program would.
pub(crate) struct Raw {
    _connection: lapin::Connection,
    channel: lapin::Channel,
    sysname: String,
    replies: lapin::Consumer,
    reply_to: String,
}

impl Raw {
    pub(crate) async fn new(url: &str, sysname: &str) -> Self {
        let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let user = connection.status().username();
        let reply_to = format!("{sysname}.epu.reply.{user}.raw{}", fastrand::u64(..));
        let own = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(reply_to.as_str().into(), own, FieldTable::default())
            .await
            .unwrap();
        let exchange = format!("{sysname}.epu");
        channel
            .queue_bind(
                reply_to.as_str().into(),
                exchange.as_str().into(),
                reply_to.as_str().into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let replies = channel
            .basic_consume(reply_to.as_str().into(), "".into(), options, FieldTable::default())
            .await
            .unwrap();
        Self {
            _connection: connection,
            channel,
            sysname: sysname.to_owned(),
            replies,
            reply_to,
        }
    }

    /// A request as the bus sends it, but for `user`.
    pub(crate) fn properties(&self, user: Option<&str>) -> lapin::BasicProperties {
        let properties = lapin::BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_correlation_id("7".into())
            .with_reply_to(self.reply_to.as_str().into());
        match user {
            Some(user) => properties.with_user_id(user.into()),
            None => properties,
        }
    }

    /// Publishes, and whether the broker has it in a queue.
    pub(crate) async fn publish(&self, key: &str, body: &[u8], properties: lapin::BasicProperties) -> lapin::Result<bool> {
        let mandatory = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let exchange = format!("{}.epu", self.sysname);
        let publishing = self
            .channel
            .basic_publish(exchange.as_str().into(), key.into(), mandatory, body, properties);
        Ok(publishing.await?.await? == lapin::Confirmation::Ack(None))
    }

    pub(crate) async fn reply(&mut self) -> Value {
        let reply = tokio::time::timeout(SOON, self.replies.next())
            .await
            .expect("a reply")
            .unwrap()
            .unwrap();
        serde_json::from_slice(&reply.data).unwrap()
    }

    pub(crate) async fn ask(&mut self, key: &str, body: &[u8], properties: lapin::BasicProperties) -> String {
        assert!(self.publish(key, body, properties).await.unwrap(), "nobody serves {key}");
        let reply = self.reply().await;
        reply["error"]["code"]
            .as_str()
            .map_or_else(|| reply["result"].to_string(), str::to_owned)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_or_restarted_under_load_loses_nothing_that_it_confirmed_and_is_found_again() {
    let mut rabbit = Rabbit::start().await.unwrap();
    let (service, asker) = (bus(&rabbit, "load", "provisioner").await, bus(&rabbit, "load", "controller").await);
    let (kept, _serving) = keep_numbers(service.serve(Service::Provisioner));
    let mut facts = asker.listen(&[Kind::Listening]);
    service.settled(SOON).await.unwrap();
    asker.settled(SOON).await.unwrap();
    let (stop, acknowledged) = (CancellationToken::new(), Arc::new(Mutex::new(BTreeSet::new())));
    let next = Arc::new(AtomicU64::new(1));
    let mut load = JoinSet::new();
    for _ in 0..8 {
        // Askers repeat until there is an answer, as controllers do.
        let (asker, stop, acknowledged, next) = (asker.clone(), stop.clone(), acknowledged.clone(), next.clone());
        load.spawn(async move {
            while !stop.is_cancelled() {
                let number = next.fetch_add(1, Ordering::Relaxed);
                while !stop.is_cancelled() {
                    if asker.ask(CONTROLLER, numbered(number), Duration::from_secs(5)).await.is_ok() {
                        acknowledged.lock().unwrap().insert(number);
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
    }
    // One more publishes without waiting for answers: what the broker has confirmed must arrive, whatever happens to it.
    let publishing = {
        let (url, stop, acknowledged, next) = (rabbit.url(), stop.clone(), acknowledged.clone(), next.clone());
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                let Ok(connection) = lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                drop(connection);
                let raw = Raw::new(&url, "load").await;
                while !stop.is_cancelled() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let body = serde_json::to_vec(&numbered(number)).unwrap();
                    let mut properties = raw.properties(Some(USER));
                    properties = properties.with_reply_to("".into());
                    match tokio::time::timeout(Duration::from_secs(2), raw.publish("provisioner", &body, properties)).await {
                        Ok(Ok(true)) => {
                            acknowledged.lock().unwrap().insert(number);
                        }
                        Ok(Ok(false)) => {}
                        _ => break,
                    }
                }
            }
        })
    };
    let so_far = || acknowledged.lock().unwrap().len();
    let goes_on = async |what: &str| {
        let before = so_far();
        let going = until(SOON, what, async || {
            let count = so_far() - before;
            if count > 200 {
                return Ok(());
            }
            let last = asker.ask(CONTROLLER, numbered(0), Duration::from_secs(5)).await;
            Err(format!("{count} done; {last:?}; {:?}, {:?}", asker.ready(), service.ready()))
        });
        going.await.unwrap();
    };
    goes_on("there is load").await;
    // RabbitMQ writes the name of a new quorum queue to disk a moment after it exists, and does not know it again when it is killed
    // before that; this is about queues that have existed for a while.
    tokio::time::sleep(Duration::from_secs(5)).await;
    rabbit.kill9();
    eventually(SOON, "the loss is noticed", async || {
        asker.ready().is_err() && service.ready().is_err()
    })
    .await;
    rabbit.restart().await.unwrap();
    goes_on("there is load again").await;
    let told = async || facts.lost() > 0;
    eventually(SOON, "a listener that was away is told that it may have missed something", told).await;
    rabbit.stop().await;
    rabbit.restart().await.unwrap();
    goes_on("and again").await;
    eventually(SOON, "and is told again", told).await;
    stop.cancel();
    while load.join_next().await.is_some() {}
    publishing.await.unwrap();

    let missing = || {
        let (acknowledged, kept) = (acknowledged.lock().unwrap(), kept.lock().unwrap());
        acknowledged.difference(&kept).copied().collect::<Vec<u64>>()
    };
    until(SOON, "all that was acknowledged was done", async || {
        let missing = missing();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    })
    .await
    .unwrap();
    service.tell(Fact::Listening(Listener::Controller));
    let heard = tokio::time::timeout(SOON, facts.next()).await.unwrap();
    assert_eq!(heard, Some(Fact::Listening(Listener::Controller)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_are_refused_where_nobody_would_hear_of_them() {
    let rabbit = Rabbit::shared().await.unwrap();
    let port = port_of(&rabbit.url());
    let wire = Relay::to(port).await.unwrap();
    let settings = settings(&wire.url(&rabbit.url(), port), "cut", "aggregator");
    let bus = AmqpBus::connect(settings, guest_is(Role::Service), Metrics::new().unwrap())
        .await
        .unwrap();
    let _heartbeats = say(bus.serve(Service::Aggregator), "heard");
    let _others = say(bus.serve(Service::Controller), "here");
    bus.settled(SOON).await.unwrap();
    let heartbeats = || Request::Heartbeats(Vec::new());
    assert_eq!(asked(&bus, heartbeats()).await, Ok(json!("heard")));
    wire.cut();
    let refused = async || bus.ask(CONTROLLER, heartbeats(), SOON).await.err();
    eventually(SOON, "it is noticed", async || refused().await.is_some()).await;
    let fault = refused().await.expect("a refusal");
    assert_eq!(fault.code, "no-contact", "{fault}");
    assert!(bus.in_touch().is_err());
    assert_eq!(asked(&bus, status()).await, Ok(json!("here")), "others are answered as ever");
    wire.mend();
    until(SOON, "it goes on", async || asked(&bus, heartbeats()).await).await.unwrap();
    assert_eq!(bus.in_touch(), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_goes_to_its_asker_s_own_queue_only() {
    let rabbit = Rabbit::shared().await.unwrap();
    let service = bus(&rabbit, "own", "service").await;
    let _serving = say(service.serve(Service::Controller), "here");
    service.settled(SOON).await.unwrap();
    rabbit.add_user("mallory", "mallory", [".*", ".*", ".*"]).await.unwrap();
    let mut victim = Raw::new(&rabbit.url(), "own").await;
    let mallory = Raw::new(&rabbit.url_as("mallory", "mallory"), "own").await;
    // A refusal of mallory's request, sent where the victim waits for an answer of its own.
    let aimed = mallory.properties(Some("mallory")).with_reply_to(victim.reply_to.as_str().into());
    assert!(mallory.publish("controller", b"nonsense", aimed).await.unwrap());
    let own = victim.properties(Some(USER));
    assert_eq!(
        victim.ask("controller", br#"{"op":"status","args":{}}"#, own).await,
        "\"here\"",
        "the first to arrive is the victim's own answer"
    );
    assert!(
        tokio::time::timeout(Duration::from_secs(1), victim.replies.next()).await.is_err(),
        "and there is no other"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_short_of_memory_is_said_to_be_and_goes_on_by_itself() {
    let rabbit = Rabbit::start().await.unwrap();
    let (service, asker) = (bus(&rabbit, "alarm", "service").await, bus(&rabbit, "alarm", "asker").await);
    let _serving = say(service.serve(Service::Controller), "here");
    service.settled(SOON).await.unwrap();
    assert_eq!(asked(&asker, status()).await, Ok(json!("here")));

    rabbit.memory_alarm(true).await.unwrap();
    // The broker blocks a connection when it publishes: the first request finds out.
    for _ in 0..3 {
        let clock = SystemClock::start();
        let began = clock.now();
        let fault = asker.ask(CONTROLLER, status(), SOON).await.unwrap_err();
        assert!(["no-contact", "timeout"].contains(&&*fault.code), "{fault}");
        assert!(
            fault.text.contains("low on memory") && fault.text.contains("vm_memory_high_watermark"),
            "{fault}"
        );
        assert!(clock.now().since(began) < SOON / 2, "it took {:?}", clock.now().since(began));
    }
    assert!(asker.ready().unwrap_err().text.contains("takes no messages"));
    for _ in 0..10_000 {
        // Telling does not wait, and what is told is bounded.
        asker.tell(Fact::Listening(Listener::Controller));
    }
    rabbit.memory_alarm(false).await.unwrap();
    until(SOON, "it goes on", async || asked(&asker, status()).await).await.unwrap();
    assert_eq!(asker.ready(), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_or_exchange_is_declared_again() {
    let rabbit = Rabbit::shared().await.unwrap();
    let (service, asker) = (bus(&rabbit, "deleted", "service").await, bus(&rabbit, "deleted", "asker").await);
    let _serving = say(service.serve(Service::Controller), "here");
    let _member = say(service.serve_member("one"), "member");
    let mut facts = asker.listen(&[Kind::Listening]);
    service.settled(SOON).await.unwrap();
    asker.settled(SOON).await.unwrap();
    assert_eq!(asked(&asker, status()).await, Ok(json!("here")));

    rabbit.delete("deleted.epu.controller").await.unwrap();
    until(SOON, "the queue is there again", async || asked(&asker, status()).await)
        .await
        .unwrap();

    rabbit.delete_exchange("deleted.epu").await.unwrap();
    until(SOON, "the exchange is there again", async || {
        asker.ask(CONTROLLER, status(), Duration::from_secs(2)).await
    })
    .await
    .unwrap();
    until(SOON, "the member's binding, too", async || {
        asker.ask_member("one", CONTROLLER, status(), Duration::from_secs(2)).await
    })
    .await
    .unwrap();
    eventually(SOON, "and the listener's", async || {
        service.tell(Fact::Listening(Listener::Aggregator));
        tokio::time::timeout(Duration::from_millis(500), facts.next()).await.is_ok()
    })
    .await;

    // The queues that only their connection has: who holds them is told, and makes new ones.
    let page = rabbit.management("GET", "/api/queues/%2F", "").await.unwrap();
    let queues: Vec<Value> = serde_json::from_str(&page.body).unwrap();
    for queue in queues.iter().filter_map(|queue| queue["name"].as_str()) {
        if queue.starts_with("deleted.epu.reply.") || queue.starts_with("deleted.epu.facts.") {
            rabbit.control(&["delete_queue", queue]).await.unwrap();
        }
    }
    until(SOON, "there is a new reply queue", async || {
        asker.ask(CONTROLLER, status(), Duration::from_secs(2)).await
    })
    .await
    .unwrap();
    eventually(SOON, "and a listener's", async || {
        service.tell(Fact::Listening(Listener::Aggregator));
        tokio::time::timeout(Duration::from_millis(500), facts.next()).await.is_ok()
    })
    .await;
    assert!(facts.lost() > 0, "the listener is not told that it may have missed something");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_process_holds_no_more_than_its_prefetch_and_others_go_on() {
    let rabbit = Rabbit::shared().await.unwrap();
    let slow = Settings {
        prefetch: 4,
        ..settings(&rabbit.url(), "slow", "slow")
    };
    let slow = AmqpBus::connect(slow, guest_is(Role::Service), Metrics::new().unwrap())
        .await
        .unwrap();
    let (quick, asker) = (bus(&rabbit, "slow", "quick").await, bus(&rabbit, "slow", "asker").await);
    let mut held = slow.serve(Service::Controller);
    let _serving = say(quick.serve(Service::Controller), "quick");
    slow.settled(SOON).await.unwrap();
    quick.settled(SOON).await.unwrap();
    let mut asking = JoinSet::new();
    for _ in 0..60 {
        let asker = asker.clone();
        asking.spawn(async move { asker.ask(CONTROLLER, status(), Duration::from_secs(6)).await });
    }
    let (mut answered, mut late) = (0, 0);
    while let Some(answer) = asking.join_next().await {
        match code(&answer.unwrap()) {
            "an answer" => answered += 1,
            "timeout" => late += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((answered, late), (56, 4));
    let mut holds = Vec::new();
    while let Ok(call) = held.try_recv() {
        holds.push(call);
    }
    assert_eq!(holds.len(), 4);

    // When it goes away, the others get what it held; those who asked have given up, and what they asked has expired.
    drop(held);
    drop(holds);
    slow.close().await;
    assert_eq!(asked(&asker, status()).await, Ok(json!("quick")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_vanishes_is_noticed_long_before_the_time_is_over() {
    let rabbit = Rabbit::shared().await.unwrap();
    let (service, asker) = (bus(&rabbit, "vanish", "service").await, bus(&rabbit, "vanish", "asker").await);
    let mut calls = service.serve(Service::Provisioner);
    service.settled(SOON).await.unwrap();
    let asking = tokio::spawn(async move {
        let clock = SystemClock::start();
        let began = clock.now();
        let answer = asker.ask(CONTROLLER, numbered(1), Duration::from_secs(60)).await;
        (code(&answer).to_owned(), clock.now().since(began), asker)
    });
    let call = tokio::time::timeout(SOON, calls.recv()).await.unwrap().unwrap();
    // As a process that is killed: the socket closes, nothing is said.
    let link = service.link().clone();
    drop(service);
    drop(calls);
    if let Ok(session) = link.now() {
        session.end();
    }
    let (code, took, asker) = asking.await.unwrap();
    assert_eq!(code, "no-contact");
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    drop(call);

    // And whoever comes next gets what was not done.
    let next = bus(&rabbit, "vanish", "next").await;
    let (kept, _serving) = keep_numbers(next.serve(Service::Provisioner));
    eventually(SOON, "the next one has the command", async || kept.lock().unwrap().contains(&1)).await;
    assert_eq!(asked(&asker, numbered(2)).await, Ok(Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_vanishes_is_noticed_and_one_that_is_slow_is_waited_for() {
    let rabbit = Rabbit::shared().await.unwrap();
    let (member, asker) = (bus(&rabbit, "gone", "member").await, bus(&rabbit, "gone", "asker").await);
    let mut calls = member.serve_member("m");
    member.settled(SOON).await.unwrap();
    let answer = asker.ask_member("nobody", CONTROLLER, status(), SOON).await;
    assert_eq!(code(&answer), "no-contact", "{answer:?}");
    let asking = |asker: Arc<AmqpBus>| async move { asker.ask_member("m", CONTROLLER, status(), Duration::from_secs(60)).await };

    let slow = tokio::spawn(asking(asker.clone()));
    let call = tokio::time::timeout(SOON, calls.recv()).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert!(calls.try_recv().is_err(), "it is asked once");
    call.answer(Ok(Answer::Json(json!("at last"))));
    assert_eq!(slow.await.unwrap().map(Answer::into_json), Ok(json!("at last")));

    let clock = SystemClock::start();
    let began = clock.now();
    let vain = tokio::spawn(asking(asker.clone()));
    let call = tokio::time::timeout(SOON, calls.recv()).await.unwrap().unwrap();
    let session = member.link().now().unwrap();
    drop((member, calls));
    session.end();
    let answer = vain.await.unwrap();
    assert_eq!(code(&answer), "no-contact", "{answer:?}");
    let took = clock.now().since(began);
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    drop(call);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_is_refused_on_both_sides() {
    let rabbit = Rabbit::shared().await.unwrap();
    let small = Settings {
        message_bytes: 2_000,
        ..settings(&rabbit.url(), "long", "service")
    };
    let service = AmqpBus::connect(small, guest_is(Role::Service), Metrics::new().unwrap())
        .await
        .unwrap();
    let asker = bus(&rabbit, "long", "asker").await;
    let _serving = say(service.serve(Service::Controller), "here");
    service.settled(SOON).await.unwrap();
    let add = |length: usize| {
        Request::PoolAdd(PoolFile {
            file: "f".to_owned(),
            text: "x".repeat(length),
        })
    };
    assert_eq!(asked(&asker, add(100)).await, Ok(json!("here")));
    let taken = asked(&asker, add(5_000)).await.unwrap_err();
    assert_eq!(taken.code, "too-large", "{taken}");
    assert!(taken.text.contains("2000"), "{taken}");
    let sent = asked(&asker, add(9 * 1024 * 1024)).await.unwrap_err();
    assert_eq!(sent.code, "too-large", "{sent}");
    assert_eq!(asked(&asker, add(100)).await, Ok(json!("here")));
    let letters = DeadLetters::new(asker.link().clone()).list(10).await.unwrap();
    assert_eq!(letters, [], "what is only too long is nobody's to look at");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_with_tls_is_used_with_its_own_authority_and_a_certificate_and_not_without() {
    let rabbit = Rabbit::start_with_tls().await.unwrap();
    let files = rabbit.certificates().unwrap().clone();
    let with = |ca: Option<&std::path::PathBuf>, identity: bool| Settings {
        ca: ca.cloned(),
        identity: identity.then(|| (files.certificate.clone(), files.key.clone())),
        ..settings(&rabbit.tls_url(), "tls", "tls")
    };
    let connect = |settings| AmqpBus::connect(settings, guest_is(Role::Service), Metrics::new().unwrap());
    let bus = connect(with(Some(&files.ca), true)).await.unwrap();
    let other = connect(with(Some(&files.ca), true)).await.unwrap();
    let _serving = say(bus.serve(Service::Controller), "sealed");
    bus.settled(SOON).await.unwrap();
    assert_eq!(asked(&other, status()).await, Ok(json!("sealed")));

    for (what, settings) in [
        ("an authority that did not sign it", with(Some(&files.stranger), true)),
        ("no authority of its own", with(None, true)),
    ] {
        let error = connect(settings).await.expect_err(what);
        assert_eq!(error.why(), Why::Tls, "{what}: {error}");
        assert!(error.to_string().contains("`ca`"), "{what}: {error}");
    }
    // A broker refuses a client without a certificate after its handshake is done, and closes: its word and the close may pass each other.
    let error = connect(with(Some(&files.ca), false)).await.expect_err("no certificate of ours");
    assert!(matches!(error.why(), Why::Tls | Why::Unreachable), "{error}");
    let elsewhere = Settings {
        url: SecretUrl::new(rabbit.tls_url().replace("localhost", "127.0.0.1")),
        ..with(Some(&files.ca), true)
    };
    let error = connect(elsewhere).await.expect_err("a certificate made out for another host");
    assert_eq!(error.why(), Why::Tls, "{error}");
    let missing = with(Some(&std::path::PathBuf::from("/nowhere/ca.pem")), true);
    let error = connect(missing).await.expect_err("a file that is not there");
    assert!(
        error.why() == Why::Settings && error.to_string().contains("/nowhere/ca.pem"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_lets_us_not_in_is_told_apart_from_one_that_is_not_there() {
    let rabbit = Rabbit::shared().await.unwrap();
    let connect = async |url: String| {
        let error = AmqpBus::connect(settings(&url, "x", "x"), Users::default(), Metrics::new().unwrap())
            .await
            .expect_err(&url);
        (error.why(), error.may_pass(), error.to_string())
    };
    let (why, may_pass, text) = connect(rabbit.url_as(USER, "wrong")).await;
    assert_eq!((why, may_pass), (Why::Credentials, false));
    assert!(!text.contains("wrong"), "a password is shown: {text}");
    let (why, may_pass, text) = connect(rabbit.url().replace("%2f", "nowhere")).await;
    assert_eq!((why, may_pass), (Why::Vhost, false), "{text}");
    let nobody = format!("amqp://127.0.0.1:{}", epu_tests::ports::free().unwrap());
    let (why, may_pass, text) = connect(nobody).await;
    assert_eq!((why, may_pass), (Why::Unreachable, true), "{text}");
    let (why, ..) = connect("file:/nowhere/url".to_owned()).await;
    assert_eq!(why, Why::Settings);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_serves_nothing_comes_and_goes_quickly() {
    let rabbit = Rabbit::shared().await.unwrap();
    let service = bus(&rabbit, "quick", "service").await;
    let _serving = say(service.serve(Service::Controller), "here");
    service.settled(SOON).await.unwrap();
    let mut best = Duration::MAX;
    for _ in 0..10 {
        let clock = SystemClock::start();
        let began = clock.now();
        let client = AmqpBus::connect(
            settings(&rabbit.url(), "quick", "client"),
            Users::default(),
            Metrics::new().unwrap(),
        );
        let client = client.await.unwrap();
        let answer = client.ask(Caller::Operator("me".to_owned()), status(), SOON).await;
        assert_eq!(answer.map(Answer::into_json), Ok(json!("here")));
        client.close().await;
        best = best.min(clock.now().since(began));
    }
    assert!(best < Duration::from_millis(100), "{best:?}");
}
