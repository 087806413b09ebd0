//! Asking: one reply queue and one confirming channel a process, shared by all its askers.
//!
//! A request is published with `mandatory` and a confirm, and waits in [`Asking::pending`] under its correlation id for whichever
//! comes first: its reply; the broker's word that nobody serves there (returned, or refused by a full queue), which is `no-contact`
//! at once; the end of the session, likewise; or the end of the asker's time. An asker who goes away takes his entry with him.
//!
//! A queue that exists and that nobody consumes would take the request and be silent. So the broker is asked how many consumers a
//! service has: before publishing when no answer came from there lately, and again while an answer is waited for. A request left in
//! a queue expires with its asker's time, so that nothing happens long after everybody has given up.
//!
//! One task owns the channels: it publishes in the order it was asked to, keeps every confirm until it resolves (lapin stores those
//! that are dropped), and hands replies out unread; askers encode and decode on their own time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epu_core::Fault;
use epu_core::request::{Answer, Caller, Request, Service};
use epu_core::time::{Span, Timestamp};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tracing::debug;

use super::common::Common;
use super::connection::Session;
use super::error::{Error, Why};
use super::names::{self, Declared, Sort};
use super::wire::{self, Asked};
use crate::users::OnBehalf;

/// Requests of one process that may wait for their answers; askers wait beyond that. Too low: askers wait for each other.
const PENDING: usize = 4_096;
/// How long an asker waits for a connection that is away. Too low: a broker that is back in a moment fails requests.
const SESSION_WITHIN: Duration = Duration::from_secs(2);
/// How long the broker may take to confirm that it has a request. Too low: a busy broker fails requests. Too high: a broker that
/// lost one is waited for.
const CONFIRM_WITHIN: Duration = Duration::from_secs(10);
/// How long an answer from a service shows that it is there. Too low: the broker is asked often. Too high: a request is published
/// to a queue that nobody consumes.
const SEEN_LASTS: Duration = Duration::from_secs(2);
/// How often the broker is asked whether the service is still there while an answer is waited for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest expiration that the broker takes, in milliseconds.
const EXPIRES_MOST_MS: u128 = 4_000_000_000;

/// Whom a request is for.
#[derive(Debug, Clone)]
pub(super) enum To {
    Service(Service),
    Member(String),
}

impl To {
    fn key(&self) -> String {
        match self {
            Self::Service(service) => service.name().to_owned(),
            Self::Member(name) => names::member_key(name),
        }
    }
}

impl std::fmt::Display for To {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(service) => out.write_str(service.name()),
            Self::Member(name) => write!(out, "member {name}"),
        }
    }
}

/// Where replies come in now.
#[derive(Debug)]
struct Route {
    session: Arc<Session>,
    reply_to: String,
    /// Asks the broker how many consumers a queue has; one at a time.
    look: tokio::sync::Mutex<Option<Channel>>,
    /// The broker does not let this user look: it finds out by asking.
    blind: AtomicBool,
}

struct Job {
    id: u64,
    route: Arc<Route>,
    key: ShortString,
    body: Vec<u8>,
    properties: BasicProperties,
}

struct Pending {
    settle: oneshot::Sender<Settled>,
    confirmed: bool,
}

enum Settled {
    Reply(Vec<u8>),
    Failed(Fault),
}

/// The asking part of a bus.
pub(super) struct Asking {
    common: Arc<Common>,
    jobs: mpsc::Sender<Job>,
    room: Semaphore,
    route: watch::Sender<Option<Arc<Route>>>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    pending: BTreeMap<u64, Pending>,
    seen: BTreeMap<Service, Timestamp>,
}

/// Takes an entry out when its asker goes away.
struct Entry<'a>(&'a Asking, u64);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.0.waiting().pending.remove(&self.1);
    }
}

