//! One simulated machine from the inside: what its agent keeps on its disk, its worker, and its line to the services.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use epu_agent::Error;
use epu_agent::host::{Found, Host, Kept, Signal, WorkerMark};
use epu_agent::link::{Door, Link};
use epu_agent::status::Seen;
use epu_bus::Bus;
use epu_bus::token::{Bearer, Keyring};
use epu_core::Fault;
use epu_core::id::InstanceId;
use epu_core::instance::{Exit, Work};
use epu_core::pool::DrainSignal;
use epu_core::random::Random;
use epu_core::request::{Answer, Caller, Context, Request};
use epu_core::time::{Clock, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::lock;
use crate::net::SimNet;
use crate::pausable::Gate;
use crate::queue::SimQueue;

/// How workers behave; each machine takes it as it is when it comes up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behaviour {
    /// How long set-up takes.
    pub set_up_takes: Duration,
    /// The exit code of set-up.
    pub set_up_exit: i32,
    /// Whether the run program is missing.
    pub missing: bool,
    /// The worker ends by itself after this, with that exit code.
    pub ends: Option<(Duration, i32)>,
    /// The worker does not listen when it is told to drain.
    pub ignores_drain: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            set_up_takes: Duration::from_secs(3),
            set_up_exit: 0,
            missing: false,
            ends: None,
            ignores_drain: false,
        }
    }
}

/// What is on a machine.
#[derive(Debug)]
pub struct Body {
    machine: String,
    queue: Arc<SimQueue>,
    clock: Arc<dyn Clock>,
    random: Arc<Random>,
    behaviour: Behaviour,
    gate: Gate,
    inside: Mutex<Inside>,
    exit: watch::Sender<Option<Exit>>,
    /// Counts what the worker is to look at.
    news: watch::Sender<u64>,
    /// The worker says something else of itself.
    said: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    kept: Option<Kept>,
    exit: Option<Exit>,
    told: bool,
    occupied: bool,
    lives: bool,
    work: Work,
    worker: Option<AbortHandle>,
    set_ups: u32,
    starts: u32,
}

impl Body {
    /// An empty machine.
    #[must_use]
    pub fn new(
        machine: String,
        queue: Arc<SimQueue>,
        clock: Arc<dyn Clock>,
        random: Arc<Random>,
        behaviour: Behaviour,
        gate: Gate,
    ) -> Self {
        Self {
            machine,
            queue,
            clock,
            random,
            behaviour,
            gate,
            inside: Mutex::default(),
            exit: watch::channel(None).0,
            news: watch::channel(0).0,
            said: Notify::new(),
        }
    }

    /// Whether the worker lives and has work: the truth, whatever anybody says.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let inside = lock(&self.inside);
        inside.lives && inside.work == Work::Busy
    }

    /// Whether the worker lives.
    #[must_use]
    pub fn worker_lives(&self) -> bool {
        lock(&self.inside).lives
    }

    /// How often set-up was run and a worker started here.
    #[must_use]
    pub fn runs(&self) -> (u32, u32) {
        let inside = lock(&self.inside);
        (inside.set_ups, inside.starts)
    }

    /// Gives the worker something to do that does not end, or takes it away.
    pub fn occupy(&self, on: bool) {
        {
            let mut inside = lock(&self.inside);
            inside.occupied = on;
            if inside.lives && on {
                inside.work = Work::Busy;
            }
        }
        self.said.notify_one();
        self.news.send_modify(|n| *n += 1);
    }

    /// The worker ends so.
    pub fn end_worker(&self, exit: Exit) {
        {
            let mut inside = lock(&self.inside);
            if !inside.lives {
                return;
            }
            inside.lives = false;
            if let Some(worker) = inside.worker.take() {
                worker.abort();
            }
        }
        self.queue.give_back(&self.machine);
        self.exit.send_replace(Some(exit));
    }

    /// The worker does nothing any more, and does not say so.
    pub fn hang_worker(&self) {
        let mut inside = lock(&self.inside);
        if let Some(worker) = inside.worker.take() {
            worker.abort();
        }
        inside.work = Work::Busy;
        self.said.notify_one();
    }

    fn set_work(&self, work: Work) {
        lock(&self.inside).work = work;
        self.said.notify_one();
    }

    async fn work(self: Arc<Self>) {
        let began = self.clock.now();
        let ends_at = self.behaviour.ends.map(|(after, code)| (began + after, code));
        let mut news = self.news.subscribe();
        loop {
            let jobs = self.queue.news();
            tokio::pin!(jobs);
            // From here on no job is missed.
            jobs.as_mut().enable();
            news.mark_unchanged();
            let (occupied, told) = {
                let inside = lock(&self.inside);
                (inside.occupied, inside.told && !self.behaviour.ignores_drain)
            };
            if occupied {
                self.set_work(Work::Busy);
            } else if let Some(job) = (!told || self.queue.has_job(&self.machine))
                .then(|| self.queue.claim(&self.machine))
                .flatten()
            {
                self.set_work(Work::Busy);
                tokio::time::sleep(job.takes).await;
                self.queue.done(&self.machine, job.id);
                self.set_work(Work::Idle);
                continue;
            } else if told {
                return self.end_worker(exited(0));
            } else {
                self.set_work(Work::Idle);
            }
            let left = ends_at.map(|(at, _)| at.since(self.clock.now()));
            tokio::select! {
                biased;
                Ok(()) = news.changed() => {}
                () = &mut jobs, if !occupied && !told => {}
                () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => {
                    let code = ends_at.map_or(0, |(_, code)| code);
                    return self.end_worker(exited(code));
                }
            }
        }
    }
}

