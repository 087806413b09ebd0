//! What can be done to processes, to their clocks, to their way to the store, and to who leads.
//!
//! Each process that begins has a name of its own. What is to end something that lasts says which one it was begun with: one that has
//! ended meanwhile, and was started again, is left alone.

use std::time::Duration;

use epu_core::leading::LASTS;
use epu_core::lease::{Domain, LeaseAsk, Member};
use epu_core::request::Service;
use epu_core::time::{Clock as _, Span, Timestamp};
use epu_store::{MemoryStore, Store as _};
use tokio::task::AbortHandle;

use super::{Running, World, word};
use crate::ledger::Trouble;
use crate::pausable::Doom;
use crate::process::Process;

/// How far a provisioner's clock may be from the truth before its deadlines are not measured by it.
const CLOCK_GRACE_MS: i64 = 1_000;
/// How long a process that was told to end is waited for; then it is killed, as a supervisor does.
const STOP_WITHIN: Duration = Duration::from_secs(30);

impl World {
    // ---- life and death

    /// Whether a process is there.
    #[must_use]
    pub fn runs(&self, process: Process) -> bool {
        self.services.get(&process).is_some_and(|running| !running.gate.is_dead())
    }

    /// Kills a process; it stays away until it is started.
    pub fn crash(&mut self, process: impl Into<Process>) -> &mut Self {
        let process = process.into();
        if let Some(running) = self.services.remove(&process) {
            self.gone(process, running, "is killed");
        }
        self
    }

    /// Takes away whoever died of its [`Doom`].
    pub(super) fn bury(&mut self) {
        let dead = self.services.iter().filter(|(_, running)| running.gate.is_dead());
        let dead: Vec<Process> = dead.map(|(process, _)| *process).collect();
        for process in dead {
            if let Some(running) = self.services.remove(&process) {
                self.gone(process, running, "died");
                self.died.insert(process);
            }
        }
    }

    fn gone(&mut self, process: Process, running: Running, how: &str) {
        running.task.abort();
        // What else is ready may run before it ends; that it ends is waited for.
        drop(self.runtime.block_on(running.task));
        self.transcript.note(format_args!("{process} {how}"));
        self.crashed.insert(process);
        self.goes(process.service);
    }

    /// Tells a process to end, and waits until it has; it stays away until it is started.
    ///
    /// # Panics
    /// When it ends with an error, or not in time.
    pub fn stop(&mut self, process: impl Into<Process>) -> &mut Self {
        let process = process.into();
        if let Some(running) = self.services.remove(&process) {
            running.stop.cancel();
            let ended = async { tokio::time::timeout(STOP_WITHIN, running.task).await };
            if !matches!(self.runtime.block_on(ended), Ok(Ok(Ok(())))) {
                panic!("{process} did not end well\n{}", self.story());
            }
            self.transcript.note(format_args!("{process} ended as it was told"));
            self.crashed.insert(process);
            self.goes(process.service);
        }
        self
    }

    /// Tells a process to end and does not wait: it ends by itself, and stays away until it is started. Gives its name; none when it
    /// does not run, or ends already.
    pub(crate) fn tell_to_stop(&mut self, process: Process) -> Option<String> {
        let running = self.services.get(&process).filter(|running| !running.gate.is_dead())?;
        if running.stop.is_cancelled() {
            return None;
        }
        running.stop.cancel();
        let name = running.name.clone();
        self.transcript.note(format_args!("{process} is told to end"));
        self.goes(process.service);
        Some(name)
    }

    /// Starts a process that was killed or stopped.
    pub fn start(&mut self, process: impl Into<Process>) -> &mut Self {
        let process = process.into();
        self.bury();
        if self.crashed.remove(&process) {
            self.died.remove(&process);
            self.begin(process);
        }
        self
    }

    /// One process more.
    pub fn join(&mut self, process: impl Into<Process>) -> &mut Self {
        let process = process.into();
        if !self.services.contains_key(&process) {
            self.begin(process);
        }
        self
    }

    /// Kills a process and starts it at once.
    pub fn restart(&mut self, process: impl Into<Process>) -> &mut Self {
        let process = process.into();
        self.crash(process).start(process)
    }

    /// The name of a process that runs and was not told to end.
    pub(crate) fn name_now(&self, process: Process) -> Option<String> {
        let running = self.services.get(&process)?;
        (!running.gate.is_dead() && !running.stop.is_cancelled()).then(|| running.name.clone())
    }

