//! Messages on a way that rules speak of.
//!
//! A request and its answer are two legs, each with a fate of its own. What is on its way arrives whatever becomes of its asker: a
//! request that is late is carried out though nobody waits any more, and of two answers the first counts.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use epu_core::Fault;
use epu_core::fact::Fact;
use epu_core::request::{Answer, Caller, Reply, Request, Service};
use tokio::sync::mpsc;

use super::garble::{Garbled, garble};
use super::rules::{Fate, Message, Party};
use super::{Asking, Door, Inbox, SimNet, To};
use crate::lock;

/// How long an asker waits for a broker that is away, as on the real bus.
const SESSION_WITHIN: Duration = Duration::from_secs(2);
/// Messages that may be on their way at once; those beyond are lost. Too low: a long delay loses what it should only delay.
const FLYING_MOST: usize = 100_000;

/// One copy of a request on its way.
struct Journey {
    from: Party,
    to: To,
    door: Door,
    caller: Caller,
    request: Request,
    corrupted: bool,
}

impl SimNet {
    fn fate(&self, from: Party, to: Party, message: Message) -> Fate {
        if from == to {
            // Within one process nothing is on a way.
            return Fate {
                arrivals: vec![Duration::ZERO],
                ..Fate::default()
            };
        }
        lock(&self.rules).fate(from, to, message)
    }

    /// Something happened to a message: of those that come in floods only a trace is kept.
    fn hit(&self, message: Message, what: &str) {
        match message {
            Message::Fact(_) | Message::Request("heartbeat") | Message::Answer("heartbeat") => self.transcript.mark(what),
            Message::Request(op) => self.transcript.note(format_args!("{op} {what}")),
            Message::Answer(op) => self.transcript.note(format_args!("the answer to {op} {what}")),
        }
    }

    /// Does this after a while, whatever becomes of the one who wanted it. False when too much is on its way already.
    fn fly(self: &Arc<Self>, after: Duration, act: impl Future<Output = ()> + Send + 'static) -> bool {
        if self.flying.fetch_add(1, Ordering::Relaxed) >= FLYING_MOST {
            self.flying.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let net = self.clone();
        tokio::spawn(async move {
            if !after.is_zero() {
                tokio::time::sleep(after).await;
            }
            act.await;
            net.flying.fetch_sub(1, Ordering::Relaxed);
        });
        true
    }

    // ---- facts

    /// One listener is told, as rules have it.
    pub(super) fn tell_roughly(self: &Arc<Self>, from: Party, inbox: &Inbox, fact: &Fact) {
        let message = Message::Fact(fact.kind());
        let fate = lock(&self.rules).fate(from, inbox.owner, message);
        if fate.is_lost() {
            return self.hit(message, "is lost");
        }
        if fate.corrupted && garble(&lock(&self.rules).luck, fact) != Garbled::Same {
            return self.hit(message, "arrives damaged");
        }
        for after in fate.arrivals {
            if after.is_zero() {
                inbox.put(fact.clone());
                continue;
            }
            let (inbox, fact) = (inbox.clone(), fact.clone());
            self.fly(after, async move { inbox.put(fact) });
        }
    }

    // ---- requests

    /// Asks, as rules have it; however long it takes.
    pub(super) async fn ask_roughly(self: &Arc<Self>, asking: Asking) -> Result<Answer, Fault> {
        let Asking { from, to, caller, request } = asking;
        let (op, service) = (request.op(), request.service());
        let no_contact = |why: &str| Err(Fault::new("no-contact", format!("ask {op}: {why}")));
        if from.uses_broker() && self.is_away() {
            tokio::time::sleep(SESSION_WITHIN).await;
            if self.is_away() {
                return no_contact("the broker cannot be reached");
            }
        }
        let Some(door) = self.door(&to, service) else {
            return no_contact(&format!("no {service:?} is there"));
        };
        if !from.uses_broker() && service == Service::Aggregator && self.is_away() {
            return no_contact("nobody would hear of it: the broker cannot be reached; try another process");
        }
        let message = Message::Request(op);
        let fate = self.fate(from, Party::Process(door.process), message);
        if fate.refused {
            return no_contact(&format!("{service:?} cannot be reached"));
        }
        if fate.is_lost() {
            self.hit(message, "is lost");
        }
        let (settle, mut settled) = mpsc::channel(fate.arrivals.len().max(1));
        for (nth, after) in fate.arrivals.into_iter().enumerate() {
            if nth > 0 {
                self.hit(message, "arrives again");
            } else if !after.is_zero() {
                self.hit(message, "is late");
            }
            let journey = Journey {
                from,
                to: to.clone(),
                // The second may go to another process.
                door: if nth == 0 { None } else { self.door(&to, service) }.unwrap_or_else(|| door.clone()),
                caller: caller.clone(),
                request: request.clone(),
                corrupted: fate.corrupted,
            };
            let (net, settle) = (self.clone(), settle.clone());
            self.fly(after, async move {
                if let Some(answer) = net.travel(journey).await {
                    settle.send(answer).await.ok();
                }
            });
        }
        drop(settle);
        match settled.recv().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    /// One copy arrives, is carried out, and its answer goes back; none when that is lost.
    async fn travel(self: &Arc<Self>, journey: Journey) -> Option<Result<Answer, Fault>> {
        let Journey {
            from,
            to,
            door,
            caller,
            request,
            corrupted,
        } = journey;
        let op = request.op();
        let damaged = corrupted.then(|| garble(&lock(&self.rules).luck, &request));
        let (server, answer) = match damaged {
            Some(Garbled::Refused(why)) => {
                self.hit(Message::Request(op), "arrives damaged");
                let fault = Fault::new("bad-request", format!("read the request: {why}"));
                (Some(door.process), Err(fault))
            }
            Some(Garbled::Lie) => {
                self.hit(Message::Request(op), "arrives damaged");
                return None;
            }
            Some(Garbled::Same) | None => self.deliver(from, &to, Some(door), caller, request).await,
        };
        let Some(server) = server else {
            // Nobody was there: that is the broker's word, and no answer.
            return Some(answer);
        };
        let message = Message::Answer(op);
        let fate = self.fate(Party::Process(server), from, message);
        let cut = from.uses_broker() && self.is_away();
        let Some(after) = fate.arrivals.first().filter(|_| !cut && !lock(&self.rules).loses_answer(op)) else {
            self.hit(message, "is lost");
            return None;
        };
        let answer = if fate.corrupted { self.garbled(op, answer)? } else { answer };
        if !after.is_zero() {
            self.hit(message, "is late");
            tokio::time::sleep(*after).await;
        }
        Some(answer)
    }

    /// What an asker makes of a damaged answer; none when nothing arrives.
    fn garbled(&self, op: &'static str, answer: Result<Answer, Fault>) -> Option<Result<Answer, Fault>> {
        let reply = match answer.clone() {
            Ok(answer) => Reply {
                result: answer.into_json(),
                error: None,
            },
            Err(fault) => Reply {
                result: serde_json::Value::Null,
                error: Some(fault),
            },
        };
        let read = garble(&lock(&self.rules).luck, &reply);
        if read != Garbled::Same {
            self.hit(Message::Answer(op), "arrives damaged");
        }
        match read {
            Garbled::Same => Some(answer),
            Garbled::Refused(why) => Some(Err(Fault::new("internal", format!("read the answer: {why}")))),
            Garbled::Lie => None,
        }
    }
}
