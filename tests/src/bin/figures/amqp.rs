//! Calls and heartbeats over RabbitMQ, beside the same done with lapin alone on the same broker, queues and bodies.
//!
//! A bare call is published `mandatory` and persistent to a quorum queue, confirmed, consumed, answered to an exclusive queue and
//! acknowledged, as ours is, without JSON, roles, deadlines or anything else. A bare consumer of heartbeats acknowledges several at once,
//! as ours does, and reads nothing. Both sides run in turn, three times, and the best of each counts: the broker, a quorum queue on the
//! one disk, is the larger part of both, and the machine's other work comes and goes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epu_bus::Bus;
use epu_bus::amqp::{AmqpBus, Metrics, Settings};
use epu_bus::users::{Role, User, Users};
use epu_core::heartbeat::{Condition, Heartbeat, Orders};
use epu_core::id::InstanceId;
use epu_core::instance::Work;
use epu_core::request::{Answer, Caller, Ids, Request, Service};
use epu_core::secret::SecretUrl;
use epu_core::time::{Clock, SystemClock};
use epu_tests::rabbit::{Rabbit, USER};
use epu_tests::{Result, Trouble, wait};
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::{Goal, Report};

const SYSNAME: &str = "figures";
/// Callers at a time.
const CALLERS: usize = 16;
/// How long calls are made in one turn.
const TURN: Duration = Duration::from_secs(4);
/// Turns of each side.
const TURNS: usize = 3;
/// Heartbeats in one turn.
const HEARTBEATS: u64 = 40_000;
const PREFETCH: u16 = 256;
const WITHIN: Duration = Duration::from_secs(60);

fn failed<E: std::fmt::Display>(doing: &'static str) -> impl Fn(E) -> Trouble {
    move |error| Trouble::new(doing, error)
}

pub(crate) fn measure() -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(failed("start a runtime"))?.block_on(world())
}

async fn world() -> Result<Report> {
    let rabbit = Rabbit::start().await?;
    let clock = SystemClock::start();
    let (service, asker) = (bus(&rabbit, "service").await?, bus(&rabbit, "asker").await?);
    let mut report = Report::default();
    calls(&mut report, &rabbit, &clock, &service, &asker).await?;
    heartbeats(&mut report, &rabbit, &clock, &service).await?;
    for bus in [service, asker] {
        bus.close().await;
    }
    Ok(report)
}

async fn bus(rabbit: &Rabbit, name: &str) -> Result<Arc<AmqpBus>> {
    let settings = Settings {
        prefetch: PREFETCH,
        ..Settings::new(SecretUrl::new(rabbit.url()), SYSNAME, name)
    };
    let me = User {
        role: Role::Service,
        owners: Vec::new(),
    };
    let users = Users::new([(USER.to_owned(), me)]);
    let metrics = Metrics::new().map_err(failed("make metrics"))?;
    AmqpBus::connect(settings, users, metrics).await.map_err(failed("connect"))
}

/// A command, which has to survive the broker.
fn command() -> Request {
    Request::WithdrawDrain(Ids {
        instances: vec![InstanceId(uuid::Uuid::nil())],
        epoch: 7,
    })
}

async fn calls(report: &mut Report, rabbit: &Rabbit, clock: &SystemClock, service: &Arc<AmqpBus>, asker: &Arc<AmqpBus>) -> Result<()> {
    let mut calls = service.serve(Service::Provisioner);
    let serving = tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            call.answer(Ok(Answer::Json(Value::Null)));
        }
    });
    service.settled(WITHIN).await.map_err(failed("serve"))?;
    let bare = Arc::new(PingPong::start(rabbit).await?);
    let ours = |asker: Arc<AmqpBus>| async move {
        let answer = asker.ask(Caller::Service("figures"), command(), WITHIN).await;
        answer.map(drop).map_err(failed("ask"))
    };
    let theirs = |bare: Arc<PingPong>| async move { bare.call().await };
    let (mut best_ours, mut best_bare) = (0.0_f64, 0.0_f64);
    for _ in 0..TURNS {
        best_bare = best_bare.max(rate(clock, CALLERS, || theirs(bare.clone())).await?);
        best_ours = best_ours.max(rate(clock, CALLERS, || ours(asker.clone())).await?);
    }
    let alone_bare = rate(clock, 1, || theirs(bare.clone())).await?;
    let alone_ours = rate(clock, 1, || ours(asker.clone())).await?;
    report.figure("amqp-calls", best_ours, "per-second", Goal::Above(1_430.0));
    report.figure("amqp-calls-to-bare", best_ours / best_bare, "of-bare", Goal::Above(0.8));
    report.note(format!(
        "{CALLERS} callers, one at a time each; {best_bare:.0} a second with lapin alone"
    ));
    report.note(format!(
        "one caller: {:.2} ms a call, {:.2} ms with lapin alone",
        1e3 / alone_ours,
        1e3 / alone_bare
    ));
    serving.abort();
    bare.serving.abort();
    Ok(())
}

