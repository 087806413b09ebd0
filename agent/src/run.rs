//! Lives an agent's life: waits for what happens, asks [`Life`] what to do, does it.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use epu_core::heartbeat::Orders;
use epu_core::instance::Exit;
use epu_core::random::Random;
use epu_core::request::{Answer, Caller, Context, ContextClaim, Reported, Request};
use epu_core::{Clock, Fault, LaunchId};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::error::Error;
use crate::host::{Host, Stage};
use crate::life::{Action, Ended, Event, GivenUp, Life};
use crate::link::{Door, Link};

/// How long a question to the provisioner may take. Too low: a slow answer is asked for twice. Too high: a lost one delays.
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// The least time that a heartbeat may take, however short its interval.
const BEAT_WITHIN_LEAST: Duration = Duration::from_secs(1);

/// Everything an agent works with.
#[derive(Debug)]
pub struct Parts<L, H> {
    /// Where the services answer: urls with spaces between, any of which will do. The simulator leaves it empty.
    pub url: String,
    /// The launch that the instance came from.
    pub launch: LaunchId,
    /// Its place in that launch.
    pub index: u32,
    /// What the agent proves to be of that launch with.
    pub launch_token: String,
    /// The way to the services.
    pub link: L,
    /// The machine.
    pub host: H,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Chance, for jitter only.
    pub random: Arc<Random>,
}

type Pending<'a, T> = Option<Pin<Box<dyn Future<Output = T> + Send + 'a>>>;

/// Runs an agent until its life is over. `stop` does what a `stop` order does: it ends the worker, then the agent. Dropping the
/// future is the death of the agent alone: set-up dies with it, a worker lives on and is found by the next agent.
///
/// # Errors
/// When the host fails it before there is a worker, or the agent gives up; [`Error::exit_code`] tells them apart.
pub async fn run<L: Link, H: Host>(parts: Parts<L, H>, stop: CancellationToken) -> Result<Ended, Error> {
    let found = parts.host.find()?;
    let claim = ContextClaim {
        launch: parts.launch,
        index: parts.index,
        nonce: match &found.kept {
            Some(kept) => kept.nonce.clone(),
            None => parts.host.nonce()?,
        },
    };
    if let Some(kept) = &found.kept {
        let stage = word(&kept.stage);
        info!(stage, worker_lives = found.worker_lives, "going on where an earlier agent ended");
    }
    let doors: Vec<String> = parts.url.split_whitespace().map(str::to_owned).collect();
    let (life, todo) = Life::begin(claim, &doors, found, parts.clock.now(), parts.random.fraction());
    let notices = parts.host.notices();
    let life = if notices { life.hearing_news() } else { life };
    let mut running = Running {
        parts: &parts,
        life,
        todo: todo.into(),
        setting_up: None,
        asking: None,
        beating: None,
        in_contact: true,
        ignored: 0,
    };
    let mut stop_seen = false;
    // Waited for again and again, and made once.
    let (mut ending, mut taking, mut noticing) = (None, None, None);
    let stopped = stop.cancelled();
    tokio::pin!(stopped);
    loop {
        if let Some(ended) = running.act().await {
            return Ok(ended?);
        }
        let wakes_at = running.life.wakes_at();
        let has_worker = running.life.has_worker();
        let is_taken_away = running.life.is_taken_away();
        if has_worker && ending.is_none() {
            ending = Some(parts.host.ended());
        }
        if !is_taken_away && taking.is_none() {
            taking = Some(parts.host.taken_away());
        }
        if notices && has_worker && noticing.is_none() {
            noticing = Some(parts.host.news());
        }
        let event = tokio::select! {
            biased;
            () = &mut stopped, if !stop_seen => {
                stop_seen = true;
                info!("told to stop");
                Event::Stop
            }
            exit = done(&mut ending), if has_worker => {
                info!(code = exit.code, signal = exit.signal, "the worker ended");
                Event::WorkerEnded(exit)
            }
            at = done(&mut taking), if !is_taken_away => Event::Interruption(at),
            () = done(&mut noticing), if notices && has_worker => Event::News,
            ended = done(&mut running.setting_up) => Event::SetUpEnded(ended),
            event = done(&mut running.asking) => running.heard(event),
            event = done(&mut running.beating) => running.heard(event),
            () = tokio::time::sleep(wakes_at.map_or(Duration::MAX, |at| at.since(parts.clock.now()))), if wakes_at.is_some() => Event::Tick,
        };
        running.step(event);
    }
}

