//! One turn: what was worked out is written whole, and only then acted upon.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epu_bus::Answering;
use epu_core::Fault;
use epu_core::code::Chain;
use epu_core::id::{InstanceId, LaunchId, SiteName};
use epu_core::instance::{Cause, Instance};
use epu_core::journal::{Entry, Event as Remembered};
use epu_core::launch::Launch;
use epu_core::lease::Term;
use epu_core::life::{Illegal, State};
use epu_core::request::Answer;
use epu_core::time::Timestamp;
use epu_store::ProvisionCommit;
use tracing::{error, warn};

use crate::lifecycle::{self, Deadlines, Effect, Happening};
use crate::service::Service;

/// Wait before the book is read anew after the store failed.
pub(crate) const STORE_RETRY: Duration = Duration::from_secs(1);
/// The same after a conflict: somebody else wrote, and the store is well.
const CONFLICT_RETRY: Duration = Duration::from_millis(50);

/// What one turn has worked out and not yet written.
#[derive(Default)]
pub(crate) struct Turn {
    instances: BTreeMap<InstanceId, Arc<Instance>>,
    pub(crate) launches: BTreeMap<LaunchId, Launch>,
    pub(crate) journal: Vec<Entry>,
    after: Vec<After>,
    /// The terms on which the call rests that is being looked at, see [`Reply::under`].
    pub(crate) asking: Vec<Term>,
    pub(crate) answers: Vec<Reply>,
}

/// An answer that waits for its turn to be written.
pub(crate) struct Reply {
    pub(crate) answering: Answering,
    pub(crate) answer: Result<Answer, Fault>,
    /// Under which terms it was asked: when one is over by the time that the turn is written, nothing of the turn is.
    pub(crate) under: Vec<Term>,
}

/// What is done once a turn is written.
#[derive(Debug)]
pub(crate) enum After {
    EndMachine(SiteName, String),
    Launch(LaunchId),
    DeadlinePassed(State),
    DrainCutShort,
    LookSoon(SiteName),
}

impl Service {
    // ---- what a turn works out

    /// The instance as this turn has left it so far.
    pub(crate) fn instance(&self, id: InstanceId) -> Option<&Arc<Instance>> {
        self.turn.instances.get(&id).or_else(|| self.book.get(id))
    }

    pub(crate) fn limits(&self, launch: LaunchId) -> Deadlines {
        let request = self.book.launch(launch).map(|known| &known.launch.request);
        let ready_within = request.map_or(Duration::from_secs(600), |request| *request.template.ready_within);
        // Nobody replaces what has no pool.
        let is_unpooled = request.is_some_and(|request| request.pool.is_unpooled());
        Deadlines {
            launch_window: self.launch_window(),
            ready_within,
            failed_grace: if is_unpooled { Duration::ZERO } else { *self.config.failed_grace },
            terminate_within: *self.config.terminate_within,
        }
    }

    /// Something happened to an instance. Answers how it is then.
    pub(crate) fn happen(&mut self, id: InstanceId, happening: Happening, who: &str) -> Result<Arc<Instance>, Unhappened> {
        let was = self.instance(id).cloned().ok_or(Unhappened::Unknown)?;
        let now = self.clock.now();
        let (mut next, effects) = lifecycle::step(&was, happening, now, &self.limits(was.launch)).map_err(Unhappened::Illegal)?;
        for effect in effects {
            self.turn.after.push(match effect {
                Effect::EndMachine(machine) => After::EndMachine(was.site.clone(), machine),
                Effect::DeadlinePassed(state) => After::DeadlinePassed(state),
                Effect::DrainCutShort => After::DrainCutShort,
            });
        }
        if next.version == was.version {
            return Ok(was);
        }
        remember(&mut self.turn.journal, &was, &next, now, who);
        // However much happened to it in one turn, it is one version above what is stored.
        next.version = self.book.get(id).map_or(0, |stored| stored.version) + 1;
        if next.state != was.state {
            self.turn.after.push(After::LookSoon(was.site.clone()));
        }
        if was.state.is_booting() && !next.state.is_booting() {
            self.judge_soon(was.launch);
        }
        let next = Arc::new(next);
        self.changes = self.changes.saturating_add(1);
        self.turn.instances.insert(id, next.clone());
        Ok(next)
    }

