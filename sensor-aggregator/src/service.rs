//! The aggregator's loop: takes heartbeats, facts and readings, and tells what is new.
//!
//! Everything happens in this one task, so there are no locks. What comes seldom is looked at first and what comes in floods
//! last, each in bounded bites: a flood of heartbeats cannot keep snapshots from being told. Heartbeats are taken in batches that
//! share one look at the clock.
//!
//! A snapshot is called complete only once every live instance is known and has had the time to speak twice: before that, whoever is
//! not in it may just not have spoken yet. The moment that comes, everything is told without being asked.
//!
//! A sensor's new value is told at once, since a pool waits for it; everything else waits for the next snapshot.
//!
//! After a restart, or when the bus lost facts, or when instances speak that no record explains, the provisioner and the
//! controllers are asked to tell everything again, ever more rarely while that does not help.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use epu_bus::{Bus, Call, Facts};
use epu_core::fact::{Fact, Kind, Listener, Snapshot};
use epu_core::heartbeat::{Heartbeat, Orders};
use epu_core::lease::Member;
use epu_core::request::{Answer, Caller, Request, Service};
use epu_core::{Clock, Fault, Pool, PoolName, Timestamp};
use epu_store::Store;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, period};
use crate::error::Error;
use crate::membership::Membership;
use crate::metrics::Metrics;
use crate::readings::Key;
use crate::sensors::Sources;
use crate::watch::{Read, Watches};
use crate::window::{Keep, Refusal, Window};

/// Calls taken in one bite. Too low: the clock and the other branches are looked at too often. Too high: they wait too long.
const CALLS_AT_ONCE: usize = 512;
/// Facts taken in one bite.
const FACTS_AT_ONCE: usize = 64;
/// Readings that may wait to be taken; the tasks that read wait beyond that.
const READS_WAITING: usize = 1_024;
/// The most heartbeats in one request.
pub const HEARTBEATS_MAX: usize = 4_096;
/// Running this much later than planned is a gap in listening. Too low: a busy machine makes silence never count. Too high: a
/// process that was stopped for a while condemns instances that spoke meanwhile.
const GAP: Duration = Duration::from_secs(5);
/// How often what is no longer needed is forgotten and failed tasks are started again. Looks at every instance.
const TEND_EVERY: Duration = Duration::from_secs(30);
/// The first wait before everything is asked for again; it doubles up to the last.
const ASK_AGAIN_FIRST: Duration = Duration::from_secs(2);
/// The longest such wait. Too low: instances that stay unknown make the provisioner tell everything again and again.
const ASK_AGAIN_LAST: Duration = Duration::from_secs(600);
/// Heartbeats that each instance had the time for before a snapshot is called complete.
const HEARTBEATS_HEARD: u32 = 2;
/// The longest time between heartbeats that is waited for, and the one while no pool is known. Too high: after a start nothing shrinks
/// for that much longer. Too low: a worker that speaks seldom seems to have nothing to say.
const HEARTBEAT_MOST: Duration = Duration::from_secs(60);
const HEARTBEAT_USUAL: Duration = Duration::from_secs(5);
/// The longest such wait until everything was told once: nobody may have been there to be asked.
const ASK_AGAIN_AT_START: Duration = Duration::from_secs(10);

/// Everything that an aggregator is given.
pub struct Parts {
    /// What this aggregator is called; unique among those of the installation.
    pub name: String,
    /// This process among those of the installation; its url is where agents reach it.
    pub member: Member,
    /// Where members are listed. Nothing else is asked of it, and without it, or while it is away, everything goes on.
    pub store: Option<Arc<dyn Store>>,
    /// Carries heartbeats in and snapshots out.
    pub bus: Arc<dyn Bus>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where readings come from.
    pub sources: Arc<dyn Sources>,
    /// Its settings.
    pub config: Config,
    /// What it counts.
    pub metrics: Metrics,
}

/// What came of one heartbeat among several in [`Request::Heartbeats`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)] // The fault stands first: every JSON object can be read as orders.
pub enum Outcome {
    /// It was refused.
    Refused(Fault),
    /// It was taken; these are the instance's standing orders.
    Taken(Orders),
}

/// Aggregates until cancelled.
///
/// # Errors
/// When the bus is gone, or somebody else now serves heartbeats on it.
pub async fn run(parts: Parts, cancel: CancellationToken) -> Result<(), Error> {
    let membership = Membership::new(parts.member.clone(), parts.store.clone(), parts.clock.clone());
    let ended = tokio::select! {
        biased; // hearing comes first
        ended = aggregate(parts, membership.others.clone(), cancel) => ended,
        never = membership.renew() => match never {},
    };
    membership.leave().await;
    ended
}