impl Asking {
    /// Begins; ends when the bus closes.
    pub(super) fn start(common: &Arc<Common>) -> Arc<Self> {
        let (jobs, arriving) = mpsc::channel(PENDING);
        let asking = Arc::new(Self {
            common: common.clone(),
            jobs,
            room: Semaphore::new(PENDING),
            route: watch::channel(None).0,
            waiting: Mutex::default(),
        });
        common.tasks.spawn(asking.clone().run(arriving));
        asking
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks and waits for the answer.
    pub(super) async fn ask(&self, to: &To, caller: &Caller, request: &Request, within: Duration) -> Result<Answer, Fault> {
        let timer = self.common.metrics.seconds.start_timer();
        let asked = tokio::time::timeout(within, self.asked(to, caller, request, within)).await;
        drop(timer);
        let answer = asked.unwrap_or_else(|_| {
            let alarm = self.common.link.now().ok().and_then(|session| session.blocked());
            let why = alarm.map_or_else(String::new, |alarm| format!(": {alarm}"));
            let text = format!("ask {}: no answer from the {to} within {}{why}", request.op(), Span(within));
            Err(Fault::new("timeout", text))
        });
        let outcome = answer.as_ref().map_or_else(|fault| super::outcome(&fault.code), |_| "ok");
        self.common.metrics.asked.with_label_values(&[outcome]).inc();
        answer
    }

    /// The same, but however long it takes.
    async fn asked(&self, to: &To, caller: &Caller, request: &Request, within: Duration) -> Result<Answer, Fault> {
        let op = request.op();
        let until = self.common.clock.now() + within;
        let body = serde_json::to_vec(request).map_err(|e| Fault::new("internal", format!("ask {op}: write it as JSON: {e}")))?;
        let most = self.common.limits().bytes;
        if body.len() > most {
            let long = body.len();
            let text = format!("ask {op}: the request is {long} bytes long, and {most} bytes are the most that is sent; send less");
            return Err(Fault::new("too-large", text));
        }
        let closing = || Fault::new("no-contact", format!("ask {op}: this process is closing its connection"));
        let _room = self.room.acquire().await.map_err(|_| closing())?;
        let route = self.route(op).await?;
        if let Some(alarm) = route.session.blocked() {
            return Err(said(op, &alarm));
        }
        self.somebody_serves(to, op, &route).await?;

        let (settle, settled) = oneshot::channel();
        let entry = {
            let mut waiting = self.waiting();
            // Not to be guessed: a reply that nobody asked for is nobody's.
            let mut id = self.common.unguessable();
            while waiting.pending.contains_key(&id) {
                id = id.wrapping_add(1);
            }
            waiting.pending.insert(id, Pending { settle, confirmed: false });
            Entry(self, id)
        };
        let id = entry.1;
        let job = Job {
            id,
            route: route.clone(),
            key: names::short(&to.key()),
            body,
            properties: self.properties(id, &route, caller, request, until),
        };
        self.jobs.send(job).await.map_err(|_| closing())?;
        tokio::select! {
            biased;
            settled = settled => match settled {
                Ok(Settled::Reply(body)) => {
                    self.saw(to);
                    wire::answer(&body)
                }
                Ok(Settled::Failed(fault)) => Err(Fault { text: format!("ask {op}: {}", fault.text), code: fault.code }),
                Err(_) => Err(closing()),
            },
            fault = self.watch(to, op, &route, id) => Err(fault),
        }
    }

    fn properties(&self, id: u64, route: &Route, caller: &Caller, request: &Request, until: Timestamp) -> BasicProperties {
        // A service that passes on what somebody asks of it says for whom; everybody else asks for himself.
        let user = route.session.user();
        let is_service = self.common.users.is_service(user);
        let on_behalf = if is_service { OnBehalf::of(caller) } else { None };
        let app = match caller {
            Caller::Service(name) => *name,
            Caller::Operator(_) | Caller::OwnersOperator(..) | Caller::Reader(_) | Caller::Instance(_) | Caller::Launch(_) => {
                self.common.settings().name.as_str()
            }
        };
        let left = until.since(self.common.clock.now());
        let asked = Asked {
            user,
            app,
            correlation: &format!("{id:x}"),
            reply_to: &route.reply_to,
            expires_ms: left.as_millis().clamp(1, EXPIRES_MOST_MS),
            persistent: !request.is_question(),
            on_behalf,
        };
        asked.properties()
    }

    /// Looks now and then whether waiting for an answer makes sense. Ends with the reason why it does not.
    async fn watch(&self, to: &To, op: &str, route: &Arc<Route>, id: u64) -> Fault {
        let mut waited = Duration::ZERO;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            waited += LOOK_EVERY;
            if let Some(alarm) = route.session.blocked() {
                return said(op, &alarm);
            }
            let confirmed = self.waiting().pending.get(&id).is_some_and(|pending| pending.confirmed);
            if !confirmed && waited >= CONFIRM_WITHIN {
                self.common.metrics.confirms_late.inc();
                let text = format!(
                    "ask {op}: broker {} did not confirm within {} that it has the request; see its log; repeating is harmless",
                    route.session.shown(),
                    Span(CONFIRM_WITHIN)
                );
                return Fault::new("timeout", text);
            }
            if let Err(fault) = self.somebody_serves(to, op, route).await {
                return fault;
            }
            if let To::Member(_) = to {
                self.probe(to, route, id);
            }
        }
    }

    /// Sends a member something that comes back if it is gone, which fails the request with this id. Its queue went with it, and what was
    /// in there: nothing else would tell.
    fn probe(&self, to: &To, route: &Arc<Route>, id: u64) {
        let name = &self.common.settings().name;
        let probe = Job {
            id,
            route: route.clone(),
            key: names::short(&to.key()),
            body: Vec::new(),
            properties: wire::probing(route.session.user(), name, &format!("{id:x}"), LOOK_EVERY.as_millis()),
        };
        // When there is no room, the next look comes soon enough.
        self.jobs.try_send(probe).ok();
    }

