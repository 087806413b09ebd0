//! Commands on their way to the provisioner, and what comes back.

use std::collections::BTreeMap;

use epu_core::code::Chain;
use epu_core::id::{InstanceId, PoolName};
use epu_core::request::{Answer, Caller, Request, SiteWord};
use tracing::warn;
use uuid::Uuid;

use crate::orders;
use crate::outbox::Sent;
use crate::service::{Back, Controller};

impl Controller {
    /// Sends a command that is not kept: should it get lost, something else brings about the same.
    pub(crate) fn send_once(&mut self, request: Request) {
        let bus = self.parts.bus.clone();
        let within = *self.parts.config.ask_within;
        self.tasks.spawn(async move {
            if let Err(fault) = bus.ask(Caller::Service("controller"), request, within).await {
                warn!(%fault, "a command was not accepted");
            }
            Back::Done
        });
    }

    /// Sends what is waiting, one command a pool at a time.
    pub(crate) fn send(&mut self) {
        for name in std::mem::take(&mut self.to_send) {
            let Some(command) = self.pools.get_mut(&name).and_then(|managed| managed.outbox.take_next()) else {
                continue;
            };
            let bus = self.parts.bus.clone();
            let within = *self.parts.config.ask_within;
            self.tasks.spawn(async move {
                let answer = bus.ask(Caller::Service("controller"), command.request, within).await;
                Back::Sent(name, command.id, answer)
            });
        }
    }

    pub(crate) async fn take_back(&mut self, back: Back) {
        let now = self.parts.clock.now();
        match back {
            Back::Waited(name) => {
                if let Some(managed) = self.pools.get_mut(&name) {
                    managed.outbox.ready();
                }
                self.to_send.insert(name);
            }
            Back::Sent(name, id, result) => {
                self.to_send.insert(name.clone());
                let Some(managed) = self.pools.get_mut(&name) else { return };
                let op = managed.outbox.first_op();
                match managed.outbox.done(id, result) {
                    None => {}
                    Some(Sent::Again(wait, fault)) => {
                        if managed.trouble.as_ref().map(|t| &t.code) != Some(&fault.code) {
                            warn!(pool = %name, %fault, "a command was not accepted; it is sent again");
                        }
                        managed.trouble = Some(fault);
                        self.parts.metrics.retries.with_label_values(&[op]).inc();
                        self.tasks.spawn(async move {
                            tokio::time::sleep(wait).await;
                            Back::Waited(name)
                        });
                    }
                    Some(Sent::Accepted(command, answer)) => {
                        managed.trouble = None;
                        orders::accepted(&mut managed.view, &command, now);
                        if let Request::WithdrawDrain(asked) = &command.request {
                            let stay: Vec<InstanceId> = answer.read().unwrap_or_default();
                            for id in asked.instances.iter().filter(|id| !stay.contains(id)) {
                                managed.view.not_ordered(*id);
                            }
                        }
                        self.forget_command(&name, command.id).await;
                    }
                    Some(Sent::Refused(command, fault)) => {
                        warn!(pool = %name, op = command.request.op(), %fault, "a command was refused");
                        orders::undo(&mut managed.view, &command);
                        managed.trouble = (fault.code != "closed").then_some(fault);
                        self.forget_command(&name, command.id).await;
                        self.wake(&name, now + *self.parts.config.tick);
                    }
                }
            }
            Back::Looked(name, ids, answer) => {
                let words: BTreeMap<InstanceId, SiteWord> =
                    answer.and_then(Answer::read::<Vec<_>>).unwrap_or_default().into_iter().collect();
                for id in ids {
                    let word = words.get(&id).copied().unwrap_or(SiteWord::NoAnswer);
                    let Some(managed) = self.pools.get_mut(&name) else { return };
                    let changed = managed.view.site_said(id, word, now);
                    self.take_changed(&name, changed, now).await;
                }
                self.mark(&name);
            }
            Back::Done => {}
        }
    }

    /// Forgets a command that was accepted. Should that fail it is tried again: one that stayed would be sent again after the next
    /// start, perhaps days later, when nobody wants it any more.
    async fn forget_command(&mut self, name: &PoolName, id: Uuid) {
        self.accepted.push(id);
        self.forget_accepted().await;
        if self.pools.get(name).is_some_and(|m| m.view.pool.removed) {
            self.mark(name);
        }
    }

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
