//! The gate of one placement: whether launching there is let through, after how the last launches went.
//!
//! Three things close it, and each opens again in its own way:
//!
//! - **Failures in a row** (a launch, or what came of it, that came to nothing): a pause that doubles, then one trial.
//! - **No room** (the site has no capacity, or the account is allowed no more): a pause at once, since asking again would only be
//!   refused again, and meanwhile the next placement is used. It doubles up to sixteen-fold while trials find no room either.
//! - **Refused** for what no waiting mends (a wrong image, credentials, permissions): *parked*, until a person lets it launch again or
//!   what is asked there changes.
//!
//! A trial is one launch of one instance; it succeeds when that is ready. The whole of a launch failing is one outcome.

use epu_core::Fault;
use epu_core::id::LaunchId;
use epu_core::pool::Limits;
use epu_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::score::Score;
use super::{EARLY_EXIT, LaunchOutcome, Turned};

/// A pause doubles this often at the most.
const BACKOFF_DOUBLINGS: u32 = 4;
/// So much of a fault's text is remembered.
const FAULT_MAX: usize = 500;

/// Launching by one placement.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Breaker {
    /// Launches in a row that came to nothing.
    pub failures: u32,
    /// What `failures` was before the last success: a success that does not last takes nothing back.
    pub failures_before: u32,
    /// When a worker last came of one.
    pub last_out_at: Option<Timestamp>,
    /// The launch that failed last; its other instances' failures are the same one.
    pub last_failed: Option<LaunchId>,
    /// The launch that succeeded last; likewise.
    pub last_out: Option<LaunchId>,
    /// Nothing is launched before this.
    pub open_until: Option<Timestamp>,
    /// How often it has opened in a row.
    pub opened: u32,
    /// Whether it has reopened for one trial launch whose outcome is not known.
    pub probing: bool,
    /// Since when there is no room, if that is why it is open.
    pub full_since: Option<Timestamp>,
    /// How often no room was found in a row.
    pub filled: u32,
    /// What went wrong last, until something goes well.
    pub fault: Option<Fault>,
    /// Why nothing is launched until a person says so, or something is changed.
    pub parked: Option<Parked>,
    /// When a person last let it launch again: what was decided before says nothing any more.
    pub reset_at: Option<Timestamp>,
    /// How launching went.
    pub score: Score,
}

/// Why a placement is parked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// Since when.
    pub since: Timestamp,
    /// What the site said.
    pub fault: Fault,
    /// A digest of what was asked of it: once something else would be asked, it is tried again.
    pub of: u64,
}

/// What is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Everything.
    Closed,
    /// Nothing before then.
    Open(Timestamp),
    /// One launch of one instance, as a trial.
    HalfOpen,
    /// Nothing: the trial is under way.
    Probing,
    /// Nothing, until somebody does something about it.
    Parked,
}

impl Breaker {
    /// What is let through now.
    #[must_use]
    pub fn gate(&self, now: Timestamp) -> Gate {
        match self.open_until {
            _ if self.parked.is_some() => Gate::Parked,
            None => Gate::Closed,
            Some(until) if now < until => Gate::Open(until),
            Some(_) if self.probing => Gate::Probing,
            Some(_) => Gate::HalfOpen,
        }
    }

