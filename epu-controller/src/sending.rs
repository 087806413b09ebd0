//! Commands on their way to the provisioner, and what comes back.

use std::collections::BTreeMap;

use epu_core::Fault;
use epu_core::code::Chain;
use epu_core::id::{InstanceId, PoolName};
use epu_core::lease::Term;
use epu_core::request::{Answer, Caller, Ids, Request, SiteWord};
use tracing::warn;
use uuid::Uuid;

use crate::error::Error;
use crate::managing::Managed;
use crate::orders;
use crate::outbox::{Sent, may_pass};
use crate::service::{Back, Controller};
use crate::view::Ordered;

/// When and under which term something was sent: what comes back later than that says nothing any more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Under {
    pub(crate) stint: u64,
    pub(crate) term: Term,
}

impl Controller {
    /// Sends a command of a pool's that is not kept: should it get lost, something else brings about the same.
    pub(crate) fn send_once(&mut self, pool: &PoolName, mut request: Request) {
        let Some(term) = self.term_of(pool) else { return };
        request.set_epoch(term.epoch);
        let bus = self.parts.bus.clone();
        let within = *self.parts.config.ask_within;
        self.tasks.spawn(async move {
            if let Err(fault) = bus.ask(Caller::Service("controller"), request, within).await {
                warn!(%fault, "a command was not accepted");
            }
            Back::Done
        });
    }

    /// Sends what is waiting, one command a pool at a time, each under the term as it is now; without one it waits.
    pub(crate) fn send(&mut self) {
        for name in std::mem::take(&mut self.to_send) {
            let Some(term) = self.term_of(&name) else {
                if self.pools.contains_key(&name) {
                    self.to_send.insert(name);
                }
                continue;
            };
            let Some(managed) = self.pools.get_mut(&name) else { continue };
            let Some(mut command) = managed.outbox.take_next() else { continue };
            command.request.set_epoch(term.epoch);
            let under = Under {
                stint: managed.stint,
                term,
            };
            let bus = self.parts.bus.clone();
            let within = *self.parts.config.ask_within;
            self.tasks.spawn(async move {
                let answer = bus.ask(Caller::Service("controller"), command.request, within).await;
                Back::Sent(name, under, command.id, answer)
            });
        }
    }

    /// # Errors
    /// When nothing could be loaded ever.
    pub(crate) async fn take_back(&mut self, back: Back) -> Result<(), Error> {
        match back {
            Back::Waited(name, stint) => {
                if let Some(managed) = self.managed_since(&name, stint) {
                    managed.outbox.ready();
                    self.to_send.insert(name);
                }
            }
            Back::Sent(name, under, id, result) => self.take_sent(&name, under, id, result),
            Back::Looked(name, under, ids, answer) => self.take_looked(&name, under, ids, answer),
            Back::Loaded(loaded) => self.take_loaded(*loaded).await?,
            Back::Pools(pools) => self.take_pools(pools),
            Back::Revisions(revisions) => self.take_revisions(revisions),
            Back::Routed => self.routes.done(),
            Back::Done => {}
        }
        Ok(())
    }

    /// A pool, if it is managed since this stint without a break.
    fn managed_since(&mut self, name: &PoolName, stint: u64) -> Option<&mut Managed> {
        self.pools.get_mut(name).filter(|managed| managed.stint == stint)
    }