    /// A process is to die then. Gives its name; none when it does not run, or is to die otherwise already.
    pub fn doom(&mut self, process: impl Into<Process>, doom: Doom) -> Option<String> {
        let process = process.into();
        let running = self.services.get(&process)?;
        if running.gate.is_dead() || running.gate.is_doomed() {
            return None;
        }
        running.gate.doom(Some(doom));
        let name = running.name.clone();
        self.transcript.note(format_args!("{process} is to die {doom}"));
        Some(name)
    }

    /// What ended the process of this name is over: it is started again. One that does not end although it was told to is killed first.
    pub fn revive(&mut self, process: impl Into<Process>, name: &str) -> &mut Self {
        let process = process.into();
        self.bury();
        let Some(running) = self.services.get(&process) else {
            if self.starts.get(&process).is_some_and(|(_, last)| last == name) {
                self.start(process);
            }
            return self;
        };
        if running.name == name && running.stop.is_cancelled() {
            self.crash(process).start(process);
        }
        self
    }

    /// The process of this name is to die no more; when it has died, it is started again.
    pub fn spare(&mut self, process: impl Into<Process>, name: &str) -> &mut Self {
        let process = process.into();
        self.bury();
        if let Some(running) = self.services.get(&process).filter(|running| running.name == name) {
            running.gate.doom(None);
        } else if self.died.contains(&process) {
            self.revive(process, name);
        }
        self
    }

    // ---- pauses and clocks

    /// Holds a process where it is, as a suspended machine or a long pause does, or lets it go on. Each hold is let go by itself.
    pub fn suspend(&mut self, process: impl Into<Process>, held: bool) -> &mut Self {
        let process = process.into();
        if let Some(running) = self.services.get_mut(&process) {
            self.transcript
                .note(format_args!("{process} {}", if held { "stands still" } else { "goes on" }));
            if held {
                running.holds += 1;
                running.gate.hold();
            } else {
                running.holds = running.holds.saturating_sub(1);
                if running.holds == 0 {
                    running.gate.let_go();
                }
            }
            self.goes(process.service);
        }
        self
    }

    /// Holds a process; its clock goes on, or stands still with it as that of a machine does which is halted from outside. Gives its
    /// name; none when it does not run.
    pub(crate) fn hold(&mut self, process: Process, clock_stands: bool) -> Option<String> {
        let running = self.services.get(&process).filter(|running| !running.gate.is_dead())?;
        let name = running.name.clone();
        if clock_stands {
            running.clock.stand(true);
        }
        self.suspend(process, true);
        Some(name)
    }

    /// Lets the process of this name go on, and its clock with it, unless something else holds it.
    pub(crate) fn let_go(&mut self, process: Process, name: &str) {
        if self.services.get(&process).is_none_or(|running| running.name != name) {
            return;
        }
        if let Some(running) = self.services.get(&process).filter(|running| running.holds <= 1) {
            running.clock.stand(false);
        }
        self.suspend(process, false);
    }

    /// The wall clock of a process's machine is set by so much, forward or back. The process that runs does not notice; it is started
    /// again, and does.
    pub fn set_clock(&mut self, process: impl Into<Process>, by_ms: i64) -> &mut Self {
        let process = process.into();
        let wall = self.wall.entry(process).or_default();
        *wall = wall.saturating_add(by_ms);
        let wall = *wall;
        self.transcript
            .note(format_args!("the clock of {process} is {wall} ms from the truth"));
        if self.name_now(process).is_some() {
            self.restart(process);
        }
        self
    }

    /// Processes whose clock is not the true one are started again, as an operator does who sees it.
    pub(crate) fn set_clocks_right(&mut self) {
        let wrong = |running: &Running| running.clock.offset().abs() > CLOCK_GRACE_MS;
        let late = self.services.iter().filter(|(_, running)| wrong(running));
        let late: Vec<Process> = late.map(|(process, _)| *process).collect();
        for process in late {
            self.restart(process);
        }
    }

    /// Deadlines are told by the clocks of provisioners: none is expected to be kept while one of these is wrong.
    pub(super) fn clocks_agree(&self, now: Timestamp) {
        let is_wrong = |(process, running): (&Process, &Running)| {
            process.service == Service::Provisioner && running.clock.offset().abs() > CLOCK_GRACE_MS
        };
        self.watch.works("clock", !self.services.iter().any(is_wrong), now);
    }

    // ---- the store

    /// Everything in the store fails for this reason, or works again.
    pub fn store_fails(&mut self, why: Option<&'static str>) -> &mut Self {
        if let Some(number) = self.away.take() {
            self.end_trouble(number);
        }
        self.away = why.map(|why| self.begin_trouble(None, Trouble::Away(why)));
        self
    }