/// Calls a second of so many callers for one turn.
async fn rate<F: Future<Output = Result<()>> + Send>(
    clock: &SystemClock,
    callers: usize,
    call: impl Fn() -> F + Send + Sync + Clone,
) -> Result<f64> {
    let began = clock.now();
    let until = began + TURN;
    let calling = (0..callers).map(|_| {
        let call = call.clone();
        async move {
            let mut made = 0_u64;
            while clock.now() < until {
                call().await?;
                made += 1;
            }
            Ok::<u64, Trouble>(made)
        }
    });
    let made = futures::future::try_join_all(calling).await?;
    Ok(per_second(made.iter().sum(), clock.now().since(began)))
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Calls with lapin alone.
struct PingPong {
    _connections: [Connection; 2],
    publish: Channel,
    waiting: Arc<Mutex<BTreeMap<u64, oneshot::Sender<Vec<u8>>>>>,
    last: AtomicU64,
    body: Vec<u8>,
    serving: JoinHandle<()>,
}

const EXCHANGE: &str = "figures.epu";
const PING: &str = "bare.ping";
const PONG: &str = "bare.pong";

async fn quorum(channel: &Channel, queue: &str) -> Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let declaring = channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments);
    declaring.await.map_err(failed("declare"))?;
    bind(channel, queue).await
}

