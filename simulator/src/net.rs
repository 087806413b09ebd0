//! The way between processes: the production bus of one process, with faults on it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use epu_bus::local::LocalBus;
use epu_bus::{Bus, Calls, Facts};
use epu_core::Fault;
use epu_core::fact::{Fact, Kind};
use epu_core::id::InstanceId;
use epu_core::request::{Answer, Caller, Request, Service};

use crate::lock;
use crate::transcript::Transcript;

/// What does not get through.
#[derive(Debug, Default)]
struct Cuts {
    services: BTreeSet<Service>,
    facts: BTreeSet<Kind>,
    agents_from: BTreeSet<Service>,
    silenced: BTreeSet<InstanceId>,
    answers_lost: u32,
}

/// A bus on which things get lost.
#[derive(Debug)]
pub struct SimNet {
    bus: Arc<LocalBus>,
    cuts: Mutex<Cuts>,
    transcript: Arc<Transcript>,
}

impl SimNet {
    /// A bus on which nothing gets lost yet.
    #[must_use]
    pub fn new(transcript: Arc<Transcript>) -> Self {
        Self {
            bus: LocalBus::new(),
            cuts: Mutex::default(),
            transcript,
        }
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
        let answer = self.bus.ask(caller, request, within).await;
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
        self.bus.serve(service)
    }
}
