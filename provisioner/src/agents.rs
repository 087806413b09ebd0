//! What agents ask and report.
//!
//! **Claims.** The first nonce that asks for an index has it, and that is written on the instance's record before it is answered.
//! The same nonce gets the same answer again; another is refused, counted and remembered. So a launch token that leaks is worth
//! nothing once its instances are up, and one that is used first by somebody else is seen.
//!
//! **Reports** are repeated by agents until they are accepted, and late ones are answered with the order to stop.
//!
//! **Without a pool** nobody replaces an instance: one whose worker failed is ended at once. One that is silent stays, since its
//! worker may well be at work; it ends when its site says that it is gone, when it is told to, or with a teardown.

use epu_bus::token::Keyring;
use epu_core::Fault;
use epu_core::code::CODES;
use epu_core::heartbeat::{FAULT_MAX, Orders};
use epu_core::id::InstanceId;
use epu_core::instance::{Cause, Drain, Exit, Instance, Work};
use epu_core::journal::{Entry, Event as Remembered};
use epu_core::life::State;
use epu_core::request::{Answer, Caller, Context, ContextClaim, Happened, Report, Reported, Request};
use epu_core::time::Span;
use ring::digest::{SHA256, digest};

use crate::lifecycle::{Happening, instance_at};
use crate::service::Service;
use crate::turn::{Unhappened, store_failed};
use crate::variables::programs;

/// The longest nonce.
const NONCE_MAX: usize = 256;
/// The longest output of a worker that is kept, in characters.
const OUTPUT_MAX: usize = 4_000;
/// The longest address.
const ADDRESS_MAX: usize = 255;

/// The longest notice of an interruption that is believed.
const INTERRUPTION_MAX: std::time::Duration = std::time::Duration::from_secs(3_600);

impl Service {
    /// Agents ask only what is for agents, and nobody else does; what for is checked where it is answered. Whoever may only look
    /// changes nothing.
    pub(crate) fn may_ask(&self, caller: &Caller, request: &Request) -> Result<(), Fault> {
        let is_agent = matches!(caller, Caller::Instance(_) | Caller::Launch(_));
        let may_look_only = matches!(caller, Caller::Reader(_)) && !request.is_question();
        if is_agent != request.is_for_agents() || may_look_only {
            return Err(Fault::new("forbidden", format!("{} may not ask {}", caller.name(), request.op())));
        }
        if self.reload_at.is_some() {
            return Err(Fault::new("store-failed", "the records are being read anew; repeat"));
        }
        Ok(())
    }

    pub(crate) async fn context(&mut self, caller: &Caller, claim: &ContextClaim) -> Result<Answer, Fault> {
        if *caller != Caller::Launch(claim.launch) {
            return Err(Fault::new("forbidden", "the launch token is for another launch"));
        }
        if claim.nonce.is_empty() || claim.nonce.len() > NONCE_MAX {
            return Err(Fault::new("bad-request", format!("context: the nonce has 1 to {NONCE_MAX} bytes")));
        }
        let unknown = || {
            Fault::new(
                "unknown-instance",
                format!("launch {} has no instance {} here", claim.launch, claim.index),
            )
        };
        let id = match self.book.launch(claim.launch) {
            Some(known) => instance_at(&known.ids().collect::<Vec<_>>(), claim.index),
            None => {
                let launch = self.store.launch(claim.launch).await.map_err(|error| store_failed(&error))?;
                launch.and_then(|launch| Some(launch.request.instances.get(usize::try_from(claim.index).ok()?)?.id))
            }
        };
        let id = id.ok_or_else(unknown)?;
        let Some(instance) = self.instance(id).cloned() else {
            return Err(ended(id));
        };
        if instance.state >= State::RunningFailed {
            return Err(ended(id));
        }
        let digest = nonce_digest(claim);
        if instance.claim.as_ref().is_some_and(|first| *first != digest) {
            self.refuse_claim(&instance, claim);
            return Err(Fault::new(
                "claim-refused",
                format!("instance {id} was claimed by another agent before"),
            ));
        }
        let claimed = self.happen(id, Happening::Claimed { digest }, "agent");
        let instance = claimed.map_err(|_| ended(id))?;
        self.context_of(&instance)
    }

    fn context_of(&mut self, instance: &Instance) -> Result<Answer, Fault> {
        let Some(known) = self.book.launch(instance.launch) else {
            return Err(Fault::new(
                "internal",
                format!("the launch of instance {} is not known", instance.id),
            ));
        };
        let template = known.launch.request.template.clone();
        let programs = match programs(&template, instance) {
            Ok(programs) => programs,
            Err(why) => {
                let fault = Fault::new("bad-config", format!("the template {}: {why}", instance.template));
                self.happen_quietly(instance.id, Happening::NotReady(fault.clone()));
                return Err(fault);
            }
        };
        let now = self.clock.now();
        let keyring: &Keyring = &self.keyring;
        Answer::of(&Context {
            instance: instance.id,
            pool: instance.pool.clone(),
            token: keyring.mint_instance(instance.id),
            run: programs.run,
            set_up: programs.set_up,
            variables: programs.variables,
            directory: template.directory,
            drain_signal: template.drain_signal,
            stop_grace: template.stop_grace,
            heartbeat: template.heartbeat,
            ready_within: match instance.state {
                State::Pending | State::Started => instance.deadline.map_or(template.ready_within, |at| Span(at.since(now))),
                State::Requesting
                | State::Requested
                | State::ErrorRetrying
                | State::Running
                | State::RunningFailed
                | State::Terminating
                | State::Terminated
                | State::Failed
                | State::Rejected => template.ready_within,
            },
            aggregators: self.doors.aggregators.clone(),
            doors: self.doors.all.clone(),
        })
    }

