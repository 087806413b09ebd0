//! The agent's life as a machine without input and output: events in, actions out, time and chance as arguments.
//!
//! ```text
//! Asking ─context─▶ SettingUp ─ok─▶ Starting ─started─▶ Settling ─still lives─▶ Running ─worker ended─▶ Ended ─stop, drained─▶ over
//!    │                  │               │                  │                       └───────stop──────▶ Stopping ─ended─▶ over
//!    └─refused─▶ over   └───────────────┴─────failed───────┴──────────────────────────────────────────▶ Ended
//! ```
//!
//! Every step first takes in its event, then looks at everything that has come due: a step that comes late, or
//! twice, does nothing wrong. [`Life::wakes_at`] says when to step again if nothing happens. There is at most one report and one
//! heartbeat on its way. Reports are kept in order and repeated until accepted; a heartbeat is not repeated, since the next one
//! says more.

mod asking;
mod attempts;
mod doors;
mod taken;
mod words;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use epu_core::heartbeat::Orders;
use epu_core::instance::{Exit, Work};
use epu_core::request::{Context, ContextClaim, Happened, Reported};
use epu_core::{Fault, Timestamp};

use self::attempts::Attempts;
use self::doors::Doors;
use self::taken::Taken;
use self::words::{beat_text, ending, how, set_up_failed};
pub use crate::events::{Action, Ended, Event, GivenUp};
use crate::host::{Found, Kept, Signal, Stage};
use crate::status::Seen;

/// For how long an agent without context asks. Too low: an outage at launch costs machines. Too high: a forgotten machine idles.
const ASKING_MOST: Duration = Duration::from_secs(3_600);
/// How often in a row the launch token may be refused before the agent gives up: some minutes, in which a service may have been
/// restored or its key put right.
const REFUSALS_MAX: u32 = 20;
/// A worker that ends with a fault sooner than this was never ready. Too high: instances become ready that much later.
const SETTLE: Duration = Duration::from_millis(50);
/// How often the worker's status is looked at, unless heartbeats are more frequent; also the least time between two heartbeats
/// that are sent early because it changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// An agent without a worker ends after so long without any contact. Too low: an outage loses reports.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);
/// How long after SIGKILL the agent waits for a worker that the kernel does not let go of.
const UNKILLABLE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Asking,
    SettingUp { until: Timestamp },
    Starting,
    Settling { until: Timestamp },
    Running,
    Ended { exit: Option<Exit>, fault: Option<Fault> },
    Stopping { kill_at: Timestamp, over_at: Timestamp },
    Over,
}

/// One agent's life.
#[derive(Debug)]
pub struct Life {
    claim: ContextClaim,
    context: Option<Arc<Context>>,
    phase: Phase,
    started_at: Timestamp,
    /// When a service last accepted something.
    contact_at: Timestamp,
    /// To the provisioner: the context question, then reports.
    asking: Attempts,
    refusals: u32,
    /// Heartbeats in a row that were refused because nobody there knows this instance.
    strange: u32,
    reports: VecDeque<Happened>,
    beating: bool,
    beat_at: Timestamp,
    early_at: Timestamp,
    sequence: u64,
    /// Where the provisioner is asked.
    asks: Doors,
    /// Where heartbeats go.
    beats: Doors,
    /// The door of the question or report that is on its way.
    asks_at: String,
    /// That of the heartbeat.
    beats_at: String,
    /// Not before is it asked which doors there are.
    doors_at: Timestamp,
    look_at: Timestamp,
    /// Whether what the worker says is looked at when it is news, and not again and again.
    hears_news: bool,
    seen: Seen,
    work_since: Timestamp,
    sent: Work,
    told: bool,
    /// Set once the site said that it takes the machine away.
    taken: Option<Taken>,
}

