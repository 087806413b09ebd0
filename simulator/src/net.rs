//! The way between processes, agents and operators: what a broker and a network do, and what goes wrong there.
//!
//! Every process has a [`Line`] of its own with an inbox of its own: facts go to each listener by itself. Requests to a service go to
//! its processes in turn, those to a member to that one; one whose receiver ends before it answered is delivered to another. Agents
//! come over HTTP, which means that nothing of theirs is delivered again, and that they are there though the broker is not.
//!
//! [`rules`] say what becomes of messages, for each sender and receiver by itself; `carry` does it. While there are none, nothing is
//! drawn and nothing is waited for.
//!
//! No rule excuses the services from anything that [`crate::watch`] looks at: which deadlines are kept and which machines are
//! explained is between the provisioner, its store and its sites. Where a message is missing, a pool is late, and no more than late.

mod carry;
mod garble;
pub mod rules;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use epu_bus::{Bus, Call, Calls, Facts};
use epu_core::Fault;
use epu_core::fact::{Fact, Kind};
use epu_core::id::InstanceId;
use epu_core::request::{Answer, Caller, Request, Service};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::lock;
use crate::process::Process;
use crate::transcript::Transcript;
use rules::{Effect, Message, Party, Place, Rule, RuleId, Rules, What};

/// Calls that may wait for one process; askers wait beyond that.
const CALLS_WAITING: usize = 4_096;
/// Facts that may wait for one listener; those beyond are lost, and it is told so.
const FACTS_WAITING: usize = 65_536;
/// How often a request is delivered whose receivers end before they answer, as the real bus has it.
const DELIVERIES_MOST: u32 = 5;

/// Where calls to one process go.
#[derive(Debug, Clone)]
struct Door {
    process: Process,
    calls: mpsc::Sender<Call>,
}

#[derive(Debug, Default)]
struct Serving {
    by: BTreeMap<String, Door>,
    last: String,
}

#[derive(Debug, Default)]
struct Doors {
    /// Who serves, by process, and whose turn it is.
    services: BTreeMap<Service, Serving>,
    members: BTreeMap<String, Door>,
    /// Which process goes by which name.
    names: BTreeMap<String, Process>,
}

/// Where facts to one listener go.
#[derive(Debug, Clone)]
struct Inbox {
    owner: Party,
    facts: mpsc::Sender<Fact>,
    lost: Arc<AtomicU64>,
}

