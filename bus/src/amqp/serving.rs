//! Serving: what waits in a queue is read, checked, handed to whoever serves here, and acknowledged once it is answered.
//!
//! A message is acknowledged after its answer was given, so after its effect is stored: a process that dies leaves it to the next
//! one. At most `prefetch` are taken and not acknowledged, so a slow process holds that many and others go on. The reply goes out
//! before the acknowledgement, on the same channel, and is not waited for: an asker who misses it asks again.
//!
//! What cannot be understood is answered `bad-request`, put into the queue of dead letters by a confirmed publish, and only then
//! acknowledged. So is what was delivered [`DELIVERIES_MOST`] times before and killed the process, or the connection, each time;
//! since connections break by themselves as well, that is answered `internal`, and whoever asked may ask again.
//! The broker's own dead-lettering is not used: it would also put aside every question that merely expired.
//!
//! Acknowledgements are gathered: all that are done when nothing else is ready go out at once, those without a gap in one frame.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use epu_core::Fault;
use epu_core::request::Answer;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use prometheus::IntCounter;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use super::common::{Common, Step};
use super::connection::Session;
use super::dead;
use super::error::{Error, Why};
use super::names::{self, Declared, Sort};
use super::wire::{self, Limits, Refusal};
use crate::{Call, Calls};

/// A message that was delivered so often before is put aside. Too low: what was unlucky to be near a few crashes is lost. Too high:
/// a message that kills its process does so more often.
const DELIVERIES_MOST: u64 = 5;
/// The header in which quorum queues count deliveries that were not acknowledged.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// How long answers may take once nothing more is taken.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// Requests that are taken before anything else is looked at. Too low: throughput. Too high: answers wait.
const TOGETHER: usize = 32;

type Door = mpsc::Sender<Call>;

/// What one queue's calls go through.
pub(super) struct Serving {
    door: watch::Sender<Door>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Serving").finish_non_exhaustive()
    }
}

/// Which queue.
#[derive(Debug, Clone)]
pub(super) enum Of {
    Service(epu_core::request::Service),
    Member(String),
}

impl Serving {
    /// Begins to take calls, for as long as somebody holds the receiver or takes his place by [`Serving::replace`].
    pub(super) fn start(common: &Arc<Common>, of: Of) -> (Self, Calls) {
        let (door, calls) = mpsc::channel(usize::from(common.settings().prefetch));
        let (door, doors) = watch::channel(door);
        let step = common.progress.begin();
        common.tasks.spawn(run(common.clone(), of, doors, step));
        (Self { door }, calls)
    }

    /// Gives the calls to somebody else from now on.
    pub(super) fn replace(&self, common: &Common) -> Calls {
        let (door, calls) = mpsc::channel(usize::from(common.settings().prefetch));
        self.door.send_replace(door);
        calls
    }

    /// Where calls from this process go, without the broker; none when nobody takes them.
    pub(super) fn door(&self) -> Option<Door> {
        let door = self.door.borrow();
        (!door.is_closed()).then(|| door.clone())
    }

    /// Whether nobody takes calls any more.
    pub(super) fn is_over(&self) -> bool {
        self.door.borrow().is_closed()
    }
}