    /// The route, waited for a moment.
    async fn route(&self, op: &str) -> Result<Arc<Route>, Fault> {
        let usable = |route: &Option<Arc<Route>>| route.as_ref().is_some_and(|route| route.session.is_up());
        let mut changes = self.route.subscribe();
        let found = tokio::time::timeout(SESSION_WITHIN, changes.wait_for(usable)).await;
        if let Ok(Ok(route)) = found
            && let Some(route) = route.as_ref()
        {
            return Ok(route.clone());
        }
        let error = self.common.first_trouble().map_or_else(|| self.common.link.status().err(), Some);
        let error = error.unwrap_or_else(|| Error::new(Why::Lost, "use the broker: the connection is being opened"));
        Err(said(op, &error))
    }

    fn saw(&self, to: &To) {
        if let To::Service(service) = to {
            self.waiting().seen.insert(*service, self.common.clock.now());
        }
    }

    /// Makes sure that somebody consumes the service's queue, unless an answer from there shows it. A member's queue lives and dies
    /// with its one consumer, and needs no such look.
    async fn somebody_serves(&self, to: &To, op: &str, route: &Route) -> Result<(), Fault> {
        let To::Service(service) = to else { return Ok(()) };
        let lately = || {
            let seen = self.waiting().seen.get(service).copied();
            seen.is_some_and(|seen| self.common.clock.now().since(seen) < SEEN_LASTS)
        };
        if lately() || route.blind.load(Ordering::Relaxed) {
            return Ok(());
        }
        let nobody = || {
            Fault::new(
                "no-contact",
                format!("ask {op}: no {to} takes requests on broker {}; start one", route.session.shown()),
            )
        };
        let mut look = route.look.lock().await;
        if lately() {
            // Somebody else looked while we waited.
            return Ok(());
        }
        match self
            .consumers(&route.session, &mut look, &self.common.names.service(*service))
            .await
        {
            Ok(0) => Err(nobody()),
            Err(error) if error.why() == Why::Missing => Err(nobody()),
            Ok(_) => {
                self.saw(to);
                Ok(())
            }
            Err(error) => {
                debug!(%error, "look whether anybody serves");
                if error.why() == Why::NotPermitted {
                    route.blind.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
        }
    }

    async fn consumers(&self, session: &Session, look: &mut Option<Channel>, queue: &str) -> Result<u32, Error> {
        let channel = match look.take() {
            Some(channel) if channel.status().connected() => channel,
            Some(_) | None => session.channel().await?,
        };
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let asked = channel.queue_declare(queue.into(), passive, FieldTable::default());
        let found = session.bounded(&format!("look at queue {queue}"), asked).await?;
        *look = Some(channel);
        Ok(found.consumer_count())
    }

    async fn run(self: Arc<Self>, mut jobs: mpsc::Receiver<Job>) {
        let jobs = tokio::sync::Mutex::new(&mut jobs);
        let part = |session: Arc<Session>| async {
            let mut jobs = jobs.lock().await;
            let talked = self.converse(session, &mut jobs).await;
            self.route.send_replace(None);
            let fault = match &talked {
                Ok(()) => Fault::new("no-contact", "this process is closing its connection"),
                Err(error) => Fault::new(
                    "no-contact",
                    format!("{error}; whether it was done is not known; repeating is harmless"),
                ),
            };
            let pending = std::mem::take(&mut self.waiting().pending);
            for entry in pending.into_values() {
                entry.settle.send(Settled::Failed(fault.clone())).ok();
            }
            talked
        };
        self.common.in_each_session("asking", part).await;
    }

    /// Publishes and hears, until the session or the bus ends.
    async fn converse(&self, session: Arc<Session>, jobs: &mut mpsc::Receiver<Job>) -> Result<(), Error> {
        let user = session.user().to_owned();
        let queue = Declared {
            sort: Sort::Replies,
            name: self.common.names.reply(&user, &self.common.nonce()),
            keys: Vec::new(),
        };
        let queue = Declared {
            keys: vec![queue.name.clone()],
            ..queue
        };
        names::declare(&session, &self.common.names, &queue).await?;
        let hear = session.channel().await?;
        let unacknowledged = BasicConsumeOptions {
            no_ack: true,
            exclusive: true,
            ..BasicConsumeOptions::default()
        };
        let consuming = hear.basic_consume(queue.name.as_str().into(), "".into(), unacknowledged, FieldTable::default());
        let mut replies = session.bounded("listen for replies", consuming).await?;
        let publish = session.channel().await?;
        let confirming = publish.confirm_select(ConfirmSelectOptions::default());
        session.bounded("ask for confirms", confirming).await?;
        let route = Arc::new(Route {
            session: session.clone(),
            reply_to: queue.name.clone(),
            look: tokio::sync::Mutex::new(None),
            blind: AtomicBool::new(false),
        });
        self.common.trouble("asking", None);
        self.route.send_replace(Some(route.clone()));

        let exchange: ShortString = self.common.names.exchange().as_str().into();
        let queues = [queue];
        let mut kept = std::pin::pin!(names::keep_declared(&session, &self.common.names, &queues));
        let mut flights = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = self.common.closing.cancelled() => return Ok(()),
                () = session.over() => return Err(session.lost_error("wait for an answer")),
                reply = replies.next() => match reply {
                    Some(Ok(delivery)) => self.heard(delivery),
                    Some(Err(error)) => return Err(Error::asking("listen for replies", &error, session.shown())),
                    None => return Err(Error::new(Why::Missing, "listen for replies: somebody deleted the queue; it is declared again")),
                },
                Some((id, confirmation)) = flights.next(), if !flights.is_empty() => self.confirmed(id, confirmation, &session)?,
                job = jobs.recv() => {
                    let Some(job) = job else { return Ok(()) };
                    if !Arc::ptr_eq(&job.route, &route) {
                        self.fail(job.id, Fault::new("no-contact", "the connection was lost before it was sent; repeat it"));
                        continue;
                    }
                    let (publish, exchange) = (&publish, exchange.clone());
                    // Nothing is awaited before the frames are in lapin's queue, so what is asked first is sent first.
                    flights.push(async move {
                        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                        let confirmation = async {
                            publish.basic_publish(exchange, job.key, mandatory, &job.body, job.properties).await?.await
                        };
                        (job.id, confirmation.await)
                    }.boxed());
                }
                error = &mut kept => return Err(error),
            }
        }
    }

