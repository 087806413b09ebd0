//! The wire of dashi 0.3, so that Python clients of the original EPU are answered as they were.
//!
//! dashi is a small library for calls over AMQP: one direct exchange that is neither durable nor deleted automatically and that every peer
//! declares, a queue a service, a queue a call for its answer. Whoever declares anything differently gets a 406 and a closed channel, so
//! what is declared here is what clients declare ([`wire`] has names, properties and bodies).
//!
//! | what | as clients have it | here |
//! |---|---|---|
//! | exchange | direct, not durable, not auto-delete, no arguments | the same; declared and bound again every [`DECLARE_EVERY`], since it goes with a broker's restart |
//! | service queue | never declared by clients; the original's expired after 60 s without a consumer | durable, so that what is sent while we are away waits |
//! | reply queue | the client's, with `x-expires`; never declared here | published to through the exchange, by the header `reply-to` |
//! | subscriber's queue | the subscriber's | never declared here; what nobody is bound to is dropped by the broker |
//!
//! **A former Python service's queue** of the same name is not durable, and declaring ours gives a 406 until it expires, 60 s after its last
//! consumer left. That is waited for, and said.
//!
//! **What is answered.** Each message is carried out on a task of its own, at most [`PREFETCH`] at once, calls beside each other, fires in order
//! (`lane`). The answer is published before the message is acknowledged; a message that comes again because the connection broke in between
//! gets the same answer (`answers`). A fire that failed for a reason that passes is given back to the queue. Nothing that arrives ends
//! the consumer: what cannot be read is answered by an error and acknowledged.
//!
//! **What is fired** ([`Dashi::fire`]) waits in a bounded queue in memory while there is no broker, and is published with confirms.

mod answering;
mod answers;
mod former;
mod lane;
pub mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::future::join_all;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use serde_json::{Map, Value};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::error::{Error, Why};
use super::{Link, Metrics, Session};
use answering::{Reply, acknowledge, answer, carry_out, digest};
use answers::Answers;
use former::Former;
use lane::Lane;
use wire::{Asked, Names, Problem};

/// Messages of one service that are carried out at once. Too low: one slow operation holds up others. Too high: one process takes what
/// another could do.
pub const PREFETCH: u16 = 64;
/// How often the exchange and the bindings are declared again, which costs three small messages. Too high: after somebody deleted the
/// exchange, calls go nowhere for that long.
pub const DECLARE_EVERY: Duration = Duration::from_secs(5);
/// The wait after a failure before all is declared and consumed anew.
const AGAIN: Duration = Duration::from_secs(1);
/// The wait before a fire that failed for a passing reason is given back to the queue. Too low: it goes round and round.
const GIVE_BACK_AFTER: Duration = Duration::from_secs(1);
/// How long answers may take that are being worked out when we stop.
const FINISH_WITHIN: Duration = Duration::from_secs(5);
/// Fires that wait to be published. Too low: a short outage loses some. Too high: memory.
const FIRES_MOST: usize = 16_384;
/// Fires that are published before the broker's word on them is waited for.
const BATCH_MOST: usize = 256;
/// How long a reply queue of the original lives, for the probe of what the broker still allows.
const PROBE_EXPIRES_MS: i32 = 1_000;

/// Carries out what is asked of a service.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Carries out one operation. May be asked the same again after a broken connection.
    ///
    /// # Errors
    /// What the client is to see.
    async fn handle(&self, asked: Asked) -> Result<Value, Failed>;

    /// Whether a fire of this operation must wait for those before it.
    fn in_order(&self, op: &str) -> bool;
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What the client sees.
    pub problem: Problem,
    /// Whether it may succeed when tried again: nobody answered. A fire is then given back to the queue.
    pub passing: bool,
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self { problem, passing: false }
    }
}

/// A service on this wire.
pub struct Served {
    /// Its name: queue and routing key, before the sysname is put to it.
    pub topic: String,
    /// Who carries out what is asked of it.
    pub handler: Arc<dyn Handler>,
}

/// A message without an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Fire {
    /// The name of whoever sends it, before the sysname is put to it.
    pub from: String,
    /// The name of whoever is to get it, before the sysname is put to it.
    pub to: String,
    /// The operation.
    pub op: String,
    /// Its arguments.
    pub args: Map<String, Value>,
}

/// One deployment's wire.
pub struct Dashi {
    link: Arc<Link>,
    names: Names,
    fires: mpsc::Sender<Fire>,
    waiting: Mutex<Waiting>,
    dropped: AtomicU64,
}

struct Waiting {
    arriving: mpsc::Receiver<Fire>,
    /// Taken and not confirmed.
    batch: VecDeque<Fire>,
}

impl std::fmt::Debug for Dashi {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Dashi").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Dashi {
    /// A wire that is not served yet; fires wait until it is.
    #[must_use]
    pub fn new(link: Arc<Link>, names: Names) -> Arc<Self> {
        let (fires, arriving) = mpsc::channel(FIRES_MOST);
        Arc::new(Self {
            link,
            names,
            fires,
            waiting: Mutex::new(Waiting {
                arriving,
                batch: VecDeque::new(),
            }),
            dropped: AtomicU64::new(0),
        })
    }