impl Life {
    /// Begins, or goes on where earlier agents ended; a nonce that they kept takes the place of the claim's. `doors` are where the
    /// services are first asked; any will do. `luck` lies in `0.0..1.0`.
    #[must_use]
    pub fn begin(claim: ContextClaim, doors: &[String], found: Found, now: Timestamp, luck: f64) -> (Self, Vec<Action>) {
        let kept = found.kept;
        let key = format!("{} {}", claim.launch, claim.index);
        let mut life = Self {
            claim,
            context: None,
            phase: Phase::Asking,
            started_at: now,
            contact_at: now,
            asking: Attempts::new(now),
            refusals: 0,
            strange: 0,
            reports: VecDeque::new(),
            beating: false,
            beat_at: Timestamp::NEVER,
            early_at: now,
            sequence: 0,
            asks: Doors::new(key.clone(), doors, now),
            beats: Doors::new(key, doors, now),
            asks_at: String::new(),
            beats_at: String::new(),
            doors_at: now,
            look_at: now,
            hears_news: false,
            seen: Seen::default(),
            work_since: now,
            sent: Work::Unknown,
            told: found.told,
            taken: None,
        };
        let mut todo = Vec::new();
        match kept {
            None => todo.push(life.keep(Stage::Asking)),
            Some(kept) => {
                life.claim.nonce = kept.nonce;
                if let Some(context) = kept.context {
                    life.is_to_be(Arc::new(context), now);
                }
                life.resume(kept.stage, found.exit, found.worker_lives, now, &mut todo);
            }
        }
        life.due(now, luck, &mut todo);
        (life, todo)
    }

    fn resume(&mut self, stage: Stage, exit: Option<Exit>, lives: bool, now: Timestamp, todo: &mut Vec<Action>) {
        let again = "the agent was ended meanwhile, and does not do it a second time";
        match stage {
            Stage::Asking => {}
            Stage::SettingUp => self.fail(Fault::new("set-up-failed", format!("set-up was begun, {again}")), None, todo),
            Stage::Starting => self.fail(
                Fault::new("worker-failed", format!("the worker was being started, {again}")),
                None,
                todo,
            ),
            // How far the reports of the earlier agent came is not known; repeating them is harmless.
            Stage::Running(_) => {
                self.ready(now);
                if !lives {
                    self.worker_ended(exit.unwrap_or_else(unseen), now, todo);
                }
            }
            Stage::Failed(fault) => self.fail(fault, exit, todo),
        }
    }

    /// From now on [`Event::News`] says when there is something to look at.
    #[must_use]
    pub fn hearing_news(mut self) -> Self {
        self.hears_news = true;
        self
    }

    /// Takes in what happened and says what to do.
    pub fn step(&mut self, now: Timestamp, luck: f64, event: Event) -> Vec<Action> {
        let mut todo = Vec::new();
        if self.phase != Phase::Over {
            self.take(now, luck, event, &mut todo);
            self.due(now, luck, &mut todo);
        }
        todo
    }

    /// Whether a worker may be alive, so that its end is waited for.
    #[must_use]
    pub fn has_worker(&self) -> bool {
        matches!(self.phase, Phase::Settling { .. } | Phase::Running | Phase::Stopping { .. })
    }

    /// The door of the question or report that was last asked for; empty when no door is known.
    #[must_use]
    pub fn asks_at(&self) -> &str {
        &self.asks_at
    }

    /// What the instance is to be, once known.
    #[must_use]
    pub fn context(&self) -> Option<&Arc<Context>> {
        self.context.as_ref()
    }