impl Inbox {
    fn put(&self, fact: Fact) {
        if let Err(TrySendError::Full(_)) = self.facts.try_send(fact) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
struct Listener {
    kinds: Vec<Kind>,
    inbox: Inbox,
}

/// Whom a request is for.
#[derive(Debug, Clone)]
enum To {
    Service,
    Member(String),
    /// One process as one of its service's.
    Process(String),
}

/// A request and who asks it.
struct Asking {
    from: Party,
    to: To,
    caller: Caller,
    request: Request,
}

/// The way between everybody.
#[derive(Debug)]
pub struct SimNet {
    doors: Mutex<Doors>,
    listeners: Mutex<Vec<Listener>>,
    rules: Mutex<Rules>,
    flying: AtomicUsize,
    transcript: Arc<Transcript>,
}

impl SimNet {
    /// A net with nobody on it, on which everything gets through.
    #[must_use]
    pub fn new(transcript: Arc<Transcript>) -> Self {
        Self {
            doors: Mutex::default(),
            listeners: Mutex::default(),
            rules: Mutex::new(Rules::seeded(0)),
            flying: AtomicUsize::new(0),
            transcript,
        }
    }

    /// Chance on the way comes from this seed.
    #[must_use]
    pub fn seeded(self, seed: u64) -> Self {
        *lock(&self.rules) = Rules::seeded(seed);
        self
    }

    /// A process begins under this name, which is another at each start.
    pub fn enter(&self, process: Process, name: &str) {
        let mut doors = lock(&self.doors);
        doors.names.retain(|_, other| *other != process);
        doors.names.insert(name.to_owned(), process);
        lock(&self.rules).forget(process);
    }

    /// The line of one process, by the name under which it began; the line of an operator under any other.
    #[must_use]
    pub fn line(self: &Arc<Self>, name: &str) -> Arc<Line> {
        let process = lock(&self.doors).names.get(name).copied();
        Arc::new(Line {
            net: self.clone(),
            name: name.to_owned(),
            process,
        })
    }

    // ---- what goes wrong

    /// From now on this happens to messages, until it is ended.
    pub fn begin(&self, rule: Rule) -> RuleId {
        lock(&self.rules).begin(rule)
    }

    /// It happens no more; other rules stay.
    pub fn end(&self, rule: RuleId) {
        lock(&self.rules).end(rule);
    }

    /// Whether everything gets through as it is.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        lock(&self.rules).is_calm()
    }

    fn stand(&self, rule: Rule, stands: bool) {
        let mut rules = lock(&self.rules);
        if stands {
            rules.begin(rule);
        } else {
            rules.end_one(&rule);
        }
    }

    /// Nobody reaches this service with a request, or everybody does again.
    pub fn cut_off(&self, service: Service, cut: bool) {
        let rule = Rule {
            what: What::Requests,
            ..Rule::new(Effect::Refused).between(Place::Anywhere, Place::Service(service))
        };
        self.stand(rule, cut);
    }

    /// Facts of this kind get lost, or arrive again.
    pub fn lose(&self, kind: Kind, lost: bool) {
        self.stand(Rule::new(Effect::Lost).only(Message::Fact(kind)), lost);
    }

    /// No agent reaches this service, or all do again.
    pub fn cut_agents_from(&self, service: Service, cut: bool) {
        self.stand(Rule::new(Effect::Lost).between(Place::Agents, Place::Service(service)), cut);
    }

    /// One instance's agent reaches nobody, or everybody again.
    pub fn silence(&self, instance: InstanceId, cut: bool) {
        self.stand(Rule::new(Effect::Lost).between(Place::Agent(instance), Place::Anywhere), cut);
    }

    /// The answers to so many of the next launches get lost on their way to the controller, after the provisioner did what it was
    /// asked.
    pub fn lose_answers(&self, launches: u32) {
        lock(&self.rules).lose_answers(launches);
    }

    /// Nothing gets through between processes and operators. Whoever has something to tell keeps it meanwhile.
    pub fn broker_goes_away(&self) {
        lock(&self.rules).goes_away();
    }

    /// The broker is back, once for each time that it went away: what was kept is told, and every listener knows that it may have
    /// missed something.
    pub fn broker_comes_back(self: &Arc<Self>) {
        let Some(kept) = lock(&self.rules).comes_back() else { return };
        let there: Vec<Party> = {
            let mut listeners = lock(&self.listeners);
            listeners.retain(|listener| !listener.inbox.facts.is_closed());
            for listener in listeners.iter() {
                listener.inbox.lost.fetch_add(1, Ordering::Relaxed);
            }
            listeners.iter().map(|listener| listener.inbox.owner).collect()
        };
        // What a process that ended meanwhile had kept ended with it.
        for (from, fact) in kept.into_iter().filter(|(from, _)| there.contains(from)) {
            self.tell(from, fact);
        }
    }

    fn is_away(&self) -> bool {
        lock(&self.rules).is_away()
    }

    /// Whether what an agent asks can get through to a service.
    pub(crate) fn lets_through(&self, instance: Option<InstanceId>, request: &Request) -> bool {
        let message = Message::Request(request.op());
        !lock(&self.rules).cuts(Party::Agent(instance), request.service(), message)
    }

    // ---- facts

    fn tell(self: &Arc<Self>, from: Party, fact: Fact) {
        let kind = fact.kind();
        let calm = {
            let mut rules = lock(&self.rules);
            if rules.is_away() {
                return rules.keep(from, fact);
            }
            rules.is_calm()
        };
        lock(&self.listeners).retain(|listener| {
            let is_there = !listener.inbox.facts.is_closed();
            if is_there && listener.kinds.contains(&kind) {
                if calm {
                    listener.inbox.put(fact.clone());
                } else {
                    self.tell_roughly(from, &listener.inbox, &fact);
                }
            }
            is_there
        });
    }

    fn listen(&self, owner: Party, kinds: &[Kind]) -> Facts {
        let (facts, arriving) = mpsc::channel(FACTS_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        lock(&self.listeners).push(Listener {
            kinds: kinds.to_vec(),
            inbox: Inbox {
                owner,
                facts,
                lost: lost.clone(),
            },
        });
        Facts::new(arriving, lost)
    }

    // ---- requests

    /// Where the next call goes: one to a service to its processes in turn.
    fn door(&self, to: &To, service: Service) -> Option<Door> {
        let mut doors = lock(&self.doors);
        match to {
            To::Service => {
                let serving = doors.services.get_mut(&service)?;
                serving.by.retain(|_, door| !door.calls.is_closed());
                let after = serving.by.keys().find(|name| **name > serving.last);
                let next = after.or_else(|| serving.by.keys().next())?.clone();
                serving.last.clone_from(&next);
                serving.by.get(&next).cloned()
            }
            To::Member(name) => doors.members.get(name).cloned(),
            To::Process(name) => doors.services.get(&service)?.by.get(name).cloned(),
        }
    }

    /// Asks one process as an operator would who reaches it and no other, as if it had been its turn.
    ///
    /// # Errors
    /// What it answers; `no-contact` when it does not serve.
    pub async fn ask_process(self: &Arc<Self>, process: &str, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        let to = To::Process(process.to_owned());
        self.ask(Party::Operator, to, caller, request, within).await
    }

    /// Asks as an operator.
    ///
    /// # Errors
    /// As [`Bus::ask`].
    pub async fn operator_asks(self: &Arc<Self>, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        self.ask(Party::Operator, To::Service, caller, request, within).await
    }

    /// Asks as the agent of an instance.
    ///
    /// # Errors
    /// As [`Bus::ask`].
    pub(crate) async fn agent_asks(
        self: &Arc<Self>,
        instance: Option<InstanceId>,
        caller: Caller,
        request: Request,
        within: Duration,
    ) -> Result<Answer, Fault> {
        self.ask(Party::Agent(instance), To::Service, caller, request, within).await
    }

    async fn ask(self: &Arc<Self>, from: Party, to: To, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        let op = request.op();
        self.transcript.mark(op);
        let late = |_| Err(Fault::new("timeout", format!("ask {op}: no answer")));
        if self.is_calm() {
            let asked = self.deliver(from, &to, None, caller, request);
            return tokio::time::timeout(within, asked).await.map_or_else(late, |(_, answer)| answer);
        }
        let asking = Asking { from, to, caller, request };
        let asked = Box::pin(self.ask_roughly(asking));
        tokio::time::timeout(within, asked).await.unwrap_or_else(late)
    }

    /// Delivers a request, again where its receiver ends before it answers; gives who answered. The first door may be known.
    async fn deliver(
        &self,
        from: Party,
        to: &To,
        first: Option<Door>,
        caller: Caller,
        request: Request,
    ) -> (Option<Process>, Result<Answer, Fault>) {
        let (op, service) = (request.op(), request.service());
        let nobody = || Err(Fault::new("no-contact", format!("ask {op}: no {service:?} is there")));
        let Some(mut door) = first.or_else(|| self.door(to, service)) else {
            return (None, nobody());
        };
        if !from.uses_broker() || !matches!(to, To::Service) {
            let answered = hand(&door, caller, request).await;
            let by = answered.is_some().then_some(door.process);
            return (by, answered.unwrap_or_else(nobody));
        }
        for _ in 0..DELIVERIES_MOST {
            if let Some(answer) = hand(&door, caller.clone(), request.clone()).await {
                return (Some(door.process), answer);
            }
            if !door.calls.is_closed() {
                // It lives, and does not want to answer.
                return (None, nobody());
            }
            let Some(next) = self.door(to, service) else { break };
            door = next;
        }
        (None, nobody())
    }
}

/// Hands a call to a process and waits for its answer; none when it does not answer.
async fn hand(door: &Door, caller: Caller, request: Request) -> Option<Result<Answer, Fault>> {
    let (call, answer) = Call::new(caller, request);
    door.calls.send(call).await.ok()?;
    answer.await.ok()
}

/// The bus as one process has it.
#[derive(Debug)]
pub struct Line {
    net: Arc<SimNet>,
    name: String,
    process: Option<Process>,
}

impl Line {
    fn party(&self) -> Party {
        self.process.map_or(Party::Operator, Party::Process)
    }

    fn opened(&self, service: Service) -> (Door, Calls) {
        let (calls, arriving) = mpsc::channel(CALLS_WAITING);
        let process = self.process.unwrap_or(Process { service, copy: 0 });
        (Door { process, calls }, arriving)
    }
}

#[async_trait]
impl Bus for Line {
    fn tell(&self, fact: Fact) {
        self.net.transcript.mark(match fact.kind() {
            Kind::Instances => "instances",
            Kind::Snapshot => "snapshot",
            Kind::Pools => "pools",
            Kind::Listening => "listening",
        });
        self.net.tell(self.party(), fact);
    }

    async fn ask(&self, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        self.net.ask(self.party(), To::Service, caller, request, within).await
    }

    async fn ask_member(&self, member: &str, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        let to = To::Member(member.to_owned());
        self.net.ask(self.party(), to, caller, request, within).await
    }

    fn listen(&self, kinds: &[Kind]) -> Facts {
        self.net.listen(self.party(), kinds)
    }

    fn serve(&self, service: Service) -> Calls {
        let (door, calls) = self.opened(service);
        let mut doors = lock(&self.net.doors);
        doors.services.entry(service).or_default().by.insert(self.name.clone(), door);
        calls
    }

    fn serve_member(&self, member: &str) -> Calls {
        let (door, calls) = self.opened(Service::Controller);
        let mut doors = lock(&self.net.doors);
        doors.members.retain(|_, door| !door.calls.is_closed());
        doors.members.insert(member.to_owned(), door);
        calls
    }

    fn in_touch(&self) -> Result<(), Fault> {
        if self.net.is_away() {
            return Err(Fault::new("no-contact", "nobody would hear of it: the broker cannot be reached"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