async fn aggregate(parts: Parts, others: Arc<AtomicBool>, cancel: CancellationToken) -> Result<(), Error> {
    let mut calls = parts.bus.serve(Service::Aggregator);
    let mut facts = parts.bus.listen(&[Kind::Instances, Kind::Pools, Kind::Listening]);
    let (out, mut reads) = mpsc::channel(READS_WAITING);
    let mut batch = Vec::with_capacity(CALLS_AT_ONCE);
    let mut read_batch = Vec::with_capacity(READS_WAITING);
    let mut aggregator = Aggregator::new(parts, others, out);
    let mut tick = interval(period(aggregator.config.snapshot_every));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    info!(aggregator = aggregator.name, "listening");
    aggregator.bus.tell(Fact::Listening(Listener::Aggregator));
    let stopped = cancel.cancelled();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            biased; // what comes seldom first, what comes in floods last
            () = &mut stopped => return Ok(()),
            _ = tick.tick() => aggregator.tick(&facts),
            _ = reads.recv_many(&mut read_batch, READS_WAITING) => aggregator.reads(&mut read_batch),
            fact = facts.next() => aggregator.facts(fact.ok_or(Error::BusGone)?, &mut facts),
            taken = calls.recv_many(&mut batch, CALLS_AT_ONCE) => {
                if taken == 0 {
                    return Err(Error::Replaced);
                }
                aggregator.calls(&mut batch);
            }
        }
    }
}

struct Aggregator {
    name: String,
    /// Whether there are other aggregators.
    others: Arc<AtomicBool>,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    config: Config,
    metrics: Metrics,
    window: Window,
    watches: Watches,
    last_tick: Timestamp,
    /// What is told reaches nobody.
    is_cut_off: bool,
    complete_due: Timestamp,
    /// Whether the last look found that a snapshot can be called complete.
    was_complete: bool,
    /// Between two heartbeats, by pool, and when each pool was last mentioned.
    heartbeats: BTreeMap<PoolName, (Duration, Timestamp)>,
    tend_due: Timestamp,
    ask: AskAgain,
    /// Sensors whose values are among the metrics.
    shown: BTreeSet<Key>,
}

impl Aggregator {
    fn new(parts: Parts, others: Arc<AtomicBool>, out: mpsc::Sender<Read>) -> Self {
        let now = parts.clock.now();
        let keep = Keep {
            ended: *parts.config.forget_ended,
            silent: *parts.config.forget_silent,
        };
        Self {
            window: Window::new(parts.name.clone(), now, keep),
            watches: Watches::new(parts.sources, period(parts.config.read_within), *parts.config.forget_ended, out),
            name: parts.name,
            others,
            bus: parts.bus,
            clock: parts.clock,
            metrics: parts.metrics,
            last_tick: now,
            is_cut_off: false,
            complete_due: now + period(parts.config.complete_every),
            was_complete: false,
            heartbeats: BTreeMap::new(),
            tend_due: now + TEND_EVERY,
            config: parts.config,
            ask: AskAgain::new(now),
            shown: BTreeSet::new(),
        }
    }

    /// Tells what is new, or everything when that is due.
    fn tick(&mut self, facts: &Facts) {
        let now = self.clock.now();
        let late = now.since(self.last_tick);
        if late > period(self.config.snapshot_every) + GAP {
            warn!(?late, "not running for a while; silence counts from now on");
            self.metrics.listening_gaps.inc();
            self.window.missed(now);
        }
        self.last_tick = now;
        let was_cut_off = std::mem::replace(&mut self.is_cut_off, false);
        if let Err(fault) = self.bus.in_touch() {
            // Heartbeats go elsewhere meanwhile: what is not heard here was said to others, if there are any.
            if !was_cut_off {
                warn!(%fault, "cut off from the others; silence counts from when that is over");
            }
            self.is_cut_off = true;
            self.window.missed(now);
        } else if was_cut_off {
            info!("in touch with the others again");
            self.window.missed(now);
        }
        let lost = facts.lost();
        if lost > 0 {
            warn!(lost, "facts were lost, asking for all of them");
            self.metrics.facts_lost.inc_by(lost);
            self.ask.because();
            self.complete_due = now; // a listener may have asked
        }
        let longest = if self.window.knows_all() {
            ASK_AGAIN_LAST
        } else {
            self.ask.because();
            ASK_AGAIN_AT_START
        };
        if self.ask.is_due(longest, now) {
            self.metrics.asked_again.inc();
            self.bus.tell(Fact::Listening(Listener::Aggregator));
        }
        if self.tend_due <= now {
            self.tend_due = now + TEND_EVERY;
            self.window.forget(now);
            self.watches.tend(&mut self.window, now);
            let forget = *self.config.forget_ended;
            self.heartbeats.retain(|_, (_, mentioned_at)| now.since(*mentioned_at) <= forget);
        }
        self.watches
            .put_together(&mut self.window, self.others.load(Ordering::Relaxed), now);
        let is_complete = self.is_complete(now);
        let became_complete = is_complete && !self.was_complete;
        self.was_complete = is_complete;
        self.snapshot(became_complete || self.complete_due <= now, now);
        self.show(now);
    }

