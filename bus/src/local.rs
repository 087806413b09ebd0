//! The bus within one process: channels, no copies, no encoding. Also the simulator's bus.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use epu_core::Fault;
use epu_core::fact::{Fact, Kind};
use epu_core::request::{Answer, Caller, Request, Service};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::{Bus, Call, Calls, Facts};

/// Facts that may wait for one listener. Too low: a burst is lost and must be told again. Too high: memory.
const FACTS_WAITING: usize = 65_536;
/// Calls that may wait for one service; askers wait beyond that.
const CALLS_WAITING: usize = 4_096;

/// The bus within one process.
#[derive(Debug, Default)]
pub struct LocalBus {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    services: BTreeMap<Service, mpsc::Sender<Call>>,
    members: BTreeMap<String, mpsc::Sender<Call>>,
    listeners: Vec<Listener>,
}

#[derive(Debug)]
struct Listener {
    kinds: Vec<Kind>,
    facts: mpsc::Sender<Fact>,
    lost: Arc<AtomicU64>,
}

impl LocalBus {
    /// A bus with nobody on it.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Whether somebody answers for every service.
    ///
    /// # Errors
    /// `no-contact`, which names the service that nobody answers for.
    pub fn ready(&self) -> Result<(), Fault> {
        let inner = self.inner();
        let is_missing = |service: &Service| inner.services.get(service).is_none_or(mpsc::Sender::is_closed);
        match Service::ALL.iter().find(|service| is_missing(service)) {
            None => Ok(()),
            Some(service) => Err(Fault::new("no-contact", format!("no {} is running here", service.name()))),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Bus for LocalBus {
    fn tell(&self, fact: Fact) {
        let kind = fact.kind();
        self.inner().listeners.retain(|listener| {
            if !listener.kinds.contains(&kind) {
                return !listener.facts.is_closed();
            }
            match listener.facts.try_send(fact.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    listener.lost.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(TrySendError::Closed(_)) => false,
            }
        });
    }

    async fn ask(&self, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        let door = self.inner().services.get(&request.service()).cloned();
        ask_at(door, caller, request, within).await
    }

    async fn ask_member(&self, member: &str, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
        let door = self.inner().members.get(member).cloned();
        ask_at(door, caller, request, within).await
    }

    fn listen(&self, kinds: &[Kind]) -> Facts {
        let (sender, receiver) = mpsc::channel(FACTS_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        self.inner().listeners.push(Listener {
            kinds: kinds.to_vec(),
            facts: sender,
            lost: lost.clone(),
        });
        Facts::new(receiver, lost)
    }

    fn serve(&self, service: Service) -> Calls {
        let (sender, receiver) = mpsc::channel(CALLS_WAITING);
        self.inner().services.insert(service, sender);
        receiver
    }

    fn serve_member(&self, member: &str) -> Calls {
        let (sender, receiver) = mpsc::channel(CALLS_WAITING);
        let mut inner = self.inner();
        inner.members.retain(|_, door| !door.is_closed());
        inner.members.insert(member.to_owned(), sender);
        receiver
    }
}

pub(crate) async fn ask_at(door: Option<mpsc::Sender<Call>>, caller: Caller, request: Request, within: Duration) -> Result<Answer, Fault> {
    let (op, service) = (request.op(), request.service());
    let nobody = || Fault::new("no-contact", format!("ask {op}: no {} is running here", service.name()));
    let Some(door) = door else {
        return Err(nobody());
    };
    let (call, answer) = Call::new(caller, request);
    let asked = async {
        door.send(call).await.map_err(|_| nobody())?;
        answer.await.map_err(|_| nobody())?
    };
    tokio::time::timeout(within, asked).await.unwrap_or_else(|_| {
        Err(Fault::new(
            "timeout",
            format!("ask {op}: no answer within {}", epu_core::Span(within)),
        ))
    })
}

#[cfg(test)]
mod tests {
    use epu_core::fact::Listener as Who;
    use epu_core::request::Nothing;

    use super::*;
    use crate::contract::{self, Ends};

    #[tokio::test(start_paused = true)]
    async fn the_local_bus_keeps_the_contract() {
        contract::all(|| async { Ends::same(LocalBus::new(), FACTS_WAITING) }).await;
    }

    #[test]
    fn it_is_ready_while_somebody_answers_for_every_service() {
        let bus = LocalBus::new();
        let missing = |bus: &LocalBus| bus.ready().map_err(|fault| fault.text);
        let _provisioner = bus.serve(Service::Provisioner);
        let controller = bus.serve(Service::Controller);
        assert_eq!(missing(&bus), Err("no aggregator is running here".to_owned()));
        let _aggregator = bus.serve(Service::Aggregator);
        assert_eq!(missing(&bus), Ok(()));
        drop(controller);
        assert_eq!(missing(&bus), Err("no controller is running here".to_owned()));
    }

    #[tokio::test]
    async fn a_caller_arrives_as_it_is() {
        let bus = LocalBus::new();
        let mut calls = bus.serve(Service::Controller);
        let caller = Caller::Service("test");
        let asking = bus.ask(caller.clone(), Request::Status(Nothing {}), Duration::from_secs(5));
        let serving = async {
            let call = calls.recv().await.expect("a call");
            assert_eq!(call.caller, caller);
            call.answer(Ok(Answer::Json(serde_json::Value::Null)));
        };
        let (answer, ()) = futures::future::join(asking, serving).await;
        assert!(answer.is_ok());
    }

    #[test]
    fn a_listener_that_went_away_is_taken_out_by_the_next_fact_of_any_kind() {
        let bus = LocalBus::new();
        drop(bus.listen(&[Kind::Pools]));
        let stays = bus.listen(&[Kind::Pools]);
        assert_eq!(bus.inner().listeners.len(), 2);
        bus.tell(Fact::Listening(Who::Controller));
        assert_eq!(bus.inner().listeners.len(), 1);
        drop(stays);
    }

    /// Telling costs one more reference to the same content a listener, whatever the fact carries.
    #[test]
    fn telling_copies_nothing() {
        let bus = LocalBus::new();
        let facts: Vec<Facts> = (0..10).map(|_| bus.listen(&[Kind::Pools])).collect();
        let content = Arc::new(Vec::new());
        bus.tell(Fact::Pools(content.clone()));
        assert_eq!(Arc::strong_count(&content), 11);
        for mut listener in facts {
            let Some(Fact::Pools(heard)) = listener.next_now() else {
                panic!("nothing heard")
            };
            assert!(Arc::ptr_eq(&heard, &content));
        }
    }
}