    /// Sends without waiting for anything. False when too many wait already, as they do when the broker has been away for long.
    pub fn fire(&self, fire: Fire) -> bool {
        let taken = self.fires.try_send(fire).is_ok();
        if !taken {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Answers for the services and sends what is fired, until cancelled.
    pub async fn run(&self, services: Vec<Served>, cancel: CancellationToken) {
        let serving = services.into_iter().map(|served| self.keep_serving(Arc::new(served), &cancel));
        let beside = async {
            tokio::join!(self.keep_sending(&cancel), self.probe(&cancel));
        };
        tokio::join!(join_all(serving), beside);
    }

    // ---- serving

    async fn keep_serving(&self, served: Arc<Served>, cancel: &CancellationToken) {
        let answers = Arc::new(Answers::default());
        let mut former = Former::default();
        loop {
            let session = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                session = self.link.next() => session,
            };
            let Some(session) = session else { return };
            match self.serve_in(&session, &served, &answers, &mut former, cancel).await {
                Ok(()) => return,
                Err(Broken::Different(error)) => former.met(&served.topic, &error),
                Err(Broken::Other(error)) if error.why() == Why::Lost => {
                    debug!(topic = served.topic, %error, "serving goes on when the broker is back")
                }
                Err(Broken::Other(error)) => warn!(topic = served.topic, %error, "serving begins anew"),
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = sleep(AGAIN) => {}
            }
        }
    }

    /// Serves on one channel until that breaks, or until cancelled.
    async fn serve_in(
        &self,
        session: &Session,
        served: &Arc<Served>,
        answers: &Arc<Answers>,
        former: &mut Former,
        cancel: &CancellationToken,
    ) -> Result<(), Broken> {
        let queue = self.names.prefixed(&served.topic);
        let channel = session.channel().await?;
        self.declare_exchange(session, &channel).await?;
        let declaring = channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), FieldTable::default());
        match session.bounded(&format!("declare queue {queue}"), declaring).await {
            Ok(_) => former.gone(&served.topic),
            Err(error) if error.why() == Why::Different => return Err(Broken::Different(error)),
            Err(error) => return Err(error.into()),
        }
        self.bind(session, &channel, &queue).await?;
        let limiting = channel.basic_qos(PREFETCH, BasicQosOptions::default());
        session.bounded("limit what is taken at once", limiting).await?;
        let consuming = channel.basic_consume(
            queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let mut consumer = session.bounded(&format!("consume queue {queue}"), consuming).await?;
        info!(queue, exchange = self.names.exchange(), "dashi clients are answered");

        let mut lane = Lane::new();
        let mut handling = JoinSet::new();
        let mut again = interval(DECLARE_EVERY);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        again.reset();
        let broken = loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    let finished = async { while handling.join_next().await.is_some() {} };
                    if tokio::time::timeout(FINISH_WITHIN, finished).await.is_err() {
                        warn!(queue, "some operations did not end in time; they will be delivered again");
                    }
                    return Ok(());
                }
                () = session.over() => break Error::new(Why::Lost, format!("serve queue {queue}: the connection is lost")),
                Some(_) = handling.join_next(), if !handling.is_empty() => {}
                _ = again.tick() => {
                    let declared = async {
                        self.declare_exchange(session, &channel).await?;
                        self.bind(session, &channel, &queue).await
                    };
                    if let Err(error) = declared.await {
                        break error;
                    }
                }
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => self.take(delivery, &channel, served, answers, &mut lane, &mut handling),
                    Some(Err(error)) => break Error::asking(&format!("serve queue {queue}"), &error, session.shown()),
                    None => break Error::new(Why::Missing, format!("serve queue {queue}: the broker ended it; was the queue deleted?")),
                },
            }
        };
        // What was begun goes on: its answer is found by the delivery that comes again.
        handling.detach_all();
        Err(broken.into())
    }

    async fn declare_exchange(&self, session: &Session, channel: &Channel) -> Result<(), Error> {
        let exchange = self.names.exchange();
        let declaring = channel.exchange_declare(
            exchange.as_str().into(),
            ExchangeKind::Direct,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        );
        session
            .bounded(&format!("declare exchange {exchange} as dashi does"), declaring)
            .await
    }

    async fn bind(&self, session: &Session, channel: &Channel, queue: &str) -> Result<(), Error> {
        let exchange = self.names.exchange();
        let binding = channel.queue_bind(
            queue.into(),
            exchange.as_str().into(),
            queue.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        session.bounded(&format!("bind queue {queue}"), binding).await
    }

    /// Begins to carry a message out.
    fn take(
        &self,
        delivery: Delivery,
        channel: &Channel,
        served: &Arc<Served>,
        answers: &Arc<Answers>,
        lane: &mut Lane,
        handling: &mut JoinSet<()>,
    ) {
        let received = wire::read(&delivery.properties, &delivery.data);
        let reply = Reply {
            exchange: self.names.exchange(),
            channel: channel.clone(),
        };
        let (served, answers) = (served.clone(), answers.clone());
        match (received.reply_to, received.asked) {
            (Some(to), asked) => {
                let (place, key) = (lane.behind(), format!("{to} {:x}", digest(&delivery.data)));
                handling.spawn(async move {
                    place.comes().await;
                    answer(&served, asked, &to, &key, &answers, &reply, &delivery).await;
                });
            }
            (None, Ok(asked)) => {
                let in_line = served.handler.in_order(&asked.op).then(|| lane.within());
                handling.spawn(async move {
                    let duty = match in_line {
                        Some((place, duty)) => {
                            place.comes().await;
                            Some(duty)
                        }
                        None => None,
                    };
                    carry_out(&served, asked, &delivery).await;
                    drop(duty);
                });
            }
            (None, Err(problem)) => {
                warn!(topic = served.topic, %problem, "a message that is no request");
                handling.spawn(async move { acknowledge(&delivery).await });
            }
        }
    }

    // ---- sending

    async fn keep_sending(&self, cancel: &CancellationToken) {
        loop {
            let session = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                session = self.link.next() => session,
            };
            let Some(session) = session else { return };
            let outcome = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                outcome = self.send_in(&session) => outcome,
            };
            match outcome {
                Ok(()) => return,
                Err(error) => debug!(%error, "what is fired waits"),
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = sleep(AGAIN) => {}
            }
        }
    }

    /// Publishes on one channel until that breaks. What is not confirmed stays in the batch and is published again.
    async fn send_in(&self, session: &Session) -> Result<(), Error> {
        let channel = session.channel().await?;
        let confirming = channel.confirm_select(ConfirmSelectOptions::default());
        session.bounded("ask for confirms", confirming).await?;
        let mut waiting = self.waiting.lock().await;
        loop {
            if waiting.batch.is_empty() {
                let first = tokio::select! {
                    biased;
                    () = session.over() => return Err(Error::new(Why::Lost, "wait for what is fired: the connection is lost")),
                    first = waiting.arriving.recv() => first,
                };
                let Some(first) = first else { return Ok(()) };
                waiting.batch.push_back(first);
            }
            while waiting.batch.len() < BATCH_MOST
                && let Ok(fire) = waiting.arriving.try_recv()
            {
                waiting.batch.push_back(fire);
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                warn!(dropped, "messages to dashi peers were dropped: too many waited for the broker");
            }
            // A publish to an exchange that is not there closes the channel after the fact, so it is declared first, as clients do.
            self.declare_exchange(session, &channel).await?;
            let mut confirms = Vec::with_capacity(waiting.batch.len());
            for fire in &waiting.batch {
                let (exchange, key) = (self.names.exchange(), self.names.prefixed(&fire.to));
                let body = wire::fire(&fire.op, &fire.args);
                let properties = wire::properties(wire::fire_headers(&self.names.prefixed(&fire.from)));
                let publishing = channel.basic_publish(
                    exchange.as_str().into(),
                    key.as_str().into(),
                    BasicPublishOptions::default(),
                    &body,
                    properties,
                );
                confirms.push(session.bounded("publish to a dashi peer", publishing).await?);
            }
            for confirm in confirms {
                session.bounded("wait for a confirm", confirm).await?;
                waiting.batch.pop_front();
            }
        }
    }

    // ---- what the broker allows

    /// Old clients declare queues that are neither durable nor exclusive. RabbitMQ 4.3 and later refuse those unless told otherwise, by ending the
    /// client's connection. It is tried here once, on a connection of its own, so that the log says what to set.
    async fn probe(&self, cancel: &CancellationToken) {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            session = self.link.next() => if session.is_none() { return },
        }
        if let Err(error) = self.try_transient_queue().await {
            error!(
                %error,
                "the broker refuses a queue as Python dashi clients declare it, so they cannot be answered; RabbitMQ 4.3 and later need \
                 deprecated_features.permit.transient_nonexcl_queues = true in rabbitmq.conf"
            );
        }
    }

    async fn try_transient_queue(&self) -> Result<(), Error> {
        let mut settings = self.link.settings().clone();
        settings.name = format!("{} probe", settings.name);
        let Ok(metrics) = Metrics::new() else { return Ok(()) };
        let Ok(link) = Link::connect(settings, metrics).await else {
            return Ok(()); // The broker went away again; that is said elsewhere.
        };
        let declared = async {
            let session = link.now()?;
            let channel = session.channel().await?;
            let queue = format!("{}.probe.{}", self.names.exchange(), self.link.settings().name);
            let mut arguments = FieldTable::default();
            arguments.insert("x-expires".into(), AMQPValue::LongInt(PROBE_EXPIRES_MS));
            let declaring = channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::default(), arguments);
            session.bounded("declare a queue that is not durable", declaring).await.map(drop)
        };
        let declared = declared.await;
        link.close().await;
        match declared {
            Err(error) if error.to_string().contains("transient_nonexcl_queues") => Err(error),
            Err(error) => {
                debug!(%error, "what the broker allows is not known");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

/// Why serving a queue ended.
enum Broken {
    /// The queue is there with other settings.
    Different(Error),
    /// Anything else.
    Other(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}