    fn take_sent(&mut self, name: &PoolName, under: Under, id: Uuid, result: Result<Answer, Fault>) {
        let now = self.parts.clock.now();
        // What an earlier stint sent is sent again by this one.
        let Some(managed) = self.managed_since(name, under.stint) else {
            return;
        };
        let op = managed.outbox.first_op();
        let sent = managed.outbox.done(id, result, now);
        self.to_send.insert(name.clone());
        let Some(managed) = self.pools.get_mut(name) else { return };
        match sent {
            None => {}
            Some(Sent::Stale) => self.depose(under.term, "provisioner"),
            Some(Sent::Again(wait, fault)) => {
                if managed.trouble.as_ref().map(|t| &t.code) != Some(&fault.code) {
                    warn!(pool = %name, %fault, "a command was not accepted; it is sent again");
                }
                managed.trouble = Some(if may_pass(&fault) {
                    let text = format!("{op} is refused, and sent again for a while: {}", fault.text);
                    Fault { text, ..fault }
                } else {
                    fault
                });
                self.parts.metrics.retries.with_label_values(&[op]).inc();
                let name = name.clone();
                self.tasks.spawn(async move {
                    tokio::time::sleep(wait).await;
                    Back::Waited(name, under.stint)
                });
            }
            Some(Sent::Accepted(command, answer)) => {
                managed.trouble = None;
                orders::accepted(&mut managed.view, &command, now);
                if let Request::WithdrawDrain(asked) = &command.request {
                    let stay: Vec<InstanceId> = answer.read().unwrap_or_default();
                    for id in asked.instances.iter().filter(|id| !stay.contains(id)) {
                        managed.view.not_ordered(*id, Ordered::Stay);
                    }
                }
                self.forget_command(name, command.id);
            }
            Some(Sent::Refused(command, fault)) => {
                warn!(pool = %name, op = command.request.op(), %fault, "a command was refused");
                managed.trouble = (fault.code != "closed").then(|| fault.clone());
                if let Request::Launch(request) = &command.request {
                    // Or the next look would ask for the same again at once.
                    self.launch_refused(name, request, command.since, &fault, now);
                }
                if let Some(managed) = self.pools.get_mut(name) {
                    orders::undo(&mut managed.view, &command);
                }
                self.forget_command(name, command.id);
                self.wake(name, now + *self.parts.config.tick);
            }
        }
    }

    fn take_looked(&mut self, name: &PoolName, under: Under, ids: Vec<InstanceId>, answer: Result<Answer, Fault>) {
        let now = self.parts.clock.now();
        if self.managed_since(name, under.stint).is_none() {
            return;
        }
        if answer.as_ref().is_err_and(|fault| fault.code == "stale-epoch") {
            return self.depose(under.term, "provisioner");
        }
        let words: BTreeMap<InstanceId, SiteWord> = answer.and_then(Answer::read::<Vec<_>>).unwrap_or_default().into_iter().collect();
        for id in ids {
            let word = words.get(&id).copied().unwrap_or(SiteWord::NoAnswer);
            let Some(managed) = self.pools.get_mut(name) else { return };
            let changed = managed.view.site_said(id, word, now);
            self.take_changed(name, changed, now);
        }
        self.mark(name);
    }

    /// Asks the site about instances of a pool.
    pub(crate) fn ask_site(&mut self, name: &PoolName, ids: Vec<InstanceId>) {
        let (Some(term), Some(managed)) = (self.term_of(name), self.pools.get(name)) else {
            return;
        };
        let under = Under {
            stint: managed.stint,
            term,
        };
        let bus = self.parts.bus.clone();
        let within = *self.parts.config.ask_within;
        let pool = name.clone();
        self.tasks.spawn(async move {
            let look = Request::Look(Ids {
                instances: ids.clone(),
                epoch: term.epoch,
            });
            let answer = bus.ask(Caller::Service("controller"), look, within).await;
            Back::Looked(pool, under, ids, answer)
        });
    }

    /// A command that was accepted is to be forgotten, together with those that come back with it.
    fn forget_command(&mut self, name: &PoolName, id: Uuid) {
        self.accepted.push(id);
        if self.pools.get(name).is_some_and(|m| m.view.pool.removed) {
            self.mark(name);
        }
    }

    /// Forgets commands that were accepted. Should that fail it is tried again: one that stayed would be sent again after the next
    /// start, perhaps days later, when nobody wants it any more.
    pub(crate) async fn forget_accepted(&mut self) {
        if self.accepted.is_empty() {
            return;
        }
        let result = self.parts.store.accepted(&self.accepted).await;
        if self.noted(result.map_err(|e| Chain(&e).to_string()), "note that a command was accepted") {
            self.accepted.clear();
        }
    }
}
