//! The way between processes: the production bus of one process for facts, and for requests what a broker does: those to a service
//! go to its processes in turn, those to a member to that one. With faults on it.
//!
//! Every process has a [`Line`] of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use epu_bus::local::LocalBus;
use epu_bus::{Bus, Call, Calls, Facts};
use epu_core::Fault;
use epu_core::fact::{Fact, Kind};
use epu_core::id::InstanceId;
use epu_core::request::{Answer, Caller, Request, Service};
use tokio::sync::mpsc;

use crate::lock;
use crate::transcript::Transcript;

/// Calls that may wait for one process; askers wait beyond that.
const CALLS_WAITING: usize = 4_096;

/// What does not get through.
#[derive(Debug, Default)]
struct Cuts {
    services: BTreeSet<Service>,
    facts: BTreeSet<Kind>,
    agents_from: BTreeSet<Service>,
    silenced: BTreeSet<InstanceId>,
    answers_lost: u32,
}

#[derive(Debug, Default)]
struct Serving {
    by: BTreeMap<String, mpsc::Sender<Call>>,
    last: String,
}

/// A bus on which things get lost.
#[derive(Debug)]
pub struct SimNet {
    bus: Arc<LocalBus>,
    /// Who serves, by process, and whose turn it is.
    serving: Mutex<BTreeMap<Service, Serving>>,
    cuts: Mutex<Cuts>,
    transcript: Arc<Transcript>,
}

impl SimNet {
    /// A bus on which nothing gets lost yet.
    #[must_use]
    pub fn new(transcript: Arc<Transcript>) -> Self {
        Self {
            bus: LocalBus::new(),
            serving: Mutex::default(),
            cuts: Mutex::default(),
            transcript,
        }
    }

    /// The line of one process.
    #[must_use]
    pub fn line(self: &Arc<Self>, process: &str) -> Arc<Line> {
        Arc::new(Line {
            net: self.clone(),
            process: process.to_owned(),
        })
    }

    /// Where the next call to a service goes: to its processes in turn.
    fn door(&self, service: Service) -> Option<mpsc::Sender<Call>> {
        let mut serving = lock(&self.serving);
        let serving = serving.get_mut(&service)?;
        serving.by.retain(|_, door| !door.is_closed());
        let after = serving.by.keys().find(|name| **name > serving.last);
        let next = after.or_else(|| serving.by.keys().next())?.clone();
        serving.last.clone_from(&next);
        serving.by.get(&next).cloned()
    }

    /// Asks one process as one of its service's, as if it had been its turn.
    ///
    /// # Errors
    /// What it answers; `no-contact` when it does not serve.
    pub async fn ask_process(&self, process: &str, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        let service = request.service();
        let door = lock(&self.serving)
            .get(&service)
            .and_then(|serving| serving.by.get(process).cloned());
        ask_at(door, caller, request, within).await
    }

    /// Nobody reaches this service with a request, or everybody does again.
    pub fn cut_off(&self, service: Service, cut: bool) {
        let cuts = &mut lock(&self.cuts).services;
        if cut {
            cuts.insert(service)
        } else {
            cuts.remove(&service)
        };
    }

    /// Facts of this kind get lost, or arrive again.
    pub fn lose(&self, kind: Kind, lost: bool) {
        let cuts = &mut lock(&self.cuts).facts;
        if lost {
            cuts.insert(kind)
        } else {
            cuts.remove(&kind)
        };
    }

    /// No agent reaches this service, or all do again.
    pub fn cut_agents_from(&self, service: Service, cut: bool) {
        let cuts = &mut lock(&self.cuts).agents_from;
        if cut {
            cuts.insert(service)
        } else {
            cuts.remove(&service)
        };
    }

    /// One instance's agent reaches nobody, or everybody again.
    pub fn silence(&self, instance: InstanceId, cut: bool) {
        let cuts = &mut lock(&self.cuts).silenced;
        if cut {
            cuts.insert(instance)
        } else {
            cuts.remove(&instance)
        };
    }