    /// Whether everybody who lives has had the time to speak.
    fn is_complete(&self, now: Timestamp) -> bool {
        let longest = self.heartbeats.values().map(|(every, _)| *every).max().unwrap_or(HEARTBEAT_USUAL);
        self.window.knows_all() && self.window.listening_for(now) >= longest.min(HEARTBEAT_MOST) * HEARTBEATS_HEARD
    }

    /// Takes in how often the workers of pools speak.
    fn pools(&mut self, pools: &[Pool], now: Timestamp) {
        for pool in pools {
            if pool.removed {
                self.heartbeats.remove(&pool.name);
            } else {
                self.heartbeats.insert(pool.name.clone(), (*pool.template.heartbeat, now));
            }
        }
        self.watches.pools(pools, &mut self.window, now);
    }

    /// Tells what is new, or everything.
    fn snapshot(&mut self, everything: bool, now: Timestamp) {
        if everything {
            self.complete_due = now + period(self.config.complete_every);
        }
        let mut pages = self.window.snapshot(now, everything);
        let complete = everything && self.is_complete(now);
        if !complete {
            pages.iter_mut().for_each(|page| page.complete = false);
        }
        self.tell(pages, complete);
    }

    fn tell(&self, pages: Vec<Snapshot>, complete: bool) {
        let count = u64::try_from(pages.len()).unwrap_or(u64::MAX);
        let label = if complete { "true" } else { "false" };
        self.metrics.snapshot_pages.with_label_values(&[label]).inc_by(count);
        for page in pages {
            self.bus.tell(Fact::Snapshot(Arc::new(page)));
        }
    }

    /// Takes what sensors said, and tells at once what changed.
    fn reads(&mut self, batch: &mut Vec<Read>) {
        let now = self.clock.now();
        for read in batch.drain(..).filter(|read| self.watches.is_current(read)) {
            let outcome = match &read.outcome {
                Ok(_) => "read",
                Err(fault) if fault.code == "timeout" => "timeout",
                Err(_) => "failed",
            };
            self.metrics.sensor_reads.with_label_values(&[outcome]).inc();
            self.window.readings_mut().record(&read.key, read.outcome, now);
        }
        let news = self.window.sensor_news(now);
        self.tell(news, false);
    }

    /// Takes a fact, and those that have arrived behind it.
    fn facts(&mut self, first: Fact, facts: &mut Facts) {
        let now = self.clock.now();
        let mut tell_all = false;
        let mut next = Some(first);
        for _ in 0..FACTS_AT_ONCE {
            let Some(fact) = next.take().or_else(|| facts.next_now()) else {
                break;
            };
            match fact {
                Fact::Instances(told) => {
                    let knew_all = self.window.knows_all();
                    self.window.instances(&told, now);
                    tell_all |= !knew_all && self.window.knows_all();
                }
                Fact::Pools(told) => self.pools(&told, now),
                Fact::Listening(Listener::Controller) => tell_all = true,
                Fact::Listening(Listener::Aggregator) | Fact::Snapshot(_) => {}
            }
        }
        if tell_all {
            self.snapshot(true, now);
        }
    }

    fn calls(&mut self, batch: &mut Vec<Call>) {
        let now = self.clock.now();
        let mut tally = Tally::default();
        for call in batch.drain(..) {
            let (caller, request, answering) = call.into_parts();
            answering.answer(if let Request::Heartbeat(heartbeat) = &request {
                self.heartbeat(&caller, heartbeat, now, &mut tally).map(Answer::Orders)
            } else if let Request::Heartbeats(heartbeats) = &request {
                self.heartbeats(&caller, heartbeats, now, &mut tally)
            } else {
                let text = format!("an aggregator takes heartbeats, and nothing like {}", request.op());
                Err(Fault::new("bad-request", text))
            });
        }
        if tally.unknown > 0 {
            self.ask.because();
        }
        tally.count(&self.metrics);
    }

    fn heartbeat(&mut self, caller: &Caller, heartbeat: &Heartbeat, now: Timestamp, tally: &mut Tally) -> Result<Orders, Fault> {
        if !may_speak(caller, heartbeat) {
            tally.forbidden += 1;
            return Err(Fault::new(
                "forbidden",
                format!("{} may not speak for instance {}", caller.name(), heartbeat.instance),
            ));
        }
        let heard = self.window.hear(heartbeat, now);
        tally.add(&heard);
        heard.map_err(|refusal| refusal.fault(heartbeat.instance))
    }