    /// Something happened by itself; when it cannot have, that is logged and nothing changes.
    pub(crate) fn happen_quietly(&mut self, id: InstanceId, happening: Happening) {
        if let Err(Unhappened::Illegal(illegal)) = self.happen(id, happening, "provisioner") {
            warn!(instance = %id, %illegal, "left as it is");
        }
    }

    pub(crate) fn note_launch(&mut self, launch: Launch) {
        self.changes = self.changes.saturating_add(1);
        self.turn.launches.insert(launch.id, launch);
    }

    pub(crate) fn later(&mut self, after: After) {
        self.turn.after.push(after);
    }

    // ---- writing

    /// Writes what this turn worked out, then does what follows from it. False when it could not be written.
    pub(crate) async fn flush(&mut self) -> bool {
        let turn = std::mem::take(&mut self.turn);
        let commit = ProvisionCommit {
            term: Some(self.right.term),
            also: turn
                .answers
                .iter()
                .flat_map(|reply| reply.under.iter().copied())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            instances: turn.instances.values().cloned().collect(),
            launches: turn.launches.values().cloned().collect(),
            journal: turn.journal,
        };
        let nothing = commit.instances.is_empty() && commit.launches.is_empty() && commit.journal.is_empty();
        let written = if nothing {
            Ok(())
        } else {
            self.store.commit_provision(commit).await
        };
        if let Err(error) = written {
            self.not_written(&error);
            if self.deposed {
                // Unanswered, they are asked of whoever leads.
                return false;
            }
            for Reply { answering, answer, under } in turn.answers {
                let fault = match &error {
                    epu_store::Error::Deposed(term) if under.contains(term) => {
                        self.metrics.stale_epochs.inc();
                        stale(*term)
                    }
                    // Whose it is hears that; with the others nothing is wrong.
                    epu_store::Error::Deposed(_) => Fault::new("no-contact", "nothing was done, since another order was not valid; repeat"),
                    epu_store::Error::Exists(_)
                    | epu_store::Error::Conflict(_)
                    | epu_store::Error::Closed
                    | epu_store::Error::InUse { .. }
                    | epu_store::Error::Database { .. }
                    | epu_store::Error::Corrupt { .. } => store_failed(&error),
                };
                answering.answer(answer.and(Err(fault)));
            }
            return false;
        }
        if !nothing {
            self.metrics.writes.inc();
        }
        let now = self.clock.now();
        for launch in turn.launches.into_values() {
            let id = launch.id;
            self.book.put_launch(launch, now);
            self.book.forget_if_over(id);
        }
        for instance in turn.instances.values() {
            self.count_unconfirmed(instance);
            self.count(instance);
            self.book.put(instance.clone(), now);
            if let (false, Some(machine), Some(site)) = (instance.is_live(), &instance.machine, self.sites.get_mut(&instance.site)) {
                site.ends_no_more(machine);
                site.agreed.remove(machine);
                site.called_gone.remove(&instance.id);
            }
        }
        if !turn.instances.is_empty() {
            self.withdraw_unwanted(now);
        }
        self.tell(turn.instances.into_values().collect());
        self.tell_all_if_asked();
        for after in turn.after {
            self.follow(after, now);
        }
        for Reply { answering, answer, .. } in turn.answers {
            answering.answer(answer);
        }
        true
    }

    /// What is in memory may differ from the store now: it is read anew before anything else is done.
    pub(crate) fn not_written(&mut self, error: &epu_store::Error) {
        match error {
            epu_store::Error::Deposed(term) if *term == self.right.term => {
                self.deposed = true;
                return;
            }
            epu_store::Error::Deposed(term) => {
                warn!(%term, "an order under a term that is over; what was to be written with it is worked out anew");
                self.ask_standing = true;
            }
            epu_store::Error::Exists(_)
            | epu_store::Error::Conflict(_)
            | epu_store::Error::Closed
            | epu_store::Error::InUse { .. }
            | epu_store::Error::Database { .. }
            | epu_store::Error::Corrupt { .. } => {
                self.metrics.store_failures.inc();
                error!(error = %Chain(error), "the records were not written; reading them anew");
            }
        }
        let now = self.clock.now();
        self.reload_at = Some(match error {
            epu_store::Error::Conflict(_) | epu_store::Error::Deposed(_) => now + CONFLICT_RETRY,
            epu_store::Error::Exists(_)
            | epu_store::Error::Closed
            | epu_store::Error::InUse { .. }
            | epu_store::Error::Database { .. }
            | epu_store::Error::Corrupt { .. } => now + STORE_RETRY,
        });
        self.book.retry_launches(now + STORE_RETRY);
        for site in self.sites.values_mut() {
            site.look_by(now + STORE_RETRY);
        }
    }