    fn refuse_claim(&mut self, instance: &Instance, claim: &ContextClaim) {
        self.metrics.claims_refused.inc();
        let event = Remembered::ClaimRefused {
            launch: claim.launch,
            index: claim.index,
        };
        // Whoever asks again and again fills no journal.
        if self.refused.insert(instance.id) {
            self.turn.journal.push(
                Entry::new(self.clock.now(), "provisioner", event)
                    .of(&instance.pool)
                    .on(instance.id),
            );
        }
        if self.refused.len() > 10_000 {
            self.refused.clear();
        }
    }

    pub(crate) async fn report(&mut self, caller: &Caller, report: Report) -> Result<Answer, Fault> {
        let id = report.instance;
        if *caller != Caller::Instance(id) {
            return Err(Fault::new("forbidden", "the token is for another instance"));
        }
        let happening = match report.happened {
            Happened::Ready { address } => Happening::Ready {
                address: address.filter(|text| text.len() <= ADDRESS_MAX),
            },
            Happened::Failed { fault } => Happening::NotReady(bounded_fault(fault)),
            Happened::Drained { exit } => Happening::Drained(bounded_exit(exit)),
            Happened::Exited { exit } => Happening::Exited(bounded_exit(exit)),
            Happened::Interruption { within } => {
                let since = self.clock.now();
                Happening::Drain(Drain {
                    since,
                    deadline: since + (*within).min(INTERRUPTION_MAX),
                    why: Cause::Interrupted,
                })
            }
        };
        let stop = Answer::Orders(Orders { drain: None, stop: true });
        match self.instance(id) {
            Some(instance) if instance.is_live() => {}
            Some(_) => {
                self.metrics.late_reports.inc();
                return Ok(stop);
            }
            None => {
                let recorded = self.store.instance(id).await.map_err(|error| store_failed(&error))?;
                return match recorded {
                    Some(instance) if instance.is_live() => {
                        self.reload_at = Some(self.clock.now());
                        Err(Fault::new("store-failed", "the records are being read anew; repeat"))
                    }
                    Some(_) => {
                        self.metrics.late_reports.inc();
                        Ok(stop)
                    }
                    None => Err(Fault::new("unknown-instance", format!("no instance {id} is known here"))),
                };
            }
        }
        let ended = matches!(happening, Happening::Exited(_));
        match self.happen(id, happening, "agent") {
            Ok(instance) if ended && instance.pool.is_unpooled() && instance.state < State::Terminating => {
                let (why, work) = (Cause::Unhealthy, Work::Idle);
                self.happen_quietly(id, Happening::Terminate { why, work });
                Ok(stop)
            }
            Ok(instance) => Answer::of(&Reported {
                orders: orders(&instance),
                doors: self.doors.all.clone(),
                aggregators: self.doors.aggregators.clone(),
            }),
            Err(Unhappened::Unknown | Unhappened::Illegal(_)) => {
                self.metrics.late_reports.inc();
                Ok(stop)
            }
        }
    }
}

/// An instance's standing orders.
fn orders(instance: &Instance) -> Orders {
    Orders {
        drain: instance.drain.clone(),
        stop: instance.state >= State::Terminating,
    }
}

fn ended(id: InstanceId) -> Fault {
    Fault::new("claim-refused", format!("instance {id} failed, or is being ended or has ended"))
}

/// What is kept of a nonce: enough to know it again, too little to use it.
fn nonce_digest(claim: &ContextClaim) -> String {
    let bytes = digest(&SHA256, claim.nonce.as_bytes());
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bounded_exit(mut exit: Exit) -> Exit {
    let length = exit.output.chars().count();
    if length > OUTPUT_MAX {
        exit.output = exit.output.chars().skip(length - OUTPUT_MAX).collect();
    }
    exit
}

/// A fault in an agent's words: a code that we know, and the end of the text, where the output is.
fn bounded_fault(fault: Fault) -> Fault {
    let code = CODES
        .iter()
        .find(|(code, _, _)| *code == fault.code)
        .map_or("set-up-failed", |(code, _, _)| code);
    let mut from = fault.text.len().saturating_sub(FAULT_MAX);
    while !fault.text.is_char_boundary(from) {
        from += 1;
    }
    Fault::new(code, &fault.text[from..])
}