struct Running<'a, L, H> {
    parts: &'a Parts<L, H>,
    life: Life,
    todo: VecDeque<Action>,
    setting_up: Pending<'a, Result<Exit, Fault>>,
    asking: Pending<'a, Event>,
    beating: Pending<'a, Event>,
    in_contact: bool,
    ignored: u32,
}

impl<'a, L: Link, H: Host> Running<'a, L, H> {
    fn step(&mut self, event: Event) {
        let (now, luck) = (self.parts.clock.now(), self.parts.random.fraction());
        self.todo.extend(self.life.step(now, luck, event));
    }

    /// Does everything that is to be done; says so when the life is over.
    async fn act(&mut self) -> Option<Result<Ended, GivenUp>> {
        while let Some(action) = self.todo.pop_front() {
            if let Action::End(ended) = action {
                return Some(ended);
            }
            self.perform(action).await;
        }
        None
    }

    async fn perform(&mut self, action: Action) {
        let host = &self.parts.host;
        match action {
            Action::Keep(kept) => {
                if let Err(error) = host.keep(&kept) {
                    let fault = Fault::new("internal", epu_core::code::Chain(&error).to_string());
                    warn!(%fault, stage = word(&kept.stage), "what must survive a restart could not be written");
                    if matches!(kept.stage, Stage::Asking | Stage::SettingUp | Stage::Starting) {
                        self.todo.clear();
                    }
                    self.step(Event::NotKept(fault));
                }
            }
            Action::KeepExit(exit) => {
                if let Err(error) = host.keep_exit(&exit) {
                    warn!(error = %epu_core::code::Chain(&error), "how the worker ended could not be written");
                }
            }
            Action::AskContext(claim) => self.ask_context(claim),
            Action::SetUp(context) => {
                info!(program = context.set_up.first(), "set-up begins");
                self.setting_up = Some(Box::pin(async move { host.set_up(&context).await }));
            }
            Action::AbortSetUp => {
                self.setting_up = None;
                warn!("set-up was killed");
                self.step(Event::SetUpAborted(host.output()));
            }
            Action::Look => {
                let seen = host.look();
                if seen.ignored != self.ignored {
                    self.ignored = seen.ignored;
                    warn!(
                        lines = seen.ignored,
                        "lines of the worker's readings are not understood, or too many"
                    );
                }
                self.step(Event::Seen(seen));
            }
            Action::TellDrain(deadline, signal) => {
                let told = host.tell_drain(deadline, signal);
                match &told {
                    Ok(()) => info!(%deadline, ?signal, "the worker was told to drain"),
                    Err(error) => warn!(error = %epu_core::code::Chain(error), "the worker could not be told to drain"),
                }
                self.step(Event::DrainTold(told.is_ok()));
            }
            Action::Signal(signal) => host.signal(signal),
            Action::Report(report) => {
                debug!(?report, "report");
                let Some((door, caller)) = self.speaker(self.life.asks_at().to_owned()) else {
                    return;
                };
                let link = &self.parts.link;
                let request = Request::Report(report);
                self.asking = Some(Box::pin(async move {
                    let answer = reported(link.ask(&door, &caller, &request, ASK_WITHIN).await);
                    Event::Reported(answer.map(|mut reported| {
                        only_fit(link, [&mut reported.doors, &mut reported.aggregators]);
                        reported
                    }))
                }));
            }
            Action::Beat(beat, to) => {
                let Some((door, caller)) = self.speaker(to) else { return };
                let interval = self.life.context().map(|context| context.heartbeat.0).unwrap_or_default();
                let within = interval.clamp(BEAT_WITHIN_LEAST, ASK_WITHIN);
                let link = &self.parts.link;
                let request = Request::Heartbeat(beat);
                self.beating = Some(Box::pin(async move {
                    Event::Beaten(orders(link.ask(&door, &caller, &request, within).await))
                }));
            }
            Action::Start(context) => {
                let started = host.start(&context).await;
                match &started {
                    Ok(mark) => info!(pid = mark.pid, "worker started"),
                    Err(fault) => warn!(%fault, "the worker could not be started"),
                }
                self.step(Event::Started(started));
            }
            Action::End(_) => {}
        }
    }