    fn take(&mut self, now: Timestamp, luck: f64, event: Event, todo: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::Context(answer) => self.context_came(answer, now, luck, todo),
            Event::SetUpEnded(ended) => {
                if matches!(self.phase, Phase::SettingUp { .. }) {
                    match ended {
                        Ok(exit) if exit.is_success() => self.start(todo),
                        Ok(exit) => self.fail(set_up_failed(&exit), None, todo),
                        Err(fault) => self.fail(fault, None, todo),
                    }
                }
            }
            Event::SetUpAborted(output) => {
                if matches!(self.phase, Phase::SettingUp { .. }) {
                    let within = self.context.as_ref().map(|context| context.ready_within).unwrap_or_default();
                    let text = format!("set-up did not end within {within}{}", ending(&output));
                    self.fail(Fault::new("not-ready", text), None, todo);
                }
            }
            Event::Started(Ok(mark)) => {
                self.phase = Phase::Settling { until: now + SETTLE };
                todo.push(self.keep(Stage::Running(mark)));
            }
            Event::Started(Err(fault)) => self.fail(fault, None, todo),
            Event::WorkerEnded(exit) => self.worker_ended(exit, now, todo),
            Event::News => self.look_at = self.look_at.min(now),
            Event::Seen(seen) => self.saw(seen, now, luck, todo),
            Event::Reported(answer) => self.report_answered(answer, now, luck, todo),
            Event::Beaten(answer) => {
                self.beating = false;
                match answer {
                    Ok(orders) => {
                        self.contact_at = now;
                        self.strange = 0;
                        self.beats.answered(&self.beats_at, now);
                        self.ask_for_doors(now);
                        self.obey(&orders, now, todo);
                    }
                    Err(fault) => self.not_heard(&fault, now, luck),
                }
            }
            Event::DrainTold(reached) => {
                if reached {
                    self.told = true;
                    self.beat_at = now;
                }
            }
            Event::NotKept(fault) => match self.phase {
                Phase::Asking => self.over(Err(GivenUp::NotKept(fault)), todo),
                Phase::SettingUp { .. } => self.fail(Fault::new("set-up-failed", fault.text), None, todo),
                Phase::Starting => self.fail(Fault::new("worker-failed", fault.text), None, todo),
                // The worker runs and that counts; only a restarted agent will not find it again.
                Phase::Settling { .. } | Phase::Running | Phase::Ended { .. } | Phase::Stopping { .. } | Phase::Over => {}
            },
            Event::Interruption(at) => self.taken_away(at, now),
            Event::Stop => self.stop(now, todo),
        }
    }

    fn context_came(&mut self, answer: Result<Box<Context>, Fault>, now: Timestamp, luck: f64, todo: &mut Vec<Action>) {
        self.door_answered(answer.as_ref().err(), now, luck);
        if self.phase != Phase::Asking {
            return;
        }
        match answer {
            Ok(context) => {
                self.asking.succeeded(now);
                self.contact_at = now;
                self.is_to_be(Arc::new(*context), now);
                self.set_up(now, todo);
            }
            Err(fault) if fault.code == "claim-refused" => self.over(Err(GivenUp::ClaimRefused(fault)), todo),
            Err(fault) => {
                let refused = matches!(&*fault.code, "unauthorized" | "forbidden");
                self.refusals = if refused { self.refusals.saturating_add(1) } else { 0 };
                if self.refusals >= REFUSALS_MAX || now.since(self.started_at) >= ASKING_MOST {
                    self.over(Err(GivenUp::NoContext(fault)), todo);
                } else {
                    self.ask_again(&fault, now, luck);
                }
            }
        }
    }

    fn set_up(&mut self, now: Timestamp, todo: &mut Vec<Action>) {
        let Some(context) = self.context.clone() else {
            self.phase = Phase::Asking;
            return;
        };
        if context.set_up.is_empty() {
            self.start(todo);
            return;
        }
        let until = now + context.ready_within.0;
        self.phase = Phase::SettingUp { until };
        todo.push(self.keep(Stage::SettingUp));
        todo.push(Action::SetUp(context));
    }

    fn start(&mut self, todo: &mut Vec<Action>) {
        let Some(context) = self.context.clone() else {
            self.phase = Phase::Asking;
            return;
        };
        self.phase = Phase::Starting;
        todo.push(self.keep(Stage::Starting));
        todo.push(Action::Start(context));
    }

    fn ready(&mut self, now: Timestamp) {
        self.phase = Phase::Running;
        self.reports.push_back(Happened::Ready { address: None });
        // Soon after the report is accepted, and in any case after one interval.
        self.beat_at = now + self.heartbeat();
        self.look_at = now;
    }

    fn fail(&mut self, fault: Fault, exit: Option<Exit>, todo: &mut Vec<Action>) {
        todo.push(self.keep(Stage::Failed(fault.clone())));
        self.reports.push_back(Happened::Failed { fault: fault.clone() });
        self.phase = Phase::Ended { exit, fault: Some(fault) };
    }

    fn worker_ended(&mut self, exit: Exit, now: Timestamp, todo: &mut Vec<Action>) {
        match self.phase {
            Phase::Stopping { .. } => {
                todo.push(Action::KeepExit(exit));
                self.over(Ok(Ended::Stopped), todo);
            }
            Phase::Settling { .. } | Phase::Running => {
                todo.push(Action::KeepExit(exit.clone()));
                let settling = self.phase != Phase::Running;
                if settling && !exit.is_success() {
                    let text = format!("the worker ended at once with {}{}", how(&exit), ending(&exit.output));
                    return self.fail(Fault::new("worker-failed", text), Some(exit), todo);
                }
                if settling {
                    self.ready(now);
                }
                let wrong = !self.told && !exit.is_success();
                let fault = wrong.then(|| Fault::new("worker-failed", beat_text(&exit)));
                self.reports.push_back(if self.told {
                    Happened::Drained { exit: exit.clone() }
                } else {
                    Happened::Exited { exit: exit.clone() }
                });
                self.phase = Phase::Ended { exit: Some(exit), fault };
                self.work_since = now;
                self.beat_at = now;
            }
            Phase::Asking | Phase::SettingUp { .. } | Phase::Starting | Phase::Ended { .. } | Phase::Over => {}
        }
    }

    fn saw(&mut self, seen: Seen, now: Timestamp, luck: f64, todo: &mut Vec<Action>) {
        if self.phase != Phase::Running {
            return;
        }
        if seen.work != self.seen.work {
            self.work_since = seen.written_at.map_or(now, |at| at.min(now));
        }
        self.seen = seen;
        let early = self.seen.work != self.sent && self.sequence > 0 && now >= self.early_at;
        if !self.beating && (early || now >= self.beat_at) {
            self.early_at = now + LOOK_EVERY;
            self.beat(now, luck, todo);
        } else if self.hears_news && self.seen.work != self.sent {
            // It is not said yet, and no more news comes of it.
            self.look_at = now + LOOK_EVERY;
        }
    }

    fn report_answered(&mut self, answer: Result<Reported, Fault>, now: Timestamp, luck: f64, todo: &mut Vec<Action>) {
        self.door_answered(answer.as_ref().err(), now, luck);
        match answer {
            Ok(Reported {
                orders,
                doors,
                aggregators,
            }) => {
                if !doors.is_empty() {
                    self.asks.know(&doors, &[], now);
                    self.beats.know(&doors, &aggregators, now);
                }
                self.asking.succeeded(now);
                self.contact_at = now;
                match self.reports.pop_front() {
                    Some(Happened::Drained { .. }) => return self.over(Ok(Ended::Drained), todo),
                    Some(Happened::Ready { .. }) => self.beat_at = now,
                    Some(Happened::Failed { .. } | Happened::Exited { .. }) => {
                        self.beat_at = self.beat_at.min(now + self.heartbeat());
                    }
                    Some(Happened::Interruption { .. }) | None => {}
                }
                self.obey(&orders, now, todo);
            }
            Err(fault) => {
                self.ask_again(&fault, now, luck);
                // Said for good: what comes after it must not wait behind it for ever.
                if matches!(&*fault.code, "bad-request" | "conflict") && self.reports.len() > 1 {
                    self.reports.pop_front();
                }
            }
        }
    }

    fn obey(&mut self, orders: &Orders, now: Timestamp, todo: &mut Vec<Action>) {
        if orders.stop {
            return self.stop(now, todo);
        }
        let Some(drain) = &orders.drain else { return };
        if self.told {
            return;
        }
        match &self.phase {
            Phase::Running => {
                let signal = self.context.as_ref().map(|context| context.drain_signal).unwrap_or_default();
                todo.push(Action::TellDrain(drain.deadline, signal));
            }
            // Nothing is left to be drained, and somebody waits to hear it.
            Phase::Ended { exit: Some(exit), .. } => {
                let exit = exit.clone();
                self.told = true;
                self.reports.push_back(Happened::Drained { exit });
            }
            Phase::Ended { exit: None, .. }
            | Phase::Asking
            | Phase::SettingUp { .. }
            | Phase::Starting
            | Phase::Settling { .. }
            | Phase::Stopping { .. }
            | Phase::Over => {}
        }
    }

    fn stop(&mut self, now: Timestamp, todo: &mut Vec<Action>) {
        match self.phase {
            Phase::Settling { .. } | Phase::Running => {
                let grace = self.context.as_ref().map(|context| context.stop_grace.0).unwrap_or_default();
                let kill_at = now + grace;
                let over_at = kill_at + UNKILLABLE;
                self.phase = Phase::Stopping { kill_at, over_at };
                todo.push(Action::Signal(Signal::Term));
            }
            Phase::SettingUp { .. } => {
                todo.push(Action::AbortSetUp);
                self.over(Ok(Ended::Stopped), todo);
            }
            Phase::Asking | Phase::Starting | Phase::Ended { .. } => self.over(Ok(Ended::Stopped), todo),
            Phase::Stopping { .. } | Phase::Over => {}
        }
    }

    fn over(&mut self, how: Result<Ended, GivenUp>, todo: &mut Vec<Action>) {
        self.phase = Phase::Over;
        todo.push(Action::End(how));
    }

    /// Does what has come due, whatever was the reason to look.
    fn due(&mut self, now: Timestamp, luck: f64, todo: &mut Vec<Action>) {
        match self.phase {
            Phase::Asking => {
                if self.asking.begin(now) {
                    self.choose_door(now);
                    todo.push(Action::AskContext(self.claim.clone()));
                }
            }
            Phase::SettingUp { until } => {
                if now >= until {
                    todo.push(Action::AbortSetUp);
                }
            }
            Phase::Settling { until } => {
                if now >= until {
                    self.ready(now);
                }
            }
            Phase::Running => {
                self.drain_unasked(now, todo);
                if now >= self.look_at || (now >= self.beat_at && !self.beating) {
                    self.look_at = if self.hears_news {
                        Timestamp::NEVER
                    } else {
                        now + self.heartbeat().min(LOOK_EVERY)
                    };
                    todo.push(Action::Look);
                }
            }
            Phase::Ended { .. } => {
                if now.since(self.contact_at) >= FORGOTTEN_AFTER {
                    return self.over(Err(GivenUp::Forgotten), todo);
                }
                if !self.beating && now >= self.beat_at {
                    self.beat(now, luck, todo);
                }
            }
            Phase::Stopping { kill_at, over_at } => {
                if now >= over_at {
                    return self.over(Ok(Ended::Stopped), todo);
                }
                if now >= kill_at {
                    self.phase = Phase::Stopping {
                        kill_at: Timestamp::NEVER,
                        over_at,
                    };
                    todo.push(Action::Signal(Signal::Kill));
                }
            }
            Phase::Starting | Phase::Over => {}
        }
        self.report(now, todo);
    }

    /// When to step again if nothing happens before; none when only an event can bring it further.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Timestamp> {
        let beat_at = if self.beating { Timestamp::NEVER } else { self.beat_at };
        let of_phase = match self.phase {
            Phase::SettingUp { until } | Phase::Settling { until } => until,
            Phase::Running => self.look_at.min(beat_at).min(self.unasked_at()),
            Phase::Ended { .. } => beat_at.min(self.contact_at + FORGOTTEN_AFTER),
            Phase::Stopping { kill_at, over_at } => kill_at.min(over_at),
            Phase::Asking | Phase::Starting | Phase::Over => Timestamp::NEVER,
        };
        let asks = self.phase == Phase::Asking || !self.reports.is_empty();
        let to_ask = if asks && !self.asking.under_way {
            self.asking.next_at
        } else {
            Timestamp::NEVER
        };
        let at = of_phase.min(to_ask);
        (at < Timestamp::NEVER && self.phase != Phase::Over).then_some(at)
    }

    fn keep(&self, stage: Stage) -> Action {
        Action::Keep(Box::new(Kept {
            nonce: self.claim.nonce.clone(),
            context: self.context.as_deref().cloned(),
            launch: Some(self.claim.launch),
            index: Some(self.claim.index),
            stage,
        }))
    }
}

/// An end that no agent saw.
fn unseen() -> Exit {
    Exit {
        code: None,
        signal: None,
        output: String::new(),
    }
}

#[cfg(test)]
mod tests;