async fn run(common: Arc<Common>, of: Of, doors: watch::Receiver<Door>, step: Step) {
    let what = match &of {
        Of::Service(service) => format!("serve {}", service.name()),
        Of::Member(name) => format!("serve as member {name}"),
    };
    let step = std::sync::Mutex::new(Some(step));
    let part = |session: Arc<Session>| {
        let (common, of, what, step) = (&common, &of, &what, &step);
        let mut doors = doors.clone();
        async move {
            loop {
                if doors.borrow().is_closed() {
                    // Not wanted any more: nobody is to wait for it.
                    drop(step.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
                }
                // Nobody takes calls: nothing is consumed, so that the broker tells askers, until somebody does again.
                let open = doors.wait_for(|door| !door.is_closed());
                tokio::select! {
                    biased;
                    () = common.closing.cancelled() => return Ok(()),
                    () = session.over() => return Err(session.lost_error(what)),
                    open = open => if open.is_err() { return Ok(()) },
                }
                let mut consuming = Consuming::begin(common, session.clone(), of).await?;
                common.trouble(what, None);
                drop(step.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
                consuming.go_on(&mut doors).await?;
                if common.closing.is_cancelled() {
                    return Ok(());
                }
            }
        }
    };
    common.in_each_session(&what, part).await;
    common.trouble(&what, None);
}

struct Consuming<'a> {
    common: &'a Arc<Common>,
    session: Arc<Session>,
    channel: Channel,
    replying: Arc<Replying>,
    consumer: lapin::Consumer,
    queue: Declared,
    others: Vec<Declared>,
    working: FuturesUnordered<BoxFuture<'static, u64>>,
    acks: Acks,
}

impl<'a> Consuming<'a> {
    async fn begin(common: &'a Arc<Common>, session: Arc<Session>, of: &Of) -> Result<Self, Error> {
        let names = &common.names;
        let queue = match of {
            Of::Service(service) => Declared {
                sort: Sort::Service,
                name: names.service(*service),
                keys: vec![service.name().to_owned()],
            },
            Of::Member(name) => Declared {
                sort: Sort::Member,
                name: names.member(name, &common.nonce()),
                keys: vec![names::member_key(name)],
            },
        };
        let others = vec![dead::declared(names)];
        for declared in others.iter().chain([&queue]) {
            names::declare(&session, names, declared).await?;
        }
        let channel = session.channel().await?;
        let prefetch = channel.basic_qos(common.settings().prefetch.max(1), BasicQosOptions::default());
        session.bounded("limit what is taken", prefetch).await?;
        let tag = names::short(&format!("{} {}", common.settings().name, common.nonce()));
        let consuming = channel.basic_consume(
            queue.name.as_str().into(),
            tag,
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = session.bounded(&format!("consume queue {}", queue.name), consuming).await?;
        Ok(Self {
            common,
            replying: Replying::new(common, &session, &channel),
            session,
            channel,
            consumer,
            queue,
            others,
            working: FuturesUnordered::new(),
            acks: Acks::default(),
        })
    }

    /// Takes calls until nobody wants them, or the session or the bus ends.
    async fn go_on(&mut self, doors: &mut watch::Receiver<Door>) -> Result<(), Error> {
        let session = self.session.clone();
        let mut door = doors.borrow_and_update().clone();
        let queues: Vec<Declared> = self.others.iter().chain([&self.queue]).cloned().collect();
        let mut kept = std::pin::pin!(names::keep_declared(&session, &self.common.names, &queues));
        loop {
            tokio::select! {
                biased;
                () = session.over() => return Err(session.lost_error("take requests")),
                () = self.common.closing.cancelled() => return self.finish().await,
                Some(tag) = self.working.next(), if !self.working.is_empty() => {
                    self.acks.done(tag);
                    while let Some(Some(tag)) = self.working.next().now_or_never() {
                        self.acks.done(tag);
                    }
                    self.acknowledge().await?;
                }
                changed = doors.changed() => {
                    if changed.is_err() {
                        return self.finish().await;
                    }
                    door = doors.borrow_and_update().clone();
                }
                () = door.closed(), if !doors.has_changed().unwrap_or(false) => return self.finish().await,
                delivery = self.consumer.next() => {
                    self.came(delivery, &door).await?;
                    // Those that are here already are taken together: looking at everything else costs more than a request does.
                    for _ in 0..TOGETHER {
                        let Some(delivery) = self.consumer.next().now_or_never() else { break };
                        self.came(delivery, &door).await?;
                    }
                }
                error = &mut kept => return Err(error),
            }
        }
    }

    /// Takes no more, waits a while for the answers to what was taken, and gives the rest back to the queue.
    async fn finish(&mut self) -> Result<(), Error> {
        let tag = self.consumer.tag();
        let cancelling = self.channel.basic_cancel(tag, BasicCancelOptions::default());
        self.session.bounded("take no more requests", cancelling).await?;
        let finishing = async {
            while let Some(tag) = self.working.next().await {
                self.acks.done(tag);
            }
        };
        let over = self.session.clone();
        tokio::select! {
            biased;
            () = over.over() => return Err(over.lost_error("answer the last requests")),
            () = finishing => {}
            () = tokio::time::sleep(FINISH_WITHIN) => {}
        }
        self.acknowledge().await?;
        // Closing the channel gives back what was not answered.
        names::close(&self.session, &self.channel).await;
        Ok(())
    }

    async fn acknowledge(&mut self) -> Result<(), Error> {
        let (together, single) = self.acks.due();
        let frames = together
            .map(|tag| (tag, true))
            .into_iter()
            .chain(single.into_iter().map(|tag| (tag, false)));
        for (tag, multiple) in frames {
            // While the broker blocks us nothing is written, and waiting longer is what there is to do.
            tokio::select! {
                biased;
                sent = self.channel.basic_ack(tag, BasicAckOptions { multiple }) => {
                    sent.map_err(|error| Error::asking("acknowledge requests", &error, self.session.shown()))?;
                }
                () = self.session.over() => return Err(self.session.lost_error("acknowledge requests")),
            }
        }
        Ok(())
    }

    async fn came(&mut self, delivery: Option<lapin::Result<Delivery>>, door: &Door) -> Result<(), Error> {
        match delivery {
            Some(Ok(delivery)) => self.take(delivery, door).await,
            Some(Err(error)) => Err(Error::asking("take requests", &error, self.session.shown())),
            None => {
                let text = format!("take requests: queue {} was deleted; it is declared again", self.queue.name);
                Err(Error::new(Why::Missing, text))
            }
        }
    }

    async fn take(&mut self, delivery: Delivery, door: &Door) -> Result<(), Error> {
        let tag = delivery.delivery_tag;
        self.acks.took(tag);
        if wire::is_probe(&delivery.properties) {
            self.working.push(std::future::ready(tag).boxed());
            return Ok(());
        }
        let read = match poison(&delivery) {
            Some(refusal) => Err(refusal),
            None => wire::request(&delivery, &self.common.users, self.common.limits()),
        };
        let metrics = &self.common.metrics;
        let incoming = match read {
            Ok(incoming) => incoming,
            Err(refusal) => {
                metrics.served.with_label_values(&[super::outcome(&refusal.fault.code)]).inc();
                if let Some(reason) = refusal.dead {
                    warn!(queue = %self.queue.name, reason, fault = %refusal.fault, "a message is put aside");
                    if let Err(error) = dead::bury(self.common, &self.session, &self.queue, &delivery, reason, &refusal.fault).await {
                        // It goes back to its queue, to be put aside later.
                        let nack = self.channel.basic_nack(
                            tag,
                            BasicNackOptions {
                                multiple: false,
                                requeue: true,
                            },
                        );
                        self.session.bounded("give a message back", nack).await?;
                        self.acks.gone(tag);
                        return Err(error);
                    }
                    metrics.dead.with_label_values(&[reason]).inc();
                } else {
                    debug!(queue = %self.queue.name, fault = %refusal.fault, "a request is refused");
                }
                self.working
                    .push(self.replying.reply(&delivery, std::future::ready(Err(refusal.fault)), false));
                return Ok(());
            }
        };
        let (call, answered) = Call::new(incoming.caller, incoming.request);
        let handed = hand(door, call);
        let answer = async move {
            let gone = || Fault::new("no-contact", "the service is going away; repeat it");
            if !handed.await {
                return Err(gone());
            }
            answered.await.unwrap_or_else(|_| Err(gone()))
        };
        self.working.push(self.replying.reply(&delivery, answer, true));
        Ok(())
    }
}

/// What was delivered so often that handling it may be what ends the process. A connection that breaks again and again counts as well, so
/// its asker is not told that it is wrong: he may ask again.
fn poison(delivery: &Delivery) -> Option<Refusal> {
    let before = wire::header_number(&delivery.properties, DELIVERY_COUNT).unwrap_or(0);
    (before >= DELIVERIES_MOST).then(|| {
        let text = format!("it was delivered {before} times and never acknowledged, and is put aside: does handling it end the process?");
        Refusal {
            fault: Fault::new("internal", text),
            dead: Some("poison"),
        }
    })
}

/// Hands a call on, at once where there is room; whether somebody has it. Callers of this process may have filled the door: the call
/// then waits its turn, and no more than the prefetch wait.
fn hand(door: &Door, call: Call) -> impl Future<Output = bool> + Send + 'static {
    let waits = match door.try_send(call) {
        Ok(()) => Ok(true),
        Err(TrySendError::Closed(_)) => Ok(false),
        Err(TrySendError::Full(call)) => Err((door.clone(), call)),
    };
    async move {
        match waits {
            Ok(handed) => handed,
            Err((door, call)) => door.send(call).await.is_ok(),
        }
    }
}

/// What every reply needs, made once.
struct Replying {
    common: Arc<Common>,
    channel: Channel,
    exchange: ShortString,
    properties: BasicProperties,
    limits: Limits,
    served: IntCounter,
}

impl Replying {
    fn new(common: &Arc<Common>, session: &Session, channel: &Channel) -> Arc<Self> {
        Arc::new(Self {
            exchange: common.names.exchange().as_str().into(),
            properties: wire::replying(session.user(), &common.settings().name),
            limits: common.limits(),
            served: common.metrics.served.with_label_values(&["ok"]),
            channel: channel.clone(),
            common: common.clone(),
        })
    }

    /// Sends the answer when it is there, and says which message is done with.
    fn reply(
        self: &Arc<Self>,
        delivery: &Delivery,
        answer: impl Future<Output = Result<Answer, Fault>> + Send + 'static,
        count: bool,
    ) -> BoxFuture<'static, u64> {
        let tag = delivery.delivery_tag;
        let to = wire::reply_to(&delivery.properties, &self.common.names);
        let correlation = delivery.properties.correlation_id().clone();
        let this = self.clone();
        async move {
            let answer = answer.await;
            if count {
                match &answer {
                    Ok(_) => this.served.inc(),
                    Err(fault) => this.common.metrics.served.with_label_values(&[super::outcome(&fault.code)]).inc(),
                }
            }
            let Some(to) = to else { return tag };
            let body = wire::reply(&answer, this.limits);
            let mut properties = this.properties.clone();
            if let Some(correlation) = correlation {
                properties = properties.with_correlation_id(correlation);
            }
            let sent = this
                .channel
                .basic_publish(this.exchange.clone(), to, BasicPublishOptions::default(), &body, properties)
                .await;
            if let Err(error) = sent {
                debug!(%error, "an answer was not sent");
            }
            tag
        }
        .boxed()
    }
}