    fn ask_context(&mut self, claim: ContextClaim) {
        let parts = self.parts;
        let door = Door {
            url: self.life.asks_at().to_owned(),
            token: parts.launch_token.clone(),
        };
        self.asking = Some(Box::pin(async move {
            let caller = Caller::Launch(parts.launch);
            let answer = parts.link.ask(&door, &caller, &Request::Context(claim), ASK_WITHIN).await;
            let context = answer.and_then(|answer| answer.read::<Context>());
            Event::Context(context.map(|mut context| {
                only_fit(&parts.link, [&mut context.doors, &mut context.aggregators]);
                Box::new(context)
            }))
        }));
    }

    /// Where and as whom an instance speaks; none before it knows who it is.
    fn speaker(&self, url: String) -> Option<(Door, Caller)> {
        let context = self.life.context()?;
        let door = Door {
            url,
            token: context.token.clone(),
        };
        Some((door, Caller::Instance(context.instance)))
    }

    /// Says in the log when contact is lost and found, once each.
    fn heard(&mut self, event: Event) -> Event {
        let fault = match &event {
            Event::Context(answer) => answer.as_ref().err(),
            Event::Reported(answer) => answer.as_ref().err(),
            Event::Beaten(answer) => answer.as_ref().err(),
            Event::Tick
            | Event::SetUpEnded(_)
            | Event::SetUpAborted(_)
            | Event::Started(_)
            | Event::WorkerEnded(_)
            | Event::News
            | Event::Seen(_)
            | Event::DrainTold(_)
            | Event::NotKept(_)
            | Event::Interruption(_)
            | Event::Stop => None,
        };
        match fault {
            Some(fault) if self.in_contact => {
                warn!(%fault, "not accepted; repeated until it is");
                self.in_contact = false;
            }
            Some(fault) => debug!(%fault, "still not accepted"),
            None if !self.in_contact => {
                info!("accepted again");
                self.in_contact = true;
            }
            None => {}
        }
        event
    }
}

async fn done<T>(under_way: &mut Pending<'_, T>) -> T {
    let result = match under_way {
        Some(future) => future.await,
        None => pending().await,
    };
    *under_way = None;
    result
}

/// Leaves out doors that this link does not ask at.
fn only_fit(link: &impl Link, lists: [&mut Vec<String>; 2]) {
    for doors in lists {
        doors.retain(|url| {
            let fits = link.asks_at(url);
            if !fits {
                debug!(url, "this door is not asked at");
            }
            fits
        });
    }
}

fn orders(answer: Result<Answer, Fault>) -> Result<Orders, Fault> {
    match answer? {
        Answer::Orders(orders) => Ok(orders),
        // A null answer is an acceptance without orders.
        Answer::Json(serde_json::Value::Null) => Ok(Orders::default()),
        json @ Answer::Json(_) => json.read(),
    }
}

fn reported(answer: Result<Answer, Fault>) -> Result<Reported, Fault> {
    match answer? {
        Answer::Orders(orders) => Ok(orders.into()),
        Answer::Json(serde_json::Value::Null) => Ok(Reported::default()),
        json @ Answer::Json(_) => json.read(),
    }
}

fn word(stage: &Stage) -> &'static str {
    match stage {
        Stage::Asking => "asking",
        Stage::SettingUp => "setting-up",
        Stage::Starting => "starting",
        Stage::Running(_) => "running",
        Stage::Failed(_) => "failed",
    }
}