    fn heartbeats(&mut self, caller: &Caller, heartbeats: &[Heartbeat], now: Timestamp, tally: &mut Tally) -> Result<Answer, Fault> {
        if heartbeats.len() > HEARTBEATS_MAX {
            return Err(Fault::new(
                "bad-request",
                format!("{} heartbeats in one request; at most {HEARTBEATS_MAX}", heartbeats.len()),
            ));
        }
        let outcomes: Vec<Outcome> = heartbeats
            .iter()
            .map(|heartbeat| {
                self.heartbeat(caller, heartbeat, now, tally)
                    .map_or_else(Outcome::Refused, Outcome::Taken)
            })
            .collect();
        Answer::of(&outcomes)
    }

    /// Brings the metrics up to date that say how things are.
    fn show(&mut self, now: Timestamp) {
        let (live, ended) = self.window.counts();
        for (life, count) in [("live", live), ("ended", ended)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.metrics.instances.with_label_values(&[life]).set(count);
        }
        let mut shown = BTreeSet::new();
        for (key, value) in self.window.readings().values(now) {
            let Some((value, age)) = value else {
                continue; // absent, not zero
            };
            let labels = [key.0.as_str(), key.1.as_str()];
            self.metrics.sensor_value.with_label_values(&labels).set(value);
            self.metrics.sensor_age.with_label_values(&labels).set(age.as_secs_f64());
            shown.insert(key.clone());
        }
        for gone in self.shown.difference(&shown) {
            let labels = [gone.0.as_str(), gone.1.as_str()];
            for gauge in [&self.metrics.sensor_value, &self.metrics.sensor_age] {
                // Fails only when it is not there, which is what is wanted.
                drop(gauge.remove_label_values(&labels));
            }
        }
        self.shown = shown;
    }
}

/// Whether a caller may speak for the heartbeat's instance: it itself, and a service that passes on what several said.
fn may_speak(caller: &Caller, heartbeat: &Heartbeat) -> bool {
    match caller {
        Caller::Instance(id) => *id == heartbeat.instance,
        Caller::Service(_) => true,
        Caller::Operator(_) | Caller::OwnersOperator(..) | Caller::Reader(_) | Caller::Launch(_) => false,
    }
}

/// Heartbeats of one batch by what became of them: the counters are touched once a batch.
#[derive(Debug, Default)]
struct Tally {
    taken: u64,
    unknown: u64,
    not_yet_known: u64,
    out_of_order: u64,
    malformed: u64,
    forbidden: u64,
}

impl Tally {
    fn add(&mut self, heard: &Result<Orders, Refusal>) {
        let count = match heard {
            Ok(_) => &mut self.taken,
            Err(Refusal::UnknownInstance) => &mut self.unknown,
            Err(Refusal::NotYetKnown) => &mut self.not_yet_known,
            Err(Refusal::OutOfOrder) => &mut self.out_of_order,
            Err(Refusal::Malformed(_)) => &mut self.malformed,
        };
        *count += 1;
    }

    fn count(&self, metrics: &Metrics) {
        for (outcome, count) in [
            ("taken", self.taken),
            (Refusal::UnknownInstance.label(), self.unknown),
            (Refusal::NotYetKnown.label(), self.not_yet_known),
            (Refusal::OutOfOrder.label(), self.out_of_order),
            (Refusal::Malformed("").label(), self.malformed),
            ("forbidden", self.forbidden),
        ] {
            if count > 0 {
                metrics.heartbeats.with_label_values(&[outcome]).inc_by(count);
            }
        }
    }
}

/// When to ask for everything again.
#[derive(Debug)]
struct AskAgain {
    wanted: bool,
    asked_at: Timestamp,
    wait: Duration,
}

impl AskAgain {
    /// Everything was asked for just now.
    fn new(now: Timestamp) -> Self {
        Self {
            wanted: false,
            asked_at: now,
            wait: ASK_AGAIN_FIRST,
        }
    }

    /// There is a reason to.
    fn because(&mut self) {
        self.wanted = true;
    }

    /// Whether it is time to, and if so, waits longer before the next.
    fn is_due(&mut self, longest: Duration, now: Timestamp) -> bool {
        if now.since(self.asked_at) < self.wait.min(longest) {
            return false;
        }
        if !self.wanted {
            self.wait = ASK_AGAIN_FIRST; // the last time helped
            return false;
        }
        (self.wanted, self.asked_at, self.wait) = (false, now, (self.wait * 2).min(longest));
        true
    }
}

#[cfg(test)]
mod tests;