/// Which deliveries are done and not yet acknowledged. Tags grow by one a delivery on a channel.
#[derive(Debug, Default)]
struct Acks {
    /// Every tag below this one is acknowledged, or in `early`.
    next: u64,
    done: BTreeSet<u64>,
    /// Acknowledged by themselves, ahead of an older one.
    early: BTreeSet<u64>,
}

impl Acks {
    fn took(&mut self, tag: u64) {
        if self.next == 0 {
            self.next = tag;
        }
    }

    fn done(&mut self, tag: u64) {
        self.done.insert(tag);
    }

    /// Given back in another way.
    fn gone(&mut self, tag: u64) {
        self.early.insert(tag);
    }

    /// The tag up to which all are done, and those beyond a gap.
    fn due(&mut self) -> (Option<u64>, Vec<u64>) {
        let mut together = None;
        loop {
            if self.done.remove(&self.next) {
                together = Some(self.next);
            } else if !self.early.remove(&self.next) {
                break;
            }
            self.next += 1;
        }
        let single: Vec<u64> = std::mem::take(&mut self.done).into_iter().collect();
        self.early.extend(&single);
        (together, single)
    }
}

#[cfg(test)]
mod tests {
    use epu_core::request::{Caller, Nothing, Request};

    use super::*;

    #[test]
    fn what_was_delivered_too_often_is_put_aside_and_may_be_asked_again() {
        let delivered = |times: i64| {
            let mut delivery = Delivery::mock(1, "".into(), "".into(), true, Vec::new());
            let mut headers = FieldTable::default();
            headers.insert(DELIVERY_COUNT.into(), lapin::types::AMQPValue::LongLongInt(times));
            delivery.properties = BasicProperties::default().with_headers(headers);
            poison(&delivery)
        };
        assert!(delivered(0).is_none() && delivered(4).is_none());
        let refusal = delivered(5).expect("it is put aside");
        assert_eq!((&*refusal.fault.code, refusal.dead), ("internal", Some("poison")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_room_and_is_turned_away_only_where_nobody_is() {
        let call = || Call::new(Caller::Service("x"), Request::Status(Nothing {})).0;
        let (door, mut calls) = mpsc::channel(1);
        assert!(hand(&door, call()).await);
        let waits = tokio::spawn(hand(&door, call()));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!waits.is_finished(), "there is no room");
        assert!(calls.recv().await.is_some());
        assert!(waits.await.unwrap());
        assert!(calls.recv().await.is_some());

        assert!(hand(&door, call()).await);
        let waits = tokio::spawn(hand(&door, call()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(calls);
        assert!(!waits.await.unwrap(), "nobody takes it any more");
        assert!(!hand(&door, call()).await);
    }

    #[test]
    fn what_is_done_without_a_gap_goes_together_and_the_rest_one_by_one() {
        let mut acks = Acks::default();
        (1..=6).for_each(|tag| acks.took(tag));
        acks.done(2);
        acks.done(4);
        assert_eq!(acks.due(), (None, vec![2, 4]));
        acks.done(1);
        acks.done(3);
        assert_eq!(acks.due(), (Some(3), vec![]));
        assert_eq!(acks.due(), (None, vec![]));
        acks.gone(5);
        acks.done(6);
        assert_eq!(acks.due(), (Some(6), vec![]));
        assert!(acks.done.is_empty() && acks.early.is_empty());
        acks.took(7);
        acks.done(7);
        assert_eq!(acks.due(), (Some(7), vec![]));
    }

    /// Whatever the order, each is acknowledged exactly once, and none before it is done.
    #[test]
    fn every_message_is_acknowledged_once_in_whatever_order() {
        let random = epu_core::random::Random::seeded(5);
        for _ in 0..200 {
            let mut acks = Acks::default();
            let mut left: Vec<u64> = (1..=50).collect();
            left.iter().for_each(|tag| acks.took(*tag));
            let mut acknowledged = BTreeSet::new();
            let mut finished = BTreeSet::new();
            while !left.is_empty() {
                for _ in 0..=random.number() % 5 {
                    if left.is_empty() {
                        break;
                    }
                    let at = usize::try_from(random.number() % u64::try_from(left.len()).unwrap()).unwrap();
                    let tag = left.swap_remove(at);
                    finished.insert(tag);
                    acks.done(tag);
                }
                let (together, single) = acks.due();
                if let Some(most) = together {
                    for tag in 1..=most {
                        acknowledged.insert(tag);
                    }
                }
                for tag in single {
                    assert!(acknowledged.insert(tag), "{tag} is acknowledged twice");
                }
                assert_eq!(acknowledged, finished);
            }
        }
    }
}