/// An exit with a code and some last words.
#[must_use]
pub fn exited(code: i32) -> Exit {
    let output = if code == 0 {
        String::new()
    } else {
        format!("something went wrong ({code})")
    };
    Exit {
        code: Some(code),
        signal: None,
        output,
    }
}

/// The end by a signal.
#[must_use]
pub fn killed(signal: i32) -> Exit {
    Exit {
        code: None,
        signal: Some(signal),
        output: String::new(),
    }
}

/// A machine as its agent has it.
#[derive(Debug, Clone)]
pub struct SimHost(pub Arc<Body>);

#[async_trait]
impl Host for SimHost {
    fn find(&self) -> Result<Found, Error> {
        let inside = lock(&self.0.inside);
        Ok(Found {
            kept: inside.kept.clone(),
            exit: inside.exit.clone(),
            worker_lives: inside.lives,
            told: inside.told,
        })
    }

    fn nonce(&self) -> Result<String, Error> {
        Ok(format!("{:016x}", self.0.random.number()))
    }

    fn keep(&self, kept: &Kept) -> Result<(), Error> {
        lock(&self.0.inside).kept = Some(kept.clone());
        Ok(())
    }

    fn keep_exit(&self, exit: &Exit) -> Result<(), Error> {
        lock(&self.0.inside).exit = Some(exit.clone());
        Ok(())
    }

    async fn set_up(&self, _: &Context) -> Result<Exit, Fault> {
        lock(&self.0.inside).set_ups += 1;
        tokio::time::sleep(self.0.behaviour.set_up_takes).await;
        Ok(exited(self.0.behaviour.set_up_exit))
    }

    async fn start(&self, context: &Context) -> Result<WorkerMark, Fault> {
        let program = context.run.first().cloned().unwrap_or_default();
        if self.0.behaviour.missing {
            return Err(Fault::new("worker-failed", format!("start {program}: no such file")));
        }
        let worker = tokio::spawn(self.0.gate.around(self.0.clone().work())).abort_handle();
        let mut inside = lock(&self.0.inside);
        inside.starts += 1;
        inside.lives = true;
        inside.worker = Some(worker);
        Ok(WorkerMark {
            pid: inside.starts,
            started: 1,
            boot: String::new(),
        })
    }

    async fn ended(&self) -> Exit {
        let mut exit = self.0.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or_else(|| killed(9)),
            Err(_) => killed(9),
        }
    }

    fn output(&self) -> String {
        "set-up says nothing".to_owned()
    }

    fn look(&self) -> Seen {
        Seen {
            work: lock(&self.0.inside).work,
            ..Seen::default()
        }
    }

    async fn news(&self) {
        self.0.said.notified().await;
    }

    fn notices(&self) -> bool {
        true
    }

    fn tell_drain(&self, _: Timestamp, _: DrainSignal) -> Result<(), Error> {
        lock(&self.0.inside).told = true;
        self.0.news.send_modify(|n| *n += 1);
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        self.0.end_worker(killed(match signal {
            Signal::Term => 15,
            Signal::Kill => 9,
        }));
    }
}

/// An agent's line to the services: a door that checks tokens as the real one does, over the simulated net.
#[derive(Debug, Clone)]
pub struct SimLink {
    /// The net.
    pub net: Arc<SimNet>,
    /// The installation's keys.
    pub keyring: Arc<Keyring>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Which instance speaks, to be cut off by.
    pub instance: Option<InstanceId>,
}

/// From an agent to a service and back.
const ROUND_TRIP: Duration = Duration::from_millis(4);

#[async_trait]
impl Link for SimLink {
    async fn ask(&self, door: &Door, caller: &Caller, request: &Request, within: Duration) -> Result<Answer, Fault> {
        tokio::time::sleep(ROUND_TRIP).await;
        if !self.net.lets_through(self.instance, request.service()) {
            tokio::time::sleep(within.saturating_sub(ROUND_TRIP)).await;
            return Err(Fault::new("no-contact", "the service cannot be reached"));
        }
        let bearer = self.keyring.verify(&door.token, self.clock.now());
        let is = match bearer.map_err(|wrong| Fault::new("unauthorized", wrong.to_string()))? {
            Bearer::Launch(launch) => Caller::Launch(launch),
            Bearer::Instance(instance) => Caller::Instance(instance),
        };
        if is != *caller {
            return Err(Fault::new("forbidden", "the token is for somebody else"));
        }
        self.net.ask(is, request.clone(), within).await
    }
}