    fn follow(&mut self, after: After, now: Timestamp) {
        match after {
            After::EndMachine(site, machine) => {
                if let Some(site) = self.sites.get_mut(&site) {
                    site.to_end.insert(machine);
                }
            }
            After::Launch(id) => self.call_launch(id),
            After::DeadlinePassed(state) => self.metrics.deadlines.with_label_values(&[state.code()]).inc(),
            After::DrainCutShort => self.metrics.drains_cut_short.inc(),
            After::LookSoon(site) => self.look_soon(&site, now),
        }
    }

    fn count(&self, instance: &Instance) {
        if let Some(was) = self.book.get(instance.id).filter(|was| was.is_live()) {
            self.metrics.instances.with_label_values(&[was.state.code()]).dec();
        }
        if instance.is_live() {
            self.metrics.instances.with_label_values(&[instance.state.code()]).inc();
        }
    }
}

/// Why nothing happened to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unhappened {
    /// It is not known, or ended a while ago.
    Unknown,
    /// It cannot happen to it now.
    Illegal(Illegal),
}

impl std::fmt::Display for Unhappened {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => out.write_str("it is not known"),
            Self::Illegal(illegal) => illegal.fmt(out),
        }
    }
}

/// As whoever asks under a term that is over hears it.
pub(crate) fn stale(term: Term) -> Fault {
    Fault::new("stale-epoch", format!("the term of {term} is over"))
}

/// As an asker hears it.
pub(crate) fn store_failed(error: &epu_store::Error) -> Fault {
    Fault::new("store-failed", format!("record it: {}", Chain(error)))
}

/// By when the site takes it away, if it said so.
fn interrupted_by(instance: &Instance) -> Option<Timestamp> {
    let drain = instance.drain.as_ref().filter(|drain| drain.why == Cause::Interrupted);
    let ending = instance.ending.as_ref().filter(|ending| ending.why == Cause::Interrupted);
    drain.map(|drain| drain.deadline).or(ending.map(|ending| ending.since))
}

fn remember(journal: &mut Vec<Entry>, was: &Instance, next: &Instance, now: Timestamp, who: &str) {
    let mut note = |event: Remembered| journal.push(Entry::new(now, who.to_owned(), event).of(&was.pool).on(was.id));
    if next.state != was.state {
        let why: Option<Cause> = next
            .ending
            .as_ref()
            .filter(|_| next.state >= State::Terminating)
            .map(|ending| ending.why);
        note(Remembered::Moved {
            from: was.state,
            to: next.state,
            why,
            fault: next.fault.clone().filter(|_| next.fault != was.fault),
        });
    } else if next.fault != was.fault && next.exit != was.exit {
        // The worker ended and its instance stays for its pool to replace: the fault is remembered with the state unchanged.
        note(Remembered::Moved {
            from: was.state,
            to: next.state,
            why: None,
            fault: next.fault.clone(),
        });
    }
    if let Some(by) = interrupted_by(next)
        && interrupted_by(was).is_none()
    {
        note(Remembered::Interruption { by });
    }
    match (&was.drain, &next.drain) {
        (before, Some(drain)) if before.as_ref() != Some(drain) => note(Remembered::DrainOrdered {
            why: drain.why,
            deadline: drain.deadline,
        }),
        (Some(_), None) => note(Remembered::DrainWithdrawn),
        (None | Some(_), None | Some(_)) => {}
    }
    if was.protected != next.protected {
        note(Remembered::Protected { on: next.protected });
    }
}