    /// The answers to so many of the next launches get lost on their way to the controller, after the provisioner did what it was
    /// asked.
    pub fn lose_answers(&self, launches: u32) {
        lock(&self.cuts).answers_lost = launches;
    }

    /// Whether what an agent says gets through to a service.
    pub(crate) fn lets_through(&self, instance: Option<InstanceId>, service: Service) -> bool {
        let cuts = lock(&self.cuts);
        !cuts.agents_from.contains(&service) && instance.is_none_or(|id| !cuts.silenced.contains(&id))
    }

    fn loses_answer(&self, request: &Request) -> bool {
        let mut cuts = lock(&self.cuts);
        let loses = matches!(request, Request::Launch(_)) && cuts.answers_lost > 0;
        cuts.answers_lost -= u32::from(loses);
        loses
    }
}

#[async_trait]
impl Bus for SimNet {
    fn tell(&self, fact: Fact) {
        self.transcript.mark(match fact.kind() {
            Kind::Instances => "instances",
            Kind::Snapshot => "snapshot",
            Kind::Pools => "pools",
            Kind::Listening => "listening",
        });
        if !lock(&self.cuts).facts.contains(&fact.kind()) {
            self.bus.tell(fact);
        }
    }

    async fn ask(&self, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        let (op, service) = (request.op(), request.service());
        self.transcript.mark(op);
        if lock(&self.cuts).services.contains(&service) {
            return Err(Fault::new("no-contact", format!("ask {op}: {service:?} cannot be reached")));
        }
        let loses = self.loses_answer(&request);
        let answer = ask_at(self.door(service), caller, request, within).await;
        if loses {
            self.transcript.note(format_args!("the answer to {op} is lost"));
            return Err(Fault::new("timeout", format!("ask {op}: no answer")));
        }
        answer
    }

    async fn ask_member(&self, member: &str, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        let (op, service) = (request.op(), request.service());
        self.transcript.mark(op);
        if lock(&self.cuts).services.contains(&service) {
            return Err(Fault::new("no-contact", format!("ask {op}: {service:?} cannot be reached")));
        }
        self.bus.ask_member(member, caller, request, within).await
    }

    fn listen(&self, kinds: &[Kind]) -> Facts {
        self.bus.listen(kinds)
    }

    fn serve_member(&self, member: &str) -> Calls {
        self.bus.serve_member(member)
    }

    fn serve(&self, service: Service) -> Calls {
        self.serve_as(service, "")
    }
}

impl SimNet {
    fn serve_as(&self, service: Service, process: &str) -> Calls {
        let (door, calls) = mpsc::channel(CALLS_WAITING);
        lock(&self.serving).entry(service).or_default().by.insert(process.to_owned(), door);
        calls
    }
}

async fn ask_at(door: Option<mpsc::Sender<Call>>, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
    let (op, service) = (request.op(), request.service());
    let nobody = || Fault::new("no-contact", format!("ask {op}: no {service:?} is there"));
    let door = door.ok_or_else(nobody)?;
    let (call, answer) = Call::new(caller, request);
    let asked = async {
        door.send(call).await.map_err(|_| nobody())?;
        answer.await.map_err(|_| nobody())?
    };
    let late = |_| Err(Fault::new("timeout", format!("ask {op}: no answer")));
    tokio::time::timeout(within, asked).await.unwrap_or_else(late)
}

/// The bus as one process has it.
#[derive(Debug)]
pub struct Line {
    net: Arc<SimNet>,
    process: String,
}

#[async_trait]
impl Bus for Line {
    fn tell(&self, fact: Fact) {
        self.net.tell(fact);
    }

    async fn ask(&self, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        self.net.ask(caller, request, within).await
    }

    async fn ask_member(&self, member: &str, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        self.net.ask_member(member, caller, request, within).await
    }

    fn listen(&self, kinds: &[Kind]) -> Facts {
        self.net.listen(kinds)
    }

    fn serve(&self, service: Service) -> Calls {
        self.net.serve_as(service, &self.process)
    }

    fn serve_member(&self, member: &str) -> Calls {
        self.net.serve_member(member)
    }
}
