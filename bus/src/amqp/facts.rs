//! Facts: told without waiting, heard without promises.
//!
//! Telling puts a fact into a bounded queue of this process; one task publishes from there, without confirms. When the broker is away
//! or slow, the oldest fact of the kind that has too many makes room, since a newer one says more. A listener has a queue of its own
//! on the broker, bounded likewise, and takes from it as fast as its owner reads.
//!
//! **Every loss is noticed by the one who lost something.** Facts carry a number, counted by sender and kind when they are told, so
//! a gap shows what was dropped anywhere on the way; the fact after a gap at the sender says how many, for listeners that know no
//! number yet. A listener whose connection broke adds one, since what it missed meanwhile has no number here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epu_core::fact::{Fact, Kind};
use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{debug, error};

use super::common::{Common, Step};
use super::connection::Session;
use super::error::{Error, Why};
use super::names::{self, Declared, Sort};
use super::wire;

/// Facts of one kind that may wait to be told. Too low: a burst is lost. Too high: memory, and news that is old.
const TELLING: usize = 4_096;
/// Facts that may wait for a listener in this process.
const HEARD: usize = 1_024;
/// Facts that a listener takes before it has acknowledged some.
const PREFETCH: usize = 256;
/// Facts after which a listener acknowledges, if it is not idle before.
const ACKNOWLEDGE: u64 = 64;
/// How long telling waits for this process's own listeners to be there: what is told often asks for what they are to hear.
const LISTENERS_WITHIN: Duration = Duration::from_secs(3);
/// Senders whose numbers a listener knows. Each is one run of a process; beyond that the count begins anew.
const SENDERS: usize = 4_096;

/// No listener can have more facts waiting: those beyond are lost.
pub const FACTS_WAITING: usize = TELLING + names::FACTS_WAITING + PREFETCH + HEARD;

struct Waiting {
    /// What waits, in the order it was told.
    queue: BTreeMap<u64, Entry>,
    order: u64,
    /// By kind: the places of what waits, the last number, and how many were dropped since one was told.
    kinds: BTreeMap<Kind, OfKind>,
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    started: bool,
}

struct Entry {
    kind: Kind,
    sequence: u64,
    fact: Fact,
}

#[derive(Default)]
struct OfKind {
    places: VecDeque<u64>,
    sequence: u64,
    told: u64,
}

/// The telling part of a bus.
pub(super) struct Telling {
    common: Arc<Common>,
    waiting: Mutex<Waiting>,
    news: Notify,
}