    /// Whether anything is held back, for now or until something changes.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.open_until.is_some() || self.parked.is_some()
    }

    /// Whether anything is held back now: not where only the next launch is to be a trial.
    #[must_use]
    pub fn holds_now(&self, now: Timestamp) -> bool {
        match self.gate(now) {
            Gate::Open(_) | Gate::Probing | Gate::Parked => true,
            Gate::Closed | Gate::HalfOpen => false,
        }
    }

    /// Lets everything through again; how it went so far stays known. True when anything was held back.
    pub fn reset(&mut self, now: Timestamp) -> bool {
        let held = self.holds();
        *self = Self {
            reset_at: Some(now),
            score: std::mem::take(&mut self.score),
            ..Self::default()
        };
        held
    }

    /// Takes in how an instance of a launch turned out.
    pub(super) fn take(&mut self, outcome: &LaunchOutcome, limits: &Limits) {
        self.count(outcome);
        let is_old = self.reset_at.is_some_and(|at| outcome.decided_at < at);
        match outcome.what {
            Turned::Interrupted => {}
            Turned::Out => self.succeeded(outcome),
            Turned::Bad | Turned::Short | Turned::Full | Turned::Refused if is_old || self.last_failed == Some(outcome.launch) => {}
            Turned::Bad => self.failed(outcome, self.failures.saturating_add(1), limits),
            Turned::Short => self.failed(outcome, self.failures.max(self.failures_before).saturating_add(1), limits),
            Turned::Full => self.found_no_room(outcome, limits),
            Turned::Refused => {
                self.note(outcome);
                if let (Some(of), None) = (outcome.asked, &self.parked) {
                    self.parked = self.fault.clone().map(|fault| Parked {
                        since: outcome.heard_at,
                        fault,
                        of,
                    });
                    self.probing = false;
                }
            }
        }
    }

    fn count(&mut self, outcome: &LaunchOutcome) {
        let score = &mut self.score;
        let one_more = |n: &mut u64| *n = n.saturating_add(1);
        match outcome.what {
            Turned::Out => score.came(outcome.boot),
            Turned::Bad | Turned::Refused => one_more(&mut score.failed),
            Turned::Full => {
                one_more(&mut score.failed);
                one_more(&mut score.capacity);
            }
            Turned::Interrupted => one_more(&mut score.interrupted),
            // It was ready, and counted then.
            Turned::Short => {}
        }
    }

    fn note(&mut self, outcome: &LaunchOutcome) {
        self.last_failed = Some(outcome.launch);
        if let Some(fault) = &outcome.fault {
            self.fault = Some(Fault {
                code: fault.code.clone(),
                text: fault.text.chars().take(FAULT_MAX).collect(),
            });
        }
    }

    fn succeeded(&mut self, outcome: &LaunchOutcome) {
        if self.last_out == Some(outcome.launch) {
            return;
        }
        // Launches may overlap, so a success wipes out nothing before the one before it has lasted.
        let lasted = self.last_out_at.is_none_or(|before| outcome.at.since(before) >= EARLY_EXIT);
        if self.failures == 0 && lasted {
            self.opened = 0;
        }
        self.failures_before = self.failures.max(if lasted { 0 } else { self.failures_before });
        self.failures = 0;
        self.last_out_at = Some(outcome.at);
        self.last_out = Some(outcome.launch);
        // Those that came before there was no room say nothing about the room there is.
        if self.full_since.is_some_and(|since| outcome.decided_at <= since) {
            return;
        }
        self.open_until = None;
        self.probing = false;
        self.full_since = None;
        self.filled = 0;
        self.fault = None;
    }

    fn failed(&mut self, outcome: &LaunchOutcome, failures: u32, limits: &Limits) {
        self.failures = failures;
        self.note(outcome);
        if self.failures >= limits.launch_failures && (self.probing || self.open_until.is_none_or(|until| outcome.heard_at >= until)) {
            let pause = *limits.launch_backoff * 2u32.pow(self.opened.min(BACKOFF_DOUBLINGS));
            self.opened = self.opened.saturating_add(1);
            self.open_until = Some(outcome.heard_at + pause);
            self.probing = false;
            self.full_since = None;
        }
    }

    fn found_no_room(&mut self, outcome: &LaunchOutcome, limits: &Limits) {
        // One that was under way already when there was no room says the same thing once more.
        if self.full_since.is_some_and(|since| outcome.decided_at <= since) {
            return;
        }
        self.note(outcome);
        // That it was full once says little after so long.
        let long = *limits.capacity_memory * 2u32.pow(BACKOFF_DOUBLINGS);
        if self.open_until.is_some_and(|until| until + long <= outcome.heard_at) {
            self.filled = 0;
        }
        let pause = *limits.capacity_memory * 2u32.pow(self.filled.min(BACKOFF_DOUBLINGS));
        self.filled = self.filled.saturating_add(1);
        // A longer pause for another reason stands.
        self.open_until = self.open_until.max(Some(outcome.heard_at + pause));
        self.full_since = Some(outcome.heard_at);
        self.probing = false;
    }

    /// Nothing that happened is in the future.
    pub(super) fn not_after(&mut self, now: Timestamp, limits: &Limits) {
        // No pause is longer than the longest.
        let longest = (*limits.launch_backoff).max(*limits.capacity_memory) * 2u32.pow(BACKOFF_DOUBLINGS);
        self.open_until = self.open_until.map(|until| until.min(now + longest));
        let happened = [&mut self.last_out_at, &mut self.full_since, &mut self.reset_at];
        for at in happened
            .into_iter()
            .flatten()
            .chain(self.parked.iter_mut().map(|parked| &mut parked.since))
        {
            *at = (*at).min(now);
        }
    }
}