    fn confirmed(&self, id: u64, confirmation: lapin::Result<Confirmation>, session: &Session) -> Result<(), Error> {
        match confirmation {
            Ok(Confirmation::Ack(None) | Confirmation::NotRequested) => {
                if let Some(pending) = self.waiting().pending.get_mut(&id) {
                    pending.confirmed = true;
                }
            }
            Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) => {
                // Which confirm a returned message comes with is not certain, since brokers confirm several at once; the message
                // itself says which it is.
                self.common.metrics.unroutable.inc();
                let which = returned
                    .properties
                    .correlation_id()
                    .as_ref()
                    .and_then(|id| u64::from_str_radix(id.as_str(), 16).ok());
                let text = format!(
                    "nobody serves {:?} on broker {}; start one",
                    returned.routing_key.as_str(),
                    session.shown()
                );
                self.fail(which.unwrap_or(id), Fault::new("no-contact", text));
                if let Some(pending) = self.waiting().pending.get_mut(&id) {
                    pending.confirmed = true;
                }
            }
            Ok(Confirmation::Nack(None)) => {
                let text = format!(
                    "broker {} did not take the request: too many wait there already, or it is in trouble; repeat it later",
                    session.shown()
                );
                self.fail(id, Fault::new("no-contact", text));
            }
            Err(error) => return Err(Error::asking("send a request", &error, session.shown())),
        }
        Ok(())
    }

    fn fail(&self, id: u64, fault: Fault) {
        if let Some(pending) = self.waiting().pending.remove(&id) {
            pending.settle.send(Settled::Failed(fault)).ok();
        }
    }

    fn heard(&self, delivery: lapin::message::Delivery) {
        let properties = &delivery.properties;
        let users = &self.common.users;
        // A client that knows nobody takes the word of whoever the broker vouches for: its reply queue's name is not to be guessed.
        let counts = properties
            .user_id()
            .as_ref()
            .is_some_and(|user| users.is_empty() || users.is_service(user.as_str()));
        if !counts {
            self.common.metrics.refused.with_label_values(&["reply-of-no-service"]).inc();
            return;
        }
        if delivery.data.len() > self.common.limits().bytes {
            self.common.metrics.refused.with_label_values(&["reply-too-large"]).inc();
            return;
        }
        let id = properties
            .correlation_id()
            .as_ref()
            .and_then(|id| u64::from_str_radix(id.as_str(), 16).ok());
        let pending = id.and_then(|id| self.waiting().pending.remove(&id));
        // An answer to somebody who has gone is nobody's.
        if let Some(pending) = pending {
            pending.settle.send(Settled::Reply(delivery.data)).ok();
        }
    }
}

fn said(op: &str, error: &Error) -> Fault {
    let fault = error.fault();
    Fault {
        text: format!("ask {op}: {}", fault.text),
        code: fault.code,
    }
}