async fn bind(channel: &Channel, queue: &str) -> Result<()> {
    let binding = channel.queue_bind(
        queue.into(),
        EXCHANGE.into(),
        queue.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    binding.await.map_err(failed("bind"))
}

impl PingPong {
    async fn start(rabbit: &Rabbit) -> Result<Self> {
        let connections = [rabbit.connect().await?, rabbit.connect().await?];
        let [asking, answering] = &connections;
        let open = async |connection: &Connection| connection.create_channel().await.map_err(failed("open a channel"));
        let (publish, hear, serve) = (open(asking).await?, open(asking).await?, open(answering).await?);
        quorum(&serve, PING).await?;
        serve
            .basic_qos(PREFETCH, BasicQosOptions::default())
            .await
            .map_err(failed("limit"))?;
        let consuming = serve.basic_consume(PING.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let mut pings = consuming.await.map_err(failed("consume"))?;
        let own = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        hear.queue_declare(PONG.into(), own, FieldTable::default())
            .await
            .map_err(failed("declare"))?;
        bind(&hear, PONG).await?;
        let unacknowledged = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consuming = hear.basic_consume(PONG.into(), "".into(), unacknowledged, FieldTable::default());
        let mut pongs = consuming.await.map_err(failed("consume"))?;
        publish
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(failed("ask for confirms"))?;
        let waiting: Arc<Mutex<BTreeMap<u64, oneshot::Sender<Vec<u8>>>>> = Arc::default();
        let here = waiting.clone();
        let serving = tokio::spawn(async move {
            let answering = async {
                while let Some(Ok(ping)) = pings.next().await {
                    let serve = serve.clone();
                    tokio::spawn(async move {
                        let mut properties = BasicProperties::default();
                        if let Some(correlation) = ping.properties.correlation_id() {
                            properties = properties.with_correlation_id(correlation.clone());
                        }
                        let body = br#"{"result":null,"error":null}"#;
                        let answering = serve.basic_publish(EXCHANGE.into(), PONG.into(), BasicPublishOptions::default(), body, properties);
                        answering.await.map(drop).ok();
                        ping.acker.ack(BasicAckOptions::default()).await.ok();
                    });
                }
            };
            let hearing = async {
                while let Some(Ok(pong)) = pongs.next().await {
                    let id = pong.properties.correlation_id().as_ref().and_then(|id| id.as_str().parse().ok());
                    let waits = id.and_then(|id: u64| here.lock().ok()?.remove(&id));
                    if let Some(waits) = waits {
                        waits.send(pong.data).ok();
                    }
                }
            };
            futures::future::join(answering, hearing).await;
        });
        let body = serde_json::to_vec(&command()).map_err(failed("write a command"))?;
        Ok(Self {
            _connections: connections,
            publish,
            waiting,
            last: AtomicU64::new(0),
            body,
            serving,
        })
    }

    async fn call(&self) -> Result<()> {
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        if let Ok(mut waiting) = self.waiting.lock() {
            waiting.insert(id, answer);
        }
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_correlation_id(id.to_string().as_str().into());
        let mandatory = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let confirming = async {
            let publishing = self
                .publish
                .basic_publish(EXCHANGE.into(), PING.into(), mandatory, &self.body, properties);
            publishing.await?.await
        };
        let both = async {
            let (confirmed, answered) = futures::future::join(confirming, answered).await;
            if confirmed.map_err(failed("publish"))? != Confirmation::Ack(None) {
                return Err(Trouble::new("publish", "not confirmed"));
            }
            answered.map(drop).map_err(failed("wait for the answer"))
        };
        tokio::time::timeout(WITHIN, both).await.map_err(failed("call"))?
    }
}

/// A heartbeat as an agent's word is passed on.
fn heartbeat(sequence: u64) -> Result<Vec<u8>> {
    let heartbeat = Heartbeat {
        instance: InstanceId(uuid::Uuid::nil()),
        sequence,
        started_at_ms: 1_700_000_000_000,
        sent_at_ms: 1_700_000_030_000,
        condition: Condition::Ok,
        work: Work::Busy,
        work_for_ms: 1_000,
        draining: false,
        readings: BTreeMap::new(),
    };
    serde_json::to_vec(&Request::Heartbeat(Box::new(heartbeat))).map_err(failed("write a heartbeat"))
}

/// Puts a turn's heartbeats into a queue.
async fn fill(channel: &Channel, key: &str) -> Result<()> {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_user_id(USER.into())
        .with_delivery_mode(1);
    let mut confirms = futures::stream::FuturesUnordered::new();
    for sequence in 1..=HEARTBEATS {
        let body = heartbeat(sequence)?;
        let publishing = channel.basic_publish(
            EXCHANGE.into(),
            key.into(),
            BasicPublishOptions::default(),
            &body,
            properties.clone(),
        );
        confirms.push(publishing.await.map_err(failed("publish"))?);
        while confirms.len() > 1_000 {
            confirms.next().await;
        }
    }
    while let Some(confirmed) = confirms.next().await {
        confirmed.map_err(failed("publish"))?;
    }
    Ok(())
}

async fn heartbeats(report: &mut Report, rabbit: &Rabbit, clock: &SystemClock, service: &Arc<AmqpBus>) -> Result<()> {
    let connection = rabbit.connect().await?;
    let channel = connection.create_channel().await.map_err(failed("open a channel"))?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .map_err(failed("ask for confirms"))?;
    quorum(&channel, "bare.beats").await?;
    let (mut best_ours, mut best_bare) = (0.0_f64, 0.0_f64);
    for _ in 0..TURNS {
        fill(&channel, "bare.beats").await?;
        let began = clock.now();
        bare_beats(&connection).await?;
        best_bare = best_bare.max(per_second(HEARTBEATS, clock.now().since(began)));

        // Served once, so that the queue is there, and no more, so that it fills.
        let once = service.serve(Service::Aggregator);
        service.settled(WITHIN).await.map_err(failed("serve"))?;
        drop(once);
        wait::until(WITHIN, "nobody takes heartbeats", async || {
            match rabbit
                .management("GET", "/api/queues/%2F/figures.epu.aggregator", "")
                .await?
                .json()?["consumers"]
                .as_u64()
            {
                Some(0) => Ok(()),
                other => Err(Trouble::new("look for consumers", format!("{other:?}"))),
            }
        })
        .await?;
        fill(&channel, "aggregator").await?;
        let began = clock.now();
        let mut calls = service.serve(Service::Aggregator);
        for _ in 0..HEARTBEATS {
            let call = tokio::time::timeout(WITHIN, calls.recv())
                .await
                .map_err(failed("take a heartbeat"))?;
            let call = call.ok_or_else(|| Trouble::new("take a heartbeat", "there are no more"))?;
            call.answer(Ok(Answer::Orders(Orders::default())));
        }
        best_ours = best_ours.max(per_second(HEARTBEATS, clock.now().since(began)));
        drop(calls);
    }
    report.figure("amqp-heartbeats-to-bare", best_ours / best_bare, "of-bare", Goal::Above(0.8));
    report.note(format!(
        "{best_ours:.0} heartbeats a second taken, read, allowed and acknowledged by one process; {best_bare:.0} taken and acknowledged with \
         lapin alone, prefetch {PREFETCH}"
    ));
    Ok(())
}

/// Takes a turn's heartbeats and acknowledges them, many at once.
async fn bare_beats(connection: &Connection) -> Result<()> {
    let channel = connection.create_channel().await.map_err(failed("open a channel"))?;
    channel
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await
        .map_err(failed("limit"))?;
    let consuming = channel.basic_consume(
        "bare.beats".into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut beats = consuming.await.map_err(failed("consume"))?;
    for taken in 1..=HEARTBEATS {
        let beat = tokio::time::timeout(WITHIN, beats.next())
            .await
            .map_err(failed("take a heartbeat"))?;
        let beat = beat
            .ok_or_else(|| Trouble::new("take a heartbeat", "there are no more"))?
            .map_err(failed("take a heartbeat"))?;
        if taken % 32 == 0 || taken == HEARTBEATS {
            let multiple = BasicAckOptions { multiple: true };
            beat.acker.ack(multiple).await.map_err(failed("acknowledge"))?;
        }
    }
    channel.close(200, "done".into()).await.map_err(failed("close"))
}