    /// Something goes wrong between the store and a process, or all of them. Gives the number to end it by.
    pub fn begin_trouble(&mut self, whose: Option<Process>, trouble: Trouble) -> u64 {
        self.transcript.note(format_args!("the store: {trouble:?} for {whose:?}"));
        let number = self.ledger.begin(whose, trouble);
        self.watch.works("store", false, self.clock.now());
        number
    }

    /// That is over; whatever else goes wrong goes on to.
    pub fn end_trouble(&mut self, number: u64) {
        self.transcript.note(format_args!("the store: trouble {number} is over"));
        self.ledger.end(number);
        self.watch.works("store", !self.ledger.is_troubled(), self.clock.now());
    }

    /// So many of the next writes succeed and are said to have failed.
    pub fn lose_store_replies(&mut self, writes: u32) -> &mut Self {
        self.ledger.lose_replies(writes);
        self
    }

    /// Each write of the controllers' and each lease takes so long from now on.
    pub fn slow_store(&mut self, commit: Duration) -> &mut Self {
        self.transcript.note(format_args!("each commit takes {commit:?}"));
        self.ledger.take_for_each(commit);
        self
    }

    // ---- who leads

    fn usurper(&mut self, service: Service) -> Member {
        self.usurpers += 1;
        Member {
            name: format!("usurper-{}", self.usurpers),
            service,
            url: None,
            since: self.now(),
        }
    }

    /// Somebody takes everything from a process that does not know of it, and keeps it for as long as a lease lasts.
    pub(crate) fn depose(&mut self, process: Process) {
        let Some(name) = self.name_now(process) else { return };
        let usurper = self.usurper(process.service);
        self.transcript.note(format_args!("{} takes over from {name}", usurper.name));
        self.runtime.block_on(take(&self.memory, usurper, vec![name]));
    }

    /// Again and again somebody takes everything of a service, and gives it back. It goes on until it is aborted, and the name left.
    pub(crate) fn flap(&mut self, service: Service, every: Duration) -> (AbortHandle, String) {
        let usurper = self.usurper(service);
        let (name, memory, transcript) = (usurper.name.clone(), self.memory.clone(), self.transcript.clone());
        self.flapping(service, true);
        let flaps = self.inside(|| {
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(every).await;
                    let Ok(standing) = memory.standing().await else { continue };
                    let is_it = |domain: Option<Domain>| domain.is_some_and(|domain| Domain::all(service).contains(&domain));
                    let leases = standing.leases.iter().filter(|lease| is_it(Domain::named(&lease.name)));
                    let mut holders: Vec<String> = leases.filter_map(|lease| Some(lease.holder.as_ref()?.to_string())).collect();
                    holders.sort_unstable();
                    holders.dedup();
                    transcript.note(format_args!("{} takes over from {}", usurper.name, holders.join(", ")));
                    take(&memory, usurper.clone(), holders).await;
                    tokio::time::sleep(every / 2).await;
                    // It cannot fail: troubles are between the store and the processes.
                    drop(memory.leave(&usurper.name).await);
                }
            })
        });
        (flaps.abort_handle(), name)
    }

    /// Nobody takes over any more.
    pub(crate) fn calm(&mut self, service: Service, flaps: &AbortHandle, name: &str) {
        flaps.abort();
        drop(self.runtime.block_on(self.memory.leave(name)));
        self.flapping(service, false);
    }

    /// Deadlines are kept, and strays found, by whoever leads as provisioner: not expected of nobody.
    fn flapping(&mut self, service: Service, on: bool) {
        if service == Service::Provisioner {
            self.flaps = if on { self.flaps + 1 } else { self.flaps.saturating_sub(1) };
            self.watch.works("leader", self.flaps == 0, self.clock.now());
        }
        self.transcript.note(format_args!(
            "leases of the {} {}",
            word(service),
            if on { "flap" } else { "are calm" }
        ));
    }
}

async fn take(memory: &MemoryStore, usurper: Member, from: Vec<String>) {
    let ask = LeaseAsk {
        want: Domain::all(usurper.service).into_iter().collect(),
        lasts: Span(*LASTS),
        member: usurper,
    };
    // It cannot fail: troubles are between the store and the processes.
    for holder in from {
        drop(memory.leave(&holder).await);
    }
    drop(memory.lease(ask).await);
}

#[cfg(test)]
mod tests;