impl Telling {
    pub(super) fn new(common: &Arc<Common>) -> Arc<Self> {
        Arc::new(Self {
            common: common.clone(),
            waiting: Mutex::new(Waiting {
                queue: BTreeMap::new(),
                order: 0,
                kinds: BTreeMap::new(),
                flushes: Vec::new(),
                started: false,
            }),
            news: Notify::new(),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells; never waits.
    pub(super) fn tell(self: &Arc<Self>, fact: Fact) {
        let kind = fact.kind();
        let (start, dropped) = {
            let mut waiting = self.waiting();
            let waiting = &mut *waiting;
            waiting.order += 1;
            let of = waiting.kinds.entry(kind).or_default();
            of.sequence += 1;
            of.places.push_back(waiting.order);
            let sequence = of.sequence;
            waiting.queue.insert(waiting.order, Entry { kind, sequence, fact });
            let dropped = if of.places.len() > TELLING { of.places.pop_front() } else { None };
            let dropped = dropped.and_then(|place| waiting.queue.remove(&place));
            (!std::mem::replace(&mut waiting.started, true), dropped)
        };
        if dropped.is_some() {
            self.common.metrics.facts_dropped.inc();
        }
        if start {
            // A process that tells nothing needs no channel for it.
            self.common.tasks.spawn(self.clone().run());
        }
        self.news.notify_one();
    }

    /// Waits until all that was told so far is with the broker. Safe to cancel.
    pub(super) async fn flushed(&self) {
        let (done, told) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if !waiting.started {
                return;
            }
            let order = waiting.order;
            waiting.flushes.push((order, done));
        }
        self.news.notify_one();
        told.await.ok();
    }

    fn next(&self) -> Option<Entry> {
        let mut waiting = self.waiting();
        let (_, entry) = waiting.queue.pop_first()?;
        if let Some(of) = waiting.kinds.get_mut(&entry.kind) {
            of.places.pop_front();
        }
        Some(entry)
    }

    async fn run(self: Arc<Self>) {
        let part = |session: Arc<Session>| self.publish(session);
        self.common.in_each_session("telling", part).await;
        self.waiting().flushes.clear();
    }

    async fn publish(&self, session: Arc<Session>) -> Result<(), Error> {
        let names = &self.common.names;
        let channel = session.channel().await?;
        names::exchange(&session, &channel, names).await?;
        // Late listeners are told by the slow repetition of everything.
        tokio::time::timeout(LISTENERS_WITHIN, self.common.progress.done()).await.ok();
        self.common.trouble("telling", None);
        let exchange: ShortString = names.exchange().as_str().into();
        loop {
            while let Some(entry) = self.next() {
                self.tell_one(&session, &channel, &exchange, entry).await?;
            }
            let flushes: Vec<_> = {
                let mut waiting = self.waiting();
                let empty = waiting.queue.is_empty();
                if empty { std::mem::take(&mut waiting.flushes) } else { Vec::new() }
            };
            if !flushes.is_empty() {
                // The broker handles a channel's frames in order: once this is answered, what was published is where it belongs.
                names::exchange(&session, &channel, names).await?;
                for (_, done) in flushes {
                    done.send(()).ok();
                }
                continue;
            }
            tokio::select! {
                biased;
                () = self.common.closing.cancelled() => return Ok(()),
                () = session.over() => return Err(session.lost_error("tell facts")),
                () = self.news.notified() => {}
            }
        }
    }

    async fn tell_one(&self, session: &Session, channel: &lapin::Channel, exchange: &ShortString, entry: Entry) -> Result<(), Error> {
        let metrics = &self.common.metrics;
        let body = match serde_json::to_vec(&entry.fact) {
            Ok(body) if body.len() <= self.common.limits().bytes => body,
            Ok(body) => {
                metrics.facts_dropped.inc();
                error!(kind = ?entry.kind, bytes = body.len(), "a fact is longer than a message may be and is not told; raise `message-bytes`");
                return Ok(());
            }
            Err(error) => {
                metrics.facts_dropped.inc();
                error!(kind = ?entry.kind, %error, "a fact has no JSON form");
                return Ok(());
            }
        };
        let told = {
            let mut waiting = self.waiting();
            waiting
                .kinds
                .get_mut(&entry.kind)
                .map_or(0, |of| std::mem::replace(&mut of.told, entry.sequence))
        };
        let dropped = entry.sequence.saturating_sub(told + 1);
        let properties = wire::telling(session.user(), &self.common.settings().name, entry.sequence, dropped);
        let key = names::fact_key(entry.kind).into();
        let publishing = channel.basic_publish(exchange.clone(), key, BasicPublishOptions::default(), &body, properties);
        // While the broker blocks us nothing is written; what is told meanwhile makes room by itself.
        tokio::select! {
            biased;
            sent = publishing => sent.map_err(|error| Error::asking("tell facts", &error, session.shown()))?,
            () = self.common.closing.cancelled() => return Ok(()),
            () = session.over() => return Err(session.lost_error("tell facts")),
        };
        metrics.facts_told.inc();
        Ok(())
    }
}

/// Begins to listen; ends when the receiver is dropped or the bus closes.
pub(super) fn listen(common: &Arc<Common>, kinds: &[Kind]) -> crate::Facts {
    let (sender, receiver) = mpsc::channel(HEARD);
    let lost = Arc::new(AtomicU64::new(0));
    let listener = Listener {
        common: common.clone(),
        kinds: kinds.to_vec(),
        sender,
        lost: lost.clone(),
    };
    let step = common.progress.begin();
    common.tasks.spawn(listener.run(step));
    crate::Facts::new(receiver, lost)
}

struct Listener {
    common: Arc<Common>,
    kinds: Vec<Kind>,
    sender: mpsc::Sender<Fact>,
    lost: Arc<AtomicU64>,
}

/// What a listener remembers from one session to the next.
struct Memory {
    step: Option<Step>,
    began: bool,
    numbers: BTreeMap<(String, Kind), u64>,
}

impl Listener {
    async fn run(self, step: Step) {
        let memory = tokio::sync::Mutex::new(Memory {
            step: Some(step),
            began: false,
            numbers: BTreeMap::new(),
        });
        let part = |session: Arc<Session>| async {
            let mut memory = memory.lock().await;
            self.hear(session, &mut memory).await
        };
        self.common.in_each_session("listening", part).await;
    }

    async fn hear(&self, session: Arc<Session>, memory: &mut Memory) -> Result<(), Error> {
        let common = &self.common;
        let queue = Declared {
            sort: Sort::Facts,
            name: common.names.facts(&common.settings().name, &common.nonce()),
            keys: self.kinds.iter().map(|kind| names::fact_key(*kind).to_owned()).collect(),
        };
        names::declare(&session, &common.names, &queue).await?;
        let channel = session.channel().await?;
        let prefetch = channel.basic_qos(u16::try_from(PREFETCH).unwrap_or(u16::MAX), BasicQosOptions::default());
        session.bounded("limit what is heard", prefetch).await?;
        let consuming = channel.basic_consume(
            queue.name.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let mut consumer = session.bounded("listen to facts", consuming).await?;
        if std::mem::replace(&mut memory.began, true) {
            self.lose(1);
        }
        common.trouble("listening", None);
        memory.step = None;
        let queues = [queue];
        let mut kept = std::pin::pin!(names::keep_declared(&session, &common.names, &queues));
        let (mut last, mut unacknowledged) = (0, 0);
        loop {
            tokio::select! {
                biased;
                () = common.closing.cancelled() => return Ok(()),
                () = session.over() => return Err(session.lost_error("listen to facts")),
                () = self.sender.closed() => {
                    names::close(&session, &channel).await;
                    return Ok(());
                }
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => {
                        last = delivery.delivery_tag;
                        unacknowledged += 1;
                        self.pass_on(&delivery, &session, memory).await?;
                        if unacknowledged < ACKNOWLEDGE {
                            continue;
                        }
                    }
                    Some(Err(error)) => return Err(Error::asking("listen to facts", &error, session.shown())),
                    None => return Err(Error::new(Why::Missing, "listen to facts: somebody deleted the queue; it is declared again")),
                },
                // Nothing came for a moment: what was heard is acknowledged.
                () = tokio::time::sleep(Duration::from_millis(20)), if unacknowledged > 0 => {}
                error = &mut kept => return Err(error),
            }
            let acknowledging = channel.basic_ack(last, BasicAckOptions { multiple: true });
            tokio::select! {
                biased;
                sent = acknowledging => sent.map_err(|error| Error::asking("acknowledge facts", &error, session.shown()))?,
                () = session.over() => return Err(session.lost_error("acknowledge facts")),
            }
            unacknowledged = 0;
        }
    }

    /// Hands a fact to whoever listens, if it counts.
    async fn pass_on(&self, delivery: &lapin::message::Delivery, session: &Session, memory: &mut Memory) -> Result<(), Error> {
        let metrics = &self.common.metrics;
        let told = match wire::fact(delivery, &self.common.users, self.common.limits()) {
            Ok(told) => told,
            Err(why) => {
                metrics.refused.with_label_values(&[why]).inc();
                debug!(why, "a fact does not count");
                return Ok(());
            }
        };
        let missed = missed(&mut memory.numbers, &told);
        if missed > 0 {
            self.lose(missed);
        }
        metrics.facts_heard.inc();
        tokio::select! {
            biased;
            // A listener that went away is noticed above.
            _ = self.sender.send(told.fact) => Ok(()),
            () = self.common.closing.cancelled() => Ok(()),
            () = session.over() => Err(session.lost_error("listen to facts")),
        }
    }

    fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        self.common.metrics.facts_lost.inc_by(count);
    }
}

/// How many of its sender's facts of this kind were missed right before this one.
fn missed(numbers: &mut BTreeMap<(String, Kind), u64>, told: &wire::Told) -> u64 {
    let Some(sequence) = told.sequence else { return 0 };
    if numbers.len() >= SENDERS {
        numbers.clear();
    }
    match numbers.insert((told.sender.clone(), told.fact.kind()), sequence) {
        // Delivered again, or out of order: nothing is missed.
        Some(before) => sequence.saturating_sub(before.saturating_add(1)),
        None => told.dropped,
    }
}

#[cfg(test)]
mod tests {
    use epu_core::fact::Listener as Who;

    use super::*;

    #[test]
    fn a_gap_in_the_numbers_is_what_was_missed() {
        let mut numbers = BTreeMap::new();
        let mut told = |sender: &str, sequence, dropped| {
            missed(
                &mut numbers,
                &wire::Told {
                    fact: Fact::Listening(Who::Controller),
                    sender: sender.to_owned(),
                    sequence,
                    dropped,
                },
            )
        };
        assert_eq!(told("a", Some(700), 0), 0, "who comes late has missed nothing");
        assert_eq!(told("a", Some(701), 0), 0);
        assert_eq!(told("a", Some(705), 3), 3);
        assert_eq!(told("a", Some(705), 0), 0, "delivered twice");
        assert_eq!(told("b", Some(9), 4), 4, "dropped by a sender of whom nothing is known");
        assert_eq!(told("c", None, 0), 0);
    }
}
